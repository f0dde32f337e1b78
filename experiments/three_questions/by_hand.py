"""The three answers as people write them by hand, compared with the runs.

    python experiments/three_questions/by_hand.py FOLDER

FOLDER holds what `models.py` wrote and the runs `eager`, `session` and `keras`. Ends with 1 where a
number differs.
"""

import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from models import eager

import extractkit


def eager_values() -> dict[str, np.ndarray]:
    """What is in an eager tensor?"""
    return {f":output.{name}": tensor.numpy() for name, tensor in eager().items()}


def session_values(folder: Path, x: np.ndarray) -> dict[str, np.ndarray]:
    """What is a tensor of a graph, given values for its placeholders?"""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        saver = tf.compat.v1.train.import_meta_graph(str(folder / "graph" / "model.meta"))
        saver.restore(session, str(folder / "graph" / "model"))
        names = ["encoder/hidden:0", "encoder/kernel:0", "probabilities:0"]
        values = session.run(names, feed_dict={"x:0": x, "keep_prob:0": 0.5})
        return dict(zip(names, values, strict=True))


def keras_values(folder: Path, x: np.ndarray) -> dict[str, np.ndarray]:
    """What are a layer's weights, and its outputs, in a model inside a model?"""
    model = keras.saving.load_model(folder / "model.keras")
    encoder = model.get_layer("encoder")
    wide = keras.Model(encoder.inputs, encoder.get_layer("wide").output)
    kernel, bias = encoder.get_layer("wide").get_weights()
    return {
        "encoder/wide:kernel": kernel,
        "encoder/wide:bias": bias,
        "encoder/wide:output": wide.predict_on_batch(x),
        "encoder:output": encoder.predict_on_batch(x),
        "head:output": model.predict_on_batch(x),
    }


def largest_difference(run: extractkit.Run, answers: dict[str, np.ndarray]) -> float:
    """Over all tensors that were answered by hand."""
    return max(float(np.abs(np.asarray(run[a]) - value).max()) for a, value in answers.items())


if __name__ == "__main__":
    where = Path(sys.argv[1])
    samples = np.load(where / "x.npy")
    by_hand = {
        "eager": eager_values(),
        "session": session_values(where, samples),
        "keras": keras_values(where, samples),
    }
    worst = 0.0
    for name, answers in by_hand.items():
        difference = largest_difference(extractkit.open(where / name), answers)
        print(f"{name:8} {len(answers)} tensors, largest difference {difference:g}")
        worst = max(worst, difference)
    sys.exit(worst > 1e-6)
