"""Sizes along free axes that a model does not accept: found by trying, described in messages."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from operator import itemgetter

import numpy as np

from extractkit.core.picks import LABEL_FEATURE
from extractkit.core.plan import PlannedTensor, SampleLengths
from extractkit.core.values import Array
from extractkit.engine.batches import Batch, collate
from extractkit.errors import JobError, SampleError
from extractkit.inputs import InputSpec, Signature
from extractkit.models import ChecksSizes, Encoded, Model, Program

Sizes = Mapping[str, int]

_STATIC_REACH, _RUN_REACH = 64, 16
"""How far from a sample's size to search: with static shapes, and by running the model."""

_STEPS = (2, 4, 8, 16, 32, 64, 3, 5, 6, 7, 9, 10, 12, 128)

_LARGER = (0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 32)
"""Steps above a job's smallest size.

They reach every remainder of a division by a number up to 8, and change each binary digit.
"""

_ADJACENT = 2
"""How many of them are tried if only a limit can be between them: 1 may be a size of its own."""

_FEW_SIZES = 12
"""Up to this many sizes, each one is tried, which costs no more than a selection."""


def resized(spec: InputSpec, array: Array, at: Sizes) -> Array:
    """Return a sample's input at other sizes of its free axes.

    Its own elements are repeated, so they still meet the model's checks, such as the range of a
    vocabulary.
    """
    shape = tuple(
        size if dim is None else at[dim] for dim, size in zip(spec.dims, array.shape, strict=True)
    )
    if shape == array.shape:
        return array
    if array.size == 0 and array.dtype.hasobject:
        return np.full(shape, b"", object)  # NumPy resizes an empty array to zeros
    return np.resize(array, shape)


def at_sizes(signature: Signature, features: Mapping[str, Array], at: Sizes) -> dict[str, Array]:
    """Return a sample at other sizes of its free axes.

    A whole number as label becomes 0, because it may be a position beyond the new end.
    """
    inputs = {spec.name: resized(spec, features[spec.name], at) for spec in signature.specs}
    same = all(inputs[name].shape == features[name].shape for name in inputs)
    return {**features, **inputs} if same else {**with_label_0(features), **inputs}


def resized_sample(signature: Signature, encoded: Encoded, sizes: Sizes) -> Encoded:
    """Return a sample at other sizes of its free axes; see `at_sizes`."""
    return Encoded(at_sizes(signature, encoded.features, sizes), dict(sizes))


def not_empty(signature: Signature, encoded: Encoded) -> Encoded:
    """Return a sample with at least one element along each free axis."""
    sizes = {axis: max(1, size) for axis, size in encoded.sizes.items()}
    return resized_sample(signature, encoded, sizes)


def with_label_0(features: Mapping[str, Array]) -> dict[str, Array]:
    """Return a sample with the label 0 if its label is a whole number."""
    label = features.get(LABEL_FEATURE)
    if label is None or label.dtype.kind not in "iu":
        return dict(features)
    return {**features, LABEL_FEATURE: np.zeros_like(label)}


def repeated(
    signature: Signature, features: Mapping[str, Array], at: Sizes, samples: int = 1
) -> Batch:
    """Return a batch of one sample, several times, at these sizes of its free axes."""
    inputs = at_sizes(signature, features, at)
    sizes = {axis: at[axis] for axis in signature.free_axes}
    return collate(signature, [Encoded(inputs, sizes)] * samples)


