"""Handwritten digits, 8 × 8 pixels: the copy of UCI's test set that scikit-learn ships."""

from pathlib import Path

import numpy as np

from experiments.real_models.fetch import data_file

TRAINING = 1200
"""The first so many are trained on, the others are not."""

_WHEEL = "scikit-learn==1.7.2"
_INSIDE = "sklearn/datasets/data/digits.csv.gz"
_SHA256 = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"
_BRIGHTEST = 16.0


def digits(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images, float32 (1797, 64) from 0 to 1, and labels, int64 (1797,); fetched once.

    Raises:
        FetchError: no package registry that pip is configured with has scikit-learn.
        ValueError: its digits are others than those that are pinned.
    """
    rows = np.loadtxt(data_file(_WHEEL, _INSIDE, _SHA256, folder), delimiter=",")
    return (rows[:, :-1] / _BRIGHTEST).astype(np.float32), rows[:, -1].astype(np.int64)
