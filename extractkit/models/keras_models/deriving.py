"""What layers derive from their weights once these are loaded: a tensor, a list, a table.

Keras 2 asks every layer to finalize its state after some ways of loading, Keras 3 leaves it to a
layer's own way of loading. Both forget it here and there.
"""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from extractkit.errors import ModelError
from extractkit.models.foreign import told
from extractkit.models.keras_models.dialects import KERAS_3, Dialect, dialect_of
from extractkit.models.keras_models.layer_state import held, layers_by_path


def derive_state(model: Any, at: str) -> None:
    """Let the layers of a model do what they do after their variables have been loaded.

    Args:
        at: how messages name where the weights come from.

    Raises:
        ModelError: a layer of somebody's own fails.
    """
    dialect = dialect_of(model) or KERAS_3
    for path, layer in layers_by_path(model).items():
        try:
            _derive(layer, dialect)
        except Exception as error:  # whatever a layer of somebody's own raises
            raise ModelError(
                f"{at}: layer {path!r} fails once its weights are loaded: {told(error)}"
            ) from error


def _derive(layer: Any, dialect: Dialect) -> None:
    if not _is_of(dialect, _owner(layer, "load_own_variables")):
        store: dict[str, Any] = {}
        layer.save_own_variables(store)
        layer.load_own_variables(store)
    if _finalizes(layer, dialect):
        layer.finalize_state()


def stale_layers(model: Any) -> list[str]:
    """Return the paths of layers that Keras has left with the state of other weights.

    Only layers of Keras itself are asked: what others do when they derive state is not known.
    """
    dialect = dialect_of(model) or KERAS_3
    return [
        path
        for path, layer in layers_by_path(model).items()
        if _finalizes(layer, dialect)
        and _is_of(dialect, _owner(layer, "finalize_state"))
        and _would_change(layer)
    ]


def layers_without_vocabulary(model: Any) -> list[str]:
    """Return the paths of layers whose table is empty, so that they cannot be called."""
    return [
        path
        for path, layer in layers_by_path(model).items()
        if any(map(_is_empty_table, vars(layer).values()))
    ]


def _finalizes(layer: Any, dialect: Dialect) -> bool:
    """Return whether a layer derives state from its variables.

    Without variables there is nothing to derive from: Discretization of Keras 3 would lose the
    boundaries that its configuration holds. A layer may keep variables that Keras does not list
    (weights of terms).
    """
    if _owner(layer, "finalize_state") in (None, dialect.package.layers.Layer):
        return False
    kept = any(isinstance(one, tf.Variable) for one in vars(layer).values())
    return kept or bool(dialect.own_weights(layer))


def _owner(layer: Any, method: str) -> type | None:
    """Return the class that a layer has a method from."""
    return next((c for c in type(layer).__mro__ if method in vars(c)), None)


def _is_of(dialect: Dialect, owner: type | None) -> bool:
    return owner is not None and owner.__module__.partition(".")[0] == dialect.package.__name__


def _would_change(layer: Any) -> bool:
    """Return whether deriving its state anew would change a layer; the layer itself stays."""
    twin = object.__new__(type(layer))
    twin.__dict__.update(_copied(vars(layer)))
    before = held(layer, vars(twin))
    twin.finalize_state()
    return before != held(layer, vars(twin))


def _copied(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same attributes, in lists of their own: setting one may add to those."""
    return {
        name: type(one)(one) if type(one) in (list, dict, set) else one
        for name, one in attributes.items()
    }


def _is_empty_table(value: Any) -> bool:
    if not isinstance(value, tf.lookup.StaticHashTable):
        return False
    if value.size() > 0:
        return False
    try:  # nothing else tells an empty table from one that was never filled
        value.lookup(tf.zeros([1], value.key_dtype))
    except tf.errors.FailedPreconditionError:
        return True
    return False
