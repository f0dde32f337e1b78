"""What a model of transformers takes: axes by name, values that make sense, longest rows."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import tensorflow as tf

from extractkit.errors import ConfigError, choices
from extractkit.inputs.protocol import InputSpec, Signature
from extractkit.models.graphs.signature import Declared, chosen, declared, signature_of
from extractkit.models.input_settings import AT, Dim, InputSetting
from extractkit.tensors import SAMPLE

TOKEN = "token"
"""The free axis of a row of tokens, of an encoder where there is a decoder too."""
IDS = "input_ids"
MASK = "attention_mask"
SEGMENTS = "token_type_ids"
DECODER_IDS = "decoder_input_ids"
DECODER_MASK = "decoder_attention_mask"
PIXELS = "pixel_values"
ROW = (IDS, MASK, SEGMENTS)
"""The inputs that are made of one text."""
DECODER = (DECODER_IDS, DECODER_MASK)

_DECODER_TOKEN = "decoder_token"
_CHOICE = "choice"
_TIME = "time"
_IMAGE = (SAMPLE, "channel", "height", "width")
# Inputs with numbers of a sound; their mask has the same axis.
_SOUNDS = ("input_values", "input_features")
# Axes after the samples that several models share, from the last; other axes are nobody's.
_AXES: Mapping[str, tuple[str, ...]] = {
    IDS: (_CHOICE, TOKEN),
    MASK: (_CHOICE, TOKEN),
    SEGMENTS: (_CHOICE, TOKEN),
    "position_ids": (_CHOICE, TOKEN),
    DECODER_IDS: (_DECODER_TOKEN,),
    DECODER_MASK: (_DECODER_TOKEN,),
}
_MASKS = (MASK, DECODER_MASK)
# What models of transformers make where it is not given: masks of ones, segments of zeros.
_OPTIONAL = frozenset({MASK, SEGMENTS, DECODER_MASK})
_ONE, _TWO = 1, 2

# Positions begin behind that of padding.
_SHIFTED_POSITIONS = frozenset({"camembert", "roberta", "xlm-roberta", "roberta-prelayernorm"})


def transformers_signature(
    name: str,
    model: Any,
    takes: Mapping[str, tf.TensorSpec],
    parameters: Sequence[str],
    settings: Mapping[str, InputSetting] | None,
) -> Signature:
    """Return what a model takes, with names for its free axes.

    Args:
        name: For messages.
        takes: What the model says that it takes.
        parameters: What else it can be called with, if `settings` says how.
        settings: What `model.inputs` says.

    Raises:
        ConfigError: It names what the model cannot be called with, or axes that do not fit.
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
    """Return the most tokens that a model has positions for; None if there is no limit."""
    text = _text_config(config)
    positions = getattr(text, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return None
    if config.model_type in _SHIFTED_POSITIONS:
        positions -= int(getattr(text, "pad_token_id", None) or 0) + 1
    return positions


def takes_one_row(specs: Sequence[InputSpec]) -> bool:
    """Return whether the inputs are what a tokenizer makes of one text, with a decoder's start."""
    names = {spec.name for spec in specs}
    return IDS in names and names <= {*ROW, *DECODER} and _rank(specs, IDS) == 1


def takes_image(specs: Sequence[InputSpec]) -> bool:
    """Return whether the only input is an image."""
    return [spec.name for spec in specs] == [PIXELS]


def decoder_start(config: Any) -> int | None:
    """Return the token that a decoder begins with; None if the settings do not tell."""
    for name in ("decoder_start_token_id", "bos_token_id"):
        if isinstance(token := getattr(config, name, None), int):
            return token
    return None


def _setting(one: Declared, given: InputSetting | None, sound: bool) -> InputSetting:
    """What is configured of an input; the axes that its name tells where nothing is."""
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
    """An input that the model does not list, but can be called with."""
    if name not in parameters:
        raise ConfigError(f"{AT}: {name!r} is no input. {choices(name, [*takes, *parameters])}")
    if setting.dims is None:
        raise ConfigError(
            f"{AT}.{name}: the model does not tell its axes. Say what they are: "
            f"'{AT}={{{name}: {{dims: [{SAMPLE}, {TOKEN}], dtype: int32}}}}'"
        )
    shape = tuple(dim if isinstance(dim, int) else None for dim in setting.dims)
    return Declared(name, setting.dtype or "float32", shape)


def _valued(spec: InputSpec, config: Any) -> InputSpec:
    """With the whole numbers that make sense for it, and what it is filled up with."""
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
