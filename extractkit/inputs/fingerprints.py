"""What a source's fingerprint is taken of: its samples as they are read."""

import hashlib
import json

from extractkit.inputs.protocol import Sample
from extractkit.values import Array


def contents(values: Array) -> bytes:
    """The bytes of an array: numbers in C order; texts in UTF-8, each after its length.

    An array of objects holds addresses in memory, which differ from process to process.
    """
    if not values.dtype.hasobject:
        return values.tobytes()
    texts = [item if isinstance(item, bytes) else str(item).encode() for item in values.flat]
    return b"".join(len(text).to_bytes(8, "little") + text for text in texts)


def sample_digest(sample: Sample) -> bytes:
    """SHA-256 over a sample's id, its text or its arrays, and what else identifies it."""
    extra = json.dumps(sample.extra, sort_keys=True)
    digest = hashlib.sha256(f"{sample.id}\0{extra}\0".encode())
    if isinstance(sample.data, str):
        digest.update(sample.data.encode())
        return digest.digest()
    for name, values in sample.data.items():
        digest.update(f"{name}\0{values.dtype.str}\0{values.shape}\0".encode())
        digest.update(contents(values))
    return digest.digest()
