"""Transforms in NumPy, on one unpadded sample: the reference for programs."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from extractkit.core.transforms import AxisTransform, reduced_dtype
from extractkit.core.values import Array

_REDUCTIONS: Mapping[str, Callable[..., Any]] = {
    "mean": np.mean,
    "sum": np.sum,
    "min": np.min,
    "max": np.max,
    "norm": lambda values, axis, keepdims: np.sqrt(
        np.sum(np.square(values), axis=axis, keepdims=keepdims)
    ),
}


def transformed(value: Array, axes: AxisTransform, first: int = 1) -> Array:
    """Slice, reduce and cast one sample's value.

    Args:
        value: the value without a sample axis. Its axis 0 is axis `first` of the transform.
    """
    slices = axes.slices[first:]
    kept = [
        slice(i, i + 1 or None) if isinstance(i, int) else slice(*(i or (None,))) for i in slices
    ]
    value = value[(*kept, ...)]  # a single string stays an array
    for reduction in axes.reductions:
        over = tuple(axis - first for axis in reduction.axes)
        value = _reduced(value, reduction.op, over)
    dropped = {axis - first for reduction in axes.reductions for axis in reduction.axes}
    dropped |= {position for position, index in enumerate(slices) if isinstance(index, int)}
    value = np.squeeze(value, axis=tuple(dropped)) if dropped else value
    return value if axes.cast is None else value.astype(axes.cast)


def _reduced(value: Array, op: str, over: tuple[int, ...]) -> Array:
    """Reduce in NumPy's widest type, which cannot overflow where the checked type would not."""
    dtype = reduced_dtype(op, value.dtype.name)
    if op in ("min", "max"):
        if value.dtype.kind == "f" and 0 in (value.shape[axis] for axis in over):
            value = np.full([max(size, 1) for size in value.shape], np.nan, value.dtype)
        return np.asarray(_REDUCTIONS[op](value, axis=over, keepdims=True), dtype)
    wide = np.float64 if op in ("mean", "norm") or value.dtype.kind == "f" else np.int64
    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of no elements is NaN
        result = _REDUCTIONS[op](value.astype(wide), axis=over, keepdims=True)
    return np.asarray(result, dtype)


def stacked(values: Sequence[Array]) -> Array:
    """Stack samples of different shapes, padded to the largest with zeros or empty strings."""
    shape = tuple(max(sizes) for sizes in zip(*(value.shape for value in values), strict=True))
    dtype = values[0].dtype
    whole = np.full((len(values), *shape), b"" if dtype.hasobject else 0, dtype)
    for position, value in enumerate(values):
        own: tuple[int | slice, ...] = (position, *map(slice, value.shape))
        whole[(*own, ...)] = value
    return whole
