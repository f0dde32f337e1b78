"""The journal line by line, and the rows of samples."""

import json
from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from extractkit.core.plan import Shard
from extractkit.core.value_checks import merged
from extractkit.errors import RunDirectoryError
from extractkit.runs.checking.files import UNRECORDED, recorded_files, shard_files
from extractkit.runs.checking.result import Check, Finding, Outcome, counted
from extractkit.runs.files import lines_of
from extractkit.runs.journal import Entry, entry_of
from extractkit.runs.layout import HYDRA, JOURNAL, LOG, MANIFEST, SAMPLES, SHARDS
from extractkit.runs.manifest import Actual, Manifest, Status
from extractkit.runs.samples import Samples
from extractkit.store.local import TEMPORARY


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


_ONLY = ""
"""Stands for the free axis of a model that has one: rows then tell a length without a name."""


@dataclass(frozen=True, eq=False)
class Told:
    """What the rows say of all samples.

    Attributes:
        lengths: int64 (samples,) for each free axis; under `""` where a model has but one.
        skipped: the samples that were found to be of no use before any value was computed.
    """

    lengths: Mapping[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    skipped: frozenset[int] = frozenset()

    def along(self, dim: str | None) -> npt.NDArray[np.int64] | None:
        """The samples' lengths along an axis of this name; None where they tell none."""
        if dim is None or not dim.isidentifier():  # computed by the model, or a product
            return None
        return self.lengths.get(dim, self.lengths.get(_ONLY))


def sample_rows(directory: Path, manifest: Manifest, files: Check) -> tuple[Check, Told]:
    """Count, order and contents of the rows.

    Args:
        files: whether the file is what was written; otherwise it is not read.
    """
    name = "samples"
    recorded = any(file.name == SAMPLES for file in manifest.files)
    if any(finding.file == SAMPLES for finding in files.findings):
        return Check.left_out(name, f"{SAMPLES} is damaged or missing"), Told()
    if manifest.plan is None:
        return Check.left_out(name, "the samples had not all been read"), Told()
    if not recorded and manifest.records_files:
        message = f"{directory / SAMPLES} is not among the recorded files"
        return Check.of(name, "0 rows", [Finding(SAMPLES, message)]), Told()
    reading = _Reading()
    try:
        reading.take(Samples(directory / SAMPLES))
    except RunDirectoryError as error:
        return Check.of(name, counted(reading.count, "row"), [Finding(SAMPLES, str(error))]), Told()
    messages = reading.wrong(manifest)
    check = Check.of(
        name,
        counted(reading.count, "row"),
        [Finding(SAMPLES, f"{directory / SAMPLES}: {message}") for message in messages],
        [] if recorded else [f"{SAMPLES}: {UNRECORDED}"],
    )
    return check, reading.told() if check.outcome is Outcome.OK else Told()


class _Reading:
    """What is gathered in one pass over the rows: eight bytes a sample and axis."""

    def __init__(self) -> None:
        self.count = 0
        self._truncated = 0
        self._out_of_order: list[int] = []
        self._lengths: dict[str, array[int]] = defaultdict(lambda: array("q"))
        self._skipped: list[int] = []

    def take(self, rows: Iterable[object]) -> None:
        for row in rows:
            number, self.count = self.count, self.count + 1
            if not isinstance(row, dict) or row.get("index") != number or "id" not in row:
                self._out_of_order.append(number)
                continue
            self._truncated += bool(row.get("truncated"))
            if "skipped" in row:
                self._skipped.append(number)
            told = row.get("length")
            for axis, length in (told if isinstance(told, dict) else {_ONLY: told}).items():
                if isinstance(length, int):
                    self._lengths[axis].append(length)

    def wrong(self, manifest: Manifest) -> list[str]:
        """What cannot be, in messages."""
        found = []
        if self.count != manifest.samples:
            found.append(f"{self.count} rows for {manifest.samples} samples")
        if self._out_of_order:
            first = self._out_of_order[0]
            found.append(
                f"{len(self._out_of_order)} rows are not those of their samples, first row {first}"
            )
        truncated = manifest.inputs.truncated if manifest.inputs else 0
        if self._truncated != truncated:
            found.append(
                f"{self._truncated} samples are marked as cut off, {truncated} were counted"
            )
        for axis, lengths in self._lengths.items():
            if len(lengths) != self.count:
                of = f" along {axis!r}" if axis else ""
                found.append(f"{len(lengths)} of {self.count} samples have a length{of}")
        return found

    def told(self) -> Told:
        lengths = {axis: np.array(n, np.int64) for axis, n in self._lengths.items()}
        return Told(lengths, frozenset(self._skipped))


def lasting_damage(directory: Path, manifest: Manifest) -> list[str]:
    """What of the damage no computing can mend: what Hydra composed, and the log."""
    found = recorded_files(directory, manifest).findings
    own = (f"{HYDRA}/", LOG)
    return [one.message for one in found if one.file is not None and one.file.startswith(own)]


def damage(directory: Path, manifest: Manifest) -> list[str]:
    """Every file that is missing or holds something else, each in a message that names it.

    Of a run that is not finished, what it says to have stored is looked at.
    """
    journal, entries = listed_shards(directory, manifest)
    shards, _ = shard_files(directory, entries, manifest)
    checks = (recorded_files(directory, manifest), journal, shards)
    return [finding.message for check in checks for finding in check.findings]
