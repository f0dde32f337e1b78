"""The HDF5 sink: each shard is an HDF5 file, and `tensors.h5` shows all of them as one.

In a shard, as in `tensors.h5`, a tensor with one shape for all samples is the dataset KEY. A ragged
one is the group KEY with `values`, `offsets` and, where more than its first axis varies, `shapes`.
A key holds a colon in its last step, so no tensor is a scope of another.

Strings are HDF5 strings of variable length, which end at their first zero byte. If a value in a
shard contains one, each value of the tensor is a row of uint8 of variable length instead, and is
read back as bytes.

A tensor whose type has no NaN (integers, booleans, texts) comes with a dataset KEY:present, bool
(rows,), false for missing samples. In `tensors.h5`, where HDF5 reads the rows of a missing
shard as a fill value, it distinguishes them from real zeros. No key ends that way: an address has
one colon, and the name of a selector none.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from extractkit.core.values import (
    OFFSETS,
    SHAPES,
    VALUES,
    Array,
    Dense,
    Ragged,
    Values,
    ragged_shapes,
)
from extractkit.errors import ConfigError, JobError, choices
from extractkit.sinks.hdf5_file import (
    PRESENT,
    add_strings,
    check_chunks,
    file_image,
    opened,
    read_strings,
    stored,
)
from extractkit.sinks.hdf5_index import INDEX, build_index
from extractkit.sinks.protocol import StoredShard, StoredTensor, check_ragged, check_range, damaged

COMPRESSIONS = ("gzip", "lzf")

AUTO = "auto"
"""Value of `index`: make it if there are no more than `INDEXED_SHARDS`."""

INDEXED_SHARDS = 800
"""Most shards for which "auto" makes `tensors.h5`. HDF5 opens all shards that one read touches, and
those that the system does not let it open silently read as missing. By default a process may have
1,024 files open, and its reader needs some for itself."""

_CHUNK_BYTES = 1 << 20

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hdf5Sink:
    """Shards as HDF5 files.

    Attributes:
        compression: None, "gzip" (smaller) or "lzf" (faster, but readable by h5py only).
        index: whether to make `tensors.h5`; "auto": if a reader can be expected to open so many
            shards at once.

    Raises:
        ConfigError: an unknown compression or value of `index`.
    """

    compression: str | None = None
    index: bool | str = AUTO

    def __post_init__(self) -> None:
        if not isinstance(self.index, bool) and self.index != AUTO:
            raise ConfigError(
                f"sinks.hdf5.index={self.index!r} does not exist. Available: 'auto', true, false. "
                f"By the number of shards: sinks.hdf5.index=auto"
            )
        if self.compression is not None and self.compression not in COMPRESSIONS:
            raise ConfigError(
                f"sinks.hdf5.compression={self.compression!r} does not exist. "
                f"{choices(str(self.compression), COMPRESSIONS)} Without compression: null"
            )

    @property
    def suffix(self) -> str:
        """`.h5`."""
        return ".h5"

    def serialize(self, values: Mapping[str, Values]) -> bytes:
        """Serialise a shard, or the constants, as an HDF5 file.

        Raises:
            JobError: HDF5 cannot hold a tensor's type, or an object is not a string.
        """

        def build(file: Any) -> None:
            for key, value in values.items():
                try:
                    self._add(file, key, value)
                except (TypeError, ValueError, OSError, RuntimeError) as error:
                    raise JobError(f"sinks.hdf5 cannot store {key!r}: {error}") from error

        return file_image(build)

    def read(self, path: Path, key: str, start: int, stop: int) -> Values:
        """Read samples start … stop-1 of one tensor, and no other sample's values."""
        with opened(path) as file:
            parts = stored(file, key)
            if "" in parts:
                check_range(path, key, start, stop, _samples(path, key, parts[""]))
                return Dense(_rows(parts[""], key, start, stop))
            offsets, shapes = _offsets(path, key, parts, start, stop)
            rows = _rows(parts[VALUES], key, int(offsets[0]), int(offsets[-1]))
        return Ragged(rows, offsets - offsets[0], shapes)

    def read_shapes(self, path: Path, key: str, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Read the shapes of samples start … stop-1, int64 (samples, rank)."""
        with opened(path) as file:
            parts = stored(file, key)
            if "" in parts:
                check_range(path, key, start, stop, _samples(path, key, parts[""]))
                shape = np.asarray(parts[""].shape[1:], np.int64)
                return np.broadcast_to(shape, (stop - start, len(shape)))
            offsets, shapes = _offsets(path, key, parts, start, stop)
            return ragged_shapes(offsets, shapes, parts[VALUES].shape[1:])

    def read_constant(self, path: Path, key: str) -> Array:
        """Read the value of one constant."""
        with opened(path) as file:
            parts = stored(file, key)
            if "" not in parts:
                raise damaged(path, key, "it is not a constant")
            node = parts[""]
            return _rows(node, key, 0, len(node)) if node.shape else _taken(node, ())

    def finish(
        self, directory: Path, tensors: Sequence[StoredTensor], shards: Sequence[StoredShard]
    ) -> Mapping[str, bytes]:
        """Return `tensors.h5`, which shows all shards as one file, unless it is turned off."""
        if self.index == AUTO and len(shards) > INDEXED_SHARDS:
            _log.info(
                "%s is left out: few programs may open %d shards at once, and those that they "
                "cannot open would read as missing. To have it: sinks.hdf5.index=true",
                INDEX,
                len(shards),
            )
            return {}
        if not self.index:
            return {}
        return {INDEX: file_image(lambda file: build_index(file, directory, tensors, shards))}

    def _add(self, file: Any, key: str, value: Values) -> None:
        for name, array in value.parts().items():
            path = f"{key}/{name}" if name else key
            if array.dtype.kind in "OSU":
                add_strings(file, path, array)
            else:
                file.create_dataset(path, data=array, **self._filters(array))
        if value.values.dtype.kind not in "fc":
            file.create_dataset(key + PRESENT, data=_present(value))

    def _filters(self, array: Array) -> dict[str, object]:
        # HDF5 compresses chunks, and scalars and empty arrays cannot be chunked.
        chunked = array.ndim > 0 and array.size > 0
        if self.compression is None or not chunked:
            return {}
        row = array.nbytes // len(array)
        rows = min(max(_CHUNK_BYTES // row, 1), len(array))
        chunks = (rows, *array.shape[1:]) if row <= _CHUNK_BYTES else True
        return {"compression": self.compression, "shuffle": True, "chunks": chunks}


def _present(value: Values) -> Array:
    """Return for each row whether it is a sample's own value: bool (rows,), or () for a scalar."""
    present = np.ones(len(value) if value.values.ndim else (), bool)
    if value.absent:
        present[list(value.absent)] = False
    return present


def _samples(path: Path, key: str, dataset: Any) -> int:
    """Return the number of samples along the first axis."""
    if not dataset.shape:
        raise damaged(path, key, "it has no axis of samples")
    return len(dataset)


def _offsets(
    path: Path, key: str, parts: Mapping[str, Any], start: int, stop: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64] | None]:
    """Read offsets of these samples of a ragged tensor, and their shapes if stored."""
    check_range(path, key, start, stop, len(parts[OFFSETS]) - 1)
    offsets = _rows(parts[OFFSETS], key, start, stop + 1).astype(np.int64, copy=False)
    shapes = None
    if SHAPES in parts:
        shapes = _rows(parts[SHAPES], key, start, stop).astype(np.int64, copy=False)
    check_ragged(path, key, _samples(path, key, parts[VALUES]), offsets, shapes)
    return offsets, shapes


def _rows(dataset: Any, key: str, start: int, stop: int) -> Array:
    check_chunks(dataset, key, start, stop)
    return _taken(dataset, slice(start, stop))


def _taken(dataset: Any, where: slice | tuple[()]) -> Array:
    """Read some rows, or a single value, with strings as objects."""
    if dataset.dtype.hasobject:
        return read_strings(dataset, where)
    return np.asarray(dataset[where])
