"""Train a small model on handwritten digits, and keep what it was on the way.

    python -m experiments.training_dynamics.train MODELS FOLDER TRAININGS

writes into FOLDER, for each training, `seed_0/`, `seed_1/`, … with the weights after so many steps
(`step_00016.weights.h5`); and `images.npy` and `labels.npy`, which were not trained on.
"""

import sys
from pathlib import Path

import keras
import numpy as np

from experiments.training_dynamics.digits import TRAINING, digits
from experiments.training_dynamics.model import network

STEPS = (
    *(0, 1, 2, 4, 8, 11, 16, 23, 32, 38, 45, 54, 64, 76, 91, 108, 128, 152, 181, 215, 256),
    *(304, 362, 431, 512, 609, 724, 861, 1024),
)
"""When weights are kept: most things happen early."""

_BATCH = 32
_RATE = 0.1


def train(images: np.ndarray, labels: np.ndarray, seed: int, to: Path) -> None:
    """Plain gradient descent on random batches; weights go to `to` after each of `STEPS`."""
    keras.utils.set_random_seed(seed)
    model = network()
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
    for seed in range(int(sys.argv[3])):
        train(pictures[:TRAINING], answers[:TRAINING], seed, folder / f"seed_{seed}")
