"""From texts and images to what a model takes, by the tokenizer and processor of its directory."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import transformers

from extractkit.errors import ConfigError, InputError, ModelError
from extractkit.inputs.protocol import PICTURE, InputSpec, Sample
from extractkit.models.foreign import told
from extractkit.models.hugging_face_models.directory import IMAGE_PROCESSOR, ModelDirectory
from extractkit.models.hugging_face_models.inputs import (
    DECODER_IDS,
    DECODER_MASK,
    IDS,
    MASK,
    PIXELS,
    SEGMENTS,
    decoder_start,
)
from extractkit.models.protocol import Encoded
from extractkit.plan import numpy_dtype
from extractkit.values import Array

# What transformers has for a tokenizer that knows no limit.
_NO_LIMIT = 10**9
# [CLS] and [SEP], say.
_SHORTEST = 2

Encode = Callable[[Sequence[Sample]], Sequence[Encoded]]


@dataclass(frozen=True)
class Preparation:
    """What makes a model's inputs of samples of one kind.

    Attributes:
        encode: From samples to inputs.
        settings: Everything that decides what they become, as plain data.
        longest: The most tokens that a text becomes; None if there is no limit, or no text.
    """

    encode: Encode
    settings: Mapping[str, object]
    longest: int | None = None


def refusing(error: ModelError) -> Preparation:
    """Return what refuses samples of its kind: the model takes arrays all the same."""

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
    """Return what makes rows of tokens of texts.

    Args:
        positions: The most tokens that the model has positions for.
        max_length: The longest text in tokens, special ones included; None: as the model and its
            tokenizer allow.

    Raises:
        ConfigError: `model.max_length` is not a number of tokens that the model takes.
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
    """Return what makes the model's input of an image of any size.

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
    except Exception as error:  # whatever the readers of a dozen formats raise
        raise ModelError(
            f"{directory.at}: its tokenizer cannot be read: {told(error)}. "
            f"tokenizer.save_pretrained(DIR) of transformers writes its files. Or give arrays, "
            f"{IDS} among them: inputs=arrays"
        ) from error
    if not tokenizer.is_fast:
        raise ModelError(
            f"{directory.at}: {type(tokenizer).__name__} has no fast form, which tells where it "
            f"cuts. Give arrays, {IDS} among them: inputs=arrays"
        )
    return tokenizer


def _image_processor(directory: ModelDirectory) -> Any:
    try:
        return transformers.AutoImageProcessor.from_pretrained(
            str(directory.path), local_files_only=True, use_fast=False, trust_remote_code=False
        )
    except Exception as error:  # whatever a hundred classes of processors raise
        raise ModelError(
            f"{directory.at}: its image processor cannot be read: {told(error)}. "
            f"image_processor.save_pretrained(DIR) of transformers writes {IMAGE_PROCESSOR}. Or "
            f"give arrays, {PIXELS} among them: inputs=arrays"
        ) from error


def _processed(processor: Any, pixels: Array, sample: str) -> Any:
    try:
        made = processor(pixels, return_tensors="np", input_data_format="channels_last")
    except Exception as error:  # whatever a processor raises that dislikes an image
        raise InputError(
            f"sample {sample!r}: {type(processor).__name__} cannot prepare the image: {told(error)}"
        ) from error
    return made[PIXELS][0]


def _sizes(specs: Sequence[InputSpec], features: Mapping[str, Array]) -> dict[str, int]:
    return {
        dim: size
        for spec in specs
        for dim, size in zip(spec.dims, features[spec.name].shape, strict=True)
        if dim is not None
    }
