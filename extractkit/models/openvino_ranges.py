"""Ranges of the floats in a graph, and the tensors in which NaN or infinity may appear.

OpenVINO computes with NaN otherwise than TensorFlow: maxima, ReLU and clipping turn NaN into a
number, and the exponential function makes infinity of it. So it gets batches in which everything
is finite. For most tensors this follows from the ranges of the inputs, operation by operation.
Others are checked in every batch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, inf, log, log1p, sqrt
from typing import Any

import numpy as np
import tensorflow as tf

LIMIT = 1e12
"""The largest float that is given to OpenVINO, and the bound for the elements of checked tensors.

Squares of such numbers, and sums of those, can be represented.
"""

Range = tuple[float, float]
"""The least and the greatest element of a tensor."""

_LARGEST = float(np.finfo(np.float32).max)
_MOST_ELEMENTS = 2.0**31
_CHECKED: Range = (-LIMIT, LIMIT)


@dataclass(frozen=True)
class Checks:
    """What has to be checked of a batch, so that all floats of a graph are finite.

    Attributes:
        within: Tensors whose elements have to be within `LIMIT`.
        filled: Tensors that must have elements, since a mean or maximum of none is not a number.
    """

    within: Sequence[tf.Tensor]
    filled: Sequence[tf.Tensor]


def checks(graph: tf.Graph, inputs: Sequence[str], integers: Mapping[str, int]) -> Checks:
    """Return what has to be checked of a batch whose own floats are within `LIMIT`.

    Args:
        inputs: The names of the graph's inputs.
        integers: The largest integer of each tensor, by name. Others hold sizes.
    """
    ranges = _Ranges(dict.fromkeys(inputs, _CHECKED), integers)
    operations = [one for one in graph.get_operations() if _floats(one.outputs)]
    positions = {operation.name: at for at, operation in enumerate(operations)}
    at = 0
    while at < len(operations):
        source = ranges.add(operations[at])
        # Ranges after a check are smaller.
        at = at + 1 if source is None else positions[source.name] + 1
    filled = {
        operation.inputs[0].name: operation.inputs[0]
        for operation in operations
        if operation.type in _OF_ELEMENTS and not _has_elements(operation)
    }
    return Checks(list(ranges.checked.values()), list(filled.values()))


@dataclass(frozen=True, eq=False)
class _Ranges:
    """Ranges of tensors by name, and the tensors that are checked."""

    known: dict[str, Range]
    integers: Mapping[str, int]
    checked: dict[str, tf.Tensor] = field(default_factory=dict)

    def add(self, operation: Any) -> Any:
        """Add the ranges of an operation's results, checked if they may not be finite.

        Returns:
            None, or the operation whose result is checked instead, since it is an input of this.
        """
        results = _floats(operation.outputs)
        given = _floats(operation.inputs)
        if operation.type == "Placeholder":
            return None
        found = self._range(operation, given)
        if found is not None and max(map(abs, found)) > _LARGEST:
            largest = max(given, key=self._size_of, default=None)
            if largest is not None and self._size_of(largest) > LIMIT:
                self._check(largest)
                return largest.op
            found = None
        for one in results:
            self.known[one.name] = found or _CHECKED
            if found is None or one.name in self.checked:
                self._check(one)
        return None

    def _size_of(self, tensor: tf.Tensor) -> float:
        return _size(self.known[tensor.name])

    def _check(self, tensor: tf.Tensor) -> None:
        self.checked[tensor.name] = tensor
        least, greatest = self.known[tensor.name]
        self.known[tensor.name] = (max(least, -LIMIT), min(greatest, LIMIT))

    def _range(self, operation: Any, given: Sequence[tf.Tensor]) -> Range | None:
        """Return the range of an operation's results. None if it does not follow from the inputs.

        A range that is too large may become smaller by checks of the inputs.
        """
        if operation.type == "Cast" and not given:
            return self._of_cast(operation.inputs[0])
        if operation.type not in _RULES:
            return None
        try:
            return _RULES[operation.type](operation, [self.known[one.name] for one in given])
        except OverflowError:
            return (-inf, inf)
        except (ValueError, ZeroDivisionError):  # outside of the function's domain
            return None

    def _of_cast(self, source: tf.Tensor) -> Range:
        if source.dtype == tf.bool:
            return (0.0, 1.0)
        largest = float(self.integers.get(source.name, _MOST_ELEMENTS))
        return (-largest, largest)


def _floats(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    return [one for one in tensors if one.dtype.is_floating]


# ---------------------------------------------------------------------------- rules

_Rule = Callable[[Any, Sequence[Range]], Range]
"""Returns the range of an operation's results for those of the floats among its inputs."""


