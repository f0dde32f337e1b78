"""The NPZ sink: each shard is an uncompressed `.npz` file that `numpy.load` reads.

A key is percent-escaped (all but letters, digits and `_.-~`), because programs that unpack the
archive would take its slashes for folders and may not allow colons. A dense tensor is the member
KEY. A ragged one is KEY+values, KEY+offsets and, if more than its first axis varies, KEY+shapes. An
escaped key contains no plus sign.

Strings are bytes of any length, for which NumPy has no type. They are stored as two arrays:
NAME+bytes, uint8, concatenated in C order (texts in UTF-8), and NAME+ends, int64, in the shape of
the strings: the end of each in NAME+bytes.
"""

import io
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO
from urllib.parse import quote, unquote

import numpy as np
import numpy.typing as npt

from extractkit.core.values import (
    OFFSETS,
    SHAPES,
    VALUES,
    Array,
    Dense,
    Ragged,
    Values,
    encoded,
    ragged_shapes,
)
from extractkit.errors import JobError, RunDirectoryError, choices
from extractkit.sinks import (
    PLAIN,
    Extent,
    Located,
    StoredShard,
    StoredTensor,
    check_layout,
    check_ragged,
    check_range,
    count,
    damaged,
)

BYTES, ENDS = "bytes", "ends"
"""Names of the two arrays that hold strings."""

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date of a zip archive
_STORED = "biufcSU"
UNREADABLE = (
    zipfile.BadZipFile,
    EOFError,
    OSError,
    NotImplementedError,
    RuntimeError,
    MemoryError,  # for a header that is nested too deep
    SyntaxError,
    tokenize.TokenError,
    TypeError,
    ValueError,
    zlib.error,
)
"""Exceptions that zipfile and NumPy raise for files that they cannot read."""

_LOCAL_HEADER = struct.Struct("<26x2H")
"""What precedes a file in an archive ends with the lengths of its name and of what follows that."""


def member(key: str, part: str = "") -> str:
    """Return the name under which `numpy.load` shows one array of a tensor."""
    return f"{quote(key, safe='')}+{part}" if part else quote(key, safe="")


