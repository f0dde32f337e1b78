"""`tensors.h5`: one logical HDF5 file over all shards, for h5py, MATLAB and HDFView.

Datasets are virtual: they point at `shards/`, by names relative to the file itself, so that a run
can be moved and read from any working directory. Offsets and shapes of ragged tensors are real,
and count through the whole run.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from extractkit.sinks.hdf5_file import PRESENT, opened, presence, stored
from extractkit.sinks.protocol import StoredShard, StoredTensor
from extractkit.sinks.ragged import check_ragged
from extractkit.values import OFFSETS, SHAPES, VALUES

INDEX = "tensors.h5"
"""Name of the file in the run directory."""

_ABOUT = (
    "Virtual datasets over the files in shards/, which must stay beside this file. Rows of a "
    "missing shard read as NaN; a tensor whose type has no NaN has a dataset ADDRESS:present, "
    "which is false there."
)


@dataclass
class _Pieces:
    """What the shards hold of one dataset, laid end to end along the first axis."""

    name: str
    shape: tuple[int, ...] = ()
    dtype: Any = None
    parts: list[tuple[str, int, int]] = field(default_factory=list)

    def append(self, source: str, dataset: Any) -> None:
        start = self.shape[0] if self.shape else 0
        self.dtype = dataset.dtype
        self.shape = dataset.shape
        if dataset.shape:
            stop = start + len(dataset)
            self.shape = (stop, *dataset.shape[1:])
            self.parts.append((source, start, stop))
        else:
            self.parts.append((source, 0, 0))

    def write(self, file: Any) -> Any:
        layout = h5py.VirtualLayout(self.shape, self.dtype)
        # h5py leaves times out of every dataset but a virtual one: two runs would differ in them.
        layout.dcpl.set_obj_track_times(False)
        for source, start, stop in self.parts:
            shape = (stop - start, *self.shape[1:]) if self.shape else ()
            origin = h5py.VirtualSource(_literal(source), _literal(self.name), shape, self.dtype)
            layout[slice(start, stop) if shape else ()] = origin
        fill = self.dtype.type(np.nan) if self.dtype.kind in "fc" else None
        return file.create_virtual_dataset(self.name, layout, fillvalue=fill)


def _literal(name: str) -> str:
    # In the names of virtual sources HDF5 reads a percent sign as a format, as printf does.
    return name.replace("%", "%%")


@dataclass
class _Tensor:
    """One tensor over all shards."""

    stored: StoredTensor
    values: _Pieces
    present: _Pieces
    offsets: list[npt.NDArray[np.int64]] = field(default_factory=list)
    shapes: list[npt.NDArray[np.int64]] = field(default_factory=list)

    @classmethod
    def of(cls, tensor: StoredTensor) -> "_Tensor":
        return cls(tensor, _Pieces(tensor.key), _Pieces(tensor.key + PRESENT))

    def append(self, source: str, file: Any) -> None:
        parts = stored(file, self.stored.key)
        if "" in parts:
            self.values.append(source, parts[""])
        else:
            self.values.name = f"{self.stored.key}/{VALUES}"
            before = self.values.shape[0] if self.values.shape else 0
            offsets = parts[OFFSETS][:]
            shapes = parts[SHAPES][:] if SHAPES in parts else None
            check_ragged(Path(file.filename), self.stored.key, len(parts[VALUES]), offsets, shapes)
            self.offsets.append(offsets[1:] + before if self.offsets else offsets)
            self.values.append(source, parts[VALUES])
            if shapes is not None:
                self.shapes.append(shapes)
        if (present := presence(file, self.stored.key)) is not None:
            self.present.append(source, present)

    def write(self, file: Any) -> None:
        if not self.values.parts:
            return
        node = self.values.write(file)
        labels = [dim or "" for dim in self.stored.dims]
        if self.offsets:
            node = file[self.stored.key]
            node[OFFSETS] = np.concatenate(self.offsets)
            if self.shapes:
                node[SHAPES] = np.concatenate(self.shapes)
        else:
            for axis, label in enumerate(labels[: len(node.shape)]):
                node.dims[axis].label = label
        node.attrs["dims"] = np.array(labels, h5py.string_dtype())
        if self.present.parts:
            self.present.write(file)


def build_index(
    file: Any, directory: Path, tensors: Iterable[StoredTensor], shards: Sequence[StoredShard]
) -> None:
    """Fill `file` with one dataset, or group, for each tensor."""
    ranges = sorted((s for s in shards if s.start < s.stop), key=lambda shard: shard.start)
    constants = [shard for shard in shards if shard.start == shard.stop]
    series = [_Tensor.of(tensor) for tensor in tensors]
    for shard in [*ranges, *constants]:
        source = shard.path.relative_to(directory).as_posix()
        with opened(shard.path) as shard_file:
            for tensor in series:
                if tensor.stored.constant == (shard.start == shard.stop):
                    tensor.append(source, shard_file)
    for tensor in series:
        tensor.write(file)
    file.attrs["about"] = _ABOUT
