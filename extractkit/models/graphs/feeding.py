"""Values that a graph is fed: constants, tensors inside it, and the parts of ragged inputs.

For `model.constants` and tensors that samples are given for, a tensor is named by TensorFlow's name
(`op:1`, or `op` for an operation's first) or by its address in the catalog.

Ragged and sparse inputs are read as one row per sample and passed in parts. In a row of free
length, every value is an element of the tensor, zeros included. A row of fixed size for a sparse
tensor is dense: its zeros (or empty texts) are not elements, as in `tf.sparse.from_dense`. Padding
of shorter samples never reaches the model.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import tensorflow as tf

from extractkit.advice import nested_override
from extractkit.core.catalog import address_of
from extractkit.core.spec import TEXT
from extractkit.core.values import Array, as_array
from extractkit.errors import ConfigError, choices
from extractkit.inputs import RAGGED, SPARSE, InputSpec, Signature
from extractkit.models.graphs import (
    AnyGraph,
    AnyOperation,
    AnyTensor,
    is_handle,
    readable,
    short_paths,
)
from extractkit.models.signature import INPUT_AXES, Declared

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
            if name == address_of(path, str(tensor.value_index)) or (
                name == path and tensor.value_index == 0
            ):
                return tensor
    return None


def _addresses(graph: AnyGraph, drop_prefix: str, taken: Container[str]) -> list[str]:
    paths = short_paths((operation.name for operation in graph.get_operations()), drop_prefix)
    return [
        address_of(paths[operation.name], str(tensor.value_index))
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


PARTS = {
    RAGGED: ("values", "row_splits"),
    SPARSE: ("indices", "values", "dense_shape"),
}
"""The parts of each kind, in TensorFlow's order."""


@dataclass(frozen=True)
class Argument:
    """A ragged or sparse argument of a function.

    Attributes:
        kind: `RAGGED` or `SPARSE`.
        parts: The names of its parts among the function's inputs, in TensorFlow's order.
        shape: The shape of one sample. None if a sample is more than one row of arrays of one
            shape.
    """

    kind: str
    parts: tuple[str, ...]
    shape: tuple[int | None, ...] | None

    @classmethod
    def of(cls, spec: tf.RaggedTensorSpec | tf.SparseTensorSpec, parts: tuple[str, ...]) -> Self:
        """Return the argument for a spec."""
        kind = RAGGED if isinstance(spec, tf.RaggedTensorSpec) else SPARSE
        shape = None if spec.shape.rank is None else tuple(spec.shape.as_list()[1:])
        return cls(kind, parts, shape if len(parts) == len(PARTS[kind]) else None).checked()

    def renamed(self, names: Mapping[str, str]) -> Self:
        """Return the argument with other names for its parts."""
        return replace(self, parts=tuple(names[part] for part in self.parts))

    def checked(self) -> Self:
        """Return the argument, without its shape if a sample is more than one row."""
        shape = self.shape or ()
        uniform = self.kind == RAGGED and None not in shape[1:]
        return self if len(shape) == 1 or (shape and uniform) else replace(self, shape=None)

    def unreadable_reason(self, name: str, inputs: Mapping[str, Any]) -> str:
        """Return why samples cannot be read for an argument without a shape.

        Args:
            name: The argument's name.
            inputs: The function's inputs by name.
        """
        axes = {}
        for number, part in enumerate(self.parts):
            free = "value" if self.kind == SPARSE or not number else f"split{number}"
            sizes = inputs[part].shape.as_list()
            named = [free, *(f"axis{at}" for at in range(1, len(sizes)))]
            dims = [str(size or dim) for size, dim in zip(sizes, named, strict=True)]
            axes[part] = f"[{', '.join(dims)}]"
        return (
            f"it needs the {self.kind} tensor {name!r}, of which a sample is more than one row. "
            f"Give its parts, one sample per call: {nested_override(INPUT_AXES, axes)}"
        )


