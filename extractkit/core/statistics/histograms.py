"""Histograms: counts of elements between edges that are given, or found in the data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from extractkit.core.statistics import (
    BIN,
    EDGE,
    FEATURE,
    LARGEST_PARTIAL,
    Array,
    Arrays,
    Block,
    added,
    fits,
    to_count,
)
from extractkit.core.statistics.per import axes, parse_per, rows_per, width
from extractkit.core.transforms import Operand, as_options, whole_number
from extractkit.core.transforms.edges import parse_edges

_BINS = 50
"""Intervals of a histogram without options."""

_LEAST = -1000
"""The smallest exponent of an interval's width."""

_DIGITS = 40
"""Intervals are at least 2**-40 as wide as the largest element, so that their numbers are exact."""

_WIDEST, _LEVELS = 50, " ▁▂▃▄▅▆▇█"
"""Most characters of a summary, and a character for each height of a bar."""

_MOST_BUCKETS = 128
"""Most intervals of the counts of all features together."""

_DRAWN = 6
"""Intervals of elements that are all equal are at least 2**-6 as wide as these."""


@dataclass(frozen=True)
class Histogram:
    """Counts of elements between edges, for each feature.

    histogram                                   # 50 intervals, whose edges are found
    histogram: {bins: 200}
    histogram: {bins: 40, range: [-4, 4]}
    histogram: {edges: [0, 0.5, 1], per: all}

    Intervals include their lower edge; with given edges, the last one includes both. Results:
    `edges` float64 (bins + 1,), `counts` int64 (features, bins), and `below`, `above`, `nan` int64
    (features,). With `per: all` they have no axis of features.

    Edges that are found are those of each feature, (features, bins + 1). The width is the smallest
    power of two with which `bins` intervals, starting at a multiple of the width, cover all finite
    elements, which span at least the first half of the intervals. It depends only on the smallest
    and the largest element, so counts are exact without a second pass. Infinite elements are
    `below` or `above`.
    """

    name: ClassVar[str] = "histogram"
    edges: tuple[float, ...] | None
    bins: int
    per: str
    at: str

    @classmethod
    def parse(cls, options: object, at: str) -> "Histogram":
        """Parse edges, or a number of intervals with or without their range."""
        names = ("edges", "bins", "range", "per")
        given = as_options(options, at, names, "{bins: 50}")
        per = parse_per(given, at)
        if "edges" in given or "range" in given:
            edges = parse_edges(given, at)
            return cls(edges, len(edges) - 1, per, at)
        # With one interval, elements on both sides of 0 would never fit.
        return cls(None, whole_number(given.get("bins", _BINS), f"{at}.bins", 2), per, at)

    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        """The axes of each result: the intervals, preceded by the features with `per: feature`."""
        found = self.edges is None
        outside = dict.fromkeys(("below", "above", "nan"), axes(self.per))
        edges = axes(self.per, EDGE) if found else (EDGE,)
        return {"edges": edges, "counts": axes(self.per, BIN), **outside}

    def summary(self, results: Arrays) -> str:
        """Return bars for the counts of all features, or of the first one if edges differ."""
        edges, counts, of = results["edges"], results["counts"], ""
        if edges.ndim > 1:
            edges, counts, of = edges[0], counts[0], "feature 0: "
        elif counts.ndim > 1:
            counts = counts.sum(0)
        outside = ((results[name].sum(), name) for name in ("below", "above", "nan"))
        apart = ", ".join(f"{count:,} {name}" for count, name in outside if count)
        drawn = f"{of}{edges[0]:.4g} {bars_of(counts)} {edges[-1]:.4g}"
        return f"{drawn}; {apart}" if apart else drawn

    def check(self, operand: Operand) -> None:
        """Check that the last axis has one size, if features are counted separately."""
        most = LARGEST_PARTIAL // (8 * max(1, width(operand, self.per, self.at))) - 5
        fewer = f"Take at most {self.at}.bins={most}"
        all_together = f"count all elements together: {self.at}.per=all"
        if self.per != FEATURE:
            instead = fewer
        elif most < 2:
            instead = all_together.capitalize()
        else:
            instead = f"{fewer}, or {all_together}"
        fits(self.partial_bytes(operand), operand, self.at, instead)

    def partial_bytes(self, operand: Operand) -> int:
        """Return the size of the counts, and of what determines edges that are found."""
        found = 2 if self.edges is None else 0
        return width(operand, self.per, self.at) * (self.bins + 3 + found) * 8

    def of(self, block: Block) -> Arrays:
        """Count the elements of each feature."""
        rows = rows_per(block, self.per)
        if self.edges is None:
            return _found(rows, self.bins)
        edges = np.asarray(self.edges)
        found = _no_counts(rows.shape[1], self.bins)
        for part in to_count(rows):
            found = added(found, _between(edges, part))
        return found

    def merge(self, one: Arrays, other: Arrays) -> Arrays:
        """Add the counts, of intervals of one width."""
        return added(one, other) if self.edges is not None else _merged(one, other)

    def finish(self, partial: Arrays) -> Arrays:
        """Return the counts with their edges."""
        if self.edges is not None:
            found: Mapping[str, Array] = partial
            edges = np.asarray(self.edges)
        else:
            found, edges = _with_edges(partial)
        if self.per != FEATURE:
            found = {name: one[0] for name, one in found.items()}
            edges = edges if self.edges is not None else edges[0]
        return {"edges": edges, **{name: np.asarray(one) for name, one in found.items()}}


