"""Effects that the other samples of a batch and padding have on a sample's values.

Differences up to a tolerance are rounding: kernels sum in another order in larger batches.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from extractkit.core.plan import Lengths, PlannedTensor
from extractkit.core.values import Array

_FLOOR = 32 * float(np.finfo(np.float32).eps)
"""The smallest relative difference that counts: 4e-6.

MiniLM differs by 5e-7 of its scale between a batch of one and larger ones. A mask of -10 in place
of minus infinity, the weakest in use, lets 4.5e-5 of a padded token through.
"""

_NOISE_TIMES = 8
"""Factor by which a difference may exceed the measured rounding between batch sizes."""

_NOISE_LIMIT, _NOISE_LIMIT_16 = 1e-4, 0.02
"""Differences above this are not rounding: in single, and in half precision."""


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


def tolerance(rows: Array, noise: float, *, coarse: bool) -> float:
    """Return the largest relative difference that is rounding; 0 if values are not real numbers.

    Args:
        noise: the relative difference that the batch size makes to copies of one sample.
        coarse: see `measure_sharing`.
    """
    if rows.dtype.kind not in "fc":
        return 0.0
    # Half precision rounds stored values by more than a difference in single precision.
    floor = max(_FLOOR, 4 * float(np.finfo(rows.dtype).eps))
    limit = _NOISE_LIMIT_16 if coarse or rows.dtype.itemsize == 2 else _NOISE_LIMIT
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