@dataclass(frozen=True)
class Composite:
    """An input of a graph that consists of several tensors.

    Attributes:
        kind: `RAGGED` or `SPARSE`.
        tensors: The tensors of its parts, by part name (`values`).
        shape: The shape of one sample.
    """

    kind: str
    tensors: Mapping[str, Any]
    shape: tuple[int | None, ...] = (None,)

    def declared(self, name: str) -> Declared:
        """Return the declared input that samples are checked against: one row."""
        return Declared(name, self.tensors["values"].dtype.name, (None, *self.shape))

    @property
    def index_dtype(self) -> str:
        """The dtype of the row splits or indices."""
        own: str = self.tensors["row_splits" if self.kind == RAGGED else "indices"].dtype.name
        return own

    def named(self, name: str) -> dict[str, Any]:
        """Return its tensors by their names in the graph: `NAME.values`."""
        return {f"{name}.{part}": tensor for part, tensor in self.tensors.items()}


def with_composites(signature: Signature, composites: Mapping[str, Composite]) -> Signature:
    """Return the signature with the parts of each composite input named."""
    specs = [
        replace(
            spec,
            composite=found.kind,
            parts=tuple(found.named(spec.name)),
            index_dtype=found.index_dtype,
        )
        if (found := composites.get(spec.name)) is not None
        else spec
        for spec in signature.specs
    ]
    return replace(signature, specs=tuple(specs))


def given_names(specs: Sequence[InputSpec]) -> list[str]:
    """Return the names of the graph's inputs for a model's inputs."""
    return [name for spec in specs for name in spec.parts or (spec.name,)]


def given(
    specs: Sequence[InputSpec], features: Mapping[str, Any], lengths: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the values of the graph's inputs by name. Parts already in `features` are kept.

    Args:
        features: (samples, *padded) per input.
        lengths: int32 (samples,) per free axis.
    """
    found: dict[str, Any] = {}
    for spec in specs:
        if not spec.parts:
            found[spec.name] = features[spec.name]
        elif spec.parts[0] in features:
            found |= {name: features[name] for name in spec.parts}
        else:
            rows = features[spec.name]
            found |= dict(
                zip(spec.parts, _parts(spec, rows, _real(spec, rows, lengths)), strict=True)
            )
    return found


def sample_count(spec: InputSpec, tensors: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Return the number of samples of a batch from the values of the graph's inputs."""
    if spec.composite == RAGGED:
        return tf.shape(tensors[spec.parts[1]])[0] - 1
    if spec.composite == SPARSE:
        return tf.cast(tensors[spec.parts[2]][0], tf.int32)
    return tf.shape(tensors[spec.name])[0]


def _real(spec: InputSpec, rows: Array, lengths: Mapping[str, Any]) -> Array:
    """Return a mask of the rows' values that are elements of the tensor."""
    if spec.composite == SPARSE and spec.dims[0] is None:
        elements: Array = rows != (b"" if spec.dtype == TEXT else 0)
        return elements & (rows != "") if spec.dtype == TEXT else elements
    size = rows.shape[1]
    own = np.asarray(lengths[spec.dims[0]] if spec.dims[0] else np.full(len(rows), size))
    return np.arange(size) < own[:, np.newaxis]


def _parts(spec: InputSpec, rows: Array, real: Array) -> tuple[Array, ...]:
    """Return the parts of a composite input from rows (samples, padded, …) and their mask."""
    index = np.dtype(spec.index_dtype)
    counts = real.sum(axis=1)
    if spec.composite == RAGGED:
        return rows[real], np.concatenate([[0], np.cumsum(counts)]).astype(index)
    size = spec.shape[0] if spec.shape[0] is not None else counts.max(initial=0)
    return np.argwhere(real).astype(index), rows[real], np.array([len(rows), size], index)


def part_specs(spec: InputSpec, samples: int | None) -> dict[str, tf.TensorSpec]:
    """Return the specs of the parts of a composite input."""
    splits = None if samples is None else samples + 1
    known = {
        "values": ([None, *spec.shape[1:]], spec.dtype),
        "row_splits": ([splits], spec.index_dtype),
        "indices": ([None, 2], spec.index_dtype),
        "dense_shape": ([2], spec.index_dtype),
    }
    return {
        name: tf.TensorSpec(*known[part])
        for name, part in zip(spec.parts, PARTS[spec.composite or ""], strict=True)
    }
