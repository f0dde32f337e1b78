"""The adapter of Keras 3 models, wherever they come from: traced once, then any tensor of it."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from extractkit.errors import JobError, ModelError
from extractkit.inputs.protocol import InputSpec, Sample, Signature
from extractkit.models.axes import RawShape, Sizes, infer_dims, why_not_by_sample
from extractkit.models.encoding import encode_arrays
from extractkit.models.foreign import told
from extractkit.models.graphs import (
    candidate_sizes,
    dependent_operations,
    impure_operations,
    shapes_at,
    static_shape,
    tensors_in_graph,
)
from extractkit.models.keras_catalog import Found, find_tensors
from extractkit.models.protocol import Compilation, Encoded, Fetch, Program
from extractkit.models.tensorflow_process import configure
from extractkit.models.tracing import Trace, trace
from extractkit.models.transforming import transformed
from extractkit.tensors import SAMPLE, UNKNOWN, Catalog, Kind, TensorRecord
from extractkit.values import Array

_IMPURE = "a random or assigning operation comes before it: it is no function of the sample alone"

Encoder = Callable[[Sequence[Sample]], Sequence[Encoded]]


@dataclass(frozen=True, eq=False)
class KerasModel:
    """A Keras model behind the `Model` protocol.

    Attributes:
        name: for messages.
        keras_model: the model.
        signature: what it takes.
        pack: from the inputs by name to the structure that the model is called with.
        masks_padding: whether it masks what is padded along the free axes.
        encoder: turns samples into inputs; None: the samples are arrays already.
        origin: what the manifest records of where it comes from.
    """

    name: str
    keras_model: keras.Model
    signature: Signature
    pack: Callable[[Mapping[str, tf.Tensor]], Any]
    masks_padding: bool = False
    encoder: Encoder | None = None
    origin: Mapping[str, object] = field(default_factory=dict)

    @property
    def catalog(self) -> Catalog:
        """Every tensor that the model offers."""
        return self._traced[1]

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
        the_trace, _, values = self._traced
        names = [values[fetch.address].name for fetch in fetches]
        inputs = [spec.name for spec in self.signature.specs]
        axes = self.signature.free_axes

        def compute(features: list[tf.Tensor], lengths: list[tf.Tensor]) -> list[tf.Tensor]:
            with tf.device(compilation.device):
                by_name = dict(zip(inputs, features, strict=True))
                tensors = tensors_in_graph(the_trace, by_name, names)
                samples = tf.shape(features[0])[0]
                by_axis = dict(zip(axes, lengths, strict=True))
                return [
                    transformed(tensor, fetch, samples, by_axis)
                    for tensor, fetch in zip(tensors, fetches, strict=True)
                ]

        compiled = tf.function(
            compute, autograph=False, jit_compile=True if compilation.compile == "xla" else None
        )
        specs = [tf.TensorSpec([None, *spec.shape], spec.dtype) for spec in self.signature.specs]
        concrete = compiled.get_concrete_function(
            specs, [tf.TensorSpec([None], tf.int32) for _ in axes]
        )

        def run(features: Mapping[str, Array], lengths: Mapping[str, Array]) -> list[Array]:
            try:
                returned = concrete(
                    [tf.constant(features[name]) for name in inputs],
                    [tf.constant(lengths[axis]) for axis in axes],
                )
            except tf.errors.OpError as error:
                message = str(error.message).strip().splitlines()[0]
                raise JobError(f"model {self.name!r} failed on a batch: {message}") from error
            return [_to_numpy(tensor) for tensor in returned]

        return run

    def constants(self, fetches: Sequence[Fetch]) -> list[Array]:
        """Values of weights, and of what is computed from weights and constants alone."""
        the_trace, _, values = self._traced
        traced = [f.address for f in fetches if isinstance(values[f.address], tf.Tensor)]

        def compute() -> list[tf.Tensor]:
            names = [values[address].name for address in traced]
            tensors = dict(zip(traced, tensors_in_graph(the_trace, {}, names), strict=True))
            for fetch in fetches:
                if fetch.address not in tensors:
                    tensors[fetch.address] = tf.convert_to_tensor(values[fetch.address])
            return [transformed(tensors[fetch.address], fetch, None, {}) for fetch in fetches]

        return [_to_numpy(tensor) for tensor in tf.function(compute, autograph=False)()]

    def free_axes_are_independent(self) -> bool:
        """Whether each free axis can have a length of its own; told without running anything."""
        the_trace = self._traced[0]
        outputs = [t.name for t in the_trace.calls[0].outputs.values() if isinstance(t, tf.Tensor)]
        for sizes in candidate_sizes(self.signature.free_axes, SAMPLE):
            try:
                for at in sizes.trials:
                    shapes_at(the_trace, _specs_at(self.signature.specs, at), outputs)
            except ValueError:  # too small or too large for the model, or lengths that must agree
                continue
            return True
        return False

    def weights_digest(self) -> str:
        """SHA-256 over every weight's address, dtype, shape and content."""
        _, catalog, values = self._traced
        sha = hashlib.sha256()
        for record in catalog.records:
            if record.kind is Kind.WEIGHT:
                array = _to_numpy(tf.convert_to_tensor(values[record.address]))
                sha.update(f"{record.address}\0{record.dtype}\0{array.shape}\0".encode())
                sha.update(np.ascontiguousarray(array).data)
        return sha.hexdigest()

    def describe(self) -> Mapping[str, object]:
        """Class, number of parameters, and where the model comes from."""
        return {
            "name": self.name,
            "class": type(self.keras_model).__name__,
            "parameters": int(self.keras_model.count_params()),
            **self.origin,
        }

    @cached_property
    def _traced(self) -> tuple[Trace, Catalog, Mapping[str, Any]]:
        the_trace = self._trace()
        found = find_tensors(the_trace)
        records = _with_dims(the_trace, found, self.signature.specs)
        values = {record.address: one.value for record, one in zip(records, found, strict=True)}
        return the_trace, Catalog(records, self.name), values

    def _trace(self) -> Trace:
        specs = [
            tf.TensorSpec([None, *spec.shape], spec.dtype, name=spec.name)
            for spec in self.signature.specs
        ]
        model = self.keras_model

        def forward(features: Mapping[str, tf.Tensor]) -> Any:
            return model(self.pack(features), training=False)

        try:
            if not all(layer.built for layer in model._flatten_layers()):
                # Building calls layers symbolically; those calls must not end up in the catalog.
                trace(forward, specs)
            return trace(forward, specs)
        except (ValueError, TypeError, tf.errors.OpError) as error:
            raise ModelError(
                f"model {self.name!r} ({type(model).__name__}) cannot be called with inputs "
                f"{', '.join(map(str, specs))}: "
                f"{told(error)}"
            ) from error


