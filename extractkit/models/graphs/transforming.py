"""Layouts and transforms as TensorFlow operations of the program."""

import math
from collections.abc import Mapping

import tensorflow as tf

from extractkit.core.plan import Layout
from extractkit.core.transforms import AxisTransform, Reduction, reduced_dtype
from extractkit.models import Fetch
from extractkit.models.graphs.records import raw


def transformed(
    tensor: tf.Tensor, fetch: Fetch, samples: tf.Tensor | None, lengths: Mapping[str, tf.Tensor]
) -> tf.Tensor:
    """Return the result of a fetch: the tensor with its layout and transforms applied.

    Args:
        tensor: The model's tensor.
        samples: The number of samples of the batch. None for a constant.
        lengths: int32 (samples,), the samples' lengths along each free axis.
    """
    tensor = raw(tensor)
    if fetch.layout is not None:
        tensor = _arranged(tensor, fetch.layout, samples)
    if fetch.axes is not None and fetch.layout is not None:
        tensor = _applied(tensor, fetch.layout, fetch.axes, lengths)
    # NumPy and HDF5 have no bfloat16. float32 represents all of its values exactly.
    return tf.cast(tensor, tf.float32) if tensor.dtype == tf.bfloat16 else tensor


def _arranged(tensor: tf.Tensor, layout: Layout, samples: tf.Tensor | None) -> tf.Tensor:
    """Move the sample axis to the front, and split a product of it with another axis."""
    if layout.axis is None:
        return tensor
    if layout.whole:
        return tf.expand_dims(tensor, 0)
    axis = layout.axis
    if layout.split:
        shape = tf.shape(tensor)
        tensor = tf.reshape(tensor, tf.concat([shape[:axis], [samples, -1], shape[axis + 1 :]], 0))
    if axis:
        others = [other for other in range(len(layout.dims)) if other != axis]
        tensor = tf.transpose(tensor, [axis, *others])
    return tensor


def _applied(
    tensor: tf.Tensor, layout: Layout, axes: AxisTransform, lengths: Mapping[str, tf.Tensor]
) -> tf.Tensor:
    own = {a: lengths[dim] for a, dim in enumerate(layout.dims) if dim and dim in lengths}
    # An axis indexed by one number is kept until the end, so that axis numbers do not shift.
    for axis, index in enumerate(axes.slices):
        if index is None:
            continue
        if axis in own:
            tensor, own = _slice_ragged(tensor, axis, index, own)
        else:
            start = index if isinstance(index, int) else None
            part = slice(*index) if not isinstance(index, int) else _one(start or 0)
            tensor = tensor[(slice(None),) * axis + (part,)]
    for reduction in axes.reductions:
        tensor = _reduced(tensor, reduction, own)
    gone = {axis for axis, index in enumerate(axes.slices) if isinstance(index, int)}
    gone |= {axis for reduction in axes.reductions for axis in reduction.axes}
    if gone:
        tensor = tf.squeeze(tensor, sorted(gone))
    return tensor if axes.cast is None else tf.cast(tensor, axes.cast)


def _one(index: int) -> slice:
    return slice(index, None if index == -1 else index + 1)


def _slice_ragged(
    tensor: tf.Tensor,
    axis: int,
    index: int | tuple[int | None, int | None, int | None],
    own: dict[int, tf.Tensor],
) -> tuple[tf.Tensor, dict[int, tf.Tensor]]:
    """Slice an axis along which each sample has its own length."""
    length = own[axis]
    if isinstance(index, int):
        # Negative indices count from the end of the sample, not of its padding.
        place = length + index if index < 0 else tf.fill(tf.shape(length), index)
        tensor = tf.gather(tensor, place[:, None], axis=axis, batch_dims=1)
        return tensor, {key: value for key, value in own.items() if key != axis}
    start, stop, step = index[0] or 0, index[1], index[2] or 1
    tensor = tensor[(slice(None),) * axis + (slice(*index),)]
    end = length if stop is None else tf.minimum(length, stop)
    return tensor, {**own, axis: tf.maximum(0, (end - start + step - 1) // step)}


def _reduced(tensor: tf.Tensor, reduction: Reduction, own: Mapping[int, tf.Tensor]) -> tf.Tensor:
    """Reduce without padding. Reduced axes are kept with size 1.

    Mean, minimum and maximum of no elements are NaN, or the extreme value of an integer type.
    """
    axes = list(reduction.axes)
    if tensor.dtype == tf.bool and reduction.op in ("min", "max"):
        return tf.cast(_reduced(tf.cast(tensor, tf.int32), reduction, own), tf.bool)
    tensor = tf.cast(tensor, reduced_dtype(reduction.op, tensor.dtype.name))
    present = _present(tensor, [axis for axis in axes if axis in own], own)
    match reduction.op:
        case "sum":
            return tf.reduce_sum(_where(present, tensor, 0), axes, keepdims=True)
        case "mean":
            count = tf.broadcast_to(tf.cast(present, tensor.dtype), tf.shape(tensor))
            total = tf.reduce_sum(_where(present, tensor, 0), axes, keepdims=True)
            return total / tf.reduce_sum(count, axes, keepdims=True)
        case "norm":
            squares = tf.square(_where(present, tensor, 0))
            return tf.sqrt(tf.reduce_sum(squares, axes, keepdims=True))
        case "max":
            lowest = _where(present, tensor, _farthest(tensor.dtype, -1))
            return _or_nan(tf.reduce_max(lowest, axes, keepdims=True), tensor, present, axes)
        case "min":
            highest = _where(present, tensor, _farthest(tensor.dtype, 1))
            return _or_nan(tf.reduce_min(highest, axes, keepdims=True), tensor, present, axes)
    raise ValueError(f"unknown reduction {reduction.op!r}")


def _farthest(dtype: tf.DType, sign: int) -> float:
    """Return the extreme value of a type in one direction: an infinity if it has one."""
    if dtype.is_floating:
        return sign * math.inf
    end: float = dtype.max if sign > 0 else dtype.min
    return end


def _or_nan(result: tf.Tensor, tensor: tf.Tensor, present: tf.Tensor, axes: list[int]) -> tf.Tensor:
    """Return the result, with NaN where there were no elements."""
    if not tensor.dtype.is_floating:
        return result
    there = tf.reduce_any(tf.broadcast_to(present, tf.shape(tensor)), axes, keepdims=True)
    return _where(there, result, math.nan)


def _where(present: tf.Tensor, tensor: tf.Tensor, otherwise: float) -> tf.Tensor:
    return tf.where(present, tensor, tf.constant(otherwise, tensor.dtype))


def _present(tensor: tf.Tensor, ragged: list[int], own: Mapping[int, tf.Tensor]) -> tf.Tensor:
    """Return a mask of the elements that are not padding, broadcastable to the tensor."""
    present = tf.constant(True)
    rank = tensor.shape.rank
    for axis in ragged:
        mask = tf.sequence_mask(own[axis], tf.shape(tensor)[axis])
        shape = [1] * rank
        shape[0], shape[axis] = tf.shape(tensor)[0], tf.shape(tensor)[axis]
        present = tf.logical_and(present, tf.reshape(mask, shape))
    return present
