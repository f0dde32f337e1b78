"""The journal line by line, and what it lists held against what was planned."""

import json
from dataclasses import fields
from pathlib import Path

from extractkit.errors import RunDirectoryError
from extractkit.plan import Shard
from extractkit.runs.directory import JOURNAL, MANIFEST, SHARDS
from extractkit.runs.files import lines_of
from extractkit.runs.journal import Entry, entry_of
from extractkit.runs.manifest import Actual, Manifest, Status
from extractkit.runs.verification.result import Check, Finding, counted
from extractkit.runs.write import TEMPORARY
from extractkit.value_checks import merged


def listed_shards(directory: Path, manifest: Manifest | None) -> tuple[Check, dict[Shard, Entry]]:
    """What the journal lists, of a shard committed twice the later entry; damaged lines left out.

    Args:
        manifest: None where it cannot be read. Then lines are looked at, not what they should be.
    """
    path = directory / JOURNAL
    entries, found, notes = _read(path, finished=manifest is None or _finished(manifest))
    if manifest is not None:
        found += _held_against_plan(directory, manifest, entries, damaged=bool(found))
    return Check.of("journal", counted(len(entries), "shard"), found, notes), entries


def _read(path: Path, *, finished: bool) -> tuple[dict[Shard, Entry], list[Finding], list[str]]:
    entries: dict[Shard, Entry] = {}
    found = []
    notes = []
    number, rest = 0, b""
    try:
        for number, line in enumerate(lines_of(path), start=1):
            if not line.endswith(b"\n"):
                rest = line
                continue
            try:
                entry = entry_of(line[:-1], f"{path}, line {number}")
            except RunDirectoryError as error:
                found.append(Finding(JOURNAL, str(error)))
                continue
            if entry is not None:
                entries[entry.covers] = entry
            else:
                message = f"{path}, line {number} is damaged: its checksum does not hold"
                found.append(Finding(JOURNAL, message))
    except FileNotFoundError:
        pass  # no shard was ever committed
    except RunDirectoryError as error:
        found.append(Finding(JOURNAL, str(error)))
    if rest and (finished or not _could_be_interrupted(rest)):
        message = f"{path} is damaged: its last line, number {number}, is not whole"
        found.append(Finding(JOURNAL, message))
    elif rest:
        notes.append("its last line was being written when its process ended: it does not count")
    return entries, found, notes


def _could_be_interrupted(rest: bytes) -> bool:
    """Whether bytes without a newline may be the beginning of a line."""
    text = rest.decode(errors="replace")
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return True
    return end == len(text)  # whole but for its newline; what follows an object is no beginning


def _held_against_plan(
    directory: Path, manifest: Manifest, entries: dict[Shard, Entry], *, damaged: bool
) -> list[Finding]:
    path = directory / JOURNAL
    planned, listed = manifest.shards, set(entries)
    found = [
        Finding(JOURNAL, f"{path} lists shard {shard.key!r}, which was not planned", shard.key)
        for shard in sorted(listed - set(planned), key=lambda shard: shard.place)
    ]
    missing = [shard for shard in planned if shard not in listed]
    if not _finished(manifest):
        # One may have been written when its process ended, before its line was.
        stored = _stored(directory)
        missing = [shard for shard in missing if shard.key in stored]
        missing = missing if len(missing) > 1 else []
    found += [Finding(JOURNAL, f"{path} lacks shard {shard.key!r}", shard.key) for shard in missing]
    if not damaged and not found:
        found += _held_against_actual(
            directory, manifest, [entries[s] for s in planned if s in listed]
        )
    return found


def _held_against_actual(
    directory: Path, manifest: Manifest, entries: list[Entry]
) -> list[Finding]:
    """Where the manifest's sums over all shards are not those of the journal."""
    path = directory / MANIFEST
    if (manifest.status is Status.FINISHED) != (manifest.actual is not None):
        message = f"{path} says {manifest.status.value!r}, and its sums over all shards say else"
        return [Finding(MANIFEST, message)]
    if manifest.actual is None:
        return []
    keys = dict.fromkeys(key for entry in entries for key in entry.stats)
    values = {k: merged([e.stats[k] for e in entries if k in e.stats]) for k in keys}
    summed = Actual.of(entries, values)
    return [
        Finding(MANIFEST, f"{path}: actual.{item.name} is not the sum over the shards")
        for item in fields(Actual)
        if getattr(manifest.actual, item.name) != getattr(summed, item.name)
    ]


def _finished(manifest: Manifest) -> bool:
    return manifest.actual is not None


def _stored(directory: Path) -> set[str]:
    """The keys of all shards that have a file, by one look at their directory."""
    shards = directory / SHARDS
    if not shards.is_dir():
        return set()
    names = (file.name for file in shards.iterdir())
    return {name.partition(".")[0] for name in names if not name.endswith(TEMPORARY)}
