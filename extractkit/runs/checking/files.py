"""Checks of the files of a run: digests, the journal, samples' rows, and given files."""

import hashlib
import json
import os
from array import array
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import reduce
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from extractkit.core.checkpoints import KEY
from extractkit.core.shards import Shard
from extractkit.core.value_checks import EXAMINATION
from extractkit.errors import InputError, RunDirectoryError, counted
from extractkit.runs import HYDRA, JOURNAL, LOCK, LOG, MANIFEST, RO_CRATE, SAMPLES, SHARDS
from extractkit.runs.checking import Check, Finding, Outcome
from extractkit.runs.files import Origin, StoredFile, lines_of, names_files, origin
from extractkit.runs.journal import Entry, entry_of
from extractkit.runs.manifest import Actual, Manifest, Status
from extractkit.runs.samples import Samples, why_missing
from extractkit.runs.shards import check_names, check_state
from extractkit.store.local import TEMPORARY, check_directory

UNRECORDED = "runs of schema 1 record no digest of it"
GIVEN_FILES = "given files"
"""The name of the check of files outside the run, which may change while the run is whole."""

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
        beside: dict[str, StoredFile | None] = {
            "state": entry.state,
            "statistics": entry.statistics,
        }
        for name, other in beside.items():
            if other is not None and (wrong := _wrong(directory, other, entry.shard)):
                found += wrong
                beside[name] = None
        if kept:
            intact[shard] = replace(
                entry, files=kept, state=beside["state"], statistics=beside["statistics"]
            )
    return Check.of("shards", counted(count, "file"), found), intact


def other_files(directory: Path, manifest: Manifest, entries: Entries) -> Check:
    """List other files in the run directory as notes, not failures, since they are harmless."""
    known = {MANIFEST, JOURNAL, LOG, RO_CRATE, *(file.name for file in manifest.files)}
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
    name = GIVEN_FILES
    if manifest.plan is None:
        return Check.not_made(name, "they are not recorded before the plan")
    found: list[Finding] = []
    notes: list[str] = []
    files = () if manifest.training else manifest.checkpoints
    weights = [Origin(KEY, one.path, one.sha256, one.bytes) for one in files]
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
        found += changed_source(recorded, path)
    return Check.of(name, counted(len(given), "path"), found, notes)


def _find(recorded: Origin, working_directory: str | None) -> str | None:
    """Return the path of an origin: as recorded, or relative to the working directory."""
    if names_files(recorded.path):
        return recorded.path
    if working_directory and Path(recorded.path).is_relative_to(working_directory):
        here = str(Path.cwd() / Path(recorded.path).relative_to(working_directory))
        return here if names_files(here) else None
    return None


def changed_source(recorded: Origin, path: str) -> list[Finding]:
    """Return a finding if what is at a path differs from the origin that a run recorded."""
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


def lasting_damage(directory: Path, manifest: Manifest) -> list[str]:
    """List the damage that recomputing cannot repair: to Hydra's files and to the log."""
    found = recorded_files(directory, manifest).findings
    own = (f"{HYDRA}/", LOG)
    return [one.message for one in found if one.file is not None and one.file.startswith(own)]


def damage(directory: Path, manifest: Manifest) -> list[str]:
    """List every file that is missing or differs from its record, each in a message.

    For an unfinished run, only what it has stored is checked.
    """
    journal, entries = listed_shards(directory, manifest)
    shards, _ = shard_files(directory, entries, manifest)
    checks = (recorded_files(directory, manifest), journal, shards)
    return [finding.message for check in checks for finding in check.findings]


def listed_shards(directory: Path, manifest: Manifest | None) -> tuple[Check, dict[Shard, Entry]]:
    """Check the journal. Return its entries, without damaged lines.

    Of a shard committed twice, the later entry counts.

    Args:
        manifest: None if it cannot be read. The entries are then not checked against the plan.
    """
    path = directory / JOURNAL
    entries, found, notes = _read(path, finished=manifest is None or _finished(manifest))
    if manifest is not None and manifest.training is not None and not _finished(manifest):
        begun = entries.keys() - set(manifest.shards)
        if begun:
            notes.append(f"{counted(len(begun), 'shard')} of a step that was not complete")
        entries = {shard: entry for shard, entry in entries.items() if shard not in begun}
    if manifest is not None:
        found += _check_plan(directory, manifest, entries, damaged=bool(found))
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
                message = f"{path}, line {number} is damaged: its checksum does not match"
                found.append(Finding(JOURNAL, message))
    except FileNotFoundError:
        pass  # no shard was ever committed
    except RunDirectoryError as error:
        found.append(Finding(JOURNAL, str(error)))
    if rest and (finished or not _could_be_interrupted(rest)):
        message = f"{path} is damaged: its last line, number {number}, is incomplete"
        found.append(Finding(JOURNAL, message))
    elif rest:
        notes.append("its last line was being written when its process ended, and does not count")
    return entries, found, notes


def _could_be_interrupted(rest: bytes) -> bool:
    """Return True if bytes without a newline may be the beginning of a line."""
    text = rest.decode(errors="replace")
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return True
    return end == len(text)  # nothing but the newline may follow a complete object


