"""A Keras model that is already in memory, as `extractkit.extract(model=…)` takes it."""

from collections.abc import Mapping

import keras

from extractkit.errors import ModelError
from extractkit.inputs.protocol import Signature
from extractkit.models.keras_model import KerasModel
from extractkit.models.keras_signature import input_specs, input_structure, packer


def live_model(
    model: object,
    name: str = "model",
    origin: Mapping[str, object] | None = None,
    example: object = None,
) -> KerasModel:
    """Wrap a Keras model of any kind.

    Args:
        example: arrays that it can be called with, from which a subclassed model's inputs are
            told where the model itself does not know them.

    Raises:
        ModelError: not a Keras model, or one whose inputs nobody knows.
    """
    if not isinstance(model, keras.Model):
        raise ModelError(
            f"model={type(model).__name__} is no Keras model; give a keras.Model, or an adapter "
            f"with extractkit's Model protocol"
        )
    structure = input_structure(model, example)
    return KerasModel(
        name=name,
        keras_model=model,
        signature=Signature(name, input_specs(structure)),
        pack=packer(structure),
        origin=origin or {},
    ).settled()
