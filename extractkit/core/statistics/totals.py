"""Totals: the sum and the mean of each element over all samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np

from extractkit.core.statistics import (
    NON_FINITE,
    SHAPE,
    Array,
    Arrays,
    Block,
    fits,
    span,
)
from extractkit.core.transforms import Operand, as_options
from extractkit.core.values import Dense
from extractkit.errors import SelectionError


@dataclass(frozen=True)
class Total:
    """Sum and mean of each element over all samples, added up in float64.

    total                       # tensors of one shape in all samples

    Results: `count` int64, the number of samples, and float64 `sum` and `mean`, each of the shape
    of a sample. With respect to weights, gradients of a batch are computed as one, if samples may
    share it.
    """

    name: ClassVar[str] = "total"
    at: str

    @classmethod
    def parse(cls, options: object, at: str) -> "Total":
        """Parse no options."""
        as_options(options, at, (), "total")
        return cls(at)

    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        """The shape of a sample."""
        return {"count": (), "sum": (SHAPE,), "mean": (SHAPE,)}

    def summary(self, results: Arrays) -> str:
        """Return the number of samples and the range of means."""
        return f"mean {span(np.ravel(results['mean']))}; {results['count']:,} samples"

    def check(self, operand: Operand) -> None:
        """Check that all samples have one shape."""
        operand.needs_numbers(self.at)
        if any(axis.dim.size is None for axis in operand.axes[1:]):
            raise SelectionError(
                f"{self.at} adds up samples of one shape, and those of {operand.source!r} with "
                f"dims {list(operand.titles)} differ. Reduce the axes first, or choose other "
                f"tensors"
            )
        fits(self.partial_bytes(operand), operand, self.at)

    def partial_bytes(self, operand: Operand) -> int:
        """Return the size of a number for each element, and of the count."""
        return 8 * prod(axis.dim.size or 0 for axis in operand.axes[1:]) + 8

    @NON_FINITE
    def of(self, block: Block) -> Arrays:
        """Return the number of samples and the sums."""
        rows = block.values.values
        count = np.asarray(len(block.samples), np.int64)
        return {"count": count, "sum": np.asarray(rows.sum(0, dtype=np.float64))}

    @NON_FINITE
    def merge(self, one: Arrays, other: Arrays) -> Arrays:
        """Add both."""
        return {name: np.asarray(one[name] + other[name]) for name in ("count", "sum")}

    @NON_FINITE
    def finish(self, partial: Arrays) -> Arrays:
        """Divide by the number of samples. Without samples, means are NaN."""
        count = int(partial["count"])
        mean = partial["sum"] / count if count else np.full_like(partial["sum"], np.nan)
        return {**partial, "mean": np.asarray(mean)}


class Totalling:
    """Takes the place of an `Assembly` for values of whole calls of the model, which it adds up.

    Args:
        shape: the shape of the values.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self._sum = np.zeros((1, *shape))

    @NON_FINITE
    def put(self, positions: Sequence[int], value: Array, padded: bool = True) -> None:
        """Add the value of a call: (1, *shape)."""
        self._sum += value

    def finish(self, absent: Sequence[int] = ()) -> Dense:
        """Return the sum as one row. Samples without a value were in no call."""
        return Dense(self._sum)
