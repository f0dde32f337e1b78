"""A graph model of TensorFlow.js as a GraphDef that TensorFlow runs."""

from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf
from google.protobuf import json_format

from extractkit.errors import ModelError
from extractkit.models.foreign import told
from extractkit.models.graphs.imported import AnyGraph, AnyTensor
from extractkit.models.tfjs.fused import taken_apart
from extractkit.models.weight_files import WeightFile

_TABLES = ("HashTable", "LookupTable", "MutableHashTable")


def graph_def_of(topology: Any, weights: WeightFile, at: str) -> Any:
    """Return the GraphDef, weights in their places.

    Args:
        topology: the GraphDef as JSON, its constants without values.
        weights: the values by the names of the constants.

    Raises:
        ModelError: the graph is damaged, it has tables, or a weight is missing or does not fit.
    """
    graph_def = tf.compat.v1.GraphDef()
    try:
        json_format.ParseDict(topology, graph_def, ignore_unknown_fields=True)
    except (json_format.ParseError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{at}: its modelTopology is not a GraphDef: {told(error)}") from error
    bodies = [graph_def.node, *(one.node_def for one in graph_def.library.function)]
    for nodes in bodies:
        for node in nodes:
            if node.op.startswith(_TABLES):
                raise ModelError(
                    f"{at} has the table {node.name!r} ({node.op}), which TensorFlow.js fills by a "
                    f"graph of its own. Use the SavedModel that it was converted from"
                )
            if node.op == "Const":
                _fill(node, weights, at)
    taken_apart(graph_def)
    return graph_def


def tensors_of(
    graph: AnyGraph, infos: Mapping[str, Any] | None, at: str
) -> dict[str, AnyTensor] | None:
    """Return the tensors that a signature in `model.json` names; None where it names none.

    Raises:
        ModelError: one of them is not in the graph.
    """
    if not infos:
        return None
    tensors = {}
    for key, info in sorted(infos.items()):
        name = str(info.get("name", key)) if isinstance(info, Mapping) else str(key)
        try:
            tensors[str(key)] = graph.get_tensor_by_name(name if ":" in name else f"{name}:0")
        except (KeyError, ValueError) as error:
            raise ModelError(
                f"{at}: its signature names {name!r}, which is not in its graph"
            ) from error
    return tensors


def _fill(node: Any, weights: WeightFile, at: str) -> None:
    """Give a constant its value."""
    tensor = node.attr["value"].tensor
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if node.name not in weights:
        if _has_values(tensor) or 0 in shape:
            return
        raise ModelError(
            f"{at}: the graph needs the weight {node.name!r}, which weightsManifest does not list"
        )
    value = weights.read(node.name)
    if list(value.shape) != shape:
        raise ModelError(
            f"{at}: weight {node.name!r} is {list(value.shape)}, in the graph it is {shape}"
        )
    try:
        dtype = tf.as_dtype(node.attr["dtype"].type)
    except TypeError as error:
        raise ModelError(
            f"{at}: the constant {node.name!r} has a type that TensorFlow does not know"
        ) from error
    if dtype != tf.string:
        # TensorFlow.js keeps 64-bit numbers in 32 bits.
        value = value.astype(dtype.as_numpy_dtype)
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value, dtype, shape))


def _has_values(tensor: Any) -> bool:
    values: Iterable[str] = (field.name for field, _ in tensor.ListFields())
    return any(name == "tensor_content" or name.endswith("_val") for name in values)
