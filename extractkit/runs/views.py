"""Lazy views of a run's tensors, which behave like arrays and read on access."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from types import EllipsisType
from typing import Any

import numpy as np
import numpy.typing as npt

from extractkit.core.catalog import TensorRecord
from extractkit.core.notebook import WithPlots
from extractkit.core.shards import CONSTANTS_SHARD, Position, Shard
from extractkit.core.spec import TensorSpec, numpy_dtype
from extractkit.core.targets import GRADIENT
from extractkit.core.values import Array, Dense, Values, from_stored, ragged_shapes, varies
from extractkit.errors import RunDirectoryError
from extractkit.runs.files import reading
from extractkit.runs.journal import Entry, Listed
from extractkit.runs.manifest import RunTensor, Status
from extractkit.runs.samples import position_of
from extractkit.sinks import Located, LocatesValues, Sink, check_range

Positions = npt.NDArray[np.int64]

LOCATED = 4096
"""How many tensors of shards are located at a time. A ragged one takes some bytes a sample."""


@dataclass(frozen=True, eq=False)
class Committed:
    """The shards that the journal lists, read through one sink.

    Attributes:
        directory: the run directory.
        status: the run's status, for messages.
        samples: number of samples of the finished run.
        entries: the entries by shard.
        sink_name, sink: the sink through which values are read.
        check: compare the digest of a shard's file with the journal before the first read.
        outer: the position of the values to read along each outer axis chosen so far.
    """

    directory: Path
    status: Status
    samples: int
    entries: Mapping[Shard, Entry]
    sink_name: str
    sink: Sink
    check: bool = True
    outer: tuple[Position, ...] = ()
    _paths: dict[Shard, Path] = field(default_factory=dict)

    def at(self, position: Position) -> "Committed":
        """Return the shards at one position along the next outer axis."""
        shards, entries = self._by_position.get(position, []), self.entries
        if isinstance(entries, Listed):
            entries = entries.only(shards)
        else:
            entries = {shard: entries[shard] for shard in shards}
        return replace(self, entries=entries, outer=(*self.outer, position))

    @cached_property
    def _by_position(self) -> dict[Position, list[Shard]]:
        found: dict[Position, list[Shard]] = {}
        for shard in self.entries:
            for position in shard.outer:
                found.setdefault(position, []).append(shard)
        return found

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        """The committed ranges of samples, in order, without the constants."""
        ranges = (shard for shard in self.entries if shard.first is not None)
        return tuple(sorted(ranges, key=lambda shard: shard.start))

    def path(self, shard: Shard) -> Path:
        """Return the file of a shard, checked before the first read.

        Raises:
            RunDirectoryError: the shard is not committed, or its file is missing or damaged.
        """
        if (known := self._paths.get(shard)) is not None:
            return known
        entry = self.entries.get(shard)
        if entry is None or self.sink_name not in entry.files:
            raise RunDirectoryError(
                f"{self.directory} has no shard {shard.key!r} (status: {self.status})"
            )
        file = entry.files[self.sink_name]
        path = self.directory / file.name
        if self.check:
            file.check(self.directory)
        else:
            with suppress(FileNotFoundError), reading(path):
                pass  # refuses a pipe, for example, which would block its reader
        self._paths[shard] = path
        return path

    def constant(self, key: str) -> Array:
        """Return the value of a tensor that does not depend on the inputs."""
        return self.sink.read_constant(self.path(replace(CONSTANTS_SHARD, outer=self.outer)), key)

    def parts(self, rows: Positions) -> Iterator[tuple[slice, Shard, int, int]]:
        """Divide some samples (ascending) by shards.

        Each item is the slice of `rows` that a shard holds, the shard, and the first of them and
        the end of the last, counted within the shard.

        Raises:
            RunDirectoryError: a sample's shard is not committed.
        """
        done = 0
        while done < len(rows):
            shard = self._shard_of(int(rows[done]))
            end = int(np.searchsorted(rows, shard.stop))
            first, last = int(rows[done]), int(rows[end - 1])
            yield slice(done, end), shard, first - shard.start, last + 1 - shard.start
            done = end

    def read(self, key: str, rows: Positions) -> Iterator[tuple[slice, Positions, Values]]:
        """Yield the values of some samples (ascending), one shard at a time.

        Each item is the slice of `rows` that the shard holds, their positions in the values, and
        the values.

        Raises:
            RunDirectoryError: a sample's shard is not committed.
        """
        for part, shard, start, stop in self.parts(rows):
            if (located := self.located(shard, key)) is None:
                values = self.sink.read(self.path(shard), key, start, stop)
                yield part, rows[part] - (shard.start + start), values
                continue
            for run in consecutive(rows, part):
                own = rows[run] - shard.start
                yield run, own - own[0], located.read(int(own[0]), int(own[-1]) + 1)

    def one(self, key: str, row: int) -> Values:
        """Return the values of one sample alone.

        Raises:
            RunDirectoryError: its shard is not committed.
        """
        shard = self._shard_of(row)
        at = row - shard.start
        if (located := self.located(shard, key)) is not None:
            return located.read(at, at + 1)
        return self.sink.read(self.path(shard), key, at, at + 1)

    @cached_property
    def located(self) -> Callable[[Shard, str], Located | None]:
        """Where a shard holds a tensor, found once; None if its sink has to read it."""
        sink = self.sink

        @lru_cache(maxsize=LOCATED)
        def locate(shard: Shard, key: str) -> Located | None:
            found = sink.locate(self.path(shard), key) if isinstance(sink, LocatesValues) else None
            if found is not None:
                check_range(self.path(shard), key, 0, len(shard), len(found))
            return found

        return locate

    def shapes(self, key: str) -> Iterator[tuple[Shard, Positions]]:
        """Yield each committed shard with the shapes of its samples, int64 (samples, rank)."""
        for shard in self.shards:
            located = self.located(shard, key)
            if located is not None and located.offsets is not None:
                fixed = located.rows.shape[1:]
                yield shard, ragged_shapes(located.offsets, located.shapes, fixed)
            else:
                yield shard, self.sink.read_shapes(self.path(shard), key, 0, len(shard))

    def require_all(self) -> None:
        """Check that every sample is committed.

        Raises:
            RunDirectoryError: a sample is not.
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
            of = "".join(f" of {one.axis} {one.at + 1}" for one in self.outer)
            raise RunDirectoryError(
                f"sample {sample}{of} is not in {self.directory} (status: {self.status}): "
                f"{present} of its {self.samples} samples were committed"
            )
        return self.shards[index]


