"""Shapes of values inside loops, branches and nested functions.

One step of each loop, and each branch, is copied into the graph, where TensorFlow infers the shapes
in it. The number of steps is known if the loop counts up to a limit that does not change.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from extractkit.models.axes import RawShape
from extractkit.models.graphs import (
    COLOCATION,
    CONDITIONALS,
    INSIDE,
    LOOPS,
    is_handle,
    leading_axes,
)
from extractkit.models.graphs.definitions import (
    ADDED,
    Nodes,
    data_inputs,
    outputs_of,
    returning,
    split_role,
)


@dataclass(frozen=True)
class Limit:
    """A limit that a loop counts up to, one by one.

    Attributes:
        start: The first number.
        end: The edge of the limit, next to the loop. None if it is `constant`.
        constant: The limit, if the condition contains it.
        dtype: The type of the numbers.
        included: Whether the loop runs a step at the limit.
    """

    start: int
    end: str | None
    constant: int
    dtype: tf.DType
    included: bool

    def steps(self, end: int) -> int:
        """Return the number of steps up to a limit."""
        return max(0, end - self.start + self.included)


_COMPARISONS = {
    "Less": (0, 1, False),
    "LessEqual": (0, 1, True),
    "Greater": (1, 0, False),
    "GreaterEqual": (1, 0, True),
}


def limits_of(nodes: Nodes, loop: Any, body: Nodes, condition: Nodes) -> list[Limit] | None:
    """Return the limits of a loop. The first that is reached ends it. None if others may end it."""
    waiting = [next(iter(condition.function.ret.values()))]
    found = []
    while waiting:
        node = condition.producer(waiting.pop())
        if node is not None and node.op == "LogicalAnd":
            waiting += node.input[:2]
            continue
        limit = None if node is None else _limit(nodes, loop, body, condition, node)
        if limit is None:
            return None
        found.append(limit)
    return found


def _limit(nodes: Nodes, loop: Any, body: Nodes, condition: Nodes, node: Any) -> Limit | None:
    if node.op not in _COMPARISONS:
        return None
    counted, limiting, included = _COMPARISONS[node.op]
    dtype = tf.as_dtype(node.attr["T"].type)
    counter = condition.argument(node.input[counted])
    if counter is None or dtype not in (tf.int32, tf.int64) or not _counts(body, counter):
        return None
    start = _constant(nodes.producer(loop.input[counter]))
    if start is None:
        return None
    fixed = _constant(condition.producer(node.input[limiting]))
    if fixed is not None:
        return Limit(start, None, fixed, dtype, included)
    end = condition.argument(node.input[limiting])
    if end is None or body.argument(_returned(body, end)) != end:
        return None
    return Limit(start, loop.input[end], 0, dtype, included)


def _counts(body: Nodes, position: int) -> bool:
    """Return whether the body adds one to the loop variable."""
    node = body.producer(_returned(body, position))
    if node is None or node.op not in ("Add", "AddV2"):
        return False
    one, other = node.input[:2]
    if body.argument(one) != position:
        one, other = other, one
    return body.argument(one) == position and _constant(body.producer(other)) == 1


def _returned(body: Nodes, position: int) -> str:
    signature = body.function.signature
    return str(body.function.ret[signature.output_arg[position].name])


def _constant(node: Any) -> int | None:
    """Return the value of a node that is a constant integer; None for any other."""
    if node is None or node.op != "Const":
        return None
    value = tf.make_ndarray(node.attr["value"].tensor)
    return int(value) if value.ndim == 0 and value.dtype.kind == "i" else None


@dataclass(frozen=True)
class StepShapes:
    """Where the shapes of an inner tensor are found in a graph with one step of each loop.

    Attributes:
        element: The name of the tensor of one step.
        limits: For each of its axes in front, the limits of the loop, each with the name of a
            tensor as long as it, or None. None if the length of the axis is not known.
        unchanged: Pairs of tensors. The step is like every other if the shapes of each pair agree.
    """

    element: str
    limits: Sequence[Sequence[tuple[Limit, str | None]] | None]
    unchanged: Sequence[tuple[str, str]]

    def of(self, shapes: Mapping[str, RawShape]) -> RawShape:
        """Return the shape of all steps.

        Args:
            shapes: The shapes of the graph's tensors by name.
        """
        element = shapes[self.element]
        if element is None:
            return None
        if any(shapes[one] != shapes[other] for one, other in self.unchanged):
            return (None,) * (len(self.limits) + len(element))
        return (*(_number(limits, shapes) for limits in self.limits), *element)


def _number(
    limits: Sequence[tuple[Limit, str | None]] | None, shapes: Mapping[str, RawShape]
) -> int | None:
    """Return the number of steps of a loop, or None if it is not known."""
    counts = []
    for limit, name in limits or ():
        ends = (limit.constant,) if name is None else shapes[name]
        if ends is None or ends[0] is None:
            return None
        counts.append(limit.steps(ends[0]))
    return min(counts, default=None)


def add_one_step(graph_def: Any, names: Iterable[str]) -> dict[str, StepShapes]:
    """Copy one step of each loop around inner tensors into a graph, which is changed in place.

    Args:
        names: Names of inner tensors, whose operations the graph contains.
    """
    copying = _Copying(graph_def)
    return {name: copying.shapes(tuple(name.split(INSIDE))) for name in names}


@dataclass(frozen=True)
class _Copy:
    """A copy of a function's body in a graph.

    Attributes:
        prefix: What the names of its nodes begin with.
        function: The function.
        edges: The edge in the graph for each edge of the function.
        limits, unchanged: See `StepShapes`. Without a loop, there are none.
        kind: The type of the operation that runs it.
    """

    prefix: str
    function: Any
    edges: Mapping[str, str]
    limits: Sequence[tuple[Limit, str | None]] | None
    unchanged: Sequence[tuple[str, str]]
    kind: str

    def tensor(self, place: str) -> str:
        """Return the name of the copied tensor; see `InnerTensors`."""
        if not place.isdecimal():
            return f"{self.prefix}{place}"
        return _tensor(self.edges[self.function.signature.input_arg[int(place)].name])


class _Copying:
    """Copies of functions' bodies in a graph, one for each operation that runs them."""

    def __init__(self, graph_def: Any) -> None:
        self._nodes = Nodes(graph_def.node, None)
        self._functions = {one.signature.name: one for one in graph_def.library.function}
        self._copies: dict[tuple[str, ...], _Copy] = {}

    def shapes(self, path: tuple[str, ...]) -> StepShapes:
        """Return where the shapes of the inner tensor at a path are found."""
        *callers, place = path
        if not callers[0]:  # a loop or branch of TensorFlow 1, which is in the graph itself
            return StepShapes(place, [None], ())
        copies = [self._copy(tuple(callers[: at + 1])) for at in range(len(callers))]
        loops = iter([one.limits for one in copies if one.kind in LOOPS])
        axes, varying = leading_axes([one.kind for one in copies])
        limits = [next(loops, None) for _ in axes]
        limits = [None if at in varying else one for at, one in enumerate(limits)]
        unchanged = [pair for one in copies for pair in one.unchanged]
        return StepShapes(copies[-1].tensor(place), limits, unchanged)

    def _copy(self, path: tuple[str, ...]) -> _Copy:
        if path not in self._copies:
            prefix = self._copies[path[:-1]].prefix if len(path) > 1 else ""
            name, role = split_role(path[-1])
            self._copies[path] = self._copied(self._nodes[f"{prefix}{name}"], role)
        return self._copies[path]

    def _copied(self, caller: Any, role: str) -> _Copy:
        function = self._functions[returning(caller)[role].name]
        prefix = f"{self._nodes.unused(f'{caller.name}/{ADDED}')}/"
        given = data_inputs(caller)[caller.op in CONDITIONALS :]
        names = [one.name for one in function.signature.input_arg]
        loop = caller.op in LOOPS
        taken = self._at_any_step(caller, function, given) if loop else given
        edges = dict(zip(names, taken, strict=True))
        for node in function.node_def:
            for index, (output, at, _) in enumerate(outputs_of(node, self._functions)):
                edges[f"{node.name}:{output}:{at}"] = f"{prefix}{node.name}:{index}"
        for node in function.node_def:
            data = [edges[edge] for edge in node.input if not edge.startswith("^")]
            copy = self._nodes.add(f"{prefix}{node.name}", node.op, data)
            for key, value in node.attr.items():
                if key != COLOCATION:
                    copy.attr[key].CopyFrom(value)
        if not loop:
            return _Copy(prefix, function, edges, (), (), caller.op)
        ends = [edges[function.ret[one.name]] for one in function.signature.output_arg]
        unchanged = [
            (_tensor(start), _tensor(end))
            for start, end, kind in zip(given, ends, caller.attr["T"].list.type, strict=True)
            if start != end and not is_handle(tf.as_dtype(kind))
        ]
        limits = self._limits(caller, function)
        return _Copy(prefix, function, edges, limits, unchanged, caller.op)

    def _at_any_step(self, loop: Any, function: Any, given: Sequence[str]) -> list[str]:
        """Return the edges into a step, of which numbers that change have no constant value.

        TensorFlow would infer shapes that hold at the first step alone.
        """
        results = [function.ret[one.name] for one in function.signature.output_arg]
        body = Nodes(function.node_def, function)
        shapes = loop.attr["output_shapes"].list.shape
        edges = list(given)
        for at, kind in enumerate(loop.attr["T"].list.type):
            whole = tf.as_dtype(kind).is_integer and body.argument(results[at]) != at
            if whole and at < len(shapes):
                any_step = self._nodes.add(f"{loop.name}/{ADDED}/number", "Placeholder", ())
                any_step.attr["dtype"].type = kind
                any_step.attr["shape"].shape.CopyFrom(shapes[at])
                edges[at] = any_step.name
        return edges

    def _limits(self, loop: Any, function: Any) -> list[tuple[Limit, str | None]] | None:
        """Return the limits of a loop, each with a new tensor as long as the limit."""
        condition = self._functions[loop.attr["cond"].func.name]
        within = [Nodes(one.node_def, one) for one in (function, condition)]
        limits = limits_of(self._nodes, loop, *within)
        if limits is None:
            return None
        return [(one, None if one.end is None else self._as_long(loop, one)) for one in limits]

    def _as_long(self, loop: Any, limit: Limit) -> str:
        """Add a tensor as long as a limit. TensorFlow infers its shape from constants."""
        name, add = f"{loop.name}/{ADDED}", self._nodes.add
        one = self._nodes.constant(f"{name}/one", [1], tf.int32)
        filler = self._nodes.constant(f"{name}/false", False, tf.bool)
        assert limit.end is not None
        row = add(f"{name}/row", "Reshape", [limit.end, one.name], T=limit.dtype, Tshape=tf.int32)
        fill = [row.name, filler.name]
        long = add(f"{name}/long", "Fill", fill, T=tf.bool, index_type=limit.dtype)
        return f"{long.name}:0"


def _tensor(edge: str) -> str:
    """Return the tensor's name for an edge of a graph, where `op` is short for `op:0`."""
    return edge if ":" in edge else f"{edge}:0"
