"""Linear centered kernel alignment (CKA) between all pairs of tensors."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import isqrt
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from extractkit.core.spec import Dim
from extractkit.core.statistics import (
    LARGEST_PARTIAL,
    NON_FINITE,
    OTHER,
    TENSOR,
    Array,
    Arrays,
    Block,
    features,
    merged_means,
    narrowing,
    numbers,
    span,
)
from extractkit.core.statistics.products import about_means, aligned, norm, spread
from extractkit.core.transforms import Operand, as_options, one_thread, whole_number
from extractkit.core.values import sample_shapes
from extractkit.errors import JobError, SelectionError

_FEWEST = 4
"""Rows that the unbiased estimate of a minibatch needs."""


@dataclass(frozen=True)
class Similarity:
    """Linear CKA between all pairs of the tensors that a selector matches.

    similarity                  # exact, from the covariances of all pairs of features
    similarity: {batch: 256}    # an estimate from minibatches, for many features

    A row holds the features of one position of one sample, and all tensors have the same rows.
    CKA is 1 for tensors that differ by an orthogonal transform, a factor and an offset, and 0 for
    tensors without correlated features. That of a tensor whose values never change is NaN.

    Results: `count` int64, the number of rows, and `cka` float64 (tensors, tensors), symmetric.

    Sources: Kornblith, Norouzi, Lee and Hinton, Similarity of neural network representations
    revisited, 2019. With `batch`, each sum of squared covariances is replaced by the mean over
    minibatches of the unbiased estimate of Song, Smola, Gretton, Bedo and Borgwardt, Feature
    selection via dependence maximization, 2012, as in Nguyen, Raghu and Kornblith, Do wide and deep
    networks learn the same things?, 2021. Minibatches are consecutive rows of one shard, weighted
    by their number. Remainders of fewer than 4 rows are dropped.
    """

    name: ClassVar[str] = "similarity"
    batch: int | None
    at: str

    @classmethod
    def parse(cls, options: object, at: str) -> "Similarity":
        """Parse the size of minibatches."""
        given = as_options(options, at, ("batch",), "{batch: 256}")
        if (batch := given.get("batch")) is not None:
            batch = whole_number(batch, f"{at}.batch", _FEWEST)
        return cls(batch, at)

    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        """The tensors, twice in pairs."""
        return {"count": (), "cka": (TENSOR, f"{OTHER}{TENSOR}")}

    def summary(self, results: Arrays) -> str:
        """Return the range of similarities."""
        pairs = results["cka"][np.triu_indices(len(results["cka"]), 1)]
        return f"CKA from {span(pairs)} between {len(results['cka'])} tensors"

    def check(self, operands: Mapping[str, Operand]) -> None:
        """Check that several tensors have the same rows, and that the products fit into memory."""
        if len(operands) < 2:
            (key,) = operands
            raise SelectionError(
                f"{self.at} compares the tensors that the selector matches with each other, and it "
                f"stores {key!r} alone"
            )
        for operand in operands.values():
            features(operand, self.at)
        if (apart := unlike(list(operands.items()))) is not None:
            raise SelectionError(
                f"{self.at} compares tensors row by row, and {apart}. Narrow the selector, for "
                f"example with dims: 'sample,token,#', or take one row of each sample: "
                f"do: [{{mean: '1:-1'}}]"
            )
        if (excess := self.excess(list(operands.values()))) is not None:
            narrow = narrowing(next(iter(operands.values())), 128)
            raise SelectionError(
                f"{self.at} of {len(operands)} tensors {excess}"
                + (f", or narrow the last axes: do: [{{{narrow}}}]" if self.batch is None else "")
            )

    def excess(self, operands: Sequence[Operand]) -> str | None:
        """Return why the products do not fit into memory, and what does; None if they do."""
        if self.batch is None:
            size, what = self.partial_bytes(operands), "for each shard"
            instead = "Estimate it from minibatches with batch: 256"
        else:
            size, what = 8 * len(operands) * self.batch**2, "of kernels"
            instead = (
                f"Give a batch of at most {isqrt(LARGEST_PARTIAL // (8 * len(operands))):,} rows"
            )
        if size <= LARGEST_PARTIAL:
            return None
        return f"would hold {size:,} bytes {what}, more than {LARGEST_PARTIAL:,}. {instead}"

    def partial_bytes(self, operands: Sequence[Operand]) -> int:
        """Return the size of a product per pair of features, or of a sum per pair of tensors."""
        widths = [features(operand, self.at) for operand in operands]
        if self.batch is not None:
            return 8 * (len(widths) ** 2 + 1)
        return 8 * (sum(a * b for a, b in _blocks(widths)) + sum(widths) + len(widths) + 1)

    def of(self, blocks: Sequence[Block]) -> Arrays:
        """Return count, means and sums of products; or count, rows used and sums of estimates.

        Raises:
            JobError: the tensors have different rows, as only the model's values show.
        """
        _check_rows(blocks)
        rows = [block.rows() for block in blocks]
        return _products(rows) if self.batch is None else _estimates(rows, self.batch)

    @NON_FINITE
    def merge(self, one: Arrays, other: Arrays) -> Arrays:
        """Combine both by their counts, or add the sums."""
        if self.batch is not None:
            return {name: one[name] + other[name] for name in one}
        widths = one["widths"]
        merged = merged_means(one, other, "products", lambda moved: _outer(moved, widths))
        return {**merged, "widths": widths}

    def finish(self, partial: Arrays) -> Arrays:
        """Return the matrix. Without rows it is NaN."""
        cka = _exact(partial) if self.batch is None else _estimated(partial["sums"])
        return {"count": partial["count"], "cka": cka}


def unlike(named: Sequence[tuple[str, Operand]]) -> str | None:
    """Return how tensors differ in their rows, for messages; None if they do not.

    Args:
        named: the tensors, with their names in the message.
    """
    (first, known), *others = named
    for key, operand in others:
        if _rows_of(operand) != _rows_of(known):
            dims = [list(map(str, _dims(one))) for one in (known, operand)]
            return (
                f"their axes before the last one differ: {first!r} has dims {dims[0]}, {key!r} "
                f"{dims[1]}"
            )
    return None


@NON_FINITE
def _estimated(sums: Array) -> npt.NDArray[np.float64]:
    """Return CKA from estimates of what all pairs of tensors share, float64 (tensors, tensors)."""
    own = np.diagonal(sums)
    size = np.sqrt(np.where(own > 0, own, np.nan))
    found = np.asarray(sums / (size[:, None] * size[None, :]), np.float64)
    np.fill_diagonal(found, np.where(own > 0, 1.0, np.nan))
    return found


def _dims(operand: Operand) -> list[Dim]:
    """Return the axes that form the rows: all but the last, or that of the samples alone."""
    axes = operand.axes[:-1] if len(operand.axes) > 1 else operand.axes
    return [axis.dim for axis in axes]


def _rows_of(operand: Operand) -> list[int | str | None]:
    """Return what the rows depend on. Names of axes of one size do not matter."""
    return [dim.label if dim.size is None else dim.size for dim in _dims(operand)]


def _blocks(widths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the shape of each tensor's products with itself and all later tensors."""
    total = sum(widths)
    for width in widths:
        yield width, total
        total -= width


