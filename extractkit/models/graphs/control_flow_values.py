"""Numbers of a graph that constants alone decide: predicates of branches, dropout that is off.

Ranges are followed through a graph. Dropout that keeps everything adds 1 to a random number below 1
and rounds down, or asks whether it is at least 0: randomness goes in, and none comes out.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from extractkit.models.graphs.imported import AnyGraph, AnyTensor, static_value


@dataclass(frozen=True)
class Range:
    """Where every element of a tensor lies: low … high; `below`: high itself is never reached."""

    low: float
    high: float
    below: bool = False

    @property
    def known(self) -> bool:
        """Whether every element has one and the same known value."""
        return self.low == self.high and not self.below


_RANDOM = ("RandomUniform", "StatelessRandomUniform", "StatelessRandomUniformV2")
_PASS = ("Identity", "Enter", "Switch", "StopGradient", "PlaceholderWithDefault", "Cast")


def known_ranges(graph: AnyGraph, fed: frozenset[str]) -> dict[str, Range]:
    """Ranges of tensors by name (`op:0`), where they can be told.

    Args:
        fed: names of the tensors that are fed: whatever they would be, nothing is known of them.
    """
    ranges: dict[str, Range] = {}
    for operation in graph.get_operations():
        found = _range(operation, [ranges.get(tensor.name) for tensor in operation.inputs])
        if found is not None:
            ranges |= {t.name: found for t in operation.outputs if t.name not in fed}
    return ranges


def _range(operation: Any, inputs: list[Range | None]) -> Range | None:
    kind = operation.type.removeprefix("Ref")
    if kind == "Const":
        return _constant(operation.outputs[0])
    if kind in _RANDOM and operation.outputs[0].dtype.is_floating:
        return Range(0.0, 1.0, below=True)
    given = [one for one in inputs if one is not None]
    if len(given) != len(inputs) and kind != "Switch":
        return None
    if kind in _PASS:
        # Rounding towards another type may reach what is never reached.
        exact = inputs[0] is not None and (kind != "Cast" or inputs[0].known)
        return inputs[0] if exact else None
    rule = _RULES.get(kind)
    return None if rule is None else rule(*given)


def _constant(tensor: AnyTensor) -> Range | None:
    dtype = tensor.dtype
    if tensor.shape.num_elements() != 1 or not (
        dtype.is_floating or dtype.is_integer or dtype.is_bool
    ):
        return None
    value = float(static_value(tensor).reshape(-1)[0])
    return None if math.isnan(value) else Range(value, value)


def _sum(one: Range, other: Range) -> Range:
    return Range(one.low + other.low, one.high + other.high, one.below or other.below)


def _difference(one: Range, other: Range) -> Range | None:
    if not other.known:
        return None
    return Range(one.low - other.low, one.high - other.low, one.below)


def _product(one: Range, other: Range) -> Range | None:
    if not other.known:
        one, other = other, one
    if not other.known or other.low <= 0:
        return None
    return Range(one.low * other.low, one.high * other.low, one.below)


def _floor(one: Range) -> Range | None:
    if not math.isfinite(one.low) or not math.isfinite(one.high):
        return None
    highest = math.ceil(one.high) - 1 if one.below else math.floor(one.high)
    return Range(math.floor(one.low), highest)


def _at_least(one: Range, other: Range) -> Range | None:
    if one.low >= other.high:
        return Range(1.0, 1.0)
    return Range(0.0, 0.0) if one.high < other.low else None


def _not(one: Range) -> Range | None:
    return Range(1 - one.low, 1 - one.low) if one.known else None


_RULES: Mapping[str, Callable[..., Range | None]] = {
    "Add": _sum,
    "AddV2": _sum,
    "Sub": _difference,
    "Mul": _product,
    "Floor": _floor,
    "GreaterEqual": _at_least,
    "LogicalNot": _not,
}
