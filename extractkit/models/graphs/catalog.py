"""From a TensorFlow graph to the catalog: its operations by TensorFlow's own names, and variables.

`conv1/Relu:0` is output 0 of the operation `conv1/Relu`; a variable goes by its own name. Graphs of
functions that an operation runs are named by it: `while/body/Add:0`, `call/Add:0`.
"""

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from extractkit.core.catalog import Kind, TensorRecord, escape, join
from extractkit.models.graphs.control_flow import NestedGraph, control_flow, nested_graphs
from extractkit.models.graphs.imported import AnyGraph, AnyTensor, escaped, readable, short_paths
from extractkit.models.graphs.purity import unfit_operations
from extractkit.models.graphs.rebuilding import static_shape
from extractkit.models.graphs.records import Found, raw_dtype
from extractkit.models.naming import Ports

_REFERENCES = ("Variable", "VariableV2", "AutoReloadVariable")


@dataclass(frozen=True, eq=False)
class GraphFacts:
    """What a graph alone tells of its operations.

    Attributes:
        reasons: why a tensor cannot be extracted, by its name (`op:0`).
        inert: names of operations through which no randomness passes: constants decide their
            values, or they never run.
        dead: names of those that never run.
    """

    reasons: Mapping[str, str]
    inert: frozenset[str]
    dead: frozenset[str]


def facts_of(
    graph: AnyGraph,
    inputs: Iterable[AnyTensor],
    empty: Container[str] = frozenset(),
    reasons_not_fed: Mapping[str, str] | None = None,
) -> GraphFacts:
    """Return what cannot be extracted from a graph, and what randomness cannot reach.

    Args:
        graph: constants stand in it as such.
        inputs: the tensors that are fed.
        empty: names of the variables (`op:0`) that have no value.
        reasons_not_fed: as of `unfit_operations`.
    """
    fed = frozenset(tensor.name for tensor in inputs)
    flow = control_flow(graph, fed)
    unfit = unfit_operations(
        graph, fed, empty=empty, inert=flow.dead, reasons_not_fed=reasons_not_fed
    )
    reasons = {
        tensor.name: unfit[operation.name]
        for operation in graph.get_operations()
        if operation.name in unfit
        for tensor in operation.outputs
    }
    return GraphFacts({**reasons, **flow.reasons}, flow.inert, flow.dead)


def find_operations(
    graph: AnyGraph,
    inputs: Mapping[str, AnyTensor],
    outputs: Mapping[str, AnyTensor],
    variables: Iterable[tuple[str, Any]],
    *,
    signature: bool = True,
    frozen: bool = False,
    given: Container[str] = (),
    kept: Mapping[str, Kind] | None = None,
    drop_prefix: str = "",
    facts: GraphFacts | None = None,
    inner: Container[str] = (),
) -> list[Found]:
    """Return everything that a graph offers: inputs, operations, outputs, weights.

    Args:
        graph: a function's, whose captures count as fed, or a plain one.
        inputs, outputs: by the name that each goes by.
        variables: whatever the model makes a value of, each with its name (`conv/kernel:0`); of
            TensorFlow 2 several may have one name.
        signature: whether the names are those of a signature, so that `:input.NAME` and
            `:output.NAME` are listed besides operations; otherwise operations themselves are.
        frozen: whether weights stand in the graph as constants.
        given: names of constants (`op:0`) that the configuration has put there, no weights.
        kept: kinds of the variables that are not weights, by their names.
        drop_prefix: what is left out at the beginning of operations' names, as often as it stands
            there, where the rest is the name of no other.
        facts: as `facts_of` tells them; None: they are looked for.
        inner: names of inputs that are none of the signature's: tensors in the midst of the graph,
            which keep their own addresses.
    """
    facts = facts or facts_of(graph, inputs.values())
    kinds: dict[str, Kind] = {}
    if not signature:
        kinds |= {tensor.name: Kind.MODEL_OUTPUT for tensor in outputs.values()}
    named = {name: t for name, t in inputs.items() if signature and name not in inner}
    unnamed = [tensor for name, tensor in inputs.items() if name not in named]
    kinds |= {tensor.name: Kind.MODEL_INPUT for tensor in unnamed}
    unlisted = {tensor.name for tensor in named.values()}
    paths = short_paths((op.name for op in graph.get_operations()), drop_prefix)
    ports = Ports()
    found = _named("input", Kind.MODEL_INPUT, named, {})
    for operation in graph.get_operations():
        for tensor in readable(operation):
            # A reference variable is listed as the weight that it is.
            if tensor.name in unlisted or operation.type in _REFERENCES:
                continue
            weight = frozen and tensor.name not in given and _is_weight(tensor)
            kind = kinds.get(tensor.name, Kind.WEIGHT if weight else Kind.OP)
            address = ports.unique(join(paths[operation.name], str(tensor.value_index)))
            found.append(_found(address, kind, tensor, facts.reasons.get(tensor.name)))
    found += _below(graph, paths, ports)
    found += _named("output", Kind.MODEL_OUTPUT, outputs, facts.reasons) if signature else []
    for name, variable in variables:
        kind = (kept or {}).get(name, Kind.WEIGHT)
        reason = facts.reasons.get(_with_port(name))
        found.append(_variable(ports, name, variable, kind, reason))
    return found


def signature_address(role: str, name: str) -> str:
    """Address of what a signature names: `:input.x`, `:output.y`; `output.1` is a port already.

    Args:
        role: "input" or "output".
    """
    is_port = name == role or name.startswith(f"{role}.")
    return join("", escape(name) if is_port else f"{role}.{escape(name)}")


