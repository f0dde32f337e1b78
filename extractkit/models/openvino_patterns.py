"""Patterns of TensorFlow graphs that OpenVINO has faster operations for, but does not recognise.

Each pass replaces the last tensor of a pattern for all of its consumers. Tensors within a pattern
stay for those that consume them as well, such as results.
"""

from math import prod, sqrt
from typing import Any

import numpy as np
import openvino
from openvino import opset13
from openvino.passes import AnyInput, Manager, Matcher, MatcherPass, WrapType

from extractkit.core.values import Array


def simplify(model: openvino.Model) -> dict[str, int]:
    """Replace all patterns in a model, in place. Return the number of each by name."""
    passes = [LayerNormalization(), ExactGelu(), DenseOfLastAxis(), EinsumDense()]
    manager = Manager()
    for one in passes:
        manager.register_pass(one)
    manager.run_passes(model)
    return {type(one).__name__: one.found for one in passes}


class _Pattern(MatcherPass):
    """A pattern, declared by its last operation."""

    def __init__(self) -> None:
        super().__init__()
        self.found = 0
        last = self.pattern()

        def replace(matcher: Any) -> bool:
            tensors = matcher.get_pattern_value_map()
            new = self.replacement(tensors)
            if new is None:
                return False
            for consumer in tensors[last].get_target_inputs():
                consumer.replace_source_output(new.output(0))
            self.found += 1
            return True

        # The matcher lives as long as the pass does.
        self.matcher = Matcher(last, type(self).__name__)
        self.register_matcher(self.matcher, replace)

    def pattern(self) -> Any:
        """Return the last operation of the pattern."""
        raise NotImplementedError

    def replacement(self, tensors: Any) -> Any:
        """Return the operation that replaces it, or None if it does not compute the same."""
        raise NotImplementedError


def _op(name: str, *inputs: Any) -> Any:
    return WrapType(f"opset13.{name}", [*inputs]) if inputs else WrapType(f"opset13.{name}")


def _constant(tensor: Any) -> Array:
    value: Array = tensor.get_node().data
    return value


def _is(tensor: Any, number: float) -> bool:
    value = _constant(tensor)
    return value.size == 1 and bool(np.float32(value.item()) == np.float32(number))


class LayerNormalization(_Pattern):
    """Layer normalisation in the form of batch normalisation, as Keras writes it.

    `x * w + (beta - mean * w)` with `w = gamma / sqrt(variance + epsilon)` becomes `MVN`.
    """

    def pattern(self) -> Any:
        """See `_Pattern`."""
        self.x, self.gamma, self.beta = AnyInput(), AnyInput(), AnyInput()
        self.axes, self.other_axes = _op("Constant"), _op("Constant")
        self.epsilon, self.exponent = _op("Constant"), _op("Constant")
        self.mean = _op("ReduceMean", self.x, self.axes)
        squares = _op("SquaredDifference", self.x, self.mean)
        self.variance = _op("ReduceMean", squares, self.other_axes)
        root = _op("Power", _op("Add", self.variance, self.epsilon), self.exponent)
        weight = _op("Multiply", root, self.gamma)
        shift = _op("Multiply", _op("Negative", self.mean), weight)
        return _op("Add", _op("Multiply", self.x, weight), _op("Add", shift, self.beta))

    def replacement(self, tensors: Any) -> Any:
        """See `_Pattern`."""
        axes = _constant(tensors[self.axes]).astype(np.int64)
        kept = (
            tensors[one].get_node().get_attributes()["keep_dims"]
            for one in (self.mean, self.variance)
        )
        same = np.array_equal(axes, _constant(tensors[self.other_axes]))
        epsilon = _constant(tensors[self.epsilon])
        if not (same and all(kept) and epsilon.size == 1 and _is(tensors[self.exponent], -0.5)):
            return None
        # MVN has the shape of x, but gamma and beta could broadcast it.
        rank = len(tensors[self.x].get_partial_shape())
        if any(len(tensors[one].get_partial_shape()) > rank for one in (self.gamma, self.beta)):
            return None
        normal = opset13.mvn(tensors[self.x], axes, True, epsilon.item(), "inside_sqrt")
        return opset13.add(opset13.multiply(normal, tensors[self.gamma]), tensors[self.beta])


