"""The catalog of a Keras model: inputs, tensors of every layer call, operations, weights."""

import re
from collections.abc import Callable, Container, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras
import tensorflow as tf

from extractkit.core.catalog import Kind, Scope, TensorRecord, address_of, escape
from extractkit.core.spec import SAMPLE, TensorSpec
from extractkit.errors import ConfigError, ModelError, choices
from extractkit.inputs import InputSpec, Signature
from extractkit.models.graphs import is_handle
from extractkit.models.graphs.loops import InnerTensors
from extractkit.models.graphs.rebuilding import static_shape
from extractkit.models.graphs.records import Found, spec_of
from extractkit.models.graphs.recurrent_cells import fused_states
from extractkit.models.keras_internals import layers_in
from extractkit.models.keras_models.dialects import KERAS_3, Dialect, dialect_of
from extractkit.models.keras_models.layer_axes import keeps_axes, names_of, names_of_operation
from extractkit.models.keras_models.tracing import LayerCall, Trace, unnamed_states
from extractkit.models.naming import Paths, Ports, base_name
from extractkit.models.signature import INPUT_AXES, Declared, InputSetting, chosen, signature_of

INPUT = "input"
"""The name of an unnamed input. A second one is `input.1`."""

# Generated names of tensors, of saved input layers, and of inputs in Keras 2.
_MADE_UP = re.compile(r"(keras_tensor|input_layer|input)(_\d+)?")

Settings = Mapping[str, InputSetting]


def signature(
    name: str,
    structure: Any,
    settings: Settings | None = None,
    omitted: Container[str] = frozenset(),
) -> Signature:
    """Return the signature of a model, with inputs in the order in which Keras flattens them.

    Args:
        name: The model's name, for messages.
        structure: Its inputs as Keras tensors; see `input_structure`.
        settings: the parsed `model.input_axes`.
        omitted: The names of optional inputs that the model is called without.

    Raises:
        ConfigError: it names an input that does not exist, or axes or a type do not fit.
    """
    settings = settings or {}
    flat = keras.tree.flatten(structure)
    declared = [
        Declared(name, tensor.dtype, tuple(tensor.shape))
        for name, tensor in zip(_input_names(structure), flat, strict=True)
    ]
    chosen(declared, settings)
    taken = [_typed(one, settings.get(one.name)) for one in declared if one.name not in omitted]
    return signature_of(name, taken, settings)


def input_specs(structure: Any) -> tuple[InputSpec, ...]:
    """Return a named spec for each input, in the order in which Keras flattens them."""
    return signature("", structure).specs


def optional_inputs(model: Any, structure: Any) -> frozenset[str]:
    """Return the names of the inputs that a functional model of Keras 3 can be called without.

    Args:
        structure: Its inputs; see `input_structure`.
    """
    layers = [
        layer
        for layer in getattr(model, "layers", ())
        if isinstance(layer, keras.layers.InputLayer) and getattr(layer, "optional", False)
    ]
    if not layers:
        return frozenset()
    own = {id(layer.output) for layer in layers}
    tensors = keras.tree.flatten(model.input)
    names = _input_names(structure)
    return frozenset(name for name, tensor in zip(names, tensors, strict=True) if id(tensor) in own)


def packer(
    structure: Any, omitted: Container[str] = frozenset()
) -> Callable[[Mapping[str, tf.Tensor]], Any]:
    """Return a function from inputs by name to the structure that the model is called with.

    Args:
        omitted: Names of optional inputs, for which the model gets None.
    """
    names = _input_names(structure)

    def pack(features: Mapping[str, tf.Tensor]) -> Any:
        given = [None if name in omitted else features[name] for name in names]
        return keras.tree.pack_sequence_as(structure, given)

    return pack


