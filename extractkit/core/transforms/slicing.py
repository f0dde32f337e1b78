"""Slices: one element of an axis, or a range. Negative positions count from a sample's own end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from extractkit.core.spec import Dim
from extractkit.core.transforms import (
    Array,
    AxisLengths,
    AxisName,
    Masked,
    Operand,
    Tensor,
    axis_name,
)
from extractkit.errors import ConfigError, SelectionError

Range = tuple[int | None, int | None, int | None]
Index = int | Range


@dataclass(frozen=True)
class Slice:
    """Take one element of an axis, which drops the axis, or a range of it.

    slice: {token: 0}           # one element
    slice: {token: '-4:'}       # the last four of each sample
    slice: {token: '0:4', 2: '::2'}
    """

    name: ClassVar[str] = "slice"
    indices: tuple[tuple[AxisName, Index], ...]
    at: str

    @classmethod
    def parse(cls, options: object, at: str) -> "Slice":
        """Parse a mapping of axes to indices or ranges."""
        if not isinstance(options, Mapping) or not options:
            raise ConfigError(
                f"{at}={options!r} is not a mapping of axis to slice, as in {{token: '0:4'}}"
            )
        found = tuple(
            (axis_name(key, at), _parse_index(value, f"{at}.{key}"))
            for key, value in options.items()
        )
        return cls(found, at)

    def bound(self, operand: Operand) -> dict[int, Index]:
        """Return the index of each axis, by position."""
        operand.find([name for name, _ in self.indices], self.at)  # no axis is named twice
        return {
            position: index
            for name, index in self.indices
            for position in operand.find([name], self.at)
        }

    def ranges(self, operand: Operand) -> list[tuple[int, slice]]:
        """Return the ranges that are taken from free axes, by the position of the axis."""
        return [
            (position, slice(*index))
            for position, index in self.bound(operand).items()
            if not isinstance(index, int) and operand.axes[position].dim.free is not None
        ]

    def elements(self, operand: Operand) -> list[tuple[int, int]]:
        """Return the single elements that are taken from free axes, by the position of the axis."""
        return [
            (position, index)
            for position, index in self.bound(operand).items()
            if isinstance(index, int) and operand.axes[position].dim.free is not None
        ]

    def results(self, operand: Operand) -> Mapping[str, Operand]:
        """Return the spec of the slice."""
        bound = self.bound(operand)
        result = operand
        for position, index in bound.items():
            dim = operand.axes[position].dim
            if isinstance(index, int):
                if dim.size is not None and not -dim.size <= index < dim.size:
                    raise SelectionError(
                        f"{self.at} takes element {index} of an axis of {operand.source!r} that "
                        f"has {dim.size} elements"
                    )
                continue
            if dim.size is not None:
                size = len(range(*slice(*index).indices(dim.size)))
                if not size and dim.size:
                    raise SelectionError(
                        f"{self.at} takes nothing of an axis of {operand.source!r} that has "
                        f"{dim.size} elements"
                    )
                axis = replace(operand.axes[position], dim=Dim(dim.name, size))
                result = result.with_axis(position, axis)
        return {"": result.without([p for p, index in bound.items() if isinstance(index, int)])}

    def lengths(self, xp: Any, operand: Operand, lengths: AxisLengths) -> Sequence[AxisLengths]:
        """Return the lengths of the slice."""
        bound = self.bound(operand)
        found: dict[int, Any] = {}
        for position, length in lengths.items():
            index = bound.get(position)
            if isinstance(index, int):
                continue
            dropped = sum(isinstance(bound.get(p), int) for p in range(position))
            found[position - dropped] = (
                length if index is None else _range_in(xp, index, length).count
            )
        return [found]

    def in_graph(self, tf: Any, operand: Operand, value: Masked) -> Sequence[Tensor]:
        """Take elements. Along ragged axes, positions are those in each sample."""
        tensor = value.tensor
        bound = self.bound(operand)
        for position, index in bound.items():
            length = value.lengths.get(position)
            if isinstance(index, int):
                if length is None or index >= 0:
                    tensor = tensor[(slice(None),) * position + (_one(index),)]
                else:
                    # The size-1 axis stays for now, so that positions do not shift.
                    tensor = _gathered(tf, tensor, (length + index)[:, None], position)
            elif length is None or _from_start(index):
                tensor = tensor[(slice(None),) * position + (slice(*index),)]
            else:
                own = _range_in(tf, index, length)
                steps = tf.range(tf.maximum(0, tf.reduce_max(own.count)))
                taken = own.start[:, None] + own.step * steps[None, :]
                last = tf.maximum(length, 1)[:, None] - 1
                taken = tf.minimum(tf.maximum(taken, 0), last)
                tensor = _gathered(tf, tensor, taken, position)
        dropped = [position for position, index in bound.items() if isinstance(index, int)]
        return [tf.squeeze(tensor, sorted(dropped)) if dropped else tensor]

    def in_numpy(self, operand: Operand, value: Array) -> Sequence[Array]:
        """Take elements as NumPy does."""
        bound = self.bound(operand)
        whole: list[int | slice] = [slice(None)] * value.ndim
        for position, index in bound.items():
            whole[position] = index if isinstance(index, int) else slice(*index)
        return [np.asarray(value[(*whole, ...)])]  # a single string stays an array


def _one(index: int) -> slice:
    return slice(index, None if index == -1 else index + 1)


def _from_start(index: Index) -> bool:
    """Return True if padding at the end of an axis does not change the slice."""
    if isinstance(index, int):
        return index >= 0
    start, stop, step = index
    return (start or 0) >= 0 and (stop is None or stop >= 0) and (step is None or step > 0)


def _gathered(tf: Any, tensor: Tensor, taken: Tensor, position: int) -> Tensor:
    return tf.gather(tensor, taken, axis=position, batch_dims=1)


@dataclass(frozen=True)
class _Own:
    """A range in samples of different lengths: start and count of each, and the common step."""

    start: Any
    count: Any
    step: int


def _range_in(xp: Any, index: Index, length: Any) -> _Own:
    """Resolve a range for several lengths, like `slice.indices` for one."""
    assert not isinstance(index, int)
    start, stop, step = index[0], index[1], index[2] or 1
    least, most = (0, length) if step > 0 else (-1, length - 1)

    def clipped(bound: int | None, default: Any) -> Any:
        if bound is None:
            return default
        index = length * 0 + bound if bound >= 0 else length + bound
        return xp.minimum(xp.maximum(index, least), most)

    first = clipped(start, length * 0 if step > 0 else length - 1)
    end = clipped(stop, length if step > 0 else length * 0 - 1)
    span = end - first if step > 0 else first - end
    size = abs(step)
    return _Own(first, xp.maximum((span + size - 1) // size, 0), step)


def parse_range(value: object, at: str) -> Range:
    """Parse a range such as '-4:' or '::2'.

    Raises:
        ConfigError: it is not a range.
    """
    index = _parse_index(value, at) if ":" in str(value) else 0
    if isinstance(index, int):
        raise ConfigError(f"{at}={value!r} is not a range. Write for example {at}='-4:' or '0:1'")
    return index


def _parse_index(value: object, at: str) -> Index:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    parts = str(value).split(":")
    try:
        numbers = [int(part) if part.strip() else None for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) == 1 and numbers[0] is not None:
        return numbers[0]
    if len(numbers) in (2, 3) and 0 not in numbers[2:]:
        start, stop, step = (*numbers, None)[:3]
        return (start, stop, step)
    raise ConfigError(f"{at}={value!r} is not a slice. Write a number, or '0:4', '::2'")
