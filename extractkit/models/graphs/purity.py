"""What depends on what in a graph: on the inputs, on random numbers, on variables assigned to."""

import re
from collections.abc import Container, Mapping, Sequence
from typing import Any

from extractkit.models.graphs.imported import AnyGraph, static_value
from extractkit.models.graphs.nested import NestedGraph, nested_graphs
from extractkit.models.graphs.rebuilding import SourceGraph

_CONTAINERS = (
    r"^LookupTable(Insert|Import|Remove)|^Queue(Enqueue|Dequeue|Close)|^IteratorGetNext"
    r"|^Reader(Read|Re)|^(Un|Map|OrderedMap|MapUn|OrderedMapUn)?[Ss]tage(NoKey)?$"
)

IMPURE = re.compile(
    r"^Assign|^Rng|^Stateful(?!PartitionedCall)|Random|Multinomial|TruncatedNormal"
    r"|^Resource(Scatter|Apply|SparseApply)|^Scatter(Nd)?(Update|Add|Sub|Mul|Div|Min|Max)"
    r"|^(Sparse)?Apply|^(Resource)?(StridedSliceAssign|CountUpTo)$"
    r"|CandidateSampler$|^SampleDistortedBoundingBox|^NonDeterministicInts$"
    rf"|{_CONTAINERS}"
)
"""Types of operations that draw random numbers, or change a variable, table, queue or iterator."""


def dependent_operations(source: SourceGraph) -> set[str]:
    """Names of the operations that depend on the inputs, if only in that they run after them.

    An operation of which a tensor is an input counts only where something before it is one, too.
    """
    after = run_after(source.graph)
    inputs = list(source.inputs.values())
    consumers = [consumer for tensor in inputs for consumer in tensor.consumers()]
    later = [operation for tensor in inputs for operation in after.get(tensor.op.name, ())]
    return downstream([*consumers, *later], after)


def impure_operations(source: SourceGraph, inert: Container[str] = frozenset()) -> set[str]:
    """Names of the operations whose values depend on random numbers, or on a variable assigned to.

    The first would be the same in every batch or different in every run, the second would depend
    on what was computed before; and the assignment would change the model. Both end at an input,
    wherever it stands in the graph.

    Args:
        inert: names of operations that hand nothing of that on, whatever goes into them.
    """
    types = operation_types(source.graph)
    sources = [
        operation
        for operation in source.graph.get_operations()
        if any(IMPURE.search(kind) for kind in types[operation.name])
    ]
    fed = frozenset(tensor.name for tensor in source.inputs.values())
    return downstream(sources, run_after(source.graph, fed), inert, fed)


def changes_containers(graph: AnyGraph) -> bool:
    """Return whether a call changes a table, queue or iterator, which nothing restores."""
    inside = operation_types(graph).values()
    return any(re.search(_CONTAINERS, kind) for kinds in inside for kind in kinds)


def operation_types(graph: AnyGraph) -> dict[str, set[str]]:
    """For each operation's name its type, and those of all operations in functions that it runs.

    The side of a branch that a constant decides against never runs.
    """
    types = {operation.name: {operation.type} for operation in graph.get_operations()}
    outermost: dict[AnyGraph, str] = {}
    # A graph is told after the one that its caller stands in.
    for nested in nested_graphs(graph, {}):
        inside = nested.caller.graph
        if (inside is not graph and inside not in outermost) or _never_runs(nested):
            continue
        caller = outermost.get(inside, nested.caller.name)
        outermost[nested.graph] = caller
        types[caller] |= {operation.type for operation in nested.graph.get_operations()}
    return types


def _never_runs(nested: NestedGraph) -> bool:
    """Whether a graph is the side of a branch that a constant decides against."""
    if nested.caller.type.removeprefix("Stateless") != "If":
        return False
    decided = static_value(nested.caller.inputs[0])
    if decided is None:
        return False
    taken = "then_branch" if decided else "else_branch"
    return bool(nested.caller.node_def.attr[taken].func.name != getattr(nested.graph, "name", ""))


def run_after(graph: AnyGraph, fed: Container[str] = frozenset()) -> dict[str, list[Any]]:
    """For an operation's name those that have to run after it, without consuming anything.

    Args:
        fed: names of tensors that are given values. Nothing waits for an operation of which they
            are all: a function is rebuilt without it. A session leaves out placeholders alone.
    """
    in_session = not hasattr(graph, "captures")
    after: dict[str, list[Any]] = {}
    for operation in graph.get_operations():
        for before in operation.control_inputs:
            left_out = _is_fed(before, fed) and (
                not in_session or before.type.startswith("Placeholder")
            )
            if not left_out:
                after.setdefault(before.name, []).append(operation)
    return after


def downstream(
    sources: Sequence[Any],
    after: Mapping[str, Sequence[Any]],
    barriers: Container[str] = frozenset(),
    fed: Container[str] = frozenset(),
) -> set[str]:
    """Names of the sources and of all that consumes them, or has to run after them.

    Args:
        after: as `run_after` gives it.
        barriers: names of operations that hand nothing on.
        fed: names of tensors that are given values, and so need nothing themselves.
    """
    found: set[str] = set()
    seen: set[str] = set()
    waiting = list(sources)
    while waiting:
        operation = waiting.pop()
        if operation.name in seen or operation.name in barriers:
            continue
        seen.add(operation.name)
        if not _is_fed(operation, fed):
            found.add(operation.name)
        waiting.extend(
            consumer
            for tensor in operation.outputs
            if tensor.name not in fed
            for consumer in tensor.consumers()
        )
        waiting.extend(after.get(operation.name, ()))
    return found


def _is_fed(operation: Any, fed: Container[str]) -> bool:
    """Whether each of an operation's results is given a value."""
    return bool(operation.outputs) and all(tensor.name in fed for tensor in operation.outputs)
