"""Weights in HDF5, as Keras writes them: `.weights.h5` and `.h5`.

HDF5's reader can be brought to crash, or to run for ever, by a damaged file (3 to 7 of 1,000
small changes), so a child process lists a file and reads whatever is not plainly contiguous
before this process reads any of it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np

from extractkit.errors import ModelError
from extractkit.models.child import ask, ask_about_all
from extractkit.models.foreign import told
from extractkit.models.weight_files.keras_places import places
from extractkit.models.weight_files.weight_file import Entry, WeightFile, damaged
from extractkit.tensors import TEXT
from extractkit.values import Array

HDF5_ENDINGS = (".h5", ".hdf5")

_CHILD = "extractkit.models.weight_files.hdf5_listing"
_TOGETHER = 256

Listing = Mapping[str, Any]
"""What the child says of a file: `datasets` and `names`, or what is wrong with it."""


def open_hdf5(
    file: Path, at: str, *, whole: bool = False, listing: Listing | None = None
) -> WeightFile:
    """Every array in an HDF5 file.

    Args:
        at: how messages name what the user gave.
        whole: whether it belongs to a whole model, which may have no weights at all.
        listing: of the file, where there is one already; see `list_together`.

    Raises:
        ModelError: it is damaged, something else, holds no array where weights are all that it is
            for, or leads out of itself.
    """
    listing = _checked(_listed(file, at) if listing is None else listing, at)
    entries = {
        key: Entry(dtype, tuple(shape)) for key, (dtype, shape) in listing["datasets"].items()
    }
    if not entries and not whole:
        raise ModelError(f"{at} is an HDF5 file that holds no weights")

    def load(key: str) -> Array:
        try:
            with h5py.File(file, "r") as opened:
                return _array(opened[key], entries[key].dtype)
        except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
            raise damaged(at, f"{key!r}: {told(error)}") from error

    return WeightFile(
        str(file), "Keras HDF5", (file,), entries, places(entries, listing["names"]), load
    )


def list_together(files: Sequence[Path]) -> dict[Path, Listing]:
    """Listings of many files, for which few children are started.

    What a child dies of, or does not come to, has no listing: asked about alone, it is told.
    """
    found: dict[Path, Listing] = {}
    left = list(files)
    while left:
        few = left[:_TOGETHER]
        sizes = sum(file.stat().st_size for file in few)
        lines = ask_about_all(_CHILD, [str(file) for file in few], sizes).split(b"\n")[:-1]
        for file, line in zip(few, lines, strict=False):
            found[file] = json.loads(line)
        # Where lines are missing, it was the next file that ended the child.
        del left[: min(len(lines) + 1, len(few))]
    return found


def _listed(file: Path, at: str) -> Listing:
    """What the child says is in the file."""
    answer = ask(_CHILD, str(file), file, at)
    try:
        listing: Listing = json.loads(answer.output)
    except ValueError as error:
        what = f"the process that tried to read it failed: {answer.last_words}"
        raise damaged(at, what) from error
    return listing


def _checked(listing: Listing, at: str) -> Listing:
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