class ExactGelu(_Pattern):
    """GELU by the complementary error function: `x / 2 * (1 - erf(-x / sqrt(2)))`."""

    def pattern(self) -> Any:
        """See `_Pattern`."""
        self.x = AnyInput()
        self.half, self.root, self.one = _op("Constant"), _op("Constant"), _op("Constant")
        scaled = _op("Multiply", _op("Negative", self.x), self.root)
        complement = _op("Subtract", self.one, _op("Erf", scaled))
        return _op("Multiply", _op("Multiply", self.half, self.x), complement)

    def replacement(self, tensors: Any) -> Any:
        """See `_Pattern`."""
        wanted = {self.half: 0.5, self.root: sqrt(0.5), self.one: 1.0}
        if not all(_is(tensors[one], number) for one, number in wanted.items()):
            return None
        return opset13.gelu(tensors[self.x], "erf")


class DenseOfLastAxis(_Pattern):
    """A dense layer on the last axis, written as a product of two matrices.

    TensorFlow reshapes to rows and back, by shapes that it computes in every call.
    """

    def pattern(self) -> Any:
        """See `_Pattern`."""
        self.x, self.kernel, self.order = AnyInput(), _op("Constant"), _op("Constant")
        rows = _op("Reshape", _op("Transpose", self.x, self.order), AnyInput())
        self.product = _op("MatMul", rows, self.kernel)
        self.result = _op("Reshape", self.product, AnyInput())
        return self.result

    def replacement(self, tensors: Any) -> Any:
        """See `_Pattern`."""
        order = _constant(tensors[self.order]).tolist()
        attributes = tensors[self.product].get_node().get_attributes()
        kernel = _constant(tensors[self.kernel])
        taken = tensors[self.x].get_partial_shape()
        given = tensors[self.result].get_partial_shape()
        ranks = not taken.rank.is_dynamic and not given.rank.is_dynamic
        if (
            order != list(range(len(order)))
            or attributes["transpose_a"]
            or attributes["transpose_b"]
            or kernel.ndim != 2
            or not ranks
            or len(taken) != len(given)
            or not _same(taken[len(taken) - 1], kernel.shape[0])
            or not _same(given[len(given) - 1], kernel.shape[1])
            or not self._restores(tensors)
        ):
            return None
        return opset13.matmul(tensors[self.x], tensors[self.kernel], False, False)

    def _restores(self, tensors: Any) -> bool:
        """Return whether the second reshape takes the leading sizes from the tensor itself."""
        target = tensors[self.result].get_node().input_value(1).get_node()
        if target.get_type_name() != "Concat" or target.get_input_size() != 2:
            return False
        leading = target.input_value(0).get_node()
        if leading.get_type_name() != "Gather":
            return False
        source, positions, axis = (leading.input_value(at).get_node() for at in range(3))
        return bool(
            source.get_type_name() == "ShapeOf"
            and source.input_value(0) == tensors[self.x]
            and positions.get_type_name() == axis.get_type_name() == "Constant"
            and positions.data.tolist() == list(range(len(tensors[self.x].get_partial_shape()) - 1))
            and axis.data.tolist() == 0
        )


class EinsumDense(_Pattern):
    """A product with a kernel over the last axes, written as an `Einsum`: `abc,cde->abde`."""

    def pattern(self) -> Any:
        """See `_Pattern`."""
        self.x, self.kernel = AnyInput(), _op("Constant")
        self.result = _op("Einsum", self.x, self.kernel)
        return self.result

    def replacement(self, tensors: Any) -> Any:
        """See `_Pattern`."""
        equation = tensors[self.result].get_node().get_attributes()["equation"].replace(" ", "")
        taken, _, rest = equation.partition(",")
        kernel_axes, _, given = rest.partition("->")
        leading = next((at for at, one in enumerate(taken) if one in kernel_axes), len(taken))
        summed = taken[leading:]
        plain = equation.replace(",", "").replace("->", "").isalpha()
        distinct = len({*taken, *kernel_axes}) == len(taken) + len(kernel_axes) - len(summed)
        fits = summed and kernel_axes.startswith(summed)
        if not (
            plain and distinct and fits and given == taken[:leading] + kernel_axes[len(summed) :]
        ):
            return None
        kernel = _constant(tensors[self.kernel])
        inner, outer = kernel.shape[: len(summed)], kernel.shape[len(summed) :]
        x, keep = tensors[self.x], [0] * leading  # 0 keeps a size
        if len(summed) > 1:
            x = opset13.reshape(x, np.array([*keep, prod(inner)], np.int64), True)
        matrix = opset13.constant(kernel.reshape(prod(inner), prod(outer)))
        product = opset13.matmul(x, matrix, False, False)
        if len(outer) == 1:
            return product
        return opset13.reshape(product, np.array([*keep, *outer], np.int64), True)


def _same(dimension: Any, size: int) -> bool:
    return not dimension.is_dynamic and dimension.get_length() == size
