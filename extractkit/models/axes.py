"""Inference of axes: lengths from shapes at several sizes, and names from what operations do.

The shapes come from a graph imported with static placeholders, or from running the model: once at a
base size, and once more for each free axis with only that axis enlarged. An axis whose size changes
with a free axis follows it. Unknown sizes stay unknown.

An operation with a data format states which axes are height, width and channel, and operations that
work element by element keep the axes of their operands. Sizes are never a reason for a name.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

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


def of_sizes(shape: RawShape) -> tuple[Dim, ...] | None:
    """Return dims of these sizes, unknown ones included, or None if the rank is unknown."""
    return None if shape is None else tuple(Dim(size=size) for size in shape)


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


# ---- names

Names = tuple[str | None, ...]
"""A name, or None, for each axis of a tensor as the model returns it."""

Dims = tuple[Dim, ...] | None
"""The dims of a tensor, None if its rank is unknown."""

K = TypeVar("K", bound=Hashable)

SAME_AXES = frozenset(
    {
        *("Identity", "IdentityN", "StopGradient", "PreventGradient", "CheckNumerics", "Cast"),
        *("Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Sigmoid", "Tanh", "Softplus", "Softsign"),
        *("Softmax", "LogSoftmax", "BiasAdd", "BiasAddV1", "Abs", "Neg", "Exp", "Expm1", "Log"),
        *("Log1p", "Erf", "Erfc", "Square", "Sqrt", "Rsqrt", "Reciprocal", "Inv", "Sign", "Round"),
        *("Floor", "Ceil", "Sin", "Cos", "FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"),
        *("FakeQuantWithMinMaxVars", "FakeQuantWithMinMaxVarsPerChannel", "LRN"),
        *("QuantizeAndDequantizeV2", "QuantizeAndDequantizeV3", "QuantizeAndDequantizeV4"),
        *("Pad", "PadV2", "MirrorPad"),
        # LiteRT's
        *("RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "LEAKY_RELU", "PRELU", "ELU", "GELU"),
        *("LOGISTIC", "TANH", "HARD_SWISH", "SOFTMAX", "LOG_SOFTMAX", "ABS", "NEG", "EXP", "LOG"),
        *("SQRT", "RSQRT", "SQUARE", "ROUND", "FLOOR", "CEIL", "SIN", "COS", "CAST", "QUANTIZE"),
        *("DEQUANTIZE", "FAKE_QUANT", "L2_NORMALIZATION", "LOCAL_RESPONSE_NORMALIZATION"),
        *("PAD", "PADV2", "MIRROR_PAD"),
    }
)
"""Types of operations whose first result has the axes of the first operand."""

BROADCASTING = frozenset(
    {
        *("Add", "AddV2", "AddN", "Sub", "Mul", "RealDiv", "Div", "DivNoNan", "Maximum", "Minimum"),
        *("SquaredDifference", "Pow", "Prelu"),
        *("ADD", "ADD_N", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE", "POW"),
    }
)
"""Types of operations whose result has the axes of all operands, aligned at the last one."""

SPATIAL = frozenset(
    {
        *("Conv2D", "DepthwiseConv2dNative", "Conv2DBackpropInput"),
        *("MaxPool", "MaxPoolV2", "AvgPool", "SpaceToDepth", "DepthToSpace"),
        *("ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic", "ResizeArea"),
        *("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "SPACE_TO_DEPTH", "DEPTH_TO_SPACE"),
        *("MAX_POOL_2D", "AVERAGE_POOL_2D", "L2_POOL_2D"),
        *("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"),
    }
)
"""Types of operations on pictures. Their layout is NHWC unless their data format is another."""

DENSE = frozenset({"FULLY_CONNECTED"})
"""Types of operations whose last axis holds features."""

NAMING = SAME_AXES | BROADCASTING | SPATIAL | DENSE
"""Types of all these operations."""

_LETTERS = {"C": "channel", "H": "height", "W": "width"}


def of_format(data_format: str) -> Names | None:
    """Return the names in a data format such as "NHWC"; None for one of other axes."""
    if sorted(data_format) != sorted("NHWC"):
        return None
    return tuple(_LETTERS.get(letter) for letter in data_format)


def with_names(dims: Dims, names: Names | None) -> Dims:
    """Return dims with names, if there is one for each axis."""
    if dims is None or names is None or len(dims) != len(names):
        return dims
    return tuple(dim.named(name) for dim, name in zip(dims, names, strict=True))


@dataclass(frozen=True)
class Operation(Generic[K]):
    """The effect of an operation on the names of axes.

    Attributes:
        type: its type.
        operands: the tensors that it reads, each with its number of axes (None: unknown).
        result: its first result, and the number of its axes.
        data_format: its data format ("NHWC"); None if it has none.
        taken: the axis of the first operand for each axis of the result, if the operation moves or
            drops axes.
    """

    type: str
    operands: Sequence[tuple[K, int | None]]
    result: tuple[K, int | None]
    data_format: str | None = None
    taken: Sequence[int] | None = None


def propagated(operations: Iterable[Operation[K]], known: Mapping[K, Names]) -> dict[K, Names]:
    """Return the names of the axes of tensors.

    Args:
        operations: the operations, each after those whose results it reads. Names are not passed
            along the back edges of loops.
        known: names known already, by tensor.
    """
    found = dict(known)
    for one in operations:
        key, rank = one.result
        names = _of_result(one, found)
        if names is not None and len(names) == rank:
            own = found.get(key, (None,) * len(names))
            if len(own) == len(names):
                found[key] = tuple(a or b for a, b in zip(own, names, strict=True))
    return found


def _of_result(one: Operation[K], found: Mapping[K, Names]) -> Names | None:
    rank = one.result[1]
    if rank is None:
        return None
    if one.type in SPATIAL:
        return of_format(one.data_format or "NHWC")
    if one.type in DENSE:
        return (*(None,) * (rank - 1), "feature") if rank else None
    if not one.operands:
        return None
    first = found.get(one.operands[0][0])
    if one.taken is not None:
        return None if first is None else tuple(first[axis] for axis in one.taken)
    if one.type in SAME_AXES:
        return first
    if one.type in BROADCASTING:
        return _agreed([_aligned(*operand, rank, found) for operand in one.operands], rank)
    return None


def _aligned(key: K, own: int | None, rank: int, found: Mapping[K, Names]) -> Names:
    names = found.get(key)
    if names is None or own is None or own > rank:
        return (None,) * rank
    return (*(None,) * (rank - own), *names)


def _agreed(each: Sequence[Names], rank: int) -> Names:
    """Return the names that no operand contradicts."""
    columns = [{names[axis] for names in each} - {None} for axis in range(rank)]
    return tuple(next(iter(column)) if len(column) == 1 else None for column in columns)
