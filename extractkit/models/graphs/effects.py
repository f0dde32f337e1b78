"""Operations of a graph that are no functions of what is fed: files, queues, Python, training."""

import re
from collections.abc import Container, Mapping
from typing import Any

import tensorflow as tf

_EFFECT = (
    r"^(Assign|Save|MergeV2Checkpoints|Apply|SparseApply|ResourceApply"
    r"|ResourceSparseApply|Scatter(Update|Add|Sub|Mul|Div|Min|Max)|ResourceScatter|InitializeTable"
    r"|LookupTable(Insert|Import|Remove)|Write|Send$|_Send|Stage|Summary(Writer)?$|CountUpTo)"
)
_EFFECTS = re.compile(_EFFECT)
_SOURCES = re.compile(
    r"^Placeholder(V2)?$|^(Restore|Queue|Iterator|Reader|Read(File)$|Recv$|_Recv|Unstage|Barrier)"
    r"|Queue(V2)?$|Reader(V2)?$|Dataset|Iterator|^(Stateless|Eager)?PyFunc"
)

_EFFECT_REASON = (
    "it needs {name!r} ({type}), which writes or trains: running it would change things"
)
_PLACEHOLDER_REASON = (
    "it needs {name!r}, which nothing is given for: name it in model.inputs, or give its value in "
    "model.constants"
)
_SOURCE_REASON = (
    "it needs what {name!r} ({type}) reads outside the graph: name that tensor in model.inputs"
)
_EMPTY_REASON = (
    "it needs the variable {name!r}, which nothing has given a value: no checkpoint holds it"
)
_PYTHON_REASON = "it needs {name!r} ({type}), which calls Python code that the file does not hold"


def unfit_operations(
    graph: tf.Graph,
    fed: frozenset[str],
    *,
    empty: Container[str] = frozenset(),
    inert: Container[str] = frozenset(),
) -> dict[str, str]:
    """Why some operations cannot be run for a sample, by their names.

    What has to run after an effect would bring it about, so it is left alone as well.

    Args:
        fed: names of the tensors (`op:0`) that are fed; captures of a function's graph are too.
        empty: names of the variables (`op:0`) that have no value.
        inert: names of operations that have no effect: those that never run.
    """
    fed = fed | {inside.name for _, inside in getattr(graph, "captures", ())}
    reasons: dict[str, str] = {}
    after = _control_consumers(graph)
    for operation in graph.get_operations():
        stops: Container[str] = frozenset()
        if _EFFECTS.search(operation.type):
            reason: str | None = _EFFECT_REASON.format(name=operation.name, type=operation.type)
            stops = inert
        elif operation.outputs and operation.outputs[0].name in empty:
            reason = _EMPTY_REASON.format(name=operation.name)
        else:
            reason = _source_reason(operation)
        if reason is not None:
            for name in _downstream(operation, fed, after, stops):
                reasons.setdefault(name, reason)
    return reasons


def _source_reason(operation: Any) -> str | None:
    """Why nothing can run that needs an operation; None where it can."""
    if not _SOURCES.search(operation.type):
        return None
    if operation.type.startswith("Placeholder"):
        reason = _PLACEHOLDER_REASON
    else:
        reason = _PYTHON_REASON if "PyFunc" in operation.type else _SOURCE_REASON
    return reason.format(name=operation.name, type=operation.type)


def _control_consumers(graph: tf.Graph) -> Mapping[str, list[Any]]:
    after: dict[str, list[Any]] = {}
    for operation in graph.get_operations():
        for before in operation.control_inputs:
            after.setdefault(before.name, []).append(operation)
    return after


def _downstream(
    source: Any, fed: frozenset[str], after: Mapping[str, list[Any]], stops: Container[str]
) -> set[str]:
    """The source and all that cannot run without it; nothing that is fed itself needs it."""
    found: set[str] = set()
    waiting = [source]
    while waiting:
        operation = waiting.pop()
        outputs = [tensor for tensor in operation.outputs if tensor.name not in fed]
        if operation.name in found or operation.name in stops:
            continue
        if operation.outputs and not outputs:
            continue
        found.add(operation.name)
        waiting.extend(consumer for tensor in outputs for consumer in tensor.consumers())
        waiting.extend(after.get(operation.name, ()))
    return found
