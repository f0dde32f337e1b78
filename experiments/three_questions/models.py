"""What the three questions are about: an eager computation, a graph of TensorFlow 1, a Keras model.

    python experiments/three_questions/models.py FOLDER

writes the graph with its checkpoint, the model, and the inputs of both.
"""

import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf


def eager() -> dict[str, tf.Tensor]:
    """Two tensors that eager code computes, as it would stand in a notebook."""
    x = tf.constant([[1.0, 2.0], [3.0, 4.0]])
    weights = tf.Variable([[0.5, -1.0], [2.0, 0.25]])
    hidden = tf.nn.relu(tf.matmul(x, weights) - 1.0)
    return {"hidden": hidden, "total": tf.reduce_sum(hidden)}


def write_graph(folder: Path, x: np.ndarray) -> None:
    """A graph with a placeholder, variables and a scope, saved as TensorFlow 1 did."""
    graph = tf.Graph()
    with graph.as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.set_random_seed(1)
        inputs = tf.compat.v1.placeholder(tf.float32, [None, x.shape[1]], "x")
        keep = tf.compat.v1.placeholder(tf.float32, [], "keep_prob")
        with tf.compat.v1.variable_scope("encoder"):
            kernel = tf.compat.v1.get_variable("kernel", [x.shape[1], 4], use_resource=False)
            hidden = tf.nn.relu(tf.matmul(inputs, kernel), name="hidden")
        tf.identity(tf.nn.softmax(hidden * keep), "probabilities")
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, str(folder / "graph" / "model"))


def write_model(folder: Path, x: np.ndarray) -> None:
    """A Keras model with another model inside."""
    keras.utils.set_random_seed(1)
    wide = keras.layers.Dense(6, activation="tanh", name="wide")
    inner = keras.Sequential([wide, keras.layers.Dense(3, name="narrow")], name="encoder")
    inputs = keras.Input((x.shape[1],))
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(inner(inputs)))
    model.save(folder / "model.keras")


if __name__ == "__main__":
    where = Path(sys.argv[1])
    where.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(0).normal(size=(10, 5)).astype(np.float32)
    np.save(where / "x.npy", samples)
    write_graph(where, samples)
    write_model(where, samples)
