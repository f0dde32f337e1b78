"""Methods of attribution in a TensorFlow graph: see `core/attribution.py`.

Points of a path, and draws of noise, are visited one after the other by a loop of the graph, so
that memory does not grow with their number. Sums over them are in float32, or in float64 for
tensors of that type.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from extractkit.core.attribution import (
    COMPLETENESS,
    Cam,
    Guided,
    Integrate,
    Method,
    Relevance,
    Smooth,
    Times,
)
from extractkit.core.catalog import Layout
from extractkit.core.requests import Rollout
from extractkit.core.rollout import AttentionMap, over_heads, relevance, rolled_out
from extractkit.core.transforms import Masked, present
from extractkit.core.transforms.reductions import farthest
from extractkit.core.values import Array
from extractkit.errors import SelectionError
from extractkit.models.graphs.noise import normal
from extractkit.models.graphs.recomputation import Dependent
from extractkit.models.graphs.targets import Numbers

Arranged = Callable[[tf.Tensor, str, Layout], Masked]
"""Brings the tensor at an address, or one like it, into stored order, with its lengths."""


@dataclass(frozen=True, eq=False)
class Derivative:
    """The gradient of the sum of numbers, one of each sample, with respect to a tensor.

    Attributes:
        gradient: the gradient.
        address: the address of the tensor that it is with respect to.
        tensor: that tensor.
        layout: how it is brought into stored order; None if its axes are being measured.
        target: the numbers. Methods keep the elements that are chosen.
        maps: the attention maps that the method combines, each with its gradient, by address.
    """

    gradient: tf.Tensor
    address: str
    tensor: tf.Tensor
    layout: Layout | None
    target: Numbers
    maps: Mapping[str, tuple[tf.Tensor, tf.Tensor]]

    def dependent(self, wanted: Sequence[tf.Tensor]) -> Dependent:
        """Return the part between the tensor and wanted ones."""
        return Dependent([self.tensor], wanted, self.target.chosen)

    @property
    def wide(self) -> tf.DType:
        """The dtype of sums."""
        return _wide(self.tensor)


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What methods need beside a derivative.

    Attributes:
        inputs: the inputs of the model by name.
        arranged: see `Arranged`.
        input_words: returns a number for the inputs of each sample, uint32 (samples,).
    """

    inputs: Mapping[str, tf.Tensor]
    arranged: Arranged
    input_words: Callable[[], tf.Tensor]


Results = Mapping[str, Callable[[], tf.Tensor]]
"""Functions that add the results of a method to the current graph, by name."""


def attributed(method: Method, of: Derivative, around: Surroundings) -> Results:
    """Return functions that add the results of a method to the current graph, by name.

    The main result has the empty name, and the axes of the tensor unless the request is in stored
    order.
    """
    match method:
        case Times():
            return {"": lambda: of.gradient * of.tensor}
        case Guided():
            return {"": lambda: _guided(of)}
        case Integrate():
            return _Integrated(method, of, around).results
        case Smooth():
            return {"": lambda: _smoothed(method, of, around)}
        case Cam():
            return {"": lambda: _class_activation(method, of, around)}
        case Relevance():
            return {"": lambda: _relevance(method, of, around)}
    raise AssertionError(method)


def obstacle(
    method: Method,
    tensor: tf.Tensor,
    gradient: tf.Tensor,
    target: tf.Tensor,
    inputs: Mapping[str, tf.Tensor],
) -> str | None:
    """Return why a method is not defined for a tensor of the current graph, as a clause, or None.

    Args:
        gradient: that of the target with respect to the tensor.
        inputs: the inputs of the model by name.
    """
    try:
        match method:
            case Guided():
                return _unguided(Dependent([tensor], [target]))
            case Integrate():
                Dependent([tensor], [gradient, target])
                names = [name for name, _ in method.baseline.inputs]
                if method.baseline.sample is not None:
                    names = [*inputs]
                Dependent([inputs[name] for name in names], [tensor])
            case Smooth():
                Dependent([tensor], [gradient])
    except SelectionError as error:
        return str(error)
    return None


def _unguided(part: Dependent) -> str | None:
    """Return why the part between a tensor and a target cannot be guided, as a clause, or None."""
    kinds = part.operation_types()
    if inner := kinds.within.intersection(_GUIDED):
        return (
            f"a function or loop between it and the target has operations "
            f"{', '.join(sorted(inner))}, and only those outside of functions are guided"
        )
    if not kinds.outside.intersection(_GUIDED):
        return (
            "there is no ReLU between it and the target, so that the guided gradient is the "
            "gradient itself"
        )
    return None


def _guided(of: Derivative) -> tf.Tensor:
    part = of.dependent([of.target.values])
    start = tf.identity(of.tensor)
    (number,) = part.at([start], gradients=_GUIDED)
    (found,) = tf.gradients(number, [start])
    return dense(found)


