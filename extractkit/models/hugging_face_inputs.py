"""Signatures of transformers models, and the encoding of texts and images for them."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf
import transformers

from extractkit.core.spec import SAMPLE, numpy_dtype
from extractkit.core.values import Array
from extractkit.errors import ConfigError, InputError, ModelError, choices
from extractkit.inputs import PICTURE, InputSpec, Sample, Signature
from extractkit.models import Encoded
from extractkit.models.failures import error_summary
from extractkit.models.hugging_face_library import IMAGE_PROCESSOR, ModelDirectory
from extractkit.models.signature import (
    INPUT_AXES,
    Declared,
    Dim,
    InputSetting,
    chosen,
    declared,
    signature_of,
)

TOKEN = "token"
"""The free axis of a row of tokens. In an encoder-decoder, that of the encoder."""
IDS = "input_ids"
MASK = "attention_mask"
SEGMENTS = "token_type_ids"
DECODER_IDS = "decoder_input_ids"
DECODER_MASK = "decoder_attention_mask"
PIXELS = "pixel_values"
ROW = (IDS, MASK, SEGMENTS)
"""The inputs that are encoded from one text."""
DECODER = (DECODER_IDS, DECODER_MASK)

_DECODER_TOKEN = "decoder_token"
_CHOICE = "choice"
_TIME = "time"
_IMAGE = (SAMPLE, "channel", "height", "width")
# Audio inputs. Their mask has the same axis.
_SOUNDS = ("input_values", "input_features")
# Names of axes that several models share, counted from the last. Other axes have no name.
_AXES: Mapping[str, tuple[str, ...]] = {
    IDS: (_CHOICE, TOKEN),
    MASK: (_CHOICE, TOKEN),
    SEGMENTS: (_CHOICE, TOKEN),
    "position_ids": (_CHOICE, TOKEN),
    DECODER_IDS: (_DECODER_TOKEN,),
    DECODER_MASK: (_DECODER_TOKEN,),
}
_MASKS = (MASK, DECODER_MASK)
# Defaults of transformers: masks of ones, segments of zeros.
_OPTIONAL = frozenset({MASK, SEGMENTS, DECODER_MASK})
_ONE, _TWO = 1, 2

# Positions start after that of padding.
_SHIFTED_POSITIONS = frozenset({"camembert", "roberta", "xlm-roberta", "roberta-prelayernorm"})


def transformers_signature(
    name: str,
    model: Any,
    takes: Mapping[str, tf.TensorSpec],
    parameters: Sequence[str],
    settings: Mapping[str, InputSetting] | None,
) -> Signature:
    """Return the signature of a model, with names for its free axes.

    Args:
        name: The model's name for messages.
        takes: The inputs that the model declares.
        parameters: Further parameters of its call, which need `settings`.
        settings: The parsed `model.input_axes`.

    Raises:
        ConfigError: An input is not a parameter of the model, or its axes do not fit.
    """
    inputs = [declared(key, spec) for key, spec in takes.items()]
    own = dict(settings) if settings is not None else {}
    inputs += [_added(key, own[key], takes, parameters) for key in own if key not in takes]
    sound = any(one.name in _SOUNDS for one in inputs)
    wanted = chosen(inputs, settings)
    named = {one.name: _setting(one, own.get(one.name), sound) for one in wanted}
    signature = signature_of(name, wanted, named)
    specs = tuple(_valued(spec, model.config) for spec in signature.specs)
    limits = {TOKEN: longest(model.config)} if _has(specs, TOKEN) else {}
    return replace(
        signature,
        specs=specs,
        optional=_OPTIONAL,
        longest={axis: limit for axis, limit in limits.items() if limit is not None} or None,
    )


def longest(config: Any) -> int | None:
    """Return the number of positions of a model, or None if unlimited."""
    text = _text_config(config)
    positions = getattr(text, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return None
    if config.model_type in _SHIFTED_POSITIONS:
        positions -= int(getattr(text, "pad_token_id", None) or 0) + 1
    return positions


def takes_one_row(specs: Sequence[InputSpec]) -> bool:
    """Return whether the inputs are one tokenized text, and a decoder's start token if any."""
    names = {spec.name for spec in specs}
    return IDS in names and names <= {*ROW, *DECODER} and _rank(specs, IDS) == 1


def takes_image(specs: Sequence[InputSpec]) -> bool:
    """Return whether the only input is an image."""
    return [spec.name for spec in specs] == [PIXELS]


def decoder_start(config: Any) -> int | None:
    """Return the start token of a decoder, or None if the settings have none."""
    for name in ("decoder_start_token_id", "bos_token_id"):
        if isinstance(token := getattr(config, name, None), int):
            return token
    return None


