"""Texts as BERT's word pieces, by the tokenizer that the model was trained with.

A Hugging Face directory brings its own (`tokenizer.json`), read by the `tokenizers` library. Of it
keras-hub's tokenizer differs in the details: it folds case where BERT lowercases ("ß"), and
splits words at control characters. It serves the presets that have nothing else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Pieces:
    """One tokenized text: ids and word pieces with [CLS] and [SEP]; whether it was cut off."""

    ids: Sequence[int]
    tokens: Sequence[str]
    truncated: bool


Tokenize = Callable[[Sequence[str]], list[Pieces]]


def load_tokenizer(preset: str, max_length: int) -> tuple[Tokenize, str]:
    """The tokenizer of a directory or preset, and the name of the library that it is from."""
    file = Path(preset) / "tokenizer.json"
    if file.is_file() and _is_hugging_face(file):
        return _hugging_face(file, max_length), "tokenizers"
    return _keras_hub(preset, max_length), "keras_hub"


def _is_hugging_face(file: Path) -> bool:
    # keras-hub writes a tokenizer.json too: a serialized layer, without word pieces.
    return '"vocab"' in file.read_text(encoding="utf-8")


def _hugging_face(file: Path, max_length: int) -> Tokenize:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)

    def tokenize(texts: Sequence[str]) -> list[Pieces]:
        return [
            Pieces(encoding.ids, encoding.tokens, bool(encoding.overflowing))
            for encoding in tokenizer.encode_batch(list(texts))
        ]

    return tokenize


def _keras_hub(preset: str, max_length: int) -> Tokenize:
    import keras_hub

    tokenizer: Any = keras_hub.models.BertTokenizer.from_preset(preset)
    vocabulary = tokenizer.get_vocabulary()
    begin, end = int(tokenizer.cls_token_id), int(tokenizer.sep_token_id)
    room = max_length - 2

    def tokenize(texts: Sequence[str]) -> list[Pieces]:
        pieces = []
        for found in tokenizer.tokenize(list(texts)):
            ids = [begin, *(int(piece) for piece in found[:room]), end]
            pieces.append(Pieces(ids, [vocabulary[piece] for piece in ids], len(found) > room))
        return pieces

    return tokenize
