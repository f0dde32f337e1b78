"""Sums of products over pairs of rows, about zero and about their means, in float64."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite, sqrt

import numpy as np
import numpy.typing as npt

from extractkit.core.statistics import NON_FINITE, Array, Arrays, in_blocks, merged_means, numbers
from extractkit.core.transforms import one_thread

Matrix = npt.NDArray[np.float64]

_ROWS, _ELEMENTS = 1024, 1 << 18
"""Fewest rows of one matrix product, and elements of one with few features.

They decide the order of sums, so they are the same for all data and machines.
"""

_ROUNDING = (8 * np.finfo(np.float64).eps) ** 2
"""The share of ‖x‖² that rounding may leave when rows do not differ at all."""


@NON_FINITE
def about_means(
    sets: Sequence[Array], pairs: Sequence[tuple[slice, slice]]
) -> tuple[Matrix, list[Matrix]]:
    """Return the means of all features, and sums of products of distances from them.

    Both passes are corrected by what rounding leaves of the sum of distances, so features that do
    not vary have products of 0 except for the last bits. Source: Chan, Golub and LeVeque,
    Algorithms for computing the sample variance, 1983.

    Args:
        sets: sets of features, numbers (rows, features) of equally many rows. The features of all
            of them are numbered together.
        pairs: the features that are multiplied: each of the first with each of the second.

    Returns:
        float64 (features,), and (first, second) for each of the pairs. Without rows they are 0.
    """
    count, width = len(sets[0]), sum(one.shape[1] for one in sets)
    at = np.arange(width)
    products = [np.zeros((at[first].size, at[second].size)) for first, second in pairs]
    mean, rest = np.zeros(width), np.zeros(width)
    if not count:
        return mean, products
    step = max(_ROWS, _ELEMENTS // max(1, sum(one.size for one in products)))
    for block in in_blocks(sets, step):
        mean += block.sum(0)
    mean /= count
    for block in in_blocks(sets, step):
        block -= mean
        rest += block.sum(0)
        with one_thread():
            for (first, second), found in zip(pairs, products, strict=True):
                found += block[:, first].T @ block[:, second]
    for (first, second), found in zip(pairs, products, strict=True):
        found -= np.outer(rest[first], rest[second] / count)
    return mean + rest / count, products


@dataclass(frozen=True)
class PairSums:
    """The accumulator of sums over pairs of rows, which may be the same rows twice.

    A block is two arrays of numbers, (rows, features) and (rows, others). Partial results are
    `count` int64, and with `centred` the `mean` float64 (features + others,) and the `products`
    (features, others) of distances from it. If both arrays have one size, `dot` is the sum of
    products of corresponding elements and `difference` that of their squared differences.

    Attributes:
        centred: whether products about the means are computed.
    """

    centred: bool = True

    @NON_FINITE
    def of(self, block: tuple[Array, Array]) -> Arrays:
        """Return the sums over one block."""
        one, other = numbers(block[0]), numbers(block[1])
        if block[1] is block[0]:
            other = one
        found: dict[str, Array] = {"count": np.asarray(len(one), np.int64)}
        if self.centred:
            width = one.shape[1]
            if other is one:
                mean, (products,) = about_means([one], [(slice(None), slice(None))])
                mean = np.concatenate([mean, mean])
            else:
                mean, (products,) = about_means([one, other], [(slice(width), slice(width, None))])
            found |= {"mean": mean, "products": products}
        if one.shape == other.shape:
            found |= {"dot": _dot(one, other), "difference": np.zeros(())}
            if other is not one:
                moved = other - one
                found["difference"] = _dot(moved, moved)
        return found

    @NON_FINITE
    def merge(self, one: Arrays, other: Arrays) -> Arrays:
        """Add the sums, and combine those about the means by the counts."""
        merged = {"count": one["count"] + other["count"]}
        if self.centred:
            width = one["products"].shape[0]
            merged = dict(
                merged_means(
                    one, other, "products", lambda moved: np.outer(moved[:width], moved[width:])
                )
            )
        return {**merged, **{n: one[n] + other[n] for n in ("dot", "difference") if n in one}}

    def finish(self, partial: Arrays) -> Arrays:
        """Return the sums."""
        return partial


def _dot(one: Array, other: Array) -> Array:
    # NumPy adds in pairs, which is more exact than BLAS, and as fast.
    return np.asarray((one * other).reshape(-1).sum())


def relative_norm(x: Arrays, both: Arrays) -> float | None:
    """Return ‖x − y‖ / ‖x‖; None if x is zero, or a norm is not finite.

    Args:
        x: the sums over x and x.
        both: the sums over x and y.
    """
    return _ratio(_root(both["difference"]), _root(x["dot"]))


def cosine(x: Arrays, y: Arrays, both: Arrays) -> float | None:
    """Return the cosine of the angle between x and y as vectors; None if one of them is zero.

    Args:
        x, y: the sums over x and x, and over y and y.
        both: the sums over x and y.
    """
    size = _geometric_mean(float(x["dot"]), float(y["dot"]))
    return _bounded(_ratio(float(both["dot"]), size), -1.0)


def correlation(x: Arrays, y: Arrays, both: Arrays) -> float | None:
    """Return the Pearson correlation of one feature on each side; None if one does not vary."""
    size = _geometric_mean(_spread(x), _spread(y))
    return _bounded(_ratio(float(both["products"].item()), size), -1.0)


def alignment(x: Arrays, y: Arrays, both: Arrays) -> float | None:
    """Return linear centred kernel alignment (CKA): ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖), features centred.

    None if there are no products, fewer than two rows, or the rows of one side do not differ.
    Source: Kornblith et al., Similarity of Neural Network Representations Revisited, 2019.
    """
    if "products" not in both or both["count"] < 2:
        return None
    return aligned(norm(both["products"]), _spread(x), _spread(y))


def aligned(shared: float, x: float, y: float) -> float | None:
    """Return linear CKA from norms of products about the means; None if one of them is undefined.

    Args:
        shared: the norm of the products of x with y.
        x, y: the spreads of x and y.
    """
    one, other = _ratio(shared, x), _ratio(shared, y)
    # Each quotient is finite where the product of both divisors is not.
    return None if one is None or other is None else _bounded(one * other, 0.0)


def spread(products: Matrix, size: float) -> float:
    """Return the norm of products about the means: 0 if rows differ only by rounding.

    Args:
        products: those of all pairs of features.
        size: the sum of squares of all numbers, about zero.
    """
    found = norm(products)
    return 0.0 if found <= _ROUNDING * size else found


def _spread(own: Arrays) -> float:
    return spread(own["products"], float(own["dot"]))


def _geometric_mean(one: float, other: float) -> float:
    """Return √(one · other) without overflow, exact if both are equal."""
    return one if one == other else sqrt(one) * sqrt(other)


def norm(matrix: Matrix) -> float:
    """Return the Frobenius norm, whose squares do not overflow."""
    largest = float(np.abs(matrix).max(initial=0))
    if not isfinite(largest) or not largest:
        return largest
    scaled = matrix / largest
    return largest * _root(_dot(scaled, scaled))


def _root(total: Array) -> float:
    """Return the square root of a sum of squares, which may be NaN."""
    return float(np.sqrt(total))


def _ratio(above: float, below: float) -> float | None:
    """Return a quotient; None if a number is not finite, or the divisor is 0."""
    return above / below if isfinite(above) and 0.0 < below < inf else None


def _bounded(value: float | None, least: float) -> float | None:
    """Clip a value to the bounds, which rounding may exceed."""
    return None if value is None else min(1.0, max(least, value))
