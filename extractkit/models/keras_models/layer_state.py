"""State of layers besides weights: comparison, derivation after loading weights, and calls.

Normalization keeps mean and variance as tensors, Discretization its boundaries as a list, lookup
layers a table, and custom layers anything. Loading weights may replace this state, while an earlier
trace keeps the old values. Keras 2 derives the state after some ways of loading, and Keras 3
leaves it to the layer's loader. Both miss some cases.

Stateful recurrent layers keep their state in variables, from one call to the next.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from extractkit.core.values import digest_of_array
from extractkit.errors import ModelError
from extractkit.models.failures import error_summary
from extractkit.models.keras_internals import FOR_TRAINING, IDENTIFIED, layers_in
from extractkit.models.keras_models.dialects import KERAS_3, Dialect, dialect_of

if TYPE_CHECKING:
    from extractkit.models.keras_models.tracing import Trace

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type, np.dtype, tf.DType)

# The graph of layers and TensorFlow's objects are compared by identity: loading does not change the
# graph, and mutable objects (a variable, a table) are not constants of a trace.
_BY_IDENTITY = (
    "tensorflow.",
    *IDENTIFIED,
)


class _Same:
    """An object compared by identity, and kept alive so that its id is not reused."""

    def __init__(self, held: object) -> None:
        self._held = held

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other._held is self._held

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, eq=False)
class LayerState:
    """The state of all layers at one time.

    Attributes:
        layers: The path and state of each layer, in order.
    """

    layers: tuple[tuple[str, tuple[object, ...]], ...]

    @staticmethod
    def of(model: Any) -> "LayerState":
        """Return the state of a model of either Keras."""
        layers = layers_by_path(model)
        known = {id(layer) for layer in layers.values()}
        return LayerState(
            tuple((path, held(layer, vars(layer), known)) for path, layer in layers.items())
        )

    def changed(self, other: "LayerState") -> list[str]:
        """Return the paths of the layers whose state differs from another state."""
        before, after = dict(self.layers), dict(other.layers)
        paths = dict.fromkeys((*before, *after))
        return [path for path in paths if before.get(path) != after.get(path)]


def layers_by_path(model: Any) -> dict[str, Any]:
    """Return a model and all layers in it, each once, by path."""
    found: dict[str, Any] = {}
    seen: set[int] = set()
    waiting = [("", model)]
    while waiting:
        path, layer = waiting.pop()
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        unique = path
        while unique in found:
            unique += "'"
        found[unique] = layer
        inside = layers_in(layer, include_self=False, recursive=False)
        waiting += [(f"{path}/{one.name}".lstrip("/"), one) for one in reversed(list(inside))]
    return found


def held(
    layer: Any, attributes: Mapping[str, Any], layers: Set[int] = frozenset()
) -> tuple[object, ...]:
    """Return the state of a layer, for comparison.

    Attributes that every layer or model has are Keras's own, such as counters and what training
    uses, and are ignored.

    Args:
        attributes: The layer's attributes, or a copy of them.
        layers: The ids of other layers, which are not followed.
    """
    common = _common_attributes((dialect_of(layer) or KERAS_3).package)
    own = {name: one for name, one in attributes.items() if name not in common}
    return tuple(_held(own, layers))


@cache
def _common_attributes(package: Any) -> frozenset[str]:
    # Named explicitly, so that Keras's counter does not change.
    made = (package.layers.Layer(name="common"), package.Model(name="common"))
    return frozenset(name for one in made for name in vars(one)) | FOR_TRAINING


def _held(attributes: Mapping[str, Any], layers: Set[int]) -> Iterator[object]:
    """Yield every object reachable from attributes, except other layers.

    An explicit stack is used, since a chain of objects may exceed the recursion limit.
    """
    waiting: list[Any] = [attributes]
    seen: dict[int, object] = {}
    while waiting:
        value = waiting.pop()
        if isinstance(value, _PLAIN):
            yield type(value), repr(value)
        elif isinstance(value, np.ndarray | np.generic):
            yield _content(np.asarray(value))
        elif isinstance(value, tf.Tensor):
            yield _tensor(value)
        elif id(value) in layers or isinstance(value, tf.Variable | keras.Variable):
            yield _Same(value)
        elif id(value) in seen:
            yield "seen"
        else:
            seen[id(value)] = value
            inside = _inside(value)
            if inside is None:
                yield _Same(value)
            else:
                yield type(value).__name__, len(inside)
                waiting.extend(reversed(inside))


def _inside(value: Any) -> Sequence[Any] | None:
    """Return the parts of an object, or None if it is compared as a whole."""
    if isinstance(value, dict):
        return _pairs(value)
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, Set):
        plain = all(isinstance(one, _PLAIN) for one in value)
        return sorted(value, key=repr) if plain else list(value)
    if isinstance(value, ModuleType) or callable(value):
        return None
    if f"{type(value).__module__}.".startswith(_BY_IDENTITY):
        return None
    attributes = getattr(value, "__dict__", None)
    return _pairs(attributes) if attributes else None


def _pairs(mapping: Mapping[Any, Any]) -> list[Any]:
    """Return the keys and values. Attributes are sorted, since setting them changes their order."""
    pairs = list(mapping.items())
    if all(isinstance(key, str) for key in mapping):
        pairs.sort(key=lambda pair: pair[0])
    return [part for pair in pairs for part in pair]


def _tensor(tensor: Any) -> object:
    if not hasattr(tensor, "numpy") or tensor.dtype in (tf.resource, tf.variant):
        return _Same(tensor)
    return _content(np.asarray(tensor.numpy()))


def _content(array: Any) -> object:
    return array.dtype.str, array.shape, digest_of_array(array)


def derive_state(model: Any, at: str) -> None:
    """Let the layers of a model derive their state from loaded variables.

    Args:
        at: The name of the weights in messages.

    Raises:
        ModelError: A custom layer fails.
    """
    dialect = dialect_of(model) or KERAS_3
    for path, layer in layers_by_path(model).items():
        try:
            _derive(layer, dialect)
        except Exception as error:  # custom layers may raise anything
            raise ModelError(
                f"{at}: layer {path!r} fails once its weights are loaded: {error_summary(error)}"
            ) from error


def _derive(layer: Any, dialect: Dialect) -> None:
    if not _is_of(dialect, _owner(layer, "load_own_variables")):
        store: dict[str, Any] = {}
        layer.save_own_variables(store)
        layer.load_own_variables(store)
    if _derives_state(layer, dialect):
        layer.finalize_state()


def stale_layers(model: Any) -> list[str]:
    """Return the paths of layers whose state Keras has not derived from the loaded weights.

    Only Keras's own layers are checked, since the effects of deriving others' state are unknown.
    """
    dialect = dialect_of(model) or KERAS_3
    return [
        path
        for path, layer in layers_by_path(model).items()
        if _derives_state(layer, dialect)
        and _is_of(dialect, _owner(layer, "finalize_state"))
        and _would_change(layer)
    ]


def layers_without_vocabulary(model: Any) -> list[str]:
    """Return the paths of layers with an empty table, which cannot be called."""
    return [
        path
        for path, layer in layers_by_path(model).items()
        if any(map(_is_empty_table, vars(layer).values()))
    ]


_COUNTS = ("num_documents", "token_counts", "token_document_counts")


def adapting_state(model: Any) -> list[Any]:
    """Return the variables and tables that lookup layers of Keras 2 use in `adapt` alone.

    They count tokens and documents. What `call` uses is derived from them at the end of `adapt`.
    """
    dialect = dialect_of(model) or KERAS_3
    if dialect is KERAS_3:
        return []
    layers = dialect.package.layers
    return [
        getattr(layer, name)
        for layer in layers_in(model)
        if isinstance(layer, layers.StringLookup | layers.IntegerLookup)
        for name in _COUNTS
        if hasattr(layer, name)
    ]


def _derives_state(layer: Any, dialect: Dialect) -> bool:
    """Return whether a layer derives state from its variables.

    A layer without variables has nothing to derive state from: Discretization of Keras 3 would lose
    the boundaries of its configuration. Layers may have variables that Keras does not list (weights
    of terms).
    """
    if _owner(layer, "finalize_state") in (None, dialect.package.layers.Layer):
        return False
    kept = any(isinstance(one, tf.Variable) for one in vars(layer).values())
    return kept or bool(dialect.own_weights(layer))


def _owner(layer: Any, method: str) -> type | None:
    """Return the class that defines a layer's method."""
    return next((c for c in type(layer).__mro__ if method in vars(c)), None)


