"""Control flow in graphs: loops, branches and nested functions.

Loops and branches of an imported graph are recognized by its edges. For the values inside them, see
`graphs.loops`.

Ranges of values are propagated through the graph. They show which side of a branch never runs, and
that dropout which keeps everything is not random: it adds 1 to a random number below 1 and rounds
down, or tests whether the number is at least 0.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import tensorflow as tf

from extractkit.models.graphs import (
    CONDITIONALS,
    AnyGraph,
    AnyOperation,
    AnyTensor,
    static_value,
)
from extractkit.models.graphs.definitions import functions_of
from extractkit.models.tensorflow_internals import graph_of

_REASONS = {
    "While": "made inside a loop's own graph, once for each iteration",
    "If": "made inside a branch's own graph, which may not run",
    "Case": "made inside a branch's own graph, which may not run",
}
_NESTED_FUNCTION = "made inside a nested function's own graph"
_DEAD = "made inside a branch that does not run: {predicate!r} is {value}"


@dataclass(frozen=True, eq=False)
class NestedGraph:
    """One graph that an operation of another one runs.

    Attributes:
        graph: The graph.
        caller: The operation that runs it.
        reason: Why its tensors cannot be extracted, unless the operation can return them.
    """

    graph: tf.Graph
    caller: AnyOperation
    reason: str

    @cached_property
    def role(self) -> str:
        """The role of its function for the operation; see `functions_of`."""
        functions = functions_of(self.caller.node_def)
        return next((role for role, one in functions.items() if one.name == self._name), "")

    @cached_property
    def why_dead(self) -> str | None:
        """The reason if it is a branch that a constant excludes; None for any other graph."""
        if self.caller.type not in CONDITIONALS:
            return None
        predicate = self.caller.inputs[0]
        value = static_value(predicate)
        if value is None:
            return None
        functions = functions_of(self.caller.node_def)
        if "then_branch" in functions:
            taken = "then_branch" if value else "else_branch"
        else:  # any other number is that of the last branch
            at = int(value)
            taken = f"branches.{at if 0 <= at < len(functions) else len(functions) - 1}"
        if functions[taken].name == self._name:
            return None
        return _DEAD.format(predicate=predicate.op.name, value=value)

    @property
    def _name(self) -> str:
        return str(getattr(self.graph, "name", ""))


def nested_graphs(graph: AnyGraph, made: Mapping[str, tf.Graph]) -> list[NestedGraph]:
    """Return every graph nested in `graph`, each once, in the order of calls.

    Args:
        made: Graphs made during the trace, by name. Others are read from the function library.
    """
    library = {f.signature.name: f for f in graph.as_graph_def().library.function}
    if not library:
        return []
    found: dict[str, NestedGraph] = {}

    def visit(caller_graph: AnyGraph, made: Mapping[str, tf.Graph]) -> None:
        for operation in caller_graph.get_operations():
            for name in _functions(operation):
                if name in found or name not in library:
                    continue
                inner = made.get(name) or _from_library(graph, library[name])
                kind = operation.type.removeprefix("Stateless")
                reason = _REASONS.get(kind, _NESTED_FUNCTION)
                found[name] = NestedGraph(inner, operation, reason)
                # Everything nested in a copy from the library is a copy too, so that parts match.
                visit(inner, made if name in made else {})

    visit(graph, made)
    return list(found.values())


def _functions(operation: AnyOperation) -> Iterator[str]:
    attributes = operation.node_def.attr
    for key in sorted(attributes):
        for function in (attributes[key].func, *attributes[key].list.func):
            if function.name:
                yield function.name


def _from_library(graph: AnyGraph, definition: Any) -> tf.Graph:
    with graph.as_default():  # which has the library of the functions that it calls
        return graph_of(definition)


@dataclass(frozen=True)
class Range:
    """The range low … high of a tensor's elements, without `high` itself if `below`."""

    low: float
    high: float
    below: bool = False

    @property
    def known(self) -> bool:
        """Whether all elements have the same known value."""
        return self.low == self.high and not self.below


_RANDOM = ("RandomUniform", "StatelessRandomUniform", "StatelessRandomUniformV2")
_PASS = ("Identity", "Enter", "Switch", "StopGradient", "PlaceholderWithDefault", "Cast")


def known_ranges(graph: AnyGraph, fed: frozenset[str]) -> dict[str, Range]:
    """Return the known ranges of tensors by name (`op:0`).

    Args:
        fed: Names of the tensors that are fed, whose values are not known.
    """
    ranges: dict[str, Range] = {}
    for operation in graph.get_operations():
        found = _range(operation, [ranges.get(tensor.name) for tensor in operation.inputs])
        if found is not None:
            ranges |= {t.name: found for t in operation.outputs if t.name not in fed}
    return ranges


