"""Store a shard and the state that follows it.

A worker forces its files out under names of its own. The driver looks at them and renames them, and
so a worker that is late, or has lost its driver, never changes a file that has a name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from extractkit.core.plan import Shard
from extractkit.core.value_checks import ValueStats
from extractkit.core.values import Dense, State, Values, digest
from extractkit.errors import RunDirectoryError
from extractkit.runs.files import StoredFile
from extractkit.runs.journal import Entry
from extractkit.runs.layout import JOURNAL, SHARDS, shard_file
from extractkit.runs.manifest import Manifest
from extractkit.sinks.npz import NpzSink
from extractkit.sinks.protocol import Sink
from extractkit.store.local import (
    TEMPORARY,
    publish,
    remove,
    temporary_of,
    write_apart,
    write_durably,
)

SUFFIX = ".state.npz"


def state_file(shard: Shard) -> str:
    """The name of the file with the state after a shard, within the run directory."""
    return shard_file(shard, SUFFIX)


def to_bytes(state: State) -> bytes:
    """Return a state as the bytes of an `.npz` file, its arrays named by their numbers."""
    return NpzSink().serialize({str(at): Dense(array) for at, array in enumerate(state)})


def check_state(manifest: Manifest, entry: Entry) -> None:
    """Check that an entry of a run that carries state names the state after its shard.

    Raises:
        RunDirectoryError: it does not.
    """
    if manifest.model.get("state") == "carry" and entry.state is None and entry.stop:
        raise RunDirectoryError(
            f"{JOURNAL}, shard {entry.shard!r} names no state, and the run carries one"
        )


def state_before(directory: Path, entries: Mapping[Shard, Entry], shard: Shard) -> State:
    """Read the state that a shard starts from: that after the shard in front of it.

    Args:
        entries: the committed shards.
        shard: of samples, not the first.

    Raises:
        RunDirectoryError: the shard in front of it is not committed, or the state after it is
            missing or damaged.
    """
    # Another thread may be committing shards behind this one.
    before = next((entries[key] for key in list(entries) if key.stop == shard.start), None)
    if before is None or before.state is None:
        raise RunDirectoryError(
            f"{directory / JOURNAL} has no state in front of sample {shard.start}, where shard "
            f"{shard.key} starts from"
        )
    before.state.check(directory)
    with np.load(directory / before.state.name, allow_pickle=False) as archive:
        return tuple(archive[str(at)] for at in range(len(archive.files)))


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
