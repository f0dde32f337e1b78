"""Whether what is alike belongs together: statistics on matrices of distances."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from experiments.similarity import ranks

DRAWS = 999
"""Permutations that a p-value comes from; 0.001 is the least."""


@dataclass(frozen=True)
class Grouping:
    """How groups show in distances.

    Attributes:
        ratio: mean distance within groups ÷ mean distance between them.
        ratio_p: share of permutations of the labels in which it is as small.
        ratio_chance: middle 95 % of these.
        nearest: share of members whose nearest other is of their group.
        nearest_p: share of permutations in which it is as large.
        nearest_chance: middle 95 % of these.
    """

    ratio: float
    ratio_p: float
    ratio_chance: tuple[float, float]
    nearest: float
    nearest_p: float
    nearest_chance: tuple[float, float]


def grouping(distances: np.ndarray, labels: np.ndarray) -> Grouping:
    """Groups of members, by permutation of their labels."""
    others = ~np.eye(len(labels), dtype=bool)
    nearest = np.where(others, distances, np.inf).argmin(axis=1)

    def ratio(own: np.ndarray) -> float:
        same = own[:, None] == own
        return float(distances[same & others].mean() / distances[~same].mean())

    def near(own: np.ndarray) -> float:
        return float((own[nearest] == own).mean())

    ratios = _permuted(ratio, labels)
    shares = _permuted(near, labels)
    return Grouping(
        ratio(labels),
        _p(np.sum(ratios <= ratio(labels))),
        _middle(ratios),
        near(labels),
        _p(np.sum(shares >= near(labels))),
        _middle(shares),
    )


def mantel(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Rank correlation of two matrices of distances, and its p-value by permutation of members."""
    pairs = np.triu_indices(len(a), 1)
    first = ranks(a[pairs])
    second = np.zeros_like(b, dtype=np.float64)
    second[pairs] = ranks(b[pairs])
    second += second.T

    def correlation(order: np.ndarray) -> float:
        return float(np.corrcoef(first, second[np.ix_(order, order)][pairs])[0, 1])

    order = np.arange(len(a))
    found = correlation(order)
    return found, _p(np.sum(_permuted(correlation, order) >= found))


def _permuted(measure: Callable[[np.ndarray], float], labels: np.ndarray) -> np.ndarray:
    def draws() -> Iterator[float]:
        random = np.random.default_rng(0)
        for _ in range(DRAWS):
            yield measure(random.permutation(labels))

    return np.fromiter(draws(), np.float64)


def _p(as_far: np.integer) -> float:
    return float(as_far + 1) / (DRAWS + 1)


def _middle(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