def _hull(*ranges: Range) -> Range:
    return min(least for least, _ in ranges), max(greatest for _, greatest in ranges)


def _size(one: Range) -> float:
    return max(map(abs, one))


def _within(least: float, greatest: float) -> _Rule:
    return lambda operation, given: (least, greatest)


def _rising(function: Callable[[float], float]) -> _Rule:
    return lambda operation, given: (function(given[0][0]), function(given[0][1]))


def _of_pairs(function: Callable[[float, float], float]) -> _Rule:
    """Return the rule for a function that is monotonic in both of its arguments.

    Its bounds are rounded as the function's results are.
    """

    def rule(operation: Any, given: Sequence[Range]) -> Range:
        one, other = given
        with np.errstate(over="ignore"):
            found = [float(np.float32(function(x, y))) for x in one for y in other]
        return min(found), max(found)

    return rule


def _moved(operation: Any, given: Sequence[Range]) -> Range:
    return _hull(*given)


def _padded(operation: Any, given: Sequence[Range]) -> Range:
    return _hull(*given, (0.0, 0.0))


def _constant(operation: Any, given: Sequence[Range]) -> Range:
    value = tf.get_static_value(operation.outputs[0])
    if not value.size:
        return (0.0, 0.0)
    if not np.isfinite(value).all():
        raise ValueError("A constant is not finite")
    return float(value.min()), float(value.max())


def _sum(operation: Any, given: Sequence[Range]) -> Range:
    largest = _size(given[0]) * _elements(operation.inputs[0])
    return (0.0 if given[0][0] >= 0 else -largest), largest


def _mean(operation: Any, given: Sequence[Range]) -> Range:
    if _size(given[0]) * _MOST_ELEMENTS > _LARGEST:
        raise OverflowError("The sum is too large")
    return given[0]


_OF_ELEMENTS = ("Mean", "Max", "Min")
"""Operations that OpenVINO computes otherwise over no elements."""


def _has_elements(operation: Any) -> bool:
    """Return whether an operation reduces at least one element in each batch."""
    shape, axes = operation.inputs[0].shape, tf.get_static_value(operation.inputs[1])
    return shape.rank is not None and axes is not None and all(shape[at] for at in np.ravel(axes))


def _elements(tensor: tf.Tensor) -> float:
    return float(tensor.shape.num_elements() or 0) or _MOST_ELEMENTS


def _product(operation: Any, given: Sequence[Range]) -> Range:
    """Return the range of sums of products, as of a matrix product or a convolution."""
    tensors, (one, other) = _floats(operation.inputs), given
    bounds = [_size(one) * _size(other) * min(map(_elements, tensors))]
    for tensor, factor in zip(tensors, (other, one), strict=True):
        if (value := _value(tensor)) is not None:
            bounds.append(float(np.abs(value).sum(dtype=np.float64)) * _size(factor))
    largest = 1.01 * min(bounds)  # rounding adds less
    return -largest, largest


_REORDERED = ("Identity", "Reshape", "Transpose", "ExpandDims", "Squeeze")


def _value(tensor: tf.Tensor) -> Any:
    """Return the elements of a constant in any order and shape. None if it is not known."""
    while tensor.op.type in _REORDERED:
        tensor = tensor.op.inputs[0]
    return tf.get_static_value(tensor) if tensor.op.type == "Const" else None


def _times(operation: Any, given: Sequence[Range]) -> Range:
    one, other = operation.inputs
    return (_square if one is other else _of_pairs(lambda x, y: x * y))(operation, given)


def _quotient(operation: Any, given: Sequence[Range]) -> Range:
    if given[1][0] <= 0 <= given[1][1]:
        raise ZeroDivisionError
    return _of_pairs(lambda x, y: x / y)(operation, given)


def _square(operation: Any, given: Sequence[Range]) -> Range:
    return 0.0, _size(given[0]) ** 2


def _squared_difference(operation: Any, given: Sequence[Range]) -> Range:
    return 0.0, (_size(given[0]) + _size(given[1])) ** 2


