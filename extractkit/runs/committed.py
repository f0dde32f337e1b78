"""The committed shards of a run, seen as one range of samples."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from extractkit.errors import RunDirectoryError
from extractkit.plan import Shard
from extractkit.runs.files import reading
from extractkit.runs.journal import Entry
from extractkit.runs.manifest import Status
from extractkit.sinks.protocol import Sink
from extractkit.values import Array, Values

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Committed:
    """The shards that the journal lists, read through one sink.

    Attributes:
        directory: of the run.
        status: of the run, for messages.
        samples: number of samples that the run has once it is finished.
        entries: by shard.
        sink_name, sink: through which values are read.
        check: whether the digest of a shard's file is held against the journal before it is read
            for the first time.
        checkpoint: whose values are read, by their place on the axis of checkpoints; None where the
            run has no such axis.
    """

    directory: Path
    status: Status
    samples: int
    entries: Mapping[Shard, Entry]
    sink_name: str
    sink: Sink
    check: bool = True
    checkpoint: int | None = None
    _checked: set[Shard] = field(default_factory=set)

    def at(self, checkpoint: int) -> "Committed":
        """The shards of one checkpoint."""
        own = self._by_checkpoint.get(checkpoint, {})
        return replace(self, entries=own, checkpoint=checkpoint)

    @cached_property
    def _by_checkpoint(self) -> dict[int | None, dict[Shard, Entry]]:
        found: dict[int | None, dict[Shard, Entry]] = {}
        for shard, entry in self.entries.items():
            found.setdefault(shard.checkpoint, {})[shard] = entry
        return found

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        """The committed ranges of samples, in order; the constants are not among them."""
        return tuple(sorted((s for s in self.entries if not s.constant), key=lambda s: s.start))

    def path(self, shard: Shard) -> Path:
        """The file of a shard, to be read.

        Raises:
            RunDirectoryError: it is not committed, missing or damaged.
        """
        entry = self.entries.get(shard)
        if entry is None or self.sink_name not in entry.files:
            raise RunDirectoryError(
                f"{self.directory} has no shard {shard.key!r} (status: {self.status})"
            )
        file = entry.files[self.sink_name]
        if shard not in self._checked:
            if self.check:
                file.check(self.directory)
            else:
                with suppress(FileNotFoundError), reading(self.directory / file.name):
                    pass  # no pipe, say, which would hold its reader up
            self._checked.add(shard)
        return self.directory / file.name

    def constant(self, key: str) -> Array:
        """The value of a tensor that does not depend on the inputs."""
        return self.sink.read_constant(self.path(Shard(0, 0, self.checkpoint)), key)

    def read(self, key: str, rows: Positions) -> Iterator[tuple[slice, Positions, Values]]:
        """The values of some samples (ascending), one shard at a time.

        Yields which of `rows` the shard has, where each of those stands in the values, the values.

        Raises:
            RunDirectoryError: a sample's shard is not committed.
        """
        done = 0
        while done < len(rows):
            shard = self._shard_of(int(rows[done]))
            end = int(np.searchsorted(rows, shard.stop))
            first, last = int(rows[done]), int(rows[end - 1])
            values = self.sink.read(
                self.path(shard), key, first - shard.start, last + 1 - shard.start
            )
            yield slice(done, end), rows[done:end] - first, values
            done = end

    def shapes(self, key: str) -> Iterator[tuple[Shard, Positions]]:
        """Each committed shard with the shapes of its samples, int64 (samples, rank)."""
        for shard in self.shards:
            yield shard, self.sink.read_shapes(self.path(shard), key, 0, len(shard))

    def require_all(self) -> None:
        """Make sure that no sample is missing.

        Raises:
            RunDirectoryError: one is.
        """
        sample = 0
        while sample < self.samples:
            sample = self._shard_of(sample).stop

    @cached_property
    def _starts(self) -> list[int]:
        return [shard.start for shard in self.shards]

    def _shard_of(self, sample: int) -> Shard:
        index = bisect_right(self._starts, sample) - 1
        if index < 0 or sample >= self.shards[index].stop:
            present = sum(len(shard) for shard in self.shards)
            of = "" if self.checkpoint is None else f" of checkpoint {self.checkpoint + 1}"
            raise RunDirectoryError(
                f"sample {sample}{of} is not in {self.directory} (status: {self.status}): "
                f"{present} of its {self.samples} samples were committed"
            )
        return self.shards[index]
