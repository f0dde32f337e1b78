"""Values inside loops and nested functions: graphs that are changed to return them.

An operation such as `While` runs functions, whose tensors are not tensors of the graph. To get
one, copies of the functions are made that return it too. A loop's body gets a further loop
variable, a list to which each step appends the tensor of that step, and the list is stacked after
the loop. TensorFlow's own gradient of a loop keeps values in the same way. Loops in loops, and
functions that call functions, are changed from the inside out.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from extractkit.models.graphs import INSIDE, AnyGraph, InnerTensor
from extractkit.models.graphs.control_flow import NestedGraph
from extractkit.models.graphs.function_nodes import ADDED, LOOPS, Nodes, outputs_of, runs
from extractkit.models.graphs.loop_shapes import Limit, limits_of

# Grappler may swap a function with these attributes for another one of the same interface.
_INTERFACE = ("api_implements", "api_preferred_device")
_CONDITION = "made inside a loop's condition, which runs once more than the loop has steps"


class InnerTensors:
    """The tensors in the functions that a graph's operations run.

    Args:
        graph: The main graph.
        nested: Its nested graphs; see `nested_graphs`.
        reasons: Why tensors of the main graph cannot be extracted, by name.
    """

    def __init__(
        self,
        graph: AnyGraph,
        nested: Sequence[NestedGraph],
        reasons: Mapping[str, str] | None = None,
    ) -> None:
        self._graph = graph
        self._reasons = reasons or {}
        self._nested = {one.graph: one for one in nested}
        library = graph.as_graph_def().library.function if nested else ()
        self._types = {
            one.signature.name: {node.name: node.op for node in one.node_def} for one in library
        }
        self._arguments = {
            one.graph: {id(argument): at for at, argument in enumerate(one.graph.inputs)}
            for one in nested
        }

    def of(self, tensor: Any) -> tuple[Any, str | None]:
        """Return what gives the values of a tensor, and why they cannot be extracted, or None.

        A tensor of the main graph is returned as it is.
        """
        callers: list[NestedGraph] = []
        graph = getattr(tensor, "graph", self._graph)
        while graph is not self._graph and graph in self._nested:
            callers.insert(0, self._nested[graph])
            graph = callers[0].caller.graph
        if not callers:
            return tensor, None
        for one in callers:
            if (role := _role(one)) != runs(one.caller.type):
                return tensor, _CONDITION if role == "cond" else one.reason
        outermost, innermost = callers[0].caller, callers[-1]
        if outermost.outputs and (why := self._reasons.get(outermost.outputs[0].name)):
            return tensor, why
        for one in callers[1:]:
            if not self._defines(one.caller):
                return tensor, one.reason
        if (place := self._place(tensor)) is None:
            return tensor, innermost.reason
        name = INSIDE.join([*(one.caller.name for one in callers), place])
        loops = sum(one.caller.type in LOOPS for one in callers)
        return InnerTensor(tensor, outermost, name, loops), None

    def _place(self, tensor: Any) -> str | None:
        """Return the tensor's name in its function: `op:0`, or the position of an argument.

        None if the function's definition does not have it under this name.
        """
        position = self._arguments[tensor.graph].get(id(tensor))
        if position is not None:
            return str(position)
        return str(tensor.name) if self._defines(tensor.op) else None

    def _defines(self, operation: Any) -> bool:
        """Return whether the definition of an operation's function has it under the same name."""
        types = self._types.get(operation.graph.name, {})
        return bool(types.get(operation.name) == operation.type)


def _role(nested: NestedGraph) -> str:
    """Return the attribute of the calling operation that names the function."""
    attributes = nested.caller.node_def.attr
    name = nested.graph.name
    return next((key for key in sorted(attributes) if attributes[key].func.name == name), "")


def of_steps(tensor: Any, condition: str) -> InnerTensor:
    """Return a tensor in a loop of TensorFlow 1 at all steps; see `add_steps`.

    Args:
        condition: The name of the loop's `LoopCond`.
    """
    return InnerTensor(tensor, tensor.op, INSIDE.join(["", condition, tensor.name]), loops=1)


def is_in_frame(name: str) -> bool:
    """Return whether a name is that of an inner tensor in a loop of TensorFlow 1."""
    return name.startswith(INSIDE)


def is_inner(name: str) -> bool:
    """Return whether a name is that of an inner tensor."""
    return INSIDE in name


def outermost(name: str) -> str:
    """Return the name of a tensor of the main graph that an inner tensor needs, or itself."""
    if is_in_frame(name):
        return name.rpartition(INSIDE)[2]
    return f"{name.partition(INSIDE)[0]}:0" if is_inner(name) else name


def return_inner(graph_def: Any, names: Iterable[str]) -> dict[str, str]:
    """Change a graph to return inner tensors too, and return their new names (`op:0`) by name.

    Args:
        graph_def: The graph, which is changed in place.
        names: Names of inner tensors, whose operations the graph contains.
    """
    rewriting = _Rewriting(graph_def.library)
    paths = {tuple(name.split(INSIDE)): name for name in names}
    found = rewriting.exposed(Nodes(graph_def.node, None), list(paths)) if paths else {}
    return {paths[path]: edge for path, edge in found.items()}


