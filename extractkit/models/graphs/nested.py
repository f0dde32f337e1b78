"""Graphs inside a traced graph: bodies of loops, branches, and nested functions.

Their tensors cannot be returned as they are, so they are listed with the reason. A graph that was
made during the trace is known already; any other is read from the function library, where a nested
`tf.function` that had been traced before is found as well.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

# There is no public way from a FunctionDef to a graph.
from tensorflow.python.framework.function_def_to_graph import function_def_to_graph

from extractkit.models.graphs.imported import AnyGraph, AnyOperation

_REASONS = {
    "While": "made inside a loop's own graph, once for each iteration",
    "If": "made inside a branch's own graph, which may not run",
    "Case": "made inside a branch's own graph, which may not run",
}
_NESTED_FUNCTION = "made inside a nested function's own graph"


@dataclass(frozen=True, eq=False)
class NestedGraph:
    """One graph that an operation of another one runs.

    Attributes:
        graph: its operations.
        caller: the operation that runs it.
        reason: why its tensors cannot be extracted: what the outermost graph around them is.
    """

    graph: tf.Graph
    caller: AnyOperation
    reason: str


def nested_graphs(graph: AnyGraph, made: Mapping[str, tf.Graph]) -> list[NestedGraph]:
    """Every graph below `graph`, each once, in the order in which operations call them.

    Args:
        made: graphs made during the trace, by name; loops and branches keep it in the library.
    """
    library = {f.signature.name: f for f in graph.as_graph_def().library.function}
    if not library:
        return []
    found: dict[str, NestedGraph] = {}

    def visit(caller_graph: AnyGraph, made: Mapping[str, tf.Graph], outer: str | None) -> None:
        for operation in caller_graph.get_operations():
            for name in _functions(operation):
                if name in found or name not in library:
                    continue
                inner = made.get(name) or _from_library(graph, library[name])
                reason = outer or _REASONS.get(
                    operation.type.removeprefix("Stateless"), _NESTED_FUNCTION
                )
                found[name] = NestedGraph(inner, operation, reason)
                # Below a copy from the library everything is a copy, so that parts match.
                visit(inner, made if name in made else {}, reason)

    visit(graph, made, None)
    return list(found.values())


def _functions(operation: AnyOperation) -> Iterator[str]:
    attributes = operation.node_def.attr
    for key in sorted(attributes):
        for function in (attributes[key].func, *attributes[key].list.func):
            if function.name:
                yield function.name


def _from_library(graph: AnyGraph, definition: Any) -> tf.Graph:
    with graph.as_default():  # where the functions that it calls in turn are known
        return function_def_to_graph(definition)
