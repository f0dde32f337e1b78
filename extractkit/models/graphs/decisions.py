"""Decisions that the samples of a batch take together, by their values.

A conditional takes one branch in a call, and a loop runs one number of steps. If values of the
inputs decide this, they do so for the whole batch. A few samples may not show it, since all of them
may decide alike, so it follows from the graph which tensors come after such a decision.

A loop that counts up to a limit is not a decision, even if values determine the limit, as the
longest sample of a batch does: a model masks what is beyond a sample's own end, which any two
samples of different lengths show. Nor is what a loop over the samples decides for each of them.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from enum import IntEnum
from functools import cached_property
from typing import Any, NamedTuple

from extractkit.models.graphs import CONDITIONALS, LOOPS, InnerTensor, is_tensor
from extractkit.models.graphs.control_flow import nested_graphs
from extractkit.models.graphs.definitions import CALLS, functions_of
from extractkit.models.graphs.rebuilding import SourceGraph


class Dependence(IntEnum):
    """What a tensor depends on. Each value includes those before it."""

    NOTHING = 0
    SIZES = 1
    VALUES = 2
    DECISION = 3


class _Level(NamedTuple):
    """The dependence of a tensor, and the clause that describes the decision, if any."""

    on: Dependence
    decision: str = ""


_NOTHING, _SIZES, _VALUES = (
    _Level(one) for one in (Dependence.NOTHING, Dependence.SIZES, Dependence.VALUES)
)
_MEASURES = ("Shape", "ShapeN", "Size", "Rank", "TensorListLength", "TensorArraySizeV3")
"""Types of operations whose results are sizes. If values determine these, that can be measured."""

_Levels = dict[str, _Level]


class Decisions:
    """What the tensors of a graph, and inside its functions, depend on.

    Args:
        source: The graph.
        by_sample: Names of tensors (`op:0`) whose first axis is that of the samples.
    """

    def __init__(self, source: SourceGraph, by_sample: Container[str] = frozenset()) -> None:
        self._graph = source.graph
        self._fed = {tensor.name for tensor in source.inputs.values()}
        self._by_sample = by_sample
        self._inside: dict[str, _Levels] = {}
        self._ending: set[tuple[str, str]] = set()
        self._results: dict[tuple[str, bool, tuple[_Level, ...]], list[_Level]] = {}

    def before(self, value: Any) -> str | None:
        """Return, as a clause, a decision that a value comes after; None if there is none."""
        if not is_tensor(value):
            return None
        tensor = value.inner if isinstance(value, InnerTensor) else value
        return self._level(tensor).decision or None

    def depends(self, tensor: Any) -> bool:
        """Return whether a tensor depends on the inputs, be it on their sizes."""
        return self._level(tensor).on > Dependence.NOTHING

    def end(self, loop: Any) -> bool:
        """Return whether values of the inputs decide when a loop ends, other than its limit."""
        assert self._main is not None  # which finds these loops
        return _place(loop) in self._ending

    def _level(self, tensor: Any) -> _Level:
        main = self._main  # which fills the levels inside
        if tensor.graph is self._graph:
            return main.get(tensor.name, _NOTHING)
        inside = self._inside.get(tensor.graph.name)
        return _VALUES if inside is None else inside.get(tensor.name, _NOTHING)

    @cached_property
    def _functions(self) -> Mapping[str, Any]:
        return {one.graph.name: one.graph for one in nested_graphs(self._graph, {})}

    @cached_property
    def _main(self) -> _Levels:
        levels = dict.fromkeys(self._fed, _VALUES)
        operations = self._graph.get_operations()
        if not self._functions and not any("Switch" in one.type for one in operations):
            return levels
        before: _Levels = {}
        while before != levels:  # loops of TensorFlow 1 have back edges
            before = dict(levels)
            self._propagate(operations, levels, apart=False)
        return levels

    def _propagate(self, operations: Sequence[Any], levels: _Levels, *, apart: bool) -> None:
        """Enter the levels of operations' results.

        Args:
            apart: Whether samples are computed one by one.
        """
        for operation in operations:
            taken = [levels.get(tensor.name, _NOTHING) for tensor in operation.inputs]
            if operation.type == "Const":
                taken = [levels.get(one.name, _NOTHING) for one in _pivots(operation)]
            found = self._of_operation(operation, taken, levels, apart=apart)
            for tensor, level in zip(operation.outputs, found, strict=True):
                levels[tensor.name] = max(level, levels.get(tensor.name, _NOTHING))

    def _of_operation(
        self, operation: Any, taken: Sequence[_Level], levels: _Levels, *, apart: bool
    ) -> Sequence[_Level]:
        """Return the levels of an operation's results from those of its inputs."""
        kind, count = operation.type.removeprefix("Ref"), len(operation.outputs)
        functions = {role: one.name for role, one in functions_of(operation.node_def).items()}
        known = bool(functions) and all(one in self._functions for one in functions.values())
        if known and kind in CALLS:
            return self._run(functions["f"], taken, apart=apart)
        if known and kind in CONDITIONALS:
            branches = [self._run(one, taken[1:], apart=apart) for one in functions.values()]
            chosen = _decided(taken[0], f"which branch {operation.name!r} takes", apart=apart)
            return [max(chosen, *results) for results in zip(*branches, strict=True)]
        if known and kind in LOOPS:
            return self._of_loop(operation, functions, taken, apart=apart)
        level = max(taken, default=_NOTHING)
        if kind in _MEASURES:
            level = min(level, _SIZES) if level.on < Dependence.DECISION else level
        elif kind == "Switch":
            value, predicate = taken
            in_loop = operation.inputs[1].op.type == "LoopCond"
            name = operation.inputs[1].op.name
            chosen = _decided(predicate, f"which branch of {name!r} is taken", apart=apart)
            level = value if in_loop else max(value, chosen)
        elif kind == "Exit" and (condition := _condition(operation)) is not None:
            tested = max(
                (levels.get(one, _NOTHING) for one in _tested(condition)), default=_NOTHING
            )
            if tested.on >= Dependence.VALUES:
                self._ending.add(_place(condition))
            steps = _decided(tested, f"how many steps {condition.name!r} runs", apart=apart)
            level = max(level, steps)
        return [level] * count

    def _of_loop(
        self, loop: Any, functions: Mapping[str, str], taken: Sequence[_Level], *, apart: bool
    ) -> list[_Level]:
        body, within = self._functions[functions["body"]], list(taken)
        apart = apart or (loop.graph is self._graph and self._is_over_samples(loop, body))
        before: list[_Level] = []
        while before != within:
            before = within
            results = self._run(functions["body"], before, apart=apart)
            within = [max(pair) for pair in zip(before, results, strict=True)]
        changing = [not _passes_on(body, at) for at in range(len(within))]
        pairs = list(zip(within, changing, strict=True))
        limited = [level if changes else _NOTHING for level, changes in pairs]
        (tested,) = self._run(functions["cond"], limited, apart=apart)
        (counted,) = self._run(functions["cond"], within, apart=apart)
        if tested.on >= Dependence.VALUES:
            self._ending.add(_place(loop))
        steps = _decided(tested, f"how many steps {loop.name!r} runs", apart=apart)
        steps = max(steps, counted)
        return [max(level, steps) if changes else level for level, changes in pairs]

    def _run(self, name: str, taken: Sequence[_Level], *, apart: bool) -> list[_Level]:
        """Return the levels of a function's results, and record those inside."""
        key = (name, apart, tuple(taken))
        if key not in self._results:
            graph = self._functions[name]
            levels = {tensor.name: level for tensor, level in zip(graph.inputs, taken, strict=True)}
            self._propagate(graph.get_operations(), levels, apart=apart)
            recorded = self._inside.setdefault(name, {})
            for one, level in levels.items():
                recorded[one] = max(level, recorded.get(one, _NOTHING))
            self._results[key] = [levels.get(one.name, _NOTHING) for one in graph.outputs]
        return self._results[key]

    def _is_over_samples(self, loop: Any, body: Any) -> bool:
        """Return whether each step of a loop computes one sample, as in `tf.map_fn`.

        It reads lists of samples, and all that it changes is a counter and entries of lists.
        """
        read = []
        for at, (given, result) in enumerate(zip(loop.inputs, body.outputs, strict=True)):
            made = _source(result).op
            if given.op.type == "TensorListFromTensor":
                read.append(given.op.inputs[0].name in self._by_sample)
            sets = made.type == "TensorListSetItem" and made.inputs[0] is body.inputs[at]
            if not (_passes_on(body, at) or sets or _counts(made, body.inputs[at])):
                return False
        return bool(read) and all(read)


