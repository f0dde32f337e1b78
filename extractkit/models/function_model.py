"""The adapter of everything that is one TensorFlow function: its graph rebuilt for some tensors."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any, Self

import numpy as np
import tensorflow as tf

from extractkit.errors import JobError
from extractkit.inputs.protocol import InputSpec, Sample, Signature
from extractkit.models.encoding import encode_arrays
from extractkit.models.graph_records import Found, Records, complete, free_axes_are_independent
from extractkit.models.graph_signature import tied
from extractkit.models.graphs import SourceGraph, tensors_in_graph
from extractkit.models.protocol import Compilation, Encoded, Fetch, Program
from extractkit.models.tensorflow_process import configure
from extractkit.models.transforming import transformed
from extractkit.tensors import Catalog, Kind
from extractkit.values import Array

Encoder = Callable[[Sequence[Sample]], Sequence[Encoded]]


@dataclass(frozen=True, eq=False)
class FunctionModel:
    """One function's graph, with variables captured, behind the `Model` protocol.

    A subclass says what graph that is.

    Attributes:
        name: for messages.
        signature: what it takes.
        masks_padding: whether it masks what is padded along the free axes.
        encoder: turns texts into inputs; None: it takes none, or as they are.
        origin: what the manifest records of where it comes from.
    """

    name: str
    signature: Signature
    masks_padding: bool = field(default=False, kw_only=True)
    encoder: Encoder | None = field(default=None, kw_only=True)
    origin: Mapping[str, object] = field(default_factory=dict, kw_only=True)

    @property
    def graph(self) -> SourceGraph:
        """The graph, with a placeholder for each input."""
        raise NotImplementedError

    @property
    def found(self) -> Sequence[Found]:
        """Every tensor and variable in it."""
        raise NotImplementedError

    @cached_property
    def catalog(self) -> Catalog:
        """Every tensor that the model offers."""
        return Catalog(self._records.records, self.name)

    def configure(self, seed: int, deterministic: bool, device: str | None) -> Mapping[str, object]:
        """Seed Python, NumPy and TensorFlow; see `tensorflow_process.configure`."""
        return configure(seed, deterministic, device)

    def encode(self, samples: Sequence[Sample]) -> Sequence[Encoded]:
        """The samples as the model takes them, without padding."""
        if self.encoder is not None and all(isinstance(sample.data, str) for sample in samples):
            return self.encoder(samples)
        return [encode_arrays(self.signature, sample) for sample in samples]

    def program(self, fetches: Sequence[Fetch], compilation: Compilation) -> Program:
        """A compiled function of one batch that computes the fetches and what they need alone."""
        names = [self._values[fetch.address].name for fetch in fetches]
        specs = self.signature.specs
        axes = self.signature.free_axes

        def compute(features: list[tf.Tensor], lengths: list[tf.Tensor]) -> list[tf.Tensor]:
            with tf.device(compilation.device):
                own = {
                    spec.name: as_the_model_takes_it(spec, tensor)
                    for spec, tensor in zip(specs, features, strict=True)
                }
                tensors = tensors_in_graph(self.graph, own, names)
                samples = tf.shape(features[0])[0]
                by_axis = dict(zip(axes, lengths, strict=True))
                return [
                    self._transformed(tensor, fetch, samples, by_axis)
                    for tensor, fetch in zip(tensors, fetches, strict=True)
                ]

        compiled = tf.function(
            compute, autograph=False, jit_compile=True if compilation.compile == "xla" else None
        )
        concrete = compiled.get_concrete_function(
            [tf.TensorSpec([self.signature.batch, *spec.shape], spec.dtype) for spec in specs],
            [tf.TensorSpec([None], tf.int32) for _ in axes],
        )

        def run(features: Mapping[str, Array], lengths: Mapping[str, Array]) -> list[Array]:
            try:
                returned = concrete(
                    [tf.constant(features[spec.name], spec.dtype) for spec in specs],
                    [tf.constant(lengths[axis]) for axis in axes],
                )
            except tf.errors.OpError as error:
                message = str(error.message).strip().splitlines()[0]
                raise JobError(f"model {self.name!r} failed on a batch: {message}") from error
            return [to_numpy(tensor) for tensor in returned]

        return run

    def constants(self, fetches: Sequence[Fetch]) -> list[Array]:
        """Values of weights, and of what is computed from weights and constants alone."""
        values = self._values
        traced = [f.address for f in fetches if isinstance(values[f.address], tf.Tensor)]

        def compute() -> list[tf.Tensor]:
            names = [values[address].name for address in traced]
            tensors = dict(zip(traced, tensors_in_graph(self.graph, {}, names), strict=True))
            for fetch in fetches:
                if fetch.address not in tensors:
                    tensors[fetch.address] = tf.convert_to_tensor(values[fetch.address])
            return [transformed(tensors[fetch.address], fetch, None, {}) for fetch in fetches]

        return [to_numpy(tensor) for tensor in tf.function(compute, autograph=False)()]

    def weights_digest(self) -> str:
        """SHA-256 over every weight's address, dtype, shape and content."""
        sha = hashlib.sha256()
        for record in self.catalog.records:
            if record.kind is Kind.WEIGHT:
                # One at a time: all at once would be a second copy of the model.
                array = to_numpy(tf.convert_to_tensor(self._values[record.address]))
                sha.update(f"{record.address}\0{record.dtype}\0{array.shape}\0".encode())
                sha.update(np.ascontiguousarray(array).data)
        return sha.hexdigest()

    def describe(self) -> Mapping[str, object]:
        """Number of parameters, and where the model comes from."""
        weights = [record for record in self.catalog.records if record.kind is Kind.WEIGHT]
        parameters = sum(prod(size or 0 for size in record.shape or ()) for record in weights)
        return {"name": self.name, "parameters": parameters, **self.origin}

    def settled(self) -> Self:
        """The same model, its free axes sharing lengths where they cannot each have their own."""
        if len(self.signature.free_axes) < 2:
            return self
        outputs = [
            one.value.name
            for one in self.found
            if one.in_graph and one.record.kind is Kind.MODEL_OUTPUT
        ]
        if free_axes_are_independent(self.graph, outputs, self.signature):
            return self
        return replace(self, signature=replace(self.signature, specs=tied(self.signature.specs)))

    def _transformed(
        self,
        tensor: tf.Tensor,
        fetch: Fetch,
        samples: tf.Tensor,
        lengths: Mapping[str, tf.Tensor],
    ) -> tf.Tensor:
        if fetch.address in self._records.whole:
            tensor = tf.expand_dims(tensor, 0)
        return transformed(tensor, fetch, samples, lengths)

    @cached_property
    def _records(self) -> Records:
        return complete(self.graph, self.found, self.signature)

    @cached_property
    def _values(self) -> dict[str, Any]:
        return {one.record.address: one.value for one in self.found}


def as_the_model_takes_it(spec: InputSpec, feature: tf.Tensor) -> tf.Tensor:
    """A feature (samples, *shape) with the sample axis where the model's own input has it."""
    if spec.sample_axis is None:
        return feature[0]
    if spec.sample_axis == 0:
        return feature
    others = list(range(1, len(spec.shape) + 1))
    others.insert(spec.sample_axis, 0)
    return tf.transpose(feature, others)


def to_numpy(tensor: tf.Tensor) -> Array:
    """A tensor's values, without a copy where there need be none."""
    if tensor.dtype in (tf.string, tf.bfloat16):
        return np.asarray(tensor.numpy())
    # Tensor.numpy() copies; the buffer itself is read-only and lives as long as the array does.
    return np.asarray(memoryview(tensor))
