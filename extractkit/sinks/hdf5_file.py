"""HDF5 files: built in memory, opened with care, and refused unless a sink could have written them.

HDF5 follows links to any file, returns fill values where nothing is stored, and inflates any chunk.
A dataset must therefore be stored in its file as a sink writes it, and the declared size must be
possible for the bytes that exist:

contiguous    exactly the declared bytes, within the file
compressed    every chunk exists, none larger than sinks write. Together they are at most
              `_DEFLATED` times smaller than declared, which is the most that gzip can do. A chunk
              is inflated up to its declared size before HDF5 gets it, which has no limit
strings       the sum of the lengths in their descriptors is no more than the file
"""

import itertools
import math
import zlib
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import SEEK_END, SEEK_SET
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from extractkit.core.values import (
    OFFSETS,
    SHAPES,
    VALUES,
    Array,
    as_array,
    as_bytes,
    as_rows,
    encoded,
)
from extractkit.errors import RunDirectoryError, choices
from extractkit.sinks import PLAIN, Buffer, Extent, check_layout, count, damaged

_BYTES = h5py.vlen_dtype(np.uint8)


PRESENT = ":present"
"""Ending of the dataset that marks which rows of a tensor without NaN have a value."""

# Exceptions that h5py raises for files that HDF5 cannot read.
_UNREADABLE = (OSError, RuntimeError, KeyError, ValueError, TypeError, zlib.error)


def file_image(build: Callable[[Any], None]) -> bytes:
    """Return the bytes of the HDF5 file that `build` fills, without touching the disk.

    h5py omits creation times and HDF5 clears unused space, so equal content gives equal bytes.
    """
    return b"".join(file_buffers(build))


def file_buffers(build: Callable[[Any], None], arrays: Iterable[Array] = ()) -> list[Buffer]:
    """Return the bytes of the HDF5 file that `build` fills, divided into buffers.

    Args:
        arrays: arrays that `build` may store. Large ones are not copied, unless HDF5 converts them.
            Their memory must not change while the buffers are used.
    """
    # HDF5's own in-memory driver would need twice the memory to return the file.
    image = _Image(arrays)
    with h5py.File(image, "w") as file:
        build(file)
    return image.buffers()


_LARGE = 1 << 16
_PAGE = 1 << 16


class _Image:
    """A file in memory, to which HDF5 writes. It refers to large arrays where they are.

    h5py passes a view of the memory that HDF5 writes from. For an array that needs no conversion,
    this is the array's own memory. Everything else is copied, page by page.
    """

    def __init__(self, arrays: Iterable[Array]) -> None:
        flat = (one.reshape(-1).view(np.uint8) for one in arrays if _borrowable(one))
        self._lent = {one.__array_interface__["data"][0]: one for one in flat}
        self._arrays: dict[int, memoryview] = {}
        self._begins: list[int] = []
        self._pages: dict[int, bytearray] = {}
        self._at = 0
        self._size = 0

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        """Move to an offset from the beginning, or from the end."""
        self._at = offset + (self._size if whence == SEEK_END else 0)
        return self._at

    def tell(self) -> int:
        """Return the current offset."""
        return self._at

    def write(self, data: memoryview) -> int:
        """Write at the current offset."""
        end = self._at + len(data)
        self._check_apart(self._at, end)
        array = self._lent.get(_address(data)) if len(data) >= _LARGE else None
        if array is not None and len(array) == len(data):
            self._arrays[self._at] = array.data
            insort(self._begins, self._at)
        else:
            for page, part, own in _parts(self._at, len(data)):
                if page not in self._pages:
                    self._pages[page] = bytearray(_PAGE)
                self._pages[page][part] = data[own]
        self._at = end
        self._size = max(self._size, end)
        return len(data)

    def read(self, size: int) -> bytes:
        """Read from the current offset."""
        start, self._at = self._at, min(self._at + size, self._size)
        self._check_apart(start, self._at)
        return self._copied(start, self._at)

    def truncate(self, size: int) -> int:
        """Set the size."""
        self._size = size
        return size

    def flush(self) -> None:
        """Do nothing: everything is in memory."""

    def buffers(self) -> list[Buffer]:
        """Return the content in order."""
        found: list[Buffer] = []
        done = 0
        for at in self._begins:
            found += [self._copied(done, at), self._arrays[at]]
            done = at + len(self._arrays[at])
        return [*found, self._copied(done, self._size)]

    def _check_apart(self, start: int, stop: int) -> None:
        """Refuse a range with bytes of arrays, which HDF5 writes once and does not read."""
        before = bisect_left(self._begins, stop) - 1
        if before >= 0 and (at := self._begins[before]) + len(self._arrays[at]) > start:
            raise OSError("HDF5 uses the bytes of an array again")

    def _copied(self, start: int, stop: int) -> bytes:
        empty = bytes(_PAGE)
        parts = _parts(start, stop - start)
        return b"".join(self._pages.get(page, empty)[part] for page, part, _ in parts)


def _borrowable(array: Array) -> bool:
    plain = not array.dtype.hasobject and array.flags.c_contiguous
    return plain and array.nbytes >= _LARGE


