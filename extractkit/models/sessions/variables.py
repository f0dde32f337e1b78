"""Variables of a graph of TensorFlow 1, found by their operations, and which hold a value."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from extractkit.models.graphs.imported import AnyGraph, AnyTensor
from extractkit.models.moving_averages import named_averages
from extractkit.tensors import Kind

_REFERENCES = ("Variable", "VariableV2", "AutoReloadVariable")
_HANDLE = "VarHandleOp"
VARIABLE_TYPES = (*_REFERENCES, _HANDLE)
_TRAINING = re.compile(r"^(Resource)?(Sparse)?Apply")
_STEP = "global_step"


@dataclass(frozen=True, eq=False)
class GraphVariable:
    """A reference or resource variable.

    Attributes:
        name: of its operation, and `:0`.
        dtype, shape: of its content.
        value: the tensor that reads it.
        initialized: a boolean tensor, whether it has a value.
    """

    name: str
    dtype: tf.DType
    shape: tf.TensorShape
    value: tf.Tensor
    initialized: tf.Tensor


def variable_names(graph: AnyGraph) -> list[str]:
    """Return the name of every variable (`op:0`), in the order of the graph."""
    return [f"{one.name}:0" for one in graph.get_operations() if one.type in VARIABLE_TYPES]


def variables_of(graph: tf.Graph) -> list[GraphVariable]:
    """Every variable, in the order of the graph; operations that read them are added to it."""
    found = []
    with graph.as_default(), tf.control_dependencies(None):
        for operation in graph.get_operations():
            if operation.type in _REFERENCES:
                value = operation.outputs[0]
                initialized = tf.raw_ops.IsVariableInitialized(ref=value)
            elif operation.type == _HANDLE:
                handle, dtype = operation.outputs[0], operation.get_attr("dtype")
                value = tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype)
                initialized = tf.raw_ops.VarIsInitializedOp(resource=handle)
            else:
                continue
            found.append(
                GraphVariable(
                    operation.outputs[0].name,
                    operation.get_attr("dtype"),
                    tf.TensorShape(operation.get_attr("shape")),
                    value,
                    initialized,
                )
            )
    return found


def kinds_of_variables(graph: AnyGraph, averages: str) -> dict[str, Kind]:
    """Kinds of the variables that are not weights, by name (`op:0`).

    Args:
        averages: the name of moving averages: `VARIABLE/averages` is one of `VARIABLE`.
    """
    names = {name.removesuffix(":0") for name in variable_names(graph)}
    kinds = dict.fromkeys(_optimizer_variables(graph), Kind.OPTIMIZER)
    for average in named_averages(names, names, averages).values():
        kinds[f"{average}:0"] = Kind.MOVING_AVERAGE
    return kinds


def _optimizer_variables(graph: AnyGraph) -> set[str]:
    """Names (`op:0`) of the variables that only training needs: slots, rates, the step counter.

    What trains a variable takes it first, and behind it what belongs to the optimizer.
    """
    found: set[str] = set()
    for operation in graph.get_operations():
        if _TRAINING.search(operation.type):
            found.update(_variables(operation.inputs[1:]))
        elif operation.name.rpartition("/")[2] == _STEP and operation.outputs:
            found.update(_variables(operation.outputs))
    return found


def _variables(tensors: Iterable[AnyTensor]) -> Iterable[str]:
    """The variables among tensors, or that these read."""
    for tensor in tensors:
        operation: Any = tensor.op
        if operation.type in ("Identity", "ReadVariableOp"):
            operation = operation.inputs[0].op
        if operation.type in VARIABLE_TYPES:
            yield operation.outputs[0].name