@dataclass(eq=False)
class OwnSizes:
    """Finds padded samples that a program does not accept alone, at their own sizes.

    Padding may hide such sizes: a network that pools, upsamples and adds accepts even lengths only,
    but a sample of 9 passes when it is padded to 12. A sample has a value only if the program
    accepts it alone, in any batch.

    So one padded sample of each size is run alone before its batch, unless the program accepts a
    selection of the job's sizes. That selection follows from the lengths of all samples, so every
    process of a job, and every resume, comes to the same decision.

    Attributes:
        program: returns the program, in a form that does not compile for each size, since it is run
            at many sizes. It raises `JobError` if values do not have the planned shapes.
        lengths: the lengths of all samples.
        takes_between: returns whether the program is known to accept all sizes between two that it
            accepts. If so, the selection is the smallest sizes and the largest.
    """

    signature: Signature
    program: Callable[[], Program]
    lengths: SampleLengths
    takes_between: Callable[[], bool] = lambda: False
    _taken: set[tuple[int, ...]] = field(default_factory=set, init=False)
    _takes_all: bool | None = field(default=None, init=False)

    def refused(self, batch: Batch) -> dict[int, str]:
        """Return the padded rows that the program does not accept alone, each with its error.

        Raises:
            JobError: it fails in a way that values and sizes cannot cause.
        """
        if self._takes_all:
            return {}
        found = {}
        for row in np.flatnonzero(batch.padded(self.signature)).tolist():
            size = tuple(int(own[row]) for own in batch.lengths.values())
            if size in self._taken:
                continue
            alone = batch.take([row]).trimmed(self.signature)
            if self._takes_all is None:
                self._takes_all = self._takes_selection(alone)
            if self._takes_all:
                break
            try:
                self._program(alone.features, alone.lengths)
            except SampleError as error:
                found[row] = str(error)
                continue
            self._taken.add(size)
        return found

    @cached_property
    def _program(self) -> Program:
        return self.program()

    def _takes_selection(self, alone: Batch) -> bool:
        """Return whether the program accepts a sample at a selection of the job's sizes."""
        axes = tuple(self.lengths.axes)
        sizes = sorted(set(zip(*(self.lengths.axes[axis].tolist() for axis in axes), strict=True)))
        if len(sizes) <= _FEW_SIZES:
            return False  # each is run
        features = {name: array[0, ...] for name, array in alone.features.items()}
        selected = {tuple(at.values()): at for at in self._selection(axes, sizes)}
        # No sample is padded beyond the model's limit, or else the longest sample.
        longest = self.signature.longest or {}
        limits = (longest.get(axis, int(self.lengths.axes[axis].max())) for axis in axes)
        selected.pop(tuple(limits), None)
        for at in selected.values():
            batch = repeated(self.signature, features, at)
            try:
                self._program(batch.features, batch.lengths)
            except JobError:  # memory, too, may run out at a size that we chose
                return False
        return True

    def _selection(self, axes: Sequence[str], sizes: Sequence[tuple[int, ...]]) -> Iterator[Sizes]:
        """Return sizes of the job from its smallest to its largest, and some above the smallest."""
        longest = self.signature.longest or {}
        smallest = dict(zip(axes, map(min, zip(*sizes, strict=True)), strict=True))
        moved = [tuple(axes), *((axis,) for axis in axes if len(axes) > 1)]
        between = self.takes_between()
        for together in moved:
            for step in _LARGER[:_ADJACENT] if between else _LARGER:
                at = {axis: size + step * (axis in together) for axis, size in smallest.items()}
                if all(size <= longest.get(axis, size) for axis, size in at.items()):
                    yield at
        if between:
            several = (max(sizes, key=itemgetter(at)) for at in range(len(axes)))
        else:
            positions = np.linspace(0, len(sizes) - 1, _FEW_SIZES).astype(int).tolist()
            several = (sizes[position] for position in positions)
        for one in several:
            yield dict(zip(axes, one, strict=True))


def needed_addresses(tensors: Iterable[PlannedTensor]) -> list[str]:
    """Return the addresses of tensors, and of the targets of gradients among them."""
    found: dict[str, None] = {}
    for one in tensors:
        found[one.address] = None
        if one.target is not None:
            found[one.target.tensor] = None
    return list(found)