@dataclass(frozen=True)
class NpzSink:
    """Shards as `.npz` files."""

    @property
    def suffix(self) -> str:
        """`.npz`."""
        return ".npz"

    def serialize(self, values: Mapping[str, Values]) -> bytes:
        """Serialise a shard, or the constants, as an `.npz` file.

        Raises:
            JobError: an object is not a string, and NumPy could only store it as a pickle.
        """
        image = io.BytesIO()
        with zipfile.ZipFile(image, "w", zipfile.ZIP_STORED) as archive:
            for key, value in values.items():
                for part, array in _arrays(key, value).items():
                    info = zipfile.ZipInfo(f"{member(key, part)}.npy", _EPOCH)
                    info.external_attr = 0o644 << 16  # otherwise it unpacks without read permission
                    with archive.open(info, "w", force_zip64=True) as file:
                        ordered = np.asarray(array, order="C")
                        np.lib.format.write_array(file, ordered, allow_pickle=False)
        return image.getvalue()

    def read(self, path: Path, key: str, start: int, stop: int) -> Values:
        """Read samples start … stop-1 of one tensor, and keep no other sample's values."""
        with _opened(path) as archive:
            if _dense(archive, key):
                check_range(path, key, start, stop, _samples(archive, key))
                return Dense(_read(archive, key, "", start, stop))
            offsets, shapes = _offsets(archive, key, start, stop)
            rows = _read(archive, key, VALUES, int(offsets[0]), int(offsets[-1]))
            return Ragged(rows, offsets - offsets[0], shapes)

    def locate(self, path: Path, key: str) -> Located | None:
        """Find a tensor in a shard; None if its values are strings or booleans."""
        with _opened(path) as archive:
            if _dense(archive, key):
                rows = _extent(archive, key, "")
                return None if rows is None else Located(rows)
            samples = _samples(archive, key, OFFSETS) - 1
            offsets, shapes = _offsets(archive, key, 0, samples)
            rows = _extent(archive, key, VALUES)
            return None if rows is None else Located(rows, offsets, shapes)

    def read_shapes(self, path: Path, key: str, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Read the shapes of samples start … stop-1, int64 (samples, rank)."""
        with _opened(path) as archive:
            if _dense(archive, key):
                check_range(path, key, start, stop, _samples(archive, key))
                fixed = _layout(archive, key)[1][1:]
                return np.broadcast_to(np.asarray(fixed, np.int64), (stop - start, len(fixed)))
            offsets, shapes = _offsets(archive, key, start, stop)
            return ragged_shapes(offsets, shapes, _layout(archive, key, VALUES)[1][1:])

    def read_constant(self, path: Path, key: str) -> Array:
        """Read the value of one constant."""
        with _opened(path) as archive:
            return _read(archive, key)

    def finish(
        self, directory: Path, tensors: Sequence[StoredTensor], shards: Sequence[StoredShard]
    ) -> Mapping[str, bytes]:
        """Return no files, because NumPy has no format that spans others."""
        return {}


def _arrays(key: str, value: Values) -> dict[str, Array]:
    """Return the arrays to store, by name. Strings are two arrays."""
    arrays: dict[str, Array] = {}
    for part, array in value.parts().items():
        if array.dtype.kind not in "OSU":
            arrays[part] = array
            continue
        try:
            strings = list(map(encoded, array.flat))
        except TypeError as error:
            raise JobError(f"sinks.npz cannot store {key!r}: {error}") from error
        ends = np.cumsum([len(string) for string in strings], dtype=np.int64)
        arrays[_joined(part, BYTES)] = np.frombuffer(b"".join(strings), np.uint8)
        arrays[_joined(part, ENDS)] = ends.reshape(array.shape)
    return arrays


def _joined(part: str, name: str) -> str:
    return f"{part}+{name}" if part else name


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    # Reading a pipe or a device might never end.
    if not path.is_file():
        raise RunDirectoryError(f"{path} is missing from its run")
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except UNREADABLE as error:
        raise RunDirectoryError(f"{path} is damaged: {error}") from error


@contextmanager
def _entered(archive: zipfile.ZipFile, key: str, part: str) -> Iterator[tuple[IO[bytes], int]]:
    """Open one array's file inside the archive, and return its size too."""
    info = archive.NameToInfo.get(_entry(key, part))
    if info is None:
        raise RunDirectoryError(
            f"{archive.filename} holds no tensor {key!r}. {choices(key, _keys(archive))}"
        )
    path = _path(archive)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise damaged(path, key, "it is compressed, as no sink writes it")
    if info.header_offset + info.file_size > path.stat().st_size:
        raise damaged(path, key, "it is larger than its file")
    with archive.open(info) as file:
        yield file, info.file_size


def _entry(key: str, part: str = "") -> str:
    return f"{member(key, part)}.npy"


def _path(archive: zipfile.ZipFile) -> Path:
    return Path(str(archive.filename))


def _dense(archive: zipfile.ZipFile, key: str) -> bool:
    return _entry(key) in archive.NameToInfo or _strings(archive, key, "")


def _strings(archive: zipfile.ZipFile, key: str, part: str) -> bool:
    return _entry(key, _joined(part, ENDS)) in archive.NameToInfo


def _keys(archive: zipfile.ZipFile) -> list[str]:
    names = [name.removesuffix(".npy").partition("+")[0] for name in archive.namelist()]
    return [unquote(name) for name in dict.fromkeys(names)]


def _header(
    archive: zipfile.ZipFile, key: str, file: IO[bytes], size: int
) -> tuple[np.dtype[np.generic], tuple[int, ...]]:
    """Read dtype and shape of an array, which must be in C order and fill the rest of the file."""
    path = _path(archive)
    if np.lib.format.read_magic(file) == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    else:
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
    if dtype.kind not in _STORED:
        raise damaged(path, key, f"no sink writes {dtype}")
    if fortran or count(shape) * dtype.itemsize != size - file.tell():
        raise damaged(path, key, f"{list(shape)} {dtype} is not what it holds")
    return dtype, shape


def _layout(
    archive: zipfile.ZipFile, key: str, part: str = ""
) -> tuple[np.dtype[np.generic], tuple[int, ...]]:
    if _strings(archive, key, part):
        return np.dtype(object), _layout(archive, key, _joined(part, ENDS))[1]
    with _entered(archive, key, part) as (file, size):
        return _header(archive, key, file, size)


def _samples(archive: zipfile.ZipFile, key: str, part: str = "") -> int:
    """Return the number of samples along the first axis."""
    shape = _layout(archive, key, part)[1]
    if not shape:
        raise damaged(_path(archive), key, "it has no axis of samples")
    return shape[0]


def _extent(archive: zipfile.ZipFile, key: str, part: str) -> Extent | None:
    """Return where an array is in its file; None for strings, booleans and single values."""
    if _strings(archive, key, part):
        return None
    path, info = _path(archive), archive.NameToInfo[_entry(key, part)]
    with _entered(archive, key, part) as (file, size):
        dtype, shape = _header(archive, key, file, size)
        header = file.tell()
    if dtype.kind not in PLAIN or not shape or not dtype.isnative:
        return None
    with path.open("rb") as raw:
        raw.seek(info.header_offset)
        local = _LOCAL_HEADER.unpack(raw.read(_LOCAL_HEADER.size))
    begin = info.header_offset + _LOCAL_HEADER.size + sum(local) + header
    if begin + size - header > path.stat().st_size:
        raise damaged(path, key, "it is larger than its file")
    return Extent(path, begin, dtype, shape)


def _read(
    archive: zipfile.ZipFile, key: str, part: str = "", start: int = 0, stop: int | None = None
) -> Array:
    """Read rows start … stop-1 of one array, or all of it."""
    if _strings(archive, key, part):
        return _read_strings(archive, key, part, start, stop)
    with _entered(archive, key, part) as (file, size):
        dtype, shape = _header(archive, key, file, size)
        if stop is not None:
            file.seek(start * count(shape[1:]) * dtype.itemsize, io.SEEK_CUR)
            shape = (stop - start, *shape[1:])
        array = np.empty(shape, dtype)
        # As bytes, because files cannot read into buffers of half floats or texts.
        if array.nbytes and file.readinto(array.reshape(-1).view(np.uint8)) != array.nbytes:  # type: ignore[attr-defined]
            raise EOFError(f"{key!r} ends early")
        return array


def _read_strings(
    archive: zipfile.ZipFile, key: str, part: str, start: int, stop: int | None
) -> Array:
    path, data, name = _path(archive), _joined(part, BYTES), _joined(part, ENDS)
    size = _samples(archive, key, data)
    kinds = [_layout(archive, key, one)[0] for one in (name, data)]
    if kinds != [np.int64, np.uint8]:
        raise damaged(path, key, f"its {BYTES} and {ENDS} have other types")
    # A string begins at the end of the one before it.
    known = _read(archive, key, name, max(start - 1, 0), stop)
    ends = known[1:] if start else known
    first = known[0].reshape(-1)[-1:] if start else np.zeros(1, np.int64)
    bounds = np.concatenate([first, ends.reshape(-1)])
    strings = np.empty(ends.shape, object)
    if not strings.size:
        return strings
    if bounds[0] < 0 or bounds[-1] > size or (np.diff(bounds) < 0).any():
        raise damaged(path, key, f"its {ENDS} are not in order within its {size} bytes")
    content = _read(archive, key, data, int(bounds[0]), int(bounds[-1])).tobytes()
    bounds -= bounds[0]
    for index, (begin, end) in zip(np.ndindex(strings.shape), pairwise(bounds), strict=True):
        strings[index] = content[begin:end]
    return strings


def _offsets(
    archive: zipfile.ZipFile, key: str, start: int, stop: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64] | None]:
    """Read offsets of these samples of a ragged tensor, and their shapes if stored."""
    path, offset_layout = _path(archive), _layout(archive, key, OFFSETS)
    shaped = _entry(key, SHAPES) in archive.NameToInfo
    check_layout(path, key, offset_layout, _layout(archive, key, SHAPES) if shaped else None)
    check_range(path, key, start, stop, offset_layout[1][0] - 1)
    offsets = _read(archive, key, OFFSETS, start, stop + 1).astype(np.int64, copy=False)
    shapes = None
    if shaped:
        shapes = _read(archive, key, SHAPES, start, stop).astype(np.int64, copy=False)
    check_ragged(path, key, _samples(archive, key, VALUES), offsets, shapes)
    return offsets, shapes
