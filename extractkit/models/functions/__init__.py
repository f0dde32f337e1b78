"""Functions of TensorFlow 2, and the base of their adapters: one function as a graph."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import tensorflow as tf

from extractkit.core.job import GRAPH, OPENVINO, XLA
from extractkit.core.picks import LABEL_FEATURE
from extractkit.core.requests import Gradient, Rollout, Value, check_values
from extractkit.core.values import Array, as_array
from extractkit.inputs import InputSpec
from extractkit.models import (
    SAME_OBJECT,
    Compilation,
    ConvertsArguments,
    Differentiates,
    Fetch,
    HasOwnCall,
    NotCompiledError,
    OtherOutputsError,
    OwnCall,
    Program,
)
from extractkit.models.failures import batch_failure, own_call_failure, why_not_by_xla
from extractkit.models.functions.eager_calls import restored
from extractkit.models.functions.function_graph import (
    captured_contents,
    captured_variables,
    frozen_function,
    handle_in,
)
from extractkit.models.graphs import is_tensor
from extractkit.models.graphs.feeding import Argument, given, given_names, part_specs, sample_count
from extractkit.models.graphs.gradients import (
    SAMPLES,
    Differentiability,
    GradientGraph,
    lengths_input,
)
from extractkit.models.graphs.model import CompiledOnce, GraphModel, transformed
from extractkit.models.graphs.purity import changes_containers
from extractkit.models.graphs.rebuilding import SourceGraph, tensors_in_graph
from extractkit.models.graphs.records import raw
from extractkit.models.graphs.targets import Labels, targets_of
from extractkit.models.naming import components, ports

_UNNAMED = "input"
# The prefix of a key, since a number is not a name.
_KEY = re.compile(r"^output\.(?!\d+$)")


def inputs_of(function: Any) -> dict[str, tf.Tensor]:
    """Return the function's placeholders by the names of its arguments, without captures."""
    captured = len(function.graph.captures)
    own = function.graph.inputs[: len(function.graph.inputs) - captured]
    flat = tf.nest.flatten(function.structured_input_signature, expand_composites=True)
    specs = [spec for spec in flat if isinstance(spec, tf.TypeSpec)]
    named: dict[str, tf.Tensor] = {}
    for index, placeholder in enumerate(own):
        name = specs[index].name if index < len(specs) else None
        name = name or placeholder.op.name or _UNNAMED
        unique, count = name, 0
        while unique in named:
            count += 1
            unique = f"{name}.{count}"
        named[unique] = placeholder
    return named


def composites_of(function: Any) -> dict[str, Argument]:
    """Return ragged and sparse arguments by name, with parts named as by `inputs_of`."""
    names = iter(inputs_of(function))
    found = {}
    for spec in tf.nest.flatten(function.structured_input_signature):
        if not isinstance(spec, tf.TypeSpec):
            continue
        parts = tuple(islice(names, len(tf.nest.flatten(spec, expand_composites=True))))
        if isinstance(spec, tf.RaggedTensorSpec | tf.SparseTensorSpec) and len(parts) > 1:
            found[parts[0]] = Argument.of(spec, parts)
    return found


def outputs_of(function: Any) -> dict[str, tf.Tensor]:
    """Return the function's results by name: their key in a dictionary, else `output`, `output.1`.

    Ragged and sparse results are returned by component; see `naming.components`.
    """
    flat = tf.nest.flatten(function.structured_outputs, expand_composites=True)
    results = iter(function.graph.outputs)
    tensors = [None if one is None else next(results) for one in flat]
    packed = tf.nest.pack_sequence_as(function.structured_outputs, tensors, expand_composites=True)
    return _results(packed)


