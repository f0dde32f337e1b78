"""Arrays from .npy and .npz files, memory-mapped.

Nothing is unpickled, since that would run code from the file.
"""

import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import numpy as np

from extractkit.advice import nested_override, override
from extractkit.core.keys import DecidesValues
from extractkit.core.values import Array
from extractkit.errors import InputError
from extractkit.inputs import Scanning, Signature, Visit
from extractkit.inputs.checks import DType, check_limit, describe
from extractkit.inputs.columns import Column, ColumnSource, bind_columns
from extractkit.inputs.file_access import PathLike, Stamp, find_file
from extractkit.inputs.labels import label_name

# Version 3.0 is only for structured arrays with Unicode names, which no model takes.
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_NPY_MAGIC, _ZIP_MAGIC = np.lib.format.MAGIC_PREFIX, b"PK"

# A local file header of a zip archive: 30 bytes, of which the last four give the lengths of the
# name and the extra field that follow; then the data.
_ZIP_HEADER, _ZIP_LENGTHS = 30, 26

_UNREADABLE = (
    ValueError,
    OSError,
    EOFError,
    RuntimeError,  # an encrypted archive
    NotImplementedError,  # a compression that Python does not support
    zipfile.BadZipFile,
    zlib.error,
)

# The encryption bit of a member, and the methods that Python reads: stored, deflate, bzip2, LZMA.
_ENCRYPTED = 1
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)

_AGAIN = "Copy or write it again"


@dataclass(frozen=True)
class StoredArray:
    """An array in a file.

    Attributes:
        path: The file.
        stamp: The state of the file when the array was found.
        offset: The first byte of the values.
        dtype, shape, order: Those of the whole array. The order is "C" or "F".
    """

    path: Path
    stamp: Stamp
    offset: int
    dtype: DType
    shape: tuple[int, ...]
    order: Literal["C", "F"]

    def __getitem__(self, rows: slice, /) -> Array:
        """Return a copy of these rows.

        Raises:
            JobError: The file has changed.
        """
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)[rows]
        # Mapped anew each time: reading a mapping of a file that has shrunk crashes the process.
        with self.stamp.unchanged(self.path):
            mapped = np.memmap(self.path, self.dtype, "r", self.offset, self.shape, self.order)
            return np.array(mapped[rows])


def is_archive(path: Path, at: str) -> bool:
    """Return whether the file is an .npz rather than an .npy, by its first bytes.

    Raises:
        InputError: It is neither.
    """
    with path.open("rb") as file:
        magic = file.read(len(_NPY_MAGIC))
    if not magic.startswith((_NPY_MAGIC, _ZIP_MAGIC)):
        raise InputError(
            f"{at} is neither .npy nor .npz: it begins with {magic!r}. "
            f"Write one: np.save('x.npy', array), or np.savez('x.npz', NAME=array, …)"
        )
    return magic.startswith(_ZIP_MAGIC)


def open_npy(path: Path, at: str) -> StoredArray:
    """Return the array of an .npy file.

    Raises:
        InputError: The file is damaged, or holds Python objects.
    """
    stamp = Stamp.of(path)
    try:
        with path.open("rb") as file:
            array = _stored(file, path, stamp, 0, at, "np.save(path, array)")
    except _UNREADABLE as error:
        raise InputError(f"{at} cannot be read as .npy: {error}. {_AGAIN}") from error
    if array.offset + _bytes(array) > stamp.size:
        raise InputError(
            f"{at} is cut short: {stamp.size} bytes of {array.offset + _bytes(array)}. {_AGAIN}"
        )
    return array


def open_npz(path: Path, at: str) -> Mapping[str, Column]:
    """Return the arrays of an .npz file by name: those of `np.savez` mapped in place.

    Those of `np.savez_compressed` cannot be, and are read into memory as a whole.

    Raises:
        InputError: The file is damaged, or holds Python objects.
    """
    stamp = Stamp.of(path)
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as raw:
            return {
                member.filename.removesuffix(".npy"): _member(archive, member, raw, path, stamp, at)
                for member in archive.infolist()
            }
    except _UNREADABLE as error:
        raise InputError(f"{at} cannot be read as .npz: {error}. {_AGAIN}") from error


