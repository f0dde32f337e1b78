"""`tensors.h5`: one logical HDF5 file over all shards, for h5py, MATLAB and HDFView.

Datasets are virtual: they point at `shards/`, by names relative to the file itself, so that a run
can be moved and read from any working directory. Offsets and shapes of ragged tensors are real,
and count through the whole run. In a run with checkpoints, these are the first axis of every
dataset except a ragged tensor's values, which are concatenated: offsets are (checkpoints,
samples + 1).

HDF5 does not convert strings to rows of uint8. If some shards hold a tensor as strings and others
as rows, its values are copied as rows of uint8.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from extractkit.core.checkpoints import AXIS
from extractkit.core.values import OFFSETS, SHAPES, VALUES
from extractkit.sinks.hdf5_file import (
    PRESENT,
    add_bytes,
    holds_bytes,
    opened,
    presence,
    read_strings,
    stored,
)
from extractkit.sinks.protocol import StoredShard, StoredTensor, check_ragged

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


@dataclass
class _Virtual:
    """One dataset over all shards, with the content of each checkpoint if a run has several.

    Attributes:
        name: the name of the dataset, in the shards and here.
        stacked: whether the checkpoints are an axis of their own, in front of the others.
    """

    name: str
    stacked: bool
    by_checkpoint: dict[int, _Concatenation] = field(default_factory=dict)

    def append(self, source: str, dataset: Any, checkpoint: int) -> None:
        self.by_checkpoint.setdefault(checkpoint, _Concatenation()).append(source, dataset)

    @property
    def rows(self) -> int:
        """Number of rows of a dataset whose checkpoints are not stacked."""
        return sum(one.shape[0] if one.shape else 0 for one in self.by_checkpoint.values())

    def write(self, file: Any, directory: Path) -> Any:
        contents = [self.by_checkpoint[at] for at in sorted(self.by_checkpoint)]
        own, dtype = contents[0].shape, contents[0].dtype
        shape = (len(contents), *own) if self.stacked else own
        if len(set.union(*(one.forms for one in contents))) > 1:
            return self._copied(file, directory, contents, shape)
        layout = h5py.VirtualLayout(shape, dtype)
        # h5py omits times from all datasets but virtual ones, and they would differ between runs.
        layout.dcpl.set_obj_track_times(False)
        for at, one in enumerate(contents):
            for source, start, stop in one.parts:
                rows = (stop - start, *own[1:]) if own else ()
                origin = h5py.VirtualSource(_literal(source), _literal(self.name), rows, dtype)
                layout[self._rows_of(at, start, stop, own)] = origin
        fill = dtype.type(np.nan) if dtype.kind in "fc" else None
        return file.create_virtual_dataset(self.name, layout, fillvalue=fill)

    def _rows_of(
        self, at: int, start: int, stop: int, own: tuple[int, ...]
    ) -> tuple[int | slice, ...]:
        """Return the index of rows of one checkpoint; a single value has no rows."""
        outer = (at,) if self.stacked else ()
        return (*outer, slice(start, stop)) if own else outer

    def _copied(
        self, file: Any, directory: Path, contents: Sequence[_Concatenation], shape: tuple[int, ...]
    ) -> Any:
        strings = np.empty(shape, object)
        for at, one in enumerate(contents):
            for source, start, stop in one.parts:
                with opened(directory / source) as shard_file:
                    rows = self._rows_of(at, start, stop, one.shape)
                    strings[rows] = read_strings(shard_file[self.name])
        return add_bytes(file, self.name, strings)


def _literal(name: str) -> str:
    # HDF5 reads a percent sign in the names of virtual sources as a format, as printf does.
    return name.replace("%", "%%")


@dataclass
class _Tensor:
    """One tensor over all shards."""

    stored: StoredTensor
    stacked: bool
    values: _Virtual
    present: _Virtual
    offsets: dict[int, list[npt.NDArray[np.int64]]] = field(default_factory=dict)
    shapes: dict[int, list[npt.NDArray[np.int64]]] = field(default_factory=dict)

    @classmethod
    def of(cls, tensor: StoredTensor, stacked: bool) -> "_Tensor":
        present = _Virtual(tensor.key + PRESENT, stacked)
        return cls(tensor, stacked, _Virtual(tensor.key, stacked), present)

    def append(self, source: str, file: Any, checkpoint: int) -> None:
        parts = stored(file, self.stored.key)
        if "" in parts:
            self.values.append(source, parts[""], checkpoint)
        else:
            self._append_ragged(source, file, parts, checkpoint)
        if (present := presence(file, self.stored.key)) is not None:
            self.present.append(source, present, checkpoint)

    def _append_ragged(
        self, source: str, file: Any, parts: Mapping[str, Any], checkpoint: int
    ) -> None:
        if not self.offsets:
            # Lengths may differ between checkpoints, so their rows are concatenated.
            self.values = _Virtual(f"{self.stored.key}/{VALUES}", stacked=False)
        offsets = parts[OFFSETS][:]
        shapes = parts[SHAPES][:] if SHAPES in parts else None
        check_ragged(Path(file.filename), self.stored.key, len(parts[VALUES]), offsets, shapes)
        known = self.offsets.setdefault(checkpoint, [])
        before = self.values.rows
        known.append((offsets[1:] if known else offsets) + before)
        self.values.append(source, parts[VALUES], 0)
        if shapes is not None:
            self.shapes.setdefault(checkpoint, []).append(shapes)

    def write(self, file: Any, directory: Path) -> None:
        if not self.values.by_checkpoint:
            return
        node = self.values.write(file, directory)
        labels = [AXIS] * self.stacked + [dim or "" for dim in self.stored.dims]
        if self.offsets:
            node = file[self.stored.key]
            node[OFFSETS] = self._laid(self.offsets)
            if self.shapes:
                node[SHAPES] = self._laid(self.shapes)
        else:
            for axis, label in enumerate(labels[: len(node.shape)]):
                node.dims[axis].label = label
        node.attrs["dims"] = np.array(labels, h5py.string_dtype())
        if self.present.by_checkpoint:
            self.present.write(file, directory)

    def _laid(self, arrays: Mapping[int, Sequence[npt.NDArray[np.int64]]]) -> Any:
        whole = [np.concatenate(arrays[at]) for at in sorted(arrays)]
        return np.stack(whole) if self.stacked else whole[0]


def build_index(
    file: Any, directory: Path, tensors: Iterable[StoredTensor], shards: Sequence[StoredShard]
) -> None:
    """Fill `file` with one dataset, or group, for each tensor."""
    # Samples first, in order, so that their tensors are laid out in that order.
    ordered = sorted(shards, key=lambda one: (one.shard.constant, one.shard.place))
    stacked = any(one.shard.checkpoint is not None for one in shards)
    series = [_Tensor.of(tensor, stacked) for tensor in tensors]
    for one in ordered:
        source = one.path.relative_to(directory).as_posix()
        with opened(one.path) as shard_file:
            for tensor in series:
                if tensor.stored.constant == one.shard.constant:
                    tensor.append(source, shard_file, one.shard.checkpoint or 0)
    for tensor in series:
        tensor.write(file, directory)
    file.attrs["about"] = _ABOUT
