"""Measures of likeness that several experiments take."""

import numpy as np


def cka(representations: np.ndarray) -> np.ndarray:
    """Linear centred kernel alignment of all pairs: (n, n), from 0 to 1.

    Source: Kornblith et al., Similarity of Neural Network Representations Revisited, 2019.

    Args:
        representations: (n, samples, features); all their products of samples are in memory at
            once, as float32 (n, samples, samples).
    """
    n, samples, _ = representations.shape
    products = np.empty((n, samples * samples), np.float32)
    for row, values in zip(products, representations, strict=True):
        centred = np.asarray(values, np.float64) - np.mean(values, axis=0, dtype=np.float64)
        product = (centred @ centred.T).reshape(-1)
        row[:] = product / max(float(np.linalg.norm(product)), np.finfo(np.float64).tiny)
    return np.clip(products @ products.T, 0.0, 1.0)


def distances(points: np.ndarray) -> np.ndarray:
    """Euclidean distances of all pairs of (n, …): (n, n)."""
    flat = np.asarray(points, np.float64).reshape(len(points), -1)
    products = flat @ flat.T
    squares = np.diag(products)
    found = np.sqrt(np.maximum(squares[:, None] + squares - 2 * products, 0.0))
    np.fill_diagonal(found, 0.0)
    return found


def planar(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two principal components of (n, …): (n, 2), and each one's share of the variance."""
    flat = np.asarray(points, np.float64).reshape(len(points), -1)
    left, sizes, _ = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)
    shares = sizes**2 / max(float(np.sum(sizes**2)), np.finfo(np.float64).tiny)
    return left[:, :2] * sizes[:2], shares[:2]


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's."""
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def ranks(values: np.ndarray) -> np.ndarray:
    """From 1 up; equal values share theirs."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]
