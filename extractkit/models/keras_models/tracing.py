"""Tracing of a Keras model with every layer call in it.

`keras.Model(inputs, layer.output)` cannot reach layers inside other layers. So `Layer.__call__` is
wrapped while a `tf.function` is traced. Operations of a graph are in creation order, and those
created during a layer's call belong to it.

Before its loop, an RNN calls its step once on the first time step, and Keras 3 calls each cell of a
stack once more for the size of its dropout masks. Only the shapes of these probing calls are used,
so they must not take the names of the calls in the loop.

The states and gates of recurrent cells are recorded too. Keras computes each gate by calling an
activation of the cell, in the same order in all implementations of a cell. Cells that are not
layers of Keras are recognized by their equations; see `graphs.recurrent_cells`.
"""

import inspect
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from extractkit.errors import JobError
from extractkit.models import CheckpointAxis
from extractkit.models.graphs import LOOPS
from extractkit.models.graphs.control_flow import NestedGraph, nested_graphs
from extractkit.models.graphs.recurrent_cells import cells_of_body
from extractkit.models.isolation import patched
from extractkit.models.keras_models.dialects import KERAS_3, Dialect, Span, kinds_of
from extractkit.models.keras_models.layer_state import LayerState
from extractkit.models.naming import plain, ports
from extractkit.models.tensorflow_internals import forget_colocation, watched_reads

if TYPE_CHECKING:
    from extractkit.models.keras_models.model import KerasModel


@dataclass(eq=False)
class Probes:
    """The probing calls made so far.

    Attributes:
        spans: The operations that were created by probing calls.
        depth: The number of nested probing calls.
    """

    spans: list[Span] = field(default_factory=list)
    depth: int = 0

    def operations(self, graph: tf.Graph) -> set[int]:
        """Return the positions, in creation order, of the operations of probing calls."""
        spans = [(start, end) for one, start, end in self.spans if one is graph]
        return {position for start, end in spans for position in range(start, end)}

    @contextmanager
    def record(self) -> Iterator[None]:
        """Record the block as a probing call."""
        graph = tf.compat.v1.get_default_graph()
        start = len(graph.get_operations())
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1
            self.spans.append((graph, start, len(graph.get_operations())))


@contextmanager
def watched_probes(dialect: Dialect) -> Iterator[Probes]:
    """Record the probing calls that this thread makes inside the block."""
    probes = Probes()

    def looping(original: Callable[..., Any]) -> Callable[..., Any]:
        parameters = inspect.signature(original)

        def rnn(*args: Any, **kwargs: Any) -> Any:
            bound = parameters.bind(*args, **kwargs)
            step = bound.arguments["step_function"]
            outside = tf.compat.v1.get_default_graph()

            def stepping(*given: Any) -> Any:
                if tf.compat.v1.get_default_graph() is not outside:
                    return step(*given)
                with probes.record():
                    return step(*given)

            # An unrolled RNN has no loop: each call is a step.
            if not bound.arguments.get("unroll"):
                bound.arguments["step_function"] = stepping
            return original(*bound.args, **bound.kwargs)

        return rnn

    def learning(original: Callable[..., Any]) -> Callable[..., Any]:
        def learned(*args: Any, **kwargs: Any) -> Any:
            with probes.record():
                return original(*args, **kwargs)

        return learned

    with ExitStack() as stack:
        for module in dialect.loops:
            stack.enter_context(patched(module, "rnn", looping))
        for layer, name in dialect.mask_makers:
            stack.enter_context(patched(layer, name, learning))
        yield probes


@dataclass(eq=False)
class LayerCall:
    """One call of a layer during the trace.

    Attributes:
        layer: the layer.
        parent: The enclosing call. None for the outermost.
        graph: The graph that was being built.
        start, end: The graph's operations start … end-1 were created during the call.
        inputs, outputs: Tensors by port ("input", "input.mask", "output.1").
        states: The states and gates of a recurrent cell by port; see `watched_states`.
    """

    layer: Any
    parent: "LayerCall | None"
    graph: tf.Graph
    start: int
    end: int
    inputs: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    states: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Trace:
    """A traced function and the layer calls in it.

    Attributes:
        function: The concrete function, whose graph holds every operation.
        inputs: The graph's placeholder for each named input.
        calls: The calls in the order of their start. The first is the model itself.
        nested: The graphs of loops, branches and nested functions in it.
        dialect: The Keras whose layers were watched.
        probes: Calls that Keras made to infer shapes, which are not among `calls`.
        reads_weights: Whether a variable's value was read during tracing, so that it may have
            become a constant.
        unfused: The operations of attention that a fused kernel was to compute.
    """

    function: Any
    inputs: Mapping[str, tf.Tensor]
    calls: tuple[LayerCall, ...]
    nested: tuple[NestedGraph, ...]
    dialect: Dialect = KERAS_3
    probes: Probes = field(default_factory=Probes)
    reads_weights: bool = False
    unfused: frozenset[tf.Operation] = frozenset()

    @property
    def graph(self) -> tf.Graph:
        """The traced graph."""
        return self.function.graph


