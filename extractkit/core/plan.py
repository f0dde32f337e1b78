"""The plan of a job, known before the model runs on data. Pure Python (NumPy for lengths).

A `PlannedTensor` describes what is stored of one tensor. `plan_tensors` makes them from selectors,
and `plan_shards` divides the samples into shards.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
import numpy.typing as npt

from extractkit.core.catalog import Catalog, Layout, TensorRecord
from extractkit.core.requests import Bound, Gradient, Request, Value
from extractkit.core.selectors import Selector
from extractkit.core.spec import SAMPLES, TEXT, Dim, TensorSpec, file_dtype, storable
from extractkit.core.statistics.registry import Asked, Group, groups
from extractkit.core.statistics.totals import Totalling
from extractkit.core.targets import BoundTarget
from extractkit.core.transforms import Array, Operand
from extractkit.core.transforms.pipeline import BoundPipeline, Pipeline
from extractkit.core.values import Assembly, SingleValue
from extractkit.errors import SelectionError


@dataclass(frozen=True, eq=False)
class SampleLengths:
    """The length of every sample along each free axis: int64 (samples,) by the axis' name."""

    samples: int
    axes: Mapping[str, npt.NDArray[np.int64]]

    def part(self, start: int, stop: int) -> "SampleLengths":
        """Return the lengths of samples start … stop-1."""
        return SampleLengths(stop - start, {axis: n[start:stop] for axis, n in self.axes.items()})

    def take(self, positions: Sequence[int]) -> "SampleLengths":
        """Return the lengths of the samples at these positions, in this order."""
        chosen = list(positions)
        return SampleLengths(len(chosen), {axis: n[chosen] for axis, n in self.axes.items()})


@dataclass(frozen=True)
class PerSample:
    """A value for each sample, in the shards of samples."""


@dataclass(frozen=True)
class Constant:
    """One value that does not depend on the inputs, in the shard of the constants."""


@dataclass(frozen=True)
class OverSamples:
    """Statistics over all samples: a partial result for each shard, and no value of a sample."""

    statistics: Asked


Room = Assembly | SingleValue | Totalling
"""Memory for the values of a tensor in a shard."""

Stored = PerSample | Constant | OverSamples
"""What is stored of a tensor."""


