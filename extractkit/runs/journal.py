"""The journal: one checksummed line per shard. A shard is committed once its line is written."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from extractkit.advice import command
from extractkit.core.checkpoints import AXIS
from extractkit.core.digests import Digest
from extractkit.core.shards import Shard, positions_in
from extractkit.core.value_checks import EXAMINATION, ValueChecks
from extractkit.errors import RunDirectoryError
from extractkit.runs.files import LONGEST_LINE, StoredFile, lines_of, reading
from extractkit.runs.schema import canonical_json, decode, plain
from extractkit.runs.upgrades import (
    FIRST_RECORDED,
    LINE_UPGRADES,
    check_version,
    implied_version,
    upgraded,
)
from extractkit.store.local import append_line, write_durably

SCHEMA = 8
"""Version of the fields of a line. Raise it with every change of them."""

_SCHEMA = "schema"
_CHECKSUM = "checksum"
_CHECKSUM_LENGTH = 16
_BEFORE = f'"{_CHECKSUM}":"'.encode()
_BEFORE_KEY = f'"{_SCHEMA}":{SCHEMA},"shard":"'.encode()


@dataclass(frozen=True, slots=True)
class Entry:
    """One committed shard.

    Attributes:
        shard: its key: the range of samples in digits, or "constants", after its positions along
            outer axes.
        start, stop: the range of samples (0, 0 for the constants).
        checkpoint: its position along the checkpoint axis; None without such an axis.
        files: the file that each sink wrote, by the sink's name.
        values: digest of the values, independent of the file format
            (`extractkit.core.digests.digest`).
        stats: what the checks found in the values of each tensor.
        missing: the samples of the range without values, by index, with the reason.
        timings: seconds spent in each stage.
        state: the file with the state that the model carries to the next shard; None if it carries
            none.
        statistics: the file with the partial results of statistics over the shard; None if the run
            has none.
    """

    shard: str
    start: int
    stop: int
    files: Mapping[str, StoredFile]
    values: Digest
    stats: Mapping[str, ValueChecks] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    checkpoint: int | None = None
    state: StoredFile | None = None
    statistics: StoredFile | None = None

    @property
    def stored(self) -> tuple[StoredFile, ...]:
        """All files of the shard."""
        beside = (file for file in (self.state, self.statistics) if file is not None)
        return (*self.files.values(), *beside)

    @property
    def covers(self) -> Shard:
        """The shard that this entry commits."""
        return Shard(self.start, self.stop, positions_in(self.shard))

    @property
    def consistent(self) -> bool:
        """Whether its key is that of the range and the checkpoint recorded beside it."""
        covers = self.covers
        return self.shard == covers.key and self.checkpoint == covers.along(AXIS)

    def to_line(self) -> str:
        """Return the entry as a line of the journal, without its newline."""
        return line_of({**plain(self), _SCHEMA: SCHEMA})


@dataclass(frozen=True)
class Journal:
    """The content of a journal.

    Attributes:
        entries: the entries in the order in which the shards were committed.
        torn: the rest of a line that was being written when the job died, usually None. Its shard
            was not committed.
        size: length in bytes of the lines before that.
        damaged: numbers of the damaged lines. Their shards count as not committed.
    """

    entries: tuple[Entry, ...] = ()
    torn: str | None = None
    size: int = 0
    damaged: tuple[int, ...] = ()

    def by_shard(self) -> dict[Shard, Entry]:
        """Return the entries by shard. If a shard was committed twice, the later entry counts."""
        return {entry.covers: entry for entry in self.entries}

    def digests(self) -> dict[str, Digest]:
        """Return the digest of each shard's values, by the shard's key."""
        return {shard.key: entry.values for shard, entry in self.by_shard().items()}


def append(path: Path, entry: Entry) -> None:
    """Commit a shard.

    Raises:
        JobError: the line could not be written.
    """
    append_line(path, entry.to_line())


def rewrite(path: Path, entries: Iterable[Entry]) -> None:
    """Replace the content of a journal by these entries.

    Raises:
        JobError: it could not be written.
    """
    lines = "".join(f"{entry.to_line()}\n" for entry in entries)
    write_durably(path, lines.encode(errors="surrogatepass"))


def entry_of(line: bytes, at: str, *, brief: bool = False) -> Entry | None:
    """Parse a line without its newline, or return None if it is damaged.

    Args:
        at: names the line in messages.
        brief: drop statistics and timings, which grow with the number of tensors.

    Raises:
        RunDirectoryError: the line is intact but does not have the fields of an entry, or was
            written by a newer extractkit.
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
    """Read all committed shards. A missing file holds none.

    Args:
        salvage: skip damaged lines instead of refusing the journal.
        brief: see `entry_of`.

    Raises:
        RunDirectoryError: a line other than the last one is damaged, or an intact line does not
            have the fields of an entry.
    """
    entries: list[Entry] = []
    damaged: list[int] = []
    size = 0
    unread = b""  # a damaged line; only if another line follows is it more than an unfinished write
    for number, line in enumerate(_lines(path), start=1):
        if unread:
            if not salvage:
                raise _damaged(path, number - 1)
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


