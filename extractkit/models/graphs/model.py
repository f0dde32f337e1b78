"""What every model has in common that is one TensorFlow graph: catalog, samples, weights."""

import hashlib
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any, Self

import tensorflow as tf

from extractkit.inputs.protocol import Sample, Signature
from extractkit.models import digests
from extractkit.models.encoding import encode_arrays
from extractkit.models.graphs.rebuilding import SourceGraph
from extractkit.models.graphs.records import Found, Records, complete, free_axes_are_independent
from extractkit.models.graphs.signature import tied
from extractkit.models.graphs.transforming import transformed
from extractkit.models.protocol import Encoded, Fetch
from extractkit.models.tensorflow_process import configure
from extractkit.tensors import Catalog, Kind
from extractkit.values import Array

Encoder = Callable[[Sequence[Sample]], Sequence[Encoded]]


@dataclass(frozen=True, eq=False)
class GraphModel:
    """A graph behind the `Model` protocol; a subclass says which, and how to run it.

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

    @property
    def inert(self) -> Container[str]:
        """Names of operations through which no randomness passes."""
        return frozenset()

    def read(self, variable: Any) -> Array:
        """A variable's content."""
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

    def weights_digest(self) -> str:
        """SHA-256 over every weight's address, dtype, shape and content."""
        sha = hashlib.sha256()
        for record in self.catalog.records:
            if record.kind is Kind.WEIGHT and record.extractable:
                # One at a time: all at once would be a second copy of the model.
                array = self.read(self._values[record.address])
                digests.update(sha, record.address, record.dtype, array)
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
        if tensor.shape.rank is None and fetch.layout is not None:
            # The graph does not tell; running it has.
            rank = len(fetch.layout.dims) - bool(fetch.layout.split)
            tensor = tf.ensure_shape(tensor, [None] * rank)
        return transformed(tensor, fetch, samples, lengths)

    @cached_property
    def _records(self) -> Records:
        return complete(self.graph, self.found, self.signature, self.inert)

    @cached_property
    def _values(self) -> dict[str, Any]:
        return {one.record.address: one.value for one in self.found}