class TensorView(WithPlots):
    """One tensor of a run: (samples, *shape), or just (*shape) for a constant (`ConstantView`).

    Axes whose length differs from sample to sample are padded to the longest of the whole run, with
    NaN for floats and complex numbers, zero or false otherwise and empty bytes for texts.
    `padded(fill=…)` pads with another value. `sample(i)` and iteration give each sample unpadded,
    and `lengths` gives the length of each.

    Indexing follows NumPy. The index on the first axis decides which shards are read. The others
    are applied to what was read.

    Reading raises RunDirectoryError if a shard is missing or damaged. It never makes up values.
    """

    def __init__(self, tensor: RunTensor, committed: Committed) -> None:
        self._tensor = tensor
        self._stored = tensor.stored
        self._committed = committed

    @property
    def key(self) -> str:
        """The tensor's name in the run."""
        return self._tensor.key

    @property
    def record(self) -> TensorRecord:
        """The catalog record of the tensor before slice, reduce and cast."""
        return self._tensor.record

    @property
    def transforms(self) -> tuple[object, ...] | None:
        """The transforms that lead to it, in the full form (`do`); None if they are unknown."""
        return self._tensor.transforms

    @property
    def result(self) -> str:
        """The name of a further result of the transforms; empty for the main one."""
        return self._tensor.result

    @property
    def request(self) -> Mapping[str, object]:
        """What is stored of the tensor if not its value, as plain data; empty for values."""
        return self._tensor.request

    @property
    def gradient(self) -> Mapping[str, object] | None:
        """The target and the method as plain data, if the values are gradients; None if not."""
        found = self.request.get(GRADIENT)
        return found if isinstance(found, Mapping) else None

    @property
    def constant(self) -> bool:
        """Whether the tensor does not depend on the inputs, and so has no sample axis."""
        return False

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of its elements. Values stored as bfloat16 are read as float32, exactly."""
        return numpy_dtype(self._stored.spec.dtype)

    @property
    def dims(self) -> tuple[str | None, ...]:
        """The name of each axis; None for an axis without a name."""
        return self._stored.spec.titles

    @property
    def spec(self) -> TensorSpec:
        """Type and axes as stored, each axis with its size or with what its length follows."""
        return self._stored.spec

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The padded shape. Varying axes have the length of the longest committed sample."""
        fixed = self._stored.spec.sample_shape
        if not varies(fixed):
            return (self._committed.samples, *(size or 0 for size in fixed))
        longest = np.zeros(len(fixed), np.int64)
        for _, shapes in self._committed.shapes(self.key):
            longest = np.maximum(longest, shapes.max(axis=0, initial=0))
        sizes = (int(n) if size is None else size for n, size in zip(longest, fixed, strict=True))
        return (self._committed.samples, *sizes)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.dims)

    @cached_property
    def lengths(self) -> Positions:
        """Each sample's own length along the varying axes: int64 (samples, varying axes)."""
        sizes = self._stored.spec.sample_shape
        axes = [axis for axis, size in enumerate(sizes) if size is None]
        if not axes:
            return np.zeros((len(self), 0), np.int64)
        self._committed.require_all()
        return np.concatenate([shapes[:, axes] for _, shapes in self._committed.shapes(self.key)])

    def sample(self, index: int) -> Array:
        """Return one sample in its own shape, without padding.

        Raises:
            IndexError: there is no such sample, or the tensor is constant.
            TypeError: the index is not a whole number.
        """
        row = position_of(index, len(self), self._committed.directory)
        values = self._committed.one(self.key, row)
        return from_stored(values, self._stored.spec.dtype).sample(0)

    def by_shard(self) -> Iterator[tuple[int, Values]]:
        """Yield the first sample and the values of each shard, one in memory at a time.

        Raises:
            IndexError: the tensor is constant.
        """
        self._committed.require_all()
        for part, _, values in self._read(np.arange(len(self))):
            yield part.start, values

    def padded(self, fill: object = None) -> Array:
        """Return the whole tensor as one array, padded with `fill`."""
        return self._rows(np.arange(len(self)), fill)

    def __len__(self) -> int:
        return self._committed.samples

    def __iter__(self) -> Iterator[Array]:
        """Yield every sample in turn, unpadded, with one shard in memory at a time."""
        self._committed.require_all()
        for _, positions, values in self._read(np.arange(len(self))):
            for position in positions:
                yield values.sample(int(position))

    def __getitem__(self, index: Any) -> Array:
        first, *rest = index if isinstance(index, tuple) and index else (index,)
        rows = self._wanted(first)
        if rows is None:
            return np.asarray(self.padded()[index], self.dtype)
        if not rest and rows.ndim == 1 and (np.diff(rows) > 0).all():
            return self._rows(rows)  # read into place, without a copy
        unique, own = rows_to_read(first, rows)
        return np.asarray(self._rows(unique)[(own, *rest)], self.dtype)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError(f"{self.key!r} is on disk: an array of it is always a copy")
        array = self.padded()
        return array if dtype is None else array.astype(dtype, copy=False)

    def __repr__(self) -> str:
        outer = self.dims[: len(self.dims) - len(self._stored.spec.axes)]
        shown = ", ".join([*map(str, outer), *map(str, self._stored.spec.axes)])
        return f"<{type(self).__name__} {self.key!r}: {self.dtype} ({shown})>"

    @property
    def blank(self) -> object:
        """The padding value, which also fills samples without a value."""
        if self.dtype.kind in "fc":
            return np.nan
        return b"" if self.dtype.kind == "O" else np.zeros((), self.dtype)[()]

    def _read(self, rows: Positions) -> Iterator[tuple[slice, Positions, Values]]:
        """Yield what `Committed.read` yields, with values as in memory."""
        for part, positions, values in self._committed.read(self.key, rows):
            yield part, positions, from_stored(values, self._stored.spec.dtype)

    def _wanted(self, first: Any) -> npt.NDArray[np.intp] | None:
        """Return the rows that an index on the first axis names, or None if it covers more axes."""
        if first is None or isinstance(first, EllipsisType | bool | np.bool):
            return None
        count = len(self)
        if isinstance(first, slice):
            return np.arange(*first.indices(count))
        array = np.asarray(first)
        if array.dtype == bool and array.ndim != 1:
            return None
        if array.dtype.kind == "i" and array.size and -count <= array.min() <= array.max() < count:
            return np.where(array < 0, array + count, array)
        return np.asarray(np.arange(count)[first])

    def _rows(self, rows: Positions, fill: object = None) -> Array:
        """Return some samples (ascending, each once), padded."""
        shape = (len(rows), *self.shape[1:])
        fixed = not varies(self._stored.spec.sample_shape)
        if fixed and self._read_into(result := np.empty(shape, self.dtype), rows):
            return result
        result = np.full(shape, self.blank if fill is None else fill, self.dtype)
        for part, positions, values in self._read(rows):
            if isinstance(values, Dense):
                result[part] = values.values[positions]
                continue
            for row, position in zip(range(part.start, part.stop), positions, strict=True):
                value = values.sample(int(position))
                own: tuple[int | slice, ...] = (row, *map(slice, value.shape))
                result[own] = value
        return result

    def _read_into(self, result: Array, rows: Positions) -> bool:
        """Read samples of one shape straight into an array, if their values can be located."""
        for part, shard, _, _ in self._committed.parts(rows):
            located = self._committed.located(shard, self.key)
            if located is None or not located.is_as(result):
                return False
            for run in consecutive(rows, part):
                located.rows.read_into(result[run], int(rows[run.start]) - shard.start)
        return True


def consecutive(rows: Positions, part: slice) -> Iterator[slice]:
    """Divide a part of rows (ascending, each once) into slices of consecutive ones."""
    ends = np.flatnonzero(np.diff(rows[part]) > 1) + part.start + 1
    bounds = [part.start, *ends.tolist(), part.stop]
    yield from (slice(a, b) for a, b in pairwise(bounds))


def rows_to_read(first: Any, rows: npt.NDArray[np.intp]) -> tuple[Positions, Any]:
    """Return the rows to read for an index on the first axis, and the index into the rows read.

    The kind of the index (number, slice, array) is kept, because it decides the axes of the result.

    Args:
        rows: the rows that the index names.
    """
    if isinstance(first, slice):
        return (rows, slice(None)) if (first.step or 1) > 0 else (rows[::-1], slice(None, None, -1))
    unique, inverse = np.unique(rows, return_inverse=True)
    return unique, inverse.reshape(rows.shape) if rows.ndim else 0
