"""Addresses of a graph's operations: TensorFlow's names, without what every one begins with."""

from collections import Counter
from collections.abc import Iterable
from functools import cache
from typing import Any

import tensorflow as tf

from extractkit.models.graphs.imported import AnyTensor
from extractkit.tensors import escape

_HANDLES = (tf.resource, tf.variant)


def readable(operation: Any) -> list[AnyTensor]:
    """Return the operation's results that have values."""
    return [tensor for tensor in operation.outputs if not is_handle(tensor.dtype)]


@cache
def is_handle(dtype: tf.DType) -> bool:
    """Return whether tensors of a type are handles, whose values cannot be copied out."""
    return dtype.base_dtype in _HANDLES


def short_paths(names: Iterable[str], prefix: str) -> dict[str, str]:
    """Return the path in the address for each operation's name.

    Args:
        prefix: what is left out at the beginning, as often as it stands there, where the rest is
            the name of no other.
    """

    def short(name: str) -> str:
        while prefix and name.startswith(prefix) and name != prefix:
            name = name.removeprefix(prefix)
        return name

    shortened = {name: short(name) for name in names}
    counts = Counter(shortened.values())
    return {name: escaped(rest if counts[rest] == 1 else name) for name, rest in shortened.items()}


def escaped(path: str) -> str:
    """Return the path with each part escaped as addresses need it."""
    return "/".join(escape(part) for part in path.split("/"))
