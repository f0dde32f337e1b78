"""Reductions over axes, without padding: mean, sum, extremes, norm, spread, quantiles."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from extractkit.core.transforms import (
    Array,
    AxisLengths,
    AxisName,
    Masked,
    Operand,
    Tensor,
    axis_names,
    kept_lengths,
    present,
)


def reduced_dtype(op: str, dtype: str) -> str:
    """Return the dtype of a reduction's result."""
    if op in ("mean", "norm", "std", "var", "quantile"):
        return dtype if dtype == "float64" else "float32"
    if op == "sum" and dtype in ("float16", "bfloat16"):
        return "float32"
    if op == "sum" and "float" not in dtype:
        return "uint64" if dtype == "uint64" else "int64"
    return dtype


def computing_dtype(op: str, dtype: str) -> str:
    """Return the dtype in which a reduction is computed.

    In float64, squares and sums of smaller floats neither overflow nor vanish, and integers up to
    2**53 are exact.
    """
    if op in ("min", "max"):
        return "int32" if dtype == "bool" else dtype
    found = reduced_dtype(op, dtype)
    return "float64" if "float" in found else found


def narrowed(tf: Any, computed: Tensor, dtype: str) -> Tensor:
    """Convert a result from `computing_dtype` to its own dtype.

    The extreme values of int32, which are the extremes of no elements, become those of bool.
    """
    return tf.greater(computed, 0) if dtype == "bool" else tf.cast(computed, dtype)


