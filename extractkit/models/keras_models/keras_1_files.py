"""Files of Keras 1, handed to tf-keras: it converts their weights, but knows not their words."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h5py

from extractkit.errors import ModelError
from extractkit.models.keras_models.keras_1_layers import translated_model
from extractkit.models.keras_models.saved import SavedKeras, serialized_objects

_WEIGHTS = "model_weights"
_WORDS = frozenset({"W_regularizer", "border_mode", "nb_filter"})


def is_keras_1(saved: SavedKeras) -> bool:
    """Whether Keras 1 wrote it, by its version or, without one, by its words."""
    if saved.major is not None:
        return saved.major == 1 and saved.is_hdf5
    return saved.is_hdf5 and any(
        isinstance(node.get("config"), dict) and not _WORDS.isdisjoint(node["config"])
        for node in serialized_objects(saved.config)
    )


@contextmanager
def in_words_of_keras_2(saved: SavedKeras) -> Iterator[Any]:
    """The same file, in memory, its architecture translated.

    Raises:
        ModelError: a layer without a counterpart, named.
    """
    class_name = str(saved.config.get("class_name"))
    try:
        config = translated_model(class_name, saved.config["config"])
    except ModelError as error:
        raise ModelError(f"{saved.at}: {error}") from error
    with (
        h5py.File(saved.path, "r") as old,
        h5py.File("translated.h5", "w", driver="core", backing_store=False) as new,
    ):
        new.attrs["model_config"] = json.dumps({"class_name": class_name, "config": config})
        old.copy(_WEIGHTS, new)
        # Weights without a version are those of Keras 1 to tf-keras.
        new[_WEIGHTS].attrs.pop("keras_version", None)
        yield new
