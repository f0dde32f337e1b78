"""Casts to other types, including quantisation with a recorded error."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import ml_dtypes
import numpy as np

from extractkit.core.spec import BFLOAT16
from extractkit.core.transforms import Array, AxisLengths, Masked, Operand, Tensor, present
from extractkit.errors import ConfigError, choices

CASTS = (
    *("float16", "bfloat16", "float32", "float64"),
    *("int8", "int16", "int32", "int64", "uint8", "bool"),
)


OVERFLOW = "overflow"
"""The result that counts elements beyond the range of a type."""

SCALE = "scale"
"""The result with the scales of quantised elements."""


def _floating(dtype: str) -> bool:
    return dtype == BFLOAT16 or np.dtype(dtype).kind == "f"


def _wide(dtype: str) -> str:
    """Return the type in which elements of a type are compared with a range."""
    if _floating(dtype):
        return "float64"
    return "uint64" if dtype == "uint64" else "int64"


def _beyond(wide: Any, dtype: str, low: int, high: int) -> tuple[Any, Any]:
    """Return which elements are above and below a range, once truncated towards zero."""
    if dtype == "uint64":
        return wide > high, wide < 0
    if dtype == "int64":
        return wide > high, wide < low
    # float64 has no 2**63 - 1, the upper limit of int64: 2**63 is the first number above. It has
    # the lower limit, -2**63, and the next number below is further away than 1.
    least = float(low)
    return wide >= high + 1.0, wide < least if least - 1 == least else wide <= least - 1


@dataclass(frozen=True)
class Cast:
    """Convert elements to another type.

    cast: float16

    Integers are truncated towards zero. Elements beyond an integer type's range get its nearest
    limit, and NaN becomes 0 (true for bool). Where that may happen, the number of such elements of
    each sample, int64 (sample,), is stored beside it as `ADDRESS@overflow`. Elements beyond float16
    or bfloat16 become infinities, which are counted like any others. Floats are rounded to the
    nearest, half to even. bfloat16 is stored as its bits, and read as float32.
    """

    name: ClassVar[str] = "cast"
    dtype: str
    at: str

    @classmethod
    def parse(cls, options: object, at: str) -> "Cast":
        """Parse the name of a dtype."""
        if options not in CASTS:
            raise ConfigError(f"{at}={options!r} is not a dtype. {choices(str(options), CASTS)}")
        return cls(str(options), at)

    def results(self, operand: Operand) -> Mapping[str, Operand]:
        """Return the spec with the other dtype."""
        operand.needs_numbers(self.at)
        result = {"": replace(operand, dtype=self.dtype)}
        if self._may_overflow(operand):
            axes = operand.axes[: operand.first]
            result[OVERFLOW] = replace(operand, axes=axes, dtype="int64")
        return result

    def _may_overflow(self, operand: Operand) -> bool:
        if _floating(self.dtype):
            return False
        if _floating(operand.dtype):
            return True
        # Any integer but 0 is true.
        return self.dtype != "bool" and not np.can_cast(operand.dtype, self.dtype, "safe")

    def lengths(self, xp: Any, operand: Operand, lengths: AxisLengths) -> Sequence[AxisLengths]:
        """Return the same lengths. The counts beyond the range are one number per sample."""
        return [lengths, {}] if self._may_overflow(operand) else [lengths]

    def _limits(self) -> tuple[int, int]:
        limits = np.iinfo(self.dtype)
        return int(limits.min), int(limits.max)

    def in_graph(self, tf: Any, operand: Operand, value: Masked) -> Sequence[Tensor]:
        """Cast in TensorFlow, whose own cast is not defined beyond the range."""
        if not self._may_overflow(operand):
            return [tf.cast(value.tensor, self.dtype)]
        tensor = value.tensor
        dtype = _wide(operand.dtype)
        wide = tf.cast(tensor, dtype)
        beyond = tf.math.is_nan(wide) if dtype == "float64" else tf.zeros_like(wide, tf.bool)
        if self.dtype == "bool":
            cast = tf.cast(tensor, tf.bool)
        else:
            low, high = self._limits()
            above, below = _beyond(wide, dtype, low, high)
            beyond = beyond | above | below
            inside = tf.where(beyond, tf.zeros_like(wide), wide)
            cast = tf.cast(inside, self.dtype)
            cast = tf.where(above, tf.constant(high, self.dtype), cast)
            cast = tf.where(below, tf.constant(low, self.dtype), cast)
        over = list(operand.every_axis)
        counted = beyond & tf.broadcast_to(present(tf, value, over), tf.shape(beyond))
        count = tf.reduce_sum(tf.cast(counted, tf.int64), over)
        return [cast, count]

    def in_numpy(self, operand: Operand, value: Array) -> Sequence[Array]:
        """Cast in NumPy, whose own cast is not defined beyond the range."""
        with np.errstate(over="ignore", invalid="ignore"):
            if self.dtype == BFLOAT16:
                return [value.astype(ml_dtypes.bfloat16).astype(np.float32)]
            if not self._may_overflow(operand):
                return [value.astype(self.dtype)]
            dtype = _wide(operand.dtype)
            wide = value.astype(dtype)
            beyond = np.isnan(wide)
            cast = value.astype(self.dtype)
            if self.dtype != "bool":
                low, high = self._limits()
                above, below = _beyond(wide, dtype, low, high)
                beyond = beyond | above | below
                cast = np.where(beyond, 0, wide).astype(self.dtype)
                cast = np.where(above, np.array(high, self.dtype), cast)
                cast = np.where(below, np.array(low, self.dtype), cast)
        count = beyond.sum(axis=operand.every_axis, dtype=np.int64)
        return [cast, np.asarray(count)]


@dataclass(frozen=True)
class Quantize:
    """Store numbers as int8 with a scale for each sample: number = element × scale.

    quantize: int8

    The scale, float32 (sample,), is the largest absolute value of the sample divided by 127, and is
    stored beside it as `ADDRESS@scale`; the largest error of a sample is stored as `ADDRESS@error`.
    A sample with NaN, an infinity or a number beyond float32 is stored as zeros, with NaN as scale
    and error.
    """

    name: ClassVar[str] = "quantize"
    at: str

    @classmethod
    def parse(cls, options: object, at: str) -> "Quantize":
        """Take int8, the only type."""
        if options != "int8":
            raise ConfigError(f"{at}={options!r} is not a type to quantize to. Available: int8")
        return cls(at)

    def results(self, operand: Operand) -> Mapping[str, Operand]:
        """Return the specs of the elements, of the scales and of the errors."""
        operand.needs_numbers(self.at)
        one = replace(operand, axes=operand.axes[: operand.first], dtype="float32")
        return {"": replace(operand, dtype="int8"), SCALE: one, "error": one}

    def lengths(self, xp: Any, operand: Operand, lengths: AxisLengths) -> Sequence[AxisLengths]:
        """Return the same lengths. Scale and error are one number per sample."""
        return [lengths, {}, {}]

    def in_graph(self, tf: Any, operand: Operand, value: Masked) -> Sequence[Tensor]:
        """Scale, round half to even, and measure the error, without padding."""
        over = list(operand.every_axis)
        numbers = tf.cast(value.tensor, tf.float32)
        mask = tf.broadcast_to(present(tf, value, over), tf.shape(numbers))
        own = tf.where(mask, numbers, tf.constant(0, tf.float32))
        undefined = tf.constant(math.nan, tf.float32)
        finite = tf.reduce_all(tf.math.is_finite(own), over, keepdims=True)
        scale = tf.where(finite, _largest(tf, own, over) / 127, undefined)
        steps = tf.where(finite, tf.round(tf.math.divide_no_nan(own, scale)), tf.zeros_like(own))
        steps = tf.clip_by_value(steps, -127, 127)
        error = tf.where(finite, _largest(tf, steps * scale - own, over), undefined)
        flat = operand.first
        return [
            tf.cast(steps, tf.int8),
            tf.reshape(scale, [-1] if flat else []),
            tf.reshape(error, [-1] if flat else []),
        ]

    def in_numpy(self, operand: Operand, value: Array) -> Sequence[Array]:
        """Do the same in float32, so that ties are rounded the same way."""
        over = operand.every_axis
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            numbers = value.astype(np.float32)
            finite = np.isfinite(numbers).all(axis=over, keepdims=True)
            largest = np.abs(numbers).max(axis=over, keepdims=True, initial=0)
            scale = np.where(finite, largest / np.float32(127), np.float32(np.nan))
            steps = np.where(finite & (scale > 0), np.round(numbers / scale), np.float32(0))
            steps = np.clip(steps, -127, 127)
            error = np.abs(steps * scale - numbers).max(axis=over, keepdims=True, initial=0)
        outer = value.shape[: operand.first]
        return [steps.astype(np.int8), scale.reshape(outer), error.reshape(outer)]


def _largest(tf: Any, tensor: Tensor, over: list[int]) -> Tensor:
    """Return the largest absolute value over axes, kept with size 1; 0 without elements."""
    size = tf.abs(tensor)
    if not over:
        return size
    pad = [[0, int(axis in over)] for axis in range(tensor.shape.rank)]
    return tf.reduce_max(tf.pad(size, pad), over, keepdims=True)