def _setting(one: Declared, given: InputSetting | None, sound: bool) -> InputSetting:
    """Return the configured axes of an input, or those that follow from its name."""
    if given is not None and given.dims is not None:
        return given
    return InputSetting(_dims(one, sound), given.dtype if given is not None else None)


def _dims(one: Declared, sound: bool) -> tuple[Dim, ...] | None:
    if one.shape is None:
        return None
    after = len(one.shape) - 1
    if one.name in _SOUNDS or (one.name == MASK and sound):
        names: tuple[str, ...] = tuple(_TIME if size is None else "" for size in one.shape[1:])
    elif one.name == PIXELS:
        names = _IMAGE[1:]
    elif one.name in _AXES:
        names = _AXES[one.name][-after:]
    else:
        return None
    sizes = one.shape[1:]
    if len(names) != len(sizes):
        return None
    free = [name if size is None else None for name, size in zip(names, sizes, strict=True)]
    return (SAMPLE, *free)


def _added(
    name: str,
    setting: InputSetting,
    takes: Mapping[str, tf.TensorSpec],
    parameters: Sequence[str],
) -> Declared:
    """Return a parameter of the model's call that is not among its declared inputs."""
    if name not in parameters:
        raise ConfigError(
            f"{INPUT_AXES}: {name!r} is not an input. {choices(name, [*takes, *parameters])}"
        )
    if setting.dims is None:
        raise ConfigError(
            f"{INPUT_AXES}.{name}: the model does not declare its axes. Give them: "
            f"'{INPUT_AXES}={{{name}: {{dims: [{SAMPLE}, {TOKEN}], dtype: int32}}}}'"
        )
    shape = tuple(dim if isinstance(dim, int) else None for dim in setting.dims)
    return Declared(name, setting.dtype or "float32", shape)


def _valued(spec: InputSpec, config: Any) -> InputSpec:
    """Return the spec with its range of whole numbers and its padding value."""
    text = _text_config(config)
    if spec.name in _MASKS:
        return replace(spec, low=_ONE, high=_TWO) if spec.dtype.startswith("int") else spec
    if spec.name in (IDS, DECODER_IDS):
        vocabulary = getattr(text, "vocab_size", None)
        pad = getattr(text, "pad_token_id", None)
        return replace(spec, low=0, high=vocabulary, pad=pad if isinstance(pad, int) else 0)
    if spec.name == SEGMENTS:
        return replace(spec, low=0, high=max(1, int(getattr(text, "type_vocab_size", 1) or 1)))
    return spec


def _text_config(config: Any) -> Any:
    return getattr(config, "text_config", None) or config


def _has(specs: Sequence[InputSpec], axis: str) -> bool:
    return any(axis in spec.dims for spec in specs)


def _rank(specs: Sequence[InputSpec], name: str) -> int:
    return next(len(spec.shape) for spec in specs if spec.name == name)


# The limit that transformers gives a tokenizer without one.
_NO_LIMIT = 10**9
# For example [CLS] and [SEP].
_SHORTEST = 2

Encode = Callable[[Sequence[Sample]], Sequence[Encoded]]


@dataclass(frozen=True)
class Preparation:
    """The encoding of one kind of samples as a model's inputs.

    Attributes:
        encode: Encodes samples.
        settings: Everything that determines the result, as plain data.
        longest: The longest text in tokens. None if unlimited, or for other samples.
    """

    encode: Encode
    settings: Mapping[str, object]
    longest: int | None = None


def refusing(error: ModelError) -> Preparation:
    """Return a preparation that raises the error, for a model that still takes arrays."""

    def encode(samples: Sequence[Sample]) -> Sequence[Encoded]:
        raise error

    return Preparation(encode, {})


