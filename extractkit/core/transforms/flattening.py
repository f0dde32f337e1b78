"""Flattening: neighbouring axes joined into one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar

from extractkit.core.spec import Dim
from extractkit.core.transforms import (
    Array,
    Axis,
    AxisLengths,
    AxisName,
    Masked,
    Operand,
    Tensor,
    axis_names,
    kept_lengths,
)
from extractkit.errors import SelectionError

FLAT = "flat"
"""The name of an axis that was joined from several."""


@dataclass(frozen=True)
class Flatten:
    """Join neighbouring axes into one, `flat`, in C order.

    flatten: [token, 2]         # nothing: all but the samples
    """

    name: ClassVar[str] = "flatten"
    axes: tuple[AxisName, ...]
    at: str

    @classmethod
    def parse(cls, options: object, at: str) -> "Flatten":
        """Parse the names of axes."""
        return cls(axis_names(options, at), at)

    def _over(self, operand: Operand) -> tuple[int, ...]:
        over = operand.find(self.axes, self.at)
        if any(other != one + 1 for one, other in pairwise(over)):
            raise SelectionError(
                f"{self.at} joins axes of {operand.source!r} with dims {list(operand.titles)} that "
                f"are not neighbours"
            )
        return over

    def results(self, operand: Operand) -> Mapping[str, Operand]:
        """Return the spec with one axis in place of several."""
        over = self._over(operand)
        if len(over) < 2:
            return {"": operand}
        dims = [operand.axes[position].dim for position in over]
        if all(dim.size is not None for dim in dims):
            joined = Dim(FLAT, math.prod(dim.size or 0 for dim in dims))
        else:
            joined = Dim(FLAT, factors=tuple(dims))
        before, after = operand.axes[: over[0]], operand.axes[over[-1] + 1 :]
        return {"": replace(operand, axes=(*before, Axis(joined), *after))}

    def lengths(self, xp: Any, operand: Operand, lengths: AxisLengths) -> Sequence[AxisLengths]:
        """Return the product of the joined lengths, and the others."""
        over = self._over(operand)
        kept = kept_lengths(lengths, over[1:])
        factors = [lengths.get(axis, operand.axes[axis].dim.size) for axis in over]
        if len(over) < 2 or any(factor is None for factor in factors):
            return [kept]  # only the model knows the product
        ragged = any(axis in lengths for axis in over)
        return [{**kept, over[0]: math.prod(factors)} if ragged else kept]

    def in_graph(self, tf: Any, operand: Operand, value: Masked) -> Sequence[Tensor]:
        """Join the axes, and move padding to the end of each sample."""
        over = self._over(operand)
        tensor = value.tensor
        if len(over) < 2:
            return [tensor]
        shape = tf.shape(tensor)
        parts = [shape[: over[0]], [tf.reduce_prod(shape[over[0] : over[-1] + 1])]]
        joined = tf.reshape(tensor, tf.concat([*parts, shape[over[-1] + 1 :]], 0))
        ragged = [position for position in over if position in value.lengths]
        if not ragged or ragged == [over[0]]:
            return [joined]  # padding is at the end already
        # The position in the padded batch of each element of an unpadded sample.
        samples, count = shape[0], parts[1][0]
        rest = tf.tile(tf.range(count)[None, :], [samples, 1])
        index, stride = tf.zeros_like(rest), 1
        for position in reversed(over):
            padded = shape[position]
            own = value.lengths[position] if position in value.lengths else padded[None]
            own = tf.maximum(own, 1)[:, None]
            index += rest % own * stride
            rest //= own
            stride *= padded
        index = tf.minimum(index, tf.maximum(count - 1, 0))
        return [tf.gather(joined, index, axis=over[0], batch_dims=1)]

    def in_numpy(self, operand: Operand, value: Array) -> Sequence[Array]:
        """Reshape."""
        over = self._over(operand)
        if len(over) < 2:
            return [value]
        joined = math.prod(value.shape[position] for position in over)
        return [value.reshape(*value.shape[: over[0]], joined, *value.shape[over[-1] + 1 :])]
