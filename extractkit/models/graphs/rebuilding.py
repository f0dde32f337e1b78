"""Partial import of a graph: for shapes at given sizes, and for values of some tensors.

Only the nodes that the wanted tensors need are imported.
"""

from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import tensorflow as tf

from extractkit.models.axes import RawShape
from extractkit.models.graphs import (
    COLOCATION,
    INSIDE,
    AnyGraph,
    AnyTensor,
    ImportedTensor,
    InnerTensor,
)
from extractkit.models.graphs.definitions import split_role, typed
from extractkit.models.graphs.loop_shapes import StepShapes, add_one_step
from extractkit.models.graphs.loops import (
    CONDITION,
    LIST,
    VALUE,
    Returned,
    add_branches,
    add_steps,
    is_in_frame,
    is_inner,
    outermost,
    return_inner,
    stacked,
)
from extractkit.models.tensorflow_internals import (
    capturing_graph,
    imported_operations,
    operation_definition,
    register_functions,
    static_sizes,
    without_python_objects,
)

# Attributes with this prefix are kept for every operation.
_LACKED = "_extractkit_lacked"


def replace_unknown_operations(graph_def: Any) -> None:
    """Replace unknown operations by placeholders, in place, also in the bodies of functions.

    A placeholder has the type that its consumers take. Each further output gets its own
    placeholder.
    """
    functions = {one.signature.name: one.signature for one in graph_def.library.function}
    _replace_unknown(graph_def.node, functions)
    for function in graph_def.library.function:
        _replace_unknown(function.node_def, functions, function)


def _replace_unknown(nodes: Any, functions: Mapping[str, Any], body: Any = None) -> None:
    """Replace the unknown operations among these nodes.

    Args:
        functions: The signatures of the functions that nodes may call, by name.
        body: The function that they are the body of, if any.
    """
    unknown = {
        node.name: node
        for node in nodes
        if node.op not in functions and operation_definition(node.op) is None
    }
    if not unknown:
        return
    names = {node.name for node in nodes}
    types: dict[str, int] = {}
    stand_ins: dict[str, str] = {}

    def replaced(given: str, kind: int) -> str:
        """Return what an input of this type is replaced by."""
        source, _, output = given.partition(":")
        if source not in unknown or given.startswith("^"):
            return given
        if given not in stand_ins:
            # In a graph, `op` is the first output. In the body of a function, outputs have names.
            own = source not in stand_ins.values() if body is not None else output in ("", "0")
            stand_ins[given] = (
                source if own else _unused(f"{source}/{output.replace(':', '/')}", names)
            )
            types[stand_ins[given]] = kind
        return stand_ins[given] if body is None else f"{stand_ins[given]}:output:0"

    for node in nodes:
        if node.name not in unknown:
            data = [given for given in node.input if not given.startswith("^")]
            kinds = _input_types(node, functions)
            for position, (given, kind) in enumerate(zip(data, kinds, strict=False)):
                node.input[position] = replaced(given, kind)
    if body is not None:
        for argument in body.signature.output_arg:
            body.ret[argument.name] = replaced(body.ret[argument.name], argument.type)
    for given, name in stand_ins.items():
        if name not in unknown:
            lacked = unknown[given.partition(":")[0]].op
            _become_placeholder(nodes.add(name=name), lacked, types[name])
    ordered = set() if body is None else _before_others(body)
    for name, node in unknown.items():
        lacked, kind = node.op, types[name] if name in types else _own_type(node)
        _become_placeholder(node, lacked, kind)
        if name in ordered:
            _become_stateful(node, kind)


def _before_others(body: Any) -> set[str]:
    """Return the names of a function's nodes that others wait for: they may change a state."""
    waiting = {given[1:] for node in body.node_def for given in node.input if given[:1] == "^"}
    return waiting | {*body.control_ret.values()}


def unknown_operation_of(operation: Any) -> str | None:
    """Return the type of the unknown operation that a placeholder replaces, or None."""
    value = operation.node_def.attr.get(_LACKED)
    return None if value is None else value.s.decode()