def _power(operation: Any, given: Sequence[Range]) -> Range:
    base, (exponent, greatest) = given
    whole = exponent.is_integer() and exponent >= 1
    if exponent != greatest or not (whole or base[0] > 0 or (base[0] == 0 and exponent > 0)):
        raise ValueError("A power may not be finite")
    least = 0.0 if base[0] >= 0 else -(_size(base) ** exponent)
    return least, max(_size(base) ** exponent, base[0] ** exponent)


def _leaky(operation: Any, given: Sequence[Range]) -> Range:
    alpha = operation.get_attr("alpha")
    (least, greatest) = given[0]
    return _hull((least, greatest), (alpha * least, alpha * greatest))


def _normalized(operation: Any, given: Sequence[Range]) -> Range:
    """Return the range of batch normalisation with constants."""
    x, scale, offset, mean, variance = given
    if operation.get_attr("is_training"):
        raise ValueError("Statistics of the batch")
    root = sqrt(variance[0] + operation.get_attr("epsilon"))
    largest = (_size(x) + _size(mean)) * _size(scale) / root + _size(offset)
    return _hull((-largest, largest), mean, variance)


_RULES: Mapping[str, _Rule] = {
    "Const": _constant,
    **dict.fromkeys(
        (
            *("Identity", "StopGradient", "PreventGradient", "CheckNumerics", "Cast", "IdentityN"),
            *("Reshape", "ExpandDims", "Squeeze", "Transpose", "ConcatV2", "Pack", "Unpack"),
            *("Slice", "StridedSlice", "Split", "SplitV", "Tile", "BroadcastTo", "Fill"),
            *("Select", "SelectV2", "Gather", "GatherV2", "GatherNd", "ReverseV2", "Max", "Min"),
            *("MaxPool", "MaxPool3D", "MirrorPad", "PadV2", "DepthToSpace", "SpaceToDepth"),
            *("ResizeBilinear", "ResizeNearestNeighbor"),
        ),
        _moved,
    ),
    **dict.fromkeys(("Pad", "SpaceToBatchND", "BatchToSpaceND", "OneHot", "ZerosLike"), _padded),
    **dict.fromkeys(("Mean", "AvgPool", "AvgPool3D"), _mean),
    **dict.fromkeys(("Sum", "Cumsum"), _sum),
    **dict.fromkeys(("Add", "AddV2", "BiasAdd"), _of_pairs(lambda x, y: x + y)),
    "Sub": _of_pairs(lambda x, y: x - y),
    "Mul": _times,
    "Maximum": _of_pairs(max),
    "Minimum": _of_pairs(min),
    **dict.fromkeys(("RealDiv", "Div"), _quotient),
    **dict.fromkeys(
        (
            *("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum"),
            *("Conv2D", "Conv3D", "DepthwiseConv2dNative"),
        ),
        _product,
    ),
    **dict.fromkeys(("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"), _normalized),
    "Square": _square,
    "SquaredDifference": _squared_difference,
    "Pow": _power,
    "Abs": lambda operation, given: (0.0, _size(given[0])),
    "Neg": lambda operation, given: (-given[0][1], -given[0][0]),
    "Relu": _rising(lambda x: max(x, 0.0)),
    "Relu6": _within(0.0, 6.0),
    "LeakyRelu": _leaky,
    "Elu": _rising(lambda x: max(x, -1.0)),
    "Selu": _rising(lambda x: max(1.06 * x, -1.76)),
    "Softplus": lambda operation, given: (0.0, max(given[0][1], 0.0) + 1.0),
    "Exp": _rising(exp),
    "Log": _rising(log),
    "Log1p": _rising(log1p),
    "Sqrt": _rising(sqrt),
    "Rsqrt": lambda operation, given: (0.0, 1.0 / sqrt(given[0][0])),
    **dict.fromkeys(("Sigmoid", "Softmax"), _within(0.0, 1.0)),
    **dict.fromkeys(("Tanh", "Erf", "Sin", "Cos", "Sign", "Softsign"), _within(-1.0, 1.0)),
    "Erfc": _within(0.0, 2.0),
    **dict.fromkeys(
        ("Floor", "Ceil", "Round", "Rint"),
        lambda operation, given: (given[0][0] - 1.0, given[0][1] + 1.0),
    ),
}
