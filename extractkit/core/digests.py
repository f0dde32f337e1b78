"""Digests of what a run stores. Each names its algorithm: "blake3:af13…" or "sha256:e3b0…".

One run has one algorithm, which its manifest records. New runs use BLAKE3, which is several times
as fast. Runs older than schema 14 have SHA-256, and keep it when they are resumed.

Digests of what a job is given (weights, inputs, files, the identity) are bare SHA-256, so that they
can be compared between all runs, and with those that others publish.
"""

import hashlib
import re
from collections.abc import Iterable
from enum import StrEnum

import blake3
import numpy as np

from extractkit.core.values import Array, Hash, Values, encoded

_FORM = re.compile(r"(blake3|sha256):[0-9a-f]{64}")


class Algorithm(StrEnum):
    """The algorithm of a digest."""

    BLAKE3 = "blake3"
    SHA256 = "sha256"

    @property
    def label(self) -> str:
        """Its name for people."""
        return {Algorithm.BLAKE3: "BLAKE3", Algorithm.SHA256: "SHA-256"}[self]

    def begin(self) -> "Hashing":
        """Begin a digest."""
        return Hashing(self)

    def of(self, *content: bytes | memoryview) -> "Digest":
        """Return the digest of bytes, which may be divided into buffers."""
        hashing = self.begin()
        for buffer in content:
            hashing.update(buffer)
        return hashing.digest


PREFERRED = Algorithm.BLAKE3
"""The algorithm of new runs."""


class Digest(str):
    """A digest with its algorithm."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> "Digest | None":
        """Return a digest from its text; None if the text does not have the form of one."""
        return cls(text) if _FORM.fullmatch(text) else None

    @property
    def algorithm(self) -> Algorithm:
        """Its algorithm."""
        return Algorithm(self.partition(":")[0])

    @property
    def hexadecimal(self) -> str:
        """The digest alone, without its algorithm."""
        return self.partition(":")[2]


class Hashing:
    """A digest of bytes that are added one after the other. Other threads run meanwhile."""

    def __init__(self, algorithm: Algorithm) -> None:
        self._algorithm = algorithm
        self._hash: Hash = blake3.blake3() if algorithm is Algorithm.BLAKE3 else hashlib.sha256()

    def update(self, data: bytes | memoryview) -> None:
        """Add bytes."""
        self._hash.update(data)

    @property
    def digest(self) -> Digest:
        """The digest of all bytes so far."""
        return Digest(f"{self._algorithm}:{self._hash.hexdigest()}")


def digest(values: Iterable[tuple[str, Values]], by: Algorithm) -> Digest:
    """Return the digest of keys, dtypes, shapes and contents, independent of the file format."""
    hashing = by.begin()
    for key, value in values:
        for name, array in value.parts().items():
            text = array.dtype.kind in "OSU"
            dtype = "text" if text else array.dtype.str
            hashing.update(f"{key}\0{name}\0{dtype}\0{array.shape}\0".encode())
            hashing.update(_text_bytes(array) if text else _bytes(array))
    return hashing.digest


def _bytes(array: Array) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _text_bytes(array: Array) -> bytes:
    """Concatenate texts, each after its length. An array of objects holds memory addresses."""
    texts = list(map(encoded, array.flat))
    return b"".join(len(text).to_bytes(8, "little") + text for text in texts)
