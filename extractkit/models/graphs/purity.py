"""Dependence of operations on inputs and their sizes, random numbers, variables, side effects."""

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

from extractkit.core.spec import Dim
from extractkit.models.failures import unknown_operation_advice
from extractkit.models.graphs import AnyGraph, readable
from extractkit.models.graphs.control_flow import nested_graphs
from extractkit.models.graphs.feeding import advised_inputs, reading_operations
from extractkit.models.graphs.rebuilding import SourceGraph, unknown_operation_of

_CONTAINERS = (
    r"^LookupTable(Insert|Import|Remove)|^Queue(Enqueue|Dequeue|Close)|^IteratorGetNext"
    r"|^Reader(Read|Re)|^(Un|Map|OrderedMap|MapUn|OrderedMapUn)?[Ss]tage(NoKey)?$"
)

_RANDOM = (
    r"^Rng|^Stateful(?!PartitionedCall)|Random|Multinomial|TruncatedNormal"
    r"|CandidateSampler$|^SampleDistortedBoundingBox|^NonDeterministicInts$"
)

IMPURE = re.compile(
    r"^Assign|^Resource(Scatter|Apply|SparseApply)|^Scatter(Nd)?(Update|Add|Sub|Mul|Div|Min|Max)"
    r"|^(Sparse)?Apply|^(Resource)?(StridedSliceAssign|CountUpTo)$"
    rf"|{_RANDOM}|{_CONTAINERS}"
)
"""Types of operations that draw random numbers or change a variable, table, queue or iterator."""


_BY_SHAPE = frozenset(
    {
        *("Identity", "StopGradient", "PreventGradient", "Cast", "Reshape", "Transpose", "Shape"),
        *("ExpandDims", "Squeeze", "ConcatV2", "Pack", "Unpack", "Slice", "StridedSlice", "Tile"),
        *("BroadcastTo", "Fill", "ZerosLike", "OnesLike", "Range", "GatherV2", "OneHot", "Select"),
        *("SelectV2", "Equal", "NotEqual", "Less", "LessEqual", "Greater", "GreaterEqual"),
        *("LogicalAnd", "LogicalOr", "LogicalNot", "Add", "AddV2", "BiasAdd", "Sub", "Mul"),
        *("RealDiv", "Neg", "Abs", "Square", "SquaredDifference", "Pow", "Sqrt", "Rsqrt", "Exp"),
        *("Log", "Log1p", "Maximum", "Minimum", "Relu", "Relu6", "LeakyRelu", "Elu", "Selu"),
        *("Sigmoid", "Softmax", "LogSoftmax", "Softplus", "Tanh", "Erf", "Erfc", "Sum", "Mean"),
        *("Max", "Min", "Prod", "All", "Any", "ArgMax", "MatMul", "BatchMatMul", "BatchMatMulV2"),
        *("BatchMatMulV3", "Einsum", "Conv2D", "DepthwiseConv2dNative", "FusedBatchNormV3"),
    }
)
"""Operations that fail at sizes only if shapes do not fit, or at all sizes beyond a limit."""


def keeps_sizes(
    source: SourceGraph, tensors: Iterable[Any], dims: Mapping[str, Sequence[Dim] | None]
) -> bool:
    """Return whether tensors, and all before them, have no lengths but the inputs' own and fixed.

    If so, they can be computed at all sizes between two at which they can. A graph that takes some
    lengths in between and not others, as one that adds an upsampled copy to what it pooled,
    computes another length from them.

    Args:
        dims: Dims by name of tensor, inferred from shapes at large, odd sizes.
    """
    dependent = dependent_operations(source)
    given = {tensor.name for tensor in source.inputs.values()}
    waiting = [tensor.op for tensor in tensors if tensor.name not in given]
    seen: set[str] = set()
    while waiting:
        operation = waiting.pop()
        if operation.name in seen or operation.name not in dependent:
            continue
        seen.add(operation.name)
        results = [dims.get(tensor.name) for tensor in operation.outputs]
        if operation.type not in _BY_SHAPE or not all(map(_kept, results)):
            return False
        waiting += [one.op for one in operation.inputs if one.name not in given]
        waiting += operation.control_inputs
    return True


