"""Graphs of TensorFlow 1, and their adapter, which runs them in a session."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import tensorflow as tf

from extractkit.core.job import GRAPH, OPENVINO
from extractkit.core.requests import Gradient, Rollout, check_values
from extractkit.core.values import Array, as_array
from extractkit.errors import ConfigError, JobError, ModelError
from extractkit.inputs import InputSpec
from extractkit.models import (
    SAME_OBJECT,
    CheckpointAxis,
    Compilation,
    Differentiates,
    Fetch,
    HasOwnCall,
    NotCompiledError,
    OwnCall,
    Program,
)
from extractkit.models.failures import batch_failure, graph_error_summary
from extractkit.models.graphs import InnerTensor
from extractkit.models.graphs.catalog import GraphFacts, facts_of, find_operations, terminal_tensors
from extractkit.models.graphs.definitions import FrozenGraph
from extractkit.models.graphs.feeding import (
    Composite,
    checked_constants,
    given,
    given_names,
    inner_tensors,
    tensor_named,
    with_composites,
)
from extractkit.models.graphs.gradients import Differentiability, answers
from extractkit.models.graphs.model import CompiledOnce, GraphModel, transformed
from extractkit.models.graphs.rebuilding import inner_in_graph, tensors_in_graph
from extractkit.models.graphs.records import Found, raw_array
from extractkit.models.graphs.targets import Given, Labels
from extractkit.models.sessions.importing import (
    SessionGraph,
    SessionTemplate,
    placeholders,
    with_constants,
)
from extractkit.models.sessions.restore import (
    GraphVariable,
    kinds_of_variables,
    table_contents,
    variables_of,
)
from extractkit.models.signature import InputSetting, chosen, declared, signature_of
from extractkit.models.weight_files.weight_file import AVERAGE


@dataclass(frozen=True, eq=False)
class ReloadedSession:
    """A graph that is loaded into another session, for `OwnCall`."""

    session: tf.compat.v1.Session
    loaded_by: str


@dataclass(frozen=True, eq=False)
class SessionModel(GraphModel, HasOwnCall, Differentiates):
    """A graph and a session that holds its variables, as a `Model`.

    Attributes:
        open_session: returns the session that runs programs, with everything restored and
            initialised.
        source: the graph before programs are added, with constants inserted.
        outputs: the output tensors of the session by name.
        constants_fed: values of placeholders that are the same for every sample, by tensor name.
        variables: the variables of the graph.
        has_signature: whether inputs and outputs are named by a signature.
        inner: Names of inputs that are tensors inside the graph.
        frozen: Whether weights are constants of the graph.
        averages: the name of moving averages: `VARIABLE/averages` is one of `VARIABLE`.
        reload: Loads the same graph a second time; see `ReloadedSession`.
    """

    open_session: Callable[[], tf.compat.v1.Session]
    source: SessionGraph
    outputs: Mapping[str, str]
    constants_fed: Mapping[str, Array]
    variables: Sequence[GraphVariable]
    has_signature: bool
    inner: frozenset[str]
    frozen: bool
    averages: str = field(default=AVERAGE, kw_only=True)
    reload: Callable[[int | None], ReloadedSession] | None = field(default=None, kw_only=True)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _opening: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @property
    def session(self) -> tf.compat.v1.Session:
        """The session that runs programs, which are added to its graph."""
        with self._opening:
            return self._opened

    @cached_property
    def _opened(self) -> tf.compat.v1.Session:
        return self.open_session()

    @property
    def graph(self) -> SessionGraph:
        """The graph for analysis."""
        return self.source

    @cached_property
    def facts(self) -> GraphFacts:
        """Facts of the graph itself: loops, branches, placeholders that are not fed."""
        return facts_of(self.source.graph, self.source.inputs.values(), self._empty)

    @property
    def inert(self) -> frozenset[str]:
        """Names of operations whose results do not depend on random inputs."""
        return self.facts.inert

    @cached_property
    def found(self) -> Sequence[Found]:
        """Operations by TensorFlow's names, and variables."""
        graph = self.source.graph
        outputs = {name: graph.get_tensor_by_name(tensor) for name, tensor in self.outputs.items()}
        if not outputs:
            outputs = terminal_tensors(graph, self.source.inputs, self.facts)
        return find_operations(
            graph,
            self.source.inputs,
            outputs,
            [(variable.name, variable) for variable in self.variables],
            signature=self.has_signature,
            frozen=self.frozen,
            given=self.constants_fed,
            kept=kinds_of_variables(graph, self.averages),
            facts=self.facts,
            inner=self.inner,
        )

    def configure(self, seed: int, deterministic: bool, device: str | None) -> Mapping[str, object]:
        """Seed generators. A session chooses devices itself, so only its own device is accepted."""
        configured = super().configure(seed, deterministic, device)
        gpus = tf.config.list_logical_devices("GPU")
        own = "GPU" if gpus else "CPU"
        if device is not None:
            wanted = tf.DeviceSpec.from_string(device)
            kind, index = wanted.device_type, wanted.device_index or 0
            if (kind, index) != (own, 0):
                hidden = "-1" if kind == "CPU" else index
                hide = (
                    f", and have the environment hide other devices: CUDA_VISIBLE_DEVICES={hidden}"
                )
                raise ConfigError(
                    f"runtime.device={device!r}: model {self.name!r} runs in a session of "
                    f"TensorFlow 1, which places what it can on /{own}:0. Leave it out"
                    f"{hide if gpus else ''}"
                )
        return configured

    @property
    def contents(self) -> Mapping[str, str] | None:
        """Variables and frozen weights by address, lookup tables by content."""
        with self._lock:
            tables = table_contents(self.session, self.source.graph.as_graph_def())
        if tables is None:
            return None
        return tables | {
            value.name.partition(":")[0]: self._weight_content(record)
            for record, value in self._weights()
        }

    def own_call(self, checkpoint: int | None = None) -> OwnCall:
        """Return the outputs of the unchanged graph, fetched by name in a separate session."""
        if self.reload is None:
            return OwnCall(SAME_OBJECT, partial(self._outputs, self.session))
        reloaded = self.reload(checkpoint)
        return OwnCall(reloaded.loaded_by, partial(self._outputs, reloaded.session))

    def _outputs(
        self,
        session: tf.compat.v1.Session,
        features: Mapping[str, Array],
        lengths: Mapping[str, Array],
    ) -> dict[str, Array]:
        records = self.catalog.outputs
        fed = {
            self.source.inputs[name].name: value
            for name, value in _fed(self.signature.specs, features, lengths).items()
        }
        names = [self._values[record.address].name for record in records]
        try:
            values = session.run(names, {**fed, **self.constants_fed})
        except tf.errors.OpError as error:
            raise batch_failure(self.name, error) from error
        return {
            record.address: self._with_samples(
                # A string alone comes back as Python's bytes.
                record.address,
                raw_array(as_array(value)),
            )
            for record, value in zip(records, values, strict=True)
        }

    def program(self, fetches: Sequence[Fetch], compilation: Compilation) -> Program:
        """Return a callable of the session that computes the fetches and their dependencies."""
        if compilation.compile == "xla":
            raise ConfigError(
                f"runtime.compile=xla: model {self.name!r} runs in a session of TensorFlow 1, "
                f"which runs graphs only. Leave it out: runtime.compile=graph"
            )
        check_values((fetch.request for fetch in fetches), self.name, Gradient, Rollout)
        if compilation.compile == OPENVINO:
            return self._by_openvino(fetches, compilation)
        specs, axes = self.signature.specs, self.signature.free_axes
        with self._adding():
            samples = tf.compat.v1.placeholder(tf.int32, [])
            lengths = {axis: tf.compat.v1.placeholder(tf.int32, [None]) for axis in axes}
            labels = Labels.of(fetches)
            own_labels = () if labels is None else (labels.placeholder(),)
            tensor_of = self._tensors(fetches)
            answered = answers(
                fetches,
                tensor_of.__getitem__,
                self._differentiable,
                {name: self._in_session(one) for name, one in self.source.inputs.items()},
                *(specs, self._transformed, Given(samples, lengths, *own_labels)),
            )
            tensors = [
                self._transformed(one, fetch, samples, lengths)
                for one, fetch in zip(answered, fetches, strict=True)
            ]
            names = given_names(specs)
            inputs = [self._in_session(self.source.inputs[name]) for name in names]
            feeds = [*inputs, samples, *lengths.values(), *own_labels]
            call = self._callable(tensors, feeds)

        def run(features: Mapping[str, Array], lengths: Mapping[str, Array]) -> list[Array]:
            own = _fed(specs, features, lengths)
            count = np.int32(len(features[specs[0].name]) if specs else 1)
            given_labels = () if labels is None else (labels.among(features, lengths),)
            try:
                returned = call(
                    *(own[name] for name in names),
                    count,
                    *(lengths[axis] for axis in axes),
                    *given_labels,
                )
            except tf.errors.OpError as error:
                raise batch_failure(self.name, error) from error
            return returned

        return run

    def _by_openvino(self, fetches: Sequence[Fetch], compilation: Compilation) -> Program:
        """Compile a program that computes the tensors of the fetches with OpenVINO."""
        self.check_for_openvino(fetches)
        if any(isinstance(self._values[one.address], InnerTensor) for one in fetches):
            raise NotCompiledError(self.name, OPENVINO, "a value inside a loop is asked of it")
        # Operations that read resources have been added to the session's graph alone.
        tensors = {
            variable.value.name: tensor
            for variable in self.variables
            if variable.name not in self._empty
            and (tensor := tensor_named(self.source.graph, variable.value.name)) is not None
        }
        values = {
            variable.value.name: self.read(variable)
            for variable in self.variables
            if variable.value.name in tensors
        }
        source = SessionGraph(self.source.graph, {**self.source.inputs, **tensors})
        wanted = [self._graph_name(fetch.address) for fetch in fetches]
        names = list(dict.fromkeys(name for name in wanted if name is not None))
        with tf.Graph().as_default() as graph:
            inputs = {
                name: tf.compat.v1.placeholder(tensor.dtype, tensor.shape)
                for name, tensor in self.source.inputs.items()
            }
            constants = {name: tf.constant(value) for name, value in values.items()}
            rebuilt = tensors_in_graph(source, {**inputs, **constants}, names)
            outputs = [tf.identity(tensor) for tensor in rebuilt]
        specs = self.signature.specs
        return self.by_openvino(
            FrozenGraph(graph, inputs, outputs),
            [names.index(str(name)) for name in wanted],
            fetches,
            lambda features: {
                spec.name: as_the_graph_takes_it(spec, features[spec.name]) for spec in specs
            },
            lambda: self.program(fetches, replace(compilation, compile=GRAPH)),
        )

    @cached_property
    def differentiability(self) -> Differentiability:
        """See `GraphModel`. Gradients are added to the graph of the session.

        Those of loops would change the loops, which TensorFlow forbids once the session has run
        them.
        """
        inputs = frozenset(tensor.name for tensor in self.source.inputs.values())
        return Differentiability(self.source.graph, inputs, custom=False, in_place=True)

    def _graph_name(self, address: str) -> str | None:
        """See `GraphModel`."""
        return str(self._values[address].name)

    def _differentiable(self, address: str) -> tf.Tensor:
        """Return the session's tensor for an address; for a resource variable, its handle."""
        value = self._values[address]
        tensor = self._in_session(value)
        handle = isinstance(value, GraphVariable) and tensor.op.type == "ReadVariableOp"
        return tensor.op.inputs[0] if handle else tensor

    def constants(self, fetches: Sequence[Fetch]) -> list[Array]:
        """Return the values of weights, and of tensors computed only from these and constants."""

        check_values((fetch.request for fetch in fetches), self.name)

        def compiled() -> Callable[[], list[Array]]:
            with self._adding():
                tensor_of = self._tensors(fetches)
                return self._callable(
                    [transformed(tensor_of[one.address], one, None, {}) for one in fetches]
                )

        call = self._constants.of(fetches, compiled)
        try:
            # A session returns its own buffers: the next checkpoint overwrites those of variables.
            return [np.array(value, copy=True) for value in call()]
        except tf.errors.OpError as error:
            raise JobError(
                f"model {self.name!r} cannot compute its constants: {graph_error_summary(error)}"
            ) from error

    def read(self, variable: Any) -> Array:
        """Return the content of a variable, or of a constant in the graph.

        Raises:
            ModelError: The graph is damaged.
        """
        try:
            return raw_array(as_array(self.session.run(self._in_session(variable))))
        except tf.errors.OpError as error:
            raise ModelError(
                f"model {self.name!r}: {variable.name!r} cannot be read: "
                f"{graph_error_summary(error)}"
            ) from error

    def _tensors(self, fetches: Sequence[Fetch]) -> dict[str, tf.Tensor]:
        """Return the session's tensors for the fetches and their targets, by address.

        Loops with wanted inner tensors are added once more, since existing ones cannot change.
        """
        addresses = [address for fetch in fetches for address in fetch.request.needed]
        values = {address: self._values[address] for address in addresses}
        names = [one.name for one in values.values() if isinstance(one, InnerTensor)]
        # The definition of a graph holds its constants, and is large.
        inner = inner_in_graph(self.source.graph.as_graph_def(), names) if names else {}
        return {
            address: inner[one.name] if isinstance(one, InnerTensor) else self._in_session(one)
            for address, one in values.items()
        }

    def _in_session(self, value: Any) -> tf.Tensor:
        """Return the session's tensor for a tensor of the copied graph or a variable."""
        if isinstance(value, GraphVariable):
            return value.value
        return self.session.graph.get_tensor_by_name(value.name)

    @contextmanager
    def _adding(self) -> Iterator[None]:
        # One thread at a time, because adding to a graph is not thread-safe.
        with self._lock, self.session.graph.as_default():
            yield

    def _callable(
        self, tensors: Sequence[tf.Tensor], feeds: Sequence[tf.Tensor] = ()
    ) -> Callable[..., list[Array]]:
        """Return a function that computes the tensors from values of `feeds`."""
        # A fed tensor cannot be fetched, and the tensor of a variable would change later.
        fetched = [tf.identity(tensor) for tensor in tensors]
        graph = self.session.graph
        always = [graph.get_tensor_by_name(name) for name in self.constants_fed]
        call = self.session.make_callable(fetched, [*feeds, *always])
        values = tuple(self.constants_fed.values())

        def run(*given: Array) -> list[Array]:
            # A string alone comes back as Python's bytes.
            return [as_array(one) for one in call(*given, *values)]

        return run

    @cached_property
    def _constants(self) -> CompiledOnce:
        return CompiledOnce()

    @cached_property
    def _empty(self) -> frozenset[str]:
        """Return the names of the variables without a value."""
        if not self.variables:
            return frozenset()
        flags = self.session.run([variable.initialized for variable in self.variables])
        return frozenset(v.name for v, has in zip(self.variables, flags, strict=True) if not has)


