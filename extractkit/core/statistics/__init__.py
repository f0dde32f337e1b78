"""Statistics over the samples of a job, in place of a value per sample. NumPy only.

A statistic is an accumulator. The partial result of a shard depends only on the shard's values.
Those of all shards are merged in the order of the plan by a fixed tree (`Merging`), and the result
is computed from the merged one. Results are therefore bitwise equal however the shards were
distributed, interrupted or resumed.

Partial results of statistics are arrays by name, which each shard stores.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise, takewhile
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from extractkit.core.transforms import Operand, widest
from extractkit.core.values import Values
from extractkit.errors import SelectionError

Array = npt.NDArray[Any]

P = TypeVar("P")
R = TypeVar("R")
B_contra = TypeVar("B_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

Arrays = Mapping[str, Array]
"""A partial result or a result: arrays by name."""

Partials = Mapping[tuple[str, str], Arrays]
"""Partial results or results by tensor and statistic."""


FEATURE, BIN, EDGE, QUANTILE, TENSOR = "feature", "bin", "edge", "quantile", "tensor"
"""Axes of results. Edges bound the intervals of `BIN`."""

SHAPE = "..."
"""In place of the axes of a sample, in results of its shape. They are named by number."""

OTHER = "other_"
"""Prefix of an axis' name where a result has the axis a second time."""

QUANTILES = "q"
"""The result with the quantiles along `QUANTILE`."""


