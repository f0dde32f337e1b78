"""A session's graph as analysis sees it: a copy in which what is fed constants is a constant."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from extractkit.models.graphs.imported import AnyGraph, AnyTensor, ImportedGraph
from extractkit.values import Array

PLACEHOLDERS = ("Placeholder", "PlaceholderV2", "PlaceholderWithDefault")


@dataclass(frozen=True, eq=False)
class SessionGraph:
    """A graph without a session; see `graphs.SourceGraph`.

    Attributes:
        graph: the graph.
        inputs: its tensor for each named input.
    """

    graph: AnyGraph
    inputs: Mapping[str, AnyTensor]


@dataclass(frozen=True, eq=False)
class LaterSession:
    """A graph to which nothing is added, and how to open a session for its like.

    Attributes:
        graph: the graph.
        open: opens a session with the same operations and without variables to restore.
    """

    graph: ImportedGraph
    open: Callable[[], tf.compat.v1.Session]


def clean(graph_def: Any) -> None:
    """Take off what stands in the way of importing a graph elsewhere, in part or on other devices.

    Stored shapes may be those of another TensorFlow; places beside other nodes mean nothing where
    those are left out.
    """
    drop_stored_shapes(graph_def)
    for node in graph_def.node:
        node.device = ""
        node.attr.pop("_class", None)


WITHOUT_SHAPES = ", without stored shapes"
"""Follows the name of what has loaded a graph from which `drop_stored_shapes` took some."""


def drop_stored_shapes(graph_def: Any) -> bool:
    """Take the stored shapes off a graph, in place, and return whether there were any.

    TensorFlow refuses those that it infers otherwise, as it does of graphs of other versions.
    """
    stored = [node for node in graph_def.node if "_output_shapes" in node.attr]
    for node in stored:
        del node.attr["_output_shapes"]
    return bool(stored)


def with_constants(graph_def: Any, constants: Mapping[str, Array]) -> ImportedGraph:
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
    return ImportedGraph(graph_def)
