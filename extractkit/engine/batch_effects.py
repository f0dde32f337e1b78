"""Effects that the other samples of a batch and padding have on a sample's values.

Differences up to a tolerance are rounding: kernels sum in another order in larger batches.

`engine/sharing.py` measures these effects on a few samples before a job begins. `SpotCheck` looks
for those that only other lengths, values or larger batches show, in each shard as it is computed.
Values that jump (a threshold, a model that rounds) turn rounding into a large difference. So one
sample proves nothing: other samples, from the same batch or made from it, must show the same
effect.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from extractkit.core.plan import PlannedTensor, SampleLengths
from extractkit.core.spec import BFLOAT16
from extractkit.core.values import Array
from extractkit.engine.batches import CALL_COST, Batch, collate
from extractkit.engine.sizes import repeated
from extractkit.errors import JobError
from extractkit.inputs import Signature
from extractkit.models import Encoded, Program
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

_REPRESENTS_INFINITY = 1e5
"""Values more than so many times the lower quartile (of all but 0) represent minus infinity."""

_SHARE = 64
"""Part of the job's time that the spot check may take: a 64th.

It may take as much again for samples that look like padding.
"""

_WITNESSES = 3
"""Number of other samples, at least, that must show a difference for it to be an effect."""

_MOST_WITNESSES = 8


def lengths_of(sizes: Sequence[Mapping[str, int]]) -> SampleLengths:
    """Return the lengths of samples from the sizes of each."""
    axes = {axis: np.array([one[axis] for one in sizes], np.int64) for axis in sizes[0]}
    return SampleLengths(len(sizes), axes)


def own_values(row: Array, shapes: Sequence[tuple[int, ...]] | None, at: int) -> Array:
    """Return the row of one of several samples without padding, as far as shapes are known."""
    if shapes is None:
        return row
    own: tuple[Any, ...] = (*map(slice, shapes[at]), ...)
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
    if np.array_equal(one, other):
        return 0.0
    wide = np.complex128 if one.dtype.kind == "c" else np.float64
    x, y = one.astype(wide), other.astype(wide)
    finite = np.isfinite(x) & np.isfinite(y)
    if not finite.all():
        # Both the same infinity, or both NaN.
        if not np.array_equal(x[~finite], y[~finite], equal_nan=True):
            return np.inf
        x, y = x[finite], y[finite]
    apart = np.abs(x - y)
    if not apart.any():
        return 0.0
    return _relative(apart, np.maximum(np.abs(x), np.abs(y)))


def _relative(apart: Array, sizes: Array) -> float:
    """Return the largest difference, each relative to its value and to those around it.

    Values that represent minus infinity are not among the values around others.
    """
    largest = sizes.max()
    below = np.count_nonzero(sizes < largest / (0.9 * _REPRESENTS_INFINITY))
    zeros = sizes.size - np.count_nonzero(sizes)
    # Then nothing represents infinity, and the quartile, which is slow, is not needed.
    if below - zeros <= (sizes.size - zeros - 1) // 4:
        return float(apart.max() / largest)
    usual = np.quantile(sizes[sizes > 0], 0.25)
    scale = np.maximum(sizes, sizes[sizes <= _REPRESENTS_INFINITY * usual].max(initial=0.0))
    return float((apart / scale).max())


@dataclass(frozen=True)
class Effect:
    """A sample whose values in a batch differ from its values alone.

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
        by = (
            f"by {self.difference:.2g} of their size"
            if np.isfinite(self.difference)
            else "altogether"
        )
        return (
            f"{self.key!r} has other values in its batch than alone: they differ {by}, more than "
            f"the tolerance of {self.tolerance:.2g}. Other samples or padding change them"
        )


