"""Weights as a TensorFlow Lite file holds them, read without an interpreter."""

import math

import numpy as np

from extractkit.models.litert.entry import DTYPES
from extractkit.models.litert.file import Content
from extractkit.models.litert.graph import GraphTensor
from extractkit.models.litert.sparsity import densify
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
    dtype = np.dtype(DTYPES[tensor.type])
    shape = tuple(size or 0 for size in tensor.shape)
    if length % dtype.itemsize:
        raise ValueError(f"{length} bytes of tensor {tensor.name!r} are no {dtype.name} numbers")
    values = np.frombuffer(content, dtype, length // dtype.itemsize, offset).copy()
    if tensor.sparsity is not None:
        return densify(values, shape, tensor.sparsity)
    if math.prod(shape) != len(values):
        raise ValueError(f"{len(values)} numbers of tensor {tensor.name!r} do not fill {shape}")
    return values.reshape(shape)
