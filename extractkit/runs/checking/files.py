"""Checks of a run's own files, and of the files that the configuration names."""

import hashlib
import os
from collections.abc import Container, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from extractkit.core.checkpoints import KEY
from extractkit.core.plan import Shard
from extractkit.errors import InputError, RunDirectoryError
from extractkit.runs.checking.result import Check, Finding, counted
from extractkit.runs.files import Origin, StoredFile, names_files, origin
from extractkit.runs.journal import Entry
from extractkit.runs.layout import JOURNAL, LOCK, LOG, MANIFEST, SHARDS
from extractkit.runs.manifest import Manifest
from extractkit.runs.shards import check_names, check_state
from extractkit.store.local import TEMPORARY, check_directory

UNRECORDED = "runs of schema 1 record no digest of it"

Entries = Mapping[Shard, Entry]


def recorded_files(directory: Path, manifest: Manifest) -> Check:
    """Check the files that the manifest records: Hydra's, samples' rows, sinks' own and the log."""
    found = []
    for file in manifest.files:
        if _within(file.name):
            found += _wrong(directory, file)
        else:
            found.append(Finding(file.name, f"{MANIFEST} names {file.name!r}, outside its run"))
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
    """Check the shards' files by digest. Return the entries, each with its intact files.

    Only intact files may be read, because HDF5 is not made for files that were tampered with.
    """
    try:
        check_directory(directory / SHARDS)
    except RunDirectoryError as error:
        return Check.of("shards", "none checked", [Finding(SHARDS, str(error))]), {}
    found: list[Finding] = []
    intact = {}
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
            intact[shard] = replace(entry, files=kept, state=state)
    return Check.of("shards", counted(count, "file"), found), intact


def other_files(directory: Path, manifest: Manifest, entries: Entries) -> Check:
    """List other files in the run directory. They do no harm, so they are notes."""
    known = {MANIFEST, JOURNAL, LOG, *(file.name for file in manifest.files)}
    known |= {file.name for entry in entries.values() for file in entry.stored}
    unknown = [name for name in _names(directory) if name not in known]
    planned = {f"{SHARDS}/{shard.key}" for shard in manifest.shards}
    other = "not of this run" if manifest.records_files else UNRECORDED
    notes = (_note(name, planned, other) for name in unknown)
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
    """Yield all files and links in a directory and below, without following links."""
    for parent, directories, files in os.walk(directory):
        directories.sort()
        here = Path(parent)
        links = [name for name in directories if (here / name).is_symlink()]
        for name in sorted([*files, *links]):
            yield (here / name).relative_to(directory).as_posix()


def _note(name: str, planned: Container[str], other: str) -> str:
    if name == LOCK:
        return f"{name}: a process is at work on the run, or was killed"
    if name.endswith(TEMPORARY):
        return f"{name}: left by a process that was killed while writing"
    if name.partition(".")[0] in planned:
        return f"{name}: stored, but not committed, because its process ended before"
    return f"{name}: {other}"


def given_files(manifest: Manifest) -> Check:
    """Check the files that the configuration names: weights, inputs, tokenizers."""
    name = "given files"
    if manifest.plan is None:
        return Check.left_out(name, "they are not recorded before the plan")
    found: list[Finding] = []
    notes: list[str] = []
    weights = [Origin(KEY, one.path, one.sha256, one.bytes) for one in manifest.checkpoints]
    given = (*manifest.origins, *weights)
    for recorded in given:
        path = _find(recorded, manifest.volatile.working_directory)
        if path is None and os.path.exists(recorded.path):  # noqa: PTH110 - any text
            kind = "a directory without files" if Path(recorded.path).is_dir() else "not a file"
            message = f"{recorded.key}={recorded.path} has changed: it is {kind} now"
            found.append(Finding(recorded.path, message))
            continue
        if path is None:
            notes.append(f"{recorded.key}={recorded.path} is gone, so it was not checked")
            continue
        if path != recorded.path:
            notes.append(f"{recorded.key}={recorded.path} has moved to {path}")
        found += _changed_source(recorded, path)
    return Check.of(name, counted(len(given), "path"), found, notes)


def _find(recorded: Origin, working_directory: str | None) -> str | None:
    """Return the path of an origin: as recorded, or relative to the working directory."""
    if names_files(recorded.path):
        return recorded.path
    if working_directory and Path(recorded.path).is_relative_to(working_directory):
        here = str(Path.cwd() / Path(recorded.path).relative_to(working_directory))
        return here if names_files(here) else None
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
    """Return True for a file recorded without its companions, as older runs did."""
    file = Path(path)
    if not file.is_file() or file.stat().st_size != recorded.bytes:
        return False
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest() == recorded.sha256