@dataclass(eq=False)
class SpotCheck:
    """Comparison of a few samples of each shard with their values alone.

    It compares up to two samples each of the batch with the longest samples and of the batch with
    the most padding. It also compares padded samples that hold more values that look like padding
    than any sample before them. Neither is done while too few samples have been computed to justify
    the cost. Whole numbers and texts are not compared: rounding may move a maximum to another
    position. Once one of its differences cannot be distinguished from rounding, a tensor is not
    compared any more.

    Attributes:
        tensors: the tensors that the program computes.
        coarse: see `measure_sharing`.
    """

    signature: Signature
    tensors: Sequence[PlannedTensor]
    coarse: bool
    _alike: float = field(default=0.0, init=False)
    _credit: float = field(default=0.0, init=False)
    _credit_alike: float = field(default=0.0, init=False)
    _uncertain: set[str] = field(default_factory=set, init=False)

    def chosen(self, lengths: SampleLengths, batches: Sequence[Sequence[int]]) -> dict[int, int]:
        """Return how many samples of a shard to compare by the number of the batch.

        Args:
            lengths: the lengths of the shard's samples.
            batches: the positions in the shard, batch by batch.

        Returns:
            The numbers of batches with several samples. Empty if none is to be compared.
        """
        self._alike = 0.0
        several = [number for number, batch in enumerate(batches) if len(batch) > 1]
        own = self._elements(lengths)
        if not several:
            return {}
        earned = float(own.sum()) / _SHARE / (float(own.mean()) + CALL_COST)
        self._credit += earned
        self._credit_alike += earned
        affordable = int(self._credit)
        if not affordable and self._credit_alike < 1:
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

    def rows(self, batch: Batch, most: int) -> list[int]:
        """Return the rows of a batch to compare.

        Args:
            most: the number from `chosen`, besides one that looks like padding.
        """
        own = self._elements(
            SampleLengths(
                len(batch), {axis: one.astype(np.int64) for axis, one in batch.lengths.items()}
            )
        )
        most_padded = int(own.argmin())
        rows = [most_padded, (most_padded + len(batch) // 2) % len(batch)][:most]
        if self._credit_alike >= 1:
            alike = [row for row in self._like_padding(batch) if row not in rows]
            self._credit_alike -= len(alike)
            rows += alike
        return rows

    def effect(
        self,
        together: Program,
        alone: Program,
        batch: Batch,
        values: Sequence[Array],
        rows: Sequence[int],
    ) -> Effect | None:
        """Compare rows of a batch with the same samples alone; None: they have the same values.

        Args:
            together: computes the tensors of batches, with the kernels that `alone` uses.
            alone: computes the tensors of single samples.
            values: what was computed for the batch, possibly with other kernels.
            rows: the rows to compare.
        """
        for row in rows:
            found = {one.key: one for one in self._differing(alone, batch, values, [row])}
            suspected = found.keys() - self._uncertain
            if not suspected:
                continue
            confirmed = self._confirmed(together, alone, batch, row, suspected)
            self._uncertain |= suspected - confirmed
            for key, one in found.items():
                if key in confirmed:
                    return one
        return None

    def _confirmed(
        self, together: Program, alone: Program, batch: Batch, row: int, keys: Collection[str]
    ) -> set[str]:
        """Return the tensors that a batch changes by more than rounding.

        Either all other samples of the batch differ as well, or copies of the sample show that the
        size of the batch does not matter, and the sample differs at other lengths, too.
        """
        try:
            again = together(batch.features, batch.lengths)
            left = self._keys(alone, batch, again, row, keys)
            if not left:
                return set()
            return self._shown_beside(together, alone, batch, again, row, left) | (
                self._shown_resized(together, alone, batch, row, left)
            )
        except JobError:
            return set()

    def _shown_beside(
        self,
        together: Program,
        alone: Program,
        batch: Batch,
        values: Sequence[Array],
        row: int,
        keys: Collection[str],
    ) -> set[str]:
        padded = batch.padded(self.signature)
        beside = [at for at in range(len(batch)) if at != row and padded[at] >= padded[row]]
        witnesses = beside[:_MOST_WITNESSES]
        left = set(keys) if len(witnesses) >= _WITNESSES else set()
        for at in witnesses:
            if not left:
                break
            left &= self._keys(alone, batch, values, at, left)
            # Values that jump in most samples do so in two copies.
            left -= self._shown_by_copies(together, alone, batch.take([at]), 2, left)
        return left

    def _shown_resized(
        self, together: Program, alone: Program, batch: Batch, row: int, keys: set[str]
    ) -> set[str]:
        if len(sizes_of_row := self._other_sizes(batch, row)) < _WITNESSES:
            return set()
        one = batch.take([row]).trimmed(self.signature)
        features = {name: np.asarray(array[0, ...]) for name, array in one.features.items()}
        left = keys - self._shown_by_copies(together, alone, one, len(batch), keys)
        witnesses = 0
        for sizes in sizes_of_row:
            if not left:
                break
            resized = repeated(self.signature, features, sizes)
            placed = self._placed(batch, row, resized)
            try:
                values = together(placed.features, placed.lengths)
                shown = self._keys(alone, placed, values, row, left)
            except JobError:
                continue  # not all sizes are valid
            left = shown - self._shown_by_copies(together, alone, resized, len(batch), shown)
            witnesses += 1
        return left if witnesses >= _WITNESSES else set()

    def _other_sizes(self, batch: Batch, row: int) -> list[dict[str, int]]:
        """Return sizes that the sample of a row could have so that the batch still pads it."""
        most = batch.sizes(self.signature)
        own = {axis: int(sizes[row]) for axis, sizes in batch.lengths.items()}
        found = []
        for change in (-1, 1, 2, -2, 3, 4):
            sizes = {axis: min(max(1, n + change), most[axis]) for axis, n in own.items()}
            if sizes not in (own, most) and sizes not in found:
                found.append(sizes)
        return found

    def _placed(self, batch: Batch, row: int, one: Batch) -> Batch:
        """Return the batch with another sample in a row."""
        features = {name: np.asarray(array[0, ...]) for name, array in one.features.items()}
        sizes = {axis: int(own[0]) for axis, own in one.lengths.items()}
        encoded = Encoded(features, sizes)
        padded = collate(self.signature, [encoded], longest=batch.sizes(self.signature))
        found = Batch(
            {name: array.copy() for name, array in batch.features.items()},
            {axis: own.copy() for axis, own in batch.lengths.items()},
        )
        for name, array in padded.features.items():
            found.features[name][row, ...] = array[0, ...]
        for axis, own in padded.lengths.items():
            found.lengths[axis][row] = own[0]
        return found

    def _shown_by_copies(
        self, together: Program, alone: Program, one: Batch, count: int, keys: Collection[str]
    ) -> set[str]:
        """Return which of these tensors differ in a batch of copies, without padding."""
        copies = one.trimmed(self.signature).take([0] * count)
        values = together(copies.features, copies.lengths)
        found = self._differing(alone, copies, values, range(count))
        return {one.key for one in found} & set(keys)

    def _keys(
        self,
        alone: Program,
        batch: Batch,
        values: Sequence[Array],
        row: int,
        keys: Collection[str],
    ) -> set[str]:
        return {one.key for one in self._differing(alone, batch, values, [row])} & set(keys)

    def _differing(
        self, program: Program, batch: Batch, values: Sequence[Array], rows: Sequence[int]
    ) -> Iterator[Effect]:
        """Yield the tensors whose values differ from those of the sample alone.

        Args:
            rows: the row of the sample, or those of its copies.
        """
        alone = batch.take(rows[:1]).trimmed(self.signature)
        if any(_has_nan(array) for array in alone.features.values()):
            return  # fused kernels turn NaN into numbers in some batches
        try:
            expected = program(alone.features, alone.lengths)
        except JobError:
            return  # the sizes of padded samples are checked elsewhere
        sizes = {axis: int(own[0]) for axis, own in alone.lengths.items()}
        for tensor, one, many in zip(self.tensors, expected, values, strict=True):
            for row in rows:
                found = self._effect(tensor, one, many, row, sizes)
                if found is not None:
                    yield found

    def _effect(
        self, tensor: PlannedTensor, one: Array, many: Array, row: int, sizes: Mapping[str, int]
    ) -> Effect | None:
        if many.dtype.kind not in "fc" or len(one) != 1 or tensor.per_call:
            return None
        own = np.asarray(one[0, ...])
        if _has_nan(own):
            return None  # as for NaN in inputs
        found = own_values(many[row, ...], tensor.sample_shapes(lengths_of([sizes])), 0)
        if found.shape == own.shape:
            # Masks of minus infinity, and the logarithm of what rounds to 0.
            finite = np.isfinite(own)
            found, own = found[finite], own[finite]
        if not compare_arrays(found, own, coarse=self.coarse).beyond:
            return None  # values near zero may consist of rounding only
        most = tolerance(tensor, many, np.inf, coarse=self.coarse)
        apart = difference(found, own)
        return Effect(row, tensor.key, apart, most) if apart > most else None

    def _like_padding(self, batch: Batch) -> list[int]:
        """Return the padded row with the most values of its own that look like padding.

        None if an earlier row of the shard has at least the same share of them.
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

    def _elements(self, lengths: SampleLengths) -> npt.NDArray[np.int64]:
        """Return the number of elements of each sample along its free axes, or of all inputs."""
        if lengths.axes:
            found: npt.NDArray[np.int64] = np.prod(np.stack(list(lengths.axes.values())), axis=0)
            return found
        size = sum(prod(size or 1 for size in spec.shape) for spec in self.signature.specs)
        return np.full(lengths.samples, size, np.int64)


def _has_nan(array: Array) -> bool:
    return array.dtype.kind in "fc" and bool(np.isnan(array).any())
