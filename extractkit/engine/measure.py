"""Measurement of axes that only running the model shows, on the first samples, never guessed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from extractkit.core.catalog import Catalog, TensorRecord
from extractkit.core.plan import PlannedTensor, check_keys, key_of, measured
from extractkit.core.requests import Request, Value
from extractkit.core.selectors import Selector
from extractkit.core.spec import SAMPLE, SAMPLES, Dim
from extractkit.core.values import Array
from extractkit.engine.batches import collate, encode
from extractkit.engine.trials import LOOKED_AT, UNSEEN, Trials, front_of, tried
from extractkit.errors import SelectionError
from extractkit.inputs import Signature, Source
from extractkit.models import Compilation, Encoded, Fetch, Model
from extractkit.models.axes import Sizes, infer_dims, no_sample_axis_reason

_ADVICE = "; with runtime.batch_size=1 it is that of a sample"


@dataclass(frozen=True)
class Measured:
    """The result of measuring.

    Attributes:
        tensors: the tensors, with every axis known and every product of axes checked.
        unextractable: records of tensors without a value per sample, with the reason.
        lost: number of tensors, by selector, that are not stored, since they have no value per
            sample or their measured axes do not match.
        alone: why each call must take one sample; None if no measurement demands it.
    """

    tensors: tuple[PlannedTensor, ...]
    unextractable: tuple[TensorRecord, ...] = ()
    lost: Mapping[str, int] = field(default_factory=dict)
    alone: str | None = None


def measure_axes(
    model: Model,
    source: Source,
    tensors: Sequence[PlannedTensor],
    compilation: Compilation,
    *,
    alone: bool = False,
    selectors: Mapping[str, Selector] | None = None,
) -> Measured:
    """Return the same tensors with every axis known, and every product of axes checked.

    The first sample, repeated and padded to several sizes, shows which axes follow which size.
    Further samples show which lengths follow the values. Two samples in both orders show whether
    samples vary slowest in a product such as "sample*token".

    A tensor without a value per sample in a batch may have one in a call on a single sample. This
    is used if calls take one sample in any case, or if a selector would otherwise store nothing.

    Args:
        alone: whether each call takes one sample in any case.
        selectors: the selectors by name, for the model's catalog, which measured axes have to
            match. None: any axes match.

    Raises:
        SelectionError: no tensor that a selector matches has a value per sample, or the axes of
            none match. The message names one of them with its axes. Or two tensors have one key,
            now that fewer selectors match.
    """
    found, still = _Found({}, {}, {}), _Matching(model.catalog, selectors or {})
    unknown = [tensor for tensor in tensors if tensor.layout is None]
    if unknown:
        found = _measured_records(model, source, unknown, compilation)
        tensors = _completed(tensors, found.by_sample, still)
    split = [
        tensor
        for tensor in tensors
        if tensor.layout is not None and tensor.layout.split and not alone
    ]
    if split and len(source) > 1:
        _check_order(model, source, split, compilation, found)
    why = None
    lost = _nothing_left(tensors, found.reasons)
    if found.reasons and (alone or lost):
        if lost is not None:
            why = lacks_value(lost)
        tensors = _completed(tensors, found.by_call, still)
        for request in found.by_call:
            found.reasons.pop(request, None)
    _check_left(tensors, found.reasons)
    still.check_left(tensors)
    check_keys(tensors)
    without = [one for one in tensors if one.request in found.reasons and not one.result]
    return Measured(
        tuple(tensor for tensor in tensors if tensor.request not in found.reasons),
        tuple(
            replace(model.catalog[request.address], reason=_unextractable(request, found))
            for request in found.reasons
        ),
        Counter([name for name, _ in still.lost] + [n for one in without for n in one.selectors]),
        why,
    )


def _unextractable(request: Request, found: "_Found") -> str:
    """Return the reason of a tensor's record."""
    of = "" if isinstance(request, Value) else f"its {request.what}: "
    advice = _ADVICE if request in found.by_call else ""
    return f"{of}{found.reasons[request]}{advice}"


def lacks_value(tensor: PlannedTensor) -> str:
    """Return, as a clause, why a tensor requires calls on single samples."""
    return f"{tensor.address!r} has no {tensor.request.what} per sample in a batch"


