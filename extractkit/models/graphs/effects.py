"""Operations of a graph that are no functions of what is fed: files, queues, Python, training."""

import re
from collections.abc import Container, Mapping
from typing import Any

from extractkit.models.graphs.addresses import readable
from extractkit.models.graphs.feeding import advised_inputs, reading_operations
from extractkit.models.graphs.imported import AnyGraph
from extractkit.models.graphs.purity import downstream, operation_types, run_after
from extractkit.models.graphs.stand_ins import lacked_operation
from extractkit.models.operation_libraries import why_unknown

_EFFECT = (
    r"^(Assign|Save|MergeV2Checkpoints|Apply|SparseApply|ResourceApply"
    r"|ResourceSparseApply|Scatter(Update|Add|Sub|Mul|Div|Min|Max)|ResourceScatter|InitializeTable"
    r"|(Resource)?StridedSliceAssign|LookupTable(Insert|Import|Remove)|Write|Send$|_Send|Stage"
    r"|Summary(Writer)?$|(Resource)?CountUpTo)"
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
    "it needs what {name!r} ({type}) reads outside the graph. Give samples for that: {advice}"
)
_SOURCELESS_REASON = "it runs after {name!r} ({type}), which reads outside the graph"
_EMPTY_REASON = (
    "it needs the variable {name!r}, which nothing has given a value: no checkpoint holds it"
)
_PYTHON_REASON = "it needs {name!r} ({type}), which calls Python code that the graph does not hold"


def unfit_operations(
    graph: AnyGraph,
    fed: frozenset[str],
    *,
    empty: Container[str] = frozenset(),
    inert: Container[str] = frozenset(),
    reasons_not_fed: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Why some operations cannot be run for a sample, by their names.

    What has to run after an effect would bring it about, so it is left alone as well.

    Args:
        fed: names of the tensors (`op:0`) that are fed; captures of a function's graph are too.
        empty: names of the variables (`op:0`) that have no value.
        inert: names of operations that have no effect: those that never run.
        reasons_not_fed: why placeholders are given nothing, by their names, where more than that
            is known.
    """
    fed |= {inside.name for _, inside in getattr(graph, "captures", ())}
    reasons: dict[str, str] = {}
    after, types = run_after(graph, fed), operation_types(graph)

    def refuse(operation: Any, reason: str, stops: Container[str] = frozenset()) -> None:
        for name in downstream([operation], after, stops, fed):
            reasons.setdefault(name, reason)

    for name, known in (reasons_not_fed or {}).items():
        refuse(graph.get_operation_by_name(name), known)
    for operation in graph.get_operations():
        for kind in sorted(types[operation.name]):
            if _EFFECTS.search(kind):
                refuse(operation, _EFFECT_REASON.format(name=operation.name, type=kind), inert)
            elif operation.outputs and operation.outputs[0].name in empty:
                refuse(operation, _EMPTY_REASON.format(name=operation.name))
            elif (reason := _source_reason(operation, kind, fed)) is not None:
                refuse(operation, reason)
            elif _reads_outside(operation, kind):
                # Its handles have no values to give. What is read through them has.
                for reader in reading_operations(operation):
                    refuse(reader, _read_reason(reader, fed))
    return reasons


def _reads_outside(operation: Any, kind: str) -> bool:
    arguments = kind in _ARGUMENTS and kind != operation.type
    return bool(_SOURCES.search(kind)) and not arguments


def _read_reason(operation: Any, fed: Container[str]) -> str:
    """Why nothing can run that needs what an operation reads outside the graph."""
    lacking = [tensor for tensor in readable(operation) if tensor.name not in fed]
    used = [tensor for tensor in lacking if tensor.consumers()]
    return _SOURCE_REASON.format(
        name=operation.name, type=operation.type, advice=advised_inputs(used or lacking)
    )


def _source_reason(operation: Any, kind: str, fed: Container[str]) -> str | None:
    """Why nothing can run that needs an operation of this kind, or runs one; None where it can."""
    if not _reads_outside(operation, kind):
        return None
    if (lacked := lacked_operation(operation)) is not None:
        return f"it needs {operation.name!r} ({lacked}), {why_unknown(lacked)}"
    if kind.startswith("Placeholder"):
        return _PLACEHOLDER_REASON.format(name=operation.name)
    if "PyFunc" in kind:
        return _PYTHON_REASON.format(name=operation.name, type=kind)
    # Of an operation that gives handles, or nothing, what reads through them is named instead.
    if readable(operation):
        return _read_reason(operation, fed)
    return None if operation.outputs else _SOURCELESS_REASON.format(name=operation.name, type=kind)
