"""Counts: zeros, and features that are active together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from extractkit.core.statistics import (
    FEATURE,
    OTHER,
    Arrays,
    Block,
    added,
    features,
    fits,
    to_count,
)
from extractkit.core.transforms import Operand, no_options

_FEW = 5
"""Features that a summary lists."""


@dataclass(frozen=True)
class Sparsity:
    """Share of zeros for each feature, and features that are always zero.

    sparsity

    Results: `count` int64, `zeros` float64 (features,) from 0 to 1, `dead` bool (features,). NaN is
    not zero.
    """

    name: ClassVar[str] = "sparsity"
    at: str

    @classmethod
    def parse(cls, options: object, at: str) -> "Sparsity":
        """Take no options."""
        no_options(options, at)
        return cls(at)

    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        """The features."""
        return {"count": (), "zeros": (FEATURE,), "dead": (FEATURE,)}

    def summary(self, results: Arrays) -> str:
        """Return the share of zeros, and the first features that are always zero."""
        zeros, (dead,) = results["zeros"], np.nonzero(results["dead"])
        share = f"{zeros.mean():.1%} zeros" if results["count"] and zeros.size else "no rows"
        if not dead.size:
            return f"{share}; no dead feature of {zeros.size:,}"
        first = ", ".join(map(str, dead[:_FEW]))
        more = ", …" if dead.size > _FEW else ""
        return f"{share}; {dead.size:,} dead of {zeros.size:,} features: {first}{more}"

    def check(self, operand: Operand) -> None:
        """Check that the last axis has one size, and that the counts fit into memory."""
        fits(self.partial_bytes(operand), operand, self.at)

    def partial_bytes(self, operand: Operand) -> int:
        """Return the size of one count for each feature."""
        return 8 * features(operand, self.at) + 8

    def of(self, block: Block) -> Arrays:
        """Count rows, and zeros of each feature."""
        rows = block.rows()
        return {"count": np.asarray(len(rows), np.int64), "zeros": (rows == 0).sum(0)}

    def merge(self, one: Arrays, other: Arrays) -> Arrays:
        """Add the counts."""
        return added(one, other)

    def finish(self, partial: Arrays) -> Arrays:
        """Divide by the count. Without elements the share is NaN, and no feature is dead."""
        count, zeros = int(partial["count"]), partial["zeros"]
        share = zeros / count if count else np.full(zeros.shape, np.nan)
        return {"count": partial["count"], "zeros": share, "dead": (zeros == count) & (count > 0)}


@dataclass(frozen=True)
class Coactivation:
    """How often two features are above zero at the same position.

    coactivation

    Results: `count` int64, `active` int64 (features,), `both` int64 (features, features).
    """

    name: ClassVar[str] = "coactivation"
    at: str

    @classmethod
    def parse(cls, options: object, at: str) -> "Coactivation":
        """Take no options."""
        no_options(options, at)
        return cls(at)

    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        """The features, twice in pairs."""
        return {"count": (), "active": (FEATURE,), "both": (FEATURE, f"{OTHER}{FEATURE}")}

    def summary(self, results: Arrays) -> str:
        """Return the pair of features that is most often active together."""
        both, count = np.triu(results["both"], 1), int(results["count"])
        if not both.any():
            return f"no two features are active together; {count:,} rows"
        one, other = np.unravel_index(both.argmax(), both.shape)
        return (
            f"most often features {one} and {other}, in {both[one, other] / count:.1%} of "
            f"{count:,} rows"
        )

    def check(self, operand: Operand) -> None:
        """Check that the counts of all pairs fit into memory."""
        fits(self.partial_bytes(operand), operand, self.at)

    def partial_bytes(self, operand: Operand) -> int:
        """Return the size of one count for each pair of features."""
        return 8 * features(operand, self.at) ** 2 + 8

    def of(self, block: Block) -> Arrays:
        """Multiply indicators. Sums of ones are exact in float64."""
        rows = block.rows()
        both = np.zeros((block.width, block.width), np.int64)
        for part in to_count(rows):
            active = np.greater(part, 0, out=part)
            both += (active.T @ active).astype(np.int64)
        return {"count": np.asarray(len(rows), np.int64), "both": both}

    def merge(self, one: Arrays, other: Arrays) -> Arrays:
        """Add the counts."""
        return added(one, other)

    def finish(self, partial: Arrays) -> Arrays:
        """Return the counts."""
        return {**partial, "active": np.diagonal(partial["both"]).copy()}
