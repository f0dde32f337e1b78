"""The catalog of a TensorFlow graph: operations by TensorFlow's names, variables, and edges.

`conv1/Relu:0` is output 0 of the operation `conv1/Relu`. Variables have their own names. Operations
of a function are prefixed by the operation that runs it: `while/body/Add:0`, `call/Add:0`.
"""

import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

from extractkit.core.catalog import Kind, TensorRecord, address_of, escape
from extractkit.core.spec import TensorSpec
from extractkit.models.graphs import (
    LOOPS,
    AnyGraph,
    AnyTensor,
    InnerTensor,
    escaped,
    is_tensor,
    of_one_step,
    readable,
    short_paths,
)
from extractkit.models.graphs.control_flow import control_flow, nested_graphs
from extractkit.models.graphs.loops import InnerTensors, of_branches, of_steps
from extractkit.models.graphs.purity import unfit_operations
from extractkit.models.graphs.rebuilding import static_shape
from extractkit.models.graphs.records import Found, spec_of
from extractkit.models.graphs.recurrent_cells import (
    RecurrentCell,
    cells_of_body,
    cells_of_frames,
    fused_states,
)
from extractkit.models.naming import Ports

_REFERENCES = ("Variable", "VariableV2", "AutoReloadVariable")


@dataclass(frozen=True, eq=False)
class GraphFacts:
    """Properties of operations that follow from the graph itself.

    Attributes:
        reasons: Why a tensor cannot be extracted, by its name (`op:0`).
        inert: Names of operations whose results are never random, because constants determine them
            or they never run.
        dead: Names of operations that never run.
        steps, branches: See `ControlFlow`. Empty for the graph of a function.
    """

    reasons: Mapping[str, str]
    inert: frozenset[str]
    dead: frozenset[str]
    steps: Mapping[str, str] = field(default_factory=dict)
    branches: Mapping[str, tuple[tuple[str, int], ...]] = field(default_factory=dict)

    def inner(self, tensor: AnyTensor) -> InnerTensor | None:
        """Return a tensor in a loop or branch as an inner tensor; None for any other."""
        if (condition := self.steps.get(tensor.name)) is not None:
            return of_steps(tensor, condition)
        branches = self.branches.get(tensor.name)
        return None if branches is None else of_branches(tensor, branches)


def facts_of(
    graph: AnyGraph,
    inputs: Iterable[AnyTensor],
    empty: Container[str] = frozenset(),
    reasons_not_fed: Mapping[str, str] | None = None,
) -> GraphFacts:
    """Find the tensors of a graph that cannot be extracted, and operations that are never random.

    Args:
        graph: The graph, with configured constants inserted.
        inputs: The tensors that are fed.
        empty: Names of the variables (`op:0`) without values.
        reasons_not_fed: See `unfit_operations`.
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
    # TensorFlow refuses functions that contain loops of TensorFlow 1.
    in_session = not hasattr(graph, "captures")
    if not in_session:
        return GraphFacts({**reasons, **flow.reasons}, flow.inert, flow.dead)
    steps = {name: one for name, one in flow.steps.items() if name not in reasons}
    branches = {name: one for name, one in flow.branches.items() if name not in reasons}
    return GraphFacts({**reasons, **flow.reasons}, flow.inert, flow.dead, steps, branches)


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
    """Return the tensors of a graph: inputs, operations, outputs, weights.

    Args:
        graph: A plain graph, or that of a function, whose captures count as fed.
        inputs, outputs: Tensors by name.
        variables: The model's variables with their names (`conv/kernel:0`). In TensorFlow 2 names
            may repeat.
        signature: Whether the names belong to a signature. Then `:input.NAME` and `:output.NAME`
            are listed besides operations. Otherwise the operations themselves are.
        frozen: Whether weights are constants of the graph.
        given: Names of configured constants (`op:0`), which are not weights.
        kept: The kinds of variables that are not weights, by name.
        drop_prefix: A prefix to remove from operations' names, repeatedly, unless the rest is
            the name of another operation.
        facts: The result of `facts_of`. If None, it is computed.
        inner: Names of inputs that are tensors inside the graph, not inputs of the signature. They
            keep their own addresses.
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
            # A reference variable is listed as a weight, not as an operation.
            if tensor.name in unlisted or operation.type in _REFERENCES:
                continue
            weight = frozen and tensor.name not in given and _is_weight(tensor)
            kind = kinds.get(tensor.name, Kind.WEIGHT if weight else Kind.OP)
            address = ports.unique(address_of(paths[operation.name], str(tensor.value_index)))
            within = facts.inner(tensor) if kind is Kind.OP else None
            if within is None:
                found.append(_found(address, kind, tensor, facts.reasons.get(tensor.name)))
            else:
                found.append(_found(address, kind, within, None))
        found += _fused(paths[operation.name], operation, ports)
    for cell in cells_of_frames(graph) if facts.steps else ():
        found += _states(escaped(cell.scope), cell, ports, lambda tensor: _of_frame(tensor, facts))
    found += _nested(graph, paths, ports, facts.reasons)
    found += _named("output", Kind.MODEL_OUTPUT, outputs, facts.reasons) if signature else []
    for name, variable in variables:
        kind = (kept or {}).get(name, Kind.WEIGHT)
        reason = facts.reasons.get(_with_port(name))
        found.append(_variable(ports, name, variable, kind, reason))
    return found