def _range(operation: Any, inputs: list[Range | None]) -> Range | None:
    kind = operation.type.removeprefix("Ref")
    if kind == "Const":
        return _constant(operation.outputs[0])
    if kind in _RANDOM and operation.outputs[0].dtype.is_floating:
        return Range(0.0, 1.0, below=True)
    given = [one for one in inputs if one is not None]
    if len(given) != len(inputs) and kind != "Switch":
        return None
    if kind in _PASS:
        # A conversion may round up to the excluded bound.
        exact = inputs[0] is not None and (kind != "Cast" or inputs[0].known)
        return inputs[0] if exact else None
    rule = _RULES.get(kind)
    return None if rule is None else rule(*given)


def _constant(tensor: AnyTensor) -> Range | None:
    dtype = tensor.dtype
    if tensor.shape.num_elements() != 1 or not (
        dtype.is_floating or dtype.is_integer or dtype.is_bool
    ):
        return None
    value = float(static_value(tensor).reshape(-1)[0])
    return None if math.isnan(value) else Range(value, value)


def _sum(one: Range, other: Range) -> Range:
    return Range(one.low + other.low, one.high + other.high, one.below or other.below)


def _difference(one: Range, other: Range) -> Range | None:
    if not other.known:
        return None
    return Range(one.low - other.low, one.high - other.low, one.below)


def _product(one: Range, other: Range) -> Range | None:
    if not other.known:
        one, other = other, one
    if not other.known or other.low <= 0:
        return None
    return Range(one.low * other.low, one.high * other.low, one.below)


def _floor(one: Range) -> Range | None:
    if not math.isfinite(one.low) or not math.isfinite(one.high):
        return None
    highest = math.ceil(one.high) - 1 if one.below else math.floor(one.high)
    return Range(math.floor(one.low), highest)


def _at_least(one: Range, other: Range) -> Range | None:
    if one.low >= other.high:
        return Range(1.0, 1.0)
    return Range(0.0, 0.0) if one.high < other.low else None


def _not(one: Range) -> Range | None:
    return Range(1 - one.low, 1 - one.low) if one.known else None


_RULES: Mapping[str, Callable[..., Range | None]] = {
    "Add": _sum,
    "AddV2": _sum,
    "Sub": _difference,
    "Mul": _product,
    "Floor": _floor,
    "GreaterEqual": _at_least,
    "LogicalNot": _not,
}

# Their results are missing at some step.
_BETWEEN_STEPS = ("Enter", "Switch", "Exit", "NextIteration", "LoopCond")

_LOOP = "made inside a loop, once for each iteration"
_BRANCH = "made inside a branch, which may not run"


@dataclass(frozen=True, eq=False)
class ControlFlow:
    """The effects of loops and branches on a graph's operations.

    Attributes:
        reasons: Why a tensor cannot be extracted, by its name (`op:0`).
        inert: Names of operations that never run, or whose values are constant.
        dead: Names of operations that never run.
        steps: The operation (`LoopCond`) that decides how often a tensor is made, by its name, for
            tensors that each step of one loop makes once.
        branches: For tensors in branches outside of loops, by name, the tensor that decides each
            branch, outermost first, and the output of its `Switch` that leads into the branch.
    """

    reasons: Mapping[str, str]
    inert: frozenset[str]
    dead: frozenset[str]
    steps: Mapping[str, str]
    branches: Mapping[str, tuple[tuple[str, int], ...]]


@dataclass(frozen=True)
class _Side:
    """One side of a branch: what decides, the output of a Switch, and whether it never runs."""

    predicate: str
    output: int
    dead: bool

    @property
    def reason(self) -> str:
        if not self.dead:
            return _BRANCH
        predicate = self.predicate.partition(":")[0]
        return _DEAD.format(predicate=predicate, value=not self.output)


def control_flow(graph: AnyGraph, fed: frozenset[str]) -> ControlFlow:
    """Find the loops and branches of a graph by its edges.

    Args:
        fed: Names of the tensors (`op:0`) that are fed.
    """
    ranges = known_ranges(graph, fed)
    walk = _Walk(fed, ranges)
    operations = graph.get_operations()
    # Operations are in topological order, except for the back edges of loops.
    for operation in operations:
        walk.visit(operation)
    reasons: dict[str, str] = {}
    steps: dict[str, str] = {}
    branches: dict[str, tuple[tuple[str, int], ...]] = {}
    inert = set()
    for operation in operations:
        for tensor in operation.outputs:
            reason = walk.reason(tensor)
            if reason is not None:
                reasons[tensor.name] = reason
            condition = walk.condition(tensor)
            if condition is not None:
                steps[tensor.name] = condition
            if sides := walk.branches(tensor):
                branches[tensor.name] = sides
        known = [
            tensor.name in ranges and ranges[tensor.name].known for tensor in operation.outputs
        ]
        if walk.is_dead(operation) or (known and all(known)):
            inert.add(operation.name)
    dead = frozenset(operation.name for operation in operations if walk.is_dead(operation))
    return ControlFlow(reasons, frozenset(inert), dead, steps, branches)


