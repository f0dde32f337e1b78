"""Small networks that several files of tests differentiate."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import keras
import tensorflow as tf
from keras import layers


def classifier() -> keras.Model:
    """Return a model of four numbers, with a hidden layer and three logits."""
    keras.utils.set_random_seed(0)
    given = keras.Input((4,), name="x")
    hidden = layers.Dense(5, "tanh", name="hidden")(given)
    return keras.Model(given, layers.Dense(3, name="head")(hidden))


class Session(NamedTuple):
    """A session of TensorFlow 1 with the network y = tanh(x @ w + b), whose sum is `sum:0`."""

    session: tf.compat.v1.Session
    x: tf.Tensor
    w: tf.Tensor
    b: tf.Tensor
    y: tf.Tensor


@contextmanager
def session_of_tensorflow_1(prefix: Path) -> Iterator[Session]:
    """Yield a session with a reference variable and one with a handle, and save it."""
    with tf.Graph().as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], name="x")
        made = tf.compat.v1.get_variable
        w = made("w", [4, 3], use_resource=False, initializer=tf.random_normal_initializer(seed=1))
        b = made("b", [3], use_resource=True, initializer=tf.ones_initializer())
        y = tf.tanh(tf.add(x @ w, b, name="sum"), name="y")
        with tf.compat.v1.Session() as session:
            session.run(tf.compat.v1.global_variables_initializer())
            tf.compat.v1.train.Saver().save(session, str(prefix))
            yield Session(session, x, w, b, y)
