"""Strings in HDF5: texts as HDF5's own type, and bytes that it could not hold as rows of uint8."""

from typing import Any

import h5py
import numpy as np

from extractkit.values import Array, as_array, as_bytes, as_rows, encoded

_BYTES = h5py.vlen_dtype(np.uint8)


def add_strings(file: Any, path: str, strings: Array) -> None:
    """Store strings: texts in UTF-8, bytes as they are, and rows of uint8 where one has a zero.

    Raises:
        TypeError: an object that is neither text nor bytes.
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
    """Return whether the values of a dataset are rows of uint8 of variable length."""
    return bool(h5py.check_vlen_dtype(dataset.dtype) == np.uint8)


def read_strings(dataset: Any, where: slice | tuple[()] = ()) -> Array:
    """Return strings as objects: bytes, or texts where they were stored as such.

    Args:
        where: the rows; without it all of them, or a single string.
    """
    if holds_bytes(dataset):
        values = dataset[where]
        return as_bytes(values) if dataset.shape else as_array(values.tobytes())
    if h5py.check_string_dtype(dataset.dtype).encoding == "utf-8":
        dataset = dataset.asstr()
    return as_array(dataset[where])