def _kept(dims: Sequence[Dim] | None) -> bool:
    """Return whether each axis is fixed, as long as an axis of the inputs, or a product of such."""
    return dims is not None and all(
        one.size is not None
        or one.follows is not None
        or (bool(one.factors) and _kept(one.factors))
        for one in dims
    )


def dependent_operations(source: SourceGraph) -> set[str]:
    """Return the names of the operations that depend on the inputs, also by control edges.

    An operation with a tensor that is an input counts only if an operation before it has one too.
    """
    after = run_after(source.graph)
    inputs = list(source.inputs.values())
    consumers = [consumer for tensor in inputs for consumer in tensor.consumers()]
    later = [operation for tensor in inputs for operation in after.get(tensor.op.name, ())]
    return downstream([*consumers, *later], after)


def impure_operations(source: SourceGraph, inert: Container[str] = frozenset()) -> set[str]:
    """Return the names of operations that depend on random numbers or on assigned variables.

    Random values would repeat in every batch or differ between runs. Assigned variables depend on
    earlier batches, and the assignment would change the model. Both kinds of dependence end at an
    input, even inside the graph. Operations on the way from the state of a random generator to
    where it is used depend on random numbers too: Keras draws the state when a model is loaded.

    Args:
        inert: Names of operations whose results do not depend on their inputs.
    """
    types = operation_types(source.graph)
    sources = [
        operation
        for operation in source.graph.get_operations()
        if any(IMPURE.search(kind) for kind in types[operation.name])
    ]
    fed = frozenset(tensor.name for tensor in source.inputs.values())
    impure = downstream(sources, run_after(source.graph, fed), inert, fed)
    random = {name for name in impure if any(re.search(_RANDOM, kind) for kind in types[name])}
    for _, inside in getattr(source.graph, "captures", ()):
        impure |= _uses_of_generator(inside, impure, random)
    return impure


def consumers(tensor: Any) -> Iterator[Any]:
    """Yield the consumers of a tensor, also through the identities of inlined calls."""
    for operation in tensor.consumers():
        if operation.type == "Identity":
            yield from consumers(operation.outputs[0])
        else:
            yield operation


def _uses_of_generator(handle: Any, impure: Container[str], random: set[str]) -> set[str]:
    """Return the names of the pure operations that use the state of a random generator.

    The state is a variable that the graph changes and that decides only impure operations, some
    of them random. For any other variable, the result is empty.
    """
    if not any(operation.name in impure for operation in consumers(handle)):
        return set()
    found: set[str] = set()
    draws = False
    waiting = [handle]
    while waiting:
        later = waiting.pop().consumers()
        if not later:  # a result
            return set()
        for operation in later:
            if operation.name in impure:
                draws |= operation.name in random
            elif operation.name not in found:
                found.add(operation.name)
                waiting.extend(operation.outputs)
    return found if draws else set()


def changes_containers(graph: AnyGraph) -> bool:
    """Return whether a call changes a table, queue or iterator, which cannot be restored."""
    inside = operation_types(graph).values()
    return any(re.search(_CONTAINERS, kind) for kinds in inside for kind in kinds)


def operation_types(graph: AnyGraph) -> dict[str, set[str]]:
    """Return the types of each operation and of those in its functions, by operation name.

    Sides of branches that never run are excluded.
    """
    return {
        name: {operation.type for operation in operations}
        for name, operations in _operations_inside(graph).items()
    }


def _operations_inside(graph: AnyGraph) -> dict[str, list[Any]]:
    """Return each operation with those in its functions, by operation name; see above."""
    inside = {operation.name: [operation] for operation in graph.get_operations()}
    outermost: dict[AnyGraph, str] = {}
    # A nested graph comes after the graph of its caller.
    for nested in nested_graphs(graph, {}):
        within = nested.caller.graph
        if (within is not graph and within not in outermost) or nested.why_dead is not None:
            continue
        caller = outermost.get(within, nested.caller.name)
        outermost[nested.graph] = caller
        inside[caller] += nested.graph.get_operations()
    return inside