def input_structure(model: Any, example: Any = None, settings: Settings | None = None) -> Any:
    """Return the model's inputs as Keras 3 tensors, in the structure that it is called with.

    Args:
        model: a model of either Keras.
        example: arrays that it can be called with, for a model that does not know its inputs.
        settings: the parsed `model.input_axes`, for the same case. Several inputs make a
            dictionary.

    Raises:
        ModelError: the inputs are not known from any of them.
    """
    if getattr(model, "inputs", None):
        # A Sequential has an `input` only after its first call.
        sequential = (dialect_of(model) or KERAS_3).package.Sequential
        structure = model.inputs if isinstance(model, sequential) else model.input
        # Keras wraps a single input in a list, but the model is called with the tensor.
        single = isinstance(structure, list) and len(structure) == 1
        return keras.tree.map_structure(_declared, structure[0] if single else structure)
    if settings and all(setting.dims is not None for setting in settings.values()):
        tensors = {name: _configured(name, setting) for name, setting in settings.items()}
        return tensors if len(tensors) > 1 else next(iter(tensors.values()))
    if example is not None:
        return keras.tree.map_structure(
            lambda array: keras.KerasTensor((None, *array.shape[1:]), array.dtype.name, name=INPUT),
            example,
        )
    shapes = (model.get_build_config() or {}).get("input_shape") if model.built else None
    if shapes is None:
        raise ModelError(
            f"{type(model).__name__} {model.name!r} does not declare its inputs: it is neither "
            f"functional nor built from the shapes of its inputs. Specify its axes: "
            f"'{INPUT_AXES}={{x: {{dims: [{SAMPLE}, 64, 64, 3], dtype: float32}}}}'. Or give "
            f"arrays with it (extractkit.extract(…, inputs=arrays)), or save it after "
            f"model.build(shape)"
        )
    return _from_shapes(shapes)


def with_free_rows(structure: Any, settings: Settings, stateful: bool) -> Any:
    """Return the inputs with a free batch size if all declare the same fixed one.

    The rows of a batch are samples. Inputs whose configured axes have no samples are not changed,
    nor are batches of one row without stateful layers.
    """
    flat = keras.tree.flatten(structure)
    sizes = {tensor.shape[0] if tensor.shape else None for tensor in flat}
    (size,) = sizes if len(sizes) == 1 else (None,)
    named = [setting.dims for setting in settings.values() if setting.dims is not None]
    if size is None or (size == 1 and not stateful) or any(SAMPLE not in dims for dims in named):
        return structure
    return keras.tree.map_structure(
        lambda one: keras.KerasTensor((None, *one.shape[1:]), one.dtype, name=one.name), structure
    )


def _declared(tensor: Any) -> keras.KerasTensor:
    """Return an input of a functional model as a Keras 3 tensor."""
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return keras.KerasTensor(tuple(tensor.shape), dtype, name=tensor.name)


def _configured(name: str, setting: InputSetting) -> keras.KerasTensor:
    shape = tuple(dim if isinstance(dim, int) else None for dim in setting.dims or ())
    return keras.KerasTensor(shape, keras.config.floatx(), name=name)


def _from_shapes(shapes: Any) -> Any:
    """Return the inputs of a subclassed model from the shapes that it was built with."""
    if isinstance(shapes, Mapping):
        return {name: _from_shapes(shape) for name, shape in shapes.items()}
    if (
        isinstance(shapes, list | tuple)
        and shapes
        and isinstance(shapes[0], list | tuple | Mapping | tf.TensorShape)
    ):
        return [_from_shapes(shape) for shape in shapes]
    return keras.KerasTensor((None, *shapes[1:]), keras.config.floatx(), name=INPUT)


def _typed(one: Declared, setting: InputSetting | None) -> Declared:
    """Return the input with its configured dtype, if any."""
    if setting is None or setting.dtype is None:
        return one
    try:
        dtype = tf.as_dtype(setting.dtype).name
    except TypeError:
        known = [t.name for t in vars(tf.dtypes).values() if isinstance(t, tf.DType)]
        raise ConfigError(
            f"{INPUT_AXES}.{one.name}.dtype={setting.dtype!r} is not a type. "
            f"{choices(setting.dtype, known)}"
        ) from None
    return replace(one, dtype=dtype)


def _input_names(structure: Any) -> list[str]:
    """Return a unique name for each input: its key in a dictionary, or the tensor's name."""
    names: list[str] = []
    for path, tensor in keras.tree.flatten_with_path(structure):
        name = ".".join(map(str, path)) if isinstance(structure, Mapping) else tensor.name
        # Generated names depend on the process. Only their order is stable.
        name = INPUT if _MADE_UP.fullmatch(name) else name
        unique, count = name, 0
        while unique in names:
            count += 1
            unique = f"{name}.{count}"
        names.append(unique)
    return names


_KINDS = {"inputs": Kind.LAYER_INPUT, "outputs": Kind.LAYER_OUTPUT, "states": Kind.STATE}


