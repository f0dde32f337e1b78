"""Values inside loops, branches and nested functions: graphs that are changed to return them.

An operation such as `While` runs functions, whose tensors are not tensors of the graph. To get
one, copies of the functions are made that return it too. A loop's body gets a further loop
variable, a list to which each step appends the tensor of that step, and the list is stacked after
the loop. TensorFlow's own gradient of a loop keeps values in the same way. A branch returns a list
of one tensor, and the other branches an empty one: a conditional is a loop of at most one step.
Inside a loop, that list is appended to the loop's, which so has the steps at which the branch was
taken. Functions in functions are changed from the inside out.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf

from extractkit.core.spec import STEP, TAKEN
from extractkit.models.graphs import (
    CONDITIONALS,
    INSIDE,
    LOOPS,
    AnyGraph,
    InnerTensor,
    leading_axes,
)
from extractkit.models.graphs.control_flow import NestedGraph
from extractkit.models.graphs.definitions import (
    ADDED,
    Nodes,
    outputs_of,
    returning,
    split_role,
    with_role,
)
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
        self._returning = {
            one.graph for one in nested if one.role in returning(one.caller.node_def)
        }
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
            if one.graph not in self._returning:
                return tensor, _CONDITION if one.role == "cond" else one.reason
            if one.why_dead is not None:
                return tensor, one.why_dead
        outermost, innermost = callers[0].caller, callers[-1]
        if outermost.outputs and (why := self._reasons.get(outermost.outputs[0].name)):
            return tensor, why
        for one in callers[1:]:
            if not self._defines(one.caller):
                return tensor, one.reason
        if (place := self._place(tensor)) is None:
            return tensor, innermost.reason
        path = [with_role(one.caller.name, one.role) for one in callers]
        axes, varying = leading_axes([one.caller.type for one in callers])
        return InnerTensor(
            *(tensor, outermost, INSIDE.join([*path, place]), axes, varying),
            tuple(one.caller.inputs[0] for one in callers if one.caller.type in CONDITIONALS),
            tuple(one.caller for one in callers if one.caller.type in LOOPS),
        ), None

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


def of_steps(tensor: Any, condition: str) -> InnerTensor:
    """Return a tensor in a loop of TensorFlow 1 at all steps; see `add_steps`.

    Args:
        condition: The name of the loop's `LoopCond`.
    """
    name = INSIDE.join(["", condition, tensor.name])
    loop = tensor.graph.get_operation_by_name(condition)
    return InnerTensor(tensor, tensor.op, name, (STEP,), loops=(loop,))


def of_branches(tensor: Any, branches: Sequence[tuple[str, int]]) -> InnerTensor:
    """Return a tensor in branches of TensorFlow 1, with an axis of whether they are taken.

    Args:
        branches: See `ControlFlow`.
    """
    path = [with_role(predicate, str(output)) for predicate, output in branches]
    deciding = tuple(tensor.graph.get_tensor_by_name(predicate) for predicate, _ in branches)
    name = INSIDE.join(["", *path, tensor.name])
    return InnerTensor(tensor, tensor.op, name, (TAKEN,), frozenset({0}), deciding)


def is_in_frame(name: str) -> bool:
    """Return whether a name is that of an inner tensor in a loop or branch of TensorFlow 1."""
    return name.startswith(INSIDE)


def is_inner(name: str) -> bool:
    """Return whether a name is that of an inner tensor."""
    return INSIDE in name


def outermost(name: str) -> str:
    """Return the name of a tensor of the main graph that an inner tensor needs, or itself."""
    if is_in_frame(name):
        return name.rpartition(INSIDE)[2]
    return f"{split_role(name.partition(INSIDE)[0])[0]}:0" if is_inner(name) else name


@dataclass(frozen=True)
class Returned:
    """What a changed graph or function returns for an inner tensor.

    Attributes:
        edge: The edge of the result; in a graph, the name of the tensor.
        dtype: The type of the elements.
        is_list: Whether it is a list of tensors.
    """

    edge: str
    dtype: tf.DType
    is_list: bool = False

    @property
    def type(self) -> tf.DType:
        """The type of the result itself."""
        return tf.variant if self.is_list else self.dtype

    def tensor(self, result: tf.Tensor) -> tf.Tensor:
        """Return the tensor for the result in the current graph; see `stacked`."""
        return stacked(result, self.dtype) if self.is_list else result


def stacked(handle: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Return the tensors of a list as one, in the current graph.

    That of an empty list has the shape (0,), since the list does not know that of its elements.
    """
    ops = tf.raw_ops
    with tf.name_scope(ADDED):
        some = tf.minimum(ops.TensorListLength(input_handle=handle), 1)
        # The scalar -1, for elements of any shape, or the shape of a scalar: an empty vector.
        shape = tf.reshape(tf.constant([-1])[:some], tf.constant([0])[some:])
        return ops.TensorListStack(input_handle=handle, element_shape=shape, element_dtype=dtype)


