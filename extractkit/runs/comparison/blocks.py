"""Two tensors read side by side in blocks of bounded size, a shard of each in memory at a time."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from extractkit.runs.comparison.alignment import Alignment, Pairs
from extractkit.runs.views import TensorView
from extractkit.values import Array

ELEMENTS = 1 << 16
"""Most elements in a block: as 64-bit floats 0.5 MB, of which a processor's cache holds several."""


class IncomparableError(Exception):
    """Two tensors have no elements that correspond; the message says why."""


@dataclass(frozen=True, eq=False)
class Block:
    """Corresponding elements of both runs.

    Attributes:
        pairs: int64 (samples,), which pairs of samples they are of. A sample that is larger than a
            block comes in several.
        a, b: (samples, elements), each in its run's own dtype.
    """

    pairs: Pairs
    a: Array
    b: Array


_Pair = tuple[int, Array, Array]


def blocks(a: TensorView, b: TensorView, aligned: Alignment) -> Iterator[Block]:
    """All corresponding elements, in the order of the pairs. A constant is one pair, number 0.

    Raises:
        IncomparableError: the shapes of a sample differ.
        RunDirectoryError: a shard is missing or damaged.
    """
    pairs = _constants(a, b) if a.constant else _samples(a, b, aligned)
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


def _joined(pairs: Sequence[_Pair]) -> Iterator[Block]:
    """Samples of one size side by side; one that is too large on its own, in pieces."""
    if not pairs:
        return
    numbers = np.array([number for number, _, _ in pairs], np.int64)
    a = np.stack([one.reshape(-1) for _, one, _ in pairs])
    b = np.stack([other.reshape(-1) for _, _, other in pairs])
    for start in range(0, max(a.shape[1], 1), ELEMENTS):
        yield Block(numbers, a[:, start : start + ELEMENTS], b[:, start : start + ELEMENTS])


def _constants(a: TensorView, b: TensorView) -> Iterator[_Pair]:
    one, other = np.asarray(a), np.asarray(b)
    _check(one, other, "")
    yield 0, one, other


def _samples(a: TensorView, b: TensorView, aligned: Alignment) -> Iterator[_Pair]:
    both = zip(_picked(a, aligned.a), _picked(b, aligned.b), strict=True)
    for pair, (one, other) in enumerate(both):
        if one.shape != other.shape:
            _check(one, other, f"sample {aligned.place(pair).id!r}: ")
        yield pair, one, other


def _check(one: Array, other: Array, of: str) -> None:
    if one.shape != other.shape:
        raise IncomparableError(f"{of}shape {list(one.shape)} against {list(other.shape)}")


def _picked(view: TensorView, numbers: Pairs) -> Iterable[Array]:
    """Some samples, unpadded. In ascending order every shard is read once."""
    if np.any(np.diff(numbers) <= 0):
        return (view.sample(int(number)) for number in numbers)
    return _passing(view, numbers)


def _passing(view: TensorView, numbers: Pairs) -> Iterator[Array]:
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
