"""Lazy views of tensors over checkpoints: the axis of checkpoints stands in front of all others."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from types import EllipsisType
from typing import Any, NoReturn

import numpy as np

from extractkit.core.checkpoints import AXIS, Checkpoint
from extractkit.core.values import Array
from extractkit.errors import UnknownTensorError, choices
from extractkit.runs.manifest import Manifest, RunTensor
from extractkit.runs.views import Committed, Positions, TensorView, within


class TrajectoryView(TensorView):
    """One tensor over all checkpoints: (checkpoints, samples, *shape), or (checkpoints, *shape).

    Axes whose length differs from sample to sample, or between checkpoints, are padded to the
    longest of all, as in a `TensorView`. `at(label)` is the tensor of one checkpoint, without this
    axis; so are the elements of `each`, in order.

    Indexing is NumPy's. The index on the first axis decides which checkpoints are read; where no
    axis is indexed by an array, the next one decides which samples of them.
    """

    def __init__(
        self,
        tensor: RunTensor,
        committed: Sequence[Committed],
        checkpoints: Sequence[Checkpoint],
    ) -> None:
        super().__init__(tensor, committed[0])
        self.each = tuple(TensorView(tensor, one) for one in committed)
        self.checkpoints = tuple(checkpoints)

    def at(self, checkpoint: str | int) -> TensorView:
        """The tensor of one checkpoint.

        Args:
            checkpoint: its label or its step.

        Raises:
            UnknownTensorError: there is none of that label or step.
        """
        return self.each[place_of(checkpoint, self.checkpoints, repr(self.key))]

    @property
    def dims(self) -> tuple[str | None, ...]:
        """The name of each axis, None where it has none; the first is "checkpoint"."""
        return (AXIS, *self._stored.dims)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Size of each axis, of varying ones the longest."""
        inner = [view.shape for view in self.each]
        return (len(inner), *(max(sizes) for sizes in zip(*inner, strict=True)))

    @cached_property
    def lengths(self) -> Positions:
        """Along the varying axes: int64 (checkpoints, samples, varying axes)."""
        return np.stack([view.lengths for view in self.each])

    def by_shard(self) -> NoReturn:
        """There is none: shards are those of one checkpoint.

        Raises:
            TypeError: always.
        """
        raise TypeError(f"{self.key!r} has checkpoints: use view.at(checkpoint).by_shard()")

    def sample(self, index: int) -> Array:
        """One sample at all checkpoints, (checkpoints, *shape), padded where lengths differ.

        Raises:
            IndexError: there is no such sample, or the tensor is constant.
        """
        values = [view.sample(index) for view in self.each]
        return _stacked(values, self.dtype, self.blank)

    def padded(self, fill: object = None) -> Array:
        """All of it as one array, what is beyond a sample's end being `fill`."""
        return self._of(range(len(self.each)), None, fill)

    def __len__(self) -> int:
        return len(self.each)

    def __iter__(self) -> Iterator[Array]:
        """Every checkpoint in turn, padded as the whole is; one is in memory at a time."""
        for place in range(len(self.each)):
            yield np.asarray(self._of([place], None)[0], self.dtype)

    def __getitem__(self, index: Any) -> Array:
        first, *rest = index if isinstance(index, tuple) and index else (index,)
        chosen = self._wanted(first)
        if chosen is None:
            return np.asarray(self.padded()[index], self.dtype)
        places, own = within(first, chosen)
        if any(_is_array(one) for one in rest):
            # Where the axes of arrays end up in the result, NumPy tells by all indices together.
            return np.asarray(self._of(places, None)[(own, *rest)], self.dtype)
        return np.asarray(self._of(places, rest)[own], self.dtype)

    def _of(self, places: Iterable[int], rest: Sequence[Any] | None, fill: object = None) -> Array:
        """Some checkpoints, or what `rest` indexes of each of them."""
        wide = self.shape[1:]
        blank = self.blank if fill is None else fill
        result = []
        for place in places:
            view = self.each[place]
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


def trajectories(manifest: Manifest, committed: Committed) -> dict[str, TrajectoryView]:
    """The tensors of a run with checkpoints, by key."""
    each = [committed.at(place) for place in range(len(manifest.checkpoints))]
    return {t.key: TrajectoryView(t, each, manifest.checkpoints) for t in manifest.tensors}


def place_of(checkpoint: str | int, checkpoints: Sequence[Checkpoint], of: str) -> int:
    """Where a checkpoint stands on the axis.

    Args:
        checkpoint: its label or its step.
        of: what has the axis, for the message.

    Raises:
        UnknownTensorError: there is none of that label or step.
    """
    for place, one in enumerate(checkpoints):
        if checkpoint == one.label or (one.step is not None and checkpoint == one.step):
            return place
    if isinstance(checkpoint, int) and (steps := _steps(checkpoints)):
        raise UnknownTensorError(
            f"{checkpoint!r} is no step of a checkpoint of {of}. Steps: {steps}"
        )
    labels = [one.label for one in checkpoints]
    raise UnknownTensorError(
        f"{checkpoint!r} is no checkpoint of {of}. {choices(str(checkpoint), labels)}"
    )


def _steps(checkpoints: Sequence[Checkpoint]) -> str:
    """The steps that there are, the first ones and the last where they are many."""
    steps = [str(one.step) for one in checkpoints if one.step is not None]
    return ", ".join(steps if len(steps) <= 6 else [*steps[:4], "…", steps[-1]])


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
