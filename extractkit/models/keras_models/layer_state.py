"""What the layers of a model hold besides variables, and that may go into a trace as constants.

Normalization keeps mean and variance as tensors, Discretization its boundaries as a list, lookup
layers a table; any layer may keep what it likes. Loading weights may replace all of that, and a
trace that was made before keeps the old values.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from extractkit.models import digests
from extractkit.models.keras_models.dialects import KERAS_3, dialect_of

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type, np.dtype, tf.DType)

# Of the graph of layers, which loading does not change, and of TensorFlow's own objects identity
# is enough: what changes inside them (a variable, a mutable table) is not a constant to a trace.
_BY_IDENTITY = (
    "tensorflow.",
    "keras.src.backend.",
    "keras.src.ops.",
    "keras.src.utils.tracking",
    "tf_keras.src.engine.node",
    "tf_keras.src.engine.keras_tensor",
)


class _Same:
    """An object that is equal to itself alone; held, so that no other gets its identity."""

    def __init__(self, held: object) -> None:
        self._held = held

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other._held is self._held

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, eq=False)
class LayerState:
    """The state of all layers at one time.

    Attributes:
        layers: for each layer, in order: its path and what it holds.
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
        """Return the paths of the layers whose state differs from that at another time."""
        before, after = dict(self.layers), dict(other.layers)
        paths = dict.fromkeys((*before, *after))
        return [path for path in paths if before.get(path) != after.get(path)]


def layers_by_path(model: Any) -> dict[str, Any]:
    """Return a model and all layers in it, each once, by the names that lead to them."""
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
        inside = layer._flatten_layers(include_self=False, recursive=False)
        waiting += [(f"{path}/{one.name}".lstrip("/"), one) for one in reversed(list(inside))]
    return found


def held(
    layer: Any, attributes: Mapping[str, Any], layers: Set[int] = frozenset()
) -> tuple[object, ...]:
    """Return what a layer holds, for comparison.

    Attributes that every layer has are Keras's own, and count up calls among other things.

    Args:
        attributes: the layer's own, or such as it might have.
        layers: identities of other layers, which are not looked into.
    """
    common = _common_attributes((dialect_of(layer) or KERAS_3).package)
    own = {name: one for name, one in attributes.items() if name not in common}
    return tuple(_held(own, layers))


@cache
def _common_attributes(package: Any) -> frozenset[str]:
    # With a name, which Keras would count up otherwise.
    return frozenset(vars(package.layers.Layer(name="common")))


def _held(attributes: Mapping[str, Any], layers: Set[int]) -> Iterator[object]:
    """Yield everything that can be reached from attributes, without other layers.

    An explicit stack: a chain of objects may be longer than Python's.
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
    """Return what an object consists of; None where it counts as a whole."""
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
    """Return keys and values; in one order for attributes, which setting them again changes."""
    pairs = list(mapping.items())
    if all(isinstance(key, str) for key in mapping):
        pairs.sort(key=lambda pair: pair[0])
    return [part for pair in pairs for part in pair]


def _tensor(tensor: Any) -> object:
    if not hasattr(tensor, "numpy") or tensor.dtype in (tf.resource, tf.variant):
        return _Same(tensor)
    return _content(np.asarray(tensor.numpy()))


def _content(array: Any) -> object:
    return array.dtype.str, array.shape, digests.of_array(array)
