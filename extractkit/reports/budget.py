"""The size of a page: how many bytes it may have, and how values become text in it."""

import base64
import json
from collections.abc import Mapping

import numpy as np

from extractkit.core.values import Array

MOST_BYTES = 5_000_000
"""The largest page, which can still be sent by mail."""

HALF, SINGLE = 2, 4
"""Bytes of a value as float16 and as float32."""

ENCODED = 4 / 3
"""Characters for each byte of encoded values."""


def compact(values: Array) -> Array:
    """Return values as float16 if that keeps three digits of the largest, else as float32.

    The largest is that of each picture, the last two axes, since each has colours of its own.
    """
    sizes = np.where(np.isfinite(values), np.abs(values.astype(np.float64)), 0)
    largest = sizes.max(axis=tuple(range(-min(2, values.ndim), 0)), initial=0)
    half = ((largest == 0) | ((largest >= _LEAST) & (largest <= _MOST))).all()
    return values.astype(np.float16 if half else np.float32)


def single(values: Array) -> Array:
    """Return values as float32, infinite beyond its range: a chart does not draw those."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def encoded(values: Array) -> Mapping[str, object]:
    """Return float16 or float32 values as plain data: type, shape and base64, in C order."""
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return {
        "type": values.dtype.name,
        "shape": list(values.shape),
        "base64": base64.b64encode(little.tobytes()).decode("ascii"),
    }


def decoded(data: Mapping[str, object]) -> Array:
    """Return the values of `encoded`."""
    kind = np.dtype(str(data["type"])).newbyteorder("<")
    content = base64.b64decode(str(data["base64"]))
    shape = data["shape"]
    if not isinstance(shape, list):
        raise TypeError("the shape of encoded values is a list")
    return np.frombuffer(content, kind).reshape(shape)


_LEAST, _MOST = 1e-2, 6e4
"""The largest of values that float16 represents well, with those a thousandth of it."""

_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def embedded(document: object) -> str:
    """Return plain data as JSON that cannot end the element of a page that holds it."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for char, escape in _UNSAFE.items():
        text = text.replace(char, escape)
    # Halves of surrogate pairs, which no file in UTF-8 can hold.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
