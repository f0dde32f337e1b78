"""The graph of a function: captures with their contents, and inner calls flattened (inlined).

A graph holds the handles of its variables, but only weak references to the variables themselves.
A factory that returns `tf.saved_model.load(path).signatures["serving_default"]` drops the loaded
object, and the variables with it. TensorFlow still calls such a function, because the content
lives as long as the handle.

A signature of a SavedModel is one call of a function that calls others. Every tensor gets an
address of its own once they are inlined. Loops and branches stay functions. Variables stay
captured: no weight is copied into the graph.
"""

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from extractkit.core.values import Array, as_array, digest_of_array, digest_of_table
from extractkit.models.graphs import COLOCATION
from extractkit.models.graphs.definitions import FrozenGraph
from extractkit.models.graphs.purity import consumers
from extractkit.models.tensorflow_internals import (
    inlined_graph_def,
    with_constants_for_variables,
)

# There is no public way to get the content of a handle. Its text shows the variable's name, to
# which TensorFlow appends a counter, and the number of its type.
_HANDLE = re.compile(
    r'ResourceHandle\(name="(?P<name>[^"]*?)(?:/\d+)?".*type="tensorflow::Var".*'
    r"DType enum: (?P<dtype>\d+)"
)
# Nodes that grappler adds at the start and end of a call. They pass on existing values.
_SEAMS = "Func/"
_APPENDED = re.compile(r"_tfg_inlined_.+_\d+$")
_CAPTURED = "captured"
_INLINED = "_inlined"


@dataclass(frozen=True, eq=False)
class OrphanedVariable:
    """A variable of which only the handle is left, with the members that models use.

    Attributes:
        name: the variable's name, with `:0`.
        dtype, shape: those of its content.
        handle: the resource that holds it.
    """

    name: str
    dtype: tf.DType
    shape: tf.TensorShape
    handle: tf.Tensor

    def __tf_tensor__(self, dtype: tf.DType | None = None, name: str | None = None) -> tf.Tensor:
        """Return the content; TensorFlow calls this to convert the object to a tensor."""
        return tf.raw_ops.ReadVariableOp(resource=self.handle, dtype=self.dtype, name=name)

    def numpy(self) -> Array:
        """Return the content."""
        return as_array(tf.convert_to_tensor(self).numpy())

    def assign(self, value: tf.Tensor) -> None:
        """Replace the content."""
        tf.raw_ops.AssignVariableOp(resource=self.handle, value=value)


def captured_variables(graph: Any) -> dict[int, Any]:
    """Return the variables of a function's graph by the `id` of their handles."""
    try:
        return {id(variable.handle): variable for variable in graph.variables}
    except AssertionError:  # how TensorFlow reports that a weak reference is dead
        return {id(variable.handle): variable for variable in _orphaned(graph)}


def handle_in(graph: Any, variable: Any) -> tf.Tensor | None:
    """Return the placeholder of a variable's handle, or None if the graph does not capture it."""
    return next((inside for outside, inside in graph.captures if outside is variable.handle), None)


def _orphaned(graph: Any) -> Iterator[OrphanedVariable]:
    for outside, inside in graph.captures:
        held = _HANDLE.search(repr(outside)) if outside.dtype == tf.resource else None
        if held is not None:
            dtype = tf.as_dtype(int(held["dtype"]))
            content = tf.raw_ops.ReadVariableOp(resource=outside, dtype=dtype)
            name = held["name"] or inside.op.name
            yield OrphanedVariable(f"{name}:0", dtype, content.shape, outside)


def frozen_function(function: Any, variables: Iterable[Any]) -> FrozenGraph:
    """Return the graph of a concrete function with the contents of variables as constants.

    Its inputs are the arguments and what else the function captures, by the name of the tensor.

    Args:
        variables: the variables that its graph may have captured.
    """
    handles = {id(variable.handle): variable for variable in variables}
    captures = list(function.graph.captures)
    # TensorFlow makes constants only of variables that the graph lists.
    function.graph.variables = [
        handles[id(outside)] for outside, _ in captures if id(outside) in handles
    ]
    graph_def, constants = with_constants_for_variables(function)
    known = {captures[position][1].name for position in constants}
    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(graph_def, name="")
    inputs = {}
    for one in function.inputs:
        if one.name not in known:
            inputs[one.name] = graph.get_tensor_by_name(one.name)
            inputs[one.name].set_shape(one.shape)
    outputs = [graph.get_tensor_by_name(one.name) for one in function.outputs]
    return FrozenGraph(graph, inputs, outputs)


