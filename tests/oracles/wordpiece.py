"""Token ids by Hugging Face's `tokenizers`, a Rust program that keras-hub's tokenizer never calls.

Source of the algorithm: Devlin et al. 2019 (arXiv:1810.04805); of the vocabulary and the text
normalisation: the model's own `tokenizer.json`.
"""

from pathlib import Path

from tokenizers import Tokenizer


class WordPiece:
    """The tokenizer of a Hugging Face folder, its own truncation and padding switched off."""

    def __init__(self, directory: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def token_ids(self, texts: list[str], max_length: int | None = 128) -> list[list[int]]:
        """Give each text's ids, [CLS] first and [SEP] last, unpadded.

        Of a text longer than `max_length` tokens (both special ones counted) the first
        `max_length` - 2 word pieces stay; None keeps them all.
        """
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch(texts)]
        if max_length is None:
            return ids
        return [[*own[:-1][: max_length - 1], own[-1]] for own in ids]
