"""A preset's model behind the `Model` protocol, with what the preset prepares its inputs by."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras_hub
import numpy as np

from extractkit.errors import ConfigError
from extractkit.inputs.protocol import Sample
from extractkit.models.hub_presets.classes import class_for
from extractkit.models.hub_presets.inputs import (
    TOKEN,
    longest,
    preset_signature,
    takes_one_row,
)
from extractkit.models.hub_presets.preset import Preset
from extractkit.models.hub_presets.tokenizer import Tokenizer, load_tokenizer
from extractkit.models.image_model import ImageModel, image_signature
from extractkit.models.keras_models.again import Again
from extractkit.models.keras_models.model import KerasModel
from extractkit.models.keras_models.signature import input_structure, packer
from extractkit.models.protocol import CheckpointAxis, Encoded
from extractkit.values import Array

# [CLS] and [SEP], say, or one token to begin with and one of the text.
_SHORTEST = 2


def text_model(
    preset: Preset,
    model: Any,
    max_length: int | None,
    origin: Mapping[str, object],
    checkpoints: CheckpointAxis | None = None,
    again: Again | None = None,
) -> KerasModel:
    """A backbone or task that takes tokens, and texts where the preset brings a tokenizer.

    Raises:
        ConfigError: `max_length` is not between 2 and what the model has positions for.
        ModelError: the preset's tokenizer cannot be read.
    """
    backbone = _backbone(model)
    signature = preset_signature(preset.model, model, backbone)
    specs = signature.specs
    limits = longest(specs, backbone)
    _check_length(max_length, limits.get(TOKEN))
    tokenizer = None
    if takes_one_row(specs):
        limit = limits.get(TOKEN) if max_length is None else max_length
        tokenizer = load_tokenizer(preset, backbone, limit)
        if tokenizer is not None and tokenizer.max_length is not None:
            limit = tokenizer.max_length
        limits = {} if limit is None else {TOKEN: limit}
    preprocessing: dict[str, object] = {}
    if tokenizer is not None:
        preprocessing = {
            "tokenizer": tokenizer.library,
            "sha256": tokenizer.sha256,
            "max_length": tokenizer.max_length,
        }
    return KerasModel(
        name=preset.model,
        keras_model=model,
        signature=replace(signature, takes_text=tokenizer is not None, longest=limits or None),
        pack=packer(input_structure(model)),
        encoder=None if tokenizer is None else _encoder(tokenizer, [s.name for s in specs]),
        preprocessing=preprocessing,
        origin=origin,
        checkpoints=checkpoints,
        again=again,
    ).settled()


def image_model(
    preset: Preset,
    model: Any,
    preprocess: bool,
    origin: Mapping[str, object],
    checkpoints: CheckpointAxis | None = None,
    again: Again | None = None,
) -> ImageModel:
    """A backbone or task that takes images, rescaled as the preset says if `preprocess`.

    The preset's converter also crops and resizes. That is left to the source of the images; the
    size is recorded.

    Raises:
        ModelError: the preset's converter cannot be read.
    """
    converter = _image_converter(preset, _backbone(model)) if preprocess else None
    preprocessing = {}
    if converter is not None:
        config = converter.get_config()
        preprocessing = {"converter": type(converter).__name__}
        preprocessing |= {name: config[name] for name in ("image_size", "scale", "offset")}
    signature = preset_signature(preset.model, model, _backbone(model))
    return ImageModel(
        name=preset.model,
        keras_model=model,
        signature=image_signature(signature, pixels=converter is not None),
        pack=packer(input_structure(model)),
        prepare=converter and _rescaling(converter),
        preprocessing=preprocessing,
        origin=origin,
        checkpoints=checkpoints,
        again=again,
    ).settled()


def _backbone(model: Any) -> Any:
    return getattr(model, "backbone", model)


def _check_length(max_length: int | None, positions: int | None) -> None:
    if max_length is None:
        return
    if type(max_length) is int and _SHORTEST <= max_length <= (positions or max_length):
        return
    allowed = (
        f"of {_SHORTEST} or more"
        if positions is None
        else f"from {_SHORTEST} to {positions}, the positions that the model has"
    )
    raise ConfigError(f"model.max_length={max_length!r} is not a number of tokens {allowed}")


def _encoder(
    tokenizer: Tokenizer, names: Sequence[str]
) -> Callable[[Sequence[Sample]], list[Encoded]]:
    def encode(samples: Sequence[Sample]) -> list[Encoded]:
        encoded = []
        for pieces in tokenizer.tokenize([str(sample.data) for sample in samples]):
            ids = np.array(pieces.ids, dtype=np.int32)
            rows = {
                "token_ids": ids,
                "segment_ids": np.zeros_like(ids),
                "padding_mask": np.ones_like(ids),
            }
            features = {name: rows[name] for name in names}
            tokens = tuple(pieces.tokens)
            encoded.append(Encoded(features, {TOKEN: len(ids)}, pieces.truncated, tokens))
        return encoded

    return encode


def _image_converter(preset: Preset, backbone: Any) -> Any:
    """The preset's `ImageConverter`; None where it has none."""
    if not preset.has("image_converter.json", "preprocessor_config.json"):
        return None
    found = class_for(keras_hub.layers, keras_hub.layers.ImageConverter, backbone)
    with preset.reading():
        return found and found.from_preset(preset.name)


def _rescaling(converter: Any) -> Callable[[Array], Array]:
    converter.image_size = None

    def rescale(pixels: Array) -> Array:
        rescaled: Array = np.asarray(converter(pixels[None]))[0]
        return rescaled

    return rescale
