"""Transforms in NumPy, on one sample without padding: what programs must agree with."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from extractkit.transforms import AxisTransform
from extractkit.values import Array

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
        value: without a sample axis; its axis 0 is axis `first` of the transform.
    """
    slices = axes.slices[first:]
    kept = [
        slice(i, i + 1 or None) if isinstance(i, int) else slice(*(i or (None,))) for i in slices
    ]
    value = value[tuple(kept)]
    for reduction in axes.reductions:
        if reduction.op in ("mean", "norm") and value.dtype.kind != "f":
            value = value.astype(np.float32)
        if reduction.op == "sum" and value.dtype == bool:
            value = value.astype(np.int32)
        over = tuple(axis - first for axis in reduction.axes)
        dtype = value.dtype
        value = np.asarray(_REDUCTIONS[reduction.op](value, axis=over, keepdims=True), dtype)
    gone = {axis - first for reduction in axes.reductions for axis in reduction.axes}
    gone |= {position for position, index in enumerate(slices) if isinstance(index, int)}
    value = np.squeeze(value, axis=tuple(gone)) if gone else value
    return value if axes.cast is None else value.astype(axes.cast)


def stacked(values: Sequence[Array]) -> Array:
    """Samples of different shapes in one array, padded with zeros to the largest."""
    shape = tuple(max(sizes) for sizes in zip(*(value.shape for value in values), strict=True))
    whole = np.zeros((len(values), *shape), values[0].dtype)
    for position, value in enumerate(values):
        own: tuple[int | slice, ...] = (position, *map(slice, value.shape))
        whole[own] = value
    return whole
