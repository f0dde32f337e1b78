"""`model.constants`: values of a graph's inputs that are the same for every sample."""

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from extractkit.errors import ConfigError, choices
from extractkit.values import Array, as_array

AT = "model.constants"


def checked_constants(
    given: Mapping[str, object] | None, tensors: Mapping[str, tf.Tensor], inputs: Sequence[str]
) -> dict[str, Array]:
    """`model.constants` as arrays by name.

    Args:
        given: as configured.
        tensors: every tensor that can be given a value, by name.
        inputs: names of those that samples are read for.

    Raises:
        ConfigError: no such input, one that samples are read for, or a value that does not fit.
    """
    constants: dict[str, Array] = {}
    for name, value in (given or {}).items():
        if name not in tensors:
            raise ConfigError(f"{AT}: {name!r} is no input. {choices(name, tensors)}")
        if name in inputs:
            raise ConfigError(f"{name!r} stands in both model.inputs and {AT}. Leave one out")
        constants[name] = _checked(name, value, tensors[name])
    return constants


def _checked(name: str, value: object, tensor: tf.Tensor) -> Array:
    dtype = tensor.dtype.base_dtype
    try:
        given = as_array(value)
    except ValueError:  # lists of different lengths
        raise ConfigError(f"{AT}.{name}={value!r} is no array: its rows differ in length") from None
    fits = {
        "b": dtype.is_bool,
        "i": dtype.is_integer or dtype.is_floating or dtype.is_complex,
        "f": dtype.is_floating or dtype.is_complex,
        "O": dtype == tf.string and all(isinstance(one, str | bytes) for one in given.flat),
    }
    if not fits.get(given.dtype.kind, False):
        raise ConfigError(f"{AT}.{name}={value!r} is no {dtype.name}, which this input takes")
    if not tensor.shape.is_compatible_with(given.shape):
        raise ConfigError(
            f"{AT}.{name}={value!r} has shape {list(given.shape)}, this input takes "
            f"{tensor.shape.as_list()}"
        )
    array: Array = given.astype(dtype.as_numpy_dtype)
    if dtype.is_integer and not np.array_equal(array, given):
        raise ConfigError(f"{AT}.{name}={value!r} does not fit into {dtype.name}")
    return array