@dataclass(frozen=True)
class _Matching:
    """The selectors that still match a tensor, and those that do not: names with records."""

    catalog: Catalog
    selectors: Mapping[str, Selector]
    lost: list[tuple[str, TensorRecord]] = field(default_factory=list)

    def kept(self, tensor: PlannedTensor, record: TensorRecord) -> PlannedTensor | None:
        """Return the tensor for the selectors that match its new record; None if none does."""
        names = tuple(
            name
            for name in tensor.selectors
            if name not in self.selectors
            or self.selectors[name].check_measured(tensor.record, record)
        )
        self.lost.extend((name, record) for name in tensor.selectors if name not in names)
        return replace(tensor, selectors=names) if names else None

    def check_left(self, tensors: Sequence[PlannedTensor]) -> None:
        """Refuse a selector that would store nothing."""
        left = {name for tensor in tensors for name in tensor.selectors}
        for name, _ in self.lost:
            if name not in left:
                measured = [record for other, record in self.lost if other == name]
                raise self.selectors[name].nothing_measured(self.catalog, measured)


@dataclass(frozen=True)
class _Found:
    """Records with their dims, by request. Value and gradients of a tensor may differ.

    Attributes:
        by_sample: tensors with a value for each sample of a batch.
        by_call: other tensors, in a call on one sample.
        reasons: why the latter have no value per sample in a batch.
    """

    by_sample: dict[Request, TensorRecord]
    by_call: dict[Request, TensorRecord]
    reasons: dict[Request, str]


def _completed(
    tensors: Sequence[PlannedTensor], records: Mapping[Request, TensorRecord], still: _Matching
) -> list[PlannedTensor]:
    """Return the tensors, planned anew with all their results where a record is given.

    Tensors whose selectors no longer match are omitted.
    """
    chosen: list[PlannedTensor] = []
    for tensor in tensors:
        record = records.get(tensor.request)
        if record is None:
            chosen.append(tensor)
        elif not tensor.result and (kept := still.kept(tensor, record)) is not None:
            chosen.append(kept)
    ways = Counter(tensor.request.key for tensor in chosen)
    completed: list[PlannedTensor] = []
    for tensor in chosen:
        if (record := records.get(tensor.request)) is None:
            completed.append(tensor)
            continue
        alone = ways[tensor.request.key] == 1
        key = key_of(tensor.request, tensor.selectors, alone=alone)
        completed.extend(measured(replace(tensor, key=key), record))
    return completed


def _nothing_left(
    tensors: Sequence[PlannedTensor], reasons: Mapping[Request, str]
) -> PlannedTensor | None:
    """Return the first tensor of a selector that would store nothing, or None."""
    left = {name for t in tensors if t.request not in reasons for name in t.selectors}
    return next((t for t in tensors if not left.issuperset(t.selectors)), None)


def _check_left(tensors: Sequence[PlannedTensor], reasons: Mapping[Request, str]) -> None:
    """Refuse a selector that would store nothing."""
    tensor = _nothing_left(tensors, reasons)
    if tensor is None:
        return
    left = {name for t in tensors if t.request not in reasons for name in t.selectors}
    name = next(name for name in tensor.selectors if name not in left)
    raise SelectionError(
        f"selectors.{name} selects nothing that can be extracted: {tensor.address!r} is "
        f"{reasons[tensor.request]}. Leave selectors.{name} out, or have it select other tensors"
    )


def _measured_records(
    model: Model,
    source: Source,
    unknown: Sequence[PlannedTensor],
    compilation: Compilation,
) -> _Found:
    found = _Found({}, {}, {})
    left = list(unknown)
    for trials in tried(model, source, unknown, compilation, found.reasons):
        left = [one for one in left if one.request not in found.reasons]
        for tensor in [one for one in left if trials.show(one)]:
            left.remove(tensor)
            _measure(model.signature, tensor, trials, found)
    for tensor in left:
        found.reasons.setdefault(tensor.request, UNSEEN)
    return found


def _measure(signature: Signature, tensor: PlannedTensor, trials: Trials, found: _Found) -> None:
    """Enter what the shapes of a tensor show."""
    together, alone, alone_at = trials.of(tensor)
    dims = _by_values_in_front(tensor, _dims(signature, trials.sizes, together))
    reason = "its number of axes changes with the inputs" if dims is None else None
    reason = reason or no_sample_axis_reason(dims or ())
    if reason is None and dims is not None and not _brings_its_rows(dims, alone):
        reason = "the values of a sample decide how many rows of it belong to the sample"
    if dims is not None and reason is None:
        found.by_sample[tensor.request] = _record(tensor.record, dims, alone)
        return
    found.reasons[tensor.request] = f"measured as {list(together[0])}: {reason}"
    dims = infer_dims(trials.sizes_alone, alone_at)
    if dims is not None and len({len(shape) for shape in alone}) == 1:
        found.by_call[tensor.request] = _record(tensor.record, dims, alone)