def _input_types(node: Any, functions: Mapping[str, Any]) -> Iterator[int]:
    """Return the type of each input, in order, from the definition of the operation or function."""
    definition = functions.get(node.op) or operation_definition(node.op)
    return (kind for _, _, kind in typed(node, definition, definition.input_arg))


def _own_type(node: Any) -> int:
    """Return the type of an unconsumed first output, from the operation's attributes if any."""
    named = [value.type for value in node.attr.values() if value.WhichOneof("value") == "type"]
    return named[0] if len(named) == 1 else int(tf.variant.as_datatype_enum)


def _unused(name: str, names: set[str]) -> str:
    while name in names:
        name += "_"
    names.add(name)
    return name


def _become_stateful(node: Any, kind: int) -> None:
    """Replace a placeholder by a stateful operation, which is never run either.

    It keeps its control edges. TensorFlow drops those of stateless operations when it inlines a
    function.
    """
    node.op = "PyFunc"
    for name in ("dtype", "shape"):
        del node.attr[name]
    node.attr["token"].s = b""
    node.attr["Tin"].list.SetInParent()
    node.attr["Tout"].list.type.append(kind)


def _become_placeholder(node: Any, lacked: str, kind: int) -> None:
    node.op = "Placeholder"
    node.ClearField("input")
    node.ClearField("attr")
    node.attr["dtype"].type = kind
    node.attr["shape"].shape.unknown_rank = True
    node.attr[_LACKED].s = lacked.encode()


PREFIX = "extractkit"
"""The name scope of imported nodes."""


class SourceGraph(Protocol):
    """A graph whose tensors can be rebuilt in another graph."""

    @property
    def graph(self) -> AnyGraph:
        """The graph: that of a function, with captures, or an imported one."""
        ...

    @property
    def inputs(self) -> Mapping[str, AnyTensor]:
        """The graph's placeholder for each named input."""
        ...


