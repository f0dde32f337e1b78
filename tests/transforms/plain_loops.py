"""Each transform of one sample as plain loops over its elements, in Python's numbers."""

import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from extractkit.core.transforms import Array, Operand
from extractkit.core.transforms.projection import random_signs

Number = float | int


def number(element: Any) -> Number:
    kind = np.asarray(element).dtype.kind
    return int(element) if kind in "iub" else float(element)


def axes_of(names: object, operand: Operand) -> list[int]:
    """Positions of axes in a sample, which has no axis of samples."""
    every = list(range(len(operand.axes) - 1))
    if names in ("*", None):
        return every
    listed = names if isinstance(names, list) else [names]
    own = operand.axes[1:]
    return [at for at in every if any(n in (own[at].number, own[at].dim.label) for n in listed)]


def groups(sample: Array, over: Sequence[int]) -> Iterator[tuple[tuple[int, ...], list[Number]]]:
    """Yield the index along the other axes, and the elements over these axes in C order."""
    kept = [axis for axis in range(sample.ndim) if axis not in over]
    for outer in np.ndindex(*(sample.shape[axis] for axis in kept)):
        elements = []
        for inner in np.ndindex(*(sample.shape[axis] for axis in over)):
            index = [0] * sample.ndim
            for axis, at in zip([*kept, *over], [*outer, *inner], strict=True):
                index[axis] = at
            elements.append(number(sample[tuple(index)]))
        yield outer, elements


def mean(n: list[Number]) -> float:
    return math.fsum(n) / len(n) if n else math.nan


def variance(n: list[Number]) -> float:
    return mean([(one - mean(n)) ** 2 for one in n])


def extreme(choose: Callable[..., Number]) -> Callable[[list[Number]], Number]:
    return lambda n: choose(n) if n else math.nan


REDUCTIONS: dict[str, Callable[[list[Number]], Number]] = {
    "mean": mean,
    "sum": lambda n: sum(n) if all(isinstance(one, int) for one in n) else math.fsum(n),
    "min": extreme(min),
    "max": extreme(max),
    "norm": lambda n: math.sqrt(math.fsum(float(one) ** 2 for one in n)),
    "var": variance,
    "std": lambda n: math.sqrt(variance(n)),
}


def reduced(function: Callable[[list[Number]], Any], sample: Array, over: Sequence[int]) -> Any:
    kept = [size for axis, size in enumerate(sample.shape) if axis not in over]
    found = np.empty(kept, object)
    for outer, elements in groups(sample, over):
        found[outer] = function(elements)
    return found


def quantile(n: list[Number], q: float) -> float:
    if not n:
        return math.nan
    ordered = sorted(map(float, n))
    at = q * (len(n) - 1)
    position = math.floor(at)
    low, high = ordered[position], ordered[min(position + 1, len(n) - 1)]
    if any(map(math.isnan, ordered)):
        return math.nan
    if at == position or low == high:
        return low
    if math.isinf(low) or math.isinf(high):
        return low + high
    return float(Fraction(low) + (Fraction(high) - Fraction(low)) * Fraction(at - position))


def order(n: list[Number], smallest: bool) -> list[int]:
    """Positions by size; equal elements keep their order, and NaN is infinite."""
    sizes = [(-math.inf if smallest else math.inf) if one != one else one for one in n]
    return sorted(range(len(n)), key=lambda at: sizes[at] if smallest else -sizes[at])


def smallest_of(dtype: np.dtype[Any]) -> int:
    return 0 if dtype.kind == "b" else int(np.iinfo(dtype).min)


def largest_of(dtype: np.dtype[Any]) -> int:
    return 1 if dtype.kind == "b" else int(np.iinfo(dtype).max)