def _by_values_in_front(
    tensor: PlannedTensor, dims: tuple[Dim, ...] | None
) -> tuple[Dim, ...] | None:
    """Return dims in which values decide the number of steps, if it changes with the samples.

    More samples make another sum or maximum, at which a loop ends or a branch is taken.
    """
    front = front_of(tensor)
    if dims is None or front is None or front >= len(dims):
        return dims
    first = dims[front]
    if SAMPLE not in first.axes or first.counts_samples:
        return dims
    return (*dims[:front], Dim.computed_from(), *dims[front + 1 :])


def _record(
    record: TensorRecord,
    dims: tuple[Dim, ...],
    alone: Sequence[tuple[int, ...]],
) -> TensorRecord:
    """Return the record with these dims, except lengths in which samples of one size differ."""
    differ = [len(set(sizes)) > 1 for sizes in zip(*alone, strict=True)]
    dims = tuple(Dim.computed_from() if own else dim for dim, own in zip(dims, differ, strict=True))
    return replace(record, spec=record.spec.measured(dims), reason=None)


def _brings_its_rows(dims: Sequence[Dim], alone: Sequence[tuple[int, ...]]) -> bool:
    """Return True if samples of one size always have equally many rows, and not just by chance.

    Args:
        alone: shapes of the first sample, and of others brought to its size, each alone.
    """
    axis = next(at for at, dim in enumerate(dims) if dim.counts_samples)
    rows = {shape[axis] if axis < len(shape) else None for shape in alone}
    return rows == {1} if dims[axis].samples else len(rows) == 1


def _dims(
    signature: Signature, sizes: Sizes, shapes: Sequence[tuple[int, ...]]
) -> tuple[Dim, ...] | None:
    if signature.batch != 1:
        return infer_dims(sizes, shapes)
    # A call takes one sample, so the first axis, of one element, is the sample axis.
    dims = infer_dims(sizes, [shape[1:] for shape in shapes])
    return None if dims is None else (SAMPLES, *dims)


def _check_order(
    model: Model,
    source: Source,
    split: Sequence[PlannedTensor],
    compilation: Compilation,
    found: _Found,
) -> None:
    reasons = found.reasons
    program = model.program([Fetch(tensor.request) for tensor in split], compilation)
    # A single sample has no order.
    found.by_call.update({t.request: found.by_sample.get(t.request, t.record) for t in split})
    one, other = _two_different(model, source)
    forward, backward = (collate(model.signature, pair) for pair in ([one, other], [other, one]))
    values = program(forward.features, forward.lengths)
    swapped = program(backward.features, backward.lengths)
    for tensor, value, reverse in zip(split, values, swapped, strict=True):
        axis = 0 if tensor.layout is None else tensor.layout.axis or 0
        rows, rows_swapped = (np.moveaxis(v, axis, 0) for v in (value, reverse))
        half = len(rows) // 2
        if len(rows) != len(rows_swapped) or len(rows) % 2:
            reasons[tensor.request] = (
                f"measured as {list(np.shape(value))} for two samples, which cannot be halved"
            )
            continue
        slowest = _same(rows, np.concatenate([rows_swapped[half:], rows_swapped[:half]]))
        pairs = rows_swapped.reshape(half, 2, *rows.shape[1:])[:, ::-1].reshape(rows.shape)
        fastest = _same(rows, pairs)
        if half > 1 and (not slowest or fastest):
            dims = list(tensor.record.spec.titles)
            reasons[tensor.request] = (
                f"with dims {dims}: in its flattened axis the samples do not vary slowest, or the "
                f"first samples cannot show it"
            )


def _same(one: Array, other: Array) -> bool:
    if one.shape != other.shape:
        return False
    if one.dtype.kind not in "fc":
        return np.array_equal(one, other)
    return bool(np.allclose(one, other, rtol=1e-3, atol=1e-5, equal_nan=True))


def _two_different(model: Model, source: Source) -> tuple[Encoded, Encoded]:
    encoded = encode(model, source.read(0, min(LOOKED_AT, len(source))))
    first = encoded[0]
    for other in encoded[1:]:
        if any(
            not np.array_equal(array, other.features[name])
            for name, array in first.features.items()
        ):
            return first, other
    return first, encoded[1]
