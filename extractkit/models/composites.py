"""Ragged and sparse inputs: read as a row of any length for each sample, given as their parts.

A sample is a list of values; each of them is an element of the ragged or sparse tensor, whatever it
is. What fills up shorter samples of a batch never reaches the model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from extractkit.inputs.protocol import InputSpec, Signature
from extractkit.models.graphs.signature import Declared
from extractkit.values import Array

RAGGED, SPARSE = "ragged", "sparse"

PARTS = {
    RAGGED: ("values", "row_splits"),
    SPARSE: ("indices", "values", "dense_shape"),
}
"""What each kind is made of, in TensorFlow's order."""


@dataclass(frozen=True)
class Composite:
    """An input of a graph that is made of several tensors.

    Attributes:
        kind: `RAGGED` or `SPARSE`, with a sample axis and one more.
        tensors: of its parts, by their names (`values`).
    """

    kind: str
    tensors: Mapping[str, Any]

    def declared(self, name: str) -> Declared:
        """The input as samples are held against it: a row of any length."""
        return Declared(name, self.tensors["values"].dtype.name, (None, None))

    def named(self, name: str) -> dict[str, Any]:
        """Its tensors by the names that they go by in the graph: `NAME.values`."""
        return {f"{name}.{part}": tensor for part, tensor in self.tensors.items()}


def with_composites(signature: Signature, composites: Mapping[str, Composite]) -> Signature:
    """Return the signature with the parts of each composite input named."""
    specs = [
        replace(spec, composite=found.kind, parts=tuple(found.named(spec.name)))
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
            own = np.asarray(lengths[spec.dims[0] or ""])
            found |= dict(zip(spec.parts, _parts(spec, features[spec.name], own), strict=True))
    return found


def _parts(spec: InputSpec, rows: Array, lengths: Array) -> tuple[Array, ...]:
    """The parts of a composite input from rows (samples, padded) and their lengths."""
    real = np.arange(rows.shape[1]) < lengths[:, np.newaxis]
    if spec.composite == RAGGED:
        return rows[real], np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    shape = np.array([len(rows), int(lengths.max(initial=0))], np.int64)
    return np.argwhere(real).astype(np.int64), rows[real], shape


def part_specs(spec: InputSpec, samples: int | None) -> dict[str, tf.TensorSpec]:
    """What is known of the parts of a composite input before there are values."""
    splits = None if samples is None else samples + 1
    known = {
        "values": ([None], spec.dtype),
        "row_splits": ([splits], tf.int64),
        "indices": ([None, 2], tf.int64),
        "dense_shape": ([2], tf.int64),
    }
    return {
        name: tf.TensorSpec(*known[part])
        for name, part in zip(spec.parts, PARTS[spec.composite or ""], strict=True)
    }
