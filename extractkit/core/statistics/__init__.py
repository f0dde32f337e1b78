"""Statistics over the samples of a job, in place of a value per sample. NumPy only.

A statistic is built up shard by shard. The state of a shard is a mapping of names to arrays that
depends only on the shard's values; the states of all shards are merged in the order of the plan by
a fixed tree (`Merging`), and the result is computed from the merged state. Results are therefore
bitwise equal however the shards were distributed, interrupted or resumed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from extractkit.core.transforms import Operand
from extractkit.core.values import Dense, Values
from extractkit.errors import SelectionError

Array = npt.NDArray[Any]

Arrays = Mapping[str, Array]
"""A state or a result: arrays by name."""

States = Mapping[tuple[str, str], Arrays]
"""States or results by tensor and statistic."""


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


class Statistic(Protocol):
    """A statistic. Instances are frozen dataclasses of its options.

    Attributes:
        name: its key in configuration.
    """

    name: ClassVar[str]

    @property
    def at(self) -> str:
        """The key under which it was written, for messages."""
        ...

    @classmethod
    def parse(cls, options: object, at: str) -> "Statistic":
        """Parse its options as written in configuration; an empty mapping if there are none.

        Raises:
            ConfigError: they are not of its form.
        """
        ...

    def check(self, operand: Operand) -> None:
        """Check that it is defined for a tensor, whose first axis is that of the samples.

        Raises:
            SelectionError: it is not, or its state would not fit into memory.
        """
        ...

    def state_bytes(self, operand: Operand) -> int:
        """Return the size of its state, which each shard stores."""
        ...

    def of(self, block: Block) -> Arrays:
        """Return the state of one shard."""
        ...

    def merge(self, one: Arrays, other: Arrays) -> Arrays:
        """Return the state of two ranges of samples, of which `one` comes first."""
        ...

    def finish(self, state: Arrays) -> Arrays:
        """Return the results of the merged state."""
        ...


class Merging:
    """Merges the states of shards, given in the order of the plan, by a fixed binary tree.

    Two states are merged as soon as they cover equally many shards, so that memory holds only a few
    states, however many shards there are.
    """

    def __init__(self, statistic: Statistic) -> None:
        self._statistic = statistic
        self._merged: list[tuple[int, Arrays]] = []

    def add(self, state: Arrays) -> None:
        """Add the state of the next shard."""
        shards = 1
        while self._merged and self._merged[-1][0] == shards:
            covered, before = self._merged.pop()
            state, shards = self._statistic.merge(before, state), shards + covered
        self._merged.append((shards, state))

    def finish(self) -> Arrays:
        """Return the results over all states."""
        _, state = self._merged.pop()
        while self._merged:
            state = self._statistic.merge(self._merged.pop()[1], state)
        return self._statistic.finish(state)


def features(operand: Operand, at: str) -> int:
    """Return the size of a tensor's last axis, whose elements a statistic treats as features.

    Raises:
        SelectionError: the tensor has no such axis, or its size differs from sample to sample.
    """
    operand.needs_numbers(at)
    if len(operand.axes) < 2:
        return 1
    size = operand.axes[-1].dim.size
    if size is None:
        varying = takewhile(lambda axis: axis.dim.size is None, reversed(operand.axes[1:]))
        over = sorted({str(axis.dim.label) for axis in varying})
        raise SelectionError(
            f"{at} treats the last axis as features, and that of {operand.source!r} with dims "
            f"{list(operand.labels)} differs from sample to sample. Reduce it first, for example "
            f"with do: [{{mean: {over}}}], or choose tensors whose last axis has "
            f"one size, as dims: 'sample,#' does"
        )
    return size


LARGEST_STATE = 256 * 1024 * 1024
"""Most bytes of a statistic's state. Each shard stores one, and a few are in memory together."""


def fits(size: int, operand: Operand, at: str) -> None:
    """Check that a state of this size may be stored for each shard.

    Raises:
        SelectionError: it is too large.
    """
    if size > LARGEST_STATE:
        raise SelectionError(
            f"{at} of {operand.source!r} would hold {size:,} bytes for each shard, more than "
            f"{LARGEST_STATE:,}. Narrow its last axis first, for example with "
            f"do: [{{project: {{axis: {len(operand.axes) - 1}, to: 512}}}}], or slice it"
        )


def merged_means(
    one: Arrays, other: Arrays, sums: str, product: Callable[[Array], Array]
) -> Arrays:
    """Combine counts, means and sums of products of distances from the mean.

    Source: Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample
    variances, 1979.

    Args:
        one, other: states with `count`, `mean` and the sums.
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


def numbers(rows: Array) -> npt.NDArray[np.float64]:
    """Return rows in float64, in which statistics are computed."""
    return rows.astype(np.float64, copy=False)


def without_samples(values: Values, missing: Sequence[int]) -> Values:
    """Return the values without the samples at these positions."""
    if not missing:
        return values
    kept = np.ones(len(values), bool)
    kept[list(missing)] = False
    if isinstance(values, Dense):
        return Dense(values.values[kept])
    lengths = np.diff(values.offsets)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths[kept])])
    shapes = None if values.shapes is None else values.shapes[kept]
    return type(values)(values.values[np.repeat(kept, lengths)], offsets, shapes)
