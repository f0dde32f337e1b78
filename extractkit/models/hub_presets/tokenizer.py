"""Texts as tokens, by the tokenizer that a preset brings.

A Hugging Face directory brings its own (`tokenizer.json`), read by the `tokenizers` library. Of it
keras-hub's tokenizers differ in details: BERT's folds case where the original lowercases ("ß"), and
splits words at control characters. They serve the presets that have nothing else.
"""

import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras_hub
import numpy as np

from extractkit.models.digests import of_plain_data
from extractkit.models.hub_presets.classes import class_for
from extractkit.models.hub_presets.google_release import GoogleRelease
from extractkit.models.hub_presets.preset import Preset

_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
)


@dataclass(frozen=True)
class Pieces:
    """One tokenized text: ids and tokens, special ones included; whether it was cut off."""

    ids: Sequence[int]
    tokens: Sequence[str]
    truncated: bool


@dataclass(frozen=True)
class Tokenizer:
    """What makes tokens of texts.

    Attributes:
        tokenize: from texts to their pieces.
        library: where it comes from, for the manifest.
        sha256: over everything that it makes tokens by: its files and settings.
        max_length: longest text in tokens, special ones included; None: no limit.
    """

    tokenize: Callable[[Sequence[str]], list[Pieces]]
    library: str
    sha256: str
    max_length: int | None


def load_tokenizer(preset: Preset, backbone: Any, max_length: int | None) -> Tokenizer | None:
    """The tokenizer of a preset; None where it has none for this backbone.

    Args:
        max_length: longest text in tokens; None: as long as the preset's own preprocessor makes it.

    Raises:
        ModelError: it cannot be read.
    """
    if isinstance(preset, GoogleRelease):
        return _by_tokenizers(preset.tokenizer(), preset.tokenizer_digest(), max_length)
    if not preset.has(*_FILES):
        return None
    with preset.reading():
        if _is_of_hugging_face(preset):
            return _hugging_face(preset, max_length)
        preprocessor = _preprocessor(preset, backbone)
        return preprocessor and _keras_hub(preprocessor, max_length)


def _is_of_hugging_face(preset: Preset) -> bool:
    # keras-hub writes a tokenizer.json too: a serialized layer, without tokens.
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

    def tokenize(texts: Sequence[str]) -> list[Pieces]:
        return [
            Pieces(encoding.ids, encoding.tokens, bool(encoding.overflowing))
            for encoding in tokenizer.encode_batch(list(texts))
        ]

    return Tokenizer(tokenize, "tokenizers", sha256, max_length)


def _preprocessor(preset: Preset, backbone: Any) -> Any:
    """What keras-hub prepares texts for this backbone with, as the preset says; None: nothing."""
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

    def tokenize(texts: Sequence[str]) -> list[Pieces]:
        # Its padding mask would leave out a token of the text that is the same as padding.
        lengths = [len(tokens) + special for tokens in tokenizer.tokenize(list(texts))]
        rows = np.asarray(_packed(preprocessor, texts)["token_ids"])
        pieces = []
        for row, whole in zip(rows, lengths, strict=True):
            ids = [int(token) for token in row[:whole]]
            pieces.append(Pieces(ids, [tokenizer.id_to_token(i) for i in ids], whole > length))
        return pieces

    return Tokenizer(tokenize, "keras_hub", _sha256(preprocessor), length)


def _sha256(preprocessor: Any) -> str:
    """Of what keras-hub would save of a preprocessor: how it is configured, and its vocabulary."""
    tokenizer = preprocessor.tokenizer
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer.save_assets(scratch)
        files = {
            file.name: hashlib.sha256(file.read_bytes()).hexdigest()
            for file in Path(scratch).iterdir()
        }
    layers = [
        [type(layer).__name__, _nameless(layer.get_config())] for layer in (preprocessor, tokenizer)
    ]
    return of_plain_data([layers, files])


def _nameless(config: Any) -> Any:
    """A configuration without the names that Keras makes up, and with texts for other objects."""
    if isinstance(config, Mapping):
        return {str(k): _nameless(v) for k, v in config.items() if k != "name"}
    if isinstance(config, list | tuple):
        return [_nameless(one) for one in config]
    return config if config is None or isinstance(config, bool | int | float | str) else str(config)


def _packed(preprocessor: Any, texts: Sequence[str]) -> Mapping[str, Any]:
    """The texts as rows, with the special tokens that the model was trained with around them."""
    if isinstance(preprocessor, keras_hub.models.CausalLMPreprocessor):
        # As a prompt: what would close the text comes after all that it could have an effect on.
        packed: Mapping[str, Any] = preprocessor.generate_preprocess(list(texts))
    else:
        packed = preprocessor(list(texts))
    return packed