@dataclass(frozen=True, eq=False)
class Block:
    """The values of one tensor over the samples of one shard.

    Attributes:
        values: the values, without those of missing samples.
        samples: int64 (samples,), the index of each of these samples in the job.
        width: the size of the last axis, whose elements are features; 1 if there is none, or none
            of one size.
    """

    values: Values
    samples: npt.NDArray[np.int64]
    width: int

    def rows(self) -> Array:
        """Return the values as (rows, features).

        Every axis but the last, that of the samples included, is part of the rows.
        """
        array = self.values.values
        return array.reshape(array.size // self.width if self.width else 0, self.width)


class Accumulator(Protocol[B_contra, P, R_co]):
    """A computation over blocks of data, of which only partial results are in memory.

    Merging the partial result of an empty block changes nothing.
    """

    def of(self, block: B_contra) -> P:
        """Return the partial result of one block."""
        ...

    def merge(self, one: P, other: P) -> P:
        """Return the partial result of two ranges of blocks, of which `one` comes first."""
        ...

    def finish(self, partial: P) -> R_co:
        """Return the result of the whole."""
        ...


class Configured(Protocol):
    """The members that all statistics have. Instances are frozen dataclasses of their options.

    Attributes:
        name: its key in configuration.
    """

    name: ClassVar[str]

    @property
    def at(self) -> str:
        """The key under which it was written, for messages."""
        ...

    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        """The axes of each result, by name."""
        ...

    def summary(self, results: Arrays) -> str:
        """Return what the results show, in one line for people."""
        ...

    @classmethod
    def parse(cls, options: object, at: str) -> Self:
        """Parse its options as written in configuration; an empty mapping if there are none.

        Raises:
            ConfigError: they are not of its form.
        """
        ...


class Statistic(Configured, Accumulator[Block, Arrays, Arrays], Protocol):
    """A statistic of one tensor."""

    def check(self, operand: Operand) -> None:
        """Check that it is defined for a tensor, whose first axis is that of the samples.

        Raises:
            SelectionError: it is not, or its partial results would not fit into memory.
        """
        ...

    def partial_bytes(self, operand: Operand) -> int:
        """Return the size of its partial result, which each shard stores."""
        ...


class JointStatistic(Configured, Accumulator[Sequence[Block], Arrays, Arrays], Protocol):
    """A statistic of several tensors together: those of one selector, in the catalog's order.

    `of` raises JobError if the computed values do not fit together.
    """

    def check(self, operands: Mapping[str, Operand]) -> None:
        """Check that it is defined for these tensors, given by key.

        Raises:
            SelectionError: it is not, or its partial results would not fit into memory.
        """
        ...

    def partial_bytes(self, operands: Sequence[Operand]) -> int:
        """Return the size of its partial result, which each shard stores."""
        ...


class Merging(Generic[P, R]):
    """Merges the partial results of blocks, given in order, by a fixed binary tree.

    Two are merged as soon as they cover equally many blocks, so that memory holds only a few of
    them, however many blocks there are.
    """

    def __init__(self, accumulator: Accumulator[Any, P, R]) -> None:
        self._accumulator = accumulator
        self._merged: list[tuple[int, P]] = []

    def add(self, partial: P) -> None:
        """Add the partial result of the next block."""
        blocks = 1
        while self._merged and self._merged[-1][0] == blocks:
            covered, before = self._merged.pop()
            partial, blocks = self._accumulator.merge(before, partial), blocks + covered
        self._merged.append((blocks, partial))

    def finish(self) -> R:
        """Return the result over all blocks, of which there has to be one."""
        _, partial = self._merged.pop()
        while self._merged:
            partial = self._accumulator.merge(self._merged.pop()[1], partial)
        return self._accumulator.finish(partial)


def features(operand: Operand, at: str) -> int:
    """Return the size of a tensor's last axis, whose elements a statistic treats as features.

    Raises:
        SelectionError: the axis has no elements, or its size differs from sample to sample.
    """
    operand.needs_numbers(at)
    if len(operand.axes) < 2:
        return 1
    size = operand.axes[-1].dim.size
    if size is None:
        varying = takewhile(lambda axis: axis.dim.size is None, reversed(operand.axes[1:]))
        over = sorted({str(axis.dim.title) for axis in varying})
        raise SelectionError(
            f"{at} treats the last axis as features, and that of {operand.source!r} with dims "
            f"{list(operand.titles)} differs from sample to sample. Reduce it first, for example "
            f"with do: [{{mean: {over}}}], or choose tensors whose last axis has "
            f"one size, as dims: 'sample,#' does"
        )
    if not size:
        raise SelectionError(
            f"{at} treats the last axis as features, and that of {operand.source!r} with dims "
            f"{list(operand.titles)} has size 0. Omit the tensor with "
            f"not: {{path: {operand.source!r}}}"
        )
    return size


LARGEST_PARTIAL = 256 * 1024 * 1024
"""Most bytes of a partial result. Each shard stores one, and a few are in memory together."""


def fits(size: int, operand: Operand, at: str, instead: str | None = None) -> None:
    """Check that a partial result of this size may be stored for each shard.

    Args:
        instead: what does fit, as a sentence; None: fewer features.

    Raises:
        SelectionError: it is too large.
    """
    if size > LARGEST_PARTIAL:
        narrower = f"Narrow its last axis first, for example with do: [{{{narrowing(operand)}}}]"
        raise SelectionError(
            f"{at} of {operand.source!r} would hold {size:,} bytes for each shard, more than "
            f"{LARGEST_PARTIAL:,}. {instead or narrower}"
        )


def narrowing(operand: Operand, to: int = 512) -> str:
    """Return a transform that narrows the last axis, for messages.

    It is a projection, or a slice where the matrix of one would not fit into memory.
    """
    axis = len(operand.axes) - 1
    most = widest(operand.axes[-1].dim.size or 1)
    if most < min(to, _FEWEST):
        return f"slice: {{{axis}: '0:{to}'}}"
    return f"project: {{axis: {axis}, to: {min(to, most)}}}"


_FEWEST = 16
"""Fewest dimensions of a projection that a message proposes."""


def added(one: Arrays, other: Arrays) -> dict[str, Array]:
    """Return the sums of two partial results that are counts."""
    return {name: one[name] + other[name] for name in one}


NON_FINITE = np.errstate(over="ignore", invalid="ignore")
"""Sums that are not finite need no warning: results of them are infinite, NaN or None."""


@NON_FINITE
def merged_means(
    one: Arrays, other: Arrays, sums: str, product: Callable[[Array], Array]
) -> Arrays:
    """Combine counts, means and sums of products of distances from the mean.

    Source: Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample
    variances, 1979.

    Args:
        one, other: partial results with `count`, `mean` and the sums.
        sums: the name of the sums.
        product: of the distance between both means.
    """
    first, second = int(one["count"]), int(other["count"])
    if not first or not second:
        return one if first else other
    count = first + second
    moved = other["mean"] - one["mean"]
    return {
        "count": np.asarray(count, np.int64),
        "mean": one["mean"] + moved * (second / count),
        sums: one[sums] + other[sums] + product(moved) * (first * (second / count)),
    }


def span(values: Array) -> str:
    """Return the smallest and the largest number that is not NaN, for people."""
    present = values[~np.isnan(values)]
    if not present.size:
        return "NaN"
    low, high = f"{present.min():.4g}", f"{present.max():.4g}"
    return low if low == high else f"{low} to {high}"


def in_blocks(sets: Sequence[Array], step: int) -> Iterator[npt.NDArray[np.float64]]:
    """Yield copies of a few rows of all sets in float64, which the next one overwrites.

    Args:
        sets: sets of features, (rows, features) of equally many rows. They come side by side.
        step: number of rows.
    """
    count = len(sets[0])
    ends = list(accumulate((one.shape[1] for one in sets), initial=0))
    room = np.empty((min(step, count), ends[-1]))
    for start in range(0, count, step):
        block = room[: min(step, count - start)]
        for one, (first, last) in zip(sets, pairwise(ends), strict=True):
            np.copyto(block[:, first:last], one[start : start + step], casting="unsafe")
        yield block


COUNTED = 1 << 20
"""Elements that are counted at once: few compared with a shard, many compared with the counts."""


def to_count(rows: Array) -> Iterator[npt.NDArray[np.float64]]:
    """Yield rows as `in_blocks` does, for counts, which need arrays several times as large."""
    yield from in_blocks([rows], max(1, COUNTED // max(1, rows.shape[1])))


def numbers(rows: Array) -> npt.NDArray[np.float64]:
    """Return rows in float64, in which statistics are computed."""
    return rows.astype(np.float64, copy=False)
