"""Files of a run directory held against what manifest and journal record of them."""

import os
from collections.abc import Container, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from extractkit.errors import RunDirectoryError
from extractkit.plan import Shard
from extractkit.runs.directory import JOURNAL, LOG, MANIFEST, SHARDS
from extractkit.runs.files import StoredFile
from extractkit.runs.intact import check_names
from extractkit.runs.journal import Entry
from extractkit.runs.lock import LOCK
from extractkit.runs.manifest import Manifest
from extractkit.runs.opened import check_directory
from extractkit.runs.state import check_state
from extractkit.runs.verification.result import Check, Finding, counted
from extractkit.runs.write import TEMPORARY

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
