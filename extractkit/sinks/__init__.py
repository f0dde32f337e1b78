"""Formats of stored values, and the protocol that every sink implements. NumPy only."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from extractkit.core.shards import Shard
from extractkit.core.spec import PER_SAMPLE, TensorSpec
from extractkit.core.values import OFFSETS, SHAPES, Array, Dense, Ragged, Values
from extractkit.errors import RunDirectoryError
from extractkit.store.local import opened


@dataclass(frozen=True)
class StoredTensor:
    """One tensor as a run stores it, for manifest, sinks and readers.

    Attributes:
        key: its name in the run.
        spec: dtype and dims as stored; the first axis is that of the samples unless the tensor is
            constant. Sinks get and return bfloat16 as its bits, uint16.
        constant: whether it does not depend on the inputs, and is in the constants shard.
    """

    key: str
    spec: TensorSpec = field(metadata=PER_SAMPLE)
    constant: bool

    def is_in(self, shard: Shard) -> bool:
        """Return True if a shard holds values of it."""
        return self.constant == shard.constant


@dataclass(frozen=True)
class StoredShard:
    """A committed shard and its file."""

    shard: Shard
    path: Path


@runtime_checkable
class ShardReader(Protocol):
    """The reading half of a `Sink`.

    A file that is missing or damaged, or lacks a tensor, raises RunDirectoryError.
    """

    def read(self, path: Path, key: str, start: int, stop: int) -> Values:
        """Read samples start … stop-1, counted within the shard, of one tensor of a shard file."""
        ...

    def read_constant(self, path: Path, key: str) -> Array:
        """Read the value of one tensor of the constants shard."""
        ...

    def read_shapes(self, path: Path, key: str, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Read the shapes of these samples, int64 (samples, rank), without their values."""
        ...


class Sink(ShardReader, Protocol):
    """A file format for shards. Equal values always give equal bytes.

    Values that cannot be stored raise JobError.
    """

    @property
    def suffix(self) -> str:
        """Ending of a shard's file name, including the dot."""
        ...

    def serialize(self, values: Mapping[str, Values]) -> bytes:
        """Serialise a whole shard as one file. Keys are the tensors' keys, in order."""
        ...

    def finish(
        self, directory: Path, tensors: Sequence[StoredTensor], shards: Sequence[StoredShard]
    ) -> Mapping[str, bytes]:
        """Return files that show all shards as one, if the format has such files.

        Called once every shard is committed. Returns contents by file name, and writes nothing:
        the recorder does.
        """
        ...


Buffer = bytes | memoryview
"""Bytes to be written."""


@runtime_checkable
class SerializesBuffers(Protocol):
    """The ability to serialise a shard without copying its arrays, optional for a `Sink`."""

    def buffers(self, values: Mapping[str, Values]) -> Sequence[Buffer]:
        """Return what `serialize` returns, divided into buffers. Some are memory of the arrays."""
        ...


@dataclass(frozen=True)
class Extent:
    """A part of a file that holds an array of numbers as they are in memory, in C order."""

    path: Path
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def row(self) -> int:
        """Size of a row in bytes."""
        return count(self.shape[1:]) * self.dtype.itemsize

    def read(self, start: int, stop: int) -> Array:
        """Read rows start … stop-1.

        Raises:
            RunDirectoryError: the file is missing, or too short.
        """
        array = np.empty((stop - start, *self.shape[1:]), self.dtype)
        self.read_into(array, start)
        return array

    def read_into(self, array: Array, start: int) -> None:
        """Fill an array with rows from `start` on, see `read`."""
        left = array.reshape(-1).view(np.uint8).data
        at = self.offset + start * self.row
        try:
            descriptor = opened(self.path)
        except FileNotFoundError as error:
            raise RunDirectoryError(f"{self.path} is missing from its run") from error
        try:
            while left:
                if not (done := os.preadv(descriptor, [left], at)):
                    raise RunDirectoryError(f"{self.path} is damaged: it ends at {at} bytes")
                left, at = left[done:], at + done
        finally:
            os.close(descriptor)