def session_model(
    name: str,
    session: tf.compat.v1.Session | SessionTemplate,
    *,
    inputs: Mapping[str, tf.Tensor] | None = None,
    outputs: Mapping[str, tf.Tensor] | None = None,
    settings: Mapping[str, InputSetting] | None = None,
    constants: Mapping[str, object] | None = None,
    origin: Mapping[str, object] | None = None,
    graph_def: Any = None,
    frozen: bool = False,
    checkpoints: CheckpointAxis | None = None,
    averages: str = AVERAGE,
    reload: Callable[[int | None], ReloadedSession] | None = None,
    impure_advice: str = "",
    composites: Mapping[str, Composite] | None = None,
) -> SessionModel:
    """Wrap a session with restored variables and filled tables as a `Model`.

    Args:
        name: the name for messages.
        session: the session, owned by the model from now on. Programs are added to its graph.
        inputs: tensors by their names in a signature; None: no signature, so placeholders have
            their own names.
        outputs: tensors by their names in the signature or graph; None: unconsumed results.
        settings: the parsed `model.input_axes`. Any tensor of the graph can be an input.
        constants: values that are the same for every sample, by input or placeholder.
        origin: the manifest's entry on where the model comes from.
        graph_def: the original graph of the session, if operations have been added to it.
        frozen: whether weights are constants of the graph.
        checkpoints: several sets of weights for the session.
        impure_advice: advice for tensors that depend on random numbers.
        averages: the name of moving averages of variables.
        reload: see `SessionModel`.
        composites: sparse inputs by their names in the signature.

    Raises:
        ConfigError: settings or constants for inputs that do not exist, or that do not fit.
        ModelError: an input needs settings and has none.
    """
    graph = session.graph
    own = placeholders(graph)
    named = dict(own if inputs is None else inputs)
    # Placeholders outside the signature may still need a value, such as a training switch.
    feedable = {**own, **named}
    constant = checked_constants(constants, feedable, tuple(settings or ()))
    if inputs is None:
        named = {key: t for key, t in named.items() if t.op.type != "PlaceholderWithDefault"}
    inner = inner_tensors(graph, settings or (), named)
    named |= inner
    takes = [declared(key, t) for key, t in named.items() if key not in constant]
    made_of = dict(composites or {})
    takes += [one.declared(key) for key, one in made_of.items()]
    signature = signature_of(name, chosen(takes, settings), settings)
    signature = replace(with_composites(signature, made_of), selectable=True)
    for key, one in made_of.items():
        named |= one.named(key)
    fed = {feedable[key].op.name: value for key, value in constant.items()}
    later = isinstance(session, SessionTemplate)
    untouched = later and not fed
    copy = graph if untouched else with_constants(graph_def or graph.as_graph_def(), fed)
    return SessionModel(
        name,
        signature,
        open_session=session.open if later else lambda: session,
        source=SessionGraph(
            copy,
            {key: copy.get_tensor_by_name(named[key].name) for key in given_names(signature.specs)},
        ),
        outputs={key: tensor.name for key, tensor in (outputs or {}).items()},
        constants_fed={feedable[key].name: value for key, value in constant.items()},
        variables=() if later else variables_of(graph),
        has_signature=inputs is not None,
        inner=frozenset(inner),
        frozen=frozen,
        origin={**(origin or {}), **({"constants": dict(constants)} if constants else {})},
        checkpoints=checkpoints,
        impure_advice=impure_advice,
        averages=averages,
        reload=reload,
    ).settled()


def _fed(
    specs: Sequence[InputSpec], features: Mapping[str, Array], lengths: Mapping[str, Array]
) -> dict[str, Array]:
    """Return the values to feed to the graph's inputs, by name."""
    fed = given(specs, features, lengths)
    for spec in specs:
        if not spec.parts:
            fed[spec.name] = as_the_graph_takes_it(spec, features[spec.name])
    return fed


def as_the_graph_takes_it(spec: InputSpec, feature: Array) -> Array:
    """Return a feature (samples, *shape) with the sample axis where the graph's input has it."""
    if spec.sample_axis is None:
        value: Array = feature[0]
        return value
    return np.moveaxis(feature, 0, spec.sample_axis)
