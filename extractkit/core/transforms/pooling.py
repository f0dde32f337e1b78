"""Pooling: reductions of windows along an axis, which ignore padding."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from extractkit.core.spec import Dim
from extractkit.core.transforms import (
    Array,
    AxisLengths,
    AxisName,
    Masked,
    Operand,
    Tensor,
    as_options,
    axis_name,
    present,
    whole_number,
)
from extractkit.core.transforms.reductions import (
    computing_dtype,
    farthest,
    narrowed,
    reduced_dtype,
)
from extractkit.errors import ConfigError, choices

_POOLS = ("mean", "sum", "max", "min")


@dataclass(frozen=True)
class Pool:
    """Reduce windows along an axis.

    pool: {axis: token, window: 4}
    pool: {axis: 1, window: 3, stride: 1, op: max}

    A window begins every `stride` elements (by default `window`) of a sample. The last windows may
    hold fewer elements, and padding is ignored.
    """

    name: ClassVar[str] = "pool"
    axis: AxisName
    window: int
    stride: int
    op: str
    at: str

    @classmethod
    def parse(cls, options: object, at: str) -> "Pool":
        """Parse axis, window, stride and operation."""
        names = ("axis", "window", "stride", "op")
        given = as_options(options, at, names, "{axis: token, window: 4}")
        op = given.get("op", "mean")
        if op not in _POOLS:
            raise ConfigError(f"{at}.op={op!r} is not known. {choices(str(op), _POOLS)}")
        window = whole_number(given.get("window"), f"{at}.window")
        stride = whole_number(given.get("stride", window), f"{at}.stride")
        return cls(axis_name(given.get("axis"), f"{at}.axis"), window, stride, str(op), at)

    def _position(self, operand: Operand) -> int:
        return operand.one(self.axis, self.at)

    def results(self, operand: Operand) -> Mapping[str, Operand]:
        """Return the spec with one element per window."""
        operand.needs_numbers(self.at)
        position = self._position(operand)
        axis = operand.axes[position]
        if axis.dim.size is not None:
            size = -(-axis.dim.size // self.stride)
            operand = operand.with_axis(position, replace(axis, dim=Dim(axis.dim.name, size)))
        return {"": replace(operand, dtype=reduced_dtype(self.op, operand.dtype))}

    def lengths(self, xp: Any, operand: Operand, lengths: AxisLengths) -> Sequence[AxisLengths]:
        """Return the number of windows of each sample."""
        position = self._position(operand)
        if position not in lengths:
            return [lengths]
        return [{**lengths, position: -(-lengths[position] // self.stride)}]

    def in_graph(self, tf: Any, operand: Operand, value: Masked) -> Sequence[Tensor]:
        """Gather the windows, and reduce the elements in them."""
        position = self._position(operand)
        dtype = reduced_dtype(self.op, value.tensor.dtype.name)
        tensor = tf.cast(value.tensor, computing_dtype(self.op, value.tensor.dtype.name))
        size = tf.shape(tensor)[position]
        starts = tf.range(0, size, self.stride)
        indices = starts[:, None] + tf.range(self.window)[None, :]
        inside = tf.broadcast_to(present(tf, value, [position]), tf.shape(tensor))
        sign = {"max": -1, "min": 1}.get(self.op)
        nothing = 0 if sign is None else farthest(tensor, sign)
        tensor = tf.where(inside, tensor, tf.constant(nothing, tensor.dtype))
        # Positions beyond the end refer to one more, empty element.
        indices = tf.minimum(indices, size)
        pad = [[0, int(axis == position)] for axis in range(tensor.shape.rank)]
        windows = tf.gather(
            tf.pad(tensor, pad, constant_values=tf.constant(nothing, tensor.dtype)),
            indices,
            axis=position,
        )
        over = position + 1
        if self.op == "mean":
            counted = tf.pad(tf.cast(inside, tensor.dtype), pad)
            count = tf.reduce_sum(tf.gather(counted, indices, axis=position), over)
            return [tf.cast(tf.reduce_sum(windows, over) / count, dtype)]
        reduce = {"sum": tf.reduce_sum, "max": tf.reduce_max, "min": tf.reduce_min}[self.op]
        return [narrowed(tf, reduce(windows, over), dtype)]

    def in_numpy(self, operand: Operand, value: Array) -> Sequence[Array]:
        """Reduce the windows one by one."""
        position = self._position(operand)
        dtype = reduced_dtype(self.op, value.dtype.name)
        wide = value
        if self.op in ("mean", "sum"):
            exact = self.op == "sum" and value.dtype.kind != "f"
            wide = value.astype(np.int64 if exact else np.float64)
        reductions: Mapping[str, Callable[..., Array]]
        reductions = {"mean": np.mean, "sum": np.sum, "max": np.max, "min": np.min}
        reduce = reductions[self.op]
        windows = [
            reduce(wide.take(range(start, min(start + self.window, end)), position), axis=position)
            for end in [value.shape[position]]
            for start in range(0, end, self.stride)
        ]
        found = np.stack(windows, position) if windows else wide
        with np.errstate(over="ignore"):
            return [found.astype(dtype)]