def signature_address(role: str, name: str) -> str:
    """Return the address of a signature's input or output: `:input.x`, `:output.y`.

    A name such as `output.1` is already a port.

    Args:
        role: "input" or "output".
    """
    is_port = name == role or name.startswith(f"{role}.")
    return address_of("", escape(name) if is_port else f"{role}.{escape(name)}")


def terminal_tensors(
    graph: AnyGraph, inputs: Mapping[str, AnyTensor], facts: GraphFacts | None = None
) -> dict[str, AnyTensor]:
    """Return the likely outputs of a graph without a signature, by name: unconsumed results.

    They depend on the inputs and can be extracted. Operations that need more than is fed, such as a
    loss, do not count as consumers.
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


# The scope of operations made by `tf.gradients`.
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
    """Return whether an operation has consumers besides summaries, gradients and ignored ones."""
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
    address: str, kind: Kind, value: Any, reason: str | None, name: str | None = None
) -> Found:
    made = kind in (Kind.OP, Kind.MODEL_OUTPUT)
    tensor = of_one_step(value)
    record = TensorRecord(
        address=address,
        kind=kind,
        spec=spec_of(value),
        name=tensor.name if name is None else name,
        op_type=tensor.op.type if made and name is None else None,
        reason=reason,
    )
    return Found(record, value)


def _named(
    role: str, kind: Kind, tensors: Mapping[str, AnyTensor], reasons: Mapping[str, str]
) -> list[Found]:
    """Return records of inputs or outputs by their names in the signature."""
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
        address=ports.unique(address_of(escaped(path), port)),
        kind=kind,
        spec=TensorSpec.fixed(variable.dtype.base_dtype.name, shape),
        name=_with_port(name),
        depends_on_inputs=False,
        reason=reason,
    )
    return Found(record, variable)


def _with_port(name: str) -> str:
    return name if ":" in name else f"{name}:0"


def _nested(
    graph: AnyGraph, paths: Mapping[str, str], ports: Ports, reasons: Mapping[str, str]
) -> Iterator[Found]:
    """Yield records of the operations in functions that the graph's operations run."""
    within: dict[AnyGraph, str] = {}
    graphs = nested_graphs(graph, {})
    inner = InnerTensors(graph, graphs, reasons)
    for nested in graphs:
        caller = nested.caller
        outer = within.get(caller.graph)
        path = paths[caller.name] if outer is None else f"{outer}/{escaped(caller.name)}"
        role = "" if nested.role == "f" else nested.role
        within[nested.graph] = f"{path}/{role}" if role else path
        for operation in nested.graph.get_operations():
            # Placeholders of a function's graph are its arguments.
            if operation.type == "Placeholder":
                continue
            for tensor in readable(operation):
                path = f"{within[nested.graph]}/{escaped(operation.name)}"
                address = ports.unique(address_of(path, str(tensor.value_index)))
                value, reason = inner.of(tensor)
                yield _found(address, Kind.OP, value, reason)
            yield from _fused(f"{within[nested.graph]}/{escaped(operation.name)}", operation, ports)
        if caller.type in LOOPS:
            for cell in cells_of_body(nested.graph):
                path = _joined(within[nested.graph], cell.scope)
                yield from _states(path, cell, ports, inner.of)


def _joined(path: str, scope: str) -> str:
    """Return the path of a scope in a loop's body, without the loop's own names in it.

    The operations of a body are mostly in a scope of the loop's name.
    """
    around, inside = path.split("/")[:-1], escaped(scope).split("/")
    alike = (size for size in range(len(inside), 0, -1) if around[-size:] == inside[:size])
    return "/".join([path, *inside[next(alike, 0) :]]).rstrip("/")