def _check_rows(blocks: Sequence[Block]) -> None:
    known = sample_shapes(blocks[0].values)[:, :-1]
    for number, block in enumerate(blocks):
        shapes = sample_shapes(block.values)[:, :-1]
        if not np.array_equal(shapes, known):
            raise JobError(
                f"similarity compares tensors row by row, and tensor {number + 1} of the selector "
                f"has other rows than the first one"
            )


def _products(rows: Sequence[Array]) -> Arrays:
    widths = [one.shape[1] for one in rows]
    begins = [0, *accumulate(widths)]
    pairs = [(slice(*ends), slice(ends[0], None)) for ends in pairwise(begins)]
    mean, blocks = about_means(rows, pairs)
    return {
        "count": np.asarray(len(rows[0]), np.int64),
        "widths": np.asarray(widths, np.int64),
        "mean": mean,
        "products": np.concatenate([block.ravel() for block in blocks]),
    }


def _outer(moved: Array, widths: Array) -> Array:
    """Return the products of one row, laid out as `_products` does."""
    ends = np.cumsum(widths)
    return np.concatenate(
        [
            np.outer(moved[end - width : end], moved[end - width :]).ravel()
            for end, width in zip(ends, widths, strict=True)
        ]
    )


@NON_FINITE
def _exact(partial: Arrays) -> npt.NDArray[np.float64]:
    """Return CKA of all pairs of tensors from products about the means."""
    widths = [int(width) for width in partial["widths"]]
    shapes, ends = list(_blocks(widths)), np.cumsum(widths)
    flat = np.split(partial["products"], np.cumsum([a * b for a, b in shapes])[:-1])
    means = np.split(partial["mean"], ends[:-1])
    spreads: list[float] = []
    shared: list[list[float]] = []
    for row, (one, shape, mean) in enumerate(zip(flat, shapes, means, strict=True)):
        own, *others = np.split(one.reshape(shape), np.cumsum(widths[row:])[:-1], axis=1)
        size = np.trace(own) + partial["count"] * np.square(mean).sum()
        spreads.append(spread(own, float(size)))
        shared.append([spreads[-1], *map(norm, others)])
    found = np.full((len(widths), len(widths)), np.nan)
    for row, norms in enumerate(shared):
        for column, both in enumerate(norms, start=row):
            value = aligned(both, spreads[row], spreads[column])
            found[row, column] = found[column, row] = np.nan if value is None else value
    return found


def _estimates(rows: Sequence[Array], batch: int) -> Arrays:
    """Return the sums of unbiased estimates over minibatches, weighted by their rows."""
    count, used = len(rows[0]), 0
    sums = np.zeros((len(rows), len(rows)))
    for start in range(0, count, batch):
        size = min(batch, count - start)
        if size >= _FEWEST:
            part = [numbers(one[start : start + size]) for one in rows]
            sums += size * _unbiased(part)
            used += size
    return {"count": np.asarray(used, np.int64), "sums": sums}


@NON_FINITE
def _unbiased(rows: Sequence[Array]) -> npt.NDArray[np.float64]:
    """Return unbiased estimates of the Hilbert-Schmidt independence criterion of all pairs."""
    count = len(rows[0])
    grams = np.empty((len(rows), count, count))
    for gram, one in zip(grams, rows, strict=True):
        # Remove offsets, which only cost digits. Subtracting the first row makes features that do
        # not vary exactly 0; subtracting the mean alone would leave rounding.
        moved = one - one[0]
        moved -= moved.mean(0)
        with one_thread():
            np.matmul(moved, moved.T, out=gram)
        np.fill_diagonal(gram, 0)
    degrees = grams.sum(2)
    totals = degrees.sum(1)
    flat = grams.reshape(len(rows), -1)
    with one_thread():
        shared, met = flat @ flat.T, degrees @ degrees.T
    found = shared + np.outer(totals, totals) / ((count - 1) * (count - 2)) - 2 / (count - 2) * met
    return np.asarray(found / (count * (count - 3)), np.float64)
