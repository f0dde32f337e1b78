"""Transforms that change the shape: flatten, windows, the largest elements, projections."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from extractkit.core.spec import Dim
from extractkit.core.transforms import (
    Array,
    Axis,
    AxisName,
    Lengths,
    Masked,
    Operand,
    Tensor,
    as_options,
    axis_name,
    axis_names,
    kept_lengths,
    one_thread,
    present,
    whole_number,
)
from extractkit.core.transforms.reductions import reduced_dtype
from extractkit.errors import ConfigError, SelectionError, choices

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
                f"{self.at} joins axes of {operand.source!r} with dims {list(operand.labels)} that "
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

    def lengths(self, xp: Any, operand: Operand, lengths: Lengths) -> Sequence[Lengths]:
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

    def lengths(self, xp: Any, operand: Operand, lengths: Lengths) -> Sequence[Lengths]:
        """Return the number of windows of each sample."""
        position = self._position(operand)
        if position not in lengths:
            return [lengths]
        return [{**lengths, position: -(-lengths[position] // self.stride)}]

    def in_graph(self, tf: Any, operand: Operand, value: Masked) -> Sequence[Tensor]:
        """Gather the windows, and reduce the elements in them."""
        position = self._position(operand)
        dtype = reduced_dtype(self.op, value.tensor.dtype.name)
        boolean = value.tensor.dtype == tf.bool and self.op in ("min", "max")
        tensor = tf.cast(value.tensor, "int32" if boolean else dtype)
        size = tf.shape(tensor)[position]
        starts = tf.range(0, size, self.stride)
        indices = starts[:, None] + tf.range(self.window)[None, :]
        inside = tf.broadcast_to(present(tf, value, [position]), tf.shape(tensor))
        nothing = {"mean": 0, "sum": 0, "max": -math.inf, "min": math.inf}[self.op]
        if not tensor.dtype.is_floating and self.op in ("max", "min"):
            nothing = tensor.dtype.min if self.op == "max" else tensor.dtype.max
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
            return [tf.reduce_sum(windows, over) / count]
        reduce = {"sum": tf.reduce_sum, "max": tf.reduce_max, "min": tf.reduce_min}[self.op]
        found = reduce(windows, over)
        return [tf.greater(found, 0) if boolean else found]

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
        if not windows:
            return [wide.astype(dtype)]
        return [np.stack(windows, position).astype(dtype)]


@dataclass(frozen=True)
class Project:
    """Project an axis onto fewer dimensions with a random matrix that depends only on the seed.

    project: {axis: 2, to: 64, seed: 0}

    The matrix holds ±1/√to, so that distances are kept in expectation. Source: Achlioptas,
    Database-friendly random projections, 2003.
    """

    name: ClassVar[str] = "project"
    axis: AxisName
    to: int
    seed: int
    at: str

    @classmethod
    def parse(cls, options: object, at: str) -> "Project":
        """Parse axis, width and seed."""
        given = as_options(options, at, ("axis", "to", "seed"), "{axis: 2, to: 64, seed: 0}")
        to = whole_number(given.get("to"), f"{at}.to")
        seed = whole_number(given.get("seed", 0), f"{at}.seed", least=0)
        return cls(axis_name(given.get("axis"), f"{at}.axis"), to, seed, at)

    def _position(self, operand: Operand) -> tuple[int, int]:
        """Return the position of the axis and its size."""
        position = operand.one(self.axis, self.at)
        size = operand.axes[position].dim.size
        if size is None:
            raise SelectionError(
                f"{self.at} needs an axis of one size, and {operand.axes[position].dim} of "
                f"{operand.source!r} differs from sample to sample"
            )
        return position, size

    def results(self, operand: Operand) -> Mapping[str, Operand]:
        """Return the spec with the axis narrowed."""
        operand.needs_numbers(self.at)
        position, size = self._position(operand)
        if self.to > size:
            raise SelectionError(
                f"{self.at}.to={self.to} is larger than the axis of {operand.source!r}, which has "
                f"{size} elements"
            )
        result = operand.with_axis(position, Axis(Dim("component", self.to)))
        return {"": replace(result, dtype=reduced_dtype("mean", operand.dtype))}

    def lengths(self, xp: Any, operand: Operand, lengths: Lengths) -> Sequence[Lengths]:
        """Return the same lengths."""
        return [lengths]

    def in_graph(self, tf: Any, operand: Operand, value: Masked) -> Sequence[Tensor]:
        """Multiply with the matrix."""
        position, size = self._position(operand)
        dtype = reduced_dtype("mean", value.tensor.dtype.name)
        matrix = tf.constant(random_signs(size, self.to, self.seed), dtype)
        matrix /= tf.sqrt(tf.cast(self.to, dtype))
        found = tf.tensordot(tf.cast(value.tensor, dtype), matrix, [[position], [0]])
        rank = value.tensor.shape.rank
        return [tf.transpose(found, [*range(position), rank - 1, *range(position, rank - 1)])]

    def in_numpy(self, operand: Operand, value: Array) -> Sequence[Array]:
        """Multiply in float64."""
        position, size = self._position(operand)
        matrix = random_signs(size, self.to, self.seed) / math.sqrt(self.to)
        with one_thread():
            found = np.tensordot(value.astype(np.float64), matrix, ([position], [0]))
        found = np.moveaxis(found, -1, position)
        return [found.astype(reduced_dtype("mean", value.dtype.name))]


@lru_cache(maxsize=16)
def random_signs(rows: int, columns: int, seed: int) -> Array:
    """Return a matrix of ±1, float64 (rows, columns), the same for every release of NumPy."""
    count = rows * columns
    # Raw bits of the generator: its distributions may change between releases.
    words = np.random.PCG64(seed).random_raw(-(-count // 64))
    bits = np.unpackbits(np.asarray(words, "<u8").view(np.uint8), count=count)
    return (bits.reshape(rows, columns) * 2.0) - 1.0
