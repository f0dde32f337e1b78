"""A model of transformers behind the `Model` protocol; its directory prepares the samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from extractkit.errors import ConfigError, ModelError
from extractkit.inputs.protocol import PICTURE, Sample
from extractkit.models.hugging_face_models.architecture import call_parameters
from extractkit.models.hugging_face_models.directory import ModelDirectory
from extractkit.models.hugging_face_models.inputs import (
    TOKEN,
    longest,
    takes_image,
    takes_one_row,
    transformers_signature,
)
from extractkit.models.hugging_face_models.preparation import (
    Encode,
    Preparation,
    image_preparation,
    refusing,
    text_preparation,
)
from extractkit.models.input_settings import InputSetting
from extractkit.models.keras_models.dialects import keras_2
from extractkit.models.keras_models.model import KerasModel
from extractkit.models.protocol import CheckpointAxis, Encoded


@dataclass(frozen=True, eq=False)
class TransformersModel(KerasModel):
    """A model of transformers, made with tf-keras.

    Attributes:
        image_encoder: Makes its input of images of any size; None: it takes none.
    """

    image_encoder: Encode | None = field(default=None, kw_only=True)

    def encode(self, samples: Sequence[Sample]) -> Sequence[Encoded]:
        """Return the samples as the model takes them: texts, images, or arrays as they are."""
        pictures = [isinstance(s.data, Mapping) and PICTURE in s.data for s in samples]
        if self.image_encoder is not None and all(pictures):
            return self.image_encoder(samples)
        return super().encode(samples)


def transformers_model(
    name: str,
    directory: ModelDirectory,
    model: Any,
    settings: Mapping[str, InputSetting] | None,
    max_length: int | None,
    origin: Mapping[str, object],
    checkpoints: CheckpointAxis | None,
) -> TransformersModel:
    """Wrap a built model.

    Raises:
        ConfigError: `model.inputs` or `model.max_length` does not fit it.
    """
    import tf_keras

    takes = dict(model.input_signature)
    signature = transformers_signature(name, model, takes, call_parameters(model), settings)
    specs = signature.specs
    texts = images = None
    if takes_one_row(specs) and directory.has_tokenizer:
        positions = longest(model.config)
        try:
            texts = text_preparation(directory, model.config, specs, positions, max_length)
        except ModelError as error:
            texts = refusing(error)
        if texts.longest is not None:
            signature = replace(signature, longest={TOKEN: texts.longest})
    if takes_image(specs):
        signature = replace(signature, takes_pictures=directory.has_image_processor)
        if directory.has_image_processor:
            try:
                images = image_preparation(directory, specs)
            except ModelError as error:
                images = refusing(error)
    if texts is None and max_length is not None:
        raise ConfigError(
            f"model.max_length={max_length!r} is for texts, and {directory.at} "
            f"{_takes_no_texts(directory)}. Leave it out"
        )
    found = [one for one in (texts, images) if one is not None]
    return TransformersModel(
        name=name,
        keras_model=model,
        dialect=keras_2(tf_keras),
        signature=replace(signature, takes_text=texts is not None),
        pack=dict,
        encoder=_encode(texts),
        image_encoder=_encode(images),
        preprocessing={key: value for one in found for key, value in one.settings.items()},
        origin=origin,
        checkpoints=checkpoints,
    ).settled()


def _takes_no_texts(directory: ModelDirectory) -> str:
    return "takes none" if directory.has_tokenizer else "has no tokenizer"


def _encode(preparation: Preparation | None) -> Encode | None:
    return None if preparation is None else preparation.encode
