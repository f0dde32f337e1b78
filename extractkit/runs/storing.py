"""Storing a shard, which any process may do, and naming its files, which the lock's holder does.

A worker forces its files out under names of its own. The driver looks at them and renames them, and
so a worker that is late, or has lost its driver, never changes a file that has a name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from extractkit.plan import Shard
from extractkit.runs.directory import SHARDS, shard_file
from extractkit.runs.files import StoredFile
from extractkit.runs.journal import Entry
from extractkit.runs.state import state_file, to_bytes
from extractkit.runs.write import (
    TEMPORARY,
    publish,
    remove,
    temporary_of,
    write_apart,
    write_durably,
)
from extractkit.sinks.protocol import Sink
from extractkit.value_checks import ValueStats
from extractkit.values import State, Values, digest


@dataclass(frozen=True, eq=False)
class Storing:
    """How shards are stored.

    Attributes:
        directory: of the run.
        sinks: what writes them, by name.
        writer: a worker, of whom no other has the name; None: whoever holds the run's lock.
    """

    directory: Path
    sinks: Mapping[str, Sink]
    writer: str | None = None

    def store(
        self,
        shard: Shard,
        values: Mapping[str, Values],
        timings: Mapping[str, float] | None = None,
        stats: Mapping[str, ValueStats] | None = None,
        skipped: Mapping[int, str] | None = None,
        state: State | None = None,
    ) -> Entry:
        """Write a shard's files durably; once the entry stands in the journal, it is committed.

        One sink's file is in memory at a time.

        Raises:
            JobError: the disk refuses.
        """
        files = {}
        for name, sink in self.sinks.items():
            image = sink.serialize(values)
            files[name] = self._written(shard_file(shard, sink.suffix), image)
            del image
        carried = None if state is None else self._written(state_file(shard), to_bytes(state))
        return Entry(
            shard.key,
            shard.start,
            shard.stop,
            files,
            digest(values.items()),
            stats or {},
            {str(index): reason for index, reason in (skipped or {}).items()},
            timings or {},
            shard.checkpoint,
            carried,
        )

    def _written(self, name: str, image: bytes) -> StoredFile:
        path = self.directory / name
        if self.writer is None:
            write_durably(path, image)
        else:
            write_apart(path, image, self.writer)
        return StoredFile.of(name, image)


def check_stored(directory: Path, entry: Entry, writer: str) -> None:
    """Hold the files that a writer has forced out against what it says of them.

    Raises:
        RunDirectoryError: one is missing, or has another size or digest.
    """
    for file in entry.stored:
        replace(file, name=temporary_of(Path(file.name), writer).as_posix()).check(directory)


def take_over(directory: Path, entry: Entry, writer: str) -> None:
    """Give the files of a writer their names, durably.

    Raises:
        JobError: the disk refuses.
    """
    for file in entry.stored:
        path = directory / file.name
        publish(temporary_of(path, writer), path)


def sweep(directory: Path) -> None:
    """Remove what never got its name: of workers that were killed, and of shards written twice.

    Raises:
        JobError: the disk refuses.
    """
    for path in sorted((directory / SHARDS).glob(f"*{TEMPORARY}")):
        remove(path)
