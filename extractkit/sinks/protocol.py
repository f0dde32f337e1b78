"""The protocol of sinks: how a shard becomes a file and is read back. NumPy only, no TensorFlow."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from extractkit.core.plan import Shard
from extractkit.core.values import OFFSETS, SHAPES, Array, Values
from extractkit.errors import RunDirectoryError


@dataclass(frozen=True)
class StoredTensor:
    """One tensor as a run stores it; what the manifest says of it and sinks and readers need.

    Attributes:
        key: its name in the run.
        dtype: NumPy name of the element type.
        dims: dims of the stored tensor; the first is "sample" unless the tensor is constant.
        shape: of one sample (of the whole, for a constant); None where it varies.
        constant: whether it does not depend on the inputs, and so stands in the constants shard.
    """

    key: str
    dtype: str
    dims: tuple[str | None, ...]
    shape: tuple[int | None, ...]
    constant: bool


@dataclass(frozen=True)
class StoredShard:
    """A committed shard and its file."""

    shard: Shard
    path: Path


class Sink(Protocol):
    """A file format for shards. The same values always give the same bytes.

    What cannot be stored raises JobError; a file that is missing or damaged, or lacks a tensor,
    raises RunDirectoryError.
    """

    @property
    def suffix(self) -> str:
        """Ending of a shard's file name, with its dot."""
        ...

    def serialize(self, values: Mapping[str, Values]) -> bytes:
        """A whole shard as the content of one file; keys are tensors' keys, in order."""
        ...

    def read(self, path: Path, key: str, start: int, stop: int) -> Values:
        """Samples start … stop-1, counted within the shard, of one tensor of one shard file."""
        ...

    def read_constant(self, path: Path, key: str) -> Array:
        """The value of one tensor of the constants shard."""
        ...

    def read_shapes(self, path: Path, key: str, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Shapes of those samples, int64 (samples, rank), read without their values."""
        ...

    def finish(
        self, directory: Path, tensors: Sequence[StoredTensor], shards: Sequence[StoredShard]
    ) -> Mapping[str, bytes]:
        """What makes one logical file of all shards, if the format has such a thing.

        Called once every shard is committed; returns contents by file name. Nothing is written:
        that is the recorder's part.
        """
        ...


def check_range(path: Path, key: str, start: int, stop: int, count: int) -> None:
    """Refuse a range of samples that a shard does not hold.

    Raises:
        IndexError: it is not within 0 … count.
    """
    if not 0 <= start <= stop <= count:
        raise IndexError(f"samples {start} … {stop} of {key!r}: {path.name} holds {count}")


# Of a sample without elements, nothing else bounds the size of an axis.
_LARGEST_AXIS = 2**31


Layout = tuple[Any, Sequence[int]]
"""Dtype and shape of an array."""


def check_layout(path: Path, key: str, offsets: Layout, shapes: Layout | None) -> None:
    """Refuse offsets and shapes that are no lists of whole numbers, before they are read.

    Args:
        path: the shard's file.
        key: the tensor's.
        offsets: of the stored offsets.
        shapes: of the stored shapes, if there are any.

    Raises:
        RunDirectoryError: they have other types or numbers of axes, or none of them has offsets.
    """
    for part, layout, rank in ((OFFSETS, offsets, 1), (SHAPES, shapes, 2)):
        if layout is not None and (layout[0].kind not in "iu" or len(layout[1]) != rank):
            raise damaged(path, key, f"its {part} are no whole numbers along {rank} axes")
    if not offsets[1][0] or (shapes is not None and shapes[1][0] != offsets[1][0] - 1):
        raise damaged(path, key, f"its {OFFSETS} are too few, or too many")


def check_ragged(
    path: Path,
    key: str,
    rows: int,
    offsets: npt.NDArray[np.int64],
    shapes: npt.NDArray[np.int64] | None,
) -> None:
    """Refuse samples that overlap, or that lie outside of the tensor's rows.

    Args:
        path: the shard's file.
        key: the tensor's.
        rows: how many rows of values are stored.
        offsets: of some samples, and the end of the last of them.
        shapes: of those samples, where more than the first axis varies.

    Raises:
        RunDirectoryError: there are some, or shapes that do not fit the offsets.
    """
    lengths = np.diff(offsets)
    if offsets[0] < 0 or offsets[-1] > rows or (lengths < 0).any():
        raise damaged(path, key, f"its {OFFSETS} do not lie in order within its {rows} rows")
    if shapes is None:
        return
    if (shapes < 0).any() or (shapes > _LARGEST_AXIS).any():
        raise damaged(path, key, f"its {SHAPES} are impossible")
    # As floats: a product of whole numbers would wrap around.
    if not np.array_equal(np.prod(shapes.astype(float), axis=1), lengths.astype(float)):
        raise damaged(path, key, f"its {SHAPES} do not fit its {OFFSETS}")


def count(shape: Sequence[int]) -> int:
    """Elements of an array of this shape, however many."""
    return math.prod(int(size) for size in shape)


def damaged(path: Path, key: str, why: str) -> RunDirectoryError:
    """The error for a tensor that cannot be what a sink has written."""
    return RunDirectoryError(f"{path}: tensor {key!r} is damaged: {why}")