def _place(operation: Any) -> tuple[str, str]:
    """Return the names of an operation's graph and of the operation."""
    return str(getattr(operation.graph, "name", "")), operation.name


def _decided(level: _Level, decision: str, *, apart: bool) -> _Level:
    """Return the level of what a predicate of some level decides."""
    if level.on is Dependence.VALUES and not apart:
        return _Level(Dependence.DECISION, decision)
    return level


def _source(tensor: Any) -> Any:
    """Return the tensor that identities pass on."""
    while tensor.op.type == "Identity":
        tensor = tensor.op.inputs[0]
    return tensor


def _passes_on(body: Any, position: int) -> bool:
    """Return whether a loop's body leaves a loop variable unchanged."""
    return _source(body.outputs[position]) is body.inputs[position]


def _counts(made: Any, variable: Any) -> bool:
    """Return whether an operation adds a constant to a loop variable."""
    others = [one for one in made.inputs if _source(one) is not variable]
    return (
        made.type in ("Add", "AddV2") and len(others) == 1 and _source(others[0]).op.type == "Const"
    )


# ---- loops and branches of TensorFlow 1


def _pivots(constant: Any) -> Iterator[Any]:
    """Yield the results of a `Switch` in whose branch a constant is."""
    for before in constant.control_inputs:
        made = _source(before.outputs[0]) if before.type == "Identity" else None
        if made is not None and made.op.type.removeprefix("Ref") == "Switch":
            yield made


def _condition(end: Any) -> Any:
    """Return the `LoopCond` of an `Exit`; None if it has none."""
    switch = end.inputs[0].op
    if switch.type.removeprefix("Ref") != "Switch":
        return None
    condition = switch.inputs[1].op
    return condition if condition.type == "LoopCond" else None


def _tested(condition: Any) -> Iterator[str]:
    """Yield the names of the loop variables, changed by steps, that a loop's condition reads."""
    seen, waiting = set(), list(condition.inputs)
    while waiting:
        tensor = waiting.pop()
        kind = tensor.op.type.removeprefix("Ref")
        if tensor.name in seen or kind == "Enter":
            continue
        seen.add(tensor.name)
        if kind != "Merge":
            waiting += tensor.op.inputs
        elif not _is_passed_on(tensor):
            yield tensor.name


def _is_passed_on(merge: Any) -> bool:
    """Return whether steps leave the loop variable of a `Merge` unchanged."""
    back = merge.op.inputs[-1].op
    if not back.inputs:
        return False
    switch = _source(back.inputs[0]).op
    return switch.type.removeprefix("Ref") == "Switch" and switch.inputs[0] is merge
