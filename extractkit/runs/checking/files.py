"""Files of a run and files that the job was given, against what is recorded of them."""

import hashlib
import os
from collections.abc import Container, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from extractkit.core.checkpoints import KEY
from extractkit.core.plan import Shard
from extractkit.errors import InputError, RunDirectoryError
from extractkit.runs.checking.result import Check, Finding, counted
from extractkit.runs.files import Origin, StoredFile, is_there, origin
from extractkit.runs.intact import check_names
from extractkit.runs.journal import Entry
from extractkit.runs.layout import JOURNAL, LOCK, LOG, MANIFEST, SHARDS
from extractkit.runs.manifest import Manifest
from extractkit.runs.storing import check_state
from extractkit.store.local import TEMPORARY, check_directory

UNRECORDED = "runs of schema 1 record no digest of it"

Entries = Mapping[Shard, Entry]


def recorded_files(directory: Path, manifest: Manifest) -> Check:
    """The files that the manifest records: Hydra's, the samples' rows, the sinks' own, the log."""
    found = []
    for file in manifest.files:
        if _within(file.name):
            found += _wrong(directory, file)
        else:
            found.append(Finding(file.name, f"{MANIFEST} names {file.name!r}, outside of its run"))
    notes = []
    count = len(manifest.files)
    if manifest.volatile.log is not None:
        found += _wrong(directory, manifest.volatile.log, growing=True)
        count += 1
    elif (directory / LOG).exists():
        notes.append(f"{LOG} has no digest before the run is finished")
    return Check.of("files", counted(count, "file"), found, notes)


def shard_files(
    directory: Path, entries: Entries, manifest: Manifest | None
) -> tuple[Check, dict[Shard, Entry]]:
    """The shards' files, by digest; and the entries, each with those of its files that are whole.

    Only what is whole may be read: HDF5 is not made for files that somebody has changed.
    """
    try:
        check_directory(directory / SHARDS)
    except RunDirectoryError as error:
        return Check.of("shards", "none looked at", [Finding(SHARDS, str(error))]), {}
    found: list[Finding] = []
    whole = {}
    count = 0
    for shard, entry in entries.items():
        count += len(entry.stored)
        try:
            check_names(directory, entry, entry.files if manifest is None else manifest.sinks)
            if manifest is not None:
                check_state(manifest, entry)
        except RunDirectoryError as error:
            found.append(Finding(JOURNAL, str(error), entry.shard))
            continue
        kept = {}
        for sink, file in entry.files.items():
            wrong = _wrong(directory, file, entry.shard)
            found += wrong
            if not wrong:
                kept[sink] = file
        state = entry.state
        if state is not None and (wrong := _wrong(directory, state, entry.shard)):
            found += wrong
            state = None
        if kept:
            whole[shard] = replace(entry, files=kept, state=state)
    return Check.of("shards", counted(count, "file"), found), whole


def other_files(directory: Path, manifest: Manifest, entries: Entries) -> Check:
    """What stands in the run directory besides: it is told, and does no harm."""
    known = {MANIFEST, JOURNAL, LOG, *(file.name for file in manifest.files)}
    known |= {file.name for entry in entries.values() for file in entry.stored}
    unknown = [name for name in _names(directory) if name not in known]
    planned = {f"{SHARDS}/{shard.key}" for shard in manifest.shards}
    foreign = "not of this run" if manifest.records_files else UNRECORDED
    notes = (_told(name, planned, foreign) for name in unknown)
    return Check.of("other files", f"{len(unknown)} found", notes=notes)


def _wrong(
    directory: Path, file: StoredFile, shard: str | None = None, *, growing: bool = False
) -> list[Finding]:
    try:
        file.check(directory, growing=growing)
    except RunDirectoryError as error:
        return [Finding(file.name, str(error), shard)]
    return []


def _within(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _names(directory: Path) -> Iterator[str]:
    """Everything in a directory but the directories themselves; links are not followed."""
    for parent, directories, files in os.walk(directory):
        directories.sort()
        here = Path(parent)
        links = [name for name in directories if (here / name).is_symlink()]
        for name in sorted([*files, *links]):
            yield (here / name).relative_to(directory).as_posix()


def _told(name: str, planned: Container[str], foreign: str) -> str:
    if name == LOCK:
        return f"{name}: a process is at work on the run, or was killed"
    if name.endswith(TEMPORARY):
        return f"{name}: left by a process that was killed while it wrote"
    if name.partition(".")[0] in planned:
        return f"{name}: stored, but not committed: its process ended before"
    return f"{name}: {foreign}"


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
        found += _changed_source(recorded, path)
    return Check.of(name, counted(len(given), "path"), found, notes)


def _place(recorded: Origin, working_directory: str | None) -> str | None:
    """Where the files of an origin are: there, or at the same place below the working directory."""
    if is_there(recorded.path):
        return recorded.path
    if working_directory and Path(recorded.path).is_relative_to(working_directory):
        here = str(Path.cwd() / Path(recorded.path).relative_to(working_directory))
        return here if is_there(here) else None
    return None


def _changed_source(recorded: Origin, path: str) -> list[Finding]:
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
