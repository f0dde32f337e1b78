"""The adapter of keras-hub presets, with their tokenizers and image converters.

The tokenizer of a Hugging Face directory (`tokenizer.json`) is read by the `tokenizers` library,
because keras-hub's tokenizers differ in details: BERT's folds case where the original lowercases
("ß"), and splits words at control characters. keras-hub's are used for all other presets.
"""

import hashlib
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras_hub
import numpy as np

from extractkit.core.values import Array, digest_of_plain_data
from extractkit.errors import ConfigError
from extractkit.inputs import InputSpec, Sample, Signature
from extractkit.models import CheckpointAxis, Encoded
from extractkit.models.hub_preset import Preset, class_for
from extractkit.models.keras_models.catalog import input_structure, packer, signature
from extractkit.models.keras_models.loading import Reload
from extractkit.models.keras_models.model import ImageModel, KerasModel, image_signature

_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
)


@dataclass(frozen=True)
class Tokenized:
    """One tokenized text: ids and tokens, special ones included, and whether it was cut off."""

    ids: Sequence[int]
    tokens: Sequence[str]
    truncated: bool


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer and its identity.

    Attributes:
        tokenize: Tokenizes texts.
        library: The library that it comes from, for the manifest.
        sha256: A hash over its files and settings.
        max_length: The longest text in tokens, special ones included. None if unlimited.
    """

    tokenize: Callable[[Sequence[str]], list[Tokenized]]
    library: str
    sha256: str
    max_length: int | None


def load_tokenizer(preset: Preset, backbone: Any, max_length: int | None) -> Tokenizer | None:
    """Return the tokenizer of a preset, or None if it has none for this backbone.

    Args:
        max_length: The longest text in tokens. If None, the limit of the preset's preprocessor.

    Raises:
        ModelError: It cannot be read.
    """
    if (prescribed := preset.prescribed_tokenizer()) is not None:
        return _by_tokenizers(*prescribed, max_length)
    if not preset.has(*_FILES):
        return None
    with preset.reading():
        if _is_of_hugging_face(preset):
            return _hugging_face(preset, max_length)
        preprocessor = _preprocessor(preset, backbone)
        return preprocessor and _keras_hub(preprocessor, max_length)


def _is_of_hugging_face(preset: Preset) -> bool:
    # keras-hub also writes a tokenizer.json: a serialized layer without tokens.
    file = preset.directory and preset.directory / "tokenizer.json"
    return bool(file and file.is_file() and '"vocab"' in file.read_text(encoding="utf-8"))


def _hugging_face(preset: Preset, max_length: int | None) -> Tokenizer:
    import tokenizers

    file = Path(f"{preset.directory}/tokenizer.json")
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    return _by_tokenizers(tokenizers.Tokenizer.from_file(str(file)), sha256, max_length)


def _by_tokenizers(tokenizer: Any, sha256: str, max_length: int | None) -> Tokenizer:
    tokenizer.no_padding()
    if max_length is None:
        tokenizer.no_truncation()
    else:
        tokenizer.enable_truncation(max_length)

    def tokenize(texts: Sequence[str]) -> list[Tokenized]:
        return [
            Tokenized(encoding.ids, encoding.tokens, bool(encoding.overflowing))
            for encoding in tokenizer.encode_batch(list(texts))
        ]

    return Tokenizer(tokenize, "tokenizers", sha256, max_length)


def _preprocessor(preset: Preset, backbone: Any) -> Any:
    """Return the preset's text preprocessor for this backbone, or None."""
    models = keras_hub.models
    for kind in (models.CausalLMPreprocessor, models.TextClassifierPreprocessor):
        if found := class_for(models, kind, backbone):
            return found.from_preset(preset.name)
    return None


def _keras_hub(preprocessor: Any, max_length: int | None) -> Tokenizer:
    length = preprocessor.sequence_length if max_length is None else max_length
    preprocessor.sequence_length = length
    tokenizer = preprocessor.tokenizer
    special = int(np.sum(_packed(preprocessor, [""])["padding_mask"]))

    def tokenize(texts: Sequence[str]) -> list[Tokenized]:
        # Its padding mask would drop a token of the text that equals the padding token.
        lengths = [len(tokens) + special for tokens in tokenizer.tokenize(list(texts))]
        rows = np.asarray(_packed(preprocessor, texts)["token_ids"])
        tokenized = []
        for row, whole in zip(rows, lengths, strict=True):
            ids = [int(token) for token in row[:whole]]
            tokenized.append(
                Tokenized(ids, [tokenizer.id_to_token(i) for i in ids], whole > length)
            )
        return tokenized

    return Tokenizer(tokenize, "keras_hub", _sha256(preprocessor), length)


def _sha256(preprocessor: Any) -> str:
    """Return the SHA-256 over a preprocessor's configuration and vocabulary."""
    tokenizer = preprocessor.tokenizer
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer.save_assets(scratch)
        files = {
            file.name: hashlib.sha256(file.read_bytes()).hexdigest()
            for file in Path(scratch).iterdir()
        }
    layers = [
        [type(layer).__name__, _without_generated_names(layer.get_config())]
        for layer in (preprocessor, tokenizer)
    ]
    return digest_of_plain_data([layers, files])


