"""Weights as Keras writes them: `.weights.h5`, `.h5`, and `.keras` archives.

Keras 3 (`.weights.h5`, `.keras`) numbers them, `layers/dense_1/vars/0`, in the order of the layer,
and does not store their own names. The layer's name is an attribute beside them. Older files name
them: `dense_1/dense_1/kernel:0`.

A damaged file can make HDF5's reader crash or run for ever (3 to 7 of 1,000 small changes). So a
child process first lists the file and reads everything that is not contiguous.
"""

import errno
import json
import os
import re
import shutil
import struct
import tempfile
import weakref
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np

from extractkit.core.spec import TEXT
from extractkit.core.values import Array
from extractkit.errors import ModelError, choices
from extractkit.models.failures import error_summary, why_not_unpacked
from extractkit.models.isolation import ask, run_for_many
from extractkit.models.weight_files.weight_file import Entry, Location, WeightFile, damaged

_COUNT = re.compile(r"_\d+$")
_VARS = "vars"
_LAYERS = "layers"
_MODEL_WEIGHTS = "model_weights/"
_OPTIMIZER_WEIGHTS = "optimizer_weights"
_OPTIMIZER = "optimizer"


def locations(keys: Iterable[str], names: Mapping[str, str]) -> dict[str, Location]:
    """Return the location of every dataset.

    Args:
        keys: the paths of the datasets.
        names: the attribute `name` by path of the group, which Keras 3 writes to each layer's
            `vars`.
    """
    keys = list(keys)
    layer_names = _layer_names(names)
    numbered = {key for key in keys if key.rpartition("/")[0].rpartition("/")[2] == _VARS}
    return {key: _numbered(key, layer_names) if key in numbered else _named(key) for key in keys}


def _named(key: str) -> Location:
    """Locate `dense_1/dense_1/kernel:0`: a layer's group, then the variable's full name.

    If that name begins with the model (`dense/sequential/dense/kernel`), the repeated part is
    dropped.
    """
    *layers, variable = key.removeprefix(_MODEL_WEIGHTS).removesuffix(":0").split("/")
    training = key.startswith(f"{_OPTIMIZER_WEIGHTS}/")
    if layers[:1] and layers[0] in layers[1:]:
        del layers[: layers.index(layers[0], 1)]
    average = training and (variable.endswith("average") or "average" in layers[2:3])
    return Location(tuple(layers), variable, training=training, average=average)


def _numbered(key: str, layer_names: Mapping[str, str]) -> Location:
    """Locate `layers/dense_1/vars/0`, without the model's list of layers."""
    *parts, _, variable = key.split("/")
    layers = tuple(
        layer_names.get("/".join(parts[: depth + 1]), part)
        for depth, part in enumerate(parts)
        if part != _LAYERS
    )
    return Location(layers, variable, training=parts[:1] == [_OPTIMIZER])


def _layer_names(names: Mapping[str, str]) -> dict[str, str]:
    """Return the layers' own names by path of their group, where they are better than the path.

    The path of a list item has its class and a counter (`layers/dense_1`), so a name given by the
    author is better. A name that Keras generated depends on what was built earlier in the process,
    so files of one architecture would differ in it. The path of an attribute has the attribute's
    name.
    """
    own = {path.rpartition("/")[0]: name for path, name in names.items() if _is_vars(path)}
    better = {}
    for path, name in own.items():
        above, _, group = path.rpartition("/")
        made_up = _COUNT.sub("", name) == _COUNT.sub("", group)
        if above and above not in own and not made_up:
            better[path] = name
    counts = Counter((path.rpartition("/")[0], name) for path, name in better.items())
    return {path: name for path, name in better.items() if _alone(path, name, counts, own)}


def _alone(
    path: str, name: str, counts: Mapping[tuple[str, str], int], groups: Mapping[str, str]
) -> bool:
    """Return whether no sibling has this name or is below it."""
    above = path.rpartition("/")[0]
    return counts[above, name] == 1 and f"{above}/{name}" not in groups


def _is_vars(path: str) -> bool:
    return path.rpartition("/")[2] == _VARS


HDF5_ENDINGS = (".h5", ".hdf5")

_CHILD = "extractkit.models.weight_files.hdf5_listing"
_TOGETHER = 256

