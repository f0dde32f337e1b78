"""Corresponding elements of two tensors, quantised integers as the numbers that they stand for."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np

from extractkit.core.catalog import TensorRecord
from extractkit.core.transforms.casting import OVERFLOW, SCALE, Quantize
from extractkit.core.transforms.flattening import Flatten
from extractkit.core.transforms.largest import COORDINATES, INDICES, Argmax, Argmin
from extractkit.core.transforms.ordering import ChannelsLast
from extractkit.core.transforms.pipeline import names
from extractkit.core.transforms.slicing import Slice
from extractkit.core.values import Array
from extractkit.runs.comparing.measures import family
from extractkit.runs.comparing.pairing import Alignment, Pairs
from extractkit.runs.manifest import Manifest
from extractkit.runs.reader import Run
from extractkit.runs.views import TensorView

ELEMENTS = 1 << 16
"""Most elements in a block: 0.5 MB as 64-bit floats, so that a few fit a processor's cache."""

_MOVING = (Slice.name, Flatten.name, ChannelsLast.name)
_FINDING = (Argmax.name, Argmin.name)
_POSITIONS = (INDICES, COORDINATES, OVERFLOW)
_WIDE = ("int32", "int64", "uint32", "uint64")


class IncomparableError(Exception):
    """Two tensors have no corresponding elements; the message gives the reason."""


@dataclass(frozen=True)
class Scale:
    """The scale of quantised integers: real = (q - zero point) · scale.

    Attributes:
        scale: one number, or a tensor with one for each sample.
    """

    scale: float | TensorView
    zero_point: float = 0.0

    def real(self, integers: Array, scale: float | Array) -> Array:
        """Return the real numbers, float32."""
        wide = (integers.astype(np.float64) - self.zero_point) * np.float64(scale)
        return np.asarray(wide, np.float32)

    def __str__(self) -> str:
        if isinstance(self.scale, float):
            return f"the scale {self.scale:g} and the zero point {self.zero_point:g}"
        return "a scale for each sample"


@dataclass(frozen=True)
class Meaning:
    """What the elements of a tensor are: numbers, or steps of a quantised type.

    Attributes:
        steps: the type of the integers that they are or that transforms computed them from, which
            may be quantised. None: the elements are the numbers themselves.
        scale: the recorded scale of these integers; None if it is unknown.
        derived: whether transforms computed other elements from them.
    """

    steps: str | None = None
    scale: Scale | None = None
    derived: bool = False

    @property
    def real(self) -> bool:
        """Whether the numbers that the elements stand for are known."""
        return self.steps is None or (self.scale is not None and not self.derived)

    @property
    def ordinary(self) -> bool:
        """Whether they are integers of a type that seldom has a scale, as positions and ids are."""
        return self.steps in _WIDE and self.scale is None and not self.derived

    def __str__(self) -> str:
        if self.steps is None:
            return "numbers"
        scale = "an unknown scale" if self.scale is None else str(self.scale)
        return f"{'computed from ' if self.derived else ''}{self.steps} of {scale}"


def _meaning(
    manifest: Manifest,
    record: TensorRecord,
    transforms: Sequence[object] | None,
    stored: str,
    result: str = "",
) -> Meaning:
    """Return the meaning of elements, without scales that are stored for each sample.

    Args:
        transforms: those that lead to the elements; None if they are unknown.
        stored: the dtype of the elements.
        result: the name of a further result of the transforms.
    """
    if transforms is None:
        unknown = record.spec.dtype if _integer(record.spec.dtype) else stored
        scale = _recorded(manifest, record)
        return Meaning(unknown, scale, derived=True) if _integer(unknown) else Meaning()
    used = tuple(names(transforms))
    if result.rstrip("0123456789") in _POSITIONS or any(name in _FINDING for name in used):
        return Meaning()
    if _integer(record.spec.dtype):
        derived = not all(name in _MOVING for name in used)
        return Meaning(record.spec.dtype, _recorded(manifest, record), derived)
    quantized = Quantize.name in used and not result
    return Meaning("int8", None, derived=True) if quantized else Meaning()


def _integer(dtype: str) -> bool:
    return dtype.startswith(("int", "uint"))


