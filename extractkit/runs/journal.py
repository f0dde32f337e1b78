"""The journal: one checksummed line a shard. A shard is committed once its line stands here."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from extractkit.errors import RunDirectoryError
from extractkit.plan import Shard
from extractkit.runs.files import StoredFile, content_of
from extractkit.runs.schema import canonical, decode, digest, plain
from extractkit.runs.write import append_line, write_durably
from extractkit.value_checks import ValueStats

_CHECKSUM = "checksum"
_CHECKSUM_LENGTH = 16


@dataclass(frozen=True)
class Entry:
    """One committed shard.

    Attributes:
        shard: its key: the range of samples in figures, or "constants".
        start, stop: the range (0, 0 for the constants).
        checkpoint: its checkpoint's place on their axis; None where there is no such axis.
        files: what each sink wrote, by the sink's name.
        values: SHA-256 over the values, whatever the file format (`extractkit.values.digest`).
        stats: for each tensor what was found out about its values in passing.
        skipped: samples of the range that have no values, by index, and why.
        timings: seconds spent in each stage.
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

    @property
    def covers(self) -> Shard:
        """The shard that it commits."""
        return Shard(self.start, self.stop, self.checkpoint)

    def to_line(self) -> str:
        """The entry as a line of the journal, without its newline."""
        return canonical({**plain(self), _CHECKSUM: _checksum(plain(self))})


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


def entry_of(line: bytes, at: str) -> Entry | None:
    """The entry of a line without its newline; None where the line is damaged.

    Args:
        at: names the line in messages.

    Raises:
        RunDirectoryError: the line is whole, but has not the fields of an entry.
    """
    record = _whole(line)
    return None if record is None else decode(Entry, record, at)


def read(path: Path, *, salvage: bool = False) -> Journal:
    """All committed shards; none where the file does not exist.

    Args:
        salvage: whether a damaged line is passed over, instead of refused.

    Raises:
        RunDirectoryError: a line other than the last one is damaged, or a line that is whole does
            not have the fields of an entry.
    """
    try:
        data = content_of(path)
    except FileNotFoundError:
        data = b""
    entries: list[Entry] = []
    damaged: list[int] = []
    size = 0
    for number, line in enumerate(data.splitlines(keepends=True), start=1):
        entry = entry_of(line[:-1], f"{path}, line {number}") if line.endswith(b"\n") else None
        if entry is None:
            if size + len(line) == len(data):
                torn = line.decode(errors="replace").rstrip("\n")
                return Journal(tuple(entries), torn, size, tuple(damaged))
            if not salvage:
                raise RunDirectoryError(
                    f"{path}, line {number} is damaged (its checksum does not hold). More lines "
                    f"follow it, so this is no interrupted write. Have its shard stored again: "
                    f"extractkit resume {path.parent}"
                )
            damaged.append(number)
        else:
            entries.append(entry)
        size += len(line)
    return Journal(tuple(entries), None, size, tuple(damaged))


def _whole(line: bytes) -> dict[str, object] | None:
    """The record of a line that is, to the byte, as `Entry.to_line` writes records; else None."""
    try:
        record = json.loads(line)
        if not isinstance(record, dict):
            return None
        record.pop(_CHECKSUM, None)
        expected = canonical({**record, _CHECKSUM: _checksum(record)})
    except (ValueError, RecursionError):
        return None
    return record if line == expected.encode(errors="surrogatepass") else None


def _checksum(record: object) -> str:
    return digest(record)[:_CHECKSUM_LENGTH]