@tf.RegisterGradient("ExtractkitGuidedRelu")
def _guided_relu(operation: Any, gradient: tf.Tensor) -> tf.Tensor:
    return tf.raw_ops.ReluGrad(gradients=tf.nn.relu(gradient), features=operation.outputs[0])


@tf.RegisterGradient("ExtractkitGuidedRelu6")
def _guided_relu6(operation: Any, gradient: tf.Tensor) -> tf.Tensor:
    return tf.raw_ops.Relu6Grad(gradients=tf.nn.relu(gradient), features=operation.outputs[0])


_GUIDED = {"Relu": "ExtractkitGuidedRelu", "Relu6": "ExtractkitGuidedRelu6"}
"""Types of operations, with the names of the gradients that replace theirs."""


def dense(gradient: Any) -> tf.Tensor:
    """Return a gradient as a tensor. That of an embedding holds only the rows that were looked up.

    TensorFlow warns if it converts such a gradient itself.
    """
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    return tf.math.unsorted_segment_sum(gradient.values, gradient.indices, gradient.dense_shape[0])


class _Integrated:
    def __init__(self, method: Integrate, of: Derivative, around: Surroundings) -> None:
        self._of, self._around, self._method = of, around, method
        self._whole: tuple[tf.Tensor, tf.Tensor] | None = None
        self.results: Results = {
            "": lambda: tf.cast(self._attributions[0], of.tensor.dtype),
            COMPLETENESS: self._completeness,
        }

    @property
    def _attributions(self) -> tuple[tf.Tensor, tf.Tensor]:
        """The attributions and the baseline."""
        if self._whole is None:
            self._whole = self._integrated()
        return self._whole

    def _integrated(self) -> tuple[tf.Tensor, tf.Tensor]:
        of = self._of
        start = self._baseline()
        begin, end = (tf.cast(one, of.wide) for one in (start, of.tensor))
        nodes, weights = np.polynomial.legendre.leggauss(self._method.steps)
        at, weight = (tf.constant(one, of.wide) for one in ((nodes + 1) / 2, weights / 2))
        part = of.dependent([of.gradient])

        def gradient(step: tf.Tensor) -> tf.Tensor:
            # The ends are exact where they are equal, as padding and other elements may be.
            point = begin + at[step] * (end - begin)
            (found,) = part.at([_like(tf.cast(point, of.tensor.dtype), of.tensor)])
            return weight[step] * tf.cast(found, of.wide)

        return (end - begin) * _sum(gradient, self._method.steps, end), start

    def _baseline(self) -> tf.Tensor:
        tensor, baseline = self._of.tensor, self._method.baseline
        if baseline.value is not None:
            return _filled(tensor, baseline.value)
        if baseline.found is not None:
            arrays = baseline.found.arrays
            replaced = {name: self._around.inputs[name] for name in arrays}
            values = [_repeated(replaced[name], array) for name, array in arrays.items()]
        else:
            replaced = {name: self._around.inputs[name] for name, _ in baseline.inputs}
            values = [_filled(replaced[name], value) for name, value in baseline.inputs]
        (found,) = Dependent(list(replaced.values()), [tensor]).at(values)
        # Inputs that the tensor does not depend on leave its value as it is.
        return _like(found, tensor)

    def _completeness(self) -> tf.Tensor:
        """Return 1 plus the gap between the sum of attributions and the change of the target."""
        of = self._of
        assert of.layout is not None, "the axes of a tensor are measured first"
        attributions, start = self._attributions
        (before,) = of.dependent([of.target.values]).at([start])
        change = tf.cast(of.target.values, tf.float64) - tf.cast(before, tf.float64)
        wide = tf.cast(attributions, tf.float64)
        masked = self._around.arranged(wide, of.address, of.layout)
        gap = _over_sample(tf.reduce_sum, masked, 0.0) - change
        sizes = Masked(tf.abs(masked.tensor), masked.lengths)
        # Where positive and negative ones cancel, the change may be as small as rounding errors.
        scale = tf.maximum(tf.abs(change), _over_sample(tf.reduce_sum, sizes, 0.0))
        return tf.where(tf.equal(gap, 0), tf.ones_like(gap), 1 + gap / scale)


def _smoothed(method: Smooth, of: Derivative, around: Surroundings) -> tf.Tensor:
    if of.layout is None:
        return of.gradient  # of which only the shape counts
    masked = around.arranged(of.tensor, of.address, of.layout)
    most, least = (
        _over_sample(reduced, masked, farthest(masked.tensor, sign))
        for reduced, sign in ((tf.reduce_max, -1), (tf.reduce_min, 1))
    )
    width = tf.cast(most - least, of.wide) * tf.constant(method.noise, of.wide)
    width = tf.reshape(width, [-1, *[1] * (len(of.layout.dims) - 1)])
    keys = around.input_words()
    part = of.dependent([of.gradient])
    value, shape = tf.cast(masked.tensor, of.wide), tf.shape(masked.tensor)

    def gradient(draw: tf.Tensor) -> tf.Tensor:
        noise = normal(shape, keys, method.seed, draw, of.wide)
        point = _in_model(tf.cast(value + width * noise, of.tensor.dtype), of)
        (found,) = part.at([_like(point, of.tensor)])
        return tf.cast(found, of.wide)

    total = _sum(gradient, method.draws, tf.cast(of.tensor, of.wide))
    return tf.cast(total / method.draws, of.tensor.dtype)


