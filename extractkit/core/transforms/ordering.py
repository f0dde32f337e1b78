"""The order of axes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from extractkit.core.transforms import (
    Array,
    AxisLengths,
    Masked,
    Operand,
    Tensor,
    no_options,
)

# To infer this name for more layers changes stored bytes: see VALUES_VERSION.
_CHANNEL = "channel"


@dataclass(frozen=True)
class ChannelsLast:
    """Move the axis `channel` to the end: `channels_last`.

    A tensor without one axis of that name stays as it is.
    """

    name: ClassVar[str] = "channels_last"
    at: str

    @classmethod
    def parse(cls, options: object, at: str) -> "ChannelsLast":
        """Parse nothing."""
        no_options(options, at)
        return cls(at)

    def _order(self, operand: Operand) -> list[int]:
        """Return for each axis of the result the position that it has in the operand."""
        order = list(range(len(operand.axes)))
        named = [at for at in operand.every_axis if operand.axes[at].dim.name == _CHANNEL]
        if len(named) == 1:
            order.append(order.pop(named[0]))
        return order

    def results(self, operand: Operand) -> Mapping[str, Operand]:
        """Return the spec with its axes in this order."""
        axes = tuple(operand.axes[at] for at in self._order(operand))
        return {"": replace(operand, axes=axes)}

    def lengths(self, xp: Any, operand: Operand, lengths: AxisLengths) -> Sequence[AxisLengths]:
        """Return the same lengths at the axes' new positions."""
        return [{to: lengths[at] for to, at in enumerate(self._order(operand)) if at in lengths}]

    def in_graph(self, tf: Any, operand: Operand, value: Masked) -> Sequence[Tensor]:
        """Transpose, unless the axes are in order."""
        order = self._order(operand)
        return [value.tensor if order == sorted(order) else tf.transpose(value.tensor, order)]

    def in_numpy(self, operand: Operand, value: Array) -> Sequence[Array]:
        """Transpose."""
        return [np.asarray(value.transpose(self._order(operand)), order="C")]