def buckets(results: Arrays) -> Array:
    """Return the counts of all features together as TensorBoard has them.

    Each feature has intervals of its own width, a power of two, and they begin at a multiple of it.
    So the intervals of one feature lie whole in those of a wider one, and counts stay exact.

    Args:
        results: those of the statistic `histogram`.

    Returns:
        float64 (buckets, 3): lower edge, upper edge, number of elements. Without elements there
        are none.
    """
    edges, counts = np.asarray(results["edges"], np.float64), np.asarray(results["counts"])
    if edges.ndim == 1:
        total = counts.reshape(-1, counts.shape[-1]).sum(0)
        return _rows(edges[:-1], edges[1:], total) if total.any() else np.zeros((0, 3))
    lower, upper, counted = edges[:, :-1], edges[:, 1:], counts > 0
    if not counted.any():
        return np.zeros((0, 3))
    width = (upper - lower)[counted].max()
    span = upper[counted].max() - lower[counted].min()
    while span / width > _MOST_BUCKETS:
        width *= 2
    places, which = np.unique(np.floor(lower[counted] / width), return_inverse=True)
    total = np.bincount(which.reshape(-1), weights=counts[counted])
    return _rows(places * width, (places + 1) * width, total)


def _rows(lower: Array, upper: Array, counts: Array) -> Array:
    return np.stack([lower, upper, counts.astype(np.float64)], axis=1)


