"""Trial calls of a model on the first samples, at several sizes. Their shapes show the axes.

A tensor in a loop or branch has no shape in a call in which it is not computed. If nothing else is
unknown about it, its other axes complete the shape. Otherwise later samples are tried.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from math import prod

import numpy as np

from extractkit.core.plan import PlannedTensor
from extractkit.core.requests import Request
from extractkit.core.spec import SAMPLE, STEP, TAKEN, TEXT, Dim
from extractkit.engine.batches import Batch, elements, encode
from extractkit.engine.failing_samples import first_explained
from extractkit.engine.sizes import SizeFaults, needed_addresses, repeated
from extractkit.errors import JobError, SampleError
from extractkit.inputs import Source
from extractkit.models import Compilation, Encoded, Fetch, Model, OtherShapeError, Program
from extractkit.models.axes import Sizes

LOOKED_AT = 64
"""Number of samples to read."""

UNSEEN = (
    "not computed for any of the first samples: its branch was not taken, or its loop ran no step"
)
"""Why a tensor has no shape."""

_SAMPLES, _MORE_SAMPLES = 3, 5
_STEPS = (1, 2, 4, 5, 6, 7, 8, 9, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128)
_TOGETHER = 6

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Trials:
    """Shapes of a program's values in several calls.

    Attributes:
        sizes: The sizes of `together`.
        together: Shapes of the first sample, repeated, at these sizes, for each tensor.
        alone: Shapes of the first sample, and of others brought to its sizes, each in its own call.
        sizes_alone, alone_at: The same as the first two for the first sample in its own call.
    """

    sizes: Sizes
    together: "list[_Shapes]"
    alone: "list[_Shapes]"
    sizes_alone: Sizes
    alone_at: "list[_Shapes]"

    def of(self, tensor: PlannedTensor) -> tuple[list[Shape], list[Shape], list[Shape]]:
        """Return `together`, `alone` and `alone_at` of one tensor."""
        together, alone, alone_at = (
            [shapes[tensor.request] for shapes in every]
            for every in (self.together, self.alone, self.alone_at)
        )
        return together, [one for one in alone if not _unknown(one, tensor)] or alone, alone_at

    def show(self, tensor: PlannedTensor) -> bool:
        """Return whether they show the axes of a tensor: whether it was computed."""
        if tensor.request not in self.alone[0]:
            return False
        together, alone, alone_at = self.of(tensor)
        missing = any(_unknown(one, tensor) for one in (*together, *alone_at))
        return not missing and any(not _empty(one, tensor) for one in alone)


_Shapes = Mapping[Request, Shape]


def front_of(tensor: PlannedTensor) -> int | None:
    """Return the position of the axis of steps, or of what a branch made; None without one."""
    dims = tensor.record.spec.dims or ()
    return next((at for at, dim in enumerate(dims) if dim.name in (STEP, TAKEN)), None)


def _empty(shape: Shape, tensor: PlannedTensor) -> bool:
    """Return whether a shape is that of a value that was not computed."""
    front = front_of(tensor)
    if tensor.record.spec.dims is None:
        return shape in ((0,), (1, 0))
    return front is not None and front < len(shape) and shape[front] == 0


def _unknown(shape: Shape, tensor: PlannedTensor) -> bool:
    """Return whether the rest of such a shape is not known."""
    dims = tensor.record.spec.dims
    return _empty(shape, tensor) and (dims is None or len(dims) != len(shape))


def _completed(shape: Shape, tensor: PlannedTensor, sizes: Mapping[str, int]) -> Shape:
    """Return the shape of a value that was not computed with its other axes, if they are known."""
    dims = tensor.record.spec.dims
    if dims is None or not _unknown(shape, tensor):
        return shape
    others = [_length(dim, sizes) for dim in dims[len(shape) :]]
    return (*shape, *(one for one in others if one is not None)) if None not in others else shape


def _length(dim: Dim, sizes: Mapping[str, int]) -> int | None:
    if dim.factors:
        lengths = [_length(factor, sizes) for factor in dim.factors]
        return None if None in lengths else prod(one for one in lengths if one is not None)
    return sizes.get(dim.follows) if dim.follows is not None else dim.size


class _UnequalStepsError(Exception):
    """A program cannot return a tensor, whose shape differs from step to step.

    Attributes:
        batch: A batch that shows it.
    """

    def __init__(self, batch: Batch) -> None:
        super().__init__()
        self.batch = batch


def tried(
    model: Model,
    source: Source,
    tensors: Sequence[PlannedTensor],
    compilation: Compilation,
    reasons: dict[Request, str],
) -> Iterator[Trials]:
    """Yield trials of the first sample, then of others for which further tensors are computed.

    Args:
        reasons: Reasons are added for tensors that cannot be returned.

    Raises:
        SampleError: The model fails on the first sample.
    """
    others, computed = _Others(model, source), list(tensors)
    (first,) = encode(model, source.read(0, 1))
    program = _program(model, computed, compilation)
    candidates = chain([first], others.later)
    left = computed
    sample: Encoded | None = next(candidates)
    while left and sample is not None:
        try:
            if sample is first or _computes_any(model, computed, left, program, sample):
                trials = _tried(model, others, computed, program, sample)
                yield trials
                left = [one for one in left if not trials.show(one)]
        except _UnequalStepsError as error:
            computed = _returnable(model, computed, compilation, error.batch, reasons)
            program = _program(model, computed, compilation)
            left = [one for one in left if one.request not in reasons]
            continue
        except JobError:
            if sample is first:
                raise
            # That of another sample is reported when its turn comes.
        sample = next(candidates, None)


def _computes_any(
    model: Model,
    tensors: Sequence[PlannedTensor],
    left: Sequence[PlannedTensor],
    program: Program,
    sample: Encoded,
) -> bool:
    """Return whether a program of some tensors computes any of those left for a sample alone."""
    batch = repeated(model.signature, sample.features, sample.sizes)
    values = program(batch.features, batch.lengths)
    wanted = {one.request for one in left}
    computed = zip(values, tensors, strict=True)
    return any(
        one.request in wanted and not _empty(np.shape(value), one) for value, one in computed
    )


def _program(model: Model, tensors: Sequence[PlannedTensor], compilation: Compilation) -> Program:
    return model.program([Fetch(tensor.request) for tensor in tensors], compilation)


def _returnable(
    model: Model,
    tensors: Sequence[PlannedTensor],
    compilation: Compilation,
    batch: Batch,
    reasons: dict[Request, str],
) -> list[PlannedTensor]:
    """Return the tensors whose steps have one shape in a batch, by halving."""
    if not tensors:
        return []
    try:
        _program(model, tensors, compilation)(batch.features, batch.lengths)
    except OtherShapeError as error:
        if len(tensors) == 1:
            reasons[tensors[0].request] = error.reason
            return []
        half = len(tensors) // 2
        parts = (tensors[:half], tensors[half:])
        return [
            one for part in parts for one in _returnable(model, part, compilation, batch, reasons)
        ]
    except JobError:
        pass  # the trials report it
    return list(tensors)


def _tried(
    model: Model,
    others: "_Others",
    tensors: Sequence[PlannedTensor],
    program: Program,
    first: Encoded,
) -> Trials:
    """Find sizes that the model accepts by trying, and return the shapes of the values there.

    The sample alone, at its own sizes, comes first, so that a failure is its own. Then each free
    axis is changed to the first other size that works. If none works, all samples have one size
    along the axis, nothing can follow it, and it is ignored.

    Raises:
        SampleError: The model fails on the sample.
    """
    signature = model.signature

    def shapes(sample: Encoded, at: Mapping[str, int], samples: int = 1) -> _Shapes:
        batch = repeated(signature, sample.features, at, samples)
        try:
            values = program(batch.features, batch.lengths)
        except OtherShapeError as error:
            raise _UnequalStepsError(batch) from error
        return {
            tensor.request: _completed(np.shape(value), tensor, {**at, SAMPLE: samples})
            for tensor, value in zip(tensors, values, strict=True)
        }

    # An empty sample would hide the axes that follow it.
    own = {axis: max(1, size) for axis, size in first.sizes.items()}
    try:
        alone = [shapes(first, own)]
    except SampleError as error:
        faults = SizeFaults(model, needed_addresses(tensors), program)
        fault = faults.of(repeated(signature, first.features, own))
        raise SampleError(first_explained(str(error), fault)) from error
    moved: dict[str, Mapping[str, int]] = {}
    alone_at = list(alone)
    for axis, size in own.items():
        limit = (signature.longest or {}).get(axis)
        for other in _outwards(axis, size, others, limit):
            try:
                alone_at.append(shapes(first, {**own, axis: other}))
            except JobError:
                continue  # an artificial size: no sample is to blame
            moved[axis] = {**own, axis: other}
            break
    left = {axis: size for axis, size in own.items() if axis not in moved}
    base, enlarged = dict(own), {axis: at[axis] for axis, at in moved.items()}
    for sizes in _jointly(left, others) if len(left) > 1 else ():
        try:
            alone_at.append(shapes(first, {**own, **sizes}))
        except JobError:
            continue
        # These lengths cannot be distinguished, so an axis that changes follows all of them.
        joint = ",".join(left)
        base[joint], enlarged[joint], moved[joint] = 0, 1, {**own, **sizes}
        break
    sizes_alone = Sizes({axis: base[axis] for axis in enlarged}, enlarged)
    for one in others.few:
        try:
            alone.append(shapes(one, own))
        except JobError:
            continue  # reported when the sample's turn comes
    if signature.batch == 1:
        return Trials(sizes_alone, alone_at, alone, sizes_alone, alone_at)
    counts = Sizes(
        {SAMPLE: _SAMPLES, **sizes_alone.base}, {SAMPLE: _MORE_SAMPLES, **sizes_alone.enlarged}
    )
    try:
        together = [shapes(first, own, _SAMPLES), shapes(first, own, _MORE_SAMPLES)]
        together += [shapes(first, at, _SAMPLES) for at in moved.values()]
    except JobError:
        # The model takes one sample per call, so its results for several are not per sample.
        together = [{one.request: () for one in tensors} for _ in counts.trials]
    return Trials(counts, together, alone, sizes_alone, alone_at)


@dataclass(frozen=True, eq=False)
class _Others:
    """Sizes of the first samples, which are read on first access."""

    model: Model
    source: Source

    @cached_property
    def encoded(self) -> Sequence[Encoded]:
        return encode(self.model, self.source.read(0, min(LOOKED_AT, len(self.source))))

    @property
    def few(self) -> Sequence[Encoded]:
        """The samples after the first. The smallest and the largest of those read come first."""
        count = min(_TOGETHER, len(self.source))
        if all(spec.dtype != TEXT for spec in self.model.signature.specs):
            return encode(self.model, self.source.read(1, count)) if count > 1 else ()
        by_size = sorted(self.encoded[1:], key=elements)
        return [*by_size[:1], *by_size[-1:], *self.encoded[1:count]]

    @property
    def later(self) -> Iterator[Encoded]:
        """The samples after the first, read when the first of them is asked for."""
        yield from self.encoded[1:]

    @property
    def sizes(self) -> list[Mapping[str, int]]:
        return [{axis: max(1, size) for axis, size in one.sizes.items()} for one in self.encoded]


def _outwards(axis: str, size: int, others: _Others, longest: int | None) -> Iterator[int]:
    """Yield other sizes to try for an axis: nearby, then those in the data, then farther away."""
    # An axis of one element is broadcast to any other, and would seem to follow nothing.
    least = 1 if longest is not None and longest <= 2 else 2
    tried = {size}

    def steps() -> Iterator[int]:
        yield from (3, -3)
        yield from (one[axis] - size for one in others.sizes)
        yield from (signed for step in _STEPS for signed in (step, -step))

    for other in (size + step for step in steps()):
        if other >= least and (longest is None or other <= longest) and other not in tried:
            tried.add(other)
            yield other


def _jointly(own: Mapping[str, int], others: _Others) -> Iterator[Mapping[str, int]]:
    """Yield sizes to try for axes that do not change alone: those of samples, then larger ones."""
    for sizes in others.sizes:
        if any(sizes[axis] != size for axis, size in own.items()):
            yield {axis: sizes[axis] for axis in own}
    for step in (3, *_STEPS):
        yield {axis: size + step for axis, size in own.items()}
