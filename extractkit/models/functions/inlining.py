"""A function's graph with every function that it calls put in its place.

A signature of a SavedModel is one call of a function that calls others; only where they stand
inlined has every tensor an address of its own. Loops and branches stay functions. Variables stay
captured: no weight is copied into the graph.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

# There is no public way to have grappler inline a function while its variables stay variables.
from tensorflow.python.framework.convert_to_constants import _run_inline_graph_optimization

from extractkit.models.functions.variables import captured_variables
from extractkit.values import Array

# Nodes that grappler puts where a call began and ended; they hand on what is there already.
_SEAMS = "Func/"
_CAPTURED = "captured"
_INLINED = "_inlined"


@dataclass(frozen=True, eq=False)
class InlinedGraph:
    """A graph to rebuild tensors from; see `graphs.SourceGraph`.

    Attributes:
        graph: every operation, calls inlined.
        inputs: its placeholder for each named input.
        outputs: its tensor for each named output.
        variables: those that it reads, by the name of their handle's placeholder.
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
    graph_def = _run_inline_graph_optimization(
        function, lower_control_flow=False, aggressive_inlining=True
    )
    captured = {inside.op.name: outside for outside, inside in function.graph.captures}
    gone = {*captured, *constants}
    kept = [node for node in graph_def.node if node.name not in gone]
    waits = {f"^{name}" for name in gone}
    waits |= {f"^{node.name}" for node in kept if _is_argument(node)}
    for node in kept:
        # Being placed beside a node that does not come along would be an error.
        node.attr.pop("_class", None)
        # A call waits for all its arguments, among them constants made outside of it, which do not
        # come along; what was in the call need not wait.
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
        # TensorFlow names what is captured by a counter of the process.
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
    """A prefix that no operation's name begins with."""
    prefix = _CAPTURED
    while any(name.startswith(prefix) for name in taken):
        prefix = f"{prefix}_"
    return prefix


def _rename_functions(graph_def: Any) -> None:
    """Give the functions names of their own.

    The process knows them by their old names as they were before calls in them were inlined.
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
                # To ask a list for its functions would make a list of whatever it is.
                called = [attribute.func] if attribute.HasField("func") else []
                called += attribute.list.func if attribute.HasField("list") else []
                for one in called:
                    one.name = names.get(one.name, one.name)


def _is_argument(node: Any) -> bool:
    """Whether a node hands an argument on."""
    seam = node.op == "Identity" and node.name.startswith(_SEAMS)
    return bool(seam or node.op == "Placeholder")


def is_seam(operation: tf.Operation) -> bool:
    """Whether an operation is there only because a call was inlined."""
    return bool(operation.name.startswith(_SEAMS))


def _variables(graph: Any, by_handle: Mapping[int, Any]) -> dict[str, Any]:
    return {
        inside.op.name: by_handle[id(outside)]
        for outside, inside in graph.captures
        if id(outside) in by_handle
    }
