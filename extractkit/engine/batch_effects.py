"""Effects that the other samples of a batch and padding have on a sample's values.

Differences up to a tolerance are rounding: kernels sum in another order in larger batches.

`engine/sharing.py` measures these effects on a few samples before a job begins. `SpotCheck` looks
for those that only other lengths, values or larger batches show, in each shard as it is computed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from extractkit.core.plan import Lengths, PlannedTensor
from extractkit.core.spec import BFLOAT16
from extractkit.core.values import Array
from extractkit.engine.batches import CALL_COST, Batch
from extractkit.errors import JobError
from extractkit.inputs import Signature
from extractkit.models import Program
from extractkit.runs.comparing.measures import compare_arrays

_FLOOR = 32 * float(np.finfo(np.float32).eps)
"""The smallest relative difference that counts: 4e-6.

MiniLM differs by 5e-7 of its scale between a batch of one and larger ones. A mask of -10 in place
of minus infinity, the weakest in use, lets 4.5e-5 of a padded token through.
"""

_EPS_BFLOAT16 = 2.0**-7

_NOISE_TIMES = 8
"""Factor by which a difference may exceed the measured rounding between batch sizes."""

_NOISE_LIMIT, _NOISE_LIMIT_16 = 1e-4, 0.02
"""Differences above this are not rounding: in single, and in half precision."""


_SHARE = 64
"""The spot check costs at most this fraction of the samples: one part in 64."""


def lengths_of(sizes: Mapping[str, int]) -> Lengths:
    """Return the lengths of one sample."""
    return Lengths(1, {axis: np.array([size], np.int64) for axis, size in sizes.items()})


def own_values(tensor: PlannedTensor, row: Array, sizes: Mapping[str, int]) -> Array:
    """Return a sample's row without padding, as far as its lengths are known."""
    shapes = tensor.sample_shapes(lengths_of(sizes))
    if shapes is None:
        return row
    own: tuple[Any, ...] = (*map(slice, shapes[0]), ...)
    return np.asarray(row[own])


def tolerance(tensor: PlannedTensor, rows: Array, noise: float, *, coarse: bool) -> float:
    """Return the largest relative difference that is rounding; 0 if values are not real numbers.

    Args:
        rows: values of the tensor.
        noise: the relative difference that the batch size makes to copies of one sample.
        coarse: see `measure_sharing`.
    """
    if rows.dtype.kind not in "fc":
        return 0.0
    # Half precision rounds stored values by more than a difference in single precision.
    eps = _EPS_BFLOAT16 if tensor.spec.dtype == BFLOAT16 else float(np.finfo(rows.dtype).eps)
    floor = max(_FLOOR, 4 * eps)
    limit = _NOISE_LIMIT_16 if coarse or floor > _NOISE_LIMIT else _NOISE_LIMIT
    return min(floor + _NOISE_TIMES * noise, max(floor, limit))


def difference(one: Array, other: Array) -> float:
    """Return the largest relative difference of two arrays; infinity if not comparable."""
    if one.shape != other.shape:
        return np.inf
    if one.dtype.kind not in "fc":
        return 0.0 if np.array_equal(one, other) else np.inf
    if not one.size:
        return 0.0
    wide = np.complex128 if one.dtype.kind == "c" else np.float64
    x, y = one.astype(wide), other.astype(wide)
    finite = np.isfinite(x) & np.isfinite(y)
    # Both the same infinity, or both NaN.
    if not np.array_equal(x[~finite], y[~finite], equal_nan=True):
        return np.inf
    apart = np.abs(x[finite] - y[finite])
    if not apart.any():
        return 0.0
    sizes = np.maximum(np.abs(x[finite]), np.abs(y[finite]))
    # Each value is compared relative to those around it, except values that represent minus
    # infinity.
    usual = np.quantile(sizes[sizes > 0], 0.25)
    scale = np.maximum(sizes, sizes[sizes <= 1e5 * usual].max(initial=0.0))
    return float((apart / scale).max())


@dataclass(frozen=True)
class Effect:
    """A sample whose values differ from those alone.

    Attributes:
        row: its row in the batch.
        key: key of the tensor.
        difference: the relative difference.
        tolerance: the largest relative difference that counts as rounding.
    """

    row: int
    key: str
    difference: float
    tolerance: float

    def __str__(self) -> str:
        by = f"by {self.difference:.2g} of them" if np.isfinite(self.difference) else "altogether"
        return (
            f"{self.key!r} has other values in its batch than alone: they differ {by}, more than "
            f"the tolerance of {self.tolerance:.2g}. Other samples or padding change them"
        )