@dataclass(frozen=True, eq=False)
class GraphPart:
    """The part of a graph that some tensors need, ready to be imported.

    Attributes:
        graph_def: Its nodes.
        given: Names of the tensors to replace, by input.
        captured: The captures of a function's graph, by the names of their placeholders.
    """

    graph_def: Any
    given: Mapping[str, str]
    captured: Mapping[str, Any]

    def replaced(self, features: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Return tensors of the new graph by the names of the tensors that they replace.

        Args:
            features: Tensors by input.
        """
        graph = tf.compat.v1.get_default_graph()
        replaced = {self.given[name]: tensor for name, tensor in features.items()}
        return replaced | {name: graph.capture(one) for name, one in self.captured.items()}

    def input_map(self, replaced: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Return the replaced tensors that the nodes consume."""
        return {name: tensor for name, tensor in replaced.items() if name in self._used}

    @cached_property
    def _used(self) -> set[str]:
        return {_tensor_name(edge) for node in self.graph_def.node for edge in node.input}


def tensors_in_graph(
    source: SourceGraph, features: Mapping[str, tf.Tensor], wanted: Sequence[str]
) -> list[tf.Tensor]:
    """Rebuild the wanted tensors (`op:0`, or names of inner tensors) in the current graph.

    Inputs, also inside the graph, are replaced by `features`, and nodes that only they need are not
    imported. Variables are shared with the model.
    """
    part = needed_part(source, features, [*map(outermost, wanted)])
    inner = return_inner(part.graph_def, filter(is_inner, wanted))
    replaced = part.replaced(features)
    names = [name for name in dict.fromkeys(wanted) if name not in replaced]
    rebuilt = {**replaced, **imported(part.graph_def, part.input_map(replaced), names, inner)}
    return [rebuilt[name] for name in wanted]


def imported(
    graph_def: Any,
    input_map: Mapping[str, tf.Tensor],
    names: Sequence[str],
    inner: Mapping[str, Returned],
    prefix: str = PREFIX,
) -> dict[str, tf.Tensor]:
    """Import a graph into the current one, and return tensors by name.

    Args:
        names: Names of its tensors, and of inner tensors.
        inner: What it returns for inner tensors; see `return_inner`.
        prefix: The name scope of its nodes.
    """
    found = tf.graph_util.import_graph_def(
        graph_def,
        input_map=input_map,
        return_elements=[inner[name].edge if name in inner else name for name in names],
        name=prefix,
    )
    if inner:
        register_functions(tf.compat.v1.get_default_graph())
    return {
        name: inner[name].tensor(tensor) if name in inner else tensor
        for name, tensor in zip(names, found, strict=True)
    }


def inner_in_graph(graph_def: Any, names: Sequence[str]) -> dict[str, tf.Tensor]:
    """Return inner tensors by name in the current graph. It runs their operations once more.

    Args:
        graph_def: The definition of the current graph.
    """
    graph = tf.compat.v1.get_default_graph()
    framed = {name: _stacked(graph, graph_def, name) for name in names if is_in_frame(name)}
    names = [name for name in names if not is_in_frame(name)]
    if not names:
        return framed
    callers = {outermost(name).partition(":")[0] for name in names}
    part = tf.compat.v1.GraphDef(versions=graph_def.versions, library=graph_def.library)
    part.node.extend(node for node in graph_def.node if node.name in callers)
    taken: dict[str, Any] = {}
    for node in part.node:
        node.attr.pop(COLOCATION, None)
        for edge in node.input:
            control = edge.startswith("^")
            find = graph.get_operation_by_name if control else graph.get_tensor_by_name
            taken[edge] = find(edge[1:] if control else _tensor_name(edge))
    # The operations may consume each other, but their copies consume the original results.
    return {**framed, **imported(part, taken, names, return_inner(part, names))}


def _stacked(graph: tf.Graph, graph_def: Any, name: str) -> tf.Tensor:
    """Return a tensor in a loop or branch of TensorFlow 1, gathered in a list that is added."""
    _, *around, tensor = name.split(INSIDE)
    part = tf.compat.v1.GraphDef(versions=graph_def.versions)
    value = graph.get_tensor_by_name(tensor)
    branches = [split_role(one) for one in around]
    if all(output for _, output in branches):
        names = add_branches(part, [int(output) for _, output in branches], value.dtype)
        taken = {
            one: graph.get_tensor_by_name(predicate)
            for one, (predicate, _) in zip(names, branches, strict=True)
        }
    else:
        (condition,) = around
        nodes = {node.name: node for node in graph_def.node}
        add_steps(part, nodes, condition, value.dtype)
        taken = {CONDITION: graph.get_tensor_by_name(f"{condition}:0")}
    (steps,) = tf.graph_util.import_graph_def(
        part, input_map={VALUE: value, **taken}, return_elements=[LIST], name=PREFIX
    )
    return stacked(steps, value.dtype)


def needed_part(source: SourceGraph, features: Iterable[str], wanted: Sequence[str]) -> GraphPart:
    """Return the part to import for the wanted tensors; see `tensors_in_graph`.

    Args:
        features: Names of the inputs to replace.
    """
    graph_def = source.graph.as_graph_def()
    given = {name: source.inputs[name].name for name in features}
    needed = _needed_nodes(graph_def, wanted, set(given.values()))
    captured = {}
    # Only a function's graph has captures, which are passed on to the new graph.
    for outside, inside in getattr(source.graph, "captures", ()):
        if inside.op.name in needed:
            captured[inside.name] = outside
            # Placeholders are not imported, since XLA has no kernel for them.
            needed.remove(inside.op.name)
    pruned = tf.compat.v1.GraphDef(versions=graph_def.versions, library=graph_def.library)
    pruned.node.extend(node for node in graph_def.node if node.name in needed)
    for node in pruned.node:
        forget_others(node, needed)
    return GraphPart(pruned, given, captured)


def _needed_nodes(graph_def: Any, wanted: Iterable[str], replaced: Collection[str]) -> set[str]:
    """Return the names of the nodes that the wanted tensors need, up to the replaced tensors.

    Control edges from a node with a replaced tensor are dropped, unless another of its tensors is
    consumed, so that nothing before the replaced tensor runs.
    """
    inputs = {node.name: node.input for node in graph_def.node}
    given = {name.partition(":")[0] for name in replaced}
    needed: set[str] = set()
    waiting = [name for name in wanted if name not in replaced]
    while waiting:
        name = waiting.pop().lstrip("^").partition(":")[0]
        if name not in needed:
            needed.add(name)
            waiting.extend(
                edge
                for edge in inputs[name]
                if (edge[1:] not in given if edge[0] == "^" else _tensor_name(edge) not in replaced)
            )
    return needed


def forget_others(node: Any, imported: Container[str]) -> None:
    """Remove a node's control inputs that are not imported, and that it is colocated with others.

    Gradients are colocated with what they are gradients of, whether or not it is needed.
    """
    if any(edge[0] == "^" for edge in node.input):
        edges = [edge for edge in node.input if edge[0] != "^" or edge[1:] in imported]
        del node.input[:]
        node.input.extend(edges)
    if COLOCATION in node.attr:
        groups = [one.decode().removeprefix("loc:@") for one in node.attr[COLOCATION].list.s]
        if not all(one in imported for one in groups):
            del node.attr[COLOCATION]


def _tensor_name(edge: str) -> str:
    """Return the tensor's name for a node's input, where `op` is short for `op:0`."""
    return edge if ":" in edge or edge[0] == "^" else f"{edge}:0"


def static_shape(tensor: Any) -> RawShape:
    """Return a tensor's static shape."""
    if isinstance(tensor, ImportedTensor | InnerTensor):
        return tensor.sizes
    return None if tensor.shape.rank is None else tuple(tensor.shape.as_list())


class StaticShapes:
    """The static shapes of some tensors, inferred by TensorFlow during a partial import.

    Args:
        source: The graph.
        features: Names of the inputs with given shapes.
        wanted: Names of the tensors (`op:0`), inner ones included.
    """

    def __init__(self, source: SourceGraph, features: Iterable[str], wanted: Sequence[str]) -> None:
        self._source = source
        self._features = list(features)
        self._wanted = wanted

    def at(self, specs: Mapping[str, tf.TensorSpec]) -> list[RawShape]:
        """Return the static shapes of the tensors for inputs with the shapes of the specs.

        Raises:
            ValueError: The graph cannot have inputs of these shapes.
        """
        # A graph with captures that is not made into a function, since TensorFlow refuses
        # functions that contain loops of TensorFlow 1.
        graph = capturing_graph("shapes")
        inner = self._inner
        with graph.as_default():
            replaced = self._part.replaced(
                {
                    name: tf.compat.v1.placeholder(specs[name].dtype, specs[name].shape)
                    for name in self._features
                }
            )
            with without_python_objects():
                tf.graph_util.import_graph_def(
                    self._part.graph_def, input_map=self._part.input_map(replaced), name=PREFIX
                )
        shapes = {name: static_shape(tensor) for name, tensor in replaced.items()}
        for operation in imported_operations(graph):
            name = operation.name.removeprefix(f"{PREFIX}/")
            for index, output in enumerate(operation.outputs):
                shapes.setdefault(f"{name}:{index}", static_sizes(output))
        return [inner[name].of(shapes) if is_inner(name) else shapes[name] for name in self._wanted]

    @cached_property
    def _part(self) -> GraphPart:
        return needed_part(self._source, self._features, [*map(outermost, self._wanted)])

    @cached_property
    def _inner(self) -> Mapping[str, StepShapes]:
        """Where the shapes of inner tensors are found. The graph is completed for them."""
        return add_one_step(self._part.graph_def, filter(is_inner, self._wanted))
