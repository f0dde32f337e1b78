"""Sparse samples, given by positions and values, as the rows that a model's sparse input takes."""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from extractkit.errors import InputError
from extractkit.inputs.protocol import InputSpec
from extractkit.plan import numpy_dtype
from extractkit.tensors import TEXT
from extractkit.values import Array, as_array

INDICES, VALUES, _DENSE_SHAPE = "indices", "values", "dense_shape"
_SHAPES = (_DENSE_SHAPE, "shape")


def positions_of(value: object) -> Mapping[str, Any] | None:
    """Return a sample that is given by positions and values; None where it is given otherwise.

    That is `{"indices": …, "values": …}`, also with `dense_shape` or `shape`; or an object with
    these attributes, as TensorFlow has.
    """
    if isinstance(value, Mapping):
        return value if {INDICES, VALUES} <= set(value) <= {INDICES, VALUES, *_SHAPES} else None
    names = (INDICES, VALUES, "dense_shape")
    if all(hasattr(value, name) for name in names):
        return {name: getattr(value, name) for name in names}
    return None


def row_of(given: Mapping[str, Any], spec: InputSpec, at: str) -> Array:
    """Return the row of a sample that is given by positions and values.

    Of a row of fixed size, zeros (or empty texts) stand where nothing is given. A row of any length
    holds its elements one after the other.

    Raises:
        InputError: Positions and values do not make such a row.
    """
    indices = _array(given[INDICES], at, "indices")
    try:
        values = as_array(given[VALUES])
    except ValueError as error:
        raise InputError(f"{at}: values {given[VALUES]!r:.60} make no array: {error}") from error
    indices = indices[:, 0] if indices.ndim == 2 and indices.shape[1] == 1 else indices
    if indices.ndim != 1 or indices.shape != values.shape:
        raise InputError(
            f"{at}: indices of shape {indices.shape} for values of shape {values.shape}. Give one "
            f"position for each value, such as {{indices: [0, 3], values: [1, 1]}}"
        )
    (size,) = spec.shape
    stated = _stated_size(given, at)
    if size is not None and stated not in (None, size):
        raise InputError(f"{at}: dense_shape is [{stated}], and the model takes rows of {size}")
    limit = size if size is not None else stated
    if indices.size and (indices.min() < 0 or (limit is not None and indices.max() >= limit)):
        raise InputError(f"{at}: a position in {indices.tolist()} is outside of a row of {limit}")
    if len(np.unique(indices)) != len(indices):
        raise InputError(f"{at}: a position in {indices.tolist()} is given more than once")
    order = np.argsort(indices)
    if size is None:
        return _consecutive(indices[order], values[order], spec, at)
    nothing: object = "" if spec.dtype == TEXT else 0
    for position, value in zip(indices, values, strict=True):
        if spec.composite is not None and value in (nothing, b""):
            raise InputError(
                f"{at}: {as_array(value).item()!r} at position {position} cannot be told from an "
                f"element that is not there. Leave it out"
            )
    dtype = object if spec.dtype == TEXT else values.dtype if values.size else spec.dtype
    row = np.full(size, nothing, dtype)
    row[indices] = values
    return row


def rows_of(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the samples of a whole sparse matrix of SciPy or TensorFlow.

    Args:
        value: As `is_matrix` recognises it.
    """
    if hasattr(value, "tocsr"):
        compressed = value.tocsr()
        width = compressed.shape[1:]
        for start, stop in zip(compressed.indptr, compressed.indptr[1:], strict=False):
            part = slice(start, stop)
            yield {
                INDICES: compressed.indices[part],
                VALUES: compressed.data[part],
                _DENSE_SHAPE: width,
            }
        return
    count, *width = np.asarray(value.dense_shape).tolist()
    indices, values = np.asarray(value.indices), as_array(value.values)
    order = np.argsort(indices[:, 0], kind="stable")
    indices, values = indices[order], values[order]
    bounds = np.searchsorted(indices[:, 0], np.arange(count + 1))
    for start, stop in pairwise(bounds):
        yield {INDICES: indices[start:stop, 1], VALUES: values[start:stop], _DENSE_SHAPE: width}


def is_matrix(value: object) -> bool:
    """Whether it is a sparse matrix of SciPy or TensorFlow, samples along its first axis."""
    return hasattr(value, "tocsr") or (
        positions_of(value) is not None
        and not isinstance(value, Mapping)
        and np.asarray(value.indices).shape[1:] == (2,)  # type: ignore[attr-defined]
    )


def _consecutive(indices: Array, values: Array, spec: InputSpec, at: str) -> Array:
    if spec.composite is None:
        raise InputError(
            f"{at}: indices and values do not tell how long the row is that {spec.name!r} takes. "
            f"Give all its values"
        )
    if (indices != np.arange(len(indices))).any():
        raise InputError(
            f"{at}: rows of input {spec.name!r} may have any length, and their elements follow "
            f"each other from position 0 on; positions {indices.tolist()} leave some out. Give all "
            f"of them, or the values alone"
        )
    return values if values.size else values.astype(numpy_dtype(spec.dtype))


def _stated_size(given: Mapping[str, Any], at: str) -> int | None:
    shape = next((given[name] for name in _SHAPES if name in given), None)
    if shape is None:
        return None
    sizes = _array(shape, at, "dense_shape").ravel()
    if sizes.size != 1:
        raise InputError(f"{at}: dense_shape is {sizes.tolist()}; a sample has one axis")
    return int(sizes[0])


def _array(value: object, at: str, name: str) -> Array:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InputError(f"{at}: {name} {value!r:.60} make no array: {error}") from error
    if array.size and array.dtype.kind not in "iu":
        raise InputError(f"{at}: {name} {value!r:.60} are not whole numbers")
    return array.astype(np.int64)