@dataclass(frozen=True)
class Reduction:
    """Reduce axes together to one number, without padding.

    mean: token             # an axis; [token, 2] several; '*' or nothing: all but the samples

    Mean, minimum, maximum and standard deviation of no elements are NaN, or the extreme value of an
    integer type.
    """

    name: ClassVar[str]
    axes: tuple[AxisName, ...]
    at: str

    @classmethod
    def parse(cls, options: object, at: str) -> "Reduction":
        """Parse the names of axes."""
        return cls(axis_names(options, at), at)

    def results(self, operand: Operand) -> Mapping[str, Operand]:
        """Return the spec without the axes."""
        operand.needs_numbers(self.at)
        dtype = reduced_dtype(self.name, operand.dtype)
        return {"": replace(operand.without(self._over(operand)), dtype=dtype)}

    def _over(self, operand: Operand) -> tuple[int, ...]:
        return operand.find(self.axes, self.at)

    def lengths(self, xp: Any, operand: Operand, lengths: AxisLengths) -> Sequence[AxisLengths]:
        """Return the lengths of the other axes."""
        return [kept_lengths(lengths, self._over(operand))]

    def in_graph(self, tf: Any, operand: Operand, value: Masked) -> Sequence[Tensor]:
        """Reduce in a type that does not overflow."""
        over = list(self._over(operand))
        dtype = value.tensor.dtype.name
        tensor = tf.cast(value.tensor, computing_dtype(self.name, dtype))
        reduced = self._reduced(tf, tensor, present(tf, value, over), over)
        reduced = tf.squeeze(reduced, over) if over else reduced
        return [narrowed(tf, reduced, reduced_dtype(self.name, dtype))]

    def _reduced(self, tf: Any, tensor: Tensor, mask: Tensor, over: list[int]) -> Tensor:
        """Reduce the elements of the mask, and keep the axes with size 1."""
        raise NotImplementedError

    def in_numpy(self, operand: Operand, value: Array) -> Sequence[Array]:
        """Reduce in NumPy's widest type, which cannot overflow where the result would not."""
        over = self._over(operand)
        with np.errstate(invalid="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the mean of no elements is NaN
            return [
                np.asarray(self._of_array(value, over), reduced_dtype(self.name, value.dtype.name))
            ]

    def _of_array(self, value: Array, over: tuple[int, ...]) -> Array:
        raise NotImplementedError


def _zeroed(tf: Any, tensor: Tensor, mask: Tensor) -> Tensor:
    return tf.where(mask, tensor, tf.constant(0, tensor.dtype))


def _count(tf: Any, tensor: Tensor, mask: Tensor, over: list[int]) -> Tensor:
    # The other axes stay as in the mask, since the number is the same along them.
    reduced = [axis in over for axis in range(tensor.shape.rank)]
    sizes = tf.where(reduced, tf.shape(tensor), tf.shape(mask) if mask.shape.rank else 1)
    ones = tf.broadcast_to(tf.cast(mask, tensor.dtype), sizes)
    return tf.reduce_sum(ones, over, keepdims=True)


def _mean(tf: Any, tensor: Tensor, mask: Tensor, over: list[int]) -> Tensor:
    total = tf.reduce_sum(_zeroed(tf, tensor, mask), over, keepdims=True)
    return total / _count(tf, tensor, mask, over)


def _variance(tf: Any, tensor: Tensor, mask: Tensor, over: list[int]) -> Tensor:
    moved = tensor - _mean(tf, tensor, mask, over)
    return _mean(tf, tf.square(moved), mask, over)


def _wide(value: Array) -> Array:
    return value.astype(np.float64 if value.dtype.kind == "f" else np.int64)


class Mean(Reduction):
    """The mean over axes."""

    name = "mean"

    def _reduced(self, tf: Any, tensor: Tensor, mask: Tensor, over: list[int]) -> Tensor:
        return _mean(tf, tensor, mask, over)

    def _of_array(self, value: Array, over: tuple[int, ...]) -> Array:
        return np.asarray(np.mean(value.astype(np.float64), axis=over))


class Sum(Reduction):
    """The sum over axes."""

    name = "sum"

    def _reduced(self, tf: Any, tensor: Tensor, mask: Tensor, over: list[int]) -> Tensor:
        return tf.reduce_sum(_zeroed(tf, tensor, mask), over, keepdims=True)

    def _of_array(self, value: Array, over: tuple[int, ...]) -> Array:
        return np.asarray(np.sum(_wide(value), axis=over))


class Norm(Reduction):
    """The Euclidean norm over axes."""

    name = "norm"

    def _reduced(self, tf: Any, tensor: Tensor, mask: Tensor, over: list[int]) -> Tensor:
        squares = tf.square(_zeroed(tf, tensor, mask))
        return tf.sqrt(tf.reduce_sum(squares, over, keepdims=True))

    def _of_array(self, value: Array, over: tuple[int, ...]) -> Array:
        return np.asarray(np.sqrt(np.sum(np.square(value.astype(np.float64)), axis=over)))


class Variance(Reduction):
    """The variance over axes: the mean squared distance from the mean."""

    name = "var"

    def _reduced(self, tf: Any, tensor: Tensor, mask: Tensor, over: list[int]) -> Tensor:
        return _variance(tf, tensor, mask, over)

    def _of_array(self, value: Array, over: tuple[int, ...]) -> Array:
        return np.asarray(np.var(value.astype(np.float64), axis=over))


class StandardDeviation(Reduction):
    """The standard deviation over axes: the square root of the variance."""

    name = "std"

    def _reduced(self, tf: Any, tensor: Tensor, mask: Tensor, over: list[int]) -> Tensor:
        return tf.sqrt(_variance(tf, tensor, mask, over))

    def _of_array(self, value: Array, over: tuple[int, ...]) -> Array:
        return np.asarray(np.std(value.astype(np.float64), axis=over))


class _Extreme(Reduction):
    """The largest or smallest element over axes."""

    sign: ClassVar[int]

    def _reduced(self, tf: Any, tensor: Tensor, mask: Tensor, over: list[int]) -> Tensor:
        hidden = tf.where(mask, tensor, tf.constant(farthest(tensor, -self.sign), tensor.dtype))
        found = (tf.reduce_max if self.sign > 0 else tf.reduce_min)(hidden, over, keepdims=True)
        if not tensor.dtype.is_floating:
            return found
        there = tf.reduce_any(tf.broadcast_to(mask, tf.shape(tensor)), over, keepdims=True)
        return tf.where(there, found, tf.constant(math.nan, tensor.dtype))

    def _of_array(self, value: Array, over: tuple[int, ...]) -> Array:
        if 0 in (value.shape[axis] for axis in over):
            sizes = [1 if axis in over else size for axis, size in enumerate(value.shape)]
            nothing = math.nan if value.dtype.kind == "f" else _extreme_of(value, -self.sign)
            value = np.full(sizes, nothing, value.dtype)
        return np.asarray((np.max if self.sign > 0 else np.min)(value, axis=over))


class Max(_Extreme):
    """The largest element over axes."""

    name = "max"
    sign = 1


class Min(_Extreme):
    """The smallest element over axes."""

    name = "min"
    sign = -1


def farthest(tensor: Tensor, sign: int) -> float:
    """Return the extreme value of a type in one direction: an infinity if it has one."""
    if tensor.dtype.is_floating:
        return sign * math.inf
    end: float = tensor.dtype.max if sign > 0 else tensor.dtype.min
    return end


def _extreme_of(value: Array, sign: int) -> int:
    if value.dtype.kind == "b":
        return int(sign > 0)
    limits = np.iinfo(value.dtype)
    return int(limits.max if sign > 0 else limits.min)
