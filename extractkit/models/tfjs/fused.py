"""Operations that TensorFlow.js fuses and TensorFlow does not have, as the ones they stand for."""

from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

_BASES = {
    "FusedDepthwiseConv2dNative": "DepthwiseConv2dNative",
    "_FusedConv2D": "Conv2D",
    "_FusedMatMul": "MatMul",
}
# Settings of the fused operation that the plain one does not have.
_OWN = ("fused_ops", "num_args", "epsilon", "leakyrelu_alpha", "TArgs", "num_host_args")
_PRELU = "Prelu"


def taken_apart(graph_def: Any) -> None:
    """Replace, in place, what TensorFlow cannot run; the last of the parts has the old name."""
    nodes = list(graph_def.node)
    if not any(_is_foreign(node) for node in nodes):
        return
    del graph_def.node[:]
    for node in nodes:
        graph_def.node.extend(_parts(node) if _is_foreign(node) else [node])


def _is_foreign(node: Any) -> bool:
    if node.op in _BASES:
        steps = _steps(node)
        return node.op == "FusedDepthwiseConv2dNative" or _PRELU in steps
    return bool(node.op == _PRELU)


def _steps(node: Any) -> list[str]:
    return [step.decode() for step in node.attr["fused_ops"].list.s]


def _parts(node: Any) -> Iterator[Any]:
    dtype = node.attr["T"].type
    if node.op == _PRELU:
        yield from _prelu(node.name, node.name, node.input[0], node.input[1], dtype)
        return
    steps = _steps(node)
    data = [edge for edge in node.input if not edge.startswith("^")]
    control = [edge for edge in node.input if edge.startswith("^")]
    names = [f"{node.name}/fused/{position}" for position in range(len(steps))] + [node.name]
    base = tf.compat.v1.NodeDef(name=names[0], op=_BASES[node.op], input=[*data[:2], *control])
    for key, value in node.attr.items():
        if key not in _OWN and not key.startswith("_"):
            base.attr[key].CopyFrom(value)
    yield base
    arguments = iter(data[2:])
    for step, before, name in zip(steps, names, names[1:], strict=False):
        if step == _PRELU:
            yield from _prelu(node.name, name, before, next(arguments), dtype)
            continue
        inputs = [before, next(arguments)] if step == "BiasAdd" else [before]
        part = _node(name, step, inputs, dtype)
        if step == "BiasAdd" and "data_format" in node.attr:
            part.attr["data_format"].CopyFrom(node.attr["data_format"])
        if step == "LeakyRelu" and "leakyrelu_alpha" in node.attr:
            part.attr["alpha"].f = node.attr["leakyrelu_alpha"].f
        yield part


def _prelu(scope: str, name: str, features: str, alpha: str, dtype: int) -> Iterator[Any]:
    """max(x, 0) - alpha * max(-x, 0)"""
    inner = f"{scope}/prelu"
    yield _node(f"{inner}/positive", "Relu", [features], dtype)
    yield _node(f"{inner}/negated", "Neg", [features], dtype)
    yield _node(f"{inner}/negative", "Relu", [f"{inner}/negated"], dtype)
    yield _node(f"{inner}/scaled", "Mul", [alpha, f"{inner}/negative"], dtype)
    yield _node(name, "Sub", [f"{inner}/positive", f"{inner}/scaled"], dtype)


def _node(name: str, op: str, inputs: Sequence[str], dtype: int) -> Any:
    node = tf.compat.v1.NodeDef(name=name, op=op, input=inputs)
    node.attr["T"].type = dtype
    return node
