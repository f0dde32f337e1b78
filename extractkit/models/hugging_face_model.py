"""The adapter of transformers models, and the choice of their TensorFlow class."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import transformers
from transformers.models.auto import modeling_tf_auto

from extractkit.errors import ConfigError, ModelError, choices
from extractkit.inputs import PICTURE, Sample
from extractkit.models import CheckpointAxis, Encoded
from extractkit.models.failures import error_summary
from extractkit.models.hugging_face_inputs import (
    TOKEN,
    Encode,
    Preparation,
    image_preparation,
    longest,
    refusing,
    takes_image,
    takes_one_row,
    text_preparation,
    transformers_signature,
)
from extractkit.models.hugging_face_library import ModelDirectory
from extractkit.models.keras_models.dialects import keras_2
from extractkit.models.keras_models.model import KerasModel
from extractkit.models.signature import InputSetting

_AT = "model.architecture"
_PREFIX = "TF"
_MAPPINGS = "MAPPING_NAMES"


def model_class(directory: ModelDirectory, asked: str | None) -> Any:
    """Return the TensorFlow class of a directory's model.

    Args:
        asked: Its name, with or without "TF". If None, the class that `config.json` names.

    Raises:
        ConfigError: `model.architecture` is not such a class, or one of another kind of model.
        ModelError: transformers has no TensorFlow class for the model of `config.json`.
    """
    if asked is not None:
        found = _class(asked)
        if found is None:
            raise ConfigError(
                f"{_AT}={asked!r} is not a TensorFlow class of transformers "
                f"{transformers.__version__}. {choices(asked, _known(directory.model_type))}"
            )
        _check_kind(directory, found, f"{_AT}={asked!r}", ConfigError)
        return found
    for name in directory.architectures:
        if (found := _class(name)) is not None:
            at = f"{directory.at}: 'architectures' names {name}, which"
            _check_kind(directory, found, at, ModelError)
            return found
    known = _known(directory.model_type)
    if not directory.architectures:
        base = modeling_tf_auto.TF_MODEL_MAPPING_NAMES.get(directory.model_type)
        name = base[0] if isinstance(base, tuple | list) else base
        if name is not None and (found := _class(name)) is not None:
            return found
    named = ", ".join(directory.architectures) or f"model_type {directory.model_type!r}"
    instead = (
        f"{choices('', known)} Choose one whose weights are there: {_AT}=NAME"
        if known
        else f"It has none for the model_type {directory.model_type!r}"
    )
    raise ModelError(
        f"{directory.at} is a model of {named}, for which transformers "
        f"{transformers.__version__} has no TensorFlow class. {instead}"
    )


def build_model(directory: ModelDirectory, kind: Any) -> Any:
    """Build the model and its variables, with initial values.

    Raises:
        ModelError: `config.json` does not fully describe it.
    """
    try:
        # From the settings only, so that code that they may name is never loaded.
        config = kind.config_class.from_dict(dict(directory.config))
        config.return_dict = True
        model = kind(config)
        model.build_in_name_scope()
    except NotImplementedError as error:  # the shape of its images is not known
        raise ModelError(
            f"{directory.at}: config.json does not describe which images a {kind.__name__} takes "
            f'({error_summary(error)}). Add their size and channels to it: "image_size": 224, '
            f'"num_channels": 3'
        ) from error
    except Exception as error:  # model classes validate settings with errors of many types
        raise ModelError(
            f"{directory.at}: config.json does not make a {kind.__name__}: {error_summary(error)}"
        ) from error
    return model


def call_parameters(model: Any) -> list[str]:
    """Return the names of the parameters of a model's call."""
    return [name for name in inspect.signature(model.call).parameters if name != "self"]


def _class(name: str) -> Any:
    """Return the TensorFlow class of this name, or None if transformers has none."""
    name = name if name.startswith(_PREFIX) else _PREFIX + name
    try:
        found = getattr(transformers, name, None)
    except ImportError:  # the class exists, but a package that it needs does not
        return None
    usable = isinstance(found, type) and issubclass(found, transformers.TFPreTrainedModel)
    return found if usable and getattr(found, "config_class", None) is not None else None


def _check_kind(
    directory: ModelDirectory, found: Any, at: str, error: type[ConfigError | ModelError]
) -> None:
    kind = found.config_class.model_type
    if directory.model_type and kind != directory.model_type:
        raise error(
            f"{at} is a class for the model_type {kind!r}; config.json in "
            f"{str(directory.path)!r} has {directory.model_type!r}. "
            f"{choices(found.__name__, _known(directory.model_type))} Choose one: {_AT}=NAME"
        )


def _known(model_type: str) -> list[str]:
    """Return the names of the TensorFlow classes for a kind of model, without "TF"."""
    return sorted(set(_mapped(model_type)))


def _mapped(model_type: str) -> Iterator[str]:
    for name, mapping in vars(modeling_tf_auto).items():
        if name.startswith(f"{_PREFIX}_") and name.endswith(_MAPPINGS) and model_type in mapping:
            found = mapping[model_type]
            for one in found if isinstance(found, tuple | list) else (found,):
                yield one.removeprefix(_PREFIX)


@dataclass(frozen=True, eq=False)
class TransformersModel(KerasModel):
    """A transformers model, built with tf-keras.

    Attributes:
        image_encoder: Prepares images of any size for it. None if it takes no images.
    """

    image_encoder: Encode | None = field(default=None, kw_only=True)

    def encode(self, samples: Sequence[Sample]) -> Sequence[Encoded]:
        """Encode texts, images or arrays for the model."""
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
    """Wrap a built transformers model.

    Raises:
        ConfigError: `model.input_axes` or `model.max_length` does not fit it.
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
