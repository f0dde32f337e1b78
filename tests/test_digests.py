"""Digests against published test vectors, `hashlib`, and a layout written down here."""

import hashlib

import numpy as np
import pytest

from extractkit.core.digests import Algorithm, Digest, digest
from extractkit.core.values import Dense, Ragged

PUBLISHED = {
    # The test vectors of BLAKE3's authors: bytes 0, 1, …, 250, 0, 1, … of these lengths.
    0: "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
    1: "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
    1024: "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7",
    1025: "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444",
}


def pattern(length: int) -> bytes:
    return bytes(at % 251 for at in range(length))


@pytest.mark.parametrize("length", PUBLISHED)
def test_blake3_is_that_of_its_authors(length: int) -> None:
    found = Algorithm.BLAKE3.of(pattern(length))
    assert found == f"blake3:{PUBLISHED[length]}"
    assert (found.algorithm, found.hexadecimal) == (Algorithm.BLAKE3, PUBLISHED[length])


@pytest.mark.parametrize("algorithm", Algorithm)
def test_buffers_are_digested_as_one(algorithm: Algorithm) -> None:
    content = pattern(5000)
    parts = content[:7], memoryview(content)[7:3000], b"", memoryview(content)[3000:]
    assert algorithm.of(*parts) == algorithm.of(content)


def test_values_are_digested_with_key_dtype_and_shape() -> None:
    rows = np.arange(6, dtype="float32").reshape(3, 2)
    offsets = np.array([0, 1, 3])
    texts = np.array([b"a", "é"], object)
    values = [("r", Ragged(rows, offsets)), ("t", Dense(texts)), ("s", Dense(np.float64(2)))]
    content = (
        b"r\0values\0<f4\0(3, 2)\0" + rows.tobytes(),
        b"r\0offsets\0<i8\0(3,)\0" + offsets.tobytes(),
        b"t\0\0text\0(2,)\0" + b"\1" + bytes(7) + b"a" + b"\2" + bytes(7) + "é".encode(),
        b"s\0\0<f8\0()\0" + np.float64(2).tobytes(),
    )
    expected = hashlib.sha256(b"".join(content)).hexdigest()
    assert digest(values, Algorithm.SHA256) == f"sha256:{expected}"
    assert digest(values, Algorithm.BLAKE3) == Algorithm.BLAKE3.of(*content)


def test_arrays_in_another_order_are_digested_as_their_copies() -> None:
    array = np.arange(24, dtype="int16").reshape(2, 3, 4)
    for one in (array.transpose(2, 0, 1), array[:, ::2], np.asfortranarray(array), array[:0]):
        pair = (digest([("a", Dense(form))], Algorithm.BLAKE3) for form in (one, one.copy("C")))
        assert len({*pair}) == 1


@pytest.mark.parametrize(
    "text", ["", "f00d", "0" * 64, "md5:" + "0" * 64, "sha256:" + "G" * 64, "blake3:" + "0" * 65]
)
def test_what_is_not_a_digest_is_refused(text: str) -> None:
    assert Digest.parse(text) is None