def _member(
    archive: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    raw: IO[bytes],
    path: Path,
    stamp: Stamp,
    at: str,
) -> Column:
    if member.flag_bits & _ENCRYPTED:
        raise InputError(
            f"{at} is encrypted. Write it without a password: np.savez(path, NAME=array)"
        )
    if member.compress_type not in _COMPRESSIONS:
        raise InputError(
            f"{at} is compressed as Python cannot read it (method {member.compress_type}). "
            f"Write it again: np.savez(path, NAME=array)"
        )
    raw.seek(member.header_offset + _ZIP_LENGTHS)
    begin = member.header_offset + _ZIP_HEADER + sum(struct.unpack("<HH", raw.read(4)))
    with archive.open(member) as file:
        if file.read(len(_NPY_MAGIC)) != _NPY_MAGIC:
            raise InputError(
                f"{at} is a zip archive, but not an .npz: {member.filename!r} in it is not an "
                "array. "
                f"Write one: np.savez('x.npz', NAME=array, …)"
            )
    with archive.open(member) as file:
        name = member.filename.removesuffix(".npy")
        save = f"np.savez(path, **{{{name!r}: array, …}})"
        array = _stored(file, path, stamp, begin, f"{at}: {name!r}", save)
        if member.compress_type == zipfile.ZIP_STORED:
            if array.offset + _bytes(array) > begin + member.file_size:
                raise ValueError(f"{member.filename} is cut short")
            return array
    with archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _stored(
    file: IO[bytes], path: Path, stamp: Stamp, begin: int, at: str, save: str
) -> StoredArray:
    """Read the header of the array that starts at this byte of `path`.

    Args:
        at: The array's name in messages.
        save: The command that writes it again, for messages.
    """
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"version {version} of the format, which is for structured arrays")
    shape, fortran, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise InputError(
            f"{at} holds Python objects, which are not read: that would run code from the file. "
            f"Make it numbers, array = array.astype('float32'), or texts, "
            f"array = array.astype('str'), and save it: {save}"
        )
    return StoredArray(path, stamp, begin + file.tell(), dtype, shape, "F" if fortran else "C")


def _bytes(array: StoredArray) -> int:
    return array.dtype.itemsize * int(np.prod(array.shape, dtype=np.int64))


@dataclass(frozen=True)
class Arrays(Scanning):
    """Arrays from files, with samples along their first axis.

    Files are memory-mapped, except compressed .npz files, which are read into memory.

    Attributes:
        path: An .npy for a model with one input, an .npz with an array for each input by name, or a
            mapping with an .npy for each input. Required.
        limit: The number of samples to use. If None, all.
        labels: The name of the array in the .npz, or in the mapping, with each sample's label, as
            targets of gradients take it. If None, there is none.

    Raises:
        InputError: `limit` is not a whole number of at least 1.
    """

    path: DecidesValues[PathLike | Mapping[str, PathLike] | None]
    limit: DecidesValues[int | None] = None
    labels: DecidesValues[str | None] = None

    def __post_init__(self) -> None:
        check_limit(self.limit)
        label_name(self.labels)

    def scan(self, signature: Signature, visit: Visit | None) -> ColumnSource:
        """Open the arrays, read them once and check them against the model's inputs.

        Values are converted to the model's dtype: real numbers may lose digits, and whole numbers
        become real ones. Nothing else is converted.

        Raises:
            InputError: A file is missing or damaged, or the arrays do not fit the model.
        """
        if self.path is None:
            raise InputError(
                f"inputs.path is missing. Model {signature.model!r} takes {describe(signature)}. "
                f"Give an array for each: inputs.path=FILE.npz"
            )
        if isinstance(self.path, Mapping):
            return self._bind_each(self.path, signature, visit)
        return self._bind_file(self.path, signature, visit)

    def _bind_file(
        self, given: PathLike, signature: Signature, visit: Visit | None
    ) -> ColumnSource:
        at = f"inputs.path={str(given)!r}"
        path = find_file(given, ".npz")
        columns: Mapping[str, Column]
        if is_archive(path, at):
            columns = open_npz(path, at)
        elif self.labels is not None:
            each = {**dict.fromkeys((one.name for one in signature.specs), "FILE.npy")}
            given = nested_override("inputs.path", {**each, self.labels: "LABELS.npy"})
            raise InputError(f"{at} holds one array, and no labels. Give a file for each: {given}")
        else:
            columns = {_only_input(signature, at): open_npy(path, at)}
        in_memory = any(isinstance(column, np.ndarray) for column in columns.values())
        note = f"{path.name} is compressed and was read into memory; np.savez leaves it on disk"
        return bind_columns(
            columns,
            signature,
            at=at,
            origin=path.name,
            visit=visit,
            limit=self.limit,
            notes=(note,) if in_memory else (),
            labels=label_name(self.labels),
        )

    def _bind_each(
        self, given: Mapping[str, PathLike], signature: Signature, visit: Visit | None
    ) -> ColumnSource:
        columns = {name: _one_array(name, file) for name, file in given.items()}
        origin = ", ".join(Path(file).name for file in given.values())
        return bind_columns(
            *(columns, signature),
            at="inputs.path",
            origin=origin,
            visit=visit,
            limit=self.limit,
            labels=label_name(self.labels),
        )


def _one_array(name: str, given: PathLike) -> Column:
    key = f"inputs.path.{name}"
    path = find_file(given, ".npy", key)
    at = f"{key}={str(given)!r}"
    if is_archive(path, at):
        raise InputError(
            f"{at} is an .npz, which has an array for each input. Give one .npy, or the .npz for "
            f"all inputs: {override('inputs.path', given)}"
        )
    return open_npy(path, at)


def _only_input(signature: Signature, at: str) -> str:
    if len(signature.specs) != 1:
        each = nested_override("inputs.path", {one.name: "FILE.npy" for one in signature.specs})
        raise InputError(
            f"{at} holds one array, model {signature.model!r} takes {describe(signature)}. "
            f"Give an .npz with an array for each, or a file for each: {each}"
        )
    return signature.specs[0].name
