"""Values for the inside of a graph: `model.constants`, and tensors that samples are given for.

A tensor is named by TensorFlow's name (`op:1`, or `op` for an operation's first) or by its address
in the catalog.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from extractkit.advice import nested_override
from extractkit.core.catalog import join
from extractkit.core.values import Array, as_array
from extractkit.errors import ConfigError, choices
from extractkit.models.axes import INPUT_AXES
from extractkit.models.graphs.imported import (
    AnyGraph,
    AnyOperation,
    AnyTensor,
    is_handle,
    readable,
    short_paths,
)

CONSTANTS = "model.constants"


def checked_constants(
    given: Mapping[str, object] | None, tensors: Mapping[str, Any], inputs: Sequence[str]
) -> dict[str, Array]:
    """Return `model.constants` as arrays by name.

    Args:
        given: The configured values.
        tensors: Every tensor that can be fed, or its spec, by name.
        inputs: Names of the inputs that samples are read for.

    Raises:
        ConfigError: The input does not exist, samples are read for it, or a value does not fit.
    """
    constants: dict[str, Array] = {}
    for name, value in (given or {}).items():
        if name not in tensors:
            raise ConfigError(f"{CONSTANTS}: {name!r} is not an input. {choices(name, tensors)}")
        if name in inputs:
            raise ConfigError(
                f"{name!r} is in both model.input_axes and {CONSTANTS}. Leave one out"
            )
        constants[name] = _checked(name, value, tensors[name])
    return constants


def _checked(name: str, value: object, tensor: Any) -> Array:
    dtype = tensor.dtype.base_dtype
    try:
        given = as_array(value)
    except ValueError:  # lists of different lengths
        raise ConfigError(
            f"{CONSTANTS}.{name}={value!r} is not an array: its rows differ in length"
        ) from None
    fits = {
        "b": dtype.is_bool,
        "i": dtype.is_integer or dtype.is_floating or dtype.is_complex,
        "f": dtype.is_floating or dtype.is_complex,
        "O": dtype == tf.string and all(isinstance(one, str | bytes) for one in given.flat),
    }
    if not fits.get(given.dtype.kind, False):
        raise ConfigError(
            f"{CONSTANTS}.{name}={value!r} is not {dtype.name}, which this input takes"
        )
    if not tensor.shape.is_compatible_with(given.shape):
        raise ConfigError(
            f"{CONSTANTS}.{name}={value!r} has the shape {list(given.shape)}, and this input takes "
            f"{tensor.shape.as_list()}"
        )
    with np.errstate(over="ignore"):  # overflow is refused below
        array: Array = given.astype(dtype.as_numpy_dtype)
    changed = dtype.is_integer and not np.array_equal(array, given)
    if changed or (given.dtype.kind in "if" and _overflows(given, array)):
        raise ConfigError(f"{CONSTANTS}.{name}={value!r} does not fit into {dtype.name}")
    return array


def _overflows(given: Array, array: Array) -> bool:
    """Return whether a finite number becomes infinite in the type of the input."""
    return bool(np.any(np.isfinite(given) & ~np.isfinite(array)))


def inner_tensors(
    graph: AnyGraph,
    names: Iterable[str],
    inputs: Mapping[str, AnyTensor],
    drop_prefix: str = "",
) -> dict[str, AnyTensor]:
    """Return the tensors for the names that are not among the graph's inputs.

    Args:
        graph: The graph, with all called functions inlined.
        inputs: The graph's own inputs by name.
        drop_prefix: See `find_operations`.

    Raises:
        ConfigError: The tensor does not exist or is a handle, or two names mean one tensor.
    """
    found: dict[str, AnyTensor] = {}
    taken = {tensor.name: name for name, tensor in inputs.items()}
    for name in names:
        if name in inputs:
            continue
        tensor = tensor_named(graph, name)
        if tensor is None:
            tensor = _by_address(graph, name, drop_prefix)
        if tensor is None:
            there = [*inputs, *_addresses(graph, drop_prefix, taken)]
            raise ConfigError(
                f"{INPUT_AXES}: {name!r} is neither an input nor a tensor of the graph. "
                f"{choices(name, there)}"
            )
        if is_handle(tensor.dtype):
            raise ConfigError(f"{INPUT_AXES}: {_handle(name, tensor)}")
        if tensor.name in taken:
            raise ConfigError(
                f"{INPUT_AXES}: {name!r} and {taken[tensor.name]!r} are the same tensor"
            )
        taken[tensor.name] = name
        found[name] = tensor
    return found


def tensor_named(graph: AnyGraph, name: str) -> AnyTensor | None:
    """Return a tensor by its name (`op:1`, or `op` for an operation's first), or None."""
    try:
        return graph.get_tensor_by_name(name if ":" in name else f"{name}:0")
    except (KeyError, ValueError):
        return None


def advised_inputs(tensors: Iterable[AnyTensor]) -> str:
    """Return the override that makes these tensors inputs, quoted for a shell."""
    return nested_override(INPUT_AXES, {tensor.name: _dims(tensor) for tensor in tensors})


def reading_operations(source: AnyOperation) -> list[AnyOperation]:
    """Return the operations that read values through the handles of an operation."""
    found: dict[str, AnyOperation] = {}
    seen, waiting = set(), [source]
    while waiting:
        operation = waiting.pop()
        if operation.name in seen:
            continue
        seen.add(operation.name)
        if readable(operation):
            found[operation.name] = operation
        else:
            waiting.extend(c for tensor in operation.outputs for c in tensor.consumers())
    return list(found.values())


def _by_address(graph: AnyGraph, name: str, drop_prefix: str) -> AnyTensor | None:
    """Return the tensor with this address, with or without its port, or None."""
    paths = short_paths((operation.name for operation in graph.get_operations()), drop_prefix)
    for operation in graph.get_operations():
        for tensor in operation.outputs:
            path = paths[operation.name]
            if name == join(path, str(tensor.value_index)) or (
                name == path and tensor.value_index == 0
            ):
                return tensor
    return None


def _addresses(graph: AnyGraph, drop_prefix: str, taken: Container[str]) -> list[str]:
    paths = short_paths((operation.name for operation in graph.get_operations()), drop_prefix)
    return [
        join(paths[operation.name], str(tensor.value_index))
        for operation in graph.get_operations()
        for tensor in readable(operation)
        if tensor.name not in taken
    ]


def _handle(name: str, tensor: AnyTensor) -> str:
    text = f"{name!r} ({tensor.op.type}) is a handle, which has no values to give"
    read = [
        one
        for operation in reading_operations(tensor.op)
        for one in readable(operation)
        if one.consumers()
    ]
    if not read:
        return f"{text}. Name a tensor that is read from it"
    return f"{text}. Name what is read from it: {advised_inputs(read)}"


def _dims(tensor: AnyTensor) -> str:
    """Return the axes in the syntax of `model.input_axes`, the first one for samples."""
    sizes = tensor.shape.as_list() if tensor.shape.rank else []
    rest = ["null" if size is None else str(size) for size in sizes[1:]]
    return f"[{', '.join(['sample', *rest])}]" if sizes else "[]"
