"""What a head does, in numbers: how far it looks, at what, and how sharply."""

from collections.abc import Mapping

import numpy as np

MEASURES: Mapping[str, str] = {
    "cls": "[CLS]",
    "sep": "[SEP]",
    "self": "the token itself",
    "before": "the token before",
    "after": "the token after",
    "distance": "distance",
    "entropy": "entropy",
}
"""All measures are means over the tokens of a text, without [CLS] and [SEP].

The first five are shares of attention, and no two count the same. `distance` is how many tokens
away attention goes, except to [CLS] and [SEP]; `entropy` is that of all attention. Both are
relative to even attention, for which they are 1.
"""


def patterns(attention: np.ndarray) -> dict[str, np.ndarray]:
    """The measures of each head for one text: (heads,).

    Args:
        attention: probabilities (heads, tokens, tokens), those of a token's looking in a row; the
            first token is [CLS], the last one [SEP].
    """
    looks = attention[:, 1:-1].astype(np.float64)
    looks /= looks.sum(axis=2, keepdims=True)
    words = looks[:, :, 1:-1]
    places = np.arange(words.shape[2])
    away = np.abs(places[:, None] - places)
    to_words = np.maximum(words.sum(axis=2), np.finfo(np.float64).tiny)
    distance = (words * away).sum(axis=2) / to_words / away.mean(axis=1)
    entropy = -(looks * np.log(np.where(looks > 0, looks, 1.0))).sum(axis=2)
    count = len(places)
    return {
        "cls": looks[:, :, 0].mean(axis=1),
        "sep": looks[:, :, -1].mean(axis=1),
        "self": np.trace(words, axis1=1, axis2=2) / count,
        # The first and the last one have no neighbour on one side.
        "before": np.trace(words, -1, axis1=1, axis2=2) / count,
        "after": np.trace(words, 1, axis1=1, axis2=2) / count,
        "distance": distance.mean(axis=1),
        "entropy": entropy.mean(axis=1) / np.log(looks.shape[2]),
    }
