"""What only running tells about a tensor's axes, measured on the first samples, never guessed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from extractkit.engine.batches import collate
from extractkit.engine.isolation import explained
from extractkit.engine.sizes import repeated, resized, size_fault
from extractkit.errors import SampleError, SelectionError
from extractkit.inputs.protocol import Signature, Source
from extractkit.models.axes import Sizes, infer_dims, why_not_by_sample
from extractkit.models.protocol import Compilation, Encoded, Fetch, Model, Program
from extractkit.plan import PlannedTensor, measured
from extractkit.tensors import SAMPLE, TensorRecord
from extractkit.values import Array

_SAMPLES, _MORE_SAMPLES = 3, 5
_STEPS = (1, 2, 4, 5, 6, 7, 8, 9, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128)
_LOOKED_AT = 64
_TOGETHER = 6


@dataclass(frozen=True)
class Measured:
    """What running told.

    Attributes:
        tensors: with every axis known, and every product of axes checked.
        skipped: records of those that turned out to have no value per sample, with the reason.
    """

    tensors: tuple[PlannedTensor, ...]
    skipped: tuple[TensorRecord, ...] = ()


def measure_axes(
    model: Model, source: Source, tensors: Sequence[PlannedTensor], compilation: Compilation
) -> Measured:
    """The same tensors with every axis known, and every product of axes checked.

    The first sample, repeated and padded to several sizes, tells which axes follow what. Two
    samples in both orders tell whether samples vary slowest in a product such as "sample*token".

    Raises:
        SelectionError: nothing that a selector matches has a value per sample; one of its tensors
            is named with the axes that it has.
    """
    reasons: dict[str, str] = {}
    unknown = [tensor for tensor in tensors if tensor.layout is None]
    if unknown:
        records = _measured_records(model, source, unknown, compilation, reasons)
        tensors = [
            measured(tensor, records[tensor.address]) if tensor.address in records else tensor
            for tensor in tensors
        ]
        found = [tensor for tensor in tensors if tensor.address in records]
        if found and len(source) > 1 and model.signature.batch != 1:
            _check_alone(model, source, found, compilation, reasons)
    split = [
        tensor
        for tensor in tensors
        if tensor.layout is not None and tensor.layout.split and tensor.address not in reasons
    ]
    if split and len(source) > 1:
        _check_order(model, source, split, compilation, reasons)
    _check_left(tensors, reasons)
    return Measured(
        tuple(tensor for tensor in tensors if tensor.address not in reasons),
        tuple(replace(model.catalog[address], reason=why) for address, why in reasons.items()),
    )


def _check_left(tensors: Sequence[PlannedTensor], reasons: Mapping[str, str]) -> None:
    """Refuse a selector of which nothing is left."""
    left = {name for t in tensors if t.address not in reasons for name in t.selectors}
    for tensor in tensors:
        for name in tensor.selectors:
            if name not in left:
                raise SelectionError(
                    f"selectors.{name} selects {tensor.address!r}, {reasons[tensor.address]}. "
                    f"Leave it out with '+selectors.{name}.not.path=\"{tensor.address}\"'"
                )


def _measured_records(
    model: Model,
    source: Source,
    unknown: Sequence[PlannedTensor],
    compilation: Compilation,
    reasons: dict[str, str],
) -> dict[str, TensorRecord]:
    """The tensors' records with their dims; in `reasons` why others have no value per sample."""
    addresses = [tensor.address for tensor in unknown]
    program = model.program([Fetch(address) for address in addresses], compilation)
    sizes, trials = _tried(model, source, addresses, program)
    records = {}
    for tensor, shapes in zip(unknown, zip(*trials, strict=True), strict=True):
        dims = _dims(model.signature, sizes, shapes)
        reason = "its number of axes changes with the inputs" if dims is None else None
        reason = reason or why_not_by_sample(dims or ())
        if dims is None or reason is not None:
            reasons[tensor.address] = f"measured as {list(shapes[0])}: {reason}"
            continue
        shape = tuple(
            size if dim is None else None for dim, size in zip(dims, shapes[0], strict=True)
        )
        records[tensor.address] = replace(model.catalog[tensor.address], dims=dims, shape=shape)
    return records