_LOOK_UP = "LookupTableFindV2"


def captured_contents(
    graph: Any, weights: Mapping[int, str], impure: Container[str] = frozenset()
) -> dict[str, str] | None:
    """Return a text for each placeholder of a captured object, by the placeholder's name.

    Args:
        graph: the graph of a function.
        weights: The text for each weight, by the id of its variable's handle.
        impure: Names of operations whose results are not extracted. What only they use decides no
            value, and the state of a random generator differs each time a model is loaded.

    Returns:
        None if the content of a captured object is not known.
    """
    variables = captured_variables(graph)
    contents = {}
    for outside, inside in graph.captures:
        content = weights.get(id(outside))
        uses = [operation.name in impure for operation in inside.consumers()]
        if content is None and uses and all(uses):
            content = "random"
        if content is None:
            # A variable that is not a weight of the model is a constant.
            content = _content(variables.get(id(outside), outside), inside)
        if content is None:
            return None
        contents[inside.op.name] = content
    return contents


def _content(outside: Any, inside: tf.Tensor) -> str | None:
    if outside.dtype == tf.resource:
        return _table(outside, inside)
    if outside.dtype == tf.variant:
        return None
    return f"constant {digest_of_array(as_array(tf.convert_to_tensor(outside).numpy()))}"


def _table(handle: tf.Tensor, inside: tf.Tensor) -> str | None:
    """Return the content of a lookup table, or None for anything else or a nested use."""
    for operation in consumers(inside):
        if operation.type == _LOOK_UP:
            keys, values = tf.raw_ops.LookupTableExportV2(
                table_handle=handle,
                Tkeys=operation.get_attr("Tin"),
                Tvalues=operation.get_attr("Tout"),
            )
            return f"table {digest_of_table(keys.numpy(), values.numpy())}"
    return None


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
        node.attr.pop(COLOCATION, None)
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
    """Give the functions unique names, and their nodes the names that they were made with.

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
    for function in functions:
        _shorten_names(function)
    for nodes in (graph_def.node, *(function.node_def for function in functions)):
        for node in nodes:
            node.op = names.get(node.op, node.op)
            for attribute in node.attr.values():
                # Accessing `list` would turn the attribute into a list.
                called = [attribute.func] if attribute.HasField("func") else []
                called += attribute.list.func if attribute.HasField("list") else []
                for one in called:
                    one.name = names.get(one.name, one.name)


def _shorten_names(function: Any) -> None:
    """Remove what grappler appends to the names of a function's nodes if it inlines calls there."""
    short: dict[str, str] = {}
    taken = {node.name for node in function.node_def}
    for node in function.node_def:
        name = _APPENDED.sub("", node.name)
        if name not in taken:
            taken.add(name)
            short[node.name] = name

    def renamed(edge: str) -> str:
        source = edge.lstrip("^").partition(":")[0]
        return edge.replace(source, short[source], 1) if source in short else edge

    for node in function.node_def:
        node.name = short.get(node.name, node.name)
        node.input[:] = [renamed(edge) for edge in node.input]
        if COLOCATION in node.attr:
            groups = [one.decode() for one in node.attr[COLOCATION].list.s]
            prefix = "loc:@"
            names = [prefix + renamed(one.removeprefix(prefix)) for one in groups]
            node.attr[COLOCATION].list.s[:] = [one.encode() for one in names]
    for results in (function.ret, function.control_ret):
        for key in list(results):  # assigning to a map of protobuf disturbs its iteration
            results[key] = renamed(results[key])


def _is_argument(node: Any) -> bool:
    """Return whether a node passes on an argument."""
    seam = node.op == "Identity" and node.name.startswith(_SEAMS)
    return bool(seam or node.op == "Placeholder")


def is_inlining_artifact(operation: tf.Operation) -> bool:
    """Return whether an operation, of a graph or function, exists only for an inlined call."""
    return bool(operation.name.startswith(_SEAMS))


def _variables(graph: Any, by_handle: Mapping[int, Any]) -> dict[str, Any]:
    return {
        inside.op.name: by_handle[id(outside)]
        for outside, inside in graph.captures
        if id(outside) in by_handle
    }