@dataclass(frozen=True)
class PlannedTensor:
    """What a run stores of one tensor.

    Attributes:
        key: its name in the run: the address, followed by `@grad` for a gradient, by `@selector`
            if several selectors store the same with different transforms or targets, and by
            `@result` for a further result of a transform or of the request.
        request: what is asked of the model.
        record: the catalog record, with its axes as measured.
        selectors: names of the selectors that match it.
        pipeline: the transforms that these selectors ask for, as written.
        asked: the statistics that these selectors ask for. If there are any, they are stored in
            place of a value per sample.
        layout: how it is brought into stored order; None until its axes have been measured.
        bound: the transforms that lead to what is stored; None until its axes have been measured.
        spec: as stored, after the transforms; without dims until its axes have been measured.
    """

    key: str
    request: Request
    record: TensorRecord
    selectors: tuple[str, ...]
    pipeline: Pipeline
    layout: Layout | None
    bound: BoundPipeline | None
    spec: TensorSpec
    asked: Asked = field(default_factory=Asked)

    @property
    def address(self) -> str:
        """The address of the tensor that it is stored of."""
        return self.request.address

    @property
    def result(self) -> str:
        """The name of a further result, of its transforms or request; empty for the main one."""
        return "" if self.bound is None else self.bound.name

    @property
    def stored(self) -> Stored:
        """The kind of result stored. A tensor whose axes have not been measured has samples."""
        if self.layout is not None and self.layout.axis is None:
            return Constant()
        return OverSamples(self.asked) if self.asked else PerSample()

    @property
    def statistics(self) -> Asked:
        """The statistics stored in place of its values; empty if its values are stored."""
        stored = self.stored
        return stored.statistics if isinstance(stored, OverSamples) else Asked()

    def assembly(self, lengths: SampleLengths) -> Room:
        """Allocate memory for its values of the samples with these lengths."""
        if isinstance(self.stored, Constant):
            return SingleValue()
        if self.per_call:
            return Totalling([size or 0 for size in self.spec.sample_shape])
        shapes = self.sample_shapes(lengths)
        return Assembly(self.spec.sample_shape, self.spec.dtype, shapes, lengths.samples)

    def stored_bytes(self, lengths: SampleLengths, shards: int) -> int | None:
        """Return the bytes that one sink stores of it; None if only the model can compute them.

        Args:
            shards: number of shards of samples.
        """
        match self.stored:
            case Constant():
                return self._constant_bytes
            case OverSamples(asked):
                result = None if self.bound is None else self.bound.result
                each = 0 if result is None else sum(s.partial_bytes(result) for s in asked.single)
                return each * shards
            case PerSample():
                sizes = self.bytes_per_sample(lengths)
                return None if sizes is None else int(sizes.sum())

    @property
    def computed_lengths(self) -> bool:
        """Whether the model computes a stored length from a free axis ("f(token)")."""
        return _any_computed(self.spec.dims)

    @property
    def bears_padding(self) -> bool:
        """Whether samples of different lengths may share a batch.

        They may not if the model computes a length: padding could not be distinguished then, even
        if that axis is reduced and never stored.
        """
        return self.layout is not None and not _any_computed(self.layout.dims)

    @property
    def per_call(self) -> bool:
        """Whether a call of the model gives one value for all of its samples."""
        return isinstance(self.request, Gradient) and self.request.summed

    @property
    def target(self) -> BoundTarget | None:
        """The target of a gradient; None if something else is stored."""
        return self.request.of if isinstance(self.request, Gradient) else None

    def check_lengths(self, lengths: SampleLengths) -> None:
        """Check that every sample has the single elements that a slice or a target takes.

        Raises:
            SelectionError: a sample is too short.
        """
        for at, source, dim, index, own, short in self._short(lengths):
            after = _after(own, lengths.axes[str(dim.free)])
            range_ = "" if source != self.address else ". Take a range, as in '0:4'"
            raise SelectionError(
                f"{at} takes element {index} of {dim.title!r} in "
                f"{source!r}, but {len(short)} of {lengths.samples} samples are shorter"
                f"{after}, first sample {short[0]} with {own[short[0]]}{range_}"
            )

    def check_ranges(self, lengths: SampleLengths) -> None:
        """Check that some sample has elements in the ranges that slices take.

        Args:
            lengths: those of all samples.

        Raises:
            SelectionError: no sample has any.
        """
        if self.bound is None:
            return
        for at, axis, taken, own in self.bound.ranges(self._free_lengths(lengths)):
            sizes = np.unique(own)
            if sizes.any() and not any(range(*taken.indices(int(size))) for size in sizes):
                raise SelectionError(
                    f"{at} takes nothing of {axis!r} in {self.address!r}: the longest of "
                    f"{lengths.samples} samples has {sizes[-1]}"
                    f"{_after(own, lengths.axes[axis]) if axis in lengths.axes else ''}"
                )

    def too_short(self, lengths: SampleLengths) -> dict[int, str]:
        """Return, by position, the samples that lack an element that is taken, with a reason."""
        return {
            int(position): f"it has {own[position]} along {dim.title!r}"
            f"{_after(own, lengths.axes[str(dim.free)])}, and "
            f"{at} takes element {index} along it in {source!r}"
            for at, source, dim, index, own, short in self._short(lengths)
            for position in short
        }

    def _short(
        self, lengths: SampleLengths
    ) -> Iterator[tuple[str, str, Dim, int, Array, npt.NDArray[np.intp]]]:
        """Yield elements that are taken beyond the end of a free axis in some samples.

        Each comes with its key, the address of the tensor that it is taken from, the axis, the
        element, the lengths along it, and the samples.
        """
        for at, source, dim, index, own in self._elements(lengths):
            short = np.flatnonzero(own < (index + 1 if index >= 0 else -index))
            if len(short):
                yield at, source, dim, index, own, short

    def _elements(self, lengths: SampleLengths) -> Iterator[tuple[str, str, Dim, int, Array]]:
        """Yield the single elements that transforms, and the target of a gradient, take."""
        if self.bound is not None:
            for at, dim, index, own in self.bound.elements(self._free_lengths(lengths)):
                yield at, self.address, dim, index, own
        if (target := self.target) is not None:
            for at, dim, index, own in target.elements(lengths.axes):
                yield at, target.tensor, dim, index, own

    def _free_lengths(self, lengths: SampleLengths) -> dict[int, Array]:
        """Return the lengths of the tensor's free axes by position, before any transform."""
        if self.layout is None:
            return {}
        return self.layout.of_free_axes(lengths.axes)

    def sample_shapes(self, lengths: SampleLengths) -> list[tuple[int, ...]] | None:
        """Return the stored shape of each sample; None if only the model can compute it."""
        columns = self._stored_lengths(lengths)
        if columns is None:
            return None
        if not columns:
            return [()] * lengths.samples
        return [tuple(map(int, row)) for row in np.stack(columns, axis=1)]

    @property
    def predictable(self) -> bool:
        """Whether its size follows from the samples' lengths, as it does except for texts."""
        return self.layout is not None and not self.computed_lengths and self.spec.dtype != TEXT

    def bytes_per_sample(self, lengths: SampleLengths) -> npt.NDArray[np.int64] | None:
        """Return the stored bytes of each sample, int64 (samples,); None if not predictable."""
        columns = self._stored_lengths(lengths) if self.predictable else None
        if columns is None:
            return None
        total = np.full(lengths.samples, file_dtype(self.spec.dtype).itemsize, np.int64)
        for column in columns:
            total *= column
        return total

    def _stored_lengths(self, lengths: SampleLengths) -> list[npt.NDArray[np.int64]] | None:
        """Return each stored axis' length in every sample, without the sample axis."""
        if self.layout is None or self.bound is None or self.computed_lengths:
            return None
        stored = self.bound.lengths(np, self._free_lengths(lengths))
        return [
            np.full(lengths.samples, size) if size is not None else stored[axis]
            for axis, size in enumerate(self.spec.shape)
            if axis > 0
        ]

    @property
    def _constant_bytes(self) -> int | None:
        if not self.predictable:
            return None
        itemsize = file_dtype(self.spec.dtype).itemsize
        return prod(size or 0 for size in self.spec.sample_shape) * itemsize