def trace(
    function: Callable[[Mapping[str, tf.Tensor]], Any],
    specs: list[tf.TensorSpec],
    dialect: Dialect = KERAS_3,
) -> Trace:
    """Trace `function`, called with a mapping of the specs' names to tensors.

    Args:
        dialect: The Keras whose layers are watched.
    """
    by_name = {spec.name: spec for spec in specs}
    feature_names = list(by_name)
    # tf.function requires argument names to be identifiers, so positional arguments are used.
    arguments = [
        tf.TensorSpec(spec.shape, spec.dtype, name=f"input_{index}")
        for index, spec in enumerate(by_name.values())
    ]

    def called(*tensors: tf.Tensor) -> Any:
        with dialect.converting():
            return plain(function(dict(zip(feature_names, tensors, strict=True))))

    traced = tf.function(called, autograph=False)
    with (
        dialect.repaired() as unfused,
        dialect.inference(),
        watched_probes(dialect) as probes,
        _watched_reads() as reads,
        _watched_calls(dialect.package.layers.Layer, probes) as calls,
    ):
        concrete = traced.get_concrete_function(*arguments)
    _forget_colocations(concrete.graph)
    inputs = dict(zip(feature_names, concrete.inputs, strict=False))
    # Only function graphs have names.
    made = {getattr(call.graph, "name", ""): call.graph for call in calls}
    nested = nested_graphs(concrete.graph, made)
    # Calls in other graphs are made by Keras to infer shapes, or by a nested `tf.function`, which
    # may have been traced before.
    graphs = {concrete.graph, *(inner.graph for inner in nested)}
    own = tuple(call for call in calls if call.graph in graphs)
    without_kernel = frozenset(
        operation
        for graph, start, end in unfused
        for operation in (graph.get_operations()[start:end] if graph in graphs else ())
    )
    if without_kernel:
        _log.warning(
            "Attention is computed without the fused kernel that flash_attention=True asks for. "
            "TensorFlow has none, and fused attention has no probabilities"
        )
    return Trace(concrete, inputs, own, tuple(nested), dialect, probes, bool(reads), without_kernel)


def _forget_colocations(graph: tf.Graph) -> None:
    """Remove the colocation of operations with a variable's handle.

    Handles are captured again when a part of the graph is rebuilt, under other names.
    """
    for operation in graph.get_operations():
        if operation.colocation_groups() != [b"loc:@" + operation.name.encode()]:
            forget_colocation(operation)


@contextmanager
def _watched_calls(layer_class: Any, probes: Probes) -> Iterator[list[LayerCall]]:
    """Record layer calls of this thread within the block.

    Args:
        probes: Calls that are not recorded.
    """
    calls: list[LayerCall] = []
    stack: list[LayerCall] = []

    def watching(original: Callable[..., Any]) -> Callable[..., Any]:
        def watched(layer: Any, *args: Any, **kwargs: Any) -> Any:
            if probes.depth:
                return original(layer, *args, **kwargs)
            graph = tf.compat.v1.get_default_graph()
            start = len(graph.get_operations())
            call = LayerCall(layer, stack[-1] if stack else None, graph, start, end=start)
            call.inputs = _input_ports(layer, args, kwargs)
            calls.append(call)
            stack.append(call)
            try:
                with watched_states(layer) as states_of:
                    output = original(layer, *args, **kwargs)
            finally:
                stack.pop()
            call.end = len(graph.get_operations())
            call.outputs = ports("output", output)
            call.states = states_of(output)
            return output

        return watched

    with patched(layer_class, "__call__", watching):
        yield calls


@contextmanager
def _watched_reads() -> Iterator[list[str]]:
    """Record the names of variables that are read outside the traced graph within the block."""
    names: list[str] = []

    def watching(original: Callable[..., Any]) -> Callable[..., Any]:
        def read(variable: Any, *args: Any, **kwargs: Any) -> Any:
            if tf.executing_eagerly():
                names.append(variable.name)
            return original(variable, *args, **kwargs)

        return read

    with watched_reads(watching):
        yield names


