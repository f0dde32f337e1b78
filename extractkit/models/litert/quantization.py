"""Quantised whole numbers as the real numbers that they stand for. NumPy only."""

import numpy as np

from extractkit.models.litert.graph import Quantization
from extractkit.values import Array


def dequantized(values: Array, quantization: Quantization) -> Array:
    """(q - zero point) · scale, float32, of the same shape as `values`."""
    scales, zero_points = quantization.scales, quantization.zero_points
    if len(scales) > 1:
        along = [1] * values.ndim
        along[quantization.axis] = -1
        scales, zero_points = scales.reshape(along), zero_points.reshape(along)
    real = (values.astype(np.int64) - zero_points).astype(np.float32) * scales
    return np.asarray(real, np.float32).reshape(values.shape)
