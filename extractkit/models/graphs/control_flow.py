"""Loops and branches of TensorFlow 1: which tensors lie between Enter and Exit, Switch and Merge.

An imported graph does not remember its loops and branches; its edges tell. Where constants decide
a branch, one side of it always runs, and the other never does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from extractkit.models.graphs.control_flow_values import Range, known_ranges
from extractkit.models.graphs.imported import AnyGraph, AnyTensor

_LOOP = "made inside a loop, once for each iteration"
_BRANCH = "made inside a branch, which may not run"
_DEAD = "made inside a branch that does not run: {predicate!r} is {value}"


@dataclass(frozen=True, eq=False)
class ControlFlow:
    """What loops and branches make of a graph's operations.

    Attributes:
        reasons: why a tensor cannot be extracted, by its name (`op:0`).
        inert: names of operations whose values constants decide, or that never run.
        dead: names of those that never run.
    """

    reasons: Mapping[str, str]
    inert: frozenset[str]
    dead: frozenset[str]


@dataclass(frozen=True)
class _Side:
    """One side of a branch: which of a Switch's outputs, and whether it runs."""

    predicate: str
    output: int
    dead: bool

    @property
    def reason(self) -> str:
        if not self.dead:
            return _BRANCH
        return _DEAD.format(predicate=self.predicate, value=not self.output)


def control_flow(graph: AnyGraph, fed: frozenset[str]) -> ControlFlow:
    """Follow the edges of a graph through its loops and branches.

    Args:
        fed: names of the tensors (`op:0`) that are fed.
    """
    ranges = known_ranges(graph, fed)
    walk = _Walk(fed, ranges)
    operations = graph.get_operations()
    # An operation stands after what it consumes, but for the edges that close a loop.
    for operation in operations:
        walk.visit(operation)
    reasons: dict[str, str] = {}
    inert = set()
    for operation in operations:
        for tensor in operation.outputs:
            reason = walk.reason(tensor)
            if reason is not None:
                reasons[tensor.name] = reason
        known = [
            tensor.name in ranges and ranges[tensor.name].known for tensor in operation.outputs
        ]
        if walk.is_dead(operation) or (known and all(known)):
            inert.add(operation.name)
    dead = frozenset(operation.name for operation in operations if walk.is_dead(operation))
    return ControlFlow(reasons, frozenset(inert), dead)


class _Walk:
    """The loops and sides of branches around each operation, by its name, as far as visited."""

    def __init__(self, fed: frozenset[str], ranges: Mapping[str, Range]) -> None:
        self.frames: dict[str, tuple[str, ...]] = {}
        self.sides: dict[str, frozenset[_Side]] = {}
        self._fed = fed
        self._ranges = ranges

    def visit(self, operation: Any) -> None:
        """Tell the loops and branches around an operation from those around what it needs."""
        kind = operation.type.removeprefix("Ref")
        before = [self._before(tensor) for tensor in operation.inputs]
        # The edge that closes a loop comes from an operation that was not visited yet.
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
        sets = [sides for _, sides in data]
        merging = kind == "Merge" and sets
        around = self._merged(sets) if merging else frozenset[_Side]().union(*sets)
        self.frames[operation.name] = frame
        self.sides[operation.name] = around.union(*(sides for _, sides in control))

    def reason(self, tensor: AnyTensor) -> str | None:
        """Why a tensor has no value of its own once everything has run; None: it has."""
        frame, sides = self._before(tensor) or ((), frozenset())
        if dead := [side.reason for side in sides if side.dead]:
            return min(dead)
        if frame:
            return _LOOP
        return _BRANCH if sides else None

    def is_dead(self, operation: Any) -> bool:
        """Whether an operation never runs."""
        return any(side.dead for side in self.sides[operation.name])

    def _merged(self, sets: list[frozenset[_Side]]) -> frozenset[_Side]:
        """What a Merge passes on runs if either side does."""
        alive = [sides for sides in sets if not any(side.dead for side in sides)]
        return frozenset.intersection(*(alive or sets))

    def _before(self, tensor: AnyTensor) -> tuple[tuple[str, ...], frozenset[_Side]] | None:
        """Loops and branches around a tensor; None where its operation was not visited yet."""
        if tensor.name in self._fed:
            return (), frozenset()
        operation = tensor.op
        if operation.name not in self.frames:
            return None
        sides = self.sides[operation.name]
        # A loop's own Switch sends values on, or out of it.
        if operation.type.removeprefix("Ref") == "Switch" and not self._leaves_loop(operation):
            sides |= self._side(operation.inputs[1], tensor.value_index)
        return self.frames[operation.name], sides

    @staticmethod
    def _leaves_loop(switch: Any) -> bool:
        return bool(switch.inputs[1].op.type == "LoopCond")

    def _side(self, predicate: AnyTensor, output: int) -> frozenset[_Side]:
        decided = self._ranges.get(predicate.name)
        if decided is None or not decided.known:
            return frozenset({_Side(predicate.op.name, output, dead=False)})
        if bool(decided.low) == bool(output):
            return frozenset()
        return frozenset({_Side(predicate.op.name, output, dead=True)})