def _dims(
    signature: Signature, sizes: Sizes, shapes: Sequence[tuple[int, ...]]
) -> tuple[str | None, ...] | None:
    if signature.batch != 1:
        return infer_dims(sizes, shapes)
    # A call takes one sample, so the first axis, of one element, is the sample's.
    dims = infer_dims(sizes, [shape[1:] for shape in shapes])
    return None if dims is None else (SAMPLE, *dims)


def _tried(
    model: Model, source: Source, addresses: Sequence[str], program: Program
) -> tuple[Sizes, list[list[tuple[int, ...]]]]:
    """The shapes of a program's values at sizes that the model takes, found by trying.

    The first sample alone, at the sizes that it has, comes first: a failure there is its own. Then
    each free axis is enlarged alone to the first size that works. An axis for which none does has
    one size in all samples that the model takes, so it is left out: nothing follows it.

    Raises:
        SampleError: the model fails on the first sample.
    """
    signature = model.signature
    (first,) = model.encode(source.read(0, 1))

    def shapes_at(at: Mapping[str, int]) -> list[tuple[int, ...]]:
        batch = repeated(signature, first.features, at, at.get(SAMPLE, 1))
        return [np.shape(value) for value in program(batch.features, batch.lengths)]

    # An empty sample would hide which axes follow it.
    own = {axis: max(1, size) for axis, size in first.sizes.items()}
    try:
        shapes_at(own)
    except SampleError as error:
        alone = repeated(signature, first.features, own)
        fault = size_fault(model, addresses, program, alone)
        raise SampleError(explained(str(error), fault)) from error
    base, enlarged = dict(own), {}
    if signature.batch != 1:
        base[SAMPLE], enlarged[SAMPLE] = _SAMPLES, _MORE_SAMPLES
    trials = [shapes_at(base)]
    if signature.batch != 1:
        trials.append(shapes_at({**base, SAMPLE: _MORE_SAMPLES}))
    others = _Others(model, source)
    for axis, size in own.items():
        for other in _outwards(axis, size, others, (signature.longest or {}).get(axis)):
            try:
                trials.append(shapes_at({**base, axis: other}))
            except SampleError:
                continue  # a size that we have made up: no sample is to blame
            enlarged[axis] = other
            break
    left = {axis: size for axis, size in own.items() if axis not in enlarged}
    for sizes in _jointly(left, others) if len(left) > 1 else ():
        try:
            trials.append(shapes_at({**base, **sizes}))
        except SampleError:
            continue
        # No length is told apart from another then: whatever moves follows all of them.
        joint = ",".join(left)
        base[joint], enlarged[joint] = 0, 1
        break
    return Sizes({axis: base[axis] for axis in enlarged}, enlarged), trials


@dataclass(frozen=True, eq=False)
class _Others:
    """Sizes of the first samples, which are read only where they are asked for."""

    model: Model
    source: Source

    @cached_property
    def sizes(self) -> list[Mapping[str, int]]:
        encoded = self.model.encode(self.source.read(0, min(_LOOKED_AT, len(self.source))))
        return [{axis: max(1, size) for axis, size in one.sizes.items()} for one in encoded]


def _outwards(axis: str, size: int, others: _Others, longest: int | None) -> Iterator[int]:
    """Other sizes to try for an axis: some more, then those in the data, then ever farther away."""
    # An axis of one element is repeated to fit any other, and seems to follow nothing then.
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
    """Other sizes to try for axes that do not change alone: those of samples, then more of each."""
    for sizes in others.sizes:
        if any(sizes[axis] != size for axis, size in own.items()):
            yield {axis: sizes[axis] for axis in own}
    for step in (3, *_STEPS):
        yield {axis: size + step for axis, size in own.items()}