def _recorded(manifest: Manifest, record: TensorRecord) -> Scale | None:
    """Return the one scale that the model has recorded for a tensor; None if there is none."""
    recorded = manifest.model.get("quantized")
    if not isinstance(recorded, Mapping):
        return None
    match recorded.get(record.address):
        case [{"scale": int() | float() as scale, "zero_point": int() | float() as zero_point}]:
            return Scale(float(scale), float(zero_point))
        case _:
            return None


def _meaning_of(run: Run, view: TensorView) -> Meaning:
    transforms = view.transforms or ()
    used = list(names(transforms))
    times = used.count(Quantize.name)
    scales = f"{view.key}@{SCALE}{times if times > 1 else ''}"
    if view.result or not times or scales not in run:
        return _meaning(run.manifest, view.record, view.transforms, view.spec.dtype, view.result)
    after = used[len(used) - used[::-1].index(Quantize.name) :]
    if any(name in _FINDING for name in after):
        return Meaning()
    derived = times > 1 or _integer(view.record.spec.dtype)
    return Meaning("int8", Scale(run[scales]), derived or not all(n in _MOVING for n in after))


@dataclass(frozen=True, eq=False)
class Side:
    """One of two tensors to compare.

    Attributes:
        view: the tensor as stored.
        scale: the scale by which its integers become real numbers. None: compare them as stored.
    """

    view: TensorView
    scale: Scale | None = None

    @property
    def key(self) -> str:
        """The tensor's name in its run."""
        return self.view.key

    @property
    def constant(self) -> bool:
        """Whether the tensor has no samples."""
        return self.view.constant

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the elements to compare."""
        return self.view.dtype if self.scale is None else np.dtype(np.float32)

    def value(self) -> Array:
        """Return the elements of a constant."""
        stored = np.asarray(self.view)
        if self.scale is None:
            return stored
        own = self.scale.scale
        return self.scale.real(stored, own if isinstance(own, float) else np.asarray(own))

    def samples(self, numbers: Pairs) -> Iterator[Array]:
        """Yield the elements of some samples, unpadded."""
        stored = picked(self.view, numbers)
        if self.scale is None:
            yield from stored
            return
        own = self.scale.scale
        scales: Iterable[float | Array]
        scales = repeat(own, len(numbers)) if isinstance(own, float) else picked(own, numbers)
        for integers, scale in zip(stored, scales, strict=True):
            yield self.scale.real(integers, scale)


def side(run: Run, key: str) -> Side:
    """Return one tensor: as real numbers if each sample has its own scale, otherwise as stored."""
    view = run[key]
    meaning = _meaning_of(run, view)
    scale = meaning.scale if meaning.real else None
    return Side(view, None if scale is None or isinstance(scale.scale, float) else scale)


def sides(a: Run, one: str, b: Run, other: str) -> tuple[Side, Side]:
    """Return two tensors as they are to be compared.

    Integers of one scale are compared as stored, those of two scales as real numbers.

    Raises:
        IncomparableError: the numbers that the elements of one of them stand for are unknown.
    """
    views = a[one], b[other]
    meanings = _meaning_of(a, views[0]), _meaning_of(b, views[1])
    if _as_stored(*meanings):
        return Side(views[0]), Side(views[1])
    ours, theirs = Side(views[0], meanings[0].scale), Side(views[1], meanings[1].scale)
    known = all(meaning.real for meaning in meanings)
    if not known or {family(ours.dtype), family(theirs.dtype)} != {"real"}:
        raise IncomparableError(_reason(*meanings, *(view.dtype.name for view in views)))
    return ours, theirs


def check_statistics(a: Manifest, b: Manifest, keys: Sequence[str]) -> None:
    """Check that statistics of some tensors are of numbers of one meaning in both runs.

    Raises:
        IncomparableError: they are not.
    """
    ours, theirs = ({one.key: one for one in manifest.statistics} for manifest in (a, b))
    for one, other in ((ours[key], theirs[key]) for key in keys):
        of_a = _meaning(a, one.record, one.transforms, one.spec.dtype)
        of_b = _meaning(b, other.record, other.transforms, other.spec.dtype)
        both = (of_a.steps is None) == (of_b.steps is None)
        alike = both or _integer(one.spec.dtype) == _integer(other.spec.dtype)
        if not alike or not _as_stored(of_a, of_b):
            raise IncomparableError(_reason(of_a, of_b, one.spec.dtype, other.spec.dtype))


def _as_stored(one: Meaning, other: Meaning) -> bool:
    if one.steps is not None and other.steps is not None:
        return one.scale == other.scale
    return (one.steps is None and other.steps is None) or one.ordinary or other.ordinary


def _reason(one: Meaning, other: Meaning, dtype: str, other_dtype: str) -> str:
    types = f"{dtype} against {other_dtype}"
    unknown = [m for m in (one, other) if m.steps is not None and m.scale is None]
    if len(unknown) == 1 and not unknown[0].derived and (one.steps is None or other.steps is None):
        return f"{types}, and the integers have no recorded scale"
    return f"{types}: {one} in A and {other} in B, so that equal elements are not equal numbers"


@dataclass(frozen=True, eq=False)
class BlockPair:
    """Corresponding elements of both runs.

    Attributes:
        pairs: int64 (samples,), the pairs of samples that they belong to. A sample larger than a
            block is split over several.
        a, b: (samples, elements), each in the type of its side.
    """

    pairs: Pairs
    a: Array
    b: Array


_Pair = tuple[int, Array, Array]


def blocks(a: Side, b: Side, aligned: Alignment | None) -> Iterator[BlockPair]:
    """Yield all corresponding elements in the order of the pairs. A constant is one pair, number 0.

    Args:
        aligned: the pairs of samples; None for constants.

    Raises:
        IncomparableError: the shapes of a sample differ.
        RunDirectoryError: a shard is missing or damaged.
    """
    pairs = _constants(a, b) if aligned is None else _samples(a, b, aligned)
    waiting: list[_Pair] = []
    size = 0
    for pair in pairs:
        alike = not waiting or pair[1].size == waiting[0][1].size
        if not alike or size + pair[1].size > ELEMENTS:
            yield from _joined(waiting)
            waiting, size = [], 0
        waiting.append(pair)
        size += pair[1].size
    yield from _joined(waiting)


def _joined(pairs: Sequence[_Pair]) -> Iterator[BlockPair]:
    """Yield samples of one size side by side, and a sample that is too large in several blocks."""
    if not pairs:
        return
    numbers = np.array([number for number, _, _ in pairs], np.int64)
    a = np.stack([one.reshape(-1) for _, one, _ in pairs])
    b = np.stack([other.reshape(-1) for _, _, other in pairs])
    for start in range(0, max(a.shape[1], 1), ELEMENTS):
        yield BlockPair(numbers, a[:, start : start + ELEMENTS], b[:, start : start + ELEMENTS])


def _constants(a: Side, b: Side) -> Iterator[_Pair]:
    one, other = a.value(), b.value()
    _check(one, other, "")
    yield 0, one, other


def _samples(a: Side, b: Side, aligned: Alignment) -> Iterator[_Pair]:
    both = zip(a.samples(aligned.a), b.samples(aligned.b), strict=True)
    for pair, (one, other) in enumerate(both):
        if one.shape != other.shape:
            _check(one, other, f"sample {aligned.sample(pair).id!r}: ")
        yield pair, one, other


def _check(one: Array, other: Array, of: str) -> None:
    if one.shape != other.shape:
        raise IncomparableError(f"{of}shape {list(one.shape)} against {list(other.shape)}")


def picked(view: TensorView, numbers: Pairs) -> Iterable[Array]:
    """Return some samples, unpadded. In ascending order, every shard is read once."""
    if np.any(np.diff(numbers) <= 0):
        return (view.sample(int(number)) for number in numbers)
    return _ascending(view, numbers)


def _ascending(view: TensorView, numbers: Pairs) -> Iterator[Array]:
    wanted = iter(numbers.tolist())
    following = next(wanted, None)
    if following is None:
        return
    for number, value in enumerate(view):
        if number == following:
            yield value
            following = next(wanted, None)
            if following is None:
                return
