"""Pruning wrappers of tensorflow-model-optimization, read without that package and taken off.

`PruneLowMagnitude` multiplies weights by their masks in training and keeps the product in the
weight. Its masks, thresholds and step are of no use afterwards: `strip_pruning` leaves the wrapped
layer.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import h5py

from extractkit.errors import ModelError
from extractkit.models.keras_models.saved import SavedKeras, serialized_objects

WRAPPER = "PruneLowMagnitude"

_OWN = re.compile(r"(mask|threshold|pruning_step)(_\d+)?(:0)?")
_WEIGHTS, _NAMES = "model_weights", "weight_names"
_SETTINGS = frozenset({"name", "trainable", "dtype", "batch_input_shape", "layer"})
_STRIP = "Save the model without them: tfmot.sparsity.keras.strip_pruning(model).save(...)"


def pruned_layers(saved: SavedKeras, custom_objects: Mapping[str, Any]) -> list[str]:
    """Return the names of layers in pruning wrappers; none where the wrapper itself is given.

    Raises:
        ModelError: The wrapper of one changes what the model computes.
    """
    if WRAPPER in custom_objects:
        return []
    layers = [config["layer"]["config"] for config in _wrappers(saved)]
    for layer in layers:
        if layer.get("mask_zero"):
            raise ModelError(
                f"{saved.at}: the pruning wrapper of layer {layer['name']!r} keeps its mask from "
                f"the layers after it, and they have it without the wrapper. {_STRIP}"
            )
    return list(dict.fromkeys(str(layer["name"]) for layer in layers))


def stand_in(package: Any) -> Any:
    """Return a class in place of the wrapper, which has none of its variables.

    Args:
        package: the imported module `tf_keras`.
    """

    class PruneLowMagnitude(package.layers.Wrapper):
        """Archives name a layer's weights by its class."""

        @classmethod
        def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
            kept = {key: value for key, value in config.items() if key in _SETTINGS}
            return super().from_config(kept, custom_objects)

        def call(self, inputs: Any, **arguments: Any) -> Any:
            return self.layer(inputs, **arguments)

        def load_own_variables(self, store: Any) -> None:
            """Leave the wrapper's variables where they are."""

    return PruneLowMagnitude


@contextmanager
def without_masks(saved: SavedKeras) -> Iterator[Any]:
    """Yield an HDF5 file in memory, in which the wrappers have no weights of their own."""
    wrappers = {str(config["name"]) for config in _wrappers(saved)}
    with (
        h5py.File(saved.path, "r") as old,
        h5py.File("without_masks.h5", "w", driver="core", backing_store=False) as new,
    ):
        for key, value in old.attrs.items():
            new.attrs[key] = value
        old.copy(_WEIGHTS, new)
        for group in new[_WEIGHTS].values():
            # Long lists are cut into weight_names0, weight_names1, …
            for key in [key for key in group.attrs if key.startswith(_NAMES)]:
                names = [name for name in group.attrs[key] if not _is_own(name, wrappers)]
                group.attrs[key] = names
        yield new


def stripped(model: Any, package: Any, wrapper: Any, at: str) -> Any:
    """Return the model with the wrapped layers in place of the wrappers, as `strip_pruning` does.

    Args:
        package: the imported module `tf_keras`.
        wrapper: the stand-in.
        at: how messages name the file.

    Raises:
        ModelError: A wrapper is inside something else than a functional or sequential model.
    """

    def is_wrapped(layer: Any) -> bool:
        return any(isinstance(one, wrapper) for one in layer._flatten_layers())

    def strip(layer: Any) -> Any:
        if not is_wrapped(layer):
            return layer
        if isinstance(layer, wrapper):
            inner: Any = layer.layer
            shape = getattr(layer, "_batch_input_shape", None)
            # The first layer of a sequential model gives the model its input.
            if shape is not None and not hasattr(inner, "_batch_input_shape"):
                inner._batch_input_shape = shape
            return inner
        if not (
            isinstance(layer, package.Sequential) or getattr(layer, "_is_graph_network", False)
        ):
            raise ModelError(
                f"{at}: pruning wrappers are inside {layer.name!r}, which is a "
                f"{type(layer).__name__}; they are taken out of functional and sequential models "
                f"alone. {_STRIP}"
            )
        return package.models.clone_model(layer, clone_function=strip)

    return strip(model)


def _wrappers(saved: SavedKeras) -> list[dict[str, Any]]:
    return [
        node["config"] for node in serialized_objects(saved.config) if node["class_name"] == WRAPPER
    ]


def _is_own(name: bytes | str, wrappers: set[str]) -> bool:
    """Whether a weight in an HDF5 file is a wrapper's and not the wrapped layer's."""
    parts = (name.decode() if isinstance(name, bytes) else name).split("/")
    return len(parts) > 1 and parts[-2] in wrappers and _OWN.fullmatch(parts[-1]) is not None