def _class_activation(method: Cam, of: Derivative, around: Surroundings) -> tf.Tensor:
    layout, channel = method.layout, method.position
    assert layout is not None, "a method is bound to its tensor"
    value, gradient = (around.arranged(one, of.address, layout) for one in (of.tensor, of.gradient))
    positions = [axis for axis in range(1, len(layout.dims)) if axis != channel]
    inside = present(tf, gradient, positions)
    # Counts and sums over many positions exceed half precision.
    wide = tf.cast(gradient.tensor, of.wide)
    # NaN or infinity in padding would outlast a product.
    shown = tf.where(inside, wide, tf.zeros_like(wide))
    counted = tf.broadcast_to(tf.cast(inside, of.wide), tf.shape(shown))
    count = tf.reduce_sum(counted, axis=positions, keepdims=True)
    weights = tf.reduce_sum(shown, axis=positions, keepdims=True) / count
    found = tf.reduce_sum(weights * tf.cast(value.tensor, of.wide), axis=channel)
    return tf.cast(tf.nn.relu(found), of.tensor.dtype)


def _relevance(method: Relevance, of: Derivative, around: Surroundings) -> tf.Tensor:
    def weighted(tensor: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
        return tf.nn.relu(tf.cast(tensor, of.wide) * tf.cast(gradient, of.wide))

    maps = (
        over_heads(tf, around.arranged(weighted(*of.maps[one.address]), *_place(one)), of.wide)
        for one in method.maps
    )
    return tf.cast(relevance(tf, maps, of.wide), of.tensor.dtype)


def rollout(
    request: Rollout, tensor_of: Callable[[str], tf.Tensor], arranged: Arranged
) -> tf.Tensor:
    """Return the rollout of attention maps, in stored order, in the current graph."""
    last = tensor_of(request.address)
    wide = _wide(last)
    maps = (
        over_heads(tf, arranged(tensor_of(one.address), *_place(one)), wide) for one in request.maps
    )
    return tf.cast(rolled_out(tf, maps, wide), last.dtype)


def _place(one: AttentionMap) -> tuple[str, Layout]:
    return one.address, one.layout


def _wide(tensor: tf.Tensor) -> tf.DType:
    """Return the dtype of sums."""
    return tf.float64 if tensor.dtype == tf.float64 else tf.float32


def _over_sample(reduced: Callable[..., tf.Tensor], masked: Masked, padding: Any) -> tf.Tensor:
    """Return the sum or extreme of the elements of each sample: (samples,)."""
    tensor = masked.tensor
    inside = present(tf, masked, list(masked.lengths))
    shown = tf.where(inside, tensor, tf.constant(padding, tensor.dtype))
    return reduced(tf.reshape(shown, [tf.shape(tensor)[0], -1]), axis=1)


def _in_model(tensor: tf.Tensor, of: Derivative) -> tf.Tensor:
    """Return a tensor in stored order with the axes as in the model."""
    layout = of.layout
    assert layout is not None, "the axes of a tensor are measured first"
    if layout.axis:
        axes = list(range(1, len(layout.dims)))
        axes.insert(layout.axis, 0)
        tensor = tf.transpose(tensor, axes)
    return tf.reshape(tensor, tf.shape(of.tensor))


def _sum(of: Callable[[tf.Tensor], tf.Tensor], count: int, like: tf.Tensor) -> tf.Tensor:
    """Return the sum of tensors of equal shape, made one after the other."""

    def added(step: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return step + 1, _like(total + of(step), like)

    _, total = tf.while_loop(
        lambda step, total: step < count,
        added,
        [tf.constant(0), tf.zeros_like(like)],
        shape_invariants=[tf.TensorShape([]), like.shape],
        parallel_iterations=1,
        maximum_iterations=count,
    )
    return total


def _filled(tensor: tf.Tensor, number: float) -> tf.Tensor:
    """Return a tensor of the same shape and dtype with a number for all elements."""
    # TensorFlow alone would take the number to float32 first.
    own = tf.constant(np.asarray(number, tensor.dtype.as_numpy_dtype), tensor.dtype)
    return tf.fill(tf.shape(tensor), own)


def _repeated(tensor: tf.Tensor, array: Array) -> tf.Tensor:
    """Return a tensor of the same shape and dtype with an array of one sample for each sample."""
    own = tf.cast(tf.constant(array), tensor.dtype.base_dtype)
    return _like(tf.broadcast_to(own, tf.shape(tensor)), tensor)


def _like(tensor: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """Return a tensor with the static shape of another."""
    return tf.ensure_shape(tensor, other.shape)
