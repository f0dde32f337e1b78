"""Train a small model on handwritten digits, and keep what it was on the way.

    python -m experiments.training_dynamics.train MODELS FOLDER TRAININGS

writes into FOLDER `model.keras`, the architecture; for each training `seed_0/`, `seed_1/`, … with
the weights after so many steps (`step_00016.weights.h5`); and `images.npy` and `labels.npy`, which
were not trained on.
"""

import sys
from pathlib import Path

import keras
import numpy as np
from keras import layers

from experiments.training_dynamics.digits import TRAINING, digits

STEPS = (
    *(0, 1, 2, 4, 8, 11, 16, 23, 32, 38, 45, 54, 64, 76, 91, 108, 128, 152, 181, 215, 256),
    *(304, 362, 431, 512, 609, 724, 861, 1024),
)
"""When weights are kept: most things happen early."""

_WIDTHS = {"hidden_1": 64, "hidden_2": 64, "hidden_3": 64, "hidden_4": 64}
_CLASSES = 10
_BATCH = 32
_RATE = 0.1


def network(seed: int) -> keras.Model:
    """Four hidden layers, then one number for each digit (logits)."""
    keras.utils.set_random_seed(seed)
    hidden = [layers.Dense(width, "relu", name=name) for name, width in _WIDTHS.items()]
    return keras.Sequential([keras.Input((64,)), *hidden, layers.Dense(_CLASSES, name="logits")])


def train(model: keras.Model, images: np.ndarray, labels: np.ndarray, seed: int, to: Path) -> None:
    """Plain gradient descent on random batches; weights go to `to` after each of `STEPS`."""
    model.compile(
        keras.optimizers.SGD(_RATE), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    to.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    for step in range(STEPS[-1] + 1):
        if step in STEPS:
            model.save_weights(to / f"step_{step:05}.weights.h5")
        batch = draw.integers(0, len(images), _BATCH)
        model.train_on_batch(images[batch], labels[batch])


if __name__ == "__main__":
    models, folder = map(Path, sys.argv[1:3])
    pictures, answers = digits(models)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images.npy", pictures[TRAINING:])
    np.save(folder / "labels.npy", answers[TRAINING:])
    network(0).save(folder / "model.keras")
    for seed in range(int(sys.argv[3])):
        train(network(seed), pictures[:TRAINING], answers[:TRAINING], seed, folder / f"seed_{seed}")