def return_inner(graph_def: Any, names: Iterable[str]) -> dict[str, Returned]:
    """Change a graph to return inner tensors too, and return what it returns for each name.

    Args:
        graph_def: The graph, which is changed in place.
        names: Names of inner tensors, whose operations the graph contains.
    """
    rewriting = _Rewriting(graph_def.library)
    paths = {tuple(name.split(INSIDE)): name for name in names}
    found = rewriting.exposed(Nodes(graph_def.node, None), list(paths)) if paths else {}
    return {paths[path]: returned for path, returned in found.items()}


_Path = tuple[str, ...]


class _Rewriting:
    """Copies of the functions of a library that return more.

    Args:
        library: The library, to which the copies are added.
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        self._functions = {one.signature.name: one for one in library.function}

    def exposed(
        self, nodes: Nodes, paths: Sequence[_Path], *, looped: bool = False
    ) -> dict[_Path, Returned]:
        """Return, for each path, the result that gives the tensor at its end.

        Args:
            looped: Whether the nodes are inside a loop, which needs one tensor of each inner loop.
        """
        found: dict[_Path, Returned] = {}
        for name, by_role in _by_caller(paths).items():
            node = nodes[name]
            within = looped or node.op in LOOPS
            bodies, results = {}, {}
            for role, function in returning(node).items():
                copy = self._copied(function.name)
                inside = bodies[role] = Nodes(copy.node_def, copy)
                rests = by_role.get(role, [])
                results[role] = {
                    rest: self._result(inside, rest[0]) for rest in rests if len(rest) == 1
                } | self.exposed(inside, [rest for rest in rests if len(rest) > 1], looped=within)
            if node.op in CONDITIONALS:
                made = self._returned_if_taken(nodes, node, bodies, results)
            else:
                ((role, inside),) = bodies.items()
                own = list(results[role].values())
                if node.op in LOOPS:
                    made = self._accumulated(nodes, node, inside, own, stacks=looped)
                else:
                    made = self._returned(nodes, node, inside, own)
            ends = [(with_role(name, role), *rest) for role in results for rest in results[role]]
            found |= dict(zip(ends, made, strict=True))
        return found

    def _result(self, inside: Nodes, place: str) -> Returned:
        """Return a tensor in a function by its name in the function's graph."""
        operation, _, index = place.partition(":")
        if not index:
            argument = inside.function.signature.input_arg[int(operation)]
            return Returned(str(argument.name), tf.as_dtype(argument.type))
        output, at, kind = list(outputs_of(inside[operation], self._functions))[int(index)]
        return Returned(f"{operation}:{output}:{at}", tf.as_dtype(kind))

    def _accumulated(
        self, nodes: Nodes, loop: Any, body: Nodes, results: Sequence[Returned], *, stacks: bool
    ) -> list[Returned]:
        """Have a loop append results of its body to lists, and return these.

        Args:
            stacks: Whether to stack the lists.
        """
        function = self._copied(loop.attr["cond"].func.name)
        condition = Nodes(function.node_def, function)
        most = _steps(nodes, loop, limits_of(nodes, loop, body, condition))
        made, lists = [], []
        for one in results:
            lists.append(_empty_list(nodes, f"{loop.name}/{ADDED}", one.dtype, most))
            body.add_result(_appended(body, body.add_list_argument(), one), tf.variant)
            condition.add_list_argument()
            position = len(loop.attr["T"].list.type)
            loop.attr["T"].list.type.append(tf.variant.as_datatype_enum)
            if loop.attr["output_shapes"].list.shape:
                loop.attr["output_shapes"].list.shape.add()
            edge = nodes.edge(loop, "output", position)
            made.append(
                _stacked(nodes, edge, one) if stacks else replace(one, edge=edge, is_list=True)
            )
        _append_inputs(loop, lists)
        loop.attr["body"].func.name = self._added(body.function)
        loop.attr["cond"].func.name = self._added(condition.function)
        return made

    def _returned(
        self, nodes: Nodes, call: Any, inside: Nodes, results: Sequence[Returned]
    ) -> list[Returned]:
        """Have a call return results of its function, and return them."""
        made = []
        for one in results:
            inside.add_result(one.edge, one.type)
            made.append(replace(one, edge=_further_output(nodes, call, one.type)))
        call.attr["f"].func.name = self._added(inside.function)
        return made

    def _returned_if_taken(
        self,
        nodes: Nodes,
        conditional: Any,
        bodies: Mapping[str, Nodes],
        results: Mapping[str, Mapping[_Path, Returned]],
    ) -> list[Returned]:
        """Have a conditional return lists with results of its branches, and return these."""
        made = []
        for role, one in [(role, one) for role, own in results.items() for one in own.values()]:
            for other, inside in bodies.items():
                edge = one.edge
                if other != role or not one.is_list:
                    edge = _empty_list(inside, ADDED, one.dtype)
                    edge = _appended(inside, edge, one) if other == role else edge
                inside.add_result(edge, tf.variant)
            edge = _further_output(nodes, conditional, tf.variant)
            made.append(replace(one, edge=edge, is_list=True))
        for role, function in returning(conditional).items():
            function.name = self._added(bodies[role].function)
        return made

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


