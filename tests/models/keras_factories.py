"""What a user's own code may hold: architectures, and classes that files ask for."""

from typing import Any

import keras
import tensorflow as tf
import tf_keras
from keras import layers


def functional(units: int = 3, deeper: bool = False) -> keras.Model:
    """Nested, recurrent, normalised: every way in which Keras keeps weights."""
    x = keras.Input((6,), dtype="int32", name="ids")
    y = layers.Embedding(9, 4)(x)
    y = layers.Bidirectional(layers.LSTM(units))(y)
    inside = keras.Sequential([keras.Input((2 * units,)), layers.Dense(5), layers.Dense(4)])
    y = layers.BatchNormalization()(inside(y))
    y = layers.Dense(2)(layers.Dropout(0.5)(y))
    return keras.Model(x, layers.Dense(2)(y) if deeper else y)


def keras_2(units: int = 3) -> Any:
    """The same without the nested model."""
    kept = tf_keras.layers
    x = tf_keras.Input((6,), dtype="int32", name="ids")
    y = kept.Embedding(9, 4)(x)
    y = kept.Bidirectional(kept.LSTM(units))(y)
    return tf_keras.Model(x, kept.Dense(2)(kept.BatchNormalization()(y)))


def flat(units: int = 3) -> keras.Model:
    """`keras_2` in Keras 3."""
    x = keras.Input((6,), dtype="int32", name="ids")
    y = layers.Embedding(9, 4)(x)
    y = layers.Bidirectional(layers.LSTM(units))(y)
    return keras.Model(x, layers.Dense(2)(layers.BatchNormalization()(y)))


class Unbuilt(keras.Model):
    """Subclassed: has no weights before it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.first = layers.Dense(5)
        self.blocks = [layers.Dense(4), layers.Dense(2)]

    def call(self, x: tf.Tensor) -> tf.Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return x


class Unregistered(layers.Layer):
    """Of nobody's package."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return x * 2.0


def nothing() -> object:
    """Neither a model nor a layer."""
    return object()


def failing() -> keras.Model:
    raise RuntimeError("out of ideas")


def one_layer() -> keras.Model:
    return keras.Sequential([keras.Input((4,)), layers.Dense(5)])