def _address(data: memoryview) -> int:
    address: int = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
    return address


def _parts(start: int, size: int) -> Iterator[tuple[int, slice, slice]]:
    """Yield the number of each page of a range, the part of the page, and that of the range."""
    at = start
    while at < start + size:
        page, first = divmod(at, _PAGE)
        count = min(_PAGE - first, start + size - at)
        yield page, slice(first, first + count), slice(at - start, at - start + count)
        at += count


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a shard file for reading.

    Raises:
        RunDirectoryError: the file is missing, not an HDF5 file, or damaged where it is read.
    """
    # Reading a pipe or a device might never end.
    if not path.is_file():
        raise RunDirectoryError(f"{path} is missing from its run")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except _UNREADABLE as error:
        raise RunDirectoryError(f"{path} is damaged: {error}") from error


def stored(file: Any, key: str) -> dict[str, Any]:
    """Return the datasets of a tensor by the names of its parts. A dense one's name is empty.

    Raises:
        RunDirectoryError: there is none, or no sink has written it: HDF5 would follow a link or
            external storage to any of the user's files.
    """
    node = member(file, key)
    if isinstance(node, h5py.Group):
        found = {part: member(node, part) for part in (VALUES, OFFSETS, SHAPES)}
        parts = {part: dataset for part, dataset in found.items() if dataset is not None}
    else:
        parts = {} if node is None else {"": node}
    if not parts or (VALUES in parts) != (OFFSETS in parts):
        raise RunDirectoryError(
            f"{file.filename} holds no tensor {key!r}. {choices(key, _keys(file))}"
        )
    for dataset in parts.values():
        check_dataset(dataset, key)
    if OFFSETS in parts:
        layouts = {part: (dataset.dtype, dataset.shape) for part, dataset in parts.items()}
        check_layout(Path(file.filename), key, layouts[OFFSETS], layouts.get(SHAPES))
    return parts


def add_strings(file: Any, path: str, strings: Array) -> None:
    """Store strings: texts in UTF-8, bytes unchanged, or rows of uint8 if one contains a zero.

    Raises:
        TypeError: an object is neither text nor bytes.
    """
    if any(b"\0" in encoded(string) for string in strings.flat):
        add_bytes(file, path, strings)
        return
    first = next(iter(strings.flat), b"") if strings.dtype.kind == "O" else strings.dtype.type()
    kind = h5py.string_dtype("utf-8" if isinstance(first, str) else "ascii")
    file.create_dataset(path, data=strings.astype(object), dtype=kind)


def add_bytes(file: Any, path: str, strings: Array) -> Any:
    """Store strings as rows of uint8 of variable length, and return the dataset."""
    return file.create_dataset(path, data=as_rows(strings).astype(_BYTES), dtype=_BYTES)


def holds_bytes(dataset: Any) -> bool:
    """Return True if the values of a dataset are rows of uint8 of variable length."""
    return bool(h5py.check_vlen_dtype(dataset.dtype) == np.uint8)


def read_strings(dataset: Any, where: slice | tuple[()] = ()) -> Array:
    """Read strings as objects: bytes, or texts if they were stored as such.

    Args:
        where: the rows to read; by default all, or a single string.
    """
    if holds_bytes(dataset):
        values = dataset[where]
        return as_bytes(values) if dataset.shape else as_array(values.tobytes())
    if h5py.check_string_dtype(dataset.dtype).encoding == "utf-8":
        dataset = dataset.asstr()
    return as_array(dataset[where])


_DEFLATED = 1100
_LARGEST_CHUNK = 16 << 20
_LZF = 32000
_FILTERS: tuple[list[int], ...] = (
    [],
    [h5py.h5z.FILTER_DEFLATE],
    [_LZF],
    [h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE],
    [h5py.h5z.FILTER_SHUFFLE, _LZF],
)
# Length, address and index of a text in the file's heap.
_DESCRIPTOR = np.dtype([("length", "<u4"), ("address", "<u8"), ("index", "<u4")])


def member(group: Any, name: str) -> Any:
    """Return the node under a path in a group, or None.

    Raises:
        RunDirectoryError: the path contains a link, which HDF5 would follow anywhere.
    """
    node = group
    for part in filter(None, name.split("/")):
        if not isinstance(node, h5py.Group) or not node.id.links.exists(part.encode()):
            return None
        if node.id.links.get_info(part.encode()).type != h5py.h5l.TYPE_HARD:
            raise damaged(Path(group.file.filename), name, "it points outside itself, by a link")
        node = node[part]
    return node


def check_dataset(dataset: Any, key: str) -> None:
    """Refuse a dataset that no sink has written. Reads none of its values.

    Raises:
        RunDirectoryError: it leads out of its file, has a type that is not stored, or declares
            more than its file can hold.
    """
    path = Path(dataset.file.filename)
    if not isinstance(dataset, h5py.Dataset):
        raise damaged(path, key, "it is not an array")
    if dataset.is_virtual or dataset.external:
        raise damaged(path, key, "it points outside its shard file")
    text = _is_text(dataset) or holds_bytes(dataset)
    if dataset.shape is None or not (text or _is_number(dataset)):
        raise damaged(path, key, f"no sink writes {dataset.dtype}")
    itemsize = _DESCRIPTOR.itemsize if text else dataset.dtype.itemsize
    declared = count(dataset.shape) * itemsize
    settings = dataset.id.get_create_plist()
    layout = settings.get_layout()
    if layout == h5py.h5d.CHUNKED and not text:
        possible = _chunks_possible(dataset, settings, declared)
    else:
        possible = layout in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT)
        possible = possible and dataset.id.get_storage_size() == declared
        offset = dataset.id.get_offset() or 0
        possible = possible and offset + declared <= path.stat().st_size
    if not possible:
        raise damaged(path, key, f"{list(dataset.shape)} {dataset.dtype} is more than it holds")
    if text and declared:
        _check_texts(dataset, path, key)


def extent(dataset: Any) -> Extent | None:
    """Return where a checked dataset is in its file; None if HDF5 has to convert its values."""
    offset = dataset.id.get_offset()
    if offset is None or not dataset.shape or dataset.dtype.kind not in PLAIN:
        return None
    return Extent(Path(dataset.file.filename), offset, dataset.dtype, dataset.shape)


def check_chunks(dataset: Any, key: str, start: int, stop: int) -> None:
    """Refuse compressed rows that would inflate to more than their declared size.

    Raises:
        RunDirectoryError: there are such rows.
    """
    try:
        compression = dataset.compression
    except IndexError as error:  # h5py on a filter whose settings are damaged
        path = Path(dataset.file.filename)
        raise damaged(path, key, "its compression is described wrongly") from error
    if compression != "gzip" or start >= stop:
        return
    size = math.prod(dataset.chunks) * dataset.dtype.itemsize
    rows = range(start - start % dataset.chunks[0], stop, dataset.chunks[0])
    others = [
        range(0, length, step)
        for length, step in zip(dataset.shape[1:], dataset.chunks[1:], strict=True)
    ]
    for chunk in itertools.product(rows, *others):
        unapplied, content = dataset.id.read_direct_chunk(chunk)
        # A set bit marks a filter that was not applied to this chunk. gzip comes after shuffling.
        plain = unapplied >> int(dataset.shuffle) & 1
        inflated = content if plain else zlib.decompressobj().decompress(content, size + 1)
        if len(inflated) != size:
            path = Path(dataset.file.filename)
            raise damaged(path, key, "its compressed values are not of their declared size")


def _is_text(dataset: Any) -> bool:
    """Return True for texts of any length. Texts of a fixed length are never written."""
    text = h5py.check_string_dtype(dataset.dtype)
    return text is not None and text.length is None


def _is_number(dataset: Any) -> bool:
    """Return True if the type is exactly one of NumPy's. HDF5 may crash on others."""
    if dataset.dtype.kind not in "biufc":
        return False
    ordinary: bool = dataset.id.get_type() == h5py.h5t.py_create(dataset.dtype, logical=True)
    return ordinary


