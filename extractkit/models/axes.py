"""Inference of axes from shapes at several sizes.

The shapes come from a graph imported with static placeholders, or from running the model: once at a
base size, and once more for each free axis with only that axis enlarged. An axis whose size changes
with a free axis follows it. Unknown sizes stay unknown.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from extractkit.core.catalog import Catalog, TensorRecord
from extractkit.core.spec import SAMPLE, SAMPLES, Dim

RawShape = tuple[int | None, ...] | None


@dataclass(frozen=True)
class Sizes:
    """The sizes to try: a base for each free axis, and a size to enlarge it to.

    They are co-prime and far from the usual widths and strides of layers, so that a product or a
    pooled length is not mistaken for another axis.
    """

    base: Mapping[str, int]
    enlarged: Mapping[str, int]

    @property
    def trials(self) -> list[Mapping[str, int]]:
        """The base size, then one enlarged axis at a time."""
        return [self.base, *({**self.base, axis: self.enlarged[axis]} for axis in self.base)]


def infer_dims(sizes: Sizes, shapes: Sequence[RawShape]) -> tuple[Dim, ...] | None:
    """Return the dims of a tensor from its shapes at `sizes.trials`, or None if the rank varies."""
    ranks = {None if shape is None else len(shape) for shape in shapes}
    if None in ranks or len(ranks) != 1:
        return None
    columns = zip(*(shape for shape in shapes if shape is not None), strict=True)
    return tuple(_infer_axis(sizes, column) for column in columns)


def _infer_axis(sizes: Sizes, column: tuple[int | None, ...]) -> Dim:
    if any(size is None for size in column):
        return Dim()
    base, *others = (size for size in column if size is not None)
    moved = {axis: other for axis, other in zip(sizes.base, others, strict=True) if other != base}
    if not moved:
        return Dim(size=base)
    if SAMPLE not in moved:
        return _follow(sizes, base, moved)
    samples, more_samples = sizes.base[SAMPLE], sizes.enlarged[SAMPLE]
    if base % samples or moved[SAMPLE] != base // samples * more_samples:
        return Dim.computed_from(*moved)
    rest = base // samples
    del moved[SAMPLE]
    if not moved:
        return SAMPLES if rest == 1 else Dim(factors=(SAMPLES, Dim(size=rest)))
    if any(size % samples for size in moved.values()):
        return Dim.computed_from(SAMPLE, *moved)
    lengths = {axis: size // samples for axis, size in moved.items()}
    return Dim(factors=(SAMPLES, _follow(sizes, rest, lengths)))


def _follow(sizes: Sizes, base: int, moved: Mapping[str, int]) -> Dim:
    """Return an axis that changes with free axes other than the sample."""
    if len(moved) == 1:
        ((axis, size),) = moved.items()
        if (base, size) == (sizes.base[axis], sizes.enlarged[axis]):
            return Dim.along(axis)
    return Dim.computed_from(*moved)


def no_sample_axis_reason(dims: Sequence[Dim]) -> str | None:
    """Return why a tensor with these known dims has no value per sample, or None if it has one."""
    of_samples = [dim for dim in dims if SAMPLE in dim.axes]
    if not of_samples:
        return "no axis of it follows the samples: its value belongs to a whole batch"
    if len(of_samples) > 1:
        return "more than one of its axes follows the samples: its value belongs to a whole batch"
    if of_samples[0].of:
        return f"its axis {of_samples[0].length} mixes samples in a way that cannot be taken apart"
    return None


def of_single_calls(catalog: Catalog) -> Catalog:
    """Return the catalog of a model that runs on one sample per call.

    A value of the whole batch is then the value of the sample, so axes no longer name the samples.
    """
    records = [_of_single_call(record) for record in catalog.records]
    single = Catalog(records, catalog.model, catalog.edges)
    return single.listed_by(catalog.listing)


def _of_single_call(record: TensorRecord) -> TensorRecord:
    if record.reason is None or not record.spec.known:
        return record
    if record.reason != no_sample_axis_reason(record.spec.axes):
        return record
    dims = tuple(map(_axis_of_one, record.spec.axes))
    return replace(record, spec=replace(record.spec, dims=dims), reason=None)


def _axis_of_one(dim: Dim) -> Dim:
    """Return an axis without its factor of the samples, which is 1."""
    if SAMPLE not in dim.axes:
        return dim
    if dim.samples:
        return Dim(size=1)
    if dim.counts_samples:
        return dim.factors[1].named(dim.name)
    return Dim.computed_from(*(axis for axis in dim.axes if axis != SAMPLE)).named(dim.name)


# Tried in turn: a model may need longer inputs (pooling), or refuse long ones (a table of
# positions).
_CANDIDATES = (
    *((13, 17, 101, 211), (13, 17, 331, 457), (13, 17, 37, 53)),
    *((5, 7, 11, 19), (13, 17, 7, 9)),
)

# Divisors of lengths in networks that join an axis with its pooled and upsampled copy. Powers of
# two come first, since most strides are 2.
_STEPS = (2, 4, 8, 16, 32, 64, *(3, 5, 6, 7, 9, 10, 12, 20, 24, 40, 48, 96, 128))

# Remainders: 1 for "valid" strides, any where borders are cropped.
_REMAINDERS = (
    *((step, 1) for step in (2, 4, 8, 16, 32)),
    *((step, step - 1) for step in (4, 8, 16, 32)),
    *((step, rest) for step in (4, 8, 16) for rest in range(2, step - 1)),
)

# Small and large multipliers of a step, for the first free axis, the second, and so on.
_SHORT, _SHORT_ENLARGED = (3, 5, 7, 11), (13, 17, 19, 23)
_LONG, _LONG_ENLARGED = (23, 29, 31, 37), (41, 43, 47, 53)


def candidate_sizes(
    free_axes: Sequence[str], sample_axis: str, *, vary: bool = True
) -> Iterable[Sizes]:
    """Yield sizes to infer shapes at, different for each free axis.

    Args:
        vary: Whether the number of samples varies too. It does not if a call takes one sample.
    """
    for samples, more_samples, length, longer in _CANDIDATES:
        lengths = [(length + 2 * at, longer + 2 * at) for at in range(len(free_axes))]
        yield _sizes(free_axes, sample_axis, lengths, (samples, more_samples) if vary else None)


def stepped_sizes(
    free_axes: Sequence[str], sample_axis: str, *, vary: bool = True
) -> Iterable[Sizes]:
    """Yield sizes for models that accept only some lengths, such as multiples of 16.

    They are tried if a model accepts none of `candidate_sizes`. Each length has a certain
    remainder, so there are none for a model without free axes.
    """
    if not free_axes:
        return
    samples = (13, 17) if vary else None
    for step, rest in (*((step, 0) for step in _STEPS), *_REMAINDERS):
        for base, enlarged in ((_LONG, _LONG_ENLARGED), (_SHORT, _SHORT_ENLARGED)):
            lengths = [
                (step * base[at % 4] + rest, step * enlarged[at % 4] + rest)
                for at in range(len(free_axes))
            ]
            yield _sizes(free_axes, sample_axis, lengths, samples)


def _sizes(
    free_axes: Sequence[str],
    sample_axis: str,
    lengths: Sequence[tuple[int, int]],
    samples: tuple[int, int] | None,
) -> Sizes:
    counted = {} if samples is None else {sample_axis: samples}
    pairs = {**counted, **dict(zip(free_axes, lengths, strict=True))}
    return Sizes(
        {axis: base for axis, (base, _) in pairs.items()},
        {axis: enlarged for axis, (_, enlarged) in pairs.items()},
    )
