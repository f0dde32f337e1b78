"""From a trace to the catalog: every layer call's tensors, the operations in it, and weights."""

import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras
import tensorflow as tf

from extractkit.models.graphs.rebuilding import static_shape
from extractkit.models.graphs.records import Found
from extractkit.models.keras_models.dialects import Dialect
from extractkit.models.keras_models.signature import INPUT
from extractkit.models.keras_models.tracing import LayerCall, Trace
from extractkit.models.naming import Paths, Ports, base_name
from extractkit.tensors import Kind, Scope, TensorRecord, escape, join

# Values of these types are handles to something else and cannot be copied out.
_HANDLES = (tf.resource, tf.variant)


@dataclass(frozen=True, eq=False)
class _Place:
    """Where a layer call stands: canonical path, path in the layers' own names, scopes."""

    path: str
    name: str
    scopes: tuple[Scope, ...]
    ports: Ports
    reason: str | None


def find_tensors(trace: Trace) -> list[Found]:
    """Everything that a trace of a model offers, in the order of computation; weights last."""
    model = trace.calls[0]
    paths = Paths()
    places = _places(trace, paths)
    found = [
        _found(places[model], _input_port(name), Kind.MODEL_INPUT, tensor)
        for name, tensor in trace.inputs.items()
    ]
    owners = _owners(trace)
    reasons = {nested.graph: nested.reason for nested in trace.nested}
    for call, event in _events(trace, owners):
        place = places[call]
        if isinstance(event, tf.Operation):
            found += _operation(place, event, reasons.get(event.graph))
        elif call is not model:
            kind = Kind.LAYER_INPUT if event == "inputs" else Kind.LAYER_OUTPUT
            found += [
                _found(place, _escape_port(port), kind, tensor)
                for port, tensor in getattr(call, event).items()
            ]
    found += [
        _found(places[model], _escape_port(port), Kind.MODEL_OUTPUT, tensor)
        for port, tensor in model.outputs.items()
    ]
    return found + _weights(trace, paths, places)


def _places(trace: Trace, paths: Paths) -> dict[LayerCall, _Place]:
    model = trace.calls[0]
    reasons = {nested.graph: nested.reason for nested in trace.nested}
    scope = _scope("", "", model.layer, trace.dialect)
    places = {model: _Place("", "", (scope,), Ports(), None)}
    for call in trace.calls[1:]:
        parent = call.parent or model
        above = places[parent]
        path = paths.call(parent, parent.layer, above.path, call.layer, *_names(call.layer))
        name = f"{above.name}/{call.layer.name}" if above.name else call.layer.name
        reason = above.reason or reasons.get(call.graph)
        scopes = (*above.scopes, _scope(path, name, call.layer, trace.dialect))
        places[call] = _Place(path, name, scopes, Ports(), reason)
    return places


def _names(layer: Any) -> tuple[str, str]:
    return type(layer).__name__, layer.name


def _scope(path: str, name: str, layer: Any, dialect: Dialect) -> Scope:
    layer_class = dialect.package.layers.Layer
    bases = [c.__name__ for c in type(layer).__mro__[1:] if issubclass(c, layer_class)]
    return Scope(path, type(layer).__name__, tuple(bases), name)


def _owners(trace: Trace) -> dict[Any, LayerCall]:
    """The innermost call in which each operation was made, in creation order graph by graph.

    What was made outside the model's own call (the function's return values) belongs to none, and
    so does what Keras computes to learn shapes.
    """
    owners: dict[Any, LayerCall] = {}
    for graph, caller in [(trace.graph, None), *((n.graph, n.caller) for n in trace.nested)]:
        operations = graph.get_operations()
        spans: list[LayerCall | None] = [owners.get(caller)] * len(operations)
        for call in trace.calls:
            # A call begins after those around it, so the innermost stands last.
            if call.graph is graph:
                spans[call.start : call.end] = [call] * (call.end - call.start)
        for position in trace.probes.operations(graph):
            spans[position] = None
        owners |= {o: span for o, span in zip(operations, spans, strict=True) if span is not None}
    return owners


