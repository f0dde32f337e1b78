"""Weights in HDF5, as Keras writes them: `.weights.h5`, `.h5`, and those inside a `.keras` archive.

HDF5's reader can be brought to crash, or to run for ever, by a damaged file (3 to 7 of 1,000
small changes), so a child process lists a file and reads whatever is not plainly contiguous
before this process reads any of it.
"""

import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np

from extractkit.errors import ModelError, choices
from extractkit.models.foreign import told
from extractkit.models.weight_files.keras_places import places
from extractkit.models.weight_files.weight_file import Entry, WeightFile, damaged
from extractkit.tensors import TEXT
from extractkit.values import Array

HDF5_ENDINGS = (".h5", ".hdf5")
ARCHIVE_ENDING = ".keras"

_CHILD = "extractkit.models.weight_files.hdf5_listing"
_WEIGHTS = "model.weights.h5"


def open_hdf5(file: Path, at: str) -> WeightFile:
    """Every array in an HDF5 file.

    Args:
        at: how messages name what the user gave.

    Raises:
        ModelError: it is damaged, something else, holds no array, or leads out of itself.
    """
    listing = _listed(file, at)
    entries = {
        key: Entry(dtype, tuple(shape)) for key, (dtype, shape) in listing["datasets"].items()
    }
    if not entries:
        raise ModelError(f"{at} is an HDF5 file without any weight in it")

    def load(key: str) -> Array:
        try:
            with h5py.File(file, "r") as opened:
                return _array(opened[key], entries[key].dtype)
        except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
            raise damaged(at, f"{key!r}: {told(error)}") from error

    return WeightFile(
        str(file), "Keras HDF5", (file,), entries, places(entries, listing["names"]), load
    )


def open_archive(file: Path, at: str) -> WeightFile:
    """The weights inside a `.keras` archive, unpacked to a temporary file for as long as needed.

    Raises:
        ModelError: it is damaged, holds no weights, or they are no HDF5.
    """
    handle, name = tempfile.mkstemp(suffix=".h5")
    os.close(handle)
    unpacked = Path(name)
    try:
        _unpack(file, unpacked, at)
        opened = replace(
            open_hdf5(unpacked, at), path=str(file), format="Keras archive", files=(file,)
        )
    except BaseException:
        unpacked.unlink()
        raise
    weakref.finalize(opened, unpacked.unlink, missing_ok=True)
    return opened


def _unpack(file: Path, into: Path, at: str) -> None:
    """Copy the weights out of an archive in pieces; their checksum is looked at on the way."""
    try:
        with zipfile.ZipFile(file) as archive:
            if _WEIGHTS not in archive.namelist():
                raise ModelError(
                    f"{at} holds no {_WEIGHTS}. {choices(_WEIGHTS, archive.namelist())}"
                )
            with archive.open(_WEIGHTS) as content, into.open("wb") as unpacked:
                shutil.copyfileobj(content, unpacked)
    except (
        *(zipfile.BadZipFile, zlib.error, EOFError),
        *(ValueError, RuntimeError, NotImplementedError, struct.error),
    ) as error:
        raise damaged(at, told(error)) from error


def _listed(file: Path, at: str) -> Mapping[str, Any]:
    """What the child says is in the file."""
    done = subprocess.run(
        [sys.executable, "-m", _CHILD, str(file)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        check=False,
    )
    if done.returncode < 0:
        raise damaged(at, f"reading it ended the process that tried (signal {-done.returncode})")
    try:
        listing: Mapping[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise damaged(at, f"the process that tried to read it failed: {''.join(last)}") from error
    if "damaged" in listing:
        raise damaged(at, listing["damaged"])
    if "refused" in listing:
        raise ModelError(f"{at} is refused: {listing['refused']}")
    return listing


def _array(dataset: Any, dtype: str) -> Array:
    value = dataset[()]
    if dtype == TEXT:
        return np.asarray(value, object)
    value = np.asarray(value)
    if dtype == "bfloat16":
        return value.view(ml_dtypes.bfloat16)
    return value.astype(value.dtype.newbyteorder("="), copy=False)