Listing = Mapping[str, Any]
"""Return the child's listing of a file, `datasets` and `names`, or its error."""


def open_hdf5(
    file: Path, at: str, *, whole: bool = False, listing: Listing | None = None
) -> WeightFile:
    """Return every array in an HDF5 file.

    Args:
        at: the name for messages.
        whole: whether it belongs to a whole model, which may have no weights at all.
        listing: the file's listing if it exists already; see `list_together`.

    Raises:
        ModelError: it is damaged or something else, a file of weights is empty, or it links to
            other files.
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
            raise damaged(at, f"{key!r}: {error_summary(error)}") from error

    return WeightFile(
        str(file), "Keras HDF5", (file,), entries, locations(entries, listing["names"]), load
    )


def list_together(files: Sequence[Path]) -> dict[Path, Listing]:
    """Return the listings of many files, with few child processes.

    A file that crashes the child, or comes after it, has no listing and is listed separately.
    """
    found: dict[Path, Listing] = {}
    left = list(files)
    while left:
        few = left[:_TOGETHER]
        sizes = sum(file.stat().st_size for file in few)
        lines = run_for_many(_CHILD, [str(file) for file in few], sizes).split(b"\n")[:-1]
        for file, line in zip(few, lines, strict=False):
            found[file] = json.loads(line)
        # If lines are missing, the next file ended the child.
        del left[: min(len(lines) + 1, len(few))]
    return found


def _listed(file: Path, at: str) -> Listing:
    """Return the child's listing of the file."""
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


ENDING = ".keras"

_WEIGHTS = "model.weights.h5"

# Deflate reaches a ratio of a thousand. Keras itself does not compress.
_LARGEST_RATIO = 100
_SMALL = 16 << 20

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def open_archive(file: Path, at: str, *, whole: bool = False) -> WeightFile:
    """Open the weights in a `.keras` archive, unpacked to a temporary file while needed.

    Args:
        at: the name for messages.
        whole: whether the whole model is asked for, which may have no weights at all.

    Raises:
        ModelError: it is damaged, the requested weights are missing or not HDF5, or it is too large
            to unpack.
    """
    try:
        handle, name = tempfile.mkstemp(suffix=".h5")
    except OSError as error:
        raise _disk_full(at, error) from error
    os.close(handle)
    unpacked = Path(name)
    try:
        _unpack(file, unpacked, at)
        opened = replace(
            open_hdf5(unpacked, at, whole=whole),
            path=str(file),
            format="Keras archive",
            files=(file,),
        )
    except BaseException:
        unpacked.unlink()
        raise
    weakref.finalize(opened, unpacked.unlink, missing_ok=True)
    return opened


def refuse_bomb(archive: zipfile.ZipFile, at: str) -> None:
    """Refuse an archive that would fill memory or disk, before unpacking.

    Raises:
        ModelError: a member is far larger than its packed size.
    """
    for member in archive.infolist():
        if member.file_size > _SMALL + _LARGEST_RATIO * member.compress_size:
            raise ModelError(
                f"{at} is refused: {member.filename!r} in it grows from {member.compress_size} "
                f"to {member.file_size} bytes"
            )


def _unpack(file: Path, into: Path, at: str) -> None:
    """Copy the weights out of an archive block by block, and verify their checksum."""
    try:
        with zipfile.ZipFile(file) as archive:
            refuse_bomb(archive, at)
            if _WEIGHTS not in archive.namelist():
                raise ModelError(
                    f"{at} holds no {_WEIGHTS}. {choices(_WEIGHTS, archive.namelist())}"
                )
            with archive.open(_WEIGHTS) as content, into.open("wb") as unpacked:
                shutil.copyfileobj(content, unpacked)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise _disk_full(at, error) from error
        raise damaged(at, error_summary(error)) from error
    except (
        *(zipfile.BadZipFile, zlib.error, EOFError),
        *(ValueError, RuntimeError, NotImplementedError, struct.error),
    ) as error:
        if why := why_not_unpacked(error):
            raise ModelError(f"{at} {why}") from error
        raise damaged(at, error_summary(error)) from error


def _disk_full(at: str, error: OSError) -> ModelError:
    return ModelError(
        f"{at} cannot be unpacked to a temporary file: {error.strerror or error}. Name a directory "
        f"with room: TMPDIR=DIRECTORY python -m extractkit …"
    )
