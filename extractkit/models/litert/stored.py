"""Weights as a TensorFlow Lite file holds them, read without an interpreter."""

import math
from itertools import pairwise

import numpy as np

from extractkit.models.litert.entry import DTYPES
from extractkit.models.litert.file import Content
from extractkit.models.litert.graph import GraphTensor
from extractkit.models.litert.sparsity import densify
from extractkit.plan import numpy_dtype
from extractkit.tensors import TEXT
from extractkit.values import Array


def stored_value(content: Content, tensor: GraphTensor) -> Array:
    """Copy the value of a constant, dense if the file stores it sparse.

    Args:
        content: Of the file that the tensor was read from.

    Raises:
        ValueError: The bytes in the file do not fill the shape.
    """
    assert tensor.place is not None
    offset, length = tensor.place
    dtype = numpy_dtype(DTYPES[tensor.type])
    shape = tuple(size or 0 for size in tensor.shape)
    if DTYPES[tensor.type] == TEXT:
        strings = _strings(bytes(content[offset : offset + length]), tensor.name)
        return _filled(strings, shape, "strings", tensor.name)
    if length % dtype.itemsize:
        raise ValueError(f"{length} bytes of tensor {tensor.name!r} are no {dtype.name} numbers")
    values = np.frombuffer(content, dtype, length // dtype.itemsize, offset).copy()
    if tensor.sparsity is not None:
        return densify(values, shape, tensor.sparsity)
    return _filled(values, shape, "numbers", tensor.name)


def _filled(values: Array, shape: tuple[int, ...], what: str, name: str) -> Array:
    if math.prod(shape) != len(values):
        raise ValueError(f"{len(values)} {what} of tensor {name!r} do not fill {shape}")
    return values.reshape(shape)


def _strings(content: bytes, name: str) -> Array:
    """Return strings as bytes objects: their number, where each begins and the last ends, them."""
    count = int.from_bytes(content[:4], "little")
    head = 4 * (count + 2)
    if head > len(content):
        raise ValueError(f"{len(content)} bytes of tensor {name!r} are too few for {count} strings")
    offsets = np.frombuffer(content, "<i4", count + 1, 4).tolist()
    if offsets != sorted(offsets) or offsets[0] < head or offsets[-1] > len(content):
        raise ValueError(f"strings of tensor {name!r} lie outside of it")
    strings = np.empty(count, object)
    strings[:] = [content[begin:end] for begin, end in pairwise(offsets)]
    return strings
