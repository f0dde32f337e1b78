"""Quantised types of TensorFlow as raw integers, and what these stand for."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from extractkit.models.graphs.imported import AnyGraph, static_value
from extractkit.values import Array

_RAW = {
    tf.quint8: tf.uint8,
    tf.qint8: tf.int8,
    tf.quint16: tf.uint16,
    tf.qint16: tf.int16,
    tf.qint32: tf.int32,
}


def raw_dtype(dtype: tf.DType) -> tf.DType:
    """Return the integer type of the same bits for a quantised type, any other type as it is."""
    return _RAW.get(dtype.base_dtype, dtype.base_dtype)


def raw(tensor: tf.Tensor) -> tf.Tensor:
    """Return a quantised tensor as integers, in its graph; any other tensor as it is."""
    if not tensor.dtype.is_quantized:
        return tensor
    return tf.bitcast(tensor, raw_dtype(tensor.dtype))


def raw_array(array: Array) -> Array:
    """Return integers in place of what a session has for quantised types: records of one field."""
    return array if array.dtype.names is None else array.view(array.dtype[0])


def scales_of(graph: AnyGraph) -> Mapping[str, Sequence[Mapping[str, object]]]:
    """Return what quantised integers stand for, by the name of the tensor (`op:0`).

    That is (q - zero_point) · scale for each Dequantize operation of the graph that takes it
    with a range that constants give. Where the range is computed, the value of that operation says
    what the integers stand for.
    """
    found: dict[str, list[Mapping[str, object]]] = {}
    for operation, mode, low, high in _dequantized(graph):
        scale, zero_point = _affine(operation, mode, low, high)
        one = {"by": operation.name, "mode": mode, "scale": scale, "zero_point": zero_point}
        found.setdefault(operation.inputs[0].name, []).append(one)
    return found


def _dequantized(graph: AnyGraph) -> Iterator[tuple[Any, str, float, float]]:
    for operation in graph.get_operations():
        if operation.type != "Dequantize":
            continue
        low, high = (static_value(tensor) for tensor in operation.inputs[1:])
        # An axis gives each slice a range of its own.
        if low is None or high is None or np.ndim(low) or np.ndim(high):
            continue
        yield operation, operation.node_def.attr["mode"].s.decode(), float(low), float(high)


def _affine(operation: Any, mode: str, low: float, high: float) -> tuple[float, float]:
    """Scale and zero point by the definition of TensorFlow's Dequantize."""
    limits = np.iinfo(raw_dtype(operation.inputs[0].dtype).as_numpy_dtype)
    least, most = int(limits.min), int(limits.max)
    if mode == "SCALED":
        least += int(operation.node_def.attr["narrow_range"].b)
        return (max(low / least, high / most) if least < 0 else high / most), 0.0
    scale = (high - low) / (most - least)
    steps = low / scale if scale else 0.0
    return scale, least - (round(steps) if mode == "MIN_FIRST" else steps)
