"""What depends on what in a graph: on the inputs, on random numbers, on variables assigned to."""

import re
from collections.abc import Container, Mapping, Sequence
from typing import Any

import tensorflow as tf

from extractkit.models.graphs.nested import NestedGraph, nested_graphs
from extractkit.models.graphs.rebuilding import SourceGraph

IMPURE = re.compile(
    r"^Assign|^Rng|^Stateful(?!PartitionedCall)|Random|Multinomial|TruncatedNormal"
    r"|^Resource(Scatter|Apply|SparseApply)|^Scatter(Nd)?(Update|Add|Sub|Mul|Div|Min|Max)"
    r"|^(Sparse)?Apply"
)
"""Types of operations that draw random numbers or assign to a variable."""


def dependent_operations(source: SourceGraph) -> set[str]:
    """Names of the operations that depend on the inputs, if only in that they run after them."""
    inputs = [tensor.op for tensor in source.inputs.values()]
    return downstream(inputs, run_after(source.graph))


def impure_operations(source: SourceGraph, inert: Container[str] = frozenset()) -> set[str]:
    """Names of the operations whose values depend on random numbers, or on a variable assigned to.

    The first would be the same in every batch or different in every run, the second would depend
    on what was computed before; and the assignment would change the model.

    Args:
        inert: names of operations that hand nothing of that on, whatever goes into them.
    """
    types = operation_types(source.graph)
    sources = [
        operation
        for operation in source.graph.get_operations()
        if any(IMPURE.search(kind) for kind in types[operation.name])
    ]
    return downstream(sources, run_after(source.graph), inert)


def operation_types(graph: tf.Graph) -> dict[str, set[str]]:
    """For each operation's name its type, and those of all operations in functions that it runs.

    The side of a branch that a constant decides against never runs.
    """
    types = {operation.name: {operation.type} for operation in graph.get_operations()}
    outermost: dict[tf.Graph, str] = {}
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
    decided = tf.get_static_value(nested.caller.inputs[0])
    if decided is None:
        return False
    taken = "then_branch" if decided else "else_branch"
    return bool(nested.caller.node_def.attr[taken].func.name != getattr(nested.graph, "name", ""))


def run_after(graph: tf.Graph) -> dict[str, list[Any]]:
    """For an operation's name those that have to run after it, without consuming anything."""
    after: dict[str, list[Any]] = {}
    for operation in graph.get_operations():
        for before in operation.control_inputs:
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
    waiting = list(sources)
    while waiting:
        operation = waiting.pop()
        outputs = [tensor for tensor in operation.outputs if tensor.name not in fed]
        replaced = operation.outputs and not outputs
        if operation.name in found or operation.name in barriers or replaced:
            continue
        found.add(operation.name)
        waiting.extend(consumer for tensor in outputs for consumer in tensor.consumers())
        waiting.extend(after.get(operation.name, ()))
    return found
