"""Real English text of very uneven lengths that every Python brings along: its own docstrings."""

import random
from functools import cache

from experiments.attention_patterns.docstrings import paragraphs

_SHORTEST = 20  # characters


def stdlib_docstrings(count: int | None, *, seed: int = 0) -> list[str]:
    """Give `count` paragraphs (None: all) of the standard library's docstrings, shuffled by `seed`.

    A paragraph has 20 characters or more, its whitespace collapsed to single spaces, and occurs
    once. Python 3.11 has about 14,600 of them, of 20 to 2,600 characters; other versions have
    others, so no expectation may quote them. One seed gives one order, whatever the count: a
    smaller sample is the beginning of a larger one.

    Raises:
        ValueError: the library has fewer than `count` paragraphs.
    """
    texts = list(_paragraphs())
    if count is not None and not 0 <= count <= len(texts):
        raise ValueError(f"count={count}: the standard library has {len(texts)} paragraphs")
    random.Random(seed).shuffle(texts)
    return texts[:count]


@cache
def _paragraphs() -> tuple[str, ...]:
    """Read the library once a process (two seconds)."""
    return tuple(dict.fromkeys(text for text in paragraphs() if len(text) >= _SHORTEST))