def _after(own: Array, whole: Array) -> str:
    """Describe lengths that differ from the tensor's own."""
    return "" if np.array_equal(own, whole) else " after the steps before it"


def _any_computed(dims: Iterable[Dim] | None) -> bool:
    return any(dim.computed for dim in dims or ())


@dataclass(frozen=True, eq=False)
class _Wanted:
    """What is to be stored of one tensor. All selectors of these names ask for the same."""

    request: Request
    record: TensorRecord
    selector: Selector
    names: list[str]

    def same_as(self, other: "_Wanted") -> bool:
        one, two = self.selector, other.selector
        return (
            self.request.written == other.request.written
            and one.pipeline.same_as(two.pipeline)
            and one.asked.same_as(two.asked)
        )

    def planned(self, key: str) -> "Iterator[PlannedTensor]":
        one = self.selector
        return _planned(key, self.request, self.record, one.pipeline, one.asked, tuple(self.names))


def check_keys(planned: Sequence[PlannedTensor]) -> None:
    """Check that every key is unique: a selector may be named like a mark or a result.

    Raises:
        SelectionError: two tensors have one key.
    """
    seen: dict[str, PlannedTensor] = {}
    for one in planned:
        if (other := seen.setdefault(one.key, one)) is not one:
            raise SelectionError(
                f"selectors.{other.selectors[0]} and selectors.{one.selectors[0]} would both store "
                f"{one.key!r}. Give one of these selectors another name"
            )


def plan_tensors(
    catalog: Catalog,
    selectors: Sequence[Selector],
    bound: Mapping[str, Bound] | None = None,
) -> tuple[PlannedTensor, ...]:
    """Return what the selectors ask to be stored, in the catalog's order.

    Args:
        bound: what the model computes in place of values, by the names of selectors.

    Raises:
        SelectionError: a selector matches nothing, or asks for axes that its tensors do not have.
    """
    wanted: dict[str, list[_Wanted]] = {}
    for selector in selectors:
        of = None if selector.of_values else (bound or {})[selector.name]
        for record in selector.select(catalog, of):
            own = catalog[record.address]
            request = Value(record.address) if of is None else of.request(own, record)
            asked = _Wanted(request, record, selector, [])
            known = wanted.setdefault(record.address, [])
            same = next((one for one in known if one.same_as(asked)), None)
            if same is None:
                known.append(same := asked)
            same.names.append(selector.name)
    planned: list[PlannedTensor] = []
    for record in catalog.records:
        known = wanted.get(record.address, [])
        for one in known:
            alone = sum(other.request.key == one.request.key for other in known) == 1
            planned.extend(one.planned(key_of(one.request, one.names, alone=alone)))
    check_keys(planned)
    for group in groups_of(planned):
        group.check()
    return tuple(planned)