@dataclass(frozen=True, eq=False)
class _Place:
    """The location of a layer call: canonical path, path of the layers' own names, scopes."""

    path: str
    name: str
    scopes: tuple[Scope, ...]
    ports: Ports
    tensors: InnerTensors


def find_tensors(trace: Trace) -> list[Found]:
    """Return every tensor of a trace in the order of computation, followed by weights."""
    model = trace.calls[0]
    paths = Paths()
    places = _places(trace, paths)
    found = [
        _found(places[model], _input_port(name), Kind.MODEL_INPUT, tensor)
        for name, tensor in trace.inputs.items()
    ]
    owners = _owners(trace)
    unnamed = unnamed_states(trace, owners)
    for call, event in _events(trace, owners):
        place = places[call]
        if isinstance(event, tf.Operation):
            found += _operation(place, event, call)
        elif call is not model:
            kind = _KINDS[event]
            taken = None
            if kind is Kind.LAYER_OUTPUT:
                taken = (*call.inputs.values(), *trace.dialect.own_variables(call.layer))
            for port, tensor in getattr(call, event).items():
                one = _found(place, _escape_port(port), kind, tensor)
                found.append(replace(_named(one, call, port), taken=taken))
        for port, tensor in unnamed.get(call, ()) if event == "states" else ():
            one = _found(place, port, Kind.STATE, tensor)
            found.append(replace(_named(one, call, port), again=True))
    found += [
        _found(places[model], _escape_port(port), Kind.MODEL_OUTPUT, tensor)
        for port, tensor in model.outputs.items()
    ]
    return found + _weights(trace, paths, places)


def _places(trace: Trace, paths: Paths) -> dict[LayerCall, _Place]:
    model = trace.calls[0]
    tensors = InnerTensors(trace.graph, trace.nested)
    scope = _scope("", "", model.layer, trace.dialect)
    places = {model: _Place("", "", (scope,), Ports(), tensors)}
    for call in trace.calls[1:]:
        parent = call.parent or model
        above = places[parent]
        path = paths.call(parent, parent.layer, above.path, call.layer, *_names(call.layer))
        name = f"{above.name}/{call.layer.name}" if above.name else call.layer.name
        scopes = (*above.scopes, _scope(path, name, call.layer, trace.dialect))
        places[call] = _Place(path, name, scopes, Ports(), tensors)
    return places


def _names(layer: Any) -> tuple[str, str]:
    return type(layer).__name__, layer.name


def _scope(path: str, name: str, layer: Any, dialect: Dialect) -> Scope:
    layer_class = dialect.package.layers.Layer
    bases = [c.__name__ for c in type(layer).__mro__[1:] if issubclass(c, layer_class)]
    return Scope(path, type(layer).__name__, tuple(bases), name)


def _owners(trace: Trace) -> dict[Any, LayerCall]:
    """Return the innermost call that created each operation, in creation order by graph.

    Operations outside the model's call (the function's return values), and those of probing calls,
    have no owner.
    """
    owners: dict[Any, LayerCall] = {}
    for graph, caller in [(trace.graph, None), *((n.graph, n.caller) for n in trace.nested)]:
        operations = graph.get_operations()
        spans: list[LayerCall | None] = [owners.get(caller)] * len(operations)
        for call in trace.calls:
            # A call starts after the enclosing ones, so the innermost is last.
            if call.graph is graph:
                spans[call.start : call.end] = [call] * (call.end - call.start)
        for position in trace.probes.operations(graph):
            spans[position] = None
        owners |= {o: span for o, span in zip(operations, spans, strict=True) if span is not None}
    return owners


def _events(trace: Trace, owners: Mapping[Any, LayerCall]) -> list[tuple[LayerCall, Any]]:
    """Return each call's inputs, operations and inner calls in order, and outputs."""
    outside = {tensor.op for tensor in trace.inputs.values()}
    outside |= {inside.op for _, inside in trace.graph.captures}
    by_call: dict[LayerCall, list[tuple[int, Any]]] = {call: [] for call in trace.calls}
    positions = {operation: index for index, operation in enumerate(owners)}
    for operation, call in owners.items():
        # Placeholders in graphs of loops and branches are arguments, not operations of the model.
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
        events.extend([(call, "outputs"), (call, "states")])

    for call in children[None]:
        visit(call)
    return events


