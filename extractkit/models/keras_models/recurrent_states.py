"""States and gates of recurrent cells, by the names of the literature.

Keras computes each gate by calling an activation of the cell. The order is the same in all
implementations of a cell. These calls are recorded while a cell's call is traced. Cells that are
not layers of Keras are recognized by their equations; see `graphs.recurrent_cells`.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from extractkit.models.graphs import LOOPS
from extractkit.models.graphs.recurrent_cells import cells_of_body
from extractkit.models.keras_models.dialects import kinds_of

if TYPE_CHECKING:
    from extractkit.models.keras_models.tracing import LayerCall, Trace


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
    trace: "Trace", owners: Mapping[Any, "LayerCall"]
) -> dict["LayerCall", list[tuple[str, tf.Tensor]]]:
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
