"""The journal: one checksummed line a shard. A shard is committed once its line stands here."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from extractkit.errors import RunDirectoryError
from extractkit.plan import Shard
from extractkit.runs.schema import canonical, decode, plain
from extractkit.runs.write import append_line

_CHECKSUM = "checksum"
_CHECKSUM_LENGTH = 16


@dataclass(frozen=True)
class StoredFile:
    """One file of a shard: its path within the run directory, SHA-256 and size."""

    name: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Entry:
    """One committed shard.

    Attributes:
        shard: its key: the range of samples in figures, or "constants".
        start, stop: the range (0, 0 for the constants).
        files: what each sink wrote, by the sink's name.
        values: SHA-256 over the values, whatever the file format (`extractkit.values.digest`).
        stats: for each tensor what was found out about its values in passing.
        timings: seconds spent in each stage.
    """

    shard: str
    start: int
    stop: int
    files: Mapping[str, StoredFile]
    values: str
    stats: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)

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
        size: length in bytes of the lines that count.
    """

    entries: tuple[Entry, ...] = ()
    torn: str | None = None
    size: int = 0

    def by_shard(self) -> dict[Shard, Entry]:
        """The entries by shard; of a shard committed twice, the later one."""
        return {Shard(entry.start, entry.stop): entry for entry in self.entries}


def append(path: Path, entry: Entry) -> None:
    """Commit a shard.

    Raises:
        JobError: the line could not be written.
    """
    append_line(path, entry.to_line())


def read(path: Path) -> Journal:
    """All committed shards; none where the file does not exist.

    Raises:
        RunDirectoryError: a line other than the last one is damaged, or a line that is whole does
            not have the fields of an entry.
    """
    data = path.read_bytes() if path.exists() else b""
    entries: list[Entry] = []
    size = 0
    for number, line in enumerate(data.splitlines(keepends=True), start=1):
        record = _whole(line)
        if record is None:
            if size + len(line) == len(data):
                return Journal(tuple(entries), line.decode(errors="replace").rstrip("\n"), size)
            raise RunDirectoryError(
                f"{path}, line {number} is damaged (its checksum does not hold). More lines follow "
                f"it, so this is no interrupted write: restore the file, or run the job again"
            )
        entries.append(decode(Entry, record, f"{path}, line {number}"))
        size += len(line)
    return Journal(tuple(entries), None, size)


def _whole(line: bytes) -> dict[str, object] | None:
    """The record of a line whose checksum holds, else None."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not line.endswith(b"\n") or not isinstance(record, dict):
        return None
    given = record.pop(_CHECKSUM, None)
    return record if given == _checksum(record) else None


def _checksum(record: object) -> str:
    return hashlib.sha256(canonical(record).encode()).hexdigest()[:_CHECKSUM_LENGTH]
