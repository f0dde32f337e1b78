"""Storing a shard, and the state that follows it.

A worker writes its files durably under temporary names of its own. The driver checks and renames
them, so a worker that is late or has lost its driver never changes a published file.
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
    """Return the name of the file with the state after a shard, within the run directory."""
    return shard_file(shard, SUFFIX)


def to_bytes(state: State) -> bytes:
    """Serialise a state as an `.npz` file whose arrays are named by their positions."""
    return NpzSink().serialize({str(at): Dense(array) for at, array in enumerate(state)})


def check_state(manifest: Manifest, entry: Entry) -> None:
    """Check that an entry of a run that carries state names the state after its shard.

    Raises:
        RunDirectoryError: it names none.
    """
    if manifest.model.get("state") == "carry" and entry.state is None and entry.stop:
        raise RunDirectoryError(
            f"{JOURNAL}, shard {entry.shard!r} names no state, and the run carries one"
        )


def state_before(directory: Path, entries: Mapping[Shard, Entry], shard: Shard) -> State:
    """Read the state that a shard starts from, which is the state after the preceding shard.

    Args:
        entries: the committed shards.
        shard: a shard of samples, not the first.

    Raises:
        RunDirectoryError: the preceding shard is not committed, or its state is missing or damaged.
    """
    # Another thread may be committing later shards.
    before = next((entries[key] for key in list(entries) if key.stop == shard.start), None)
    if before is None or before.state is None:
        raise RunDirectoryError(
            f"{directory / JOURNAL} has no state before sample {shard.start}, from which shard "
            f"{shard.key} starts"
        )
    before.state.check(directory)
    with np.load(directory / before.state.name, allow_pickle=False) as archive:
        return tuple(archive[str(at)] for at in range(len(archive.files)))


@dataclass(frozen=True, eq=False)
class Storing:
    """Writes the files of shards.

    Attributes:
        directory: the run directory.
        sinks: the sinks that write them, by name.
        writer: the unique name of a worker; None for the process that holds the run's lock.
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
        missing: Mapping[int, str] | None = None,
        state: State | None = None,
    ) -> Entry:
        """Write a shard's files durably. The shard is committed by adding the entry to the journal.

        Holds one sink's file in memory at a time.

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
            {str(index): reason for index, reason in (missing or {}).items()},
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
    """Check the files that a worker has written against its entry.

    Raises:
        RunDirectoryError: a file is missing, or has another size or digest.
    """
    for file in entry.stored:
        replace(file, name=temporary_of(Path(file.name), writer).as_posix()).check(directory)


def take_over(directory: Path, entry: Entry, writer: str) -> None:
    """Rename a worker's files to their final names, durably.

    Raises:
        JobError: the disk refuses.
    """
    for file in entry.stored:
        path = directory / file.name
        publish(temporary_of(path, writer), path)


def remove_temporary(directory: Path) -> None:
    """Remove temporary files of killed workers and of shards that were written twice.

    Raises:
        JobError: the disk refuses.
    """
    for path in sorted((directory / SHARDS).glob(f"*{TEMPORARY}")):
        remove(path)