def run_after(graph: AnyGraph, fed: Container[str] = frozenset()) -> dict[str, list[Any]]:
    """Return, by the name of each operation, the operations with a control edge from it.

    Args:
        fed: Names of tensors that are fed. Control edges from an operation with only such tensors
            are dropped when a function is rebuilt. A session drops only those of placeholders.
    """
    in_session = not hasattr(graph, "captures")
    after: dict[str, list[Any]] = {}
    for operation in graph.get_operations():
        for before in operation.control_inputs:
            dropped = _is_fed(before, fed) and (
                not in_session or before.type.startswith("Placeholder")
            )
            if not dropped:
                after.setdefault(before.name, []).append(operation)
    return after


def downstream(
    sources: Sequence[Any],
    after: Mapping[str, Sequence[Any]],
    barriers: Container[str] = frozenset(),
    fed: Container[str] = frozenset(),
) -> set[str]:
    """Return the names of the sources and of all operations downstream of them.

    Args:
        after: The result of `run_after`.
        barriers: Names of operations where the search stops.
        fed: Names of tensors that are fed, and so depend on nothing.
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
    """Return whether all results of an operation are fed."""
    return bool(operation.outputs) and all(tensor.name in fed for tensor in operation.outputs)


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
    "it needs {name!r}, which nothing is given for: name it in model.input_axes, or give its "
    "value in model.constants"
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
    """Return why some operations cannot be run for a sample, by name.

    Operations with a control edge from a side effect would cause it, so they are excluded as well.

    Args:
        fed: Names of the tensors (`op:0`) that are fed, in addition to a function's captures.
        empty: Names of the variables (`op:0`) without values.
        inert: Names of operations that never run, so that they have no effect.
        reasons_not_fed: Known reasons why placeholders are not fed, by name.
    """
    fed |= {inside.name for _, inside in getattr(graph, "captures", ())}
    reasons: dict[str, str] = {}
    after, inside = run_after(graph, fed), _operations_inside(graph)

    def refuse(operation: Any, reason: str, stops: Container[str] = frozenset()) -> None:
        for name in downstream([operation], after, stops, fed):
            reasons.setdefault(name, reason)

    for name, known in (reasons_not_fed or {}).items():
        refuse(graph.get_operation_by_name(name), known)
    for operation in graph.get_operations():
        for one in inside[operation.name]:
            if (lacked := unknown_operation_of(one)) is not None:
                advice = unknown_operation_advice(lacked)
                refuse(operation, f"it needs {one.name!r} ({lacked}), {advice}")
        for kind in sorted({one.type for one in inside[operation.name]}):
            if _EFFECTS.search(kind):
                refuse(operation, _EFFECT_REASON.format(name=operation.name, type=kind), inert)
            elif operation.outputs and operation.outputs[0].name in empty:
                refuse(operation, _EMPTY_REASON.format(name=operation.name))
            elif (reason := _source_reason(operation, kind, fed)) is not None:
                refuse(operation, reason)
            elif _reads_outside(operation, kind):
                # Handles cannot be fed, but the values that are read through them can.
                for reader in reading_operations(operation):
                    refuse(reader, _read_reason(reader, fed))
    return reasons


def _reads_outside(operation: Any, kind: str) -> bool:
    arguments = kind in _ARGUMENTS and kind != operation.type
    return bool(_SOURCES.search(kind)) and not arguments


def _read_reason(operation: Any, fed: Container[str]) -> str:
    """Return why operations that depend on an external read cannot run."""
    lacking = [tensor for tensor in readable(operation) if tensor.name not in fed]
    used = [tensor for tensor in lacking if tensor.consumers()]
    return _SOURCE_REASON.format(
        name=operation.name, type=operation.type, advice=advised_inputs(used or lacking)
    )


def _source_reason(operation: Any, kind: str, fed: Container[str]) -> str | None:
    """Return why operations that depend on one of this type cannot run, or None if they can."""
    if not _reads_outside(operation, kind):
        return None
    if kind.startswith("Placeholder"):
        return _PLACEHOLDER_REASON.format(name=operation.name)
    if "PyFunc" in kind:
        return _PYTHON_REASON.format(name=operation.name, type=kind)
    # For an operation that returns handles or nothing, the reading operations are named instead.
    if readable(operation):
        return _read_reason(operation, fed)
    return None if operation.outputs else _SOURCELESS_REASON.format(name=operation.name, type=kind)
