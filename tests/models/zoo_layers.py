"""Layers that do by hand what Keras's own do not."""

from typing import Any

import keras
import tensorflow as tf
from keras import layers


class Inner(layers.Layer):
    """Takes a tensor by keyword and a mask, and returns a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.supports_masking = True
        self.blocks = [layers.Dense(4, name="block") for _ in range(2)]

    def build(self, shape: Any) -> None:
        for block in self.blocks:
            block.build(shape)
        self.nameless = self.add_weight(shape=(4,), initializer="ones")

    def call(self, x: tf.Tensor, *, bias: tf.Tensor, mask: tf.Tensor | None = None) -> Any:
        for block in self.blocks:
            x = block(x) * self.nameless
        return {"plain": x, "biased": x + bias if mask is None else tf.where(mask, x + bias, x)}


@keras.saving.register_keras_serializable("zoo")
class Subclassed(keras.Model):
    """Lists of layers, one layer called twice, one with weights that is never called."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inner = Inner()
        self.stack = [layers.Dense(4), layers.Dense(4)]
        self.drop = layers.Dropout(0.5)
        self.spare = layers.Dense(3, name="spare")

    def build(self, shape: Any) -> None:
        self.inner.build(shape)
        for dense in self.stack:
            dense.build(shape)
        self.spare.build(shape)

    def call(self, x: tf.Tensor, training: bool = False) -> Any:
        found = self.inner(self.stack[0](x), bias=x, mask=x > 0)
        again = self.stack[1](self.stack[0](found["biased"]))
        return {"first": found["plain"], "last": self.drop(again, training=training)}


class Flattening(layers.Layer):
    """(samples, tokens, 4) through (samples * tokens, 4) and (tokens, samples, 4)."""

    def call(self, x: tf.Tensor) -> Any:
        flat = tf.exp(tf.reshape(x, [-1, 4]))
        across = tf.transpose(tf.reshape(flat, tf.shape(x)), [1, 0, 2])
        count = tf.cast(tf.shape(x)[1], tf.float32)
        return tf.reduce_sum(across, 0) / count


class Loop(layers.Layer):
    """`tf.while_loop` without a layer in it."""

    def call(self, x: tf.Tensor) -> Any:
        return tf.while_loop(lambda i, _: i < 3, lambda i, v: (i + 1, tf.tanh(v)), [0, x])[1]


class Scan(layers.Layer):
    """`keras.ops.scan` over the features."""

    def call(self, x: tf.Tensor) -> Any:
        columns = keras.ops.transpose(x)
        start = keras.ops.zeros_like(columns[0])
        _, sums = keras.ops.scan(lambda sums, v: (sums + v, sums * v), start, columns)
        return keras.ops.reshape(keras.ops.transpose(sums), (-1, 4))


class Branch(layers.Layer):
    """`tf.cond` without a layer in it."""

    def call(self, x: tf.Tensor) -> Any:
        return tf.cond(tf.reduce_sum(x) > 0, lambda: tf.sin(x), lambda: tf.cos(x))


class NestedFunction(layers.Layer):
    """A `tf.function` of its own, with a layer, a loop by autograph and a branch in it."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dense = layers.Dense(4)
        self.function = tf.function(self._computed)

    def build(self, shape: Any) -> None:
        self.dense.build(shape)

    def _computed(self, x: tf.Tensor) -> tf.Tensor:
        for _ in tf.range(2):
            x = tf.nn.elu(x)
        if tf.reduce_sum(x) > 0:
            x = self.dense(x)
        return x

    def call(self, x: tf.Tensor) -> Any:
        return self.function(x)