def bars_of(counts: Array) -> str:
    """Return one character for each interval, or for several neighbours if there are many."""
    together = -(-len(counts) // _WIDEST)
    starts = np.arange(0, len(counts), together)
    heights = np.add.reduceat(counts, starts)
    # An interval with a few elements among many is not empty.
    levels = np.ceil(heights / max(1, heights.max()) * (len(_LEVELS) - 1)).astype(int)
    return "".join(_LEVELS[level] for level in levels)


def _counted(place: Array, counted: Array, bins: int) -> npt.NDArray[np.int64]:
    """Return the number of elements of each feature in each bin: (features, bins).

    Args:
        place: the bin of each element, int64 (rows, features).
        counted: bool (rows, features), the elements to count.
    """
    count = place.shape[1]
    flat = (np.arange(count) * bins + place)[counted]
    return np.bincount(flat, minlength=count * bins).reshape(count, bins)


def _intervals(elements: Array, exponent: Array) -> Array:
    """Return the number of the interval that holds each element, as float64.

    Products with powers of two are exact, unless they underflow.
    """
    number = np.floor(elements * np.exp2(-exponent))
    return np.where((elements < 0) & (number >= 0), -1, number)


def _no_counts(features: int, bins: int) -> dict[str, Array]:
    apart = {name: np.zeros(features, np.int64) for name in ("below", "above", "nan")}
    return {"counts": np.zeros((features, bins), np.int64), **apart}


def _between(edges: Array, rows: Array) -> dict[str, Array]:
    """Return the counts of rows between given edges."""
    bins = len(edges) - 1
    place = np.searchsorted(edges, rows, side="right") - 1
    place[rows == edges[-1]] = bins - 1
    inside = (rows >= edges[0]) & (rows <= edges[-1])
    return {
        "counts": _counted(place, inside, bins),
        "below": (rows < edges[0]).sum(0),
        "above": (rows > edges[-1]).sum(0),
        "nan": np.isnan(rows).sum(0),
    }


def _found(rows: Array, bins: int) -> dict[str, Array]:
    """Return the counts of a shard, in intervals as narrow as its elements allow."""
    low, high = _finite_ends(rows)
    size = np.maximum(-low, high)
    exponent = np.where(size > 0, np.maximum(np.frexp(size)[1] - _DIGITS, _LEAST), _LEAST)
    while (wide := _intervals(high, exponent) - _intervals(low, exponent) >= bins).any():
        exponent = exponent + wide
    first = _intervals(low, exponent)
    found = _no_counts(rows.shape[1], bins)
    for part in to_count(rows):
        finite = np.isfinite(part)
        place = np.where(finite, _intervals(np.where(finite, part, 0), exponent) - first, 0)
        one = {
            "counts": _counted(place.astype(np.int64), finite, bins),
            "below": (part == -np.inf).sum(0),
            "above": (part == np.inf).sum(0),
            "nan": np.isnan(part).sum(0),
        }
        found = added(found, one)
    found["exponent"], found["first"] = exponent.astype(np.int64), first.astype(np.int64)
    return found


def _finite_ends(rows: Array) -> tuple[Array, Array]:
    """Return the smallest and the largest finite element of each feature; 0 if there is none."""
    low, high = np.full(rows.shape[1], np.inf), np.full(rows.shape[1], -np.inf)
    for part in to_count(rows):
        finite = np.isfinite(part)
        low = np.minimum(low, part.min(0, where=finite, initial=np.inf))
        high = np.maximum(high, part.max(0, where=finite, initial=-np.inf))
    nothing = low > high
    return np.where(nothing, 0, low), np.where(nothing, 0, high)


def _merged(one: Arrays, other: Arrays) -> dict[str, Array]:
    """Add counts, in the narrowest intervals that are wide enough for both."""
    bins = one["counts"].shape[1]
    exponent = np.maximum(one["exponent"], other["exponent"])
    while True:
        ends = [_ends(partial, exponent - partial["exponent"]) for partial in (one, other)]
        first = np.minimum(ends[0][0], ends[1][0])
        last = np.maximum(ends[0][1], ends[1][1])
        wide = last - first >= bins
        if not wide.any():
            break
        exponent = exponent + wide
    first = np.where(last < first, 0, first)
    both = {name: one[name] + other[name] for name in ("below", "above", "nan")}
    counts = sum(
        _moved(partial, exponent - partial["exponent"], first, bins) for partial in (one, other)
    )
    return {"counts": np.asarray(counts), "exponent": exponent, "first": first, **both}


def _ends(partial: Arrays, shift: Array) -> tuple[Array, Array]:
    """Return the numbers of the first and last interval with elements, at 2**shift times the width.

    Without elements the first comes after the last.
    """
    counts, first = partial["counts"], partial["first"]
    bins = counts.shape[1]
    some = counts > 0
    numbers = (first + some.argmax(1), first + bins - 1 - some[:, ::-1].argmax(1))
    low, high = (_halved(number, shift) for number in numbers)
    limits, present = np.iinfo(np.int64), some.any(1)
    # A quarter of the largest number, so that differences do not overflow.
    return np.where(present, low, limits.max // 4), np.where(present, high, limits.min // 4)


def _halved(number: Array, times: Array) -> Array:
    """Return the number of the interval that holds this one, after widths have doubled."""
    return np.right_shift(number, np.minimum(times, 63))


def _moved(partial: Arrays, shift: Array, first: Array, bins: int) -> Array:
    """Return the counts in intervals 2**shift times as wide, from another first one."""
    counts = partial["counts"]
    number = _halved(partial["first"][:, None] + np.arange(bins), shift[:, None])
    place = np.where(counts > 0, number - first[:, None], 0)
    moved = np.zeros_like(counts)
    np.add.at(moved, (np.arange(len(counts))[:, None], place), counts)
    return moved


def _with_edges(partial: Arrays) -> tuple[dict[str, Array], Array]:
    """Return the counts and the edges of their intervals.

    Elements that are all equal get an interval of a width that can be drawn.
    """
    counts, exponent = partial["counts"], partial["exponent"]
    bins = counts.shape[1]
    low, high = _ends(partial, np.zeros_like(exponent))
    magnitude = np.frexp(np.abs(low).astype(np.float64))[1]
    near_zero = (low == 0) | (low == -1) | (high < low)
    wider = np.where(near_zero, -exponent, np.maximum(magnitude - _DRAWN, 0))
    shift = np.where(low >= high, np.maximum(wider, 0), 0)
    first = np.where(high < low, 0, _halved(low, shift))
    found = {
        "counts": _moved(partial, shift, first, bins),
        **{name: partial[name] for name in ("below", "above", "nan")},
    }
    with np.errstate(over="ignore"):  # the edges after the largest number are infinite
        edges = np.ldexp(
            (first[:, None] + np.arange(bins + 1)).astype(np.float64), (exponent + shift)[:, None]
        )
    return found, edges