def key_of(request: Request, selectors: Sequence[str], *, alone: bool) -> str:
    """Return the key of what selectors store of a tensor.

    Args:
        alone: whether no other selector stores it in another way.
    """
    return request.key if alone else f"{request.key}@{selectors[0]}"


@dataclass(frozen=True)
class PlannedGroup:
    """Tensors with a statistic of all of them together."""

    group: Group
    tensors: tuple[PlannedTensor, ...]

    @property
    def _operands(self) -> dict[str, Operand]:
        """The tensors whose axes are known, by key."""
        return {one.key: one.bound.result for one in self.tensors if one.bound is not None}

    def check(self) -> None:
        """Check that the statistic is defined for the tensors, if their axes are known.

        Raises:
            SelectionError: it is not.
        """
        if len(found := self._operands) == len(self.tensors):
            self.group.statistic.check(found)

    @property
    def partial_bytes(self) -> int:
        """Stored bytes of its partial result for each shard."""
        return self.group.statistic.partial_bytes(list(self._operands.values()))


def groups_of(tensors: Iterable[PlannedTensor]) -> tuple[PlannedGroup, ...]:
    """Return the groups of tensors that have a joint statistic."""
    by_key = {tensor.key: tensor for tensor in tensors}
    found = groups((one.key, one.selectors, one.statistics) for one in by_key.values())
    return tuple(PlannedGroup(one, tuple(by_key[key] for key in one.tensors)) for one in found)


def _planned(
    key: str,
    request: Request,
    record: TensorRecord,
    pipeline: Pipeline,
    asked: Asked,
    names: tuple[str, ...],
) -> Iterator[PlannedTensor]:
    """Yield what is stored of a tensor: the pipeline's main result, then the further ones.

    Statistics are those of the main result. Further results have a value per sample in any case.
    """
    of_record = (request, record, names, pipeline)
    layout = Layout.of(record)
    if layout is None:
        stored = TensorSpec(pipeline.cast or storable(record.spec.dtype), None)
        yield PlannedTensor(key, *of_record, None, None, stored, asked)
        return
    spec = TensorSpec(record.spec.dtype, layout.dims)
    for name, bound in pipeline.bind(record.address, spec, request.written).items():
        stored = TensorSpec(bound.stored_dtype, bound.spec.dims)
        own = f"{key}@{name}" if name else key
        of_result = Asked() if name else asked
        one = PlannedTensor(own, *of_record, layout, bound, stored, of_result)
        for statistic in one.statistics.single:
            statistic.check(bound.result)
        yield one
    for name, dtype in request.further.items():
        number = BoundPipeline((), name, Operand.of(TensorSpec(dtype, (SAMPLES,)), record.address))
        yield PlannedTensor(f"{key}@{name}", *of_record, layout, number, number.spec)


def measured(tensor: PlannedTensor, record: TensorRecord) -> tuple[PlannedTensor, ...]:
    """Return what is stored of a tensor, once measuring has completed its record's dims.

    Raises:
        SelectionError: it does not have the axes that a transform asks for.
    """
    of = (tensor.pipeline, tensor.asked, tensor.selectors)
    return tuple(_planned(tensor.key, tensor.request, record, *of))


def divided(
    tensors: Iterable[PlannedTensor],
) -> tuple[tuple[PlannedTensor, ...], tuple[PlannedTensor, ...]]:
    """Return the tensors of the shard of constants, and those of the shards of samples."""
    constants: list[PlannedTensor] = []
    varying: list[PlannedTensor] = []
    for tensor in tensors:
        (constants if isinstance(tensor.stored, Constant) else varying).append(tensor)
    return tuple(constants), tuple(varying)


def held_per_sample(
    tensors: Iterable[PlannedTensor], lengths: SampleLengths
) -> npt.NDArray[np.int64]:
    """Return the predictable bytes of each sample's values in its shard, stored or not."""
    total = np.zeros(lengths.samples, np.int64)
    for tensor in divided(tensors)[1]:
        if tensor.per_call:
            continue
        if (one := tensor.bytes_per_sample(lengths)) is not None:
            total += one
    return total