@dataclass(eq=False)
class SpotCheck:
    """Comparison of a few samples of each shard with their values alone.

    Compared are up to two samples of a batch with the longest samples and of the one with the most
    padding, and padded samples that hold more values that look like padding than those before them.
    There are none while the samples so far are too few for the cost. Whole numbers and texts are
    not compared: rounding may move a maximum to another position.

    Attributes:
        tensors: the tensors that the program computes.
        coarse: see `measure_sharing`.
    """

    signature: Signature
    tensors: Sequence[PlannedTensor]
    coarse: bool
    _alike: float = field(default=0.0, init=False)
    _credit: float = field(default=0.0, init=False)

    def chosen(self, lengths: Lengths, batches: Sequence[Sequence[int]]) -> dict[int, int]:
        """Return how many samples to compare by the number of the batch.

        Args:
            lengths: the lengths of the shard's samples.
            batches: the positions in the shard, batch by batch.

        Returns:
            The numbers of batches with several samples. Empty if none is to be compared.
        """
        several = [number for number, batch in enumerate(batches) if len(batch) > 1]
        own = self._elements(lengths)
        if not several:
            return {}
        self._credit += float(own.sum()) / _SHARE / (float(own.mean()) + CALL_COST)
        affordable = int(self._credit)
        if not affordable:
            return {}
        longest = {number: int(own[list(batches[number])].max()) for number in several}
        padding = {
            number: longest[number] - int(own[list(batches[number])].min()) for number in several
        }
        found = dict.fromkeys(several, 0)
        for most in (longest, padding):
            number = max(most, key=most.__getitem__)
            found[number] = found[number] or min(2, affordable - sum(found.values()))
        self._credit -= sum(found.values())
        return found

    def begin(self) -> None:
        """Begin with the first batch of a shard."""
        self._alike = 0.0

    def effect(
        self, program: Program, batch: Batch, values: Sequence[Array], rows: int
    ) -> Effect | None:
        """Compare rows of a batch with the same samples alone; None: they have the same values.

        Args:
            program: computes the tensors of samples alone.
            values: what was computed for the batch.
            rows: number of samples to compare, besides one that looks like padding.
        """
        own = self._elements(
            Lengths(len(batch), {axis: one.astype(np.int64) for axis, one in batch.lengths.items()})
        )
        most_padded = int(own.argmin())
        other = (most_padded + len(batch) // 2) % len(batch)
        for row in dict.fromkeys([most_padded, other][:rows] + self._like_padding(batch)):
            alone = batch.take([row]).trimmed(self.signature)
            try:
                expected = program(alone.features, alone.lengths)
            except JobError:
                continue  # the sizes of padded samples are checked elsewhere
            sizes = {axis: int(own[0]) for axis, own in alone.lengths.items()}
            for tensor, one, many in zip(self.tensors, expected, values, strict=True):
                found = self._effect(tensor, one, many, row, sizes)
                if found is not None:
                    return found
        return None

    def _effect(
        self, tensor: PlannedTensor, one: Array, many: Array, row: int, sizes: Mapping[str, int]
    ) -> Effect | None:
        if many.dtype.kind not in "fc" or len(one) != 1:
            return None
        own = np.asarray(one[0, ...])
        if not np.isfinite(own).all():
            return None  # fused kernels turn NaN into numbers in some batches
        found = own_values(tensor, many[row, ...], sizes)
        if not compare_arrays(found, own, coarse=self.coarse).beyond:
            return None  # values near zero may be rounding altogether
        most = tolerance(tensor, many, np.inf, coarse=self.coarse)
        apart = difference(found, own)
        return Effect(row, tensor.key, apart, most) if apart > most else None

    def _like_padding(self, batch: Batch) -> list[int]:
        """Return the padded row with the most values of its own that look like padding.

        Nothing if an earlier one of the shard has as many, in proportion.
        """
        padded = batch.padded(self.signature)
        alike = np.zeros(len(batch))
        for spec in self.signature.specs if padded.any() else ():
            array = batch.features[spec.name]
            if array.dtype.hasobject or not any(spec.dims):
                continue
            own = np.ones(len(batch), np.int64)
            for dim, size in zip(spec.dims, array.shape[1:], strict=True):
                own *= size if dim is None else batch.lengths[dim]
            same = (array == spec.pad).reshape(len(batch), -1).sum(axis=1)
            alike += (same - (prod(array.shape[1:]) - own)) / np.maximum(own, 1)
        alike[~padded] = 0
        row = int(alike.argmax())
        if alike[row] <= self._alike:
            return []
        self._alike = float(alike[row])
        return [row]

    def _elements(self, lengths: Lengths) -> npt.NDArray[np.int64]:
        """Return the number of elements of each sample along its free axes, or of all inputs."""
        if lengths.axes:
            found: npt.NDArray[np.int64] = np.prod(np.stack(list(lengths.axes.values())), axis=0)
            return found
        size = sum(prod(size or 1 for size in spec.shape) for spec in self.signature.specs)
        return np.full(lengths.samples, size, np.int64)
