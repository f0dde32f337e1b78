"""A session's graph as analysis sees it: a copy in which what is fed constants is a constant."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from extractkit.errors import ConfigError, choices
from extractkit.values import Array

AT = "model.constants"
PLACEHOLDERS = ("Placeholder", "PlaceholderV2", "PlaceholderWithDefault")


@dataclass(frozen=True, eq=False)
class SessionGraph:
    """A graph without a session; see `graphs.SourceGraph`.

    Attributes:
        graph: the graph.
        inputs: its tensor for each named input.
    """

    graph: tf.Graph
    inputs: Mapping[str, tf.Tensor]


def clean(graph_def: Any) -> None:
    """Take off what stands in the way of importing a graph elsewhere, in part or on other devices.

    Stored shapes may be those of another TensorFlow; places beside other nodes mean nothing where
    those are left out.
    """
    for node in graph_def.node:
        node.device = ""
        for attribute in ("_output_shapes", "_class"):
            node.attr.pop(attribute, None)


def with_constants(graph_def: Any, constants: Mapping[str, Array]) -> tf.Graph:
    """A graph in which placeholders, by their operations' names, are constants."""
    graph_def = tf.compat.v1.GraphDef.FromString(graph_def.SerializeToString())
    clean(graph_def)
    for node in graph_def.node:
        if node.name in constants:
            dtype = node.attr["dtype"].type
            value = tf.make_tensor_proto(constants[node.name], dtype)
            node.op = "Const"
            node.ClearField("input")
            node.ClearField("attr")
            node.attr["dtype"].type = dtype
            node.attr["value"].tensor.CopyFrom(value)
    copy = tf.Graph()
    with copy.as_default():
        tf.graph_util.import_graph_def(graph_def, name="")
    return copy


def checked_constants(
    given: Mapping[str, object] | None, tensors: Mapping[str, tf.Tensor], inputs: Sequence[str]
) -> dict[str, Array]:
    """`model.constants` as arrays by name.

    Args:
        given: as configured.
        tensors: every tensor that can be given a value, by name.
        inputs: names of those that samples are read for.

    Raises:
        ConfigError: no such input, one that samples are read for, or a value that does not fit.
    """
    constants: dict[str, Array] = {}
    for name, value in (given or {}).items():
        if name not in tensors:
            raise ConfigError(f"{AT}: {name!r} is no input. {choices(name, tensors)}")
        if name in inputs:
            raise ConfigError(f"{name!r} stands in both model.inputs and {AT}. Leave one out")
        constants[name] = _checked(name, value, tensors[name])
    return constants


def _checked(name: str, value: object, tensor: tf.Tensor) -> Array:
    dtype = tensor.dtype.base_dtype
    given = np.asarray(value)
    fits = {
        "b": dtype.is_bool,
        "i": dtype.is_integer or dtype.is_floating or dtype.is_complex,
        "f": dtype.is_floating or dtype.is_complex,
        "U": dtype == tf.string,
    }
    if not fits.get(given.dtype.kind, False):
        raise ConfigError(f"{AT}.{name}={value!r} is no {dtype.name}, which this input takes")
    if not tensor.shape.is_compatible_with(given.shape):
        raise ConfigError(
            f"{AT}.{name}={value!r} has shape {list(given.shape)}, this input takes "
            f"{tensor.shape.as_list()}"
        )
    array: Array = given.astype(dtype.as_numpy_dtype)
    if dtype.is_integer and not np.array_equal(array, given):
        raise ConfigError(f"{AT}.{name}={value!r} does not fit into {dtype.name}")
    return array