def _is_of(dialect: Dialect, owner: type | None) -> bool:
    return owner is not None and owner.__module__.partition(".")[0] == dialect.package.__name__


def _would_change(layer: Any) -> bool:
    """Return whether deriving its state again would change a layer, without changing it."""
    twin = object.__new__(type(layer))
    twin.__dict__.update(_copied(vars(layer)))
    before = held(layer, vars(twin))
    twin.finalize_state()
    return before != held(layer, vars(twin))


def _copied(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes with lists copied, since setting an attribute may append to them."""
    return {
        name: type(one)(one) if type(one) in (list, dict, set) else one
        for name, one in attributes.items()
    }


def _is_empty_table(value: Any) -> bool:
    if not isinstance(value, tf.lookup.StaticHashTable):
        return False
    if value.size() > 0:
        return False
    try:  # there is no other way to detect a table that was never filled
        value.lookup(tf.zeros([1], value.key_dtype))
    except tf.errors.FailedPreconditionError:
        return True
    return False


_log = logging.getLogger(__name__)


class LoadedState:
    """A check of the state of a model's layers after each load of weights.

    Attributes:
        record: The manifest's entry, empty if there is nothing to report.
    """

    def __init__(self, model: Any) -> None:
        self.record: dict[str, object] = {}
        self._model = model
        self._initial: LayerState | None = None

    def before(self) -> None:
        """Record the state before the first of several sets of weights is loaded."""
        if self._initial is None:
            self._initial = LayerState.of(self._model)

    def check(self, at: str) -> None:
        """Refuse layers that cannot be called, and warn of state that Keras has not derived.

        Args:
            at: The name of the loaded weights in messages.

        Raises:
            ModelError: A layer has no vocabulary, or keeps the state of previously loaded weights.
        """
        if empty := layers_without_vocabulary(self._model):
            raise ModelError(
                f"{at}: layer {empty[0]!r} has no vocabulary, so it cannot be called: neither HDF5 "
                f"files nor files of weights alone contain one. Save the whole model in Keras's "
                f"own format, model.save('model.keras'), and give model.path=model.keras"
            )
        stale = stale_layers(self._model)
        if not stale:
            return
        changed = self._initial.changed(LayerState.of(self._model)) if self._initial else []
        if kept := [path for path in stale if path in changed]:
            raise ModelError(
                f"{at}: {self._keras} leaves layer {kept[0]!r} in the state of the weights before, "
                f"which it does not derive from files of this format. Give checkpoints of one "
                f"format alone"
            )
        self._warn(at, stale)

    def _warn(self, at: str, stale: list[str]) -> None:
        if self.record.get("stale_layers") == stale:
            return
        self.record["stale_layers"] = stale
        _log.warning(
            "%s: %s does not derive the state of layer %s from these weights. The values are those "
            "of Keras's own predict, not of the model that was saved. Call finalize_state() of the "
            "layer once the weights are loaded, and give the model itself: "
            "extractkit.extract(model=model, ...)",
            at,
            self._keras,
            ", ".join(map(repr, stale)),
        )

    @property
    def _keras(self) -> str:
        return (dialect_of(self._model) or KERAS_3).name


def stateful_layers(model: Any, dialect: Dialect) -> list[Any]:
    """Return the stateful recurrent layers of a model, and wrappers marked stateful."""
    kinds = (dialect.package.layers.RNN, dialect.package.layers.Bidirectional)
    return [layer for layer in layers_in(model) if isinstance(layer, kinds) and layer.stateful]


@contextmanager
def from_initial_state(layers: Sequence[Any]) -> Iterator[None]:
    """Start each call of these layers within the block from the initial state, and keep none."""
    for layer in layers:
        layer.stateful = False
    try:
        yield
    finally:
        for layer in layers:
            layer.stateful = True


def check_calls(model: Any, layers: Sequence[Any], trace: "Trace") -> None:
    """Check that one call of a model calls no stateful layer twice.

    The second call would continue from the state of the first.

    Raises:
        ModelError: A layer is called twice.
    """
    package = trace.dialect.package
    within = {
        id(inside)
        for layer in layers_in(model)
        if isinstance(layer, package.layers.TimeDistributed)
        for inside in layers_in(layer)
    }
    for layer in layers:
        calls = [call for call in trace.calls if call.layer is layer]
        looped = any(call.graph is not trace.graph for call in calls)
        if len(calls) > 1 or looped or id(layer) in within:
            raise ModelError(
                f"stateful layer {layer.name!r} is called more than once in one call of the model, "
                f"each time from the state that the call before it left. Such values are not "
                f"offered: set stateful=False, or call it once"
            )
