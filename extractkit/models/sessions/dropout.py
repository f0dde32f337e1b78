"""Dropout in a graph that was made for training, and the same graph without it.

Dropout multiplies by a mask of zeros and ones and by the inverse of how much is kept. What is found
is exactly that, so that without it the tensor itself is left. Both forms that TensorFlow 1 wrote
are known: `x / keep * floor(keep + uniform)`, and `x * scale` where `uniform >= rate`.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

import tensorflow as tf

from extractkit.models.graphs.control_flow_values import Range, known_ranges

_UNIFORM = Range(0.0, 1.0, below=True)
_RANDOM = ("RandomUniform", "StatelessRandomUniform", "StatelessRandomUniformV2")


def dropouts(graph: tf.Graph) -> dict[str, str]:
    """Return for the last operation of each dropout the tensor that it drops from (`op:0`).

    Functions that the graph calls are not searched.
    """
    if not any(operation.type in _RANDOM for operation in graph.get_operations()):
        return {}
    ranges = known_ranges(graph, frozenset())
    found = {}
    for operation in graph.get_operations():
        for mask, kept in _masked(operation):
            given = _given(mask, kept, ranges)
            if given is not None:
                found[operation.name] = given.name
    return found


def without_dropout(graph_def: Any, found: Mapping[str, str]) -> None:
    """Have each dropout hand on what it would drop from, in place."""
    for node in graph_def.node:
        if node.name in found:
            waits = [edge for edge in node.input if edge.startswith("^")]
            dtype = node.attr["T"].type
            node.op = "Identity"
            node.ClearField("attr")
            node.attr["T"].type = dtype
            del node.input[:]
            node.input.extend([found[node.name].removesuffix(":0"), *waits])


def _masked(operation: Any) -> Collection[tuple[tf.Tensor, tf.Tensor]]:
    """Return what may be the mask of a dropout, and what it is put on."""
    if operation.type == "Mul":
        one, other = operation.inputs
        return ((other, one), (one, other))
    if operation.type in ("Select", "SelectV2"):
        condition, kept, otherwise = operation.inputs
        zero = tf.get_static_value(otherwise)
        if zero is not None and zero.size and not zero.any():
            return ((condition, kept),)
    return ()


def _given(mask: tf.Tensor, kept: tf.Tensor, ranges: Mapping[str, Range]) -> tf.Tensor | None:
    """Return what a dropout drops from; None where it is none."""
    while mask.op.type in ("Cast", "Identity"):
        mask = mask.op.inputs[0]
    if mask.op.type == "Floor" and mask.op.inputs[0].op.type in ("Add", "AddV2"):
        one, other = mask.op.inputs[0].op.inputs
        for drawn, keep in ((one, other), (other, one)):
            if ranges.get(drawn.name) == _UNIFORM:
                return _unscaled(kept, keep, _number(keep))
    if mask.op.type == "GreaterEqual":
        drawn, rate = mask.op.inputs
        dropped = _number(rate)
        if ranges.get(drawn.name) == _UNIFORM and dropped is not None:
            return _unscaled(kept, None, 1 - dropped)
    return None


def _unscaled(scaled: tf.Tensor, keep: tf.Tensor | None, share: float | None) -> tf.Tensor | None:
    """Return what was scaled by the inverse of the share that is kept; None: nothing was."""
    operation = scaled.op
    if operation.type in ("RealDiv", "Div"):
        values, divisor = operation.inputs
        same = keep is not None and divisor.name == keep.name
        return values if same or _are_close(_number(divisor), share) else None
    if operation.type == "Mul" and share:
        one, other = operation.inputs
        for values, scale in ((one, other), (other, one)):
            if _are_close(_number(scale), 1 / share):
                return values
    return None


def _are_close(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and math.isclose(one, other, rel_tol=1e-5)


def _number(tensor: tf.Tensor) -> float | None:
    """Return the value of a scalar that the graph alone tells."""
    if tensor.shape.num_elements() != 1 or not tensor.dtype.is_floating:
        return None
    value = tf.get_static_value(tensor)
    return None if value is None else float(value.reshape(-1)[0])
