"""Layouts and transforms as TensorFlow operations of the program."""

from collections.abc import Mapping

import tensorflow as tf

from extractkit.core.plan import Layout
from extractkit.core.transforms.protocol import Masked
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
    if fetch.pipeline is not None and fetch.layout is not None:
        dims = enumerate(fetch.layout.dims)
        own = {axis: lengths[dim] for axis, dim in dims if dim and dim in lengths}
        tensor = fetch.pipeline.in_graph(tf, Masked(tensor, own))
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
