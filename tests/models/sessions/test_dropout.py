"""Dropout of a graph that was made for training: found, taken out, recorded."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from extractkit.errors import ConfigError
from extractkit.models.meta_graph import load
from extractkit.models.sessions.importing import dropouts
from tests.models.programs import values_of
from tests.models.session_graphs import saved, weight

v1 = tf.compat.v1
X = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
Dropping = Callable[[tf.Tensor, str], tf.Tensor]


def newer(x: tf.Tensor, name: str) -> tf.Tensor:
    return v1.nn.dropout(x, rate=0.4, name=name)


def older(x: tf.Tensor, name: str) -> tf.Tensor:
    """As TensorFlow 1.4 to 1.12 wrote it."""
    with v1.name_scope(name):
        keep = tf.constant(0.6, name="keep_prob")
        drawn = v1.random_uniform(tf.shape(x), seed=1)
        kept = tf.floor(keep + drawn, name="Floor")
        return tf.multiply(tf.divide(x, keep), kept, name="mul")


def middle(x: tf.Tensor, name: str) -> tf.Tensor:
    """As TensorFlow 1.13 to 2.4 wrote it."""
    with v1.name_scope(name):
        kept = v1.random_uniform(tf.shape(x)) >= 0.4
        return tf.multiply(x * (1 / 0.6), tf.cast(kept, x.dtype), name="mul")


def network(drop: Dropping) -> Callable[[], None]:
    def build() -> None:
        v1.set_random_seed(1)  # a test before this one may have made TensorFlow deterministic
        x = v1.placeholder(tf.float32, [None, 6], "x")
        hidden = drop(tf.nn.relu(tf.matmul(x, weight("w", [6, 5]))), "drop")
        y = tf.matmul(drop(hidden, "again"), weight("v", [5, 2]), name="y")
        v1.train.GradientDescentOptimizer(0.1).minimize(tf.reduce_sum(y))

    return build


def by_hand() -> np.ndarray:
    one, two = (
        np.random.default_rng(sum(name.encode())).normal(size=shape).astype(np.float32)
        for name, shape in (("w", (6, 5)), ("v", (5, 2)))
    )
    return np.asarray(np.maximum(X.astype(np.float64) @ one, 0) @ two)


@pytest.mark.parametrize("drop", [newer, older, middle])
def test_dropout_is_taken_out(drop: Dropping, tmp_path: Path) -> None:
    prefix = saved(network(drop), tmp_path / "model")
    training = load(str(prefix), outputs=["y"])
    reason = training.catalog["y:0"].reason or ""
    assert reason.endswith("Switch it off: model.dropout=false")
    model = load(str(prefix), outputs=["y"], dropout=False)
    value = values_of(model, ["y:0"], {"x": X})["y:0"]  # type: ignore[arg-type]
    np.testing.assert_allclose(value, by_hand(), rtol=1e-5)
    own = model.own_call().outputs({"x": X}, {})
    np.testing.assert_allclose(own["y:0"], by_hand(), rtol=1e-5)
    assert len(model.describe()["dropout_switched_off"]) == 2  # type: ignore[arg-type]
    assert "dropout_switched_off" not in training.describe()
    assert model.definition_digest() != training.definition_digest()
    assert model.weights_digest() == training.weights_digest()


def test_other_noise_stays(tmp_path: Path) -> None:
    """Multiplied by a mask without the scale, or with another: that is no dropout."""

    def build() -> None:
        v1.set_random_seed(1)  # a test before this one may have made TensorFlow deterministic
        x = v1.placeholder(tf.float32, [None, 6], "x")
        mask = tf.cast(v1.random_uniform(tf.shape(x)) >= 0.4, tf.float32)
        tf.multiply(x, mask, name="unscaled")
        tf.multiply(x * 2.0, mask, name="scaled")
        tf.multiply(x, v1.random_uniform(tf.shape(x)), name="noise")
        tf.multiply(x * (1 / 0.6), tf.cast(v1.random_normal([6]) >= 0.4, tf.float32), name="n")

    prefix = saved(lambda: (weight("w", [2]), build())[1], tmp_path / "model")
    with tf.Graph().as_default() as graph:
        build()
    assert dropouts(graph) == {}
    with pytest.raises(ConfigError, match=r"model\.dropout=false: .* has no dropout"):
        load(str(prefix), dropout=False)
    with pytest.raises(ConfigError, match=r"model\.dropout='no' is not true, false or null"):
        load(str(prefix), dropout="no")  # type: ignore[arg-type]
