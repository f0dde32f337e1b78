"""Moments: count, mean, variance and extremes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from extractkit.core.statistics import (
    FEATURE,
    NON_FINITE,
    Arrays,
    Block,
    fits,
    in_blocks,
    merged_means,
    span,
)
from extractkit.core.statistics.per import axes, parse_per, rows_per, width
from extractkit.core.transforms import Operand, as_options

BLOCK_ELEMENTS = 65_536
"""Elements of a block, so that it stays in the caches. The number decides the order of sums."""


@dataclass(frozen=True)
class Moments:
    """Count, mean, variance, minimum and maximum over all samples and positions.

    moments                     # for each feature: each element of the last axis
    moments: {per: all}         # one number over all elements

    Results: `count` int64, and float64 `mean`, `variance` (the mean squared distance from the
    mean), `min`, `max`, each (features,) or a single number. As in NumPy, NaN makes all of them NaN
    except the count. If a feature has an infinite element, its mean is infinite, or NaN if both
    infinities occur, and its variance is NaN.
    """

    name: ClassVar[str] = "moments"
    per: str
    at: str

    @classmethod
    def parse(cls, options: object, at: str) -> "Moments":
        """Parse `per`."""
        given = as_options(options, at, ("per",), "{per: all}")
        return cls(parse_per(given, at), at)

    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        """The features, unless all elements are taken together."""
        return {"count": (), **dict.fromkeys(("mean", "variance", "min", "max"), axes(self.per))}

    def summary(self, results: Arrays) -> str:
        """Return the range of values and of means."""
        ends = np.concatenate([np.ravel(results["min"]), np.ravel(results["max"])])
        spread = np.sqrt(results["variance"])
        return (
            f"values from {span(ends)}, mean {span(np.ravel(results['mean']))}, standard "
            f"deviation {span(np.ravel(spread))}; {results['count']:,} rows"
        )

    def check(self, operand: Operand) -> None:
        """Check that the last axis has one size, if features are treated separately."""
        instead = f"Take them over all elements: {self.at}.per=all"
        fits(self.partial_bytes(operand), operand, self.at, instead)

    def partial_bytes(self, operand: Operand) -> int:
        """Return the size of four numbers for each feature, and of the count."""
        return 32 * width(operand, self.per, self.at) + 8

    @NON_FINITE
    def of(self, block: Block) -> Arrays:
        """Return count, mean, sum of squared distances, and extremes."""
        rows = rows_per(block, self.per)
        columns = rows.shape[1]
        if not len(rows):
            return {
                **_nothing(columns),
                "min": np.full(columns, np.inf),
                "max": np.full(columns, -np.inf),
            }
        found = _nothing(columns)
        for moved in in_blocks([rows], max(1, BLOCK_ELEMENTS // max(1, columns))):
            mean = moved.mean(0)
            moved -= mean
            squares = np.einsum("ij,ij->j", moved, moved)
            count = np.asarray(len(moved), np.int64)
            one = {"count": count, "mean": mean, "squares": squares}
            found = merged_means(found, one, "squares", np.square)
        return {
            **found,
            "min": rows.min(0).astype(np.float64),
            "max": rows.max(0).astype(np.float64),
        }

    def merge(self, one: Arrays, other: Arrays) -> Arrays:
        """Combine both by the counts."""
        return {
            **merged_means(one, other, "squares", np.square),
            "min": np.minimum(one["min"], other["min"]),
            "max": np.maximum(one["max"], other["max"]),
        }

    @NON_FINITE
    def finish(self, partial: Arrays) -> Arrays:
        """Divide by the count. Without elements everything but the count is NaN."""
        count = int(partial["count"])
        nothing = np.full_like(partial["mean"], np.nan)
        least, most = (partial[name] if count else nothing for name in ("min", "max"))
        finite = np.isfinite(least) & np.isfinite(most)
        # With infinite elements, sums depend on the division into shards, but extremes do not.
        mean, variance = partial["mean"], partial["squares"] / max(1, count)
        ends = np.where(np.isinf(least), least, 0) + np.where(np.isinf(most), most, 0)
        found = {
            "mean": np.where(finite, mean, np.where(np.isnan(least), least, ends)),
            "variance": np.where(finite, variance, np.nan),
            "min": least,
            "max": most,
        }
        if self.per != FEATURE:
            found = {name: value[0] for name, value in found.items()}
        return {"count": partial["count"], **{n: np.asarray(v) for n, v in found.items()}}


def _nothing(columns: int) -> Arrays:
    count = np.zeros((), np.int64)
    return {"count": count, "mean": np.zeros(columns), "squares": np.zeros(columns)}
