"""Conversion of values to a model's inputs: numbers, strings, and rows of sparse inputs.

NumPy's string types have a fixed width and pad shorter values with zeros, so trailing zeros of a
value are lost. Bytes that may end in zeros must never be converted to such a type.
"""

from collections.abc import Iterator, Mapping
from itertools import islice, pairwise
from typing import Any

import numpy as np

from extractkit.core.spec import TEXT, numpy_dtype
from extractkit.core.values import Array, as_array
from extractkit.errors import InputError
from extractkit.inputs import InputSpec, Signature

_EXACT = (
    "To keep every byte, give inputs=files, inputs=tfrecord, a binary column of Parquet or a "
    "dataset; in Python an array of objects: np.array(values, object)"
)


class CutStringsError(InputError):
    """Values of a fixed-width type may have lost trailing zeros, all of them if one has."""


# Control characters that do not occur in texts, unlike tabs and line feeds.
_CONTROLS = frozenset(map(chr, (*range(9), *range(14, 32))))


def is_string(dtype: np.dtype[np.generic]) -> bool:
    """Return whether an array of this type may hold strings. Objects are checked one by one."""
    opaque = dtype.kind == "V" and dtype.names is None and dtype.subdtype is None
    return opaque or dtype.kind in "OSUT"


def check_strings(values: Array, at: str) -> None:
    """Check that values are strings that cannot have lost trailing zeros.

    Raises:
        InputError: An object is neither text nor bytes, or a text has half a surrogate pair.
        CutStringsError: Binary bytes are shorter than their fixed-width type.
    """
    if values.dtype.kind == "V":
        return
    check_width(values, at)
    for value in values.flat:
        check_string(value, at)


def check_width(values: Array, at: str) -> None:
    """Refuse binary bytes that are shorter than their fixed-width type.

    Raises:
        CutStringsError: There are some.
    """
    if values.dtype.kind not in "SU":
        return
    width = values.dtype.itemsize // (4 if values.dtype.kind == "U" else 1)
    for value in values.flat:
        if len(value) < width and _is_binary(value):
            raise CutStringsError(
                f"{at} holds {value.item()!r:.60}, shorter than its type {values.dtype.str!r}. "
                f"NumPy's fixed-width types drop zeros at the end, so it may have been cut. "
                f"{_EXACT}"
            )


def check_string(value: object, at: str) -> None:
    """Check that a value is text or bytes.

    Raises:
        InputError: It is something else, or a text that cannot be encoded in UTF-8.
    """
    if isinstance(value, bytes):
        return
    if value is None:
        raise InputError(f"{at} is missing (None). Fill it in, or leave the sample out")
    if not isinstance(value, str):
        raise InputError(f"{at} is {type(value).__name__}, not a text: {value!r:.60}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{at} holds {value[error.start]!r}, half a surrogate pair, which is not a character"
        ) from error


def objects(values: Array) -> Array:
    """Return a copy of the strings as objects."""
    if values.dtype.kind == "V":
        return np.array(values.tolist(), object).reshape(values.shape)
    return np.array(values, object)


def check_unmasked(value: object, at: str) -> None:
    """Refuse masked arrays of NumPy with masked elements, also in lists.

    Raises:
        InputError: There are some. The message gives the positions.
    """
    found = [*islice(_masked(value), _SHOWN + 1)]
    if found:
        more = ", …" if len(found) > _SHOWN else ""
        places = ", ".join("".join(f"[{index}]" for index in one) or "[]" for one in found[:_SHOWN])
        raise InputError(
            f"{at} is missing (masked) at {places}{more}. Fill it in, in NumPy: "
            f"array.filled(VALUE), or leave the samples out"
        )


_SHOWN = 3


def _masked(value: object) -> Iterator[tuple[int, ...]]:
    """Yield the positions of masked elements."""
    if isinstance(value, np.ma.MaskedArray):
        mask = np.ma.getmaskarray(value)
        if mask.dtype.names is None:
            yield from map(tuple, np.argwhere(mask).tolist())
    elif isinstance(value, list | tuple):
        for index, one in enumerate(value):
            yield from ((index, *rest) for rest in _masked(one))


def string_data(value: object, signature: Signature, at: str) -> str | dict[str, Array]:
    """Return one string as a sample's data: a text, or binary bytes.

    Bytes in UTF-8 are a text, since TensorFlow has no other type for texts.

    Raises:
        InputError: It is not a string, or binary bytes are given to a model with a tokenizer.
    """
    if isinstance(value, bytearray | memoryview):
        value = bytes(value)
    elif signature.string is not None and isinstance(value, list) and len(value) == 1:
        value = value[0]
    elif getattr(value, "shape", None) in ((), (1,)):
        array = as_array(value)
        check_width(array, at)
        value = array.item()
    check_string(value, at)
    if isinstance(value, str):
        return str(value)
    assert isinstance(value, bytes)
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        if signature.string is None:
            raise InputError(f"{at} is not UTF-8: {error}") from error
    return bytes_data(value, signature)


