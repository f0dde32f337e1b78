"""A layers model of TensorFlow.js as a Keras model."""

from math import prod
from pathlib import Path
from typing import Any

from extractkit.errors import ModelError
from extractkit.models.keras_models.saved import SavedKeras, serialized_objects
from extractkit.models.keras_models.weights_by_name import assign_by_name
from extractkit.models.keras_models.whole import build_architecture
from extractkit.models.weight_files import WeightFile


def keras_model_of(file: Path, topology: Any, weights: WeightFile, at: str) -> Any:
    """Return the model with its weights, of the Keras that its configuration is written for.

    Args:
        topology: of a `model.json`: a configuration of Keras, alone or under `model_config`.

    Raises:
        ModelError: the configuration is none, holds code, or does not fit the weights.
        MissingExtraError: it needs tf-keras, which is not installed.
    """
    config = topology.get("model_config", topology)
    if not isinstance(config, dict) or "class_name" not in config:
        raise ModelError(f"{at}: its modelTopology does not describe a Keras model")
    if any(node["class_name"] == "Lambda" for node in serialized_objects(config)):
        raise ModelError(
            f"{at} holds Python code in a Lambda layer, which TensorFlow.js does not have, and "
            f"which loading it would run"
        )
    version = str(topology.get("keras_version") or "")
    elements = sum(prod(weights.entry(key).shape) for key in weights)
    saved = SavedKeras(file, at, config, version, str(topology.get("backend") or ""), elements)
    model = build_architecture(saved)
    assign_by_name(model, weights, at)
    return model