def terminal_tensors(
    graph: AnyGraph, inputs: Mapping[str, AnyTensor], facts: GraphFacts | None = None
) -> dict[str, AnyTensor]:
    """What a graph without a signature seems to be for, by name: results that nobody consumes.

    They depend on the inputs and can be extracted. Where every result goes into a loss, or into
    whatever else needs more than is fed, that does not count as consuming it.
    """
    facts = facts or facts_of(graph, inputs.values())
    reached = {name for name in _reached(inputs.values()) if not _GRADIENTS.search(name)}
    results = [
        operation
        for operation in graph.get_operations()
        if operation.name in reached and not _ASIDE.search(operation.type)
        for tensor in readable(operation)[:1]
        if tensor.name not in facts.reasons
    ]
    ends = [one for one in results if not _consumers(one, {})]
    if not ends:
        fed = frozenset(tensor.name for tensor in inputs.values())
        unfit = unfit_operations(graph, fed, inert=facts.dead)
        ends = [one for one in results if not _consumers(one, unfit)]
    return {one.outputs[0].name: one.outputs[0] for one in ends}


# Where `tf.gradients` puts what trains a model.
_GRADIENTS = re.compile(r"(^|/)gradients(_\d+)?/")
_ASIDE = re.compile(r"Summary|^Print|^(Shape|ShapeN|Size|Rank)$|^Switch$|^RefSwitch$")


def _reached(tensors: Iterable[AnyTensor]) -> set[str]:
    """Return the names of the operations that depend on the tensors."""
    reached: set[str] = set()
    waiting = [consumer for tensor in tensors for consumer in tensor.consumers()]
    while waiting:
        operation = waiting.pop()
        if operation.name not in reached:
            reached.add(operation.name)
            waiting.extend(c for tensor in operation.outputs for c in tensor.consumers())
    return reached


def _consumers(operation: Any, ignored: Container[str]) -> bool:
    """Whether anything but summaries, gradients and what is ignored consumes an operation."""
    return any(
        "Summary" not in consumer.type
        and not _GRADIENTS.search(consumer.name)
        and consumer.name not in ignored
        for tensor in operation.outputs
        for consumer in tensor.consumers()
    )


def _is_weight(tensor: AnyTensor) -> bool:
    if tensor.op.type != "Const":
        return False
    dtype = tensor.dtype
    real = dtype.is_floating or dtype.is_complex or dtype.is_quantized
    return bool(real and prod(tensor.shape.as_list()) > 1)


def _found(
    address: str, kind: Kind, tensor: AnyTensor, reason: str | None, name: str | None = None
) -> Found:
    made = kind in (Kind.OP, Kind.MODEL_OUTPUT)
    record = TensorRecord(
        address=address,
        kind=kind,
        dtype=raw_dtype(tensor.dtype).name,
        shape=static_shape(tensor),
        dims=None,
        name=tensor.name if name is None else name,
        op_type=tensor.op.type if made and name is None else None,
        reason=reason,
    )
    return Found(record, tensor)


def _named(
    role: str, kind: Kind, tensors: Mapping[str, AnyTensor], reasons: Mapping[str, str]
) -> list[Found]:
    """Return inputs or outputs by their names in the signature."""
    found = []
    for name, tensor in tensors.items():
        address = signature_address(role, name)
        found.append(_found(address, kind, tensor, reasons.get(tensor.name), name=address))
    return found


def _variable(ports: Ports, name: str, variable: Any, kind: Kind, reason: str | None) -> Found:
    path, _, port = _with_port(name).partition(":")
    shape = static_shape(variable)
    if shape is None or None in shape:
        reason = reason or "its shape is not known"
    record = TensorRecord(
        address=ports.unique(join(escaped(path), port)),
        kind=kind,
        dtype=variable.dtype.base_dtype.name,
        shape=shape,
        dims=None if shape is None else (None,) * len(shape),
        name=_with_port(name),
        depends_on_inputs=False,
        reason=reason,
    )
    return Found(record, variable)


def _with_port(name: str) -> str:
    return name if ":" in name else f"{name}:0"


def _below(graph: AnyGraph, paths: Mapping[str, str], ports: Ports) -> Iterator[Found]:
    """Yield the operations of functions that the graph's operations run."""
    within: dict[AnyGraph, str] = {}
    for nested in nested_graphs(graph, {}):
        caller = nested.caller
        outer = within.get(caller.graph)
        path = paths[caller.name] if outer is None else f"{outer}/{escaped(caller.name)}"
        within[nested.graph] = path + _role(nested)
        for operation in nested.graph.get_operations():
            # Placeholders of a function's graph are its arguments.
            if operation.type == "Placeholder":
                continue
            for tensor in readable(operation):
                path = f"{within[nested.graph]}/{escaped(operation.name)}"
                address = ports.unique(join(path, str(tensor.value_index)))
                yield _found(address, Kind.OP, tensor, nested.reason)


def _role(nested: NestedGraph) -> str:
    """What an operation has a function for: `/body`, `/then_branch`; nothing for its only one."""
    attributes = nested.caller.node_def.attr
    name = getattr(nested.graph, "name", "")
    for key in sorted(attributes):
        if attributes[key].func.name == name:
            return "" if key == "f" else f"/{key}"
        for position, function in enumerate(attributes[key].list.func):
            if function.name == name:
                return f"/{key}.{position}"
    return ""
