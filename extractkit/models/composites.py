"""Ragged and sparse inputs: read as one row for each sample, given as their parts.

Of a row of any length each value is an element of the ragged or sparse tensor, whatever it is. Of a
sparse tensor with rows of a fixed size the row is dense, and its zeros (or empty texts) are no
elements, as in `tf.sparse.from_dense`. What fills up shorter samples of a batch never reaches the
model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import tensorflow as tf

from extractkit.advice import nested_override
from extractkit.core.catalog import TEXT
from extractkit.core.values import Array
from extractkit.inputs.protocol import RAGGED, SPARSE, InputSpec, Signature
from extractkit.models.axes import INPUTS
from extractkit.models.graphs.signature import Declared

PARTS = {
    RAGGED: ("values", "row_splits"),
    SPARSE: ("indices", "values", "dense_shape"),
}
"""What each kind is made of, in TensorFlow's order."""


@dataclass(frozen=True)
class Argument:
    """A ragged or sparse argument of a function.

    Attributes:
        kind: `RAGGED` or `SPARSE`.
        parts: names of the function's inputs that it is made of, in TensorFlow's order.
        shape: of one sample; None where a sample is more than one row of arrays of one shape.
    """

    kind: str
    parts: tuple[str, ...]
    shape: tuple[int | None, ...] | None

    @classmethod
    def of(cls, spec: tf.RaggedTensorSpec | tf.SparseTensorSpec, parts: tuple[str, ...]) -> Self:
        """Return the argument that a spec declares."""
        kind = RAGGED if isinstance(spec, tf.RaggedTensorSpec) else SPARSE
        shape = None if spec.shape.rank is None else tuple(spec.shape.as_list()[1:])
        return cls(kind, parts, shape if len(parts) == len(PARTS[kind]) else None).checked()

    def renamed(self, names: Mapping[str, str]) -> Self:
        """Return the same argument of a function that has other names for these inputs."""
        return replace(self, parts=tuple(names[part] for part in self.parts))

    def checked(self) -> Self:
        """Return the same, without a shape where a sample is more than one row."""
        shape = self.shape or ()
        uniform = self.kind == RAGGED and None not in shape[1:]
        return self if len(shape) == 1 or (shape and uniform) else replace(self, shape=None)

    def unreadable_reason(self, name: str, inputs: Mapping[str, Any]) -> str:
        """Return why no sample is read for an argument of this name that has no shape.

        Args:
            inputs: the function's, by name.
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
            f"Give its parts, one sample a call: {nested_override(INPUTS, axes)}"
        )


@dataclass(frozen=True)
class Composite:
    """An input of a graph that is made of several tensors.

    Attributes:
        kind: `RAGGED` or `SPARSE`.
        tensors: of its parts, by their names (`values`).
        shape: of one sample.
    """

    kind: str
    tensors: Mapping[str, Any]
    shape: tuple[int | None, ...] = (None,)

    def declared(self, name: str) -> Declared:
        """Return the input as samples are held against it: a row."""
        return Declared(name, self.tensors["values"].dtype.name, (None, *self.shape))

    @property
    def index_dtype(self) -> str:
        """The type of what says where its values are."""
        own: str = self.tensors["row_splits" if self.kind == RAGGED else "indices"].dtype.name
        return own

    def named(self, name: str) -> dict[str, Any]:
        """Return its tensors by the names that they go by in the graph: `NAME.values`."""
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
    """Return what the graph's inputs are given, by name; parts that are there already stay.

    Args:
        features: (samples, *padded) for each input.
        lengths: int32 (samples,) for each free axis.
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
    """Return how many samples a batch has, from what the graph's inputs are given."""
    if spec.composite == RAGGED:
        return tf.shape(tensors[spec.parts[1]])[0] - 1
    if spec.composite == SPARSE:
        return tf.cast(tensors[spec.parts[2]][0], tf.int32)
    return tf.shape(tensors[spec.name])[0]


def _real(spec: InputSpec, rows: Array, lengths: Mapping[str, Any]) -> Array:
    """Which values of the rows are elements."""
    if spec.composite == SPARSE and spec.dims[0] is None:
        elements: Array = rows != (b"" if spec.dtype == TEXT else 0)
        return elements & (rows != "") if spec.dtype == TEXT else elements
    size = rows.shape[1]
    own = np.asarray(lengths[spec.dims[0]] if spec.dims[0] else np.full(len(rows), size))
    return np.arange(size) < own[:, np.newaxis]


def _parts(spec: InputSpec, rows: Array, real: Array) -> tuple[Array, ...]:
    """The parts of a composite input from rows (samples, padded, …) and which values are real."""
    index = np.dtype(spec.index_dtype)
    counts = real.sum(axis=1)
    if spec.composite == RAGGED:
        return rows[real], np.concatenate([[0], np.cumsum(counts)]).astype(index)
    size = spec.shape[0] if spec.shape[0] is not None else counts.max(initial=0)
    return np.argwhere(real).astype(index), rows[real], np.array([len(rows), size], index)


def part_specs(spec: InputSpec, samples: int | None) -> dict[str, tf.TensorSpec]:
    """Return what is known of the parts of a composite input before there are values."""
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
