"""Digests of weights and settings that are the same in every process."""

import hashlib
import json
from typing import Protocol

import numpy as np

from extractkit.core.values import Array


class Hash(Protocol):
    """The part of `hashlib`'s interface that is used."""

    def update(self, data: bytes, /) -> None: ...


def update(sha: Hash, name: str, dtype: str, array: Array) -> None:
    """Add one weight to a digest: its name, dtype, shape and content.

    Texts count by their bytes, because an array of objects holds memory addresses.
    """
    sha.update(f"{name}\0{dtype}\0{array.shape}\0".encode("utf-8", "surrogateescape"))
    if array.dtype.hasobject:
        for text in array.flat:
            encoded = text if isinstance(text, bytes) else str(text).encode()
            sha.update(len(encoded).to_bytes(8, "little") + encoded)
    else:
        # As plain bytes, because the buffer protocol does not support bfloat16.
        sha.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)  # type: ignore[arg-type]


def of_plain_data(value: object) -> str:
    """Return the SHA-256 of plain data, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def of_array(array: Array) -> str:
    """Return the SHA-256 of dtype, shape and content."""
    sha = hashlib.sha256()
    update(sha, "", str(array.dtype), array)
    return sha.hexdigest()


def of_table(keys: Array, values: Array) -> str:
    """Return the SHA-256 of a lookup table, independent of the order of its rows.

    Args:
        keys, values: (n,), or (n, …) of arrays.
    """
    rows = keys.tolist()
    order = sorted(range(len(rows)), key=rows.__getitem__)
    return of_plain_data([of_array(keys[order]), of_array(values[order])])
