"""From samples to what a program takes: encoded, and padded to one length. NumPy only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from extractkit.inputs.protocol import InputSpec, Sample, Signature, Source
from extractkit.models.protocol import Encoded, Model
from extractkit.plan import numpy_dtype
from extractkit.tensors import TEXT
from extractkit.values import Array


@dataclass(frozen=True, eq=False)
class Batch:
    """Arrays for a program.

    Attributes:
        features: (samples, *padded) for each input.
        lengths: int32 (samples,) for each free axis, the samples' own lengths.
        placed: both as the model's programs take them at the least cost; None: as they are.
    """

    features: Mapping[str, Array]
    lengths: Mapping[str, Array]
    placed: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None

    def __len__(self) -> int:
        return len(next(iter(self.features.values())))

    @property
    def arguments(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """What a program is called with."""
        return self.placed or (self.features, self.lengths)

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays, with their texts."""
        return sum(map(_bytes, (*self.features.values(), *self.lengths.values())))

    def take(self, rows: Sequence[int]) -> "Batch":
        """Some of its samples, padded as they are."""
        return Batch(
            {name: array[list(rows)] for name, array in self.features.items()},
            {axis: sizes[list(rows)] for axis, sizes in self.lengths.items()},
        )

    def trimmed(self, signature: Signature) -> "Batch":
        """Return the batch padded to the longest of its own samples and no further."""
        longest = {axis: int(sizes.max()) for axis, sizes in self.lengths.items()}
        parts = {
            spec.name: [slice(None if dim is None else longest[dim]) for dim in spec.dims]
            for spec in signature.specs
        }
        features = {
            name: array[(slice(None), *parts[name])] for name, array in self.features.items()
        }
        if all(array.shape == self.features[name].shape for name, array in features.items()):
            return self
        return Batch(features, self.lengths)


def read_batch(
    model: Model,
    source: Source,
    positions: Sequence[int],
    length_step: int = 1,
    limits: Mapping[str, int] | None = None,
) -> Batch:
    """The samples at these positions of the source, in this order, as one batch; see `collate`."""
    encoded = dict(zip(sorted(positions), _encoded(model, source, sorted(positions)), strict=True))
    ordered = [encoded[position] for position in positions]
    return collate(model.signature, ordered, length_step, limits)


def elements(encoded: Encoded) -> int:
    """Return how much a sample holds, characters of texts included."""
    arrays = encoded.features.values()
    return sum(
        array.size + (sum(map(len, array.flat)) if array.dtype.hasobject else 0) for array in arrays
    )


def _bytes(array: Array) -> int:
    return array.nbytes + (sum(map(len, array.flat)) if array.dtype.hasobject else 0)


def placed(model: Model, batch: Batch) -> Batch:
    """The batch as it costs a program of the model least to be called with it again and again."""
    place = getattr(model, "place", None)
    return batch if place is None else replace(batch, placed=place(batch.features, batch.lengths))


def _encoded(model: Model, source: Source, ordered: Sequence[int]) -> Sequence[Encoded]:
    samples: list[Sample] = []
    start = 0
    for end in range(1, len(ordered) + 1):
        # Neighbours are read in one go.
        if end == len(ordered) or ordered[end] != ordered[end - 1] + 1:
            samples += source.read(ordered[start], ordered[end - 1] + 1)
            start = end
    return model.encode(samples)


def collate(
    signature: Signature,
    encoded: Sequence[Encoded],
    length_step: int = 1,
    limits: Mapping[str, int] | None = None,
    longest: Mapping[str, int] | None = None,
) -> Batch:
    """Stack encoded samples, padded along every free axis.

    They get the length of the longest among them, rounded up to a multiple of `length_step` as far
    as the model takes it.

    Args:
        limits: the most that an axis is rounded up to; None: what the model says.
        longest: the length that each axis gets; None: as above.
    """
    lengths = {
        axis: np.array([one.sizes[axis] for one in encoded], dtype=np.int32)
        for axis in signature.free_axes
    }
    if longest is None:
        limits = limits if limits is not None else signature.longest or {}
        longest = {}
        for axis, sizes in lengths.items():
            rounded = -(-int(sizes.max()) // length_step) * length_step
            longest[axis] = min(rounded, limits.get(axis, rounded))
    features = {
        spec.name: _stacked(spec, [one.features[spec.name] for one in encoded], longest)
        for spec in signature.specs
    }
    return Batch(features, lengths)


def _stacked(spec: InputSpec, arrays: Sequence[Array], longest: Mapping[str, int]) -> Array:
    shape = tuple(
        longest[dim] if dim is not None else size or 0
        for dim, size in zip(spec.dims, spec.shape, strict=True)
    )
    if all(array.shape == shape for array in arrays):
        return np.stack(arrays)
    fill = b"" if spec.dtype == TEXT else spec.pad
    stacked = np.full((len(arrays), *shape), fill, dtype=numpy_dtype(spec.dtype))
    for row, array in zip(stacked, arrays, strict=True):
        row[tuple(slice(size) for size in array.shape)] = array
    return stacked
