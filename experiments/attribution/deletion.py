"""Deletion curves: what is left of a score as pixels are removed, the most important ones first."""

from collections.abc import Callable, Sequence

import numpy as np

Model = Callable[[np.ndarray], np.ndarray]
"""Returns the probabilities of classes, (pictures, classes), of pictures."""

REMOVED = 0.0
"""The value of removed pixels: medium grey, the baseline of the integrated gradients."""

SHARES = np.linspace(0, 1, 21)
"""The shares of pixels that are removed, one after the other."""


def curves(model: Model, pictures: np.ndarray, importance: np.ndarray) -> np.ndarray:
    """Return what is left of the probability of the class that the model chooses.

    Args:
        pictures: (pictures, height, width, 1).
        importance: (pictures, height, width). Equal ones are removed in the order of the pixels.

    Returns:
        The probability for each share that is removed, relative to the whole picture's: (pictures,
        shares).
    """
    count = len(pictures)
    whole = model(pictures)
    chosen = whole.argmax(axis=1)
    order = np.argsort(-importance.reshape(count, -1), axis=1, kind="stable")
    found = []
    for share in SHARES:
        flat = pictures.reshape(count, -1).copy()
        removed = order[:, : round(share * flat.shape[1])]
        np.put_along_axis(flat, removed, REMOVED, axis=1)
        found.append(model(flat.reshape(pictures.shape))[np.arange(count), chosen])
    return np.stack(found, axis=1) / whole[np.arange(count), chosen][:, np.newaxis]


def area(curve: np.ndarray) -> np.ndarray:
    """Return the area below each curve: small if few pixels carry the score."""
    return np.asarray(np.trapezoid(curve, SHARES, axis=-1))


def enlarged(maps: Sequence[np.ndarray] | np.ndarray, size: int) -> np.ndarray:
    """Return square maps, (pictures, small, small), enlarged by bilinear interpolation."""
    whole = np.asarray(maps, np.float64)
    small = whole.shape[1]
    at = np.clip((np.arange(size) + 0.5) * small / size - 0.5, 0, small - 1)
    below = np.floor(at).astype(int)
    above = np.minimum(below + 1, small - 1)
    weight = at - below
    rows = whole[:, below] * (1 - weight)[:, np.newaxis] + whole[:, above] * weight[:, np.newaxis]
    return np.asarray(rows[:, :, below] * (1 - weight) + rows[:, :, above] * weight)
