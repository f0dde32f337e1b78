"""The files that a job was given, held against what they held when the run began."""

import hashlib
import os
from pathlib import Path

from extractkit.checkpoints import KEY
from extractkit.errors import InputError
from extractkit.runs.manifest import Manifest
from extractkit.runs.origins import Origin, is_there, origin
from extractkit.runs.verification.result import Check, Finding, counted


def given_files(manifest: Manifest) -> Check:
    """Weights, inputs, tokenizers: whatever the configuration names by a path."""
    name = "given files"
    if manifest.plan is None:
        return Check.left_out(name, "they are not recorded before the plan")
    found: list[Finding] = []
    notes: list[str] = []
    weights = [Origin(KEY, one.path, one.sha256, one.bytes) for one in manifest.checkpoints]
    given = (*manifest.origins, *weights)
    for recorded in given:
        path = _place(recorded, manifest.volatile.working_directory)
        if path is None and os.path.exists(recorded.path):  # noqa: PTH110 - any text
            kind = "a directory without files" if Path(recorded.path).is_dir() else "no file"
            message = f"{recorded.key}={recorded.path} has changed: it is {kind} now"
            found.append(Finding(recorded.path, message))
            continue
        if path is None:
            notes.append(f"{recorded.key}={recorded.path} is gone, and was not looked at")
            continue
        if path != recorded.path:
            notes.append(f"{recorded.key}={recorded.path} has moved to {path}")
        found += _wrong(recorded, path)
    return Check.of(name, counted(len(given), "path"), found, notes)


def _place(recorded: Origin, working_directory: str | None) -> str | None:
    """Where the files of an origin are: there, or at the same place below the working directory."""
    if is_there(recorded.path):
        return recorded.path
    if working_directory and Path(recorded.path).is_relative_to(working_directory):
        here = str(Path.cwd() / Path(recorded.path).relative_to(working_directory))
        return here if is_there(here) else None
    return None


def _wrong(recorded: Origin, path: str) -> list[Finding]:
    at = f"{recorded.key}={path}"
    try:
        now = origin(recorded.key, path)
    except InputError as error:
        return [Finding(path, str(error))]
    if now is None:
        return [Finding(path, f"{at} is gone")]
    if (now.sha256, now.bytes) != (recorded.sha256, recorded.bytes) and _alone(recorded, path):
        return []
    if now.bytes != recorded.bytes:
        message = f"{at} has changed: {now.bytes} bytes, {recorded.bytes} were recorded"
        return [Finding(recorded.path, message)]
    if now.sha256 != recorded.sha256:
        return [Finding(recorded.path, f"{at} has changed: its SHA-256 is not the recorded one")]
    return []


def _alone(recorded: Origin, path: str) -> bool:
    """Whether a file is the recorded one that, in older runs, stood for those that belong to it."""
    file = Path(path)
    if not file.is_file() or file.stat().st_size != recorded.bytes:
        return False
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest() == recorded.sha256