class _Walk:
    """The loops and sides of branches around each visited operation, by name."""

    def __init__(self, fed: frozenset[str], ranges: Mapping[str, Range]) -> None:
        self.frames: dict[str, tuple[str, ...]] = {}
        self.sides: dict[str, frozenset[_Side]] = {}
        self.conditions: dict[tuple[str, ...], str] = {}
        self._fed = fed
        self._ranges = ranges

    def visit(self, operation: Any) -> None:
        """Derive the loops and branches around an operation from those around its inputs."""
        kind = operation.type.removeprefix("Ref")
        before = [self._before(tensor) for tensor in operation.inputs]
        # The back edge of a loop comes from an operation that is not visited yet.
        data = [one for one in before if one is not None]
        control = [
            (self.frames[op.name], self.sides[op.name])
            for op in operation.control_inputs
            if op.name in self.frames
        ]
        frame = max((frame for frame, _ in data + control), key=len, default=())
        if kind == "Enter":
            frame = (*frame, operation.node_def.attr["frame_name"].s.decode())
        elif kind == "Exit":
            frame = frame[:-1]
        if kind == "LoopCond":
            self.conditions[frame] = operation.name
        sets = [sides for _, sides in data]
        merging = kind == "Merge" and sets
        around = self._merged(sets) if merging else frozenset[_Side]().union(*sets)
        self.frames[operation.name] = frame
        self.sides[operation.name] = around.union(*(sides for _, sides in control))

    def reason(self, tensor: AnyTensor) -> str | None:
        """Return why a tensor has no single value after a run, or None if it has one."""
        frame, sides = self._before(tensor) or ((), frozenset())
        if dead := [side.reason for side in sides if side.dead]:
            return min(dead)
        if frame:
            return _LOOP
        return _BRANCH if sides else None

    def condition(self, tensor: AnyTensor) -> str | None:
        """Return the condition of the loop around a tensor that each of its steps makes once."""
        frame, sides = self._before(tensor) or ((), frozenset())
        passes = tensor.op.type.removeprefix("Ref") in _BETWEEN_STEPS
        return None if len(frame) != 1 or sides or passes else self.conditions.get(frame)

    def branches(self, tensor: AnyTensor) -> tuple[tuple[str, int], ...]:
        """Return the branches around a tensor outside of loops; see `ControlFlow`.

        None are returned for what never runs.
        """
        frame, sides = self._before(tensor) or ((), frozenset())
        if frame or any(side.dead for side in sides):
            return ()
        # What decides an inner branch is inside the outer ones.
        ordered = sorted(sides, key=lambda side: (self._depth(side), side.predicate, side.output))
        return tuple((side.predicate, side.output) for side in ordered)

    def _depth(self, side: _Side) -> int:
        return len(self.sides.get(side.predicate.partition(":")[0], ()))

    def is_dead(self, operation: Any) -> bool:
        """Return whether an operation never runs."""
        return any(side.dead for side in self.sides[operation.name])

    def _merged(self, sets: list[frozenset[_Side]]) -> frozenset[_Side]:
        """Combine the sides of a Merge's inputs: its result is computed if either side runs."""
        alive = [sides for sides in sets if not any(side.dead for side in sides)]
        return frozenset.intersection(*(alive or sets))

    def _before(self, tensor: AnyTensor) -> tuple[tuple[str, ...], frozenset[_Side]] | None:
        """Return the loops and branches around a tensor, or None if it is not visited yet."""
        if tensor.name in self._fed:
            return (), frozenset()
        operation = tensor.op
        if operation.name not in self.frames:
            return None
        sides = self.sides[operation.name]
        # A loop's own Switch passes values to the next iteration or out of the loop.
        if operation.type.removeprefix("Ref") == "Switch" and not self._leaves_loop(operation):
            sides |= self._side(operation.inputs[1], tensor.value_index)
        return self.frames[operation.name], sides

    @staticmethod
    def _leaves_loop(switch: Any) -> bool:
        return bool(switch.inputs[1].op.type == "LoopCond")

    def _side(self, predicate: AnyTensor, output: int) -> frozenset[_Side]:
        decided = self._ranges.get(predicate.name)
        if decided is None or not decided.known:
            return frozenset({_Side(predicate.name, output, dead=False)})
        if bool(decided.low) == bool(output):
            return frozenset()
        return frozenset({_Side(predicate.name, output, dead=True)})
