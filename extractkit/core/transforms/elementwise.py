"""Transforms that keep the shape: absolute value, softmax, normalisation, threshold."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from extractkit.core.spec import TEXT
from extractkit.core.transforms import (
    Array,
    AxisLengths,
    AxisName,
    Masked,
    Operand,
    Tensor,
    axis_names,
    no_options,
    number,
    present,
)
from extractkit.core.transforms.reductions import farthest, reduced_dtype
from extractkit.errors import ConfigError


@dataclass(frozen=True)
class Abs:
    """The absolute value of each element; the magnitude of complex numbers.

    The smallest integer of a type has no positive counterpart, and becomes the largest one.
    """

    name: ClassVar[str] = "abs"
    at: str

    @classmethod
    def parse(cls, options: object, at: str) -> "Abs":
        """Take no options."""
        no_options(options, at)
        return cls(at)

    def results(self, operand: Operand) -> Mapping[str, Operand]:
        """Return the same spec, with a real dtype for complex numbers."""
        if operand.dtype == TEXT:
            operand.needs_numbers(self.at)
        real = {"complex64": "float32", "complex128": "float64"}
        return {"": replace(operand, dtype=real.get(operand.dtype, operand.dtype))}

    def lengths(self, xp: Any, operand: Operand, lengths: AxisLengths) -> Sequence[AxisLengths]:
        """Return the same lengths."""
        return [lengths]

    def in_graph(self, tf: Any, operand: Operand, value: Masked) -> Sequence[Tensor]:
        """Compute it in TensorFlow."""
        tensor = value.tensor
        if tensor.dtype == tf.bool or tensor.dtype.is_unsigned:
            return [tensor]
        if tensor.dtype.is_integer:
            tensor = tf.maximum(tensor, tensor.dtype.min + 1)
        return [tf.abs(tensor)]

    def in_numpy(self, operand: Operand, value: Array) -> Sequence[Array]:
        """Compute it in NumPy."""
        if value.dtype.kind == "i":
            value = np.maximum(value, np.iinfo(value.dtype).min + 1)
        return [value if value.dtype.kind in "bu" else np.asarray(np.abs(value))]


@dataclass(frozen=True)
class Threshold:
    """Set elements to zero whose absolute value is below a limit.

    threshold: 0.1
    """

    name: ClassVar[str] = "threshold"
    limit: float
    at: str

    @classmethod
    def parse(cls, options: object, at: str) -> "Threshold":
        """Parse the limit."""
        limit = number(options, at)
        if limit < 0:
            raise ConfigError(
                f"{at}={limit!r} is negative, but absolute values are compared with it"
            )
        return cls(options if isinstance(options, int) else limit, at)

    def results(self, operand: Operand) -> Mapping[str, Operand]:
        """Return the same spec."""
        operand.needs_numbers(self.at)
        return {"": operand}

    def lengths(self, xp: Any, operand: Operand, lengths: AxisLengths) -> Sequence[AxisLengths]:
        """Return the same lengths."""
        return [lengths]

    def in_graph(self, tf: Any, operand: Operand, value: Masked) -> Sequence[Tensor]:
        """Compare floats in float64, in which the limit was written, and integers as such."""
        tensor = value.tensor
        numbers = tf.cast(tensor, tf.uint8) if tensor.dtype == tf.bool else tensor
        whole = math.ceil(self.limit)
        if numbers.dtype.is_floating:
            below = tf.abs(tf.cast(numbers, tf.float64)) < self.limit
        elif whole > numbers.dtype.max:
            # Of the integers, only the smallest one of a signed type may be as large.
            every = tf.ones_like(numbers, tf.bool)
            below = numbers > -whole if whole == -numbers.dtype.min else every
        elif numbers.dtype.is_unsigned:
            below = tf.cast(numbers, tf.uint64) < tf.constant(whole, tf.uint64)
        else:
            below = (numbers < whole) & (numbers > -whole)
        return [tf.where(below, tf.zeros_like(tensor), tensor)]

    def in_numpy(self, operand: Operand, value: Array) -> Sequence[Array]:
        """Compare floats in float64, in which the limit was written, and integers as such."""
        if value.dtype.kind == "f":
            below = np.abs(value.astype(np.float64)) < self.limit
        else:
            whole = math.ceil(self.limit)
            numbers = value.astype(np.uint8) if value.dtype.kind == "b" else value
            below = (numbers < whole) & (numbers > -whole)  # exact, as NumPy compares integers
        return [np.where(below, np.zeros((), value.dtype), value)]


@dataclass(frozen=True)
class _AlongAxes:
    """A transform whose elements depend on those along some axes."""

    name: ClassVar[str]
    axes: tuple[AxisName, ...]
    at: str

    @classmethod
    def parse(cls, options: object, at: str) -> "_AlongAxes":
        """Parse the names of axes."""
        return cls(axis_names(options, at), at)

    def results(self, operand: Operand) -> Mapping[str, Operand]:
        """Return the same spec, in a type with fractions."""
        operand.needs_numbers(self.at)
        self._over(operand)
        return {"": replace(operand, dtype=reduced_dtype("mean", operand.dtype))}

    def _over(self, operand: Operand) -> tuple[int, ...]:
        return operand.find_some(self.axes, self.at)

    def lengths(self, xp: Any, operand: Operand, lengths: AxisLengths) -> Sequence[AxisLengths]:
        """Return the same lengths."""
        return [lengths]

    def in_graph(self, tf: Any, operand: Operand, value: Masked) -> Sequence[Tensor]:
        """Compute it in TensorFlow."""
        raise NotImplementedError

    def in_numpy(self, operand: Operand, value: Array) -> Sequence[Array]:
        """Compute it in NumPy."""
        raise NotImplementedError


class Softmax(_AlongAxes):
    """The softmax over axes together, without padding.

    softmax: token
    """

    name = "softmax"

    def in_graph(self, tf: Any, operand: Operand, value: Masked) -> Sequence[Tensor]:
        """Compute in float64, without padding. Subtract the largest element first, as usual."""
        over = list(self._over(operand))
        dtype = reduced_dtype("mean", value.tensor.dtype.name)
        tensor = tf.cast(value.tensor, tf.float64)
        mask = present(tf, value, over)
        hidden = tf.where(mask, tensor, tf.constant(farthest(tensor, -1), tensor.dtype))
        highest = tf.reduce_max(hidden, over, keepdims=True)
        powers = tf.where(mask, tf.exp(tensor - highest), tf.constant(0, tensor.dtype))
        return [tf.cast(powers / tf.reduce_sum(powers, over, keepdims=True), dtype)]

    def in_numpy(self, operand: Operand, value: Array) -> Sequence[Array]:
        """Compute in float64."""
        over = self._over(operand)
        wide = value.astype(np.float64)
        dtype = reduced_dtype("mean", value.dtype.name)
        if not wide.size:
            return [wide.astype(dtype)]
        with np.errstate(invalid="ignore"):
            powers = np.exp(wide - wide.max(axis=over, keepdims=True))
            return [(powers / powers.sum(axis=over, keepdims=True)).astype(dtype)]


_SQUARED = 1e100
"""Numbers from the inverse of this up to this have finite, nonzero squares in float64."""


class Normalize(_AlongAxes):
    """Divide by the Euclidean norm over axes together; zeros stay zeros.

    normalize: feature
    """

    name = "normalize"

    def in_graph(self, tf: Any, operand: Operand, value: Masked) -> Sequence[Tensor]:
        """Compute in float64, without padding. Divide by the largest first if squares need it."""
        over = list(self._over(operand))
        dtype = reduced_dtype("mean", value.tensor.dtype.name)
        tensor = tf.cast(value.tensor, tf.float64)
        own = tf.where(present(tf, value, over), tensor, tf.constant(0, tensor.dtype))
        if dtype == "float64":
            largest = tf.reduce_max(tf.abs(own), over, keepdims=True)
            outside = (largest > _SQUARED) | (largest < 1 / _SQUARED)
            divide = outside & tf.math.is_finite(largest) & (largest > 0)
            own = own / tf.where(divide, largest, tf.ones_like(largest))
        norm = tf.sqrt(tf.reduce_sum(tf.square(own), over, keepdims=True))
        return [tf.cast(tf.math.divide_no_nan(own, norm), dtype)]

    def in_numpy(self, operand: Operand, value: Array) -> Sequence[Array]:
        """Compute in float64. Divide by the largest first if squares need it."""
        over = self._over(operand)
        own = value.astype(np.float64)
        largest = np.abs(own).max(axis=over, keepdims=True, initial=0)
        outside = (largest > _SQUARED) | (largest < 1 / _SQUARED)
        divide = outside & np.isfinite(largest) & (largest > 0)
        own = own / np.where(divide, largest, 1)
        # Beside an infinity, squares may overflow: the norm is infinite anyway.
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            norm = np.sqrt(np.square(own).sum(axis=over, keepdims=True))
            found = np.where(norm == 0, 0.0, own / norm)
        return [found.astype(reduced_dtype("mean", value.dtype.name))]
