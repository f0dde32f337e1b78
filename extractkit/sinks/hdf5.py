"""The HDF5 sink: each shard is an HDF5 file, and `tensors.h5` shows all of them as one.

In a shard, as in `tensors.h5`, a tensor with one shape for all samples is the dataset KEY. A ragged
one is the group KEY with `values`, `offsets` and, where more than its first axis varies, `shapes`.
A key holds a colon in its last step, so no tensor is a scope of another.

bfloat16 is stored as its bits, uint16: the upper half of a float32. In `tensors.h5` its datasets
have the attribute `dtype`, "bfloat16".

Strings are HDF5 strings of variable length, which end at their first zero byte. If a value in a
shard contains one, each value of the tensor is a row of uint8 of variable length instead, and is
read back as bytes.

A tensor whose type has no NaN (integers, booleans, texts) comes with a dataset KEY:present, bool
(rows,), false for missing samples. In `tensors.h5`, where HDF5 reads the rows of a missing
shard as a fill value, it distinguishes them from real zeros. No key ends that way: an address has
one colon, and the name of a selector none.

`tensors.h5` is for h5py, MATLAB and HDFView. Its datasets are virtual: they point at `shards/`, by
names relative to the file itself, so that a run can be moved and read from any working directory.
Offsets and shapes of ragged tensors are real, and count through the whole run. Outer axes, such as
that of checkpoints, are the first axes of every dataset except a ragged tensor's values, which are
concatenated: offsets are (checkpoints, samples + 1).

HDF5 does not convert strings to rows of uint8. If some shards hold a tensor as strings and others
as rows, its values are copied as rows of uint8.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from extractkit.core.keys import DecidesLayout
from extractkit.core.spec import BFLOAT16
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
from extractkit.sinks import (
    Buffer,
    Located,
    StoredShard,
    StoredTensor,
    check_ragged,
    check_range,
    damaged,
)
from extractkit.sinks.hdf5_file import (
    PRESENT,
    add_bytes,
    add_strings,
    check_chunks,
    extent,
    file_buffers,
    file_image,
    holds_bytes,
    opened,
    presence,
    read_strings,
    stored,
)

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
        compression: "gzip" (smaller) or "lzf" (faster, but readable by h5py only). If None, none.
        index: Whether to make `tensors.h5`, one file over all shards for other readers. "auto"
            leaves it out above 800 shards, which most programs could not open at once.

    Raises:
        ConfigError: an unknown compression or value of `index`.
    """

    compression: DecidesLayout[str | None] = None
    index: DecidesLayout[bool | str] = AUTO

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
        return b"".join(self.buffers(values))

    def buffers(self, values: Mapping[str, Values]) -> Sequence[Buffer]:
        """Return the same, divided into buffers. Large arrays are not copied."""

        def build(file: Any) -> None:
            for key, value in values.items():
                try:
                    self.add(file, key, value)
                except (TypeError, ValueError, OSError, RuntimeError) as error:
                    raise JobError(f"sinks.hdf5 cannot store {key!r}: {error}") from error

        arrays = (array for value in values.values() for array in value.parts().values())
        return file_buffers(build, arrays)

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

    def locate(self, path: Path, key: str) -> Located | None:
        """Find a tensor in a shard; None if its values are compressed, strings or booleans."""
        with opened(path) as file:
            parts = stored(file, key)
            if (rows := extent(parts[VALUES if VALUES in parts else ""])) is None:
                return None
            if "" in parts:
                return Located(rows)
            return Located(rows, *_offsets(path, key, parts, 0, len(parts[OFFSETS]) - 1))

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
                "%s is not written: few programs may open %d shards at once, and the others would "
                "read as missing. To write it: sinks.hdf5.index=true",
                INDEX,
                len(shards),
            )
            return {}
        if not self.index:
            return {}
        return {INDEX: file_image(lambda file: build_index(file, directory, tensors, shards))}

    def add(self, file: Any, key: str, value: Values) -> None:
        """Add a tensor to a file that is open in h5py."""
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


