"""The samples and positions with the largest values of each feature."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from extractkit.core.statistics import (
    FEATURE,
    LARGEST_PARTIAL,
    Array,
    Arrays,
    Block,
    features,
    fits,
)
from extractkit.core.transforms import Operand, as_options, whole_number
from extractkit.core.values import sample_shapes
from extractkit.errors import ConfigError

_NOWHERE = np.iinfo(np.int64).max
"""Sample and position of an entry that no element has filled. It comes after all others."""

_GROUP = 64
"""Most rows of a group. The k-th largest of the groups' largest keys excludes smaller keys."""

_FEW = 3
"""Features that a summary lists."""

_LARGEST, _SMALLEST = "", "smallest_"


@dataclass(frozen=True)
class Top:
    """The k largest values of each feature, with the samples and positions that have them.

    top: {k: 10}
    top: {k: 10, smallest: true}        # the smallest too

    Results: `values` float64, `samples` int64 and `positions` int64, each (features, k), largest
    first, equal values by sample, then by position. A position is the index into the axes between
    samples and features, flattened in C order: if there is one such axis, it is the index of the
    token. With `smallest: true` also `smallest_values`, `smallest_samples` and
    `smallest_positions`. Features with fewer than k elements have NaN and -1. NaN is never among
    them, nor is -inf among the largest or inf among the smallest. Integers of 64 bits are compared
    exactly, and rounded only as results.
    """

    name: ClassVar[str] = "top"
    k: int
    smallest: bool
    at: str

    @classmethod
    def parse(cls, options: object, at: str) -> "Top":
        """Parse k and `smallest`."""
        given = as_options(options, at, ("k", "smallest"), "{k: 10}")
        smallest = given.get("smallest", False)
        if not isinstance(smallest, bool):
            raise ConfigError(f"{at}.smallest={smallest!r} is neither true nor false")
        return cls(whole_number(given.get("k", 10), f"{at}.k"), smallest, at)

    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        """The features, and the k entries of each."""
        names = ("values", "samples", "positions")
        every = [f"{prefix}{name}" for prefix, _ in self._directions for name in names]
        return dict.fromkeys(every, (FEATURE, "k"))

    def summary(self, results: Arrays) -> str:
        """Return the features with the largest values, and the samples that have these."""
        values = results["values"][:, 0]
        if np.isnan(values).all():
            return "no elements"
        first = np.argsort(-np.nan_to_num(values, nan=-np.inf), kind="stable")[:_FEW]
        positions = (results["positions"] > 0).any()
        found = []
        for feature in first[~np.isnan(values[first])]:
            at = f", position {results['positions'][feature, 0]}" if positions else ""
            sample = results["samples"][feature, 0]
            found.append(f"feature {feature}: {values[feature]:.4g} in sample {sample}{at}")
        return "; ".join(found)

    def check(self, operand: Operand) -> None:
        """Check that the last axis has one size."""
        each = self.partial_bytes(operand) // self.k
        most = LARGEST_PARTIAL // each if each else 0
        instead = f"Take at most {self.at}.k={most}" if most else None
        fits(self.partial_bytes(operand), operand, self.at, instead)

    def partial_bytes(self, operand: Operand) -> int:
        """Return the size of k entries for each feature."""
        return features(operand, self.at) * self.k * 24 * (1 + self.smallest)

    @property
    def _directions(self) -> tuple[tuple[str, int], ...]:
        both = ((_LARGEST, 1), (_SMALLEST, -1))
        return both if self.smallest else both[:1]

    def of(self, block: Block) -> Arrays:
        """Return the k best of the shard."""
        rows = block.rows()
        samples, positions = _whereabouts(block, len(rows))
        rows = rows.astype(_exact(rows.dtype), copy=False)
        partial: dict[str, Array] = {}
        for prefix, sign in self._directions:
            best = _best(rows if sign > 0 else _reversed(rows), samples, positions, self.k)
            partial |= {f"{prefix}{name}": array for name, array in best.items()}
        return partial

    def merge(self, one: Arrays, other: Arrays) -> Arrays:
        """Return the k best of both."""
        partial: dict[str, Array] = {}
        for prefix, _ in self._directions:
            keys, samples, positions = (
                np.concatenate([one[f"{prefix}{name}"], other[f"{prefix}{name}"]], axis=1)
                for name in ("keys", "samples", "positions")
            )
            order = np.lexsort((positions, samples, _reversed(keys)), axis=-1)[:, : self.k]
            for name, array in (("keys", keys), ("samples", samples), ("positions", positions)):
                partial[f"{prefix}{name}"] = np.take_along_axis(array, order, 1)
        return partial

    def finish(self, partial: Arrays) -> Arrays:
        """Return values in place of their sort keys."""
        found: dict[str, Array] = {}
        for prefix, sign in self._directions:
            keys, samples = partial[f"{prefix}keys"], partial[f"{prefix}samples"]
            filled = samples != _NOWHERE
            values = (keys if sign > 0 else _reversed(keys)).astype(np.float64)
            found[f"{prefix}values"] = np.where(filled, values, np.nan)
            found[f"{prefix}samples"] = np.where(filled, samples, -1)
            found[f"{prefix}positions"] = np.where(filled, partial[f"{prefix}positions"], -1)
        return found