def _without_generated_names(config: Any) -> Any:
    """Return a configuration as plain data, without the names that Keras generates."""
    if isinstance(config, Mapping):
        return {str(k): _without_generated_names(v) for k, v in config.items() if k != "name"}
    if isinstance(config, list | tuple):
        return [_without_generated_names(one) for one in config]
    return config if config is None or isinstance(config, bool | int | float | str) else str(config)


def _packed(preprocessor: Any, texts: Sequence[str]) -> Mapping[str, Any]:
    """Return the texts as rows of tokens, special tokens included."""
    if isinstance(preprocessor, keras_hub.models.CausalLMPreprocessor):
        # As a prompt: an end token would come after everything that it could influence.
        packed: Mapping[str, Any] = preprocessor.generate_preprocess(list(texts))
    else:
        packed = preprocessor(list(texts))
    return packed


TOKEN = "token"
"""The free axis of a model that takes one row of tokens."""

# Input names that keras-hub's backbones share. Backbones with two rows of tokens prefix them.
_ROW = re.compile(r"(?:(\w+)_)?(token_ids|segment_ids|padding_mask)")


def preset_signature(name: str, model: Any, backbone: Any) -> Signature:
    """Return the signature of a backbone or task, whose rows of tokens share one length.

    Args:
        name: for messages.
    """
    taken = signature(name, input_structure(model))
    return replace(taken, specs=tuple(_spec(spec, backbone) for spec in taken.specs))


def longest(specs: Sequence[InputSpec], backbone: Any) -> dict[str, int]:
    """Return the number of positions of a model by token axis, if limited."""
    positions = getattr(backbone, "max_sequence_length", None)
    axes = {dim for spec in specs if _is_row(spec) for dim in spec.dims if dim}
    return {} if positions is None else dict.fromkeys(sorted(axes), int(positions))


def takes_one_row(specs: Sequence[InputSpec]) -> bool:
    """Return whether the inputs are one row of tokens, as encoded from a text."""
    axes = {dim for spec in specs for dim in spec.dims}
    return axes == {TOKEN} and all(map(_is_row, specs))


def takes_images(specs: Sequence[InputSpec]) -> bool:
    """Return whether the only input is an image (height, width, channels)."""
    return [len(spec.shape) for spec in specs] == [3]


def _is_row(spec: InputSpec) -> bool:
    return _ROW.fullmatch(spec.name) is not None and len(spec.shape) == 1


def _spec(spec: InputSpec, backbone: Any) -> InputSpec:
    row = _ROW.fullmatch(spec.name)
    if row is None or spec.shape != (None,):
        return spec
    axis = f"{row[1]}_{TOKEN}" if row[1] else TOKEN
    low, high = {
        "token_ids": (0, getattr(backbone, "vocabulary_size", None)),
        "segment_ids": (0, getattr(backbone, "num_segments", 1)),
        "padding_mask": (1, 2),
    }[row[2]]
    return replace(spec, dims=(axis,), low=low, high=high)


# For example [CLS] and [SEP], or a start token and one token of the text.
_SHORTEST = 2


def text_model(
    preset: Preset,
    model: Any,
    max_length: int | None,
    origin: Mapping[str, object],
    checkpoints: CheckpointAxis | None = None,
    reload: Reload | None = None,
) -> KerasModel:
    """Wrap a backbone or task that takes tokens, and texts if the preset has a tokenizer.

    Raises:
        ConfigError: `max_length` is not between 2 and the number of the model's positions.
        ModelError: The preset's tokenizer cannot be read.
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
        reload=reload,
    ).settled()


def image_model(
    preset: Preset,
    model: Any,
    preprocess: bool,
    origin: Mapping[str, object],
    checkpoints: CheckpointAxis | None = None,
    reload: Reload | None = None,
) -> ImageModel:
    """Wrap a backbone or task that takes images, rescaled by the preset's rule if `preprocess`.

    The preset's converter also crops and resizes. That is left to the source of the images; the
    size is recorded.

    Raises:
        ModelError: The preset's converter cannot be read.
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
        reload=reload,
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
        for tokenized in tokenizer.tokenize([str(sample.data) for sample in samples]):
            ids = np.array(tokenized.ids, dtype=np.int32)
            rows = {
                "token_ids": ids,
                "segment_ids": np.zeros_like(ids),
                "padding_mask": np.ones_like(ids),
            }
            features = {name: rows[name] for name in names}
            tokens = tuple(tokenized.tokens)
            encoded.append(Encoded(features, {TOKEN: len(ids)}, tokenized.truncated, tokens))
        return encoded

    return encode


def _image_converter(preset: Preset, backbone: Any) -> Any:
    """Return the preset's `ImageConverter`, or None."""
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