def _states(
    path: str,
    cell: RecurrentCell,
    ports: Ports,
    in_loop: Callable[[AnyTensor], tuple[Any, str | None]],
) -> Iterator[Found]:
    """Yield records of the states and gates of a cell.

    Args:
        in_loop: Returns what gives a tensor's values at all steps, and why they cannot be
            extracted.
    """
    for port, tensor in cell.tensors.items():
        value, reason = in_loop(tensor)
        address = ports.unique(address_of(path, port))
        yield replace(_found(address, Kind.STATE, value, reason), again=True)


def _of_frame(tensor: AnyTensor, facts: GraphFacts) -> tuple[Any, str | None]:
    within = facts.inner(tensor)
    return (tensor, facts.reasons.get(tensor.name)) if within is None else (within, None)


def _fused(path: str, operation: Any, ports: Ports) -> Iterator[Found]:
    """Yield records of the states and gates that a fused operation does not return."""
    for port, reason in fused_states(operation).items():
        address = ports.unique(address_of(path, port))
        one = _found(address, Kind.STATE, operation.outputs[0], reason)
        unknown = replace(one.record.spec, dims=None)
        yield replace(one, record=replace(one.record, spec=unknown), again=True)


_PASSING_ON = ("Identity", "StopGradient", "Enter", "RefEnter", "ReadVariableOp")
"""Operations that pass their first input on unchanged: reading a variable is one of them."""

_Value = tuple[int, str]


def consumed_by(found: Sequence[Found]) -> list[tuple[int, ...]]:
    """Return, for each record, the positions of the tensors that make it; see `Edges`.

    If an operation only passes on its input, such as one that reads a variable, consumers of its
    result also consume that input. Edges do not enter the graphs of loops and branches.
    """
    return _Consumption(found).positions()


class _Consumption:
    def __init__(self, found: Sequence[Found]) -> None:
        self._found = found
        own = [of_one_step(one.value) for one in found]
        graphs = {id(one.graph): one.graph for one in own if is_tensor(one)}
        self._handles = _captured(graphs)
        # Variables of graphs outside functions have their own operations there.
        self._plain = [key for key, graph in graphs.items() if not hasattr(graph, "captures")]
        self._listed: dict[_Value, list[int]] = {}
        self._by_operation: dict[_Value, tuple[int, ...]] = {}
        for position, one in enumerate(found):
            for value in self._keys(of_one_step(one.value)):
                self._listed.setdefault(value, []).append(position)

    def positions(self) -> list[tuple[int, ...]]:
        return [self._of(one) for one in self._found]

    def _of(self, one: Found) -> tuple[int, ...]:
        if one.taken is not None:
            keys = [key for value in one.taken for key in self._keys(value)]
            return tuple(dict.fromkeys(at for key in keys for at in self._listed.get(key, ())))
        if not one.in_graph or one.record.kind is Kind.MODEL_INPUT:
            return ()
        tensor = of_one_step(one.value)
        operation = tensor.op
        key = (id(tensor.graph), operation.name)
        if key not in self._by_operation:
            positions: dict[int, None] = {}
            for taken in operation.inputs:
                positions |= dict.fromkeys(self._aliases(taken))
            self._by_operation[key] = tuple(positions)
        return self._by_operation[key]

    def _aliases(self, tensor: AnyTensor) -> Iterator[int]:
        """Yield the positions of a tensor, and of the variable or tensor that it passes on."""
        seen: set[str] = set()
        while tensor.name not in seen:
            seen.add(tensor.name)
            yield from self._listed.get((id(tensor.graph), tensor.name), ())
            source = tensor.op
            if source.type in _PASSING_ON and len(source.inputs):
                tensor = source.inputs[0]

    def _keys(self, value: Any) -> list[_Value]:
        """Return the names of a value by graph: of a variable, those of its handles."""
        if is_tensor(value) and hasattr(value, "graph"):
            return [(id(value.graph), value.name)]
        handle = self._handles.get(id(getattr(value, "handle", None)))
        if handle is not None:
            return handle
        name = getattr(value, "name", None)
        return [(graph, name if ":" in name else f"{name}:0") for graph in self._plain if name]


def _captured(graphs: Mapping[int, AnyGraph]) -> dict[int, list[_Value]]:
    """Return the placeholders of captured handles in graphs of functions, by the handle's id."""
    handles: dict[int, list[_Value]] = {}
    for key, graph in graphs.items():
        for outside, inside in getattr(graph, "captures", ()):
            handles.setdefault(id(outside), []).append((key, inside.name))
    return handles
