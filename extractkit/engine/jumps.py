"""Values that jump: rounding that makes a large difference to a sample.

The gradient of a ReLU jumps where its input is 0, and a model that rounds jumps at each step.
Kernels for a single sample round in another way than those for several, so a sample near such a
point has other values in a batch than alone, although the other samples do not matter. A difference
counts as such a jump if three measurements show it:

- In batches of equal and of other sizes, beside copies of itself, the sample has the values that it
  has beside other samples.
- Some sample of the batch has the values beside copies of itself that it has alone. A model that
  computes something else as soon as there is more than one sample has none.
- A change of the sample's numbers in their last bits changes its values alone nearly as much.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from extractkit.core.plan import PlannedTensor
from extractkit.core.values import Array
from extractkit.engine.batch_effects import difference
from extractkit.engine.batches import collate
from extractkit.errors import JobError
from extractkit.inputs import Signature
from extractkit.models import Encoded, Program

_LAST_BITS = (1, 1, 2, 4)
"""Changes of inputs, in units of the last place. The largest, 5e-7, is an eighth of what counts as
rounding of values."""

_TIMES = 8
"""Factor by which a difference may exceed that of such a change, as for other rounding."""

_LIMIT = 0.1
"""Differences above this are not jumps: the size of a batch may matter."""

_PAIR = 2


@dataclass(frozen=True, eq=False)
class Jumps:
    """Measurement of jumps in the values of samples of one size.

    Attributes:
        program: computes `tensors`.
        samples: the samples of a batch, some of which may be repeated.
        alone: the values of each sample alone.
        together: the values of the batch.
    """

    signature: Signature
    program: Program
    tensors: Sequence[PlannedTensor]
    samples: Sequence[Encoded]
    alone: Sequence[Sequence[Array]]
    together: Sequence[Array]
    _known: dict[tuple[int, str, int], list[Array]] = field(default_factory=dict)

    def tolerance(self, at: int, row: int, apart: float, most: float) -> float:
        """Return the largest difference between samples alone and in a batch that is rounding.

        Args:
            at: the number of the tensor.
            row: the row of the sample. For a sum over whole calls, all samples count.
            apart: the relative difference.
            most: the largest one that is rounding without jumps.
        """
        rows = range(len(self.samples)) if self.tensors[at].per_call else [row]
        if not most < apart <= _LIMIT or not self._takes_real_numbers:
            return most
        jump = 0.0
        try:
            if self._others_matter(at, rows, most) or not self._one_is_unchanged(at, most):
                return most
            alone = self._of(at, [self.alone[one] for one in rows])
            for trial in range(len(_LAST_BITS)):
                changed = self._of(at, [self._with_changed_bits(one, trial) for one in rows])
                jump = max(jump, difference(alone, changed))
                if apart <= _TIMES * jump:
                    break
        except JobError:
            return most
        return max(most, min(_TIMES * jump, _LIMIT))

    @property
    def _takes_real_numbers(self) -> bool:
        features = self.samples[0].features
        return any(features[spec.name].dtype.kind == "f" for spec in self.signature.specs)

    def _others_matter(self, at: int, rows: Sequence[int], most: float) -> bool:
        found = self.together[at][0 if self.tensors[at].per_call else rows[0], ...]
        return any(
            difference(found, self._of(at, [self._beside_itself(one, size) for one in rows])) > most
            for size in (len(self.samples), _PAIR)
        )

    def _one_is_unchanged(self, at: int, most: float) -> bool:
        """Return whether some sample has the values beside its copies that it has alone."""
        size = len(self.samples)
        return any(
            difference(self.alone[row][at], self._beside_itself(row, size)[at]) <= most
            for row in range(size)
        )

    def _of(self, at: int, values: Sequence[Sequence[Array]]) -> Array:
        """Return the value of a tensor in a batch, from those of each sample."""
        if not self.tensors[at].per_call:
            return values[0][at]
        return np.asarray(np.sum([one[at] for one in values], 0, dtype=np.float64))

    def _beside_itself(self, row: int, size: int) -> list[Array]:
        """Return the values of a sample in a batch of copies."""
        sample = self.samples[row]
        key = (id(sample), "beside itself", size)
        if key not in self._known:
            self._known[key] = self._in_batch([sample] * size, row % size)
        return self._known[key]

    def _with_changed_bits(self, row: int, trial: int) -> list[Array]:
        """Return the values of a sample alone, after a change of its numbers in their last bits."""
        sample = self.samples[row]
        key = (id(sample), "with changed bits", trial)
        if key not in self._known:
            draw, bits = np.random.default_rng(trial), _LAST_BITS[trial]
            features = dict(sample.features)
            for spec in self.signature.specs:
                array = features[spec.name]
                if array.dtype.kind == "f":
                    by = draw.choice([-bits, bits], array.shape) * np.spacing(array)
                    changed = np.where(np.isfinite(by), array + by, array)
                    features[spec.name] = changed.astype(array.dtype)
            self._known[key] = self._in_batch([Encoded(features, sample.sizes)], 0)
        return self._known[key]

    def _in_batch(self, samples: Sequence[Encoded], row: int) -> list[Array]:
        """Return the values of a row of a batch, or its share of sums over copies."""
        batch = collate(self.signature, samples)
        return [
            value[0, ...].astype(np.float64) / len(samples) if tensor.per_call else value[row, ...]
            for tensor, value in zip(
                self.tensors, self.program(batch.features, batch.lengths), strict=True
            )
        ]