_Path = tuple[str, ...]


class _Rewriting:
    """Copies of the functions of a library that return more.

    Args:
        library: The library, to which the copies are added.
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        self._functions = {one.signature.name: one for one in library.function}

    def exposed(self, nodes: Nodes, paths: Sequence[_Path]) -> dict[_Path, str]:
        """Return, for each path, an edge that gives the tensor at its end."""
        found: dict[_Path, str] = {}
        for caller, rests in _by_first(paths).items():
            node = nodes[caller]
            key = runs(node.op)
            assert key is not None, "the path leads through operations that can return more"
            function = self._copied(node.attr[key].func.name)
            inside = Nodes(function.node_def, function)
            edges = {
                rest: self._result(inside, rest[0]) for rest in rests if len(rest) == 1
            } | self.exposed(inside, [rest for rest in rests if len(rest) > 1])
            results = [(edge, self._type(inside, edge)) for edge in edges.values()]
            change = self._accumulated if key == "body" else self._returned
            made = change(nodes, node, inside, results)
            found |= {(caller, *rest): edge for rest, edge in zip(edges, made, strict=True)}
        return found

    def _result(self, inside: Nodes, place: str) -> str:
        """Return the edge of a tensor in a function by its name in the function's graph."""
        operation, _, index = place.partition(":")
        if not index:
            return str(inside.function.signature.input_arg[int(operation)].name)
        output, at, _ = list(outputs_of(inside[operation], self._functions))[int(index)]
        return f"{operation}:{output}:{at}"

    def _type(self, inside: Nodes, edge: str) -> tf.DType:
        operation, _, result = edge.partition(":")
        if not result:
            arguments = inside.function.signature.input_arg
            return tf.as_dtype(next(one.type for one in arguments if one.name == edge))
        outputs = outputs_of(inside[operation], self._functions)
        return tf.as_dtype(next(kind for name, at, kind in outputs if f"{name}:{at}" == result))

    def _accumulated(
        self,
        nodes: Nodes,
        loop: Any,
        body: Nodes,
        results: Sequence[tuple[str, tf.DType]],
    ) -> list[str]:
        """Have a loop append results of its body to lists, and return the edges of their stacks."""
        function = self._copied(loop.attr["cond"].func.name)
        condition = Nodes(function.node_def, function)
        most = _steps(nodes, loop, limits_of(nodes, loop, body, condition))
        stacks, lists = [], []
        for edge, dtype in results:
            name = f"{loop.name}/{ADDED}"
            shape = nodes.edge(nodes.constant(f"{name}/shape", -1, tf.int32))
            types = {"element_dtype": dtype, "shape_type": tf.int32}
            start = nodes.add(f"{name}/list", "EmptyTensorList", [shape, most], **types)
            lists.append(nodes.edge(start, "handle"))
            inputs = [body.add_list_argument(), edge]
            push = body.add(f"{ADDED}/push", "TensorListPushBack", inputs, element_dtype=dtype)
            body.add_result(body.edge(push, "output_handle"), tf.variant)
            condition.add_list_argument()
            position = len(loop.attr["T"].list.type)
            loop.attr["T"].list.type.append(tf.variant.as_datatype_enum)
            if loop.attr["output_shapes"].list.shape:
                loop.attr["output_shapes"].list.shape.add()
            inputs = [nodes.edge(loop, "output", position), shape]
            stack = nodes.add(f"{name}/stack", "TensorListStack", inputs, element_dtype=dtype)
            stack.attr["num_elements"].i = -1
            stacks.append(nodes.edge(stack, "tensor"))
        _append_inputs(loop, lists)
        loop.attr["body"].func.name = self._added(body.function)
        loop.attr["cond"].func.name = self._added(condition.function)
        return stacks

    def _returned(
        self,
        nodes: Nodes,
        call: Any,
        inside: Nodes,
        results: Sequence[tuple[str, tf.DType]],
    ) -> list[str]:
        """Have a call return results of its function, and return their edges."""
        edges = []
        for edge, dtype in results:
            edges.append(nodes.edge(call, "output", len(call.attr["Tout"].list.type)))
            call.attr["Tout"].list.type.append(dtype.as_datatype_enum)
            inside.add_result(edge, dtype)
        call.attr["f"].func.name = self._added(inside.function)
        call.attr.pop("_output_shapes", None)
        return edges

    def _copied(self, name: str) -> Any:
        function = type(self._functions[name]).FromString(self._functions[name].SerializeToString())
        for key in _INTERFACE:
            function.attr.pop(key, None)
        return function

    def _added(self, function: Any) -> str:
        """Add a function under a name of its own, since the process knows the old one."""
        content = function.SerializeToString(deterministic=True)
        function.signature.name += f"_{hashlib.sha256(content).hexdigest()[:16]}"
        name = str(function.signature.name)
        if name not in self._functions:
            self._functions[name] = function
            self._library.function.append(function)
        return name