def text_preparation(
    directory: ModelDirectory,
    config: Any,
    specs: Sequence[InputSpec],
    positions: int | None,
    max_length: int | None,
) -> Preparation:
    """Return the preparation that tokenizes texts.

    Args:
        positions: The number of positions of the model.
        max_length: The longest text in tokens, special ones included. If None, the limit of the
            model and its tokenizer.

    Raises:
        ConfigError: `model.max_length` is out of range.
        ModelError: The tokenizer cannot be read, or is not a fast one.
    """
    tokenizer = _tokenizer(directory)
    own = tokenizer.model_max_length if tokenizer.model_max_length < _NO_LIMIT else None
    limits = [limit for limit in (own, positions) if limit is not None]
    longest = min(limits) if limits else None
    if max_length is not None:
        most = positions or max_length
        if type(max_length) is not int or not _SHORTEST <= max_length <= most:
            allowed = f"from {_SHORTEST} to {positions}"
            if not positions:
                allowed = f"of {_SHORTEST} or more"
            raise ConfigError(
                f"model.max_length={max_length!r} is not a number of tokens {allowed}"
            )
        longest = max_length
    start = decoder_start(config)
    names = {spec.name: spec.dtype for spec in specs}
    if DECODER_IDS in names and start is None:
        raise ModelError(
            f"{directory.at}: config.json has no decoder_start_token_id, so a text gives the "
            f"decoder nothing to begin with. Give arrays, {DECODER_IDS} among them: inputs=arrays"
        )
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    if longest is None:
        backend.no_truncation()
    else:
        backend.enable_truncation(longest)

    def encode(samples: Sequence[Sample]) -> list[Encoded]:
        encoded = []
        for one in backend.encode_batch([str(sample.data) for sample in samples]):
            rows = {
                IDS: one.ids,
                MASK: [1] * len(one.ids),
                SEGMENTS: one.type_ids,
                DECODER_IDS: [start],
                DECODER_MASK: [1],
            }
            features = {n: np.array(rows[n], numpy_dtype(dtype)) for n, dtype in names.items()}
            sizes = _sizes(specs, features)
            tokens = tuple(one.tokens)
            encoded.append(Encoded(features, sizes, bool(one.overflowing), tokens))
        return encoded

    settings = {
        "tokenizer": type(tokenizer).__name__,
        "sha256": hashlib.sha256(backend.to_str().encode()).hexdigest(),
        "max_length": longest,
        **({"decoder_input_ids": [start]} if DECODER_IDS in names else {}),
    }
    return Preparation(encode, settings, longest)


def image_preparation(directory: ModelDirectory, specs: Sequence[InputSpec]) -> Preparation:
    """Return the preparation of images of any size.

    Raises:
        ModelError: The image processor cannot be read.
    """
    processor = _image_processor(directory)
    dtype = numpy_dtype(specs[0].dtype)

    def prepare(sample: Sample) -> Encoded:
        assert isinstance(sample.data, Mapping)
        values = _processed(processor, sample.data[PICTURE], sample.id)
        features = {PIXELS: np.asarray(values, dtype)}
        if features[PIXELS].shape != tuple(
            own if size is None else size
            for size, own in zip(specs[0].shape, features[PIXELS].shape, strict=True)
        ):
            raise InputError(
                f"sample {sample.id!r}: {IMAGE_PROCESSOR} makes an image of shape "
                f"{list(features[PIXELS].shape)}, and the model takes {list(specs[0].shape)}. "
                f"Its size there has to be that of config.json"
            )
        return Encoded(features, _sizes(specs, features))

    settings = json.loads(processor.to_json_string())
    return Preparation(
        lambda samples: [prepare(sample) for sample in samples],
        {"image_processor": type(processor).__name__, "settings": settings},
    )


def _tokenizer(directory: ModelDirectory) -> Any:
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(directory.path), local_files_only=True, use_fast=True, trust_remote_code=False
        )
    except Exception as error:  # tokenizer readers raise errors of many types
        raise ModelError(
            f"{directory.at}: its tokenizer cannot be read: {error_summary(error)}. "
            f"tokenizer.save_pretrained(DIR) of transformers writes its files. Or give arrays, "
            f"{IDS} among them: inputs=arrays"
        ) from error
    if not tokenizer.is_fast:
        raise ModelError(
            f"{directory.at}: {type(tokenizer).__name__} has no fast form, which reports where "
            f"it cuts. Give arrays, {IDS} among them: inputs=arrays"
        )
    return tokenizer


def _image_processor(directory: ModelDirectory) -> Any:
    try:
        return transformers.AutoImageProcessor.from_pretrained(
            str(directory.path), local_files_only=True, use_fast=False, trust_remote_code=False
        )
    except Exception as error:  # processor classes raise errors of many types
        raise ModelError(
            f"{directory.at}: its image processor cannot be read: {error_summary(error)}. "
            f"image_processor.save_pretrained(DIR) of transformers writes {IMAGE_PROCESSOR}. Or "
            f"give arrays, {PIXELS} among them: inputs=arrays"
        ) from error


def _processed(processor: Any, pixels: Array, sample: str) -> Any:
    try:
        made = processor(pixels, return_tensors="np", input_data_format="channels_last")
    except Exception as error:  # processors raise errors of many types
        raise InputError(
            f"sample {sample!r}: {type(processor).__name__} cannot prepare the image: "
            f"{error_summary(error)}"
        ) from error
    return made[PIXELS][0]


def _sizes(specs: Sequence[InputSpec], features: Mapping[str, Array]) -> dict[str, int]:
    return {
        dim: size
        for spec in specs
        for dim, size in zip(spec.dims, features[spec.name].shape, strict=True)
        if dim is not None
    }