def bytes_data(value: bytes, signature: Signature) -> dict[str, Array]:
    """Return bytes as the data of a sample for the model's one string input."""
    assert signature.string is not None
    spec = signature.string
    return {spec.name: as_array(value).reshape((1,) * len(spec.shape))}


def _is_binary(value: bytes | str) -> bool:
    try:
        text = value if isinstance(value, str) else value.decode()
    except UnicodeDecodeError:
        return True
    return not _CONTROLS.isdisjoint(text)


Shape = tuple[int, ...]


def as_taken(shape: Shape, taken: tuple[int | None, ...]) -> Shape:
    """Return the shape of a sample with the rank of the model's input.

    An input of shape (1,) takes a single number, and one of shape () an array with one element.

    Args:
        shape: The given shape.
        taken: The shape of the model's input, without the sample axis.
    """
    if shape == () and taken == (1,):
        return (1,)
    if shape == (1,) and taken == ():
        return ()
    return shape


def converted(values: Array, spec: InputSpec, *, copy: bool = True) -> Array:
    """Return checked values in the model's type.

    Args:
        copy: Whether to copy values that already have it.
    """
    if spec.dtype == TEXT:
        return objects(values)
    return values.astype(numpy_dtype(spec.dtype), copy=copy)


INDICES, VALUES, _DENSE_SHAPE = "indices", "values", "dense_shape"
_SHAPES = (_DENSE_SHAPE, "shape")


def positions_of(value: object) -> Mapping[str, Any] | None:
    """Return a sample given by positions and values, or None for any other value.

    Such a sample is `{"indices": …, "values": …}`, optionally with `dense_shape` or `shape`, or an
    object with these attributes, as TensorFlow's.
    """
    if isinstance(value, Mapping):
        return value if {INDICES, VALUES} <= set(value) <= {INDICES, VALUES, *_SHAPES} else None
    names = (INDICES, VALUES, "dense_shape")
    if all(hasattr(value, name) for name in names):
        return {name: getattr(value, name) for name in names}
    return None


def row_of(given: Mapping[str, Any], spec: InputSpec, at: str) -> Array:
    """Return the row of a sample given by positions and values.

    A row of fixed size is filled with zeros (or empty texts). A row of any length consists of its
    elements in order.

    Raises:
        InputError: Positions and values do not make such a row.
    """
    indices = _array(given[INDICES], at, "indices")
    check_unmasked(given[VALUES], f"{at}: values")
    try:
        values = as_array(given[VALUES])
    except ValueError as error:
        raise InputError(
            f"{at}: values {given[VALUES]!r:.60} cannot be converted to an array: {error}"
        ) from error
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
                f"{at}: {as_array(value).item()!r} at position {position} is the same as a "
                f"missing element. Leave it out"
            )
    dtype = object if spec.dtype == TEXT else values.dtype if values.size else spec.dtype
    row = np.full(size, nothing, dtype)
    row[indices] = values
    return row


def rows_of(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the samples of a whole sparse matrix of SciPy or TensorFlow.

    Args:
        value: A matrix as recognised by `is_matrix`.
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
    """Return whether it is a sparse matrix of SciPy or TensorFlow, samples along its first axis."""
    return hasattr(value, "tocsr") or (
        positions_of(value) is not None
        and not isinstance(value, Mapping)
        and np.asarray(value.indices).shape[1:] == (2,)  # type: ignore[attr-defined]
    )


def _consecutive(indices: Array, values: Array, spec: InputSpec, at: str) -> Array:
    if spec.composite is None:
        raise InputError(
            f"{at}: indices and values do not give the length of the row of {spec.name!r}. "
            f"Give all its values"
        )
    if (indices != np.arange(len(indices))).any():
        raise InputError(
            f"{at}: rows of input {spec.name!r} may have any length, and their elements have "
            f"consecutive positions from 0; positions {indices.tolist()} leave some out. Give all "
            f"of them, or only the values"
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
        raise InputError(
            f"{at}: {name} {value!r:.60} cannot be converted to an array: {error}"
        ) from error
    if array.size and array.dtype.kind not in "iu":
        raise InputError(f"{at}: {name} {value!r:.60} are not whole numbers")
    return array.astype(np.int64)
