"""The model and the samples of the stored runs: integers in float32, so that every sum is exact."""

import keras
import numpy as np


def build() -> keras.Model:
    """A linear map of each row of a sample; `make_runs.py` writes its weights."""
    return keras.Sequential([keras.Input((None, 2)), keras.layers.Dense(3, name="hidden")])


def samples(faulty: bool = False) -> list[np.ndarray]:
    """Five samples of 2, 1, 3, 1 and 2 rows; the fourth has a column too many if asked for."""
    made = [np.arange(2 * n, dtype="float32").reshape(n, 2) - 3 * n for n in (2, 1, 3, 1, 2)]
    if faulty:
        made[3] = np.zeros((1, 3), "float32")
    return made
