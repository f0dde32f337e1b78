"""Lazy views of tensors over checkpoints, with the checkpoint axis in front of all others."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from types import EllipsisType
from typing import Any, NoReturn

import numpy as np

from extractkit.core.checkpoints import AXIS, Checkpoint
from extractkit.core.values import Array
from extractkit.errors import UnknownTensorError, choices
from extractkit.runs.manifest import Manifest, RunTensor
from extractkit.runs.views import Committed, Positions, TensorView, rows_to_read


class TrajectoryView(TensorView):
    """One tensor over all checkpoints: (checkpoints, samples, *shape), or (checkpoints, *shape).

    Axes whose length differs from sample to sample, or between checkpoints, are padded to the
    longest of all, as in a `TensorView`. `at(label)` is the tensor of one checkpoint, without the
    checkpoint axis. `each` holds these tensors in order.

    Indexing follows NumPy. The index on the first axis decides which checkpoints are read. Unless
    an axis is indexed by an array, the next index decides which of their samples are read.
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
        """Return the tensor of one checkpoint.

        Args:
            checkpoint: its label or its step.

        Raises:
            UnknownTensorError: no checkpoint has that label or step.
        """
        return self.each[position_of(checkpoint, self.checkpoints, repr(self.key))]

    @property
    def dims(self) -> tuple[str | None, ...]:
        """The name of each axis; None for an axis without a name. The first is "checkpoint"."""
        return (AXIS, *self._stored.spec.titles)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The size of each axis, the longest for varying axes."""
        inner = [view.shape for view in self.each]
        return (len(inner), *(max(sizes) for sizes in zip(*inner, strict=True)))

    @cached_property
    def lengths(self) -> Positions:
        """The lengths along the varying axes: int64 (checkpoints, samples, varying axes)."""
        return np.stack([view.lengths for view in self.each])

    def by_shard(self) -> NoReturn:
        """Raise an error, because each shard belongs to one checkpoint.

        Raises:
            TypeError: always.
        """
        raise TypeError(f"{self.key!r} has checkpoints: use view.at(checkpoint).by_shard()")

    def sample(self, index: int) -> Array:
        """Return one sample at all checkpoints, (checkpoints, *shape), padded if lengths differ.

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
        """Yield every checkpoint in turn, padded like the whole, with one in memory at a time."""
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
        """Return some checkpoints, or what `rest` indexes in each of them."""
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


def trajectories(manifest: Manifest, committed: Committed) -> dict[str, TrajectoryView]:
    """Return the tensors of a run with checkpoints, by key."""
    each = [committed.at(position) for position in range(len(manifest.checkpoints))]
    return {t.key: TrajectoryView(t, each, manifest.checkpoints) for t in manifest.tensors}


def position_of(checkpoint: str | int, checkpoints: Sequence[Checkpoint], of: str) -> int:
    """Return the position of a checkpoint on the checkpoint axis.

    Args:
        checkpoint: its label or its step.
        of: the name of what has the axis, for the message.

    Raises:
        UnknownTensorError: no checkpoint has that label or step.
    """
    for position, one in enumerate(checkpoints):
        if checkpoint == one.label or (one.step is not None and checkpoint == one.step):
            return position
    if isinstance(checkpoint, int) and (steps := _steps(checkpoints)):
        raise UnknownTensorError(
            f"{checkpoint!r} is not the step of a checkpoint of {of}. Steps: {steps}"
        )
    labels = [one.label for one in checkpoints]
    raise UnknownTensorError(
        f"{checkpoint!r} is not a checkpoint of {of}. {choices(str(checkpoint), labels)}"
    )


def _steps(checkpoints: Sequence[Checkpoint]) -> str:
    """List the steps; if there are many, the first ones and the last."""
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
