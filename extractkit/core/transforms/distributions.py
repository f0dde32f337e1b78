"""Quantiles and histograms over axes, which ignore padding."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from extractkit.core.spec import Dim
from extractkit.core.transforms import (
    Array,
    Axis,
    AxisLengths,
    AxisName,
    Masked,
    Operand,
    Tensor,
    as_options,
    axis_names,
    kept_lengths,
    number,
    present,
)
from extractkit.core.transforms.edges import parse_edges
from extractkit.core.transforms.reductions import reduced_dtype
from extractkit.errors import ConfigError, SelectionError

LARGEST_COUNTS = 256 * 1024 * 1024
"""Most bytes of a sample's counts along axes of one size."""


def _rows(tf: Any, operand: Operand, value: Masked, over: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the elements over some axes as the last axis, and their mask."""
    rank = value.tensor.shape.rank
    kept = [axis for axis in range(rank) if axis not in over]
    order = [*kept, *over]
    shape = tf.shape(value.tensor)
    sizes = [shape[axis] for axis in kept]
    count = tf.reduce_prod(tf.gather(shape, list(over)))
    mask = tf.broadcast_to(present(tf, value, over), shape)
    flat = (
        tf.reshape(tf.transpose(one, order), tf.stack([*sizes, count]))
        for one in (value.tensor, mask)
    )
    tensor, mask = flat
    return tensor, mask


def _array_rows(value: Array, over: Sequence[int]) -> Array:
    kept = [axis for axis in range(value.ndim) if axis not in over]
    moved = value.transpose([*kept, *over])
    return moved.reshape(*moved.shape[: len(kept)], math.prod(moved.shape[len(kept) :]))


@dataclass(frozen=True)
class Quantile:
    """Quantiles over axes together, interpolated linearly between elements.

    quantile: {q: 0.5, axis: token}
    quantile: {q: [0.05, 0.5, 0.95]}       # over all axes but the samples

    Several quantiles form a new last axis, `quantile`. Without elements, or with NaN among them,
    the result is NaN. Between a number and an infinity it is the infinity; between the two
    infinities it is NaN.
    """

    name: ClassVar[str] = "quantile"
    axes: tuple[AxisName, ...]
    q: tuple[float, ...]
    single: bool
    at: str

    @classmethod
    def parse(cls, options: object, at: str) -> "Quantile":
        """Parse `q` and the axes."""
        given = as_options(options, at, ("q", "axis"), "{q: 0.5, axis: token}")
        q = given.get("q")
        listed = q if isinstance(q, list | tuple) else [q]
        if not listed:
            raise ConfigError(f"{at}.q is an empty list of quantiles")
        found = tuple(number(one, f"{at}.q") for one in listed)
        if outside := [one for one in found if not 0 <= one <= 1]:
            raise ConfigError(f"{at}.q={outside[0]!r} is not between 0 and 1")
        return cls(axis_names(given.get("axis"), f"{at}.axis"), found, q is not listed, at)

    def results(self, operand: Operand) -> Mapping[str, Operand]:
        """Return the spec without the axes; several quantiles are its last axis."""
        operand.needs_numbers(self.at)
        result = operand.without(self._over(operand))
        if not self.single:
            axis = Axis(Dim("quantile", len(self.q)))
            result = replace(result, axes=(*result.axes, axis))
        return {"": replace(result, dtype=reduced_dtype(self.name, operand.dtype))}

    def _over(self, operand: Operand) -> tuple[int, ...]:
        return operand.find_some(self.axes, self.at)

    def lengths(self, xp: Any, operand: Operand, lengths: AxisLengths) -> Sequence[AxisLengths]:
        """Return the lengths of the other axes."""
        return [kept_lengths(lengths, self._over(operand))]

    def in_graph(self, tf: Any, operand: Operand, value: Masked) -> Sequence[Tensor]:
        """Sort each sample's elements, and interpolate."""
        rows, mask = _rows(tf, operand, value, self._over(operand))
        dtype = reduced_dtype(self.name, value.tensor.dtype.name)
        rows = tf.cast(rows, dtype if rows.dtype.is_floating else tf.float64)
        rank = rows.shape.rank
        ordered = tf.sort(tf.where(mask, rows, tf.constant(math.inf, rows.dtype)), axis=-1)
        # One more element, so that gathering works on an empty axis.
        ordered = tf.pad(ordered, [[0, 0]] * (rank - 1) + [[0, 1]])
        count = tf.reduce_sum(tf.cast(mask, tf.int32), -1, keepdims=True)
        # The position is exact in float64, for any type of the elements.
        index = tf.constant(self.q, tf.float64) * tf.cast(tf.maximum(count - 1, 0), tf.float64)
        below = tf.cast(tf.floor(index), tf.int32)
        above = tf.minimum(below + 1, tf.maximum(count - 1, 0))
        low, high = (
            tf.cast(tf.gather(ordered, each, axis=-1, batch_dims=rank - 1), tf.float64)
            for each in (below, above)
        )
        weight = index - tf.cast(below, tf.float64)
        distance = high - low
        between = tf.where(
            tf.math.is_finite(distance), low + distance * weight, low * (1 - weight) + high * weight
        )
        between = tf.where(tf.equal(low, high) | tf.equal(weight, 0), low, between)
        found = tf.cast(between, dtype)
        undefined = tf.reduce_any(tf.logical_and(mask, tf.math.is_nan(rows)), -1, keepdims=True)
        undefined = tf.logical_or(undefined, tf.equal(count, 0))
        found = tf.where(undefined, tf.constant(math.nan, dtype), found)
        return [found[..., 0] if self.single else found]

    def in_numpy(self, operand: Operand, value: Array) -> Sequence[Array]:
        """Do the same in NumPy, whose own quantiles are NaN beside an infinity."""
        rows = np.sort(_array_rows(value, self._over(operand)).astype(np.float64))
        dtype = reduced_dtype(self.name, value.dtype.name)
        count = rows.shape[-1]
        found = np.full((*rows.shape[:-1], len(self.q)), np.nan)
        for at, q in enumerate(self.q if count else ()):
            index = q * (count - 1)
            below = math.floor(index)
            low, high = rows[..., below], rows[..., min(below + 1, count - 1)]
            weight = index - below
            with np.errstate(invalid="ignore", over="ignore"):
                distance = high - low
                apart = low * (1 - weight) + high * weight
                between = np.where(np.isfinite(distance), low + distance * weight, apart)
            found[..., at] = low if weight == 0 else np.where(low == high, low, between)
        if count:
            found[np.isnan(rows[..., -1])] = np.nan  # NaN is sorted to the end
        found = found.astype(dtype)
        return [found[..., 0] if self.single else found]


@dataclass(frozen=True)
class Histogram:
    """Counts of elements between edges, over axes together.

    histogram: {edges: [0, 0.5, 1]}
    histogram: {bins: 20, range: [-1, 1], axis: token}

    The counts, int64, form a new last axis, `bin`. Intervals include their lower edge; the last one
    includes both edges. Elements outside and NaN are not counted.
    """

    name: ClassVar[str] = "histogram"
    axes: tuple[AxisName, ...]
    edges: tuple[float, ...]
    at: str

    @classmethod
    def parse(cls, options: object, at: str) -> "Histogram":
        """Parse the edges, or a number of intervals and their range."""
        names = ("edges", "bins", "range", "axis")
        given = as_options(options, at, names, "{bins: 20, range: [-1, 1]}")
        return cls(axis_names(given.get("axis"), f"{at}.axis"), parse_edges(given, at), at)

    def results(self, operand: Operand) -> Mapping[str, Operand]:
        """Return the spec with an axis of intervals at the end in place of the axes."""
        operand.needs_numbers(self.at)
        bins = len(self.edges) - 1
        axis = Axis(Dim("bin", bins))
        kept = operand.without(self._over(operand)).axes
        fixed = math.prod(one.dim.size or 1 for one in kept)
        if (bytes_ := 8 * bins * fixed) > LARGEST_COUNTS:
            raise SelectionError(
                f"{self.at} of {operand.source!r} would hold {bytes_:,} bytes for each sample, "
                f"more than {LARGEST_COUNTS:,}. Count over more axes together, or in at most "
                f"{max(1, LARGEST_COUNTS // (8 * fixed)):,} intervals"
            )
        return {"": replace(operand, axes=(*kept, axis), dtype="int64")}

    def _over(self, operand: Operand) -> tuple[int, ...]:
        return operand.find_some(self.axes, self.at)

    def lengths(self, xp: Any, operand: Operand, lengths: AxisLengths) -> Sequence[AxisLengths]:
        """Return the lengths of the other axes."""
        return [kept_lengths(lengths, self._over(operand))]

    def in_graph(self, tf: Any, operand: Operand, value: Masked) -> Sequence[Tensor]:
        """Count each sample's elements."""
        rows, mask = _rows(tf, operand, value, self._over(operand))
        rows = tf.cast(rows, tf.float64)  # exact, as edges are
        edges = tf.constant(self.edges, tf.float64)
        bins = len(self.edges) - 1
        flat = tf.reshape(rows, [-1])
        index = tf.searchsorted(edges, flat, side="right") - 1
        index = tf.where(tf.equal(flat, edges[-1]), bins - 1, index)
        counted = tf.reshape(mask, [-1]) & (flat >= edges[0]) & (flat <= edges[-1])
        outer = tf.shape(rows)[:-1]
        every = tf.reduce_prod(outer)
        row = tf.repeat(tf.range(every), tf.shape(rows)[-1])
        segment = tf.where(counted, row * bins + index, -1)  # negative ones are dropped
        ones = tf.ones_like(segment, tf.int64)
        counts = tf.math.unsorted_segment_sum(ones, segment, every * bins)
        return [tf.reshape(counts, tf.concat([outer, [bins]], 0))]

    def in_numpy(self, operand: Operand, value: Array) -> Sequence[Array]:
        """Count as NumPy does."""
        rows = _array_rows(value, self._over(operand)).astype(np.float64)
        edges = np.asarray(self.edges, np.float64)
        flat = rows.reshape(math.prod(rows.shape[:-1]), rows.shape[-1])
        counts = [np.histogram(row[np.isfinite(row)], edges)[0] for row in flat]
        shape = (*rows.shape[:-1], len(edges) - 1)
        return [np.asarray(counts, np.int64).reshape(shape)]
