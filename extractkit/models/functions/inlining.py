"""A function's graph with every function that it calls inlined.

A signature of a SavedModel is one call of a function that calls others. Every tensor gets an
address of its own once they are inlined. Loops and branches stay functions. Variables stay
captured: no weight is copied into the graph.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from extractkit.core.values import Array
from extractkit.models.functions.captured import captured_variables
from extractkit.models.tensorflow_internals import inlined_graph_def

# Nodes that grappler adds at the start and end of a call. They pass on existing values.
_SEAMS = "Func/"
_CAPTURED = "captured"
_INLINED = "_inlined"


@dataclass(frozen=True, eq=False)
class InlinedGraph:
    """A graph to rebuild tensors from; see `graphs.rebuilding.SourceGraph`.

    Attributes:
        graph: the graph, with calls inlined.
        inputs: its placeholder for each named input.
        outputs: its tensor for each named output.
        variables: the variables that it reads, by the name of their handle's placeholder.
    """

    graph: tf.Graph
    inputs: Mapping[str, tf.Tensor]
    outputs: Mapping[str, tf.Tensor]
    variables: Mapping[str, tf.Variable]


def inlined(
    function: Any,
    inputs: Mapping[str, tf.Tensor],
    outputs: Mapping[str, tf.Tensor],
    constants: Mapping[str, Array],
) -> InlinedGraph:
    """Inline a concrete function.

    Args:
        function: the concrete function.
        inputs, outputs: tensors of its graph by name.
        constants: values of placeholders, by the names of their operations.
    """
    graph_def = inlined_graph_def(function)
    captured = {inside.op.name: outside for outside, inside in function.graph.captures}
    gone = {*captured, *constants}
    kept = [node for node in graph_def.node if node.name not in gone]
    waits = {f"^{name}" for name in gone}
    waits |= {f"^{node.name}" for node in kept if _is_argument(node)}
    for node in kept:
        # Colocation with a node that is not imported would be an error.
        node.attr.pop("_class", None)
        # A call waits for all its arguments, including constants made outside of it, which are not
        # imported. The operations in the call need not wait.
        edges = [edge for edge in node.input if edge not in waits]
        del node.input[:]
        node.input.extend(edges)
    bare = tf.compat.v1.GraphDef(versions=graph_def.versions, library=graph_def.library)
    bare.node.extend(kept)
    _rename_functions(bare)
    used = {edge.lstrip("^").partition(":")[0] for node in kept for edge in node.input}
    prefix = _free_name({node.name for node in kept})

    def rebuild() -> None:
        graph = tf.compat.v1.get_default_graph()
        # TensorFlow names captures by a counter of the process.
        handles = {
            f"{name}:0": graph.capture(outside, name=f"{prefix}_{index}")
            for index, (name, outside) in enumerate(captured.items())
            if name in used
        }
        values = {f"{name}:0": tf.constant(v, name=name) for name, v in constants.items()}
        tf.graph_util.import_graph_def(bare, input_map={**handles, **values}, name="")

    graph = tf.compat.v1.wrap_function(rebuild, []).graph
    return InlinedGraph(
        graph,
        {name: graph.get_tensor_by_name(tensor.name) for name, tensor in inputs.items()},
        {name: graph.get_tensor_by_name(tensor.name) for name, tensor in outputs.items()},
        _variables(graph, captured_variables(function.graph)),
    )


def _free_name(taken: set[str]) -> str:
    """Return a prefix that no operation's name has."""
    prefix = _CAPTURED
    while any(name.startswith(prefix) for name in taken):
        prefix = f"{prefix}_"
    return prefix


def _rename_functions(graph_def: Any) -> None:
    """Give the functions unique names.

    Under their old names, the process knows them as they were before inlining.
    """
    functions = graph_def.library.function
    names = {
        function.signature.name: f"{function.signature.name}{_INLINED}" for function in functions
    }
    for function in functions:
        function.signature.name = names[function.signature.name]
    for gradient in graph_def.library.gradient:
        gradient.function_name = names.get(gradient.function_name, gradient.function_name)
        gradient.gradient_func = names.get(gradient.gradient_func, gradient.gradient_func)
    for nodes in (graph_def.node, *(function.node_def for function in functions)):
        for node in nodes:
            node.op = names.get(node.op, node.op)
            for attribute in node.attr.values():
                # Accessing `list` would turn the attribute into a list.
                called = [attribute.func] if attribute.HasField("func") else []
                called += attribute.list.func if attribute.HasField("list") else []
                for one in called:
                    one.name = names.get(one.name, one.name)


def _is_argument(node: Any) -> bool:
    """Return whether a node passes on an argument."""
    seam = node.op == "Identity" and node.name.startswith(_SEAMS)
    return bool(seam or node.op == "Placeholder")


def is_inlining_artifact(operation: tf.Operation) -> bool:
    """Return whether an operation exists only because a call was inlined."""
    return bool(operation.name.startswith(_SEAMS))


def _variables(graph: Any, by_handle: Mapping[int, Any]) -> dict[str, Any]:
    return {
        inside.op.name: by_handle[id(outside)]
        for outside, inside in graph.captures
        if id(outside) in by_handle
    }
