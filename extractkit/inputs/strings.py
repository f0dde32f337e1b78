"""Strings as a model takes them: arrays of objects, each a text or bytes of any length.

NumPy's own string types have a fixed width and fill shorter values up with zeros, so a value of
such a type has no zeros at its end. Bytes that may end in zeros must never pass through one.
"""

import numpy as np

from extractkit.errors import InputError
from extractkit.inputs.protocol import Signature
from extractkit.values import Array, as_array

_EXACT = (
    "To keep every byte, give inputs=files, inputs=tfrecord, a binary column of Parquet or a "
    "dataset; in Python an array of objects: np.array(values, object)"
)


class CutStringsError(InputError):
    """Values of a fixed-width type may have lost zeros: not only the one that shows it."""


# Texts hold none of these. Tabs, line feeds and their like are texts.
_CONTROLS = frozenset(map(chr, (*range(9), *range(14, 32))))


def is_string(dtype: np.dtype[np.generic]) -> bool:
    """Return whether an array of this type may hold strings; objects are looked at one by one."""
    opaque = dtype.kind == "V" and dtype.names is None and dtype.subdtype is None
    return opaque or dtype.kind in "OSUT"


def check_strings(values: Array, at: str) -> None:
    """Refuse what is no string, and strings that may have lost zeros at their end.

    Raises:
        InputError: an object that is neither text nor bytes, or a text with half a surrogate pair.
        CutStringsError: bytes that are shorter than their fixed-width type and no text.
    """
    if values.dtype.kind == "V":
        return
    check_width(values, at)
    for value in values.flat:
        check_string(value, at)


def check_width(values: Array, at: str) -> None:
    """Refuse bytes that are no text, and shorter than their fixed-width type.

    Raises:
        CutStringsError: there are some.
    """
    if values.dtype.kind not in "SU":
        return
    width = values.dtype.itemsize // (4 if values.dtype.kind == "U" else 1)
    for value in values.flat:
        if len(value) < width and _is_binary(value):
            raise CutStringsError(
                f"{at} holds {value!r:.60}, shorter than its type {values.dtype.str!r}. NumPy's "
                f"fixed-width types drop zeros at the end, so it may have been cut. {_EXACT}"
            )


def check_string(value: object, at: str) -> None:
    """Refuse a value that is neither text nor bytes.

    Raises:
        InputError: it is something else, or a text that cannot be encoded in UTF-8.
    """
    if isinstance(value, bytes):
        return
    if value is None:
        raise InputError(f"{at} is missing (None). Fill it in, or leave the sample out")
    if not isinstance(value, str):
        raise InputError(f"{at} is {type(value).__name__}, no text: {value!r:.60}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{at} holds {value[error.start]!r}, half a surrogate pair and no character"
        ) from error


def objects(values: Array) -> Array:
    """Return the same strings as objects, in memory of their own."""
    if values.dtype.kind == "V":
        return np.array(values.tolist(), object).reshape(values.shape)
    return np.array(values, object)


def string_data(value: object, signature: Signature, at: str) -> str | dict[str, Array]:
    """Return one string as a sample's data: a text, or bytes that are no text.

    Bytes in UTF-8 are a text, as TensorFlow has no other type for texts.

    Raises:
        InputError: it is no string; or bytes that are no text, for a model with a tokenizer.
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
