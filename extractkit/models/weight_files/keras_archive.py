"""`.keras` archives: zip files with the architecture and, in HDF5, the weights."""

import errno
import os
import shutil
import struct
import tempfile
import weakref
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

from extractkit.errors import ModelError, choices
from extractkit.models.foreign import told
from extractkit.models.weight_files.keras_hdf5 import open_hdf5
from extractkit.models.weight_files.weight_file import WeightFile, damaged
from extractkit.models.zip_files import why_not_unpacked

ENDING = ".keras"

_WEIGHTS = "model.weights.h5"

# Deflate alone reaches a thousandfold; what Keras writes is stored as it is.
_LARGEST_RATIO = 100
_SMALL = 16 << 20

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def open_archive(file: Path, at: str, *, whole: bool = False) -> WeightFile:
    """The weights inside a `.keras` archive, unpacked to a temporary file for as long as needed.

    Args:
        at: how messages name what the user gave.
        whole: whether the whole model is asked for, which may have no weights at all.

    Raises:
        ModelError: it is damaged, holds no weights where they alone are asked for, or they are no
            HDF5; it grows out of all proportion, or there is no room for it.
    """
    try:
        handle, name = tempfile.mkstemp(suffix=".h5")
    except OSError as error:
        raise _no_room(at, error) from error
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
    """Refuse what would fill memory or disk, before any of it is unpacked.

    Raises:
        ModelError: something in it is far larger than what it is packed into.
    """
    for member in archive.infolist():
        if member.file_size > _SMALL + _LARGEST_RATIO * member.compress_size:
            raise ModelError(
                f"{at} is refused: {member.filename!r} in it grows from {member.compress_size} "
                f"to {member.file_size} bytes"
            )


def _unpack(file: Path, into: Path, at: str) -> None:
    """Copy the weights out of an archive in pieces; their checksum is looked at on the way."""
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
            raise _no_room(at, error) from error
        raise damaged(at, told(error)) from error
    except (
        *(zipfile.BadZipFile, zlib.error, EOFError),
        *(ValueError, RuntimeError, NotImplementedError, struct.error),
    ) as error:
        if why := why_not_unpacked(error):
            raise ModelError(f"{at} {why}") from error
        raise damaged(at, told(error)) from error


def _no_room(at: str, error: OSError) -> ModelError:
    return ModelError(
        f"{at} cannot be unpacked to a temporary file: {error.strerror or error}. Name a directory "
        f"with room: TMPDIR=DIRECTORY python -m extractkit …"
    )
