"""`model.constants`: values of a graph's inputs that are the same for every sample."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from extractkit.errors import ConfigError, choices
from extractkit.values import Array, as_array

AT = "model.constants"


def checked_constants(
    given: Mapping[str, object] | None, tensors: Mapping[str, Any], inputs: Sequence[str]
) -> dict[str, Array]:
    """`model.constants` as arrays by name.

    Args:
        given: as configured.
        tensors: every tensor that can be given a value, or its spec, by name.
        inputs: names of those that samples are read for.

    Raises:
        ConfigError: no such input, one that samples are read for, or a value that does not fit.
    """
    constants: dict[str, Array] = {}
    for name, value in (given or {}).items():
        if name not in tensors:
            raise ConfigError(f"{AT}: {name!r} is not an input. {choices(name, tensors)}")
        if name in inputs:
            raise ConfigError(f"{name!r} is in both model.inputs and {AT}. Leave one out")
        constants[name] = _checked(name, value, tensors[name])
    return constants


def _checked(name: str, value: object, tensor: Any) -> Array:
    dtype = tensor.dtype.base_dtype
    try:
        given = as_array(value)
    except ValueError:  # lists of different lengths
        raise ConfigError(
            f"{AT}.{name}={value!r} is not an array: its rows differ in length"
        ) from None
    fits = {
        "b": dtype.is_bool,
        "i": dtype.is_integer or dtype.is_floating or dtype.is_complex,
        "f": dtype.is_floating or dtype.is_complex,
        "O": dtype == tf.string and all(isinstance(one, str | bytes) for one in given.flat),
    }
    if not fits.get(given.dtype.kind, False):
        raise ConfigError(f"{AT}.{name}={value!r} is not {dtype.name}, which this input takes")
    if not tensor.shape.is_compatible_with(given.shape):
        raise ConfigError(
            f"{AT}.{name}={value!r} has the shape {list(given.shape)}, and this input takes "
            f"{tensor.shape.as_list()}"
        )
    with np.errstate(over="ignore"):  # which is refused just below
        array: Array = given.astype(dtype.as_numpy_dtype)
    changed = dtype.is_integer and not np.array_equal(array, given)
    if changed or (given.dtype.kind in "if" and _overflows(given, array)):
        raise ConfigError(f"{AT}.{name}={value!r} does not fit into {dtype.name}")
    return array


def _overflows(given: Array, array: Array) -> bool:
    """Return whether a finite number is infinite in the type of the input."""
    return bool(np.any(np.isfinite(given) & ~np.isfinite(array)))
