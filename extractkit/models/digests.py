"""Digests of weights that are the same in every process."""

from typing import Protocol

import numpy as np

from extractkit.values import Array


class Hash(Protocol):
    """What of `hashlib` is used."""

    def update(self, data: bytes, /) -> None: ...


def update(sha: Hash, name: str, dtype: str, array: Array) -> None:
    """Add one weight: its name, dtype, shape and content.

    Texts are counted by their bytes: an array of objects holds where they are, not what.
    """
    sha.update(f"{name}\0{dtype}\0{array.shape}\0".encode("utf-8", "surrogateescape"))
    if array.dtype.hasobject:
        for text in array.flat:
            encoded = text if isinstance(text, bytes) else str(text).encode()
            sha.update(len(encoded).to_bytes(8, "little") + encoded)
    else:
        # As plain bytes: the buffer protocol has no word for bfloat16.
        sha.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)  # type: ignore[arg-type]