def plain(name: str, options: Any, operand: Operand, sample: Array) -> list[Any] | None:
    """The results, nested as arrays of Python's numbers; None for those without a plain form."""
    if name in ("min", "max") and sample.dtype.kind in "iub":
        nothing = smallest_of(sample.dtype) if name == "max" else largest_of(sample.dtype)
        choose = min if name == "min" else max
        over = axes_of(options, operand)
        return [reduced(lambda n: choose(n) if n else nothing, sample, over)]
    if name in REDUCTIONS:
        return [reduced(REDUCTIONS[name], sample, axes_of(options, operand))]
    if name in ("argmax", "argmin"):
        (axis,) = axes_of(options, operand)
        return [reduced(lambda n: order(n, name == "argmin")[0] if n else -1, sample, [axis])]
    if name == "quantile":
        over, q = axes_of(options["axis"], operand), options["q"]
        if not isinstance(q, list):
            return [reduced(lambda n: quantile(n, q), sample, over)]
        each = [reduced(lambda n, one=one: quantile(n, one), sample, over) for one in q]
        return [np.stack(each, -1)]
    if name == "histogram":
        over, edges = axes_of(options["axis"], operand), options["edges"]
        last = len(edges) - 2
        each = [
            reduced(
                lambda n, at=at: sum(
                    edges[at] <= one < edges[at + 1] or (at == last and one == edges[-1])
                    for one in n
                ),
                sample,
                over,
            )
            for at in range(last + 1)
        ]
        return [np.stack(each, -1)]
    if name == "topk":
        (axis,) = axes_of(options["axis"], operand)
        count = min(options["k"], sample.shape[axis])
        shape = [count if at == axis else size for at, size in enumerate(sample.shape)]
        values, positions = np.empty(shape, object), np.empty(shape, object)
        for outer, elements in groups(sample, [axis]):
            for rank, at in enumerate(order(elements, options["smallest"])[:count]):
                index = (*outer[:axis], rank, *outer[axis:])
                values[index], positions[index] = elements[at], at
        return [values, positions]
    if name == "sparsify":
        indices = list(np.ndindex(*sample.shape))
        sizes = [abs(number(sample[index])) for index in indices]
        kept = sorted(order(sizes, smallest=False)[:options])
        values = np.array([number(sample[indices[at]]) for at in kept], object)
        shape = (len(kept), sample.ndim)
        return [values, np.array([indices[at] for at in kept], object).reshape(shape)]
    if name == "pool":
        return [pooled(options, axes_of(options["axis"], operand)[0], sample)]
    if name == "project":
        (axis,) = axes_of(options["axis"], operand)
        signs = random_signs(sample.shape[axis], options["to"], options["seed"])
        each = [
            reduced(
                lambda n, c=c: math.fsum(
                    float(one) * signs[at, c] / math.sqrt(options["to"]) for at, one in enumerate(n)
                ),
                sample,
                [axis],
            )
            for c in range(options["to"])
        ]
        return [np.stack(each, axis)]
    if name in ("softmax", "normalize"):
        over = axes_of(options, operand)
        found = np.empty(sample.shape, object)
        for outer, elements in groups(sample, over):
            kept = [axis for axis in range(sample.ndim) if axis not in over]
            if name == "softmax":
                powers = [math.exp(one - max(elements)) for one in elements]
                new = [one / math.fsum(powers) for one in powers]
            else:
                norm = REDUCTIONS["norm"](elements)
                new = [one / norm if norm else 0.0 for one in elements]
            inner = np.ndindex(*(sample.shape[axis] for axis in over))
            for value, within in zip(new, inner, strict=True):
                index = [0] * sample.ndim
                for axis, at in zip([*kept, *over], [*outer, *within], strict=True):
                    index[axis] = at
                found[tuple(index)] = value
        return [found]
    if name == "channels_last":
        named = [at for at, axis in enumerate(operand.axes[1:]) if axis.dim.name == "channel"]
        (axis,) = named if len(named) == 1 else (sample.ndim - 1,)
        rest = (*sample.shape[:axis], *sample.shape[axis + 1 :])
        found = np.empty((*rest, *sample.shape[axis : axis + 1]), object)
        for index in np.ndindex(*sample.shape):
            moved = (*index[:axis], *index[axis + 1 :], *index[axis : axis + 1])
            found[moved] = number(sample[index])
        return [found]
    most = largest_of(sample.dtype) if sample.dtype.kind in "iub" else math.inf
    elements = {
        "abs": lambda one: min(abs(one), most),
        "threshold": lambda one: one if abs(one) >= options else 0,
    }
    if name in elements:
        found = np.empty(sample.shape, object)
        for index in np.ndindex(*sample.shape):
            found[index] = elements[name](number(sample[index]))
        return [found]
    return None


def pooled(options: Any, axis: int, sample: Array) -> Array:
    window, stride = options["window"], options["stride"]
    count = -(-sample.shape[axis] // stride)
    shape = [count if at == axis else size for at, size in enumerate(sample.shape)]
    found = np.empty(shape, object)
    for outer, elements in groups(sample, [axis]):
        for at in range(count):
            inside = elements[at * stride : at * stride + window]
            found[(*outer[:axis], at, *outer[axis:])] = REDUCTIONS[options["op"]](inside)
    return found
