"""Where Keras computes something else when it is traced with free axes than when it is called."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from extractkit.models.patching import patched


@contextmanager
def repaired_keras() -> Iterator[None]:
    """Trace inside.

    `TimeDistributed` of Keras 3.15, where the number of steps is unknown, makes as many steps as
    there are samples: it takes the shape before it swaps the two axes and uses it after.
    """
    with patched(keras.layers.TimeDistributed, "call", _over_free_steps):
        yield


def _over_free_steps(original: Callable[..., Any]) -> Callable[..., Any]:
    def call(wrapper: Any, inputs: tf.Tensor, training: Any = None, mask: Any = None) -> Any:
        if inputs.shape[1] is not None:
            return original(wrapper, inputs, training=training, mask=mask)
        arguments: dict[str, Any] = {}
        if wrapper.layer._call_has_mask_arg and mask is not None:
            arguments["mask"] = _merged(mask)
        if wrapper.layer._call_has_training_arg:
            arguments["training"] = training
        samples_and_steps = tf.shape(inputs)[:2]
        return keras.tree.map_structure(
            lambda tensor: _apart(tensor, samples_and_steps),
            wrapper.layer.call(_merged(inputs), **arguments),
        )

    return call


def _merged(tensor: tf.Tensor) -> tf.Tensor:
    """(samples, steps, …) to (samples * steps, …)."""
    merged = tf.reshape(tensor, tf.concat([[-1], tf.shape(tensor)[2:]], 0))
    return tf.ensure_shape(merged, [None, *tensor.shape[2:]])


def _apart(tensor: tf.Tensor, samples_and_steps: tf.Tensor) -> tf.Tensor:
    """(samples * steps, …) to (samples, steps, …)."""
    apart = tf.reshape(tensor, tf.concat([samples_and_steps, tf.shape(tensor)[1:]], 0))
    return tf.ensure_shape(apart, [None, None, *tensor.shape[1:]])