def _named(found: Found, call: LayerCall, port: str) -> Found:
    """Return an input or output of a layer with the names of its axes that its type shows."""
    dims = found.record.spec.dims
    rank = None if dims is None else len(dims) - found.in_front
    # States and gates have the axes of the output.
    own = "output" if found.record.kind is Kind.STATE else port
    found = found.with_names(names_of(call, own, rank))
    given = call.inputs.get(INPUT)
    alike = port == "output" and keeps_axes(call.layer) and not found.in_front
    if alike and isinstance(given, tf.Tensor):
        return replace(found, like=given.name)
    return found


def _operation(place: _Place, operation: Any, call: LayerCall) -> list[Found]:
    """Return an operation's outputs: `op/TYPE`, then `op/TYPE@1` for a second one."""
    port = place.ports.unique(f"op/{operation.type}")
    ports = [port, *(f"{port}@{index}" for index in range(1, len(operation.outputs)))]
    found = [
        _found(place, port, Kind.OP, tensor, operation.type)
        for port, tensor in zip(ports, operation.outputs, strict=False)
        if not is_handle(tensor.dtype)
    ]
    if found:
        found[0] = found[0].with_names(names_of_operation(call, operation))
    inside = fused_states(operation).items()
    first = operation.outputs[0] if inside else None
    hidden = [_found(place, port, Kind.STATE, first, fused=why) for port, why in inside]
    return found + [replace(one, again=True) for one in hidden]


def _input_port(name: str) -> str:
    """Return the port of an input: `input.token_ids`, or `input` or `input.1` if unnamed."""
    return name if re.fullmatch(rf"{INPUT}(\.\d+)?", name) else f"{INPUT}.{escape(name)}"


def _escape_port(port: str) -> str:
    return ".".join(escape(part) for part in port.split("."))


def _found(
    place: _Place,
    port: str,
    kind: Kind,
    value: Any,
    op_type: str | None = None,
    fused: str | None = None,
) -> Found:
    """Return the record of a value, or of a part of it that its fused operation does not return."""
    reason: str | None
    if fused is not None:
        reason, spec = fused, TensorSpec(value.dtype.name, None)
    elif isinstance(value, tf.Tensor):
        value, reason = place.tensors.of(value)
        spec = spec_of(value)
    else:
        reason = f"a {type(value).__name__}, which is not one dense array"
        spec = TensorSpec.fixed(value.dtype.name, static_shape(value))
    if kind is not Kind.OP:
        port = place.ports.unique(port)
    record = TensorRecord(
        address=address_of(place.path, port),
        kind=kind,
        spec=spec,
        scopes=place.scopes,
        name=address_of(place.name, port),
        op_type=op_type,
        reason=reason,
    )
    return Found(record, value)


def _weight_port(name: str) -> str:
    """Return a weight's escaped name. "op" would clash with the scope of operations."""
    return "%6Fp" if name == "op" else escape(name)


def _weights(trace: Trace, paths: Paths, places: Mapping[LayerCall, _Place]) -> list[Found]:
    """Return every layer's own variables at its first call's path, shared ones only once."""
    found: list[Found] = []
    seen: set[Hashable] = set()

    def own(layer: Any, place: _Place) -> None:
        for variable in trace.dialect.own_variables(layer):
            if id(variable) in seen:
                continue
            seen.add(id(variable))
            # An unnamed variable has a generated name such as `variable_7`.
            name = trace.dialect.variable_name(variable)
            given = base_name(type(variable).__name__, name)
            port = place.ports.unique(_weight_port(given))
            record = TensorRecord(
                address=address_of(place.path, port),
                kind=Kind.WEIGHT,
                spec=TensorSpec.fixed(
                    keras.backend.standardize_dtype(variable.dtype), variable.shape
                ),
                scopes=place.scopes,
                name=address_of(place.name, port),
                depends_on_inputs=False,
            )
            found.append(Found(record, variable))

    def uncalled(layer: Any, place: _Place) -> None:
        for child in layers_in(layer, include_self=False, recursive=False):
            if id(child) in visited:
                continue
            visited.add(id(child))
            path = paths.child(layer, place.path, child, *_names(child))
            name = f"{place.name}/{child.name}" if place.name else child.name
            scopes = (*place.scopes, _scope(path, name, child, trace.dialect))
            here = _Place(path, name, scopes, Ports(), place.tensors)
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
