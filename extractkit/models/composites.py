"""Ragged and sparse inputs, read as one row per sample and passed to the model in parts.

In a row of free length, every value is an element of the tensor, zeros included. A row of fixed
size for a sparse tensor is dense: its zeros (or empty texts) are not elements, as in
`tf.sparse.from_dense`. Padding of shorter samples never reaches the model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import tensorflow as tf

from extractkit.advice import nested_override
from extractkit.core.spec import TEXT
from extractkit.core.values import Array
from extractkit.inputs import RAGGED, SPARSE, InputSpec, Signature
from extractkit.models.axes import INPUT_AXES
from extractkit.models.graphs.signature import Declared

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
            f"Give its parts, one sample a call: {nested_override(INPUT_AXES, axes)}"
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