def _chunks_possible(dataset: Any, settings: Any, declared: int) -> bool:
    chunk = math.prod(dataset.chunks) * dataset.dtype.itemsize
    pairs = zip(dataset.shape, dataset.chunks, strict=True)
    chunks = math.prod(math.ceil(size / step) for size, step in pairs)
    stored = dataset.id.get_storage_size()
    filters = [settings.get_filter(index)[0] for index in range(settings.get_nfilters())]
    return (
        filters in _FILTERS
        and chunk <= _LARGEST_CHUNK
        and dataset.id.get_num_chunks() == chunks
        and stored <= Path(dataset.file.filename).stat().st_size
        and declared <= stored * (_DEFLATED if filters else 1)
    )


def _check_texts(dataset: Any, path: Path, key: str) -> None:
    texts = count(dataset.shape)
    with path.open("rb") as file:
        file.seek(dataset.id.get_offset() or 0)
        content = file.read(texts * _DESCRIPTOR.itemsize)
    lengths = np.frombuffer(content, _DESCRIPTOR)["length"]
    if len(lengths) != texts or int(lengths.sum(dtype=np.uint64)) > path.stat().st_size:
        raise damaged(path, key, "its texts are longer than the file")


def presence(file: Any, key: str) -> Any:
    """Return the dataset that marks which rows of a tensor have a value; None if it has NaN.

    Raises:
        RunDirectoryError: see `stored`.
    """
    dataset = member(file, key + PRESENT)
    if dataset is not None:
        check_dataset(dataset, key + PRESENT)
    return dataset


def _keys(file: Any) -> list[str]:
    found: list[str] = []

    def visit(name: str, node: object) -> None:
        if isinstance(node, h5py.Dataset) and not name.endswith(PRESENT):
            group, _, part = name.rpartition("/")
            found.append(group if part in (VALUES, OFFSETS, SHAPES) else name)

    file.visititems(visit)
    return list(dict.fromkeys(found))