def _exact(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the smallest dtype that holds all values of a dtype and compares them quickly."""
    if dtype in (np.int64, np.uint64):
        return dtype
    return np.dtype(np.float32 if dtype in (np.float32, np.float16) else np.float64)


def _reversed(keys: Array) -> Array:
    """Return keys in the opposite order. Applied twice, it returns the original keys."""
    return np.negative(keys) if keys.dtype.kind == "f" else np.invert(keys)


def _lowest(dtype: np.dtype[Any]) -> Any:
    """Return a key that none of the type is less than."""
    return -np.inf if dtype.kind == "f" else np.iinfo(dtype).min


def _whereabouts(block: Block, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the sample and the position of each row."""
    shapes = sample_shapes(block.values)
    rows_of = shapes[:, :-1].prod(1) if shapes.shape[1] else np.ones(len(shapes), np.int64)
    samples = np.repeat(block.samples, rows_of)
    begins = np.repeat(np.cumsum(rows_of) - rows_of, rows_of)
    return samples, np.arange(count) - begins


def _best(keys: Array, samples: Array, positions: Array, k: int) -> dict[str, Array]:
    """Return the k largest keys of each feature: (features, k), in order.

    Args:
        keys: (rows, features). NaN is never among the largest.
    """
    rows, width = keys.shape
    # Keys of each type take eight bytes.
    wide = np.float64 if keys.dtype.kind == "f" else keys.dtype
    found = {
        "keys": np.full((width, k), _lowest(keys.dtype), wide),
        "samples": np.full((width, k), _NOWHERE),
        "positions": np.full((width, k), _NOWHERE),
    }
    if not rows:
        return found
    # Much faster than `np.nonzero` of both axes.
    row, column = np.divmod(np.flatnonzero(keys >= _least(keys, k)), width)
    if keys.dtype.kind == "f":
        some = keys[row, column] > -np.inf
        row, column = row[some], column[some]
    order = np.lexsort((row, _reversed(keys[row, column]), column))
    column, row = column[order], row[order]
    # The rank of each entry among those of its column.
    starts = np.searchsorted(column, np.arange(width))
    rank = np.arange(len(column)) - starts[column]
    within = rank < k
    column, row, rank = column[within], row[within], rank[within]
    found["keys"][column, rank] = keys[row, column]
    found["samples"][column, rank] = samples[row]
    found["positions"][column, rank] = positions[row]
    return found


def _least(keys: Array, k: int) -> Array:
    """Return a lower bound of the k largest keys of each feature: (features,).

    The largest keys of k groups of rows are k different keys, so the k-th largest key is at least
    the smallest of them. This excludes most rows before anything is sorted.
    """
    size = max(1, min(_GROUP, len(keys) // (4 * k)))
    groups = len(keys) // size
    if groups < k:
        return np.full(keys.shape[1], _lowest(keys.dtype), keys.dtype)
    grouped = keys[: groups * size].reshape(groups, size, keys.shape[1])
    largest = grouped.max(1)
    if keys.dtype.kind == "f" and np.isnan(largest).any():
        largest = np.where(np.isnan(grouped), -np.inf, grouped).max(1)
    return np.asarray(np.partition(largest, groups - k, axis=0)[groups - k])
