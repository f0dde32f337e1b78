"""Quantiles, from a sketch of counts in buckets of growing width."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from extractkit.core.statistics import (
    FEATURE,
    QUANTILE,
    QUANTILES,
    Arrays,
    Block,
    added,
    fits,
    span,
    to_count,
)
from extractkit.core.statistics.per import ALL, axes, parse_per, rows_per, width
from extractkit.core.transforms import Operand, as_options, number
from extractkit.errors import ConfigError

_ACCURACY = 0.01
_GAMMA = (1 + _ACCURACY) / (1 - _ACCURACY)
_SMALLEST, _LARGEST = 1e-9, 1e9
_LOG_GAMMA = math.log(_GAMMA)
_FIRST = math.floor(math.log(_SMALLEST) / _LOG_GAMMA)
_BUCKETS = math.ceil(math.log(_LARGEST) / _LOG_GAMMA) - _FIRST + 1


@dataclass(frozen=True)
class Quantiles:
    """Quantiles, from a sketch whose merge is exact.

    quantiles: {q: [0.01, 0.5, 0.99]}
    quantiles: {q: [0.5], per: feature}

    Results: `q` float64 (quantiles,), and `values` float64 (quantiles,), or (features, quantiles).
    Each is within 1 % of an element whose rank is that of the quantile (the lower one, without
    interpolation), for absolute values from 1e-9 to 1e9; smaller ones count as 0, larger ones as
    1e9. NaN is ignored. Without elements values are NaN. Source: Masson, Rim and Lee, DDSketch,
    2019.
    """

    name: ClassVar[str] = "quantiles"
    q: tuple[float, ...]
    per: str
    at: str

    @classmethod
    def parse(cls, options: object, at: str) -> "Quantiles":
        """Parse the quantiles."""
        given = as_options(options, at, ("q", "per"), "{q: [0.01, 0.5, 0.99]}")
        q = given.get("q", [0.01, 0.25, 0.5, 0.75, 0.99])
        if not isinstance(q, list | tuple) or not q:
            raise ConfigError(f"{at}.q={q!r} is not a list of quantiles, as in [0.01, 0.5, 0.99]")
        found = tuple(number(one, f"{at}.q") for one in q)
        if outside := [one for one in found if not 0 <= one <= 1]:
            raise ConfigError(f"{at}.q={outside[0]!r} is not between 0 and 1")
        return cls(found, parse_per(given, at, ALL), at)

    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        """The axes of each result: the quantiles, preceded by the features with `per: feature`."""
        return {QUANTILES: (QUANTILE,), "values": axes(self.per, QUANTILE)}

    def summary(self, results: Arrays) -> str:
        """Return the value of each quantile, or the range over the features."""
        each = zip(self.q, np.moveaxis(results["values"], -1, 0), strict=True)
        return ", ".join(f"{100 * q:g} %: {span(np.ravel(values))}" for q, values in each)

    def check(self, operand: Operand) -> None:
        """Check that the sketches fit into memory."""
        instead = f"Take them over all elements ({self.at}.per=all), or narrow the last axis first"
        fits(self.partial_bytes(operand), operand, self.at, instead)

    def partial_bytes(self, operand: Operand) -> int:
        """Return the size of one sketch for each feature."""
        return width(operand, self.per, self.at) * (2 * _BUCKETS + 1) * 8

    def of(self, block: Block) -> Arrays:
        """Count elements in buckets of growing width: negative ones, zeros, positive ones."""
        rows = rows_per(block, self.per)
        counts = np.zeros((rows.shape[1], 2 * _BUCKETS + 1), np.int64)
        for part in to_count(rows):
            counts += _counted(part)
        return {"counts": counts}

    def merge(self, one: Arrays, other: Arrays) -> Arrays:
        """Add the counts."""
        return added(one, other)

    def finish(self, partial: Arrays) -> Arrays:
        """Return the middle of the bucket that holds each rank."""
        counts = partial["counts"]
        exponent = np.arange(_BUCKETS) + _FIRST
        middles = 2 * _GAMMA ** exponent.astype(np.float64) / (_GAMMA + 1)
        values = np.concatenate([-middles[::-1], [0.0], middles])
        upto = np.cumsum(counts, axis=1)
        total = upto[:, -1]
        found = np.full((len(counts), len(self.q)), np.nan)
        for at, q in enumerate(self.q):
            rank = np.floor(q * np.maximum(total - 1, 0))
            first = (upto > rank[:, None]).argmax(1)
            found[:, at] = np.where(total > 0, values[first], np.nan)
        return {"q": np.asarray(self.q), "values": found if self.per == FEATURE else found[0]}


def _counted(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return how many elements of each feature are in each bucket: (features, buckets)."""
    size = np.clip(np.abs(rows), 0, _LARGEST)
    tiny = size < _SMALLEST
    with np.errstate(divide="ignore", invalid="ignore"):
        bucket = np.ceil(np.log(np.where(tiny, 1, size)) / _LOG_GAMMA) - _FIRST
    present = ~np.isnan(rows)
    bucket = np.where(present, np.clip(bucket, 0, _BUCKETS - 1), 0).astype(np.int64)
    place = np.where(rows < 0, _BUCKETS - 1 - bucket, _BUCKETS + 1 + bucket)
    place = np.where(tiny, _BUCKETS, place)
    every, count = 2 * _BUCKETS + 1, rows.shape[1]
    flat = (np.broadcast_to(np.arange(count), rows.shape) * every + place)[present]
    return np.bincount(flat, minlength=count * every).reshape(count, every)