def _check_plan(
    directory: Path, manifest: Manifest, entries: dict[Shard, Entry], *, damaged: bool
) -> list[Finding]:
    path = directory / JOURNAL
    planned, listed = manifest.shards, set(entries)
    found = [
        Finding(JOURNAL, f"{path} lists shard {shard.key!r}, which was not planned", shard.key)
        for shard in sorted(listed - set(planned), key=lambda shard: shard.order)
    ]
    missing = [shard for shard in planned if shard not in listed]
    if not _finished(manifest):
        # The file of one shard may have been written before the process could add its line.
        stored = _stored(directory)
        missing = [shard for shard in missing if shard.key in stored]
        missing = missing if len(missing) > 1 else []
    found += [Finding(JOURNAL, f"{path} lacks shard {shard.key!r}", shard.key) for shard in missing]
    if not damaged and not found:
        found += _check_totals(directory, manifest, [entries[s] for s in planned if s in listed])
    return found


def _check_totals(directory: Path, manifest: Manifest, entries: list[Entry]) -> list[Finding]:
    """Check the manifest's totals over all shards against the journal."""
    path = directory / MANIFEST
    if (manifest.status is Status.FINISHED) != (manifest.actual is not None):
        message = (
            f"{path} has status {manifest.status.value!r}, which contradicts its totals over all "
            f"shards"
        )
        return [Finding(MANIFEST, message)]
    if manifest.actual is None:
        return []
    keys = dict.fromkeys(key for entry in entries for key in entry.stats)
    values = {
        k: reduce(EXAMINATION.merge, (e.stats[k] for e in entries if k in e.stats)) for k in keys
    }
    summed = Actual.of(entries, values)
    return [
        Finding(MANIFEST, f"{path}: actual.{item.name} is not the sum over the shards")
        for item in fields(Actual)
        if getattr(manifest.actual, item.name) != getattr(summed, item.name)
    ]


def _finished(manifest: Manifest) -> bool:
    return manifest.actual is not None


def _stored(directory: Path) -> set[str]:
    """Return the keys of all shards that have a file, with one listing of their directory."""
    shards = directory / SHARDS
    if not shards.is_dir():
        return set()
    names = (file.name for file in shards.iterdir())
    return {name.partition(".")[0] for name in names if not name.endswith(TEMPORARY)}


_ONLY = ""
"""Key for the free axis of a model that has only one: rows then give its length without a name."""


@dataclass(frozen=True, eq=False)
class SampleRows:
    """Lengths and missing samples according to the rows of all samples.

    Attributes:
        lengths: int64 (samples,) for each free axis; under `""` if the model has only one.
        missing: the samples that were found unusable before any value was computed.
    """

    lengths: Mapping[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    missing: frozenset[int] = frozenset()

    def along(self, dim: str | None) -> npt.NDArray[np.int64] | None:
        """Return the samples' lengths along a free axis, or None if the rows give none."""
        if dim is None:
            return None
        return self.lengths.get(dim, self.lengths.get(_ONLY))


def sample_rows(directory: Path, manifest: Manifest, files: Check) -> tuple[Check, SampleRows]:
    """Check count, order and content of the rows.

    Args:
        files: the check of the recorded files. A damaged file is not read.
    """
    name = "samples"
    recorded = any(file.name == SAMPLES for file in manifest.files)
    if any(finding.file == SAMPLES for finding in files.findings):
        return Check.not_made(name, f"{SAMPLES} is damaged or missing"), SampleRows()
    if manifest.plan is None:
        return Check.not_made(name, "the samples had not all been read"), SampleRows()
    if not recorded and manifest.records_files:
        message = f"{directory / SAMPLES} is not among the recorded files"
        return Check.of(name, "0 rows", [Finding(SAMPLES, message)]), SampleRows()
    reader = _RowReader()
    try:
        reader.read(Samples(directory / SAMPLES, schema=manifest.samples_schema))
    except RunDirectoryError as error:
        check = Check.of(name, counted(reader.count, "row"), [Finding(SAMPLES, str(error))])
        return check, SampleRows()
    messages = reader.errors(manifest)
    check = Check.of(
        name,
        counted(reader.count, "row"),
        [Finding(SAMPLES, f"{directory / SAMPLES}: {message}") for message in messages],
        [] if recorded else [f"{SAMPLES}: {UNRECORDED}"],
    )
    return check, reader.rows() if check.outcome is Outcome.OK else SampleRows()


class _RowReader:
    """Gathers the rows' data in one pass, in eight bytes per sample and axis."""

    def __init__(self) -> None:
        self.count = 0
        self._truncated = 0
        self._out_of_order: list[int] = []
        self._lengths: dict[str, array[int]] = defaultdict(lambda: array("q"))
        self._missing: list[int] = []

    def read(self, rows: Iterable[object]) -> None:
        for row in rows:
            number, self.count = self.count, self.count + 1
            if not isinstance(row, dict) or row.get("index") != number or "id" not in row:
                self._out_of_order.append(number)
                continue
            self._truncated += bool(row.get("truncated"))
            if why_missing(row) is not None:
                self._missing.append(number)
            length = row.get("length")
            by_axis = length if isinstance(length, dict) else {_ONLY: length}
            for axis, length in by_axis.items():
                if isinstance(length, int):
                    self._lengths[axis].append(length)

    def errors(self, manifest: Manifest) -> list[str]:
        """Return a message for each contradiction."""
        found = []
        if self.count != manifest.samples:
            found.append(f"{counted(self.count, 'row')} for {counted(manifest.samples, 'sample')}")
        if self._out_of_order:
            first = self._out_of_order[0]
            found.append(
                f"{len(self._out_of_order)} rows do not match their samples, first row {first}"
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

    def rows(self) -> SampleRows:
        lengths = {axis: np.array(n, np.int64) for axis, n in self._lengths.items()}
        return SampleRows(lengths, frozenset(self._missing))