@dataclass(eq=False)
class SizeFaults:
    """Explains the sizes of samples on which a model fails.

    Each size is tried once, for any number of samples. After a search that finds no working size
    near a sample's own, the model is not run to search for other samples.

    Attributes:
        addresses: addresses of the tensors that the program computes.
    """

    model: Model
    addresses: Sequence[str]
    program: Program
    _by_graph: dict[tuple[int, ...], bool] = field(default_factory=dict, init=False)
    _by_run: dict[tuple[int, ...], bool] = field(default_factory=dict, init=False)
    _fruitless: bool = field(default=False, init=False)

    def of(self, batch: Batch) -> str | None:
        """Return the fault of a sample's sizes, or None if they are accepted.

        Args:
            batch: holds the sample alone.
        """
        own = {axis: int(sizes[0]) for axis, sizes in batch.lengths.items()}
        if not own:
            return None
        if isinstance(self.model, ChecksSizes):
            accepts = partial(self.model.accepts_sizes, self.addresses)
            by_graph = _Search(accepts, own, _STATIC_REACH, self._by_graph)
            if not by_graph.good(own):
                return self._message(by_graph.faults())
        by_run = _Search(partial(self._runs, batch), own, _RUN_REACH, self._by_run)
        if self._fruitless or by_run.good(own):
            return None
        found = by_run.faults()
        self._fruitless = not found
        return self._message(found)

    def _runs(self, batch: Batch, at: Sizes) -> bool:
        longest = self.model.signature.longest or {}
        if any(size > longest.get(axis, size) for axis, size in at.items()):
            return False
        # Without the sample's own values, which may be the cause of the failure.
        blank = {
            name: np.full(array.shape[1:], "" if array.dtype.hasobject else 0, array.dtype)
            for name, array in batch.features.items()
        }
        other = repeated(self.model.signature, blank, at)
        try:
            self.program(other.features, other.lengths)
        except JobError:  # memory, too, may run out at a size that we chose
            return False
        return True

    def _message(self, found: Sequence[str]) -> str | None:
        return f"{'; '.join(found)} (model {self.model.name!r})" if found else None


class _Search:
    """A search for sizes that a model accepts, outwards from a sample's own.

    Args:
        takes: whether the model accepts a size of each free axis.
        own: the sizes of the sample, which it does not accept.
        reach: how far to search.
        known: results of all sizes tried so far, updated by the search.
    """

    def __init__(
        self,
        takes: Callable[[Sizes], bool],
        own: Sizes,
        reach: int,
        known: dict[tuple[int, ...], bool],
    ) -> None:
        self._takes = takes
        self._own = own
        self._reach = reach
        self._known = known

    def faults(self) -> list[str]:
        """Return the fault along each axis; empty if no size nearby works."""
        near = next(filter(self.good, self._joint()), None)
        if near is None:
            return []
        found = []
        for axis, size in self._own.items():
            along = self._along(axis, size, near)
            if along is not None:
                found.append(f"it has {size} along {axis!r}, where {along} would do")
        return found

    def good(self, at: Sizes) -> bool:
        """Return whether the model accepts these sizes."""
        key = tuple(at.values())
        if key not in self._known:
            self._known[key] = min(key) >= 1 and self._takes(at)
        return self._known[key]

    def _joint(self) -> Iterable[Sizes]:
        """Yield sizes of all axes at once: up and down to multiples, then one by one."""
        for step in _STEPS:
            yield {axis: -(-size // step) * step for axis, size in self._own.items()}
            yield {axis: size // step * step for axis, size in self._own.items()}
        for step in range(1, self._reach + 1):
            yield {axis: size + step for axis, size in self._own.items()}
            yield {axis: max(1, size - step) for axis, size in self._own.items()}

    def _along(self, axis: str, size: int, near: Sizes) -> str | None:
        """Return the sizes that work for an axis with the others fixed; None if its own works."""

        def good(one: int) -> bool:
            return self.good({**near, axis: one})

        if good(size):
            return None
        below = next(filter(good, range(size - 1, max(0, size - 1 - self._reach), -1)), None)
        above = next(filter(good, range(size + 1, size + 1 + self._reach)), None)
        if below is None and above is None:
            return f"{near[axis]}"
        if above is None:
            return f"at most {below}" if good((below or 1) - 1) else f"{below}"
        further = next(filter(good, range(above + 1, above + 1 + self._reach)), above)
        step = further - above
        if below is None:
            if step == 1:
                return f"{above} or more"
            return f"{above}, {further}, …" if step else f"{above}"
        if step > 1 and above - below == step and above % step == 0:
            return f"{below}, {above} or another multiple of {step}"
        return f"{below} or {above}" + (f" (steps of {step})" if step > 1 else "")