def _by_caller(paths: Iterable[_Path]) -> dict[str, dict[str, list[_Path]]]:
    """Return the rests of paths by the name of their first operation, and its function's role."""
    found: dict[str, dict[str, list[_Path]]] = {}
    for first, *rest in paths:
        name, role = split_role(first)
        found.setdefault(name, {}).setdefault(role, []).append(tuple(rest))
    return found


def _empty_list(nodes: Nodes, name: str, dtype: tf.DType, most: str | None = None) -> str:
    """Add an empty list to nodes, and return its edge.

    Args:
        most: The edge of the largest number of its elements. None: any number.
    """
    shape = nodes.edge(nodes.constant(f"{name}/shape", -1, tf.int32))
    types = {"element_dtype": dtype, "shape_type": tf.int32}
    made = nodes.add(f"{name}/list", "EmptyTensorList", [shape, most or shape], **types)
    return nodes.edge(made, "handle")


def _appended(nodes: Nodes, to: str, one: Returned) -> str:
    """Append a tensor, or all tensors of a list, to a list, and return the new one's edge."""
    if one.is_list:
        joined = nodes.add(
            f"{ADDED}/join", "TensorListConcatLists", [to, one.edge], element_dtype=one.dtype
        )
        return nodes.edge(joined, "output")
    push = nodes.add(f"{ADDED}/push", "TensorListPushBack", [to, one.edge], element_dtype=one.dtype)
    return nodes.edge(push, "output_handle")


def _stacked(nodes: Nodes, edge: str, one: Returned) -> Returned:
    """Add the stack of a list to nodes, and return it."""
    shape = nodes.edge(nodes.constant(f"{ADDED}/shape", -1, tf.int32))
    stack = nodes.add(f"{ADDED}/stack", "TensorListStack", [edge, shape], element_dtype=one.dtype)
    stack.attr["num_elements"].i = -1
    return Returned(nodes.edge(stack, "tensor"), one.dtype)


def _further_output(nodes: Nodes, node: Any, dtype: tf.DType) -> str:
    """Add a result to a node that runs functions, and return its edge."""
    edge = nodes.edge(node, "output", len(node.attr["Tout"].list.type))
    node.attr["Tout"].list.type.append(dtype.as_datatype_enum)
    if "output_shapes" in node.attr and node.attr["output_shapes"].list.shape:
        node.attr["output_shapes"].list.shape.add()
    node.attr.pop("_output_shapes", None)
    return edge


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


# ---- loops and branches of TensorFlow 1

VALUE, CONDITION, LIST = "value:0", "condition:0", f"{ADDED}/end:0"
"""Names of tensors for `add_steps`: the two that it takes, and the one that it gives."""


def add_branches(part: Any, outputs: Sequence[int], dtype: tf.DType) -> list[str]:
    """Add a list to an empty graph, with the tensor if branches of TensorFlow 1 are taken.

    A branch that is not taken has dead tensors, which `Merge` replaces by the list without it.

    Args:
        part: The graph, which is changed in place. It takes `VALUE`, and gives `LIST`.
        outputs: For each branch, outermost first, the output of `Switch` that leads into it.
        dtype: The type of the tensor.

    Returns:
        For each branch, the name of the tensor to take that decides it.
    """
    nodes = Nodes(part.node, None)
    shape = nodes.edge(nodes.constant("shape", -1, tf.int32))
    types = {"element_dtype": dtype, "shape_type": tf.int32}
    inside = nodes.edge(nodes.add(f"{ADDED}/list", "EmptyTensorList", [shape, shape], **types))
    outside, taken = [], []
    for at, output in enumerate(outputs):
        taken.append(f"condition_{at}:0")
        switch = nodes.add("switch", "Switch", [inside, taken[-1]], T=tf.variant)
        inside = nodes.edge(switch, index=output)
        outside.append(nodes.edge(switch, index=1 - output))
    push = nodes.add("push", "TensorListPushBack", [inside, VALUE], element_dtype=dtype)
    found = nodes.edge(push)
    while outside:
        merge = nodes.add("merge", "Merge", [found, outside.pop()], T=tf.variant)
        merge.attr["N"].i = 2
        found = nodes.edge(merge)
    nodes.add(f"{ADDED}/end", "Identity", [found], T=tf.variant)
    return taken


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
    nodes.add(f"{ADDED}/end", "Exit", [nodes.edge(switch)], T=tf.variant)


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
