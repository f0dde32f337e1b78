"""Checks of a model that tf-keras revives from a SavedModel.

Where tf-keras does not know a class, it makes one whose call runs the stored graph. Whoever
asks for layers is better told which class is missing than given a call without anything inside.
"""

from collections.abc import Mapping
from typing import Any

from extractkit.errors import ModelError
from extractkit.models.keras_models.objects import needs, or_graph
from extractkit.models.keras_models.saved import SavedKeras


def check_revived(model: Any, saved: SavedKeras, custom_objects: Mapping[str, Any]) -> None:
    """Refuse layers that tf-keras has revived without their class.

    Args:
        model: the model that tf-keras has read.
        custom_objects: classes by the names that the folder has for them.

    Raises:
        ModelError: there are some.
    """
    from tf_keras.src.saving.legacy.saved_model.load import RevivedLayer

    if not hasattr(model, "_flatten_layers"):
        raise ModelError(f"{saved.at} does not hold a model of Keras{or_graph(saved)}")
    for layer in model._flatten_layers():
        name = type(layer).__name__
        known = name.rpartition(">")[2] in custom_objects or name in custom_objects
        if isinstance(layer, RevivedLayer) and not known:
            raise ModelError(needs(saved, name))
        if isinstance(layer, RevivedLayer):
            raise ModelError(
                f"{saved.at}: layer {layer.name!r} cannot be made of class {name!r}: the folder "
                f"holds no configuration that fits. Give the class a get_config, and save the "
                f"model again{or_graph(saved)}"
            )
