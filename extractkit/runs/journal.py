"""The journal: one checksummed line a shard. A shard is committed once its line stands here."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from extractkit.advice import command
from extractkit.core.plan import Shard
from extractkit.core.value_checks import ValueStats, merged
from extractkit.errors import RunDirectoryError
from extractkit.runs.files import StoredFile, lines_of
from extractkit.runs.schema import canonical_json, decode, plain
from extractkit.runs.upgrades import (
    FIRST_TOLD,
    LINE_UPGRADES,
    check_version,
    implied_version,
    upgraded,
)
from extractkit.store.local import append_line, write_durably

SCHEMA = 5
"""Version of the fields of a line; to be raised with every change of them."""

_SCHEMA = "schema"
_CHECKSUM = "checksum"
_CHECKSUM_LENGTH = 16


@dataclass(frozen=True, slots=True)
class Entry:
    """One committed shard.

    Attributes:
        shard: its key: the range of samples in figures, or "constants".
        start, stop: the range (0, 0 for the constants).
        checkpoint: its checkpoint's place on their axis; None where there is no such axis.
        files: what each sink wrote, by the sink's name.
        values: SHA-256 over the values, whatever the file format (`extractkit.core.values.digest`).
        stats: for each tensor what was found out about its values in passing.
        skipped: samples of the range that have no values, by index, and why.
        timings: seconds spent in each stage.
        state: the file with the state that the model carries to the next shard; None where it
            carries none.
    """

    shard: str
    start: int
    stop: int
    files: Mapping[str, StoredFile]
    values: str
    stats: Mapping[str, ValueStats] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    checkpoint: int | None = None
    state: StoredFile | None = None

    @property
    def stored(self) -> tuple[StoredFile, ...]:
        """All files of the shard."""
        return (*self.files.values(), *(() if self.state is None else (self.state,)))

    @property
    def covers(self) -> Shard:
        """The shard that it commits."""
        return Shard(self.start, self.stop, self.checkpoint)

    def to_line(self) -> str:
        """The entry as a line of the journal, without its newline."""
        return _line({**plain(self), _SCHEMA: SCHEMA})


@dataclass(frozen=True)
class Journal:
    """What a journal says.

    Attributes:
        entries: in the order in which the shards were committed.
        torn: what remains of a line that was being written when the job died; None mostly. Its
            shard was not committed.
        size: length in bytes of the lines before that.
        damaged: numbers of the lines that were passed over; their shards count as not committed.
    """

    entries: tuple[Entry, ...] = ()
    torn: str | None = None
    size: int = 0
    damaged: tuple[int, ...] = ()

    def by_shard(self) -> dict[Shard, Entry]:
        """The entries by shard; of a shard committed twice, the later one."""
        return {entry.covers: entry for entry in self.entries}

    def digests(self) -> dict[str, str]:
        """The digest of each shard's values, by the shard's key."""
        return {shard.key: entry.values for shard, entry in self.by_shard().items()}


def append(path: Path, entry: Entry) -> None:
    """Commit a shard.

    Raises:
        JobError: the line could not be written.
    """
    append_line(path, entry.to_line())


def rewrite(path: Path, entries: Iterable[Entry]) -> None:
    """Let a journal hold these entries and nothing else.

    Raises:
        JobError: it could not be written.
    """
    lines = "".join(f"{entry.to_line()}\n" for entry in entries)
    write_durably(path, lines.encode(errors="surrogatepass"))


def entry_of(line: bytes, at: str, *, brief: bool = False) -> Entry | None:
    """The entry of a line without its newline; None where the line is damaged.

    Args:
        at: names the line in messages.
        brief: whether statistics and timings are left out: they grow with the number of tensors.

    Raises:
        RunDirectoryError: the line is whole, but has not the fields of an entry, or a newer
            extractkit wrote it.
    """
    record = _whole(line)
    if record is None:
        return None
    version = _version(record, at)
    record.pop(_SCHEMA, None)
    if version < SCHEMA:
        record = upgraded(record, version, LINE_UPGRADES)
    if brief:
        record |= {name: {} for name in ("stats", "timings") if name in record}
    return decode(Entry, record, at)


def read(path: Path, *, salvage: bool = False, brief: bool = False) -> Journal:
    """All committed shards; none where the file does not exist.

    Args:
        salvage: whether a damaged line is passed over, instead of refused.
        brief: as of `entry_of`.

    Raises:
        RunDirectoryError: a line other than the last one is damaged, or a line that is whole does
            not have the fields of an entry.
    """
    entries: list[Entry] = []
    damaged: list[int] = []
    size = 0
    unread = b""  # a damaged line, until it is known whether another one follows it
    for number, line in enumerate(_lines(path), start=1):
        if unread:
            if not salvage:
                raise RunDirectoryError(
                    f"{path}, line {number - 1} is damaged (its checksum does not hold). More "
                    f"lines follow it, so this is no interrupted write. Have its shard stored "
                    f"again: {command('resume', path.parent)}"
                )
            damaged.append(number - 1)
            size += len(unread)
            unread = b""
        whole = line.endswith(b"\n")
        entry = entry_of(line[:-1], f"{path}, line {number}", brief=brief) if whole else None
        if entry is None:
            unread = line
        else:
            entries.append(entry)
            size += len(line)
    torn = unread.decode(errors="replace").rstrip("\n") if unread else None
    return Journal(tuple(entries), torn, size, tuple(damaged))


def found_in(path: Path, committed: Mapping[Shard, Entry]) -> dict[str, ValueStats]:
    """What was found in each tensor's values, over all shards of a journal that are committed.

    One line is in memory at a time.

    Args:
        committed: with what `read` says of them; of a shard stored twice, one entry counts.

    Raises:
        RunDirectoryError: as of `entry_of`.
    """
    found: dict[str, ValueStats] = {}
    left = dict(committed)
    for number, line in enumerate(_lines(path), start=1):
        entry = entry_of(line.removesuffix(b"\n"), f"{path}, line {number}")
        if entry is None or (kept := left.get(entry.covers)) is None:
            continue
        # Of two lines of a shard that say the same of its values, either will do.
        if (entry.values, entry.skipped) == (kept.values, kept.skipped):
            del left[entry.covers]
            for key, stats in entry.stats.items():
                found[key] = merged([found[key], stats]) if key in found else stats
    return found


def _lines(path: Path) -> Iterator[bytes]:
    try:
        yield from lines_of(path)
    except FileNotFoundError:
        return


def _version(record: Mapping[str, object], at: str) -> int:
    """The version of a line's fields.

    Raises:
        RunDirectoryError: a newer extractkit wrote it, or it tells none that there can be.
    """
    if _SCHEMA not in record:
        return implied_version(record)
    version = record[_SCHEMA]
    if type(version) is not int or version < FIRST_TOLD:
        raise RunDirectoryError(
            f"{at} has {_SCHEMA} {version!r}, which lines of the journal never had. Restore it"
        )
    check_version(at, "journal", version, SCHEMA)
    return version


def _whole(line: bytes) -> dict[str, object] | None:
    """The record of a line that is, to the byte, as `Entry.to_line` writes records; else None."""
    try:
        record = json.loads(line)
        if not isinstance(record, dict):
            return None
        record.pop(_CHECKSUM, None)
        expected = _line(record)
    except (ValueError, RecursionError):
        return None
    return record if line == expected.encode(errors="surrogatepass") else None


def _line(record: Mapping[str, object]) -> str:
    """A record of plain data with its checksum."""
    return canonical_json({**record, _CHECKSUM: _checksum(record)})


def _checksum(record: Mapping[str, object]) -> str:
    content = canonical_json(record).encode(errors="surrogatepass")
    return hashlib.sha256(content).hexdigest()[:_CHECKSUM_LENGTH]