def call(function: Any, given: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Call the function with arguments by name, and return its results by name.

    Names are those of `inputs_of` and `outputs_of`."""
    signature = function.structured_input_signature
    tensors = iter([given[name] for name in inputs_of(function)])
    flat = [
        next(tensors) if isinstance(one, tf.TypeSpec) else one
        for one in tf.nest.flatten(signature, expand_composites=True)
    ]
    arguments, by_name = tf.nest.pack_sequence_as(signature, flat, expand_composites=True)
    return _results(function(*arguments, **by_name))


def _results(structure: Any) -> dict[str, tf.Tensor]:
    named = components(ports("output", structure))
    return {_KEY.sub("", port): tensor for port, tensor in named.items()}


@dataclass(frozen=True, eq=False)
class FunctionModel(GraphModel, ConvertsArguments, HasOwnCall, Differentiates):
    """The graph of one function with captured variables, as a `Model`.

    Subclasses provide the graph and the model's own call.
    """

    @property
    def variables(self) -> Iterable[Any]:
        """Every variable that a call of the model may assign to."""
        raise NotImplementedError

    def called(self, arguments: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
        """Return the model's own outputs by address, from a graph. Empty if it lacks an input.

        Args:
            arguments: the inputs of the signature by name, in the model's own layout.
        """
        raise NotImplementedError

    @property
    def contents(self) -> Mapping[str, str] | None:
        """The contents of the graph's captures."""
        weights = {id(v.handle): self._weight_content(record) for record, v in self._weights()}
        return captured_contents(self.graph.graph, weights, self._records.impure)

    def own_call(self, checkpoint: int | None = None) -> OwnCall:
        """Return the model's own call in a graph, which does not change variables."""
        return OwnCall(SAME_OBJECT, self.outputs_by(self.called, self.variables))

    def outputs_by(
        self,
        called: Callable[[Mapping[str, tf.Tensor]], Mapping[str, tf.Tensor]],
        variables: Iterable[Any] = (),
    ) -> Callable[[Mapping[str, Array], Mapping[str, Array]], dict[str, Array]]:
        """Return a function that returns the outputs of a batch; see `OwnCall.outputs`.

        Args:
            called: see the method of this name.
            variables: The variables whose values are restored after the call.
        """
        addresses = [record.address for record in self.catalog.outputs]

        def outputs(
            features: Mapping[str, Array], lengths: Mapping[str, Array]
        ) -> dict[str, Array]:
            if not addresses or changes_containers(self.graph.graph):
                return {}
            own = {name: one for name, one in features.items() if name != LABEL_FEATURE}
            arguments = self._taken(self.to_tensors(own, lengths)[0])
            try:
                with restored(variables):
                    found = called(arguments)
            except OtherOutputsError:
                raise
            except Exception as error:  # custom layers may raise anything
                raise own_call_failure(self.name, error) from error
            return {
                address: self._with_samples(address, to_numpy(found[address]))
                for address in addresses
                if address in found
            }

        return outputs

    def program(self, fetches: Sequence[Fetch], compilation: Compilation) -> Program:
        """Compile a program that computes the fetches and their dependencies."""
        check_values((fetch.request for fetch in fetches), self.name, Gradient, Rollout)
        if compilation.compile == OPENVINO:
            return self._by_openvino(fetches, compilation)
        if all(isinstance(fetch.request, Value) for fetch in fetches):
            names = [self._values[fetch.address].name for fetch in fetches]
            return self.compiled(self.graph, names, fetches, compilation)
        addresses = dict.fromkeys(one for fetch in fetches for one in fetch.request.needed)
        targets = [of.tensor for of in targets_of(fetches)]
        graph = self.differentiable(list(addresses), targets)
        if (labels := Labels.of(fetches)) is not None:
            graph = graph.with_labels(labels)
        names = graph.answering(fetches, self._transformed, self.signature)
        return _Keeping(self.compiled(graph, names, fetches, compilation), graph)

    @cached_property
    def differentiability(self) -> Differentiability:
        """See `GraphModel`."""
        inputs = frozenset(tensor.name for tensor in self.graph.inputs.values())
        return Differentiability(self.graph.graph, inputs, custom=False)

    def _graph_name(self, address: str) -> str | None:
        """See `GraphModel`."""
        value = self._values[address]
        tensor = value if is_tensor(value) else handle_in(self.graph.graph, value)
        return None if tensor is None else str(tensor.name)

    def compiled(
        self,
        graph: SourceGraph,
        names: Sequence[str],
        fetches: Sequence[Fetch],
        compilation: Compilation,
        samples: int | None = None,
    ) -> Program:
        """Compile a program of a graph of this model.

        Args:
            names: The tensors of the fetches, then others, which are returned as they are.
            samples: The number of samples per call. None: any number.
        """
        if compilation.compile == XLA:
            self.check_for_xla(fetches)
        specs = self.signature.specs
        axes = self.signature.free_axes
        inputs = given_names(specs)
        labels = Labels.of(fetches)
        if labels is not None:
            inputs.append(LABEL_FEATURE)

        def compute(features: list[tf.Tensor], lengths: list[tf.Tensor]) -> list[tf.Tensor]:
            with tf.device(compilation.device):
                own = self._taken(dict(zip(inputs, features, strict=True)))
                count = sample_count(specs[0], dict(zip(inputs, features, strict=True)))
                by_axis = dict(zip(axes, lengths, strict=True))
                counted = {
                    **{lengths_input(axis): n for axis, n in by_axis.items()},
                    SAMPLES: count,
                }
                own |= {name: one for name, one in counted.items() if name in graph.inputs}
                tensors = tensors_in_graph(graph, own, names)
                fetched = [
                    self._transformed(tensor, fetch, count, by_axis)
                    for tensor, fetch in zip(tensors, fetches, strict=False)
                ]
                return [*fetched, *tensors[len(fetches) :]]

        compiled = tf.function(
            compute, autograph=False, jit_compile=True if compilation.compile == XLA else None
        )
        given_specs: dict[str, tf.TensorSpec] = {}
        for spec in specs:
            batch = samples or self.signature.batch
            dense = tf.TensorSpec([batch, *spec.shape], spec.dtype)
            given_specs |= part_specs(spec, None) if spec.parts else {spec.name: dense}
        if labels is not None:
            shape = [None, *labels.spec.shape]
            given_specs[LABEL_FEATURE] = tf.TensorSpec(shape, labels.spec.dtype)
        concrete = compiled.get_concrete_function(
            list(given_specs.values()), [tf.TensorSpec([samples], tf.int32) for _ in axes]
        )

        def run(features: Mapping[str, Array], lengths: Mapping[str, Array]) -> list[Array]:
            tensors, sizes = self.to_tensors(features, lengths)
            if labels is not None:
                tensors[LABEL_FEATURE] = tf.constant(labels.among(features, lengths))
            try:
                returned = concrete(
                    [tensors[name] for name in inputs], [sizes[axis] for axis in axes]
                )
            except tf.errors.OpError as error:
                by_xla = compilation.compile == XLA
                if by_xla and (reason := why_not_by_xla(error)) is not None:
                    raise NotCompiledError(self.name, XLA, reason) from error
                raise batch_failure(self.name, error) from error
            return [to_numpy(tensor) for tensor in returned]

        return run

    def _by_openvino(self, fetches: Sequence[Fetch], compilation: Compilation) -> Program:
        """Compile a program that computes the tensors of the fetches with OpenVINO."""
        self.check_for_openvino(fetches)
        names = [self._values[fetch.address].name for fetch in fetches]
        specs = self.signature.specs
        wanted = list(dict.fromkeys(names))

        def compute(features: list[tf.Tensor]) -> list[tf.Tensor]:
            by_name = {spec.name: one for spec, one in zip(specs, features, strict=True)}
            return tensors_in_graph(self.graph, self._taken(by_name), wanted)

        function = tf.function(compute, autograph=False).get_concrete_function(
            [tf.TensorSpec([self.signature.batch, *one.shape], one.dtype) for one in specs]
        )
        variables = [*captured_variables(self.graph.graph).values(), *self.variables]
        frozen = frozen_function(function, variables)
        given = {one.name: spec.name for one, spec in zip(function.inputs, specs, strict=False)}
        if left := [one for name, one in frozen.inputs.items() if name not in given]:
            reason = f"it reads a {left[0].dtype.name} that is no array, as of a lookup table"
            raise NotCompiledError(self.name, OPENVINO, reason)
        inputs = {given[name]: one for name, one in frozen.inputs.items()}
        return self.by_openvino(
            replace(frozen, inputs=inputs),
            [wanted.index(name) for name in names],
            fetches,
            lambda features: {spec.name: np.asarray(features[spec.name]) for spec in specs},
            lambda: self.program(fetches, replace(compilation, compile=GRAPH)),
        )

    def _taken(self, features: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Return the values of the graph's inputs, with sample axes as in the model's inputs."""
        taken = dict(features)
        for spec in self.signature.specs:
            if not spec.parts:
                taken[spec.name] = as_the_model_takes_it(spec, features[spec.name])
        return taken

    def to_tensors(
        self, features: Mapping[str, Array], lengths: Mapping[str, Array]
    ) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        """Return a program's arguments as tensors in the host's memory."""
        dtypes = {spec.name: spec.dtype for spec in self.signature.specs}
        values = given(self.signature.specs, features, lengths)
        labels = {LABEL_FEATURE: features[LABEL_FEATURE]} if LABEL_FEATURE in features else {}
        try:
            with tf.device("/CPU:0"):
                return (
                    {
                        name: tf.convert_to_tensor(
                            value, dtypes.get(name) or self.graph.inputs[name].dtype
                        )
                        for name, value in values.items()
                    }
                    | {name: tf.convert_to_tensor(value) for name, value in labels.items()},
                    {
                        axis: tf.convert_to_tensor(lengths[axis])
                        for axis in self.signature.free_axes
                    },
                )
        except tf.errors.OpError as error:
            raise batch_failure(self.name, error) from error

    def constants(self, fetches: Sequence[Fetch]) -> list[Array]:
        """Return the values of weights, and of tensors computed only from these and constants."""
        check_values((fetch.request for fetch in fetches), self.name)
        values = self._values
        traced = [f.address for f in fetches if is_tensor(values[f.address])]

        def compute() -> list[tf.Tensor]:
            names = [values[address].name for address in traced]
            tensors = dict(zip(traced, tensors_in_graph(self.graph, {}, names), strict=True))
            for fetch in fetches:
                if fetch.address not in tensors:
                    tensors[fetch.address] = tf.convert_to_tensor(values[fetch.address])
            return [transformed(tensors[fetch.address], fetch, None, {}) for fetch in fetches]

        def compiled() -> Callable[[], list[Array]]:
            function = tf.function(compute, autograph=False)
            return lambda: [to_numpy(tensor) for tensor in function()]

        return list(self._constants.of(fetches, compiled)())

    @cached_property
    def _constants(self) -> CompiledOnce:
        return CompiledOnce()

    def read(self, variable: Any) -> Array:
        """Return a variable's content."""
        return to_numpy(tf.convert_to_tensor(variable))


@dataclass(frozen=True, eq=False)
class _Keeping:
    """A program, with the graph that it was made from.

    The functions of loops exist as long as that graph. Without them, TensorFlow crashes.
    """

    program: Program
    graph: GradientGraph

    def __call__(
        self, features: Mapping[str, Array], lengths: Mapping[str, Array]
    ) -> Sequence[Array]:
        return self.program(features, lengths)


def as_the_model_takes_it(spec: InputSpec, feature: tf.Tensor) -> tf.Tensor:
    """Move the sample axis of a feature (samples, *shape) to that of the model's input."""
    if spec.sample_axis is None:
        return feature[0]
    if spec.sample_axis == 0:
        return feature
    others = list(range(1, len(spec.shape) + 1))
    others.insert(spec.sample_axis, 0)
    return tf.transpose(feature, others)


def to_numpy(tensor: tf.Tensor) -> Array:
    """Return a tensor's values, without a copy if possible."""
    tensor = raw(tensor)
    if tensor.dtype in (tf.string, tf.bfloat16):
        return as_array(tensor.numpy())  # a single string is Python's bytes
    # Tensor.numpy() copies; the buffer itself is read-only and lives as long as the array does.
    return np.asarray(memoryview(tensor))