def _to_numpy(tensor: tf.Tensor) -> Array:
    if tensor.dtype in (tf.string, tf.bfloat16):
        return np.asarray(tensor.numpy())
    # Tensor.numpy() copies; the buffer itself is read-only and lives as long as the array does.
    return np.asarray(memoryview(tensor))


def _with_dims(
    the_trace: Trace, found: Sequence[Found], specs: Sequence[InputSpec]
) -> list[TensorRecord]:
    """The records with their dims, the reason why some are out of reach, and what depends."""
    dependent, impure = dependent_operations(the_trace), impure_operations(the_trace)
    reachable = [
        one for one in found if isinstance(one.value, tf.Tensor) and one.record.reason is None
    ]
    inferred = _inferred(the_trace, [one.value for one in reachable], specs)
    dims_of = {id(one): known for one, known in zip(reachable, inferred, strict=True)}
    records = []
    for one in found:
        if id(one) not in dims_of:
            records.append(one.record)
            continue
        dims, shape = dims_of[id(one)]
        depends = one.value.op.name in dependent
        reason = None
        unknown = dims is None or UNKNOWN in dims
        if one.value.op.name in impure:
            reason = _IMPURE
        elif depends and dims is not None and not unknown:
            reason = why_not_by_sample(dims)
        elif not depends and unknown:
            reason = "its shape is not known before it is computed"
        records.append(
            replace(one.record, dims=dims, shape=shape, depends_on_inputs=depends, reason=reason)
        )
    return records


Axes = tuple[tuple[str | None, ...] | None, tuple[int | None, ...] | None]


def _inferred(
    the_trace: Trace, tensors: Sequence[tf.Tensor], specs: Sequence[InputSpec]
) -> list[Axes]:
    """Dims and shape of every tensor, from the shapes that the graph has at several sizes."""
    free = tuple(dict.fromkeys(dim for spec in specs for dim in spec.dims if dim))
    names = [tensor.name for tensor in tensors]
    for sizes in candidate_sizes(free, SAMPLE):
        try:
            trials = [shapes_at(the_trace, _specs_at(specs, at), names) for at in sizes.trials]
        except ValueError:  # these sizes are too small or too large for the model
            continue
        return [_axes(sizes, shapes) for shapes in zip(*trials, strict=True)]
    return [_undetermined(static_shape(tensor)) for tensor in tensors]


def _axes(sizes: Sizes, shapes: Sequence[RawShape]) -> Axes:
    dims = infer_dims(sizes, shapes)
    if dims is None or shapes[0] is None:
        return None, None
    sized = zip(dims, shapes[0], strict=True)
    return dims, tuple(size if dim is None else None for dim, size in sized)


def _undetermined(shape: RawShape) -> Axes:
    if shape is None:
        return None, None
    return tuple(UNKNOWN if size is None else None for size in shape), shape


def _specs_at(specs: Sequence[InputSpec], sizes: Mapping[str, int]) -> dict[str, tf.TensorSpec]:
    return {
        spec.name: tf.TensorSpec(
            [sizes[SAMPLE]]
            + [
                size if dim is None else sizes[dim]
                for dim, size in zip(spec.dims, spec.shape, strict=True)
            ],
            spec.dtype,
        )
        for spec in specs
    }