@dataclass(frozen=True, eq=False)
class Located:
    """A tensor of a shard, whose samples can be read without looking into the file's format again.

    Attributes:
        rows: its values, or those of a ragged tensor.
        offsets, shapes: those of a ragged tensor, as in `Ragged`.
    """

    rows: Extent
    offsets: npt.NDArray[np.int64] | None = None
    shapes: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return self.rows.shape[0] if self.offsets is None else len(self.offsets) - 1

    def is_as(self, array: Array) -> bool:
        """Return True if all samples have the type and shape of an array's rows."""
        of_sample = (self.rows.dtype, self.rows.shape[1:])
        return self.offsets is None and of_sample == (array.dtype, array.shape[1:])

    def read(self, start: int, stop: int) -> Values:
        """Read samples start … stop-1, counted within the shard.

        Raises:
            RunDirectoryError: see `Extent.read`.
        """
        if self.offsets is None:
            return Dense(self.rows.read(start, stop))
        offsets = self.offsets[start : stop + 1]
        shapes = None if self.shapes is None else self.shapes[start:stop]
        rows = self.rows.read(int(offsets[0]), int(offsets[-1]))
        return Ragged(rows, offsets - offsets[0], shapes)


@runtime_checkable
class LocatesValues(Protocol):
    """The ability to find values in a file once and read them often, optional for a `ShardReader`.

    What can be located is checked as `read` checks it.
    """

    def locate(self, path: Path, key: str) -> Located | None:
        """Find a tensor in a shard file; None if its values are not stored as in memory."""
        ...


PLAIN = "iuf"
"""Kinds of types whose values have any bits, so that they can be read without looking at them."""


def serialized(sink: Sink, values: Mapping[str, Values]) -> Sequence[Buffer]:
    """Return the content of a shard's file, divided into buffers."""
    return sink.buffers(values) if isinstance(sink, SerializesBuffers) else [sink.serialize(values)]


def check_range(path: Path, key: str, start: int, stop: int, count: int) -> None:
    """Refuse a range of samples that a shard does not hold.

    Raises:
        IndexError: the range is not within 0 … count.
    """
    if not 0 <= start <= stop <= count:
        raise IndexError(f"samples {start} … {stop} of {key!r}: {path.name} holds {count}")


# The size of an axis is otherwise unlimited for a sample without elements.
_LARGEST_AXIS = 2**31


TypeAndShape = tuple[Any, Sequence[int]]
"""Dtype and shape of an array."""


def check_layout(path: Path, key: str, offsets: TypeAndShape, shapes: TypeAndShape | None) -> None:
    """Refuse offsets and shapes that are not lists of whole numbers, before they are read.

    Args:
        path: the shard's file.
        key: the tensor's key.
        offsets: layout of the stored offsets.
        shapes: layout of the stored shapes, if there are any.

    Raises:
        RunDirectoryError: types, numbers of axes or lengths are wrong.
    """
    for part, layout, rank in ((OFFSETS, offsets, 1), (SHAPES, shapes, 2)):
        if layout is not None and (layout[0].kind not in "iu" or len(layout[1]) != rank):
            raise damaged(path, key, f"its {part} are not whole numbers along {rank} axes")
    if not offsets[1][0] or (shapes is not None and shapes[1][0] != offsets[1][0] - 1):
        raise damaged(path, key, f"its {OFFSETS} are too few, or too many")


def check_ragged(
    path: Path,
    key: str,
    rows: int,
    offsets: npt.NDArray[np.int64],
    shapes: npt.NDArray[np.int64] | None,
) -> None:
    """Refuse samples that overlap, or that are outside the tensor's rows.

    Args:
        path: the shard's file.
        key: the tensor's key.
        rows: number of stored rows of values.
        offsets: offsets of some samples, and the end of the last one.
        shapes: shapes of these samples, if more than the first axis varies.

    Raises:
        RunDirectoryError: there are such samples, or shapes that do not fit the offsets.
    """
    lengths = np.diff(offsets)
    if offsets[0] < 0 or offsets[-1] > rows or (lengths < 0).any():
        raise damaged(path, key, f"its {OFFSETS} are not in order within its {rows} rows")
    if shapes is None:
        return
    if (shapes < 0).any() or (shapes > _LARGEST_AXIS).any():
        raise damaged(path, key, f"its {SHAPES} are impossible")
    # As floats, because a product of integers would wrap around.
    if not np.array_equal(np.prod(shapes.astype(float), axis=1), lengths.astype(float)):
        raise damaged(path, key, f"its {SHAPES} do not fit its {OFFSETS}")


def count(shape: Sequence[int]) -> int:
    """Return the number of elements of an array of this shape, without overflow."""
    return math.prod(int(size) for size in shape)


def damaged(path: Path, key: str, why: str) -> RunDirectoryError:
    """Return the error for a tensor that no sink can have written."""
    return RunDirectoryError(f"{path}: tensor {key!r} is damaged: {why}")
