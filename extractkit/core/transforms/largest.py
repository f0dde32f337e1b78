"""The largest elements along an axis, or of a sample, and their positions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from extractkit.core.spec import Dim
from extractkit.core.transforms import (
    EVERY_AXIS,
    Array,
    Axis,
    AxisLengths,
    AxisName,
    Masked,
    Operand,
    Tensor,
    as_options,
    axis_name,
    kept_lengths,
    present,
    whole_number,
)
from extractkit.core.transforms.flattening import Flatten
from extractkit.core.transforms.reductions import farthest
from extractkit.errors import ConfigError, SelectionError

INDICES, COORDINATES = "indices", "coordinates"


@dataclass(frozen=True)
class _Position:
    """The position of the largest or smallest element along one axis, the first of equal ones.

    argmax: feature

    A sample without elements has -1. NaN counts as ∞ in `argmax`, and as -∞ in `argmin`.
    """

    name: ClassVar[str]
    sign: ClassVar[int]
    axis: AxisName
    at: str

    @classmethod
    def parse(cls, options: object, at: str) -> "_Position":
        """Parse the name of an axis."""
        return cls(axis_name(options, at), at)

    def results(self, operand: Operand) -> Mapping[str, Operand]:
        """Return the spec without the axis, as int64."""
        operand.needs_numbers(self.at)
        position = operand.one(self.axis, self.at)
        return {"": replace(operand.without([position]), dtype="int64")}

    def lengths(self, xp: Any, operand: Operand, lengths: AxisLengths) -> Sequence[AxisLengths]:
        """Return the lengths of the other axes."""
        return [kept_lengths(lengths, [operand.one(self.axis, self.at)])]

    def in_graph(self, tf: Any, operand: Operand, value: Masked) -> Sequence[Tensor]:
        """Search the elements of each sample."""
        position = operand.one(self.axis, self.at)
        key = _descending(tf, value.tensor, self.sign)
        mask = present(tf, value, [position])
        hiding = tf.constant(farthest(key, -1), key.dtype)
        # One more element, because TensorFlow cannot search an empty axis.
        pad = [[0, int(axis == position)] for axis in range(key.shape.rank)]
        hidden = tf.pad(tf.where(mask, key, hiding), pad, constant_values=hiding)
        # Elements equal to the value that masks padding come first, because padding is last.
        found = tf.argmax(hidden, position, output_type=tf.int64)
        there = tf.reduce_any(tf.broadcast_to(mask, tf.shape(key)), position)
        return [tf.where(there, found, tf.constant(-1, tf.int64))]

    def in_numpy(self, operand: Operand, value: Array) -> Sequence[Array]:
        """Search as NumPy does."""
        position = operand.one(self.axis, self.at)
        if value.shape[position] == 0:
            shape = value.shape[:position] + value.shape[position + 1 :]
            return [np.full(shape, -1, np.int64)]
        found = np.argmin(_ascending(value, self.sign), axis=position)
        return [np.asarray(found, np.int64)]


class Argmax(_Position):
    """The position of the largest element."""

    name = "argmax"
    sign = 1


class Argmin(_Position):
    """The position of the smallest element."""

    name = "argmin"
    sign = -1


@dataclass(frozen=True)
class TopK:
    """The k largest (or smallest) elements along an axis, largest first, with their positions.

    topk: {axis: 2, k: 10}
    topk: {axis: token, k: 3, smallest: true}

    The positions, int32, are stored beside them as `ADDRESS@indices`. Equal elements keep their
    order. NaN counts as ∞, or as -∞ among the smallest. Samples shorter than k keep all elements.
    """

    name: ClassVar[str] = "topk"
    axis: AxisName
    k: int
    smallest: bool
    at: str

    @classmethod
    def parse(cls, options: object, at: str) -> "TopK":
        """Parse axis, number and direction."""
        given = as_options(options, at, ("axis", "k", "smallest"), "{axis: token, k: 5}")
        smallest = given.get("smallest", False)
        if not isinstance(smallest, bool):
            raise ConfigError(f"{at}.smallest={smallest!r} is neither true nor false")
        k = whole_number(given.get("k"), f"{at}.k")
        return cls(axis_name(given.get("axis"), f"{at}.axis"), k, smallest, at)

    @property
    def _sign(self) -> int:
        return -1 if self.smallest else 1

    def _position(self, operand: Operand) -> int:
        return operand.one(self.axis, self.at)

    def results(self, operand: Operand) -> Mapping[str, Operand]:
        """Return the specs of the elements and of their positions."""
        operand.needs_numbers(self.at)
        position = self._position(operand)
        axis = operand.axes[position]
        if axis.dim.size is not None:
            if self.k > axis.dim.size:
                raise SelectionError(
                    f"{self.at}.k={self.k} is larger than the axis of {operand.source!r}, which "
                    f"has {axis.dim.size} elements"
                )
            operand = operand.with_axis(position, replace(axis, dim=Dim(axis.dim.name, self.k)))
        return {"": operand, INDICES: replace(operand, dtype="int32")}

    def lengths(self, xp: Any, operand: Operand, lengths: AxisLengths) -> Sequence[AxisLengths]:
        """Return at most k for the axis."""
        position = self._position(operand)
        if position in lengths:
            lengths = {**lengths, position: xp.minimum(lengths[position], self.k)}
        return [lengths, lengths]

    def in_graph(self, tf: Any, operand: Operand, value: Masked) -> Sequence[Tensor]:
        """Sort along the axis; padding comes last."""
        position = self._position(operand)
        rank = value.tensor.shape.rank
        tensor = value.tensor
        order = [*(axis for axis in range(rank) if axis != position), position]
        back = [*range(position), rank - 1, *range(position, rank - 1)]
        mask = tf.broadcast_to(present(tf, value, [position]), tf.shape(tensor))
        key = _descending(tf, tensor, self._sign)
        hidden = tf.where(mask, key, tf.constant(farthest(key, -1), key.dtype))
        count = tf.minimum(self.k, tf.shape(tensor)[position])
        # Stable, so that equal elements keep their order, and padding comes after a sample's own
        # elements that equal the value that masks it.
        indices = tf.argsort(
            tf.transpose(hidden, order), axis=-1, direction="DESCENDING", stable=True
        )[..., :count]
        taken = tf.gather(tf.transpose(tensor, order), indices, axis=-1, batch_dims=rank - 1)
        return [tf.transpose(taken, back), tf.transpose(indices, back)]

    def in_numpy(self, operand: Operand, value: Array) -> Sequence[Array]:
        """Sort along the axis."""
        position = self._position(operand)
        indices = np.argsort(_ascending(value, self._sign), axis=position, kind="stable")
        indices = indices.take(range(min(self.k, value.shape[position])), position)
        return [np.take_along_axis(value, indices, position), indices.astype(np.int32)]


def _descending(tf: Any, tensor: Tensor, sign: int) -> Tensor:
    """Return sort keys. The largest belong to the requested elements.

    Keys of integers are int64, and are reversed by inverting their bits, since the smallest integer
    has no negative.

    Args:
        sign: 1 to search for the largest elements, -1 for the smallest.
    """
    if tensor.dtype.is_floating:
        infinity, zero = (tf.constant(one, tensor.dtype) for one in (math.inf, 0))
        # XLA sorts -0 before 0, which are equal.
        key = tf.where(tf.equal(tensor, zero), zero, sign * tensor)
        return tf.where(tf.math.is_nan(tensor), infinity, key)
    if tensor.dtype == tf.uint64:
        highest_bit = tf.constant(1 << 63, tf.uint64)
        key = tf.bitcast(tf.bitwise.bitwise_xor(tensor, highest_bit), tf.int64)
    else:
        key = tf.cast(tensor, tf.int64)
    return key if sign > 0 else tf.bitwise.invert(key)


def _ascending(value: Array, sign: int) -> Array:
    """Return sort keys. The smallest belong to the requested elements."""
    if value.dtype.kind == "f":
        wide = value.astype(np.float64)
        return np.where(np.isnan(wide), -np.inf, -sign * wide)
    return np.invert(value) if sign > 0 else value


def _sizes(tf: Any, tensor: Tensor) -> Tensor:
    """Return numbers in the order of the absolute values, exact for all integers."""
    if tensor.dtype.is_floating:
        return _descending(tf, tf.abs(tensor), 1)
    if tensor.dtype == tf.bool or tensor.dtype.is_unsigned:
        return _descending(tf, tensor, 1)
    wide = tf.cast(tensor, tf.int64)
    return _descending(tf, tf.minimum(wide, -wide), -1)  # the smallest integer has no negative


def _negative_sizes(value: Array) -> Array:
    """Return numbers in the reverse order of the absolute values, exact for all integers."""
    signed = value.dtype.kind == "i"
    return np.minimum(value, -value) if signed else _ascending(abs(value), 1)


@dataclass(frozen=True)
class Sparsify:
    """Keep each sample's elements of largest absolute value, in order, with coordinates.

    sparsify: 100

    The elements are flattened. Their coordinates, int32 (elements, axes), are stored beside them as
    `ADDRESS@coordinates`.
    """

    name: ClassVar[str] = "sparsify"
    count: int
    at: str

    @classmethod
    def parse(cls, options: object, at: str) -> "Sparsify":
        """Parse the number of elements."""
        return cls(whole_number(options, at), at)

    def _flat(self) -> Flatten:
        return Flatten((EVERY_AXIS,), self.at)

    def results(self, operand: Operand) -> Mapping[str, Operand]:
        """Return the specs of the elements and of their coordinates."""
        operand.needs_numbers(self.at)
        operand.find_some([EVERY_AXIS], self.at)
        kept = self._flat().results(operand)[""]
        dim = kept.axes[kept.first].dim
        if dim.size is not None:
            dim = Dim("element", min(self.count, dim.size))
        else:
            dim = replace(dim, name="element")
        kept = kept.with_axis(kept.first, Axis(dim))
        coordinates = Axis(Dim("axis", len(operand.every_axis)))
        return {
            "": kept,
            COORDINATES: replace(kept, axes=(*kept.axes, coordinates), dtype="int32"),
        }

    def lengths(self, xp: Any, operand: Operand, lengths: AxisLengths) -> Sequence[AxisLengths]:
        """Return at most the number of elements."""
        (joined,) = self._flat().lengths(xp, operand, lengths)
        found = {position: xp.minimum(length, self.count) for position, length in joined.items()}
        return [found, found]

    def in_graph(self, tf: Any, operand: Operand, value: Masked) -> Sequence[Tensor]:
        """Sort by absolute value, take the first, and sort those by position."""
        first = operand.first
        (flat,) = self._flat().in_graph(tf, operand, value)
        (own,) = self._flat().lengths(tf, operand, value.lengths)
        size = tf.shape(flat)[first]
        mask = tf.broadcast_to(present(tf, Masked(flat, own), [first]), tf.shape(flat))
        key = _sizes(tf, flat)
        hidden = tf.where(mask, key, tf.constant(farthest(key, -1), key.dtype))
        indices = tf.argsort(hidden, direction="DESCENDING", stable=True)[..., : self.count]
        there = tf.gather(mask, indices, axis=first, batch_dims=first)
        indices = tf.sort(tf.where(there, indices, size))
        indices = tf.minimum(indices, tf.maximum(size - 1, 0))
        coordinates, rest = [], indices
        for position in reversed(operand.every_axis):
            padded = tf.shape(value.tensor)[position]
            length = value.lengths.get(position)
            axis_size = padded if length is None else tf.maximum(length, 1)[:, None]
            coordinates.append(rest % axis_size)
            rest //= axis_size
        kept = tf.gather(flat, indices, axis=first, batch_dims=first)
        return [kept, tf.stack(coordinates[::-1], -1)]

    def in_numpy(self, operand: Operand, value: Array) -> Sequence[Array]:
        """Sort by absolute value, take the first, and sort those by position."""
        own = value.shape[operand.first :]
        flat = value.reshape(-1)
        indices = np.sort(np.argsort(_negative_sizes(flat), kind="stable")[: self.count])
        coordinates = np.stack(np.unravel_index(indices, own), -1).astype(np.int32)
        outer = value.shape[: operand.first]
        return [
            flat[indices].reshape(*outer, len(indices)),
            coordinates.reshape(*outer, len(indices), len(own)),
        ]