def _events(trace: Trace, owners: Mapping[Any, LayerCall]) -> list[tuple[LayerCall, Any]]:
    """A call's inputs, then operations and inner calls as they happened, then its outputs."""
    outside = {tensor.op for tensor in trace.inputs.values()}
    outside |= {inside.op for _, inside in trace.graph.captures}
    by_call: dict[LayerCall, list[tuple[int, Any]]] = {call: [] for call in trace.calls}
    positions = {operation: index for index, operation in enumerate(owners)}
    for operation, call in owners.items():
        # Placeholders of loops' and branches' graphs are arguments, not operations of the model.
        if operation not in outside and operation.type not in ("Placeholder", "NoOp"):
            by_call[call].append((positions[operation], operation))
    events: list[tuple[LayerCall, Any]] = []
    children: dict[LayerCall | None, list[LayerCall]] = {}
    for call in trace.calls:
        children.setdefault(call.parent, []).append(call)

    def began(call: LayerCall) -> int:
        operations = call.graph.get_operations()[call.start :]
        return next((positions[o] for o in operations if o in positions), len(positions))

    def visit(call: LayerCall) -> None:
        events.append((call, "inputs"))
        inner = list(children.get(call, ()))
        for position, operation in by_call[call]:
            while inner and began(inner[0]) <= position:
                visit(inner.pop(0))
            events.append((call, operation))
        for child in inner:
            visit(child)
        events.append((call, "outputs"))

    for call in children[None]:
        visit(call)
    return events


def _operation(place: _Place, operation: Any, reason: str | None) -> list[Found]:
    """An operation's outputs: `op/TYPE`, then `op/TYPE@1` for a second one."""
    port = place.ports.unique(f"op/{operation.type}")
    place = replace(place, reason=place.reason or reason)
    ports = [port, *(f"{port}@{index}" for index in range(1, len(operation.outputs)))]
    return [
        _found(place, port, Kind.OP, tensor, operation.type)
        for port, tensor in zip(ports, operation.outputs, strict=False)
        if tensor.dtype not in _HANDLES
    ]


def _input_port(name: str) -> str:
    """`input.token_ids`; an input without a name of its own is `input`, or `input.1`."""
    return name if re.fullmatch(rf"{INPUT}(\.\d+)?", name) else f"{INPUT}.{escape(name)}"


def _escape_port(port: str) -> str:
    return ".".join(escape(part) for part in port.split("."))


def _found(place: _Place, port: str, kind: Kind, value: Any, op_type: str | None = None) -> Found:
    reason = place.reason
    if not isinstance(value, tf.Tensor):
        reason = reason or f"a {type(value).__name__}, which is not one dense array"
    dtype = value.dtype.name
    if kind is not Kind.OP:
        port = place.ports.unique(port)
    record = TensorRecord(
        address=join(place.path, port),
        kind=kind,
        dtype=dtype,
        shape=static_shape(value),
        dims=None,
        scopes=place.scopes,
        name=join(place.name, port),
        op_type=op_type,
        reason=reason,
    )
    return Found(record, value)


def _weight_port(name: str) -> str:
    """A weight's name, escaped; "op" would be the scope of the operations beside it as well."""
    return "%6Fp" if name == "op" else escape(name)


def _weights(trace: Trace, paths: Paths, places: Mapping[LayerCall, _Place]) -> list[Found]:
    """Every layer's own variables, at its first call's path; shared ones where they are first."""
    found: list[Found] = []
    seen: set[Hashable] = set()

    def own(layer: Any, place: _Place) -> None:
        for variable in trace.dialect.own_variables(layer):
            if id(variable) in seen:
                continue
            seen.add(id(variable))
            # One that nobody named is `variable_7` by a counter of the process.
            name = trace.dialect.variable_name(variable)
            given = base_name(type(variable).__name__, name)
            port = place.ports.unique(_weight_port(given))
            record = TensorRecord(
                address=join(place.path, port),
                kind=Kind.WEIGHT,
                dtype=keras.backend.standardize_dtype(variable.dtype),
                shape=tuple(variable.shape),
                dims=(None,) * len(variable.shape),
                scopes=place.scopes,
                name=join(place.name, port),
                depends_on_inputs=False,
            )
            found.append(Found(record, variable))

    def uncalled(layer: Any, place: _Place) -> None:
        for child in layer._flatten_layers(include_self=False, recursive=False):
            if id(child) in visited:
                continue
            visited.add(id(child))
            path = paths.child(layer, place.path, child, *_names(child))
            name = f"{place.name}/{child.name}" if place.name else child.name
            scopes = (*place.scopes, _scope(path, name, child, trace.dialect))
            here = _Place(path, name, scopes, Ports(), None)
            own(child, here)
            uncalled(child, here)

    first: dict[int, tuple[Any, _Place]] = {}
    for call, place in places.items():
        first.setdefault(id(call.layer), (call.layer, place))
    visited = set(first)
    for layer, place in first.values():
        own(layer, place)
    for layer, place in first.values():
        uncalled(layer, place)
    return found
