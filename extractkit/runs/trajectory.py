"""Lazy views of constants, and of tensors along outer axes, such as that of checkpoints."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from types import EllipsisType
from typing import Any, NoReturn

import numpy as np

from extractkit.core.shards import OuterAxis
from extractkit.core.values import Array, Dense, from_stored, varies
from extractkit.runs.manifest import Manifest, RunTensor
from extractkit.runs.views import Committed, Positions, TensorView, rows_to_read


class ConstantView(TensorView):
    """A tensor of a run that does not depend on the inputs: (*shape). It has no samples."""

    @property
    def constant(self) -> bool:
        """Whether the tensor does not depend on the inputs, and so has no sample axis."""
        return True

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape, which is read with the value if it is not recorded."""
        stored = self._stored.spec.sample_shape
        known = tuple(size for size in stored if size is not None)
        return self._value.shape if varies(stored) else known

    @cached_property
    def lengths(self) -> Positions:
        """No lengths, since no axis varies from sample to sample: int64 (first axis, 0)."""
        return np.zeros((len(self), 0), np.int64)

    def sample(self, index: int) -> NoReturn:
        """Raise an error.

        Raises:
            IndexError: always.
        """
        raise IndexError(self._has_no_samples)

    def by_shard(self) -> NoReturn:
        """Raise an error.

        Raises:
            IndexError: always.
        """
        raise IndexError(self._has_no_samples)

    def padded(self, fill: object = None) -> Array:
        """Return the value."""
        return self._value

    def __len__(self) -> int:
        if not self.dims:
            raise TypeError(f"{self.key!r} is a single number: it has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Array]:
        """Yield the value along its first axis."""
        yield from self._value

    def __getitem__(self, index: Any) -> Array:
        return np.asarray(self._value[index], self.dtype)

    @property
    def _has_no_samples(self) -> str:
        return f"{self.key!r} is constant: it has no samples, use np.asarray(view)"

    @cached_property
    def _value(self) -> Array:
        return from_stored(
            Dense(self._committed.constant(self.key)), self._stored.spec.dtype
        ).values


def view_of(tensor: RunTensor, committed: Committed) -> TensorView:
    """Return the view of a tensor at one position of the outer axes."""
    return (ConstantView if tensor.stored.constant else TensorView)(tensor, committed)


class TrajectoryView(TensorView):
    """One tensor along an outer axis: (checkpoints, samples, *shape), or (checkpoints, *shape).

    Axes whose length differs from sample to sample, or between positions of the outer axis, are
    padded to the longest of all, as in a `TensorView`. `at(label)` is the tensor at one position,
    without the outer axis. `each` holds these tensors in order.

    Indexing follows NumPy. The index on the first axis decides which positions are read. Unless an
    axis is indexed by an array, the next index decides which of their samples are read.
    """

    def __init__(self, tensor: RunTensor, each: Sequence[TensorView], axis: OuterAxis) -> None:
        super().__init__(tensor, each[0]._committed)
        self.each = tuple(each)
        self.axis = axis

    def at(self, position: str | int) -> TensorView:
        """Return the tensor at one position of the outer axis.

        Args:
            position: its label or its step.

        Raises:
            UnknownTensorError: no position has that label or step.
        """
        return self.each[self.axis.find(position, repr(self.key)).at]

    @property
    def constant(self) -> bool:
        """Whether the tensor does not depend on the inputs, and so has no sample axis."""
        return self.each[0].constant

    @property
    def dims(self) -> tuple[str | None, ...]:
        """The name of each axis; None for an axis without a name. The outer axis is the first."""
        return (self.axis.name, *self.each[0].dims)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The size of each axis, the longest for varying axes."""
        inner = [view.shape for view in self.each]
        return (len(inner), *(max(sizes) for sizes in zip(*inner, strict=True)))

    @cached_property
    def lengths(self) -> Positions:
        """The lengths along the varying axes: int64 (positions, samples, varying axes)."""
        return np.stack([view.lengths for view in self.each])

    def by_shard(self) -> NoReturn:
        """Raise an error, because each shard belongs to one position.

        Raises:
            TypeError: always.
        """
        name = self.axis.name
        raise TypeError(f"{self.key!r} has {name}s: use view.at({name}).by_shard()")

    def sample(self, index: int) -> Array:
        """Return one sample at all positions, (positions, *shape), padded if lengths differ.

        Raises:
            IndexError: there is no such sample, or the tensor is constant.
        """
        values = [view.sample(index) for view in self.each]
        return _stacked(values, self.dtype, self.blank)

    def padded(self, fill: object = None) -> Array:
        """Return the whole tensor as one array, padded with `fill`."""
        return self._of(range(len(self.each)), None, fill)

    def __len__(self) -> int:
        return len(self.each)

    def __iter__(self) -> Iterator[Array]:
        """Yield every position in turn, padded like the whole, with one in memory at a time."""
        for position in range(len(self.each)):
            yield np.asarray(self._of([position], None)[0], self.dtype)

    def __getitem__(self, index: Any) -> Array:
        first, *rest = index if isinstance(index, tuple) and index else (index,)
        chosen = self._wanted(first)
        if chosen is None:
            return np.asarray(self.padded()[index], self.dtype)
        positions, own = rows_to_read(first, chosen)
        if any(_is_array(one) for one in rest):
            # NumPy places the axes of arrays by all indices together.
            return np.asarray(self._of(positions, None)[(own, *rest)], self.dtype)
        return np.asarray(self._of(positions, rest)[own], self.dtype)

    def _of(
        self, positions: Iterable[int], rest: Sequence[Any] | None, fill: object = None
    ) -> Array:
        """Return the values at some positions, each indexed by `rest` if it is given."""
        wide = self.shape[1:]
        blank = self.blank if fill is None else fill
        result = []
        for position in positions:
            view = self.each[position]
            if not rest:
                value = view.padded(fill)
            elif view.shape == wide:
                result.append(view[tuple(rest)])
                continue
            else:
                value = view.padded(fill)
            value = _widened(value, wide, blank)
            result.append(np.asarray(value[tuple(rest)], self.dtype) if rest else value)
        if not result:
            empty = np.empty((0, *wide), self.dtype)
            return empty[(slice(None), *rest)] if rest else empty
        return np.stack(result)


def views_of(manifest: Manifest, committed: Committed) -> dict[str, TensorView]:
    """Return the tensors of a run by key, with the outer axes that are still to be chosen."""
    axes = manifest.outer_axes[len(committed.outer) :]
    if not axes:
        return {tensor.key: view_of(tensor, committed) for tensor in manifest.tensors}
    inner = [views_of(manifest, committed.at(position)) for position in axes[0].positions]
    if not inner:
        return {}  # a training of which no step is recorded yet
    return {
        tensor.key: TrajectoryView(tensor, [views[tensor.key] for views in inner], axes[0])
        for tensor in manifest.tensors
    }


def _is_array(index: Any) -> bool:
    plain = isinstance(index, int | np.integer | slice | EllipsisType | None)
    return isinstance(index, bool) or not plain


def _widened(value: Array, shape: tuple[int, ...], fill: object) -> Array:
    if value.shape == shape:
        return value
    wide = np.full(shape, fill, value.dtype)
    wide[tuple(map(slice, value.shape))] = value
    return wide


def _stacked(values: Sequence[Array], dtype: np.dtype[Any], fill: object) -> Array:
    shape = tuple(max(sizes) for sizes in zip(*(value.shape for value in values), strict=True))
    return np.stack([_widened(value.astype(dtype, copy=False), shape, fill) for value in values])
