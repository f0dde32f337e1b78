"""Operations of a graph that are no functions of what is fed: files, queues, Python, training."""

import re
from collections.abc import Container
from typing import Any

import tensorflow as tf

from extractkit.models.graphs.purity import downstream, operation_types, run_after

_EFFECT = (
    r"^(Assign|Save|MergeV2Checkpoints|Apply|SparseApply|ResourceApply"
    r"|ResourceSparseApply|Scatter(Update|Add|Sub|Mul|Div|Min|Max)|ResourceScatter|InitializeTable"
    r"|LookupTable(Insert|Import|Remove)|Write|Send$|_Send|Stage|Summary(Writer)?$|CountUpTo)"
)
_EFFECTS = re.compile(_EFFECT)
# Placeholders of a function's graph are its arguments.
_ARGUMENTS = ("Placeholder", "PlaceholderV2")
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
    after, types = run_after(graph), operation_types(graph)
    for operation in graph.get_operations():
        for kind in sorted(types[operation.name]):
            stops: Container[str] = frozenset()
            if _EFFECTS.search(kind):
                reason: str | None = _EFFECT_REASON.format(name=operation.name, type=kind)
                stops = inert
            elif operation.outputs and operation.outputs[0].name in empty:
                reason = _EMPTY_REASON.format(name=operation.name)
            else:
                reason = _source_reason(operation, kind)
            if reason is not None:
                for name in downstream([operation], after, stops, fed):
                    reasons.setdefault(name, reason)
    return reasons


def _source_reason(operation: Any, kind: str) -> str | None:
    """Why nothing can run that needs an operation of this kind, or runs one; None where it can."""
    if not _SOURCES.search(kind) or (kind in _ARGUMENTS and kind != operation.type):
        return None
    if kind.startswith("Placeholder"):
        reason = _PLACEHOLDER_REASON
    else:
        reason = _PYTHON_REASON if "PyFunc" in kind else _SOURCE_REASON
    return reason.format(name=operation.name, type=kind)