def _check_alone(
    model: Model,
    source: Source,
    found: Sequence[PlannedTensor],
    compilation: Compilation,
    reasons: dict[str, str],
) -> None:
    """Leave out what several samples together give other rows of than each of them alone.

    One sample repeated cannot tell: rows that the values decide (a mask, a search) are then as many
    as there are samples by chance.
    """
    encoded = model.encode(source.read(0, min(_TOGETHER, len(source))))
    # Sizes that the model is known to take.
    sizes = {axis: max(1, size) for axis, size in encoded[0].sizes.items()}
    alike = [_alike(model.signature, one, sizes) for one in encoded]
    program = model.program([Fetch(tensor.address) for tensor in found], compilation)

    def computed(samples: Sequence[Encoded]) -> Sequence[Array]:
        batch = collate(model.signature, samples)
        return program(batch.features, batch.lengths)

    together = computed(alike)
    alone = zip(*(computed([sample]) for sample in alike), strict=True)
    for tensor, whole, parts in zip(found, together, alone, strict=True):
        axis = 0 if tensor.layout is None else tensor.layout.axis or 0
        ranks = {np.ndim(value) for value in (whole, *parts)}
        rows = [np.moveaxis(value, axis, 0) for value in (whole, *parts)] if len(ranks) == 1 else []
        # Each brings as many rows as every other: as many as samples by chance is not enough.
        same = len({row.shape for row in rows[1:]}) == 1
        if not same or not _same(rows[0], np.concatenate(rows[1:])):
            reasons[tensor.address] = (
                f"measured as {list(np.shape(whole))}: several samples together give other values "
                f"of it than each alone, so none of them belongs to a sample"
            )


def _alike(signature: Signature, encoded: Encoded, sizes: Mapping[str, int]) -> Encoded:
    """A sample brought to other lengths, so that none is padded."""
    features = {
        spec.name: resized(spec, encoded.features[spec.name], sizes) for spec in signature.specs
    }
    return Encoded(features, sizes)


def _check_order(
    model: Model,
    source: Source,
    split: Sequence[PlannedTensor],
    compilation: Compilation,
    reasons: dict[str, str],
) -> None:
    program = model.program([Fetch(tensor.address) for tensor in split], compilation)
    one, other = _two_different(model, source)
    forward, backward = (collate(model.signature, pair) for pair in ([one, other], [other, one]))
    values = program(forward.features, forward.lengths)
    swapped = program(backward.features, backward.lengths)
    for tensor, value, reverse in zip(split, values, swapped, strict=True):
        axis = 0 if tensor.layout is None else tensor.layout.axis or 0
        rows, rows_swapped = (np.moveaxis(v, axis, 0) for v in (value, reverse))
        half = len(rows) // 2
        if len(rows) != len(rows_swapped) or len(rows) % 2:
            reasons[tensor.address] = (
                f"measured as {list(np.shape(value))}: two samples have no two equal halves of it"
            )
            continue
        slowest = _same(rows, np.concatenate([rows_swapped[half:], rows_swapped[:half]]))
        pairs = rows_swapped.reshape(half, 2, *rows.shape[1:])[:, ::-1].reshape(rows.shape)
        fastest = _same(rows, pairs)
        if half > 1 and (not slowest or fastest):
            dims = list(model.catalog[tensor.address].dims or ())
            reasons[tensor.address] = (
                f"with dims {dims}: in its flattened axis the samples do not vary slowest, or the "
                f"first samples cannot tell"
            )


def _same(one: Array, other: Array) -> bool:
    if one.shape != other.shape:
        return False
    if one.dtype.kind not in "fc":
        return np.array_equal(one, other)
    return bool(np.allclose(one, other, rtol=1e-3, atol=1e-5, equal_nan=True))


def _two_different(model: Model, source: Source) -> tuple[Encoded, Encoded]:
    encoded = model.encode(source.read(0, min(_LOOKED_AT, len(source))))
    first = encoded[0]
    for other in encoded[1:]:
        if any(
            not np.array_equal(array, other.features[name])
            for name, array in first.features.items()
        ):
            return first, other
    return first, encoded[1]