def _by_first(paths: Iterable[_Path]) -> dict[str, list[_Path]]:
    found: dict[str, list[_Path]] = {}
    for first, *rest in paths:
        found.setdefault(first, []).append(tuple(rest))
    return found


def _append_inputs(node: Any, edges: Sequence[str]) -> None:
    """Add data inputs to a node, before its control inputs."""
    control = [one for one in node.input if one.startswith("^")]
    data = [one for one in node.input if not one.startswith("^")]
    del node.input[:]
    node.input.extend([*data, *edges, *control])


def _steps(nodes: Nodes, loop: Any, limits: Sequence[Limit] | None) -> str:
    """Return the edge of the most steps that a loop runs, for XLA; that of -1 if it is unknown."""
    name = f"{loop.name}/{ADDED}"
    if not limits:
        return nodes.edge(nodes.constant(f"{name}/most", -1, tf.int32))
    # In int64, which no limit exceeds. Lists take int32.
    counts = [nodes.constant(f"{name}/largest", 2**31 - 1, tf.int64)]
    for limit in limits:
        if limit.end is None:
            counts.append(nodes.constant(f"{name}/count", limit.steps(limit.constant), tf.int64))
            continue
        end = nodes.add(f"{name}/end", "Cast", [limit.end], SrcT=limit.dtype, DstT=tf.int64)
        first = nodes.constant(f"{name}/start", limit.start - limit.included, tf.int64)
        inputs = [nodes.edge(end, "y"), nodes.edge(first)]
        counts.append(nodes.add(f"{name}/count", "Sub", inputs, T=tf.int64))
    edges = [nodes.edge(node, "output" if node.op == "Const" else "z") for node in counts]
    while len(edges) > 1:
        pair = nodes.add(f"{name}/least", "Minimum", [edges.pop(), edges.pop()], T=tf.int64)
        edges.append(nodes.edge(pair, "z"))
    none = nodes.constant(f"{name}/none", 0, tf.int64)
    most = nodes.add(f"{name}/most", "Maximum", [edges[0], nodes.edge(none)], T=tf.int64)
    inputs, types = [nodes.edge(most, "z")], {"SrcT": tf.int64, "DstT": tf.int32}
    return nodes.edge(nodes.add(f"{name}/most", "Cast", inputs, **types), "y")


# ---- loops of TensorFlow 1

VALUE, CONDITION, STACK = "value:0", "condition:0", f"{ADDED}/stack:0"
"""Names of tensors for `add_steps`: the two that it takes, and the one that it gives."""


def add_steps(part: Any, loop_nodes: Mapping[str, Any], condition: str, dtype: tf.DType) -> None:
    """Add a list to an empty graph that gathers a tensor in a loop of TensorFlow 1.

    Args:
        part: The graph, which is changed in place. It takes `VALUE` and `CONDITION`.
        loop_nodes: The nodes around the loop, by name.
        condition: The name of the loop's `LoopCond`.
        dtype: The type of the tensor.
    """
    entrance = _entrance(loop_nodes, condition)
    nodes = Nodes(part.node, None)
    shape = nodes.edge(nodes.constant("shape", -1, tf.int32))
    types = {"element_dtype": dtype, "shape_type": tf.int32}
    start = nodes.add(f"{ADDED}/list", "EmptyTensorList", [shape, shape], **types)
    enter = nodes.add("enter", "Enter", [nodes.edge(start)], T=tf.variant)
    for key in ("frame_name", "parallel_iterations"):
        enter.attr[key].CopyFrom(entrance.attr[key])
    merge = nodes.add("merge", "Merge", [nodes.edge(enter), "next:0"], T=tf.variant)
    merge.attr["N"].i = 2
    switch = nodes.add("switch", "Switch", [nodes.edge(merge), CONDITION], T=tf.variant)
    push = nodes.add(
        "push", "TensorListPushBack", [nodes.edge(switch, index=1), VALUE], element_dtype=dtype
    )
    nodes.add("next", "NextIteration", [nodes.edge(push)], T=tf.variant)
    end = nodes.add("exit", "Exit", [nodes.edge(switch)], T=tf.variant)
    stack = nodes.add(
        f"{ADDED}/stack", "TensorListStack", [nodes.edge(end), shape], element_dtype=dtype
    )
    stack.attr["num_elements"].i = -1


def _entrance(nodes: Mapping[str, Any], condition: str) -> Any:
    """Return an `Enter` of the loop with this condition."""
    for node in nodes.values():
        if node.op.removeprefix("Ref") == "Switch" and _source(node.input[1]) == condition:
            merge = nodes[_source(node.input[0])]
            found = nodes[_source(merge.input[0])]
            if found.op.removeprefix("Ref") == "Enter":
                return found
    raise ValueError(f"the loop of {condition!r} has no variables")


def _source(edge: str) -> str:
    return edge.partition(":")[0]