def _input_ports(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the tensors of a layer's call: the first argument is `input`, others by name."""
    try:
        bound = dict(inspect.signature(layer.call).bind_partial(*args, **kwargs).arguments)
    except TypeError:  # an argument of Layer.__call__ that `call` does not have
        bound = {str(position): value for position, value in enumerate(args)} | kwargs
    found: dict[str, Any] = {}
    for position, (name, value) in enumerate(bound.items()):
        found |= ports("input" if position == 0 else f"input.{name}", value)
    return found


_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Traced:
    """A trace, and when it was made.

    Attributes:
        trace: The trace.
        loads: The number of times that weights had been loaded.
        state: The state of the layers after tracing, which may change it.
    """

    trace: Trace
    loads: int
    state: LayerState

    def holds(self, state: LayerState) -> bool:
        """Return whether tracing in this state of the layers would give the same graph."""
        return not self.trace.reads_weights and not self.state.changed(state)


class Retracing:
    """A model adapter whose trace fits the loaded weights.

    A trace is reused while the state of the layers is the same as when it was made. The state is
    compared each time that weights have been loaded.

    Args:
        first: The adapter that provides the catalog.
        axis: The axis that counts loads of weights.
        untraced: Returns a new adapter of the same model without a trace.
    """

    def __init__(
        self, first: "KerasModel", axis: CheckpointAxis, untraced: "Callable[[], KerasModel]"
    ) -> None:
        self._first = self._current = first
        self._axis = axis
        self._untraced = untraced
        self._fits = first.traced.loads

    def current(self) -> "KerasModel":
        """Return the adapter whose trace fits, or a newly traced one.

        Raises:
            JobError: With the loaded weights the model has other tensors.
        """
        if self._fits != self._axis.loads:
            state = LayerState.of(self._first.keras_model)
            known = (self._first, self._current)
            fitting = (one for one in known if one.traced.holds(state))
            self._current = next(fitting, None) or self._retraced()
            self._fits = self._axis.loads
        return self._current

    def _retraced(self) -> "KerasModel":
        _log.info("layers have derived other state from these weights: the model is traced anew")
        again = self._untraced()
        if again.catalog.records != self._first.catalog.records:
            raise JobError(
                f"model {self._first.name!r} has other tensors with these weights than with the "
                f"first ones, so they are not one axis. Extract from each checkpoint by itself: "
                f"model.checkpoint=FILE"
            )
        return again


@dataclass(frozen=True)
class _Cell:
    """The states and gates of a class of cells.

    Attributes:
        states: The names of its states, in the order in which it returns them.
        gates: The names of its gates, in order. The recurrent activation computes capitals, and the
            other activation the rest, before anything else.
    """

    states: tuple[str, ...]
    gates: str = ""


_LSTM = _Cell(("hidden", "cell"), "IFcO")
_CELLS: Mapping[str, _Cell] = {
    "LSTMCell": _LSTM,
    "ConvLSTMCell": _LSTM,
    "GRUCell": _Cell(("hidden",), "ZRh"),
    "SimpleRNNCell": _Cell(("hidden",)),
}


@contextmanager
def watched_states(layer: Any) -> Iterator[Callable[[Any], dict[str, Any]]]:
    """Record the gates of a recurrent cell that is called within the block.

    Yields:
        Returns the states and gates by port ("hidden", "gate.i") for the result of the call. It
        returns none for other layers, also for cells whose computation a subclass overrides.
    """
    cell = next((_CELLS[kind] for kind in _CELLS if kind in kinds_of(layer)), None)
    if cell is None:
        yield lambda result: {}
        return
    recurrent: list[Any] = []
    inner: list[Any] = []
    with (
        _recorded(layer, "recurrent_activation", recurrent),
        _recorded(layer, "activation", inner),
    ):
        yield lambda result: _named(cell, result, recurrent, inner)


@contextmanager
def _recorded(layer: Any, name: str, results: list[Any]) -> Iterator[None]:
    """Record the results of a function that is an attribute of a layer, for this thread."""
    attributes = vars(layer)
    if not callable(original := attributes.get(name)):
        yield
        return
    thread = threading.get_ident()

    def recording(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if threading.get_ident() == thread:
            results.append(result)
        return result

    # Keras would track a new attribute.
    attributes[name] = recording
    try:
        yield
    finally:
        attributes[name] = original


def _named(
    cell: _Cell, result: Any, recurrent: list[Any], inner: list[Any]
) -> dict[str, tf.Tensor]:
    states = tf.nest.flatten(result)[1:]
    if len(states) != len(cell.states) or len(recurrent) != sum(map(str.isupper, cell.gates)):
        return {}
    found = dict(zip(cell.states, states, strict=True))
    results = {True: iter(recurrent), False: iter(inner)}
    for name in cell.gates:
        found[f"gate.{name.lower()}"] = next(results[name.isupper()], None)
    return {port: one for port, one in found.items() if isinstance(one, tf.Tensor)}


def unnamed_states(
    trace: Trace, owners: Mapping[Any, LayerCall]
) -> dict[LayerCall, list[tuple[str, tf.Tensor]]]:
    """Return the states and gates of cells in loops whose calls were not recorded, by port.

    They belong to the call that computes them: the fused LSTM of tf-keras, or a cell of one's own.

    Args:
        owners: The innermost call that created each operation.
    """
    known = {tensor.graph for call in trace.calls for tensor in call.states.values()}
    found: dict[LayerCall, list[tuple[str, tf.Tensor]]] = {}
    for nested in trace.nested:
        if nested.caller.type in LOOPS and nested.graph not in known:
            for cell in cells_of_body(nested.graph):
                if (call := owners.get(cell.tensors["hidden"].op)) is not None:
                    found.setdefault(call, []).extend(cell.tensors.items())
    return found