class Listed(Mapping[Shard, Entry]):
    """The entries of some shards of a journal, each parsed when it is looked up.

    A run of many shards is opened so: one parsed entry takes more time and memory than one line.
    """

    def __init__(
        self, path: Path, places: Mapping[Shard, int], check: Callable[[Entry], None]
    ) -> None:
        """Read from the journal at `path`.

        Args:
            places: where the line of each shard begins.
            check: raises RunDirectoryError for an entry that the run cannot have.
        """
        self._path = path
        self._places = places
        self._check = check

    def only(self, shards: Iterable[Shard]) -> "Listed":
        """Return the entries of some of these shards."""
        return Listed(self._path, {one: self._places[one] for one in shards}, self._check)

    def __getitem__(self, shard: Shard) -> Entry:
        place = self._places[shard]
        try:
            with reading(self._path) as file:
                file.seek(place)
                line = file.readline(LONGEST_LINE).removesuffix(b"\n")
        except FileNotFoundError:
            line = b""
        entry = entry_of(line, f"{self._path}, shard {shard.key!r}", brief=True)
        if entry is None or entry.shard != shard.key:
            raise RunDirectoryError(
                f"{self._path} has changed since the run was opened. Open it again: "
                f"extractkit.open({str(self._path.parent)!r})"
            )
        self._check(entry)
        return entry

    def __contains__(self, shard: object) -> bool:
        return shard in self._places

    def __iter__(self) -> Iterator[Shard]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def places(path: Path) -> dict[str, int]:
    """Return where the line of each committed shard begins, by the shard's key.

    Checks each line against its checksum. Its fields are checked when it is looked up.

    Raises:
        RunDirectoryError: a line other than the last one is damaged, or was written by a newer
            extractkit.
    """
    found: dict[str, int] = {}
    place = damaged = 0
    for number, line in enumerate(_lines(path), start=1):
        if damaged:
            raise _damaged(path, damaged)
        key = _key(line[:-1], f"{path}, line {number}") if line.endswith(b"\n") else None
        if key is None:
            damaged = number
        else:
            found[key] = place
        place += len(line)
    return found


def _key(line: bytes, at: str) -> str | None:
    """Return the key of a line's shard, or None if the line is damaged."""
    if not _is_intact(line):
        return None
    # Quotes within texts are escaped, so this is a key of the line and nothing else.
    at_key = line.find(_BEFORE_KEY) + len(_BEFORE_KEY)
    if at_key >= len(_BEFORE_KEY):
        return line[at_key : line.find(b'"', at_key)].decode(errors="replace")
    entry = entry_of(line, at, brief=True)  # of another version
    return None if entry is None else entry.shard


def value_stats(path: Path, committed: Mapping[Shard, Entry]) -> dict[str, ValueChecks]:
    """Return the checks of each tensor's values over all committed shards of a journal.

    Holds one line in memory at a time.

    Args:
        committed: the entries as `read` returns them. Of a shard stored twice, one entry counts.

    Raises:
        RunDirectoryError: see `entry_of`.
    """
    found: dict[str, ValueChecks] = {}
    pending = dict(committed)
    for number, line in enumerate(_lines(path), start=1):
        entry = entry_of(line.removesuffix(b"\n"), f"{path}, line {number}")
        if entry is None or (kept := pending.get(entry.covers)) is None:
            continue
        # If two lines of a shard record the same values, either one serves.
        if (entry.values, entry.missing) == (kept.values, kept.missing):
            del pending[entry.covers]
            for key, stats in entry.stats.items():
                before = found.get(key)
                found[key] = EXAMINATION.merge(before, stats) if before else stats
    return found


def _damaged(path: Path, number: int) -> RunDirectoryError:
    return RunDirectoryError(
        f"{path}, line {number} is damaged (its checksum does not match). More lines follow it, so "
        f"this is not an interrupted write. Store its shard again: "
        f"{command('resume', path.parent)}"
    )


def _lines(path: Path) -> Iterator[bytes]:
    try:
        yield from lines_of(path)
    except FileNotFoundError:
        return


def _version(record: Mapping[str, object], at: str) -> int:
    """Return the version of a line's fields.

    Raises:
        RunDirectoryError: a newer extractkit wrote the line, or its version cannot exist.
    """
    if _SCHEMA not in record:
        return implied_version(record)
    version = record[_SCHEMA]
    if type(version) is not int or version < FIRST_RECORDED:
        raise RunDirectoryError(
            f"{at} has {_SCHEMA} {version!r}, which lines of the journal never had. Restore it"
        )
    check_version(at, "journal", version, SCHEMA)
    return version


def _whole(line: bytes) -> dict[str, object] | None:
    """Parse a line that is byte for byte as `Entry.to_line` writes it; return None otherwise."""
    if not _is_intact(line):
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.pop(_CHECKSUM, None) is None:
        return None
    return record


def _is_intact(line: bytes) -> bool:
    """Check the bytes of a line against its checksum, without parsing them.

    Keys are sorted, so the checksum is where it was added to the line over which it was computed.
    """
    at = line.find(_BEFORE)
    end = at + len(_BEFORE) + _CHECKSUM_LENGTH
    if at < 0 or line[end : end + 2] != b'",':
        return False
    content = hashlib.sha256(line[:at])
    content.update(line[end + 2 :])
    return content.hexdigest()[:_CHECKSUM_LENGTH].encode() == line[end - _CHECKSUM_LENGTH : end]


def line_of(record: Mapping[str, object]) -> str:
    """Serialise a record of plain data together with its checksum."""
    return canonical_json({**record, _CHECKSUM: _checksum(record)})


def _checksum(record: Mapping[str, object]) -> str:
    content = canonical_json(record).encode(errors="surrogatepass")
    return hashlib.sha256(content).hexdigest()[:_CHECKSUM_LENGTH]