INDEX = "tensors.h5"
"""Name of the file in the run directory."""

_ABOUT = (
    "Virtual datasets over the files in shards/, which must stay beside this file. Rows of a "
    "missing shard read as NaN; a tensor whose type has no NaN has a dataset ADDRESS:present, "
    "which is false there. So do rows of shards beyond the number of files that a process may have "
    "open (ulimit -n)."
)


@dataclass
class _Concatenation:
    """The content of one dataset in all shards, concatenated along the first axis.

    Attributes:
        shape, dtype: those of the whole.
        forms: whether its shards hold rows of uint8. For strings, both forms may occur.
        parts: the shards' files, each with its first row and its end.
    """

    shape: tuple[int, ...] = ()
    dtype: Any = None
    forms: set[bool] = field(default_factory=set)
    parts: list[tuple[str, int, int]] = field(default_factory=list)

    def append(self, source: str, dataset: Any) -> None:
        start = self.shape[0] if self.shape else 0
        self.dtype = dataset.dtype
        self.forms.add(holds_bytes(dataset))
        self.shape = dataset.shape
        if dataset.shape:
            stop = start + len(dataset)
            self.shape = (stop, *dataset.shape[1:])
            self.parts.append((source, start, stop))
        else:
            self.parts.append((source, 0, 0))


Outer = tuple[int, ...]
"""One number for each outer axis."""


@dataclass
class _Virtual:
    """One dataset over all shards, with the content at each position of outer axes.

    Attributes:
        name: the name of the dataset, in the shards and here.
        outer: the sizes of the outer axes, in front of the others; empty if they are concatenated.
        contents: by position along each of them.
    """

    name: str
    outer: Outer
    contents: dict[Outer, _Concatenation] = field(default_factory=dict)

    def append(self, source: str, dataset: Any, at: Outer) -> None:
        self.contents.setdefault(at, _Concatenation()).append(source, dataset)

    @property
    def rows(self) -> int:
        """Number of rows of a dataset whose outer axes are concatenated."""
        return sum(one.shape[0] if one.shape else 0 for one in self.contents.values())

    def write(self, file: Any, directory: Path) -> Any:
        first = next(iter(self.contents.values()))
        own, dtype = first.shape, first.dtype
        shape = (*self.outer, *own)
        if len(set.union(*(one.forms for one in self.contents.values()))) > 1:
            return self._copied(file, directory, shape)
        layout = h5py.VirtualLayout(shape, dtype)
        # h5py omits times from all datasets but virtual ones, and they would differ between runs.
        layout.dcpl.set_obj_track_times(False)
        for at, one in self.contents.items():
            for source, start, stop in one.parts:
                rows = (stop - start, *own[1:]) if own else ()
                origin = h5py.VirtualSource(_literal(source), _literal(self.name), rows, dtype)
                layout[_rows_of(at, start, stop, own)] = origin
        fill = dtype.type(np.nan) if dtype.kind in "fc" else None
        return file.create_virtual_dataset(self.name, layout, fillvalue=fill)

    def _copied(self, file: Any, directory: Path, shape: tuple[int, ...]) -> Any:
        strings = np.empty(shape, object)
        for at, one in self.contents.items():
            for source, start, stop in one.parts:
                with opened(directory / source) as shard_file:
                    rows = _rows_of(at, start, stop, one.shape)
                    strings[rows] = read_strings(shard_file[self.name])
        return add_bytes(file, self.name, strings)


def _rows_of(at: Outer, start: int, stop: int, own: tuple[int, ...]) -> tuple[int | slice, ...]:
    """Return the index of rows at a position of outer axes; a single value has no rows."""
    return (*at, slice(start, stop)) if own else at


