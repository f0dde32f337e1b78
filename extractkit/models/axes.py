"""Which free axis every axis of a tensor follows, told from its shapes at several sizes. Pure.

The shapes come from a graph imported again with static placeholders, or from running the model:
once at a base size and once more with each free axis alone enlarged. An axis that changes with one
of them follows it; what a shape leaves unknown stays unknown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from extractkit.tensors import BY_VALUES, SAMPLE, UNKNOWN, Catalog, TensorRecord

RawShape = tuple[int | None, ...] | None


@dataclass(frozen=True)
class Sizes:
    """Sizes to try: the base, and for each free axis another one to enlarge it to.

    They are co-prime and far from layers' usual widths and strides, so that a product or a pooled
    length is not taken for something else.
    """

    base: Mapping[str, int]
    enlarged: Mapping[str, int]

    @property
    def trials(self) -> list[Mapping[str, int]]:
        """The base size, then one enlarged axis at a time."""
        return [self.base, *({**self.base, axis: self.enlarged[axis]} for axis in self.base)]


def infer_dims(sizes: Sizes, shapes: Sequence[RawShape]) -> tuple[str | None, ...] | None:
    """The dims of a tensor that had these shapes at `sizes.trials`; None where the rank varies.

    "sample", "token": that free axis. "sample*token", "sample*12": a product of the samples with
    something. "f(token)": a length computed from it. None: fixed. "?": unknown.
    """
    ranks = {None if shape is None else len(shape) for shape in shapes}
    if None in ranks or len(ranks) != 1:
        return None
    columns = zip(*(shape for shape in shapes if shape is not None), strict=True)
    return tuple(_infer_axis(sizes, column) for column in columns)


def _infer_axis(sizes: Sizes, column: tuple[int | None, ...]) -> str | None:
    if any(size is None for size in column):
        return UNKNOWN
    base, *others = (size for size in column if size is not None)
    moved = {axis: other for axis, other in zip(sizes.base, others, strict=True) if other != base}
    if not moved:
        return None
    if SAMPLE not in moved:
        return _follow(sizes, base, moved)
    samples, more_samples = sizes.base[SAMPLE], sizes.enlarged[SAMPLE]
    if base % samples or moved[SAMPLE] != base // samples * more_samples:
        return f"f({','.join(moved)})"
    rest = base // samples
    del moved[SAMPLE]
    if not moved:
        return SAMPLE if rest == 1 else f"{SAMPLE}*{rest}"
    if any(size % samples for size in moved.values()):
        return f"f({','.join([SAMPLE, *moved])})"
    return f"{SAMPLE}*{_follow(sizes, rest, {a: size // samples for a, size in moved.items()})}"


def _follow(sizes: Sizes, base: int, moved: Mapping[str, int]) -> str:
    """The name of a length that moves with free axes other than the sample."""
    if len(moved) == 1:
        ((axis, size),) = moved.items()
        if (base, size) == (sizes.base[axis], sizes.enlarged[axis]):
            return axis
    return f"f({','.join(moved)})"


def _factors(dim: str) -> list[str]:
    """The free axes and numbers that a dim is made of."""
    return dim.removeprefix("f(").removesuffix(")").replace("*", ",").split(",")


def why_not_by_sample(dims: Sequence[str | None]) -> str | None:
    """Why a tensor with these known dims has no value per sample; None where it has one."""
    of_samples = [dim for dim in dims if dim is not None and SAMPLE in _factors(dim)]
    if not of_samples:
        return "no axis of it follows the samples: its value belongs to a whole batch"
    if len(of_samples) > 1:
        return "more than one of its axes follows the samples: its value belongs to a whole batch"
    if of_samples[0].startswith("f("):
        return f"its axis {of_samples[0]} mixes samples in a way that cannot be taken apart"
    return None


def of_single_calls(catalog: Catalog) -> Catalog:
    """Return the catalog of a model that is run on one sample a call.

    What has a value for a whole batch has one for the sample then, whatever its axes are: they no
    longer name the samples.
    """
    single = Catalog([_of_single_call(record) for record in catalog.records], catalog.model)
    return single.listed_by(catalog.listing)


def _of_single_call(record: TensorRecord) -> TensorRecord:
    if record.reason is None or record.dims is None or record.shape is None:
        return record
    if UNKNOWN in record.dims or record.reason != why_not_by_sample(record.dims):
        return record
    axes = [_axis_of_one(*axis) for axis in zip(record.dims, record.shape, strict=True)]
    dims, shape = tuple(dim for dim, _ in axes), tuple(size for _, size in axes)
    return replace(record, dims=dims, shape=shape, reason=None)


def _axis_of_one(dim: str | None, size: int | None) -> tuple[str | None, int | None]:
    """An axis without the samples in it, of which there is one."""
    if dim is None or SAMPLE not in _factors(dim):
        return dim, size
    if dim == SAMPLE:
        return None, 1
    head, _, rest = dim.partition("*")
    if head == SAMPLE:
        return (None, int(rest)) if rest.isdigit() else (rest, None)
    others = [factor for factor in _factors(dim) if factor != SAMPLE]
    return (f"f({','.join(others)})" if others else BY_VALUES), None
