"""The adapter of Keras models, including stateful and image models."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import tensorflow as tf

from extractkit.core.catalog import Kind
from extractkit.core.values import Array
from extractkit.errors import JobError, ModelError, counted
from extractkit.inputs import InputSpec, Sample, Signature
from extractkit.models import (
    RESET,
    Compilation,
    Encoded,
    Fetch,
    OtherOutputsError,
    OutputsAfter,
    OwnCall,
    Program,
)
from extractkit.models.failures import attribute, error_summary
from extractkit.models.functions import FunctionModel
from extractkit.models.functions.function_graph import captured_variables
from extractkit.models.graphs.gradients import Differentiability, GradientGraph, counts
from extractkit.models.graphs.loops import is_inner
from extractkit.models.graphs.rebuilding import inner_in_graph
from extractkit.models.graphs.records import Found
from extractkit.models.keras_internals import layers_in
from extractkit.models.keras_models.catalog import find_tensors
from extractkit.models.keras_models.dialects import KERAS_3, Dialect, dialect_of
from extractkit.models.keras_models.layer_state import (
    LayerState,
    check_calls,
    from_initial_state,
    stateful_layers,
)
from extractkit.models.keras_models.loading import Reload
from extractkit.models.keras_models.tracing import Retracing, Trace, Traced, trace
from extractkit.models.naming import ports


@dataclass(frozen=True, eq=False)
class KerasModel(FunctionModel):
    """A Keras model as a `Model`.

    Attributes:
        keras_model: The model.
        pack: Converts inputs by name to the structure that the model is called with.
        dialect: The Keras that it is built with.
        reload: Loads the model a second time; see `Reload`. None if it exists only in memory.
        stateful: Its stateful layers. Each call starts from the initial state.
    """

    keras_model: Any
    pack: Callable[[Mapping[str, tf.Tensor]], Any]
    dialect: Dialect = field(default=KERAS_3, kw_only=True)
    reload: Reload | None = field(default=None, kw_only=True)
    stateful: Sequence[Any] = field(default=(), kw_only=True)

    @property
    def state_policy(self) -> str:
        """The policy of `model.state` for its stateful layers."""
        return RESET

    @property
    def graph(self) -> Trace:
        """The trace that the catalog and programs are made from.

        Weights have to be loaded before, because it contains state that layers derive from them.
        """
        return self.traced.trace

    @cached_property
    def traced(self) -> Traced:
        """The trace, with the state of the layers when it was made if weights can change."""
        self.build()
        made = self._trace()
        check_calls(self.keras_model, self.stateful, made)
        if self.checkpoints is None:
            return Traced(made, 0, LayerState(()))
        return Traced(made, self.checkpoints.loads, LayerState.of(self.keras_model))

    def build(self) -> None:
        """Call the model once if it needs that to create all weights.

        Building calls layers symbolically, and those calls must not end up in the catalog.
        """
        if not all(layer.built for layer in layers_in(self.keras_model)):
            self._trace()

    def _trace(self, samples: int | None = None) -> Trace:
        """Trace it from the initial state or, for a number of samples, from its current states."""
        specs = [_whole(spec, samples) for spec in self.signature.specs]
        model = self.keras_model

        def forward(features: Mapping[str, tf.Tensor]) -> Any:
            return model(self.pack(features), training=False)

        try:
            with from_initial_state(self.stateful if samples is None else ()):
                return trace(forward, specs, self.dialect)
        except Exception as error:  # custom layers may raise anything
            raise ModelError(
                f"model {self.name!r} ({type(model).__name__}) cannot be called with inputs "
                f"{', '.join(map(str, specs))}: {error_summary(error)}{_needs_composites(model)}"
            ) from error

    @cached_property
    def found(self) -> Sequence[Found]:
        """The tensors and operations of every layer call, and the weights."""
        return find_tensors(self.graph)

    @property
    def variables(self) -> Iterable[Any]:
        """The model's variables, with generators' states and those that Keras does not track."""
        own = self.dialect.variables(self.keras_model.variables)
        return [*own, *captured_variables(self.graph.graph).values()]

    def called(self, arguments: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Return the outputs of calling the model by address; see `_called_in_graph`."""
        return self._called_in_graph(self.keras_model, self.dialect, arguments)

    def own_call(self, checkpoint: int | None = None) -> OwnCall:
        """Return the call of the reloaded model, or of the model itself."""
        if self.reload is None:
            return replace(
                super().own_call(checkpoint),
                outputs_after=self.outputs_after(self.keras_model, self.dialect),
            )
        reloaded = self.reload(checkpoint)
        dialect = dialect_of(reloaded.model)
        if dialect is None:
            raise TypeError(f"{reloaded.loaded_by} gives a {type(reloaded.model).__name__}")

        def called(arguments: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            reloaded.complete(self.pack(arguments))
            return self._called_in_graph(reloaded.model, dialect, arguments)

        def outputs(
            features: Mapping[str, Array], lengths: Mapping[str, Array]
        ) -> Mapping[str, Array]:
            # The call builds a model that is not built. Until then it has no variables, and
            # tf-keras raises an error for them.
            built = reloaded.model.built
            kept = dialect.variables(reloaded.model.variables) if built else ()
            return self.outputs_by(called, kept)(features, lengths)

        return OwnCall(reloaded.loaded_by, outputs, self.outputs_after(reloaded.model, dialect))

    def outputs_after(self, model: Any, dialect: Dialect) -> OutputsAfter | None:
        """See `OwnCall`. `model` has the same architecture and is loaded independently."""
        return None

    def _called_in_graph(
        self,
        model: Any,
        dialect: Dialect,
        arguments: Mapping[str, tf.Tensor],
        samples: int | None = None,
    ) -> dict[str, tf.Tensor]:
        """Return the outputs of a model of this architecture by address, called as in `predict`.

        The call runs in a graph that returns only the outputs. Eagerly a model may give other
        results: TensorFlow's fused kernels exist only in graphs, and turn a NaN into 0.

        Args:
            samples: The number of samples, if layers start from their current states and keep the
                final ones. None if they start from the initial state.
        """
        addresses = [
            one.record.address for one in self.found if one.record.kind is Kind.MODEL_OUTPUT
        ]

        def call(given: Mapping[str, tf.Tensor]) -> list[tf.Tensor]:
            with dialect.converting():
                return [*ports("output", model(self.pack(given), training=False)).values()]

        layers = stateful_layers(model, dialect)
        # A stateful layer of Keras 2 refuses batches with a different known size.
        taken = None
        if layers:
            specs = {spec.name: _whole(spec, samples) for spec in self.signature.specs}
            taken = [{name: tf.TensorSpec(one.shape, one.dtype) for name, one in specs.items()}]
        starting = from_initial_state(layers if samples is None else ())
        with dialect.repaired(), dialect.inference(), starting:
            returned = tf.function(call, autograph=False, input_signature=taken)(dict(arguments))
        if len(returned) != len(addresses):
            raise OtherOutputsError(
                f"the model's own call returns {counted(len(returned), 'output')}, "
                f"not {len(addresses)}"
            )
        return dict(zip(addresses, returned, strict=True))

    def settled(self) -> Self:
        """See `GraphModel`. Does not trace if other weights are still to be loaded."""
        settled = super().settled()
        return settled if self.checkpoints is None else replace(settled)

    def program(self, fetches: Sequence[Fetch], compilation: Compilation) -> Program:
        """See `FunctionModel`. With several sets of weights, it follows the loaded ones."""
        if self.checkpoints is None:
            return super().program(fetches, compilation)
        return _RetracingProgram(self._retracing, fetches, compilation)

    def constants(self, fetches: Sequence[Fetch]) -> list[Array]:
        """See `FunctionModel`."""
        if self.checkpoints is None:
            return super().constants(fetches)
        return FunctionModel.constants(self._retracing.current(), fetches)

    @cached_property
    def _retracing(self) -> Retracing:
        assert self.checkpoints is not None
        return Retracing(self, self.checkpoints, lambda: replace(self))

    @cached_property
    def differentiability(self) -> Differentiability:
        """See `GraphModel`. Custom gradients exist in the process that traces the model."""
        return replace(super().differentiability, custom=True)

    def differentiable(
        self, addresses: Sequence[str], targets: Sequence[str] = ()
    ) -> GradientGraph:
        """See `GraphModel`. Custom gradients belong to a trace, so gradients have their own.

        Programs of a job have the same targets, and share the trace. It is not kept for other
        targets, because each program adds to it.
        """
        if not self.differentiability.is_bound:
            return super().differentiable(addresses, targets)
        wanted = tuple(sorted(set(targets)))
        known, graph = next(iter(self._traced_for.items()), ((), None))
        if graph is None or (wanted and known and wanted != known):
            graph = self._traced_for_gradients()
        self._traced_for.clear()
        self._traced_for[wanted or known] = graph
        return graph

    @cached_property
    def _traced_for(self) -> dict[tuple[str, ...], GradientGraph]:
        return {}

    def _traced_for_gradients(self) -> GradientGraph:
        again = replace(self)
        if again._addresses != self._addresses:
            raise JobError(
                f"selectors: model {self.name!r} has custom gradients, and other tensors each time "
                f"it is called, so its gradients cannot be computed. Select values"
            )
        graph = again.graph.graph
        with graph.as_default():
            inputs = {**again.graph.inputs, **counts(self.signature.free_axes)}

        def tensor_of(address: str) -> tf.Tensor:
            name = again._graph_name(address)
            assert name is not None, "the graph lacks what `without_gradient` gives a reason for"
            if is_inner(name):
                return inner_in_graph(graph.as_graph_def(), [name])[name]
            return graph.get_tensor_by_name(name)

        return GradientGraph(graph, inputs, tensor_of)

    @property
    def _addresses(self) -> list[str]:
        return [one.record.address for one in self.found]

    @property
    def _unfused(self) -> list[str]:
        """The addresses of probabilities that a fused kernel would not have."""
        made = self.graph.unfused
        softmaxes = (one for one in self.found if made and one.record.op_type == "Softmax")
        return [one.record.address for one in softmaxes if one.value.op in made]

    def describe(self) -> Mapping[str, object]:
        """Return the class, number of parameters, and where the model comes from."""
        stateful = [layer.name for layer in self.stateful]
        return {
            "class": type(self.keras_model).__name__,
            **({"state": self.state_policy, "stateful_layers": stateful} if stateful else {}),
            **({"unfused_attention": unfused} if (unfused := self._unfused) else {}),
            **super().describe(),
        }


class _RetracingProgram:
    """A program that is recompiled if loading weights requires a new trace."""

    def __init__(
        self, retracing: Retracing, fetches: Sequence[Fetch], compilation: Compilation
    ) -> None:
        self._retracing = retracing
        self._fetches = fetches
        self._compilation = compilation
        self._compile(retracing.current())

    def __call__(
        self, features: Mapping[str, Array], lengths: Mapping[str, Array]
    ) -> Sequence[Array]:
        current = self._retracing.current()
        if current is not self._model:
            self._compile(current)
        return self._program(features, lengths)

    def _compile(self, model: KerasModel) -> None:
        self._model = model
        self._program = FunctionModel.program(model, self._fetches, self._compilation)


def _whole(spec: InputSpec, samples: int | None = None) -> tf.TensorSpec:
    """Return the spec of the model's own input with a number of samples, or any if None."""
    shape = list(spec.shape)
    if spec.sample_axis is not None:
        shape.insert(spec.sample_axis, samples)
    return tf.TensorSpec(shape, spec.dtype, name=spec.name)


def _needs_composites(model: Any) -> str:
    """Return advice for layers that need the ragged or sparse tensors of the model's inputs."""
    inputs = attribute(model, "inputs") or ()
    kinds = {"Ragged": "ragged", "Sparse": "sparse"}
    found = [
        name
        for prefix, name in kinds.items()
        for one in inputs
        if attribute(one, name) or type(attribute(one, "type_spec")).__name__.startswith(prefix)
    ]
    if not found:
        return ""
    return (
        f". It takes {found[0]} tensors, and model=keras gives it dense rows. Save it by "
        f"tf.saved_model.save(model, DIR), and use model=saved_model model.path=DIR"
    )


_AXES = ("height", "width", "channel")


@dataclass(frozen=True, eq=False)
class ImageModel(KerasModel):
    """A Keras model of images (height, width, channels).

    Attributes:
        prepare: Converts one sample's pixels to the values of training, of the same shape. None if
            the model takes pixels.
    """

    prepare: Callable[[Array], Array] | None = field(default=None, kw_only=True)

    def encode(self, samples: Sequence[Sample]) -> Sequence[Encoded]:
        """Encode the samples with their pixels prepared."""
        encoded = super().encode(samples)
        if self.prepare is None:
            return encoded
        return [
            replace(one, features={name: self.prepare(x) for name, x in one.features.items()})
            for one in encoded
        ]


def image_signature(signature: Signature, *, pixels: bool) -> Signature:
    """Return the signature of a model of one image, with names of free axes.

    Args:
        pixels: Whether the values of the image are 0 … 255.
    """
    (spec,) = signature.specs
    free = zip(spec.shape, _AXES, strict=True)
    dims = tuple(axis if size is None else None for size, axis in free)
    low, high = (0, 256) if pixels else (None, None)
    return replace(signature, specs=(replace(spec, dims=dims, low=low, high=high),))