def _literal(name: str) -> str:
    # HDF5 reads a percent sign in the names of virtual sources as a format, as printf does.
    return name.replace("%", "%%")


@dataclass
class _Tensor:
    """One tensor over all shards."""

    stored: StoredTensor
    axes: Mapping[str, int]
    values: _Virtual
    present: _Virtual
    offsets: dict[Outer, list[npt.NDArray[np.int64]]] = field(default_factory=dict)
    shapes: dict[Outer, list[npt.NDArray[np.int64]]] = field(default_factory=dict)

    @classmethod
    def of(cls, tensor: StoredTensor, axes: Mapping[str, int]) -> "_Tensor":
        outer = tuple(axes.values())
        return cls(tensor, axes, _Virtual(tensor.key, outer), _Virtual(tensor.key + PRESENT, outer))

    def append(self, source: str, file: Any, at: Outer) -> None:
        parts = stored(file, self.stored.key)
        if "" in parts:
            self.values.append(source, parts[""], at)
        else:
            self._append_ragged(source, file, parts, at)
        if (present := presence(file, self.stored.key)) is not None:
            self.present.append(source, present, at)

    def _append_ragged(self, source: str, file: Any, parts: Mapping[str, Any], at: Outer) -> None:
        if not self.offsets:
            # Lengths may differ between positions of outer axes, so rows are concatenated.
            self.values = _Virtual(f"{self.stored.key}/{VALUES}", ())
        offsets = parts[OFFSETS][:]
        shapes = parts[SHAPES][:] if SHAPES in parts else None
        check_ragged(Path(file.filename), self.stored.key, len(parts[VALUES]), offsets, shapes)
        known = self.offsets.setdefault(at, [])
        before = self.values.rows
        known.append((offsets[1:] if known else offsets) + before)
        self.values.append(source, parts[VALUES], ())
        if shapes is not None:
            self.shapes.setdefault(at, []).append(shapes)

    def write(self, file: Any, directory: Path) -> None:
        if not self.values.contents:
            return
        node = self.values.write(file, directory)
        labels = [*self.axes, *(dim or "" for dim in self.stored.spec.titles)]
        if self.offsets:
            node = file[self.stored.key]
            node[OFFSETS] = self._laid(self.offsets)
            if self.shapes:
                node[SHAPES] = self._laid(self.shapes)
        else:
            for axis, label in enumerate(labels[: len(node.shape)]):
                node.dims[axis].label = label
        if self.stored.spec.dtype == BFLOAT16:
            node.attrs["dtype"] = BFLOAT16
        node.attrs["dims"] = np.array(labels, h5py.string_dtype())
        if self.present.contents:
            self.present.write(file, directory)

    def _laid(self, arrays: Mapping[Outer, Sequence[npt.NDArray[np.int64]]]) -> Any:
        whole = np.stack([np.concatenate(arrays[at]) for at in sorted(arrays)])
        return whole.reshape(*self.axes.values(), *whole.shape[1:])


def build_index(
    file: Any, directory: Path, tensors: Iterable[StoredTensor], shards: Sequence[StoredShard]
) -> None:
    """Fill `file` with one dataset, or group, for each tensor."""
    # Samples first, in order, so that their tensors are laid out in that order.
    ordered = sorted(shards, key=lambda one: (one.shard.constant, one.shard.order))
    axes: dict[str, int] = {}
    for position in (position for one in shards for position in one.shard.outer):
        axes[position.axis] = max(axes.get(position.axis, 0), position.at + 1)
    series = [_Tensor.of(tensor, axes) for tensor in tensors]
    for one in ordered:
        source = one.path.relative_to(directory).as_posix()
        outer = tuple(position.at for position in one.shard.outer)
        with opened(one.path) as shard_file:
            for tensor in series:
                if tensor.stored.is_in(one.shard):
                    tensor.append(source, shard_file, outer)
    for tensor in series:
        tensor.write(file, directory)
    file.attrs["about"] = _ABOUT
