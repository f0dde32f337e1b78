"""What a sink is: how a shard becomes a file, and is read back. NumPy only, no TensorFlow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from extractkit.plan import Shard
from extractkit.values import Array, Values


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
