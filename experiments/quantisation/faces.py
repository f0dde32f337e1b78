"""A hundred photographs of faces, of the Labeled Faces in the Wild, as scikit-image has them."""

from pathlib import Path

import numpy as np

from experiments.real_models.fetch import data_file

_WHEEL = "scikit-image==0.25.2"
_INSIDE = "skimage/data/lfw_subset.npy"
_SHA256 = "9560ec2f5edfac01973f63a8a99d00053fecd11e21877e18038fbe500f8e872c"
_FACES = 100  # the other hundred pictures show no face


def faces(folder: Path) -> np.ndarray:
    """Grey pictures, float32 (100, 25, 25) from 0 (black) to 1; fetched into `folder` once.

    Raises:
        FetchError: no package registry that pip is configured with has scikit-image.
        ValueError: its pictures are others than those that are pinned.
    """
    file = data_file(_WHEEL, _INSIDE, _SHA256, folder)
    return np.load(file, allow_pickle=False)[:_FACES].astype(np.float32)
