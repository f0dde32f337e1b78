"""The base of all models that are one TensorFlow graph, with layouts and transforms inside it."""

import hashlib
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any, Self

import numpy as np
import tensorflow as tf

from extractkit.core.attribution import Method
from extractkit.core.catalog import VARIABLES, Catalog, Edges, Kind, Layout, TensorRecord
from extractkit.core.job import OPENVINO, XLA
from extractkit.core.requests import Value
from extractkit.core.spec import Dim
from extractkit.core.targets import BoundTarget
from extractkit.core.transforms import Masked
from extractkit.core.values import Array, add_to_digest, digest_of_plain_data
from extractkit.inputs import Sample, Signature
from extractkit.models import (
    CheckpointAxis,
    ChecksSizes,
    DecidesTogether,
    Encoded,
    Fetch,
    HasCheckpoints,
    NotCompiledError,
    Program,
    encode_arrays,
    openvino,
)
from extractkit.models.graphs import InnerTensor, is_tensor
from extractkit.models.graphs.catalog import consumed_by
from extractkit.models.graphs.definitions import FrozenGraph, graph_digest
from extractkit.models.graphs.gradients import (
    INDEPENDENT,
    Differentiability,
    GradientGraph,
    copied,
)
from extractkit.models.graphs.purity import keeps_sizes
from extractkit.models.graphs.rebuilding import SourceGraph
from extractkit.models.graphs.records import (
    Found,
    Records,
    complete,
    free_axes_are_independent,
    raw,
    scales_of,
    takes,
)
from extractkit.models.graphs.targets import check_losses
from extractkit.models.process import configure
from extractkit.models.signature import tied

_INNER = "it is made inside a loop, branch or nested function, where gradients are not computed"
_INNER_TARGET = "the target {!r} is made inside a loop, branch or nested function"

TextEncoder = Callable[[Sequence[Sample]], Sequence[Encoded]]


@dataclass(frozen=True, eq=False)
class GraphModel(HasCheckpoints, ChecksSizes, DecidesTogether):
    """The base of models that are a graph. Subclasses provide the graph and run it.

    Attributes:
        name: The name for messages.
        signature: The model's inputs.
        encoder: Encodes texts as inputs. None if it takes no texts, or takes them unchanged.
        preprocessing: Everything that determines the preprocessing of samples, as plain data. Empty
            if there is none.
        origin: The manifest's entry on where it comes from.
        checkpoints: The axis of several sets of weights, or None.
        impure_advice: Advice for tensors that depend on random numbers, as a sentence.
    """

    name: str
    signature: Signature
    encoder: TextEncoder | None = field(default=None, kw_only=True)
    preprocessing: Mapping[str, object] = field(default_factory=dict, kw_only=True)
    origin: Mapping[str, object] = field(default_factory=dict, kw_only=True)
    checkpoints: CheckpointAxis | None = field(default=None, kw_only=True)
    impure_advice: str = field(default="", kw_only=True)

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
        """Names of operations whose results do not depend on random inputs."""
        return frozenset()

    @property
    def contents(self) -> Mapping[str, str] | None:
        """Texts for the contents of nodes by name, or None if they are not known.

        A weight is described by its record, anything else by its content; see `graph_digest`.
        """
        raise NotImplementedError

    def read(self, variable: Any) -> Array:
        """Return a variable's content."""
        raise NotImplementedError

    @cached_property
    def catalog(self) -> Catalog:
        """Every tensor that the model offers."""
        return Catalog(self._records.records, self.name, self._edges)

    def configure(self, seed: int, deterministic: bool, device: str | None) -> Mapping[str, object]:
        """Seed Python, NumPy and TensorFlow; see `process.configure`."""
        return configure(seed, deterministic, device)

    def encode(self, samples: Sequence[Sample]) -> Sequence[Encoded]:
        """Return the samples as the model takes them, without padding."""
        if self.encoder is not None and all(isinstance(sample.data, str) for sample in samples):
            return self.encoder(samples)
        return [encode_arrays(self.signature, sample) for sample in samples]

    def weights_digest(self) -> str:
        """Return the SHA-256 over every weight's address, dtype, shape and content, with slots."""
        sha = hashlib.sha256()
        for record, value in self._weights():
            # One at a time, to avoid a second copy of the model.
            add_to_digest(sha, record.address, record.spec.dtype, self.read(value))
        return sha.hexdigest()

    def definition_digest(self) -> str | None:
        """Return the SHA-256 of graph, addresses, signature, preprocessing; see `graph_digest`."""
        contents = self.contents
        if contents is None:
            return None
        graph_def = self.graph.graph.as_graph_def()
        graph = graph_digest(graph_def, contents)
        if graph is None:
            return None
        positions = {node.name: position for position, node in enumerate(graph_def.node)}
        signature = asdict(replace(self.signature, model=""))
        del signature["optional"]  # it does not affect the given inputs
        del signature["takes_pictures"]  # covered by `preprocessing`
        del signature["label"]  # not an input of the model
        for spec in signature["specs"]:
            if spec["composite"] is None:
                del spec["composite"], spec["parts"]
        identity = {
            "graph": graph,
            "addresses": [
                [one.record.address, positions[one.value.op.name], *_position(one.value)]
                for one in self.found
                if one.in_graph and one.value.graph is self.graph.graph and not one.again
            ],
            "signature": signature,
            "preprocessing": self.preprocessing,
        }
        return digest_of_plain_data(identity)

    def describe(self) -> Mapping[str, object]:
        """Return the number of parameters, the preprocessing, and the origin."""
        weights = [record for record in self.catalog.records if record.kind is Kind.WEIGHT]
        known = [record.spec for record in weights if record.spec.dims is not None]
        parameters = sum(prod(size or 0 for size in spec.shape) for spec in known)
        return {
            "name": self.name,
            "parameters": parameters,
            "preprocessing": self.preprocessing,
            **self._quantized(),
            **self.origin,
        }

    def _quantized(self) -> Mapping[str, object]:
        """Return the scales of quantised tensors by address."""
        scales = scales_of(self.graph.graph)
        found = {
            one.record.address: scales[one.value.name]
            for one in self.found
            if one.in_graph and one.value.name in scales
        }
        return {"quantized": found} if found else {}

    def settled(self) -> Self:
        """Return the model with shared lengths of free axes if they cannot be independent."""
        if len(self.signature.free_axes) < 2:
            return self
        outputs = [
            one.value.name
            for one in self.found
            if one.in_graph and one.record.kind is Kind.MODEL_OUTPUT
        ]
        shared = replace(self.signature, specs=tied(self.signature.specs))
        if free_axes_are_independent(self.graph, outputs, self.signature, shared):
            return self
        return replace(self, signature=shared)

    def accepts_sizes(self, addresses: Sequence[str], sizes: Mapping[str, int]) -> bool:
        """Return False if tensors cannot be computed at these sizes, by the graph's static shapes.

        True is not a guarantee: some shapes are known only when the graph runs.
        """
        names = [name for one in addresses if (name := self._graph_name(one)) is not None]
        return takes(self.graph, names, self.signature, sizes)

    def takes_sizes_between(self, addresses: Sequence[str]) -> bool:
        """Return whether tensors that can be computed at two sizes can be at all between them.

        False is not a refusal: it means that the graph does not show it.
        """
        tensors = [self._values[one] for one in addresses]
        if any(isinstance(one, InnerTensor) or not is_tensor(one) for one in tensors):
            return False
        dims = {
            one.value.name: record.spec.dims
            for one, record in zip(self.found, self._records.records, strict=True)
            if one.in_graph
        }
        return keeps_sizes(self.graph, tensors, dims)

    def decision(self, addresses: Sequence[str]) -> str | None:
        """Return what the samples of a batch decide together before one of these tensors."""
        decisions = self._records.decisions
        if decisions is None:
            return None
        found = (decisions.before(self._values[one]) for one in addresses)
        return next((one for one in found if one is not None), None)

    @property
    def differentiability(self) -> Differentiability:
        """What TensorFlow can differentiate in the graph."""
        raise NotImplementedError

    def differentiable(
        self, addresses: Sequence[str], targets: Sequence[str] = ()
    ) -> GradientGraph:
        """Return a copy of the graph to which gradients may be added.

        Args:
            addresses: those of the tensors that it needs, targets included.
            targets: addresses of the targets of a program; none for a trial.
        """
        names = {one: name for one in addresses if (name := self._graph_name(one)) is not None}
        return copied(self.graph, names, self.signature.free_axes, self.differentiability.saved)

    def without_gradient(
        self, of: BoundTarget, addresses: Sequence[str], method: Method | None = None
    ) -> Mapping[str, str]:
        """Return why tensors have no gradient of a target, by address: by analysis and trial.

        Raises:
            SelectionError: a loss of the target is not one number of each sample.
        """
        check_losses(of)
        asked = (of.tensor, *addresses, repr(method and method.written))
        if asked not in self._tried:
            target = self._graph_name(of.tensor)
            assert target is not None, "a target depends on the inputs"
            inner = {one for one in addresses if isinstance(self._values[one], InnerTensor)}
            found = dict.fromkeys(inner, _INNER)
            if isinstance(self._values[of.tensor], InnerTensor):
                found = dict.fromkeys(addresses, _INNER_TARGET.format(of.tensor))
            names = {address: self._graph_name(address) for address in addresses}
            known = {one: name for one, name in names.items() if name is not None}
            found |= dict.fromkeys((one for one in addresses if one not in known), INDEPENDENT)
            left = {one: name for one, name in known.items() if one not in found}
            found |= self.differentiability.reasons(target, left) if left else {}
            if tried := [address for address in left if address not in found]:
                graph = self.differentiable([of.tensor, *tried])
                found |= graph.without_gradient(of.tensor, tried, method)
            self._tried[asked] = found
        return self._tried[asked]

    @cached_property
    def _tried(self) -> dict[tuple[str, ...], Mapping[str, str]]:
        return {}

    def _graph_name(self, address: str) -> str | None:
        """Return the name of a tensor of the graph, or of a variable's handle in it.

        None if the graph does not read the variable.
        """
        raise NotImplementedError

    def _weights(self) -> Iterator[tuple[TensorRecord, Any]]:
        """Yield every weight with a value, slots included, with its variable or tensor."""
        for record in self.catalog.records:
            if record.kind in VARIABLES and record.extractable:
                yield record, self._values[record.address]

    @staticmethod
    def _weight_content(record: TensorRecord) -> str:
        shape = None if record.spec.dims is None else record.spec.shape
        return f"weight {record.address} {record.spec.dtype} {shape}"

    def _with_samples(self, address: str, value: Array) -> Array:
        """Return an output as a program returns it, with a sample axis added if needed."""
        return value[None] if address in self._records.whole else value

    def _transformed(
        self,
        tensor: tf.Tensor,
        fetch: Fetch,
        samples: tf.Tensor,
        lengths: Mapping[str, tf.Tensor],
    ) -> tf.Tensor:
        if fetch.result:
            return tensor
        value = self._values[fetch.address]
        if isinstance(value, InnerTensor) and isinstance(fetch.request, Value):
            layout = fetch.layout
            if layout is not None and fetch.address in self._records.whole:
                layout = replace(layout, whole=True)  # its axis of samples is yet to be added
            tensor = _of_list(tensor, value, layout, samples, lengths)
        if fetch.address in self._records.whole and not fetch.request.in_stored_order:
            tensor = tf.expand_dims(tensor, 0)
        if tensor.shape.rank is None and fetch.layout is not None:
            # The graph does not determine it, but a run did.
            rank = len(fetch.layout.dims) - (fetch.layout.split or fetch.layout.whole)
            tensor = tf.ensure_shape(tensor, [None] * rank)
        return transformed(tensor, fetch, samples, lengths)

    def check_for_xla(self, fetches: Sequence[Fetch]) -> None:
        """Check that no tensor has strings, and that all lengths follow from the inputs' shapes.

        Raises:
            NotCompiledError: An input or a fetch's tensor has strings, or values decide a length,
                or a branch inside a loop does.
        """
        named = {f"input {spec.name!r}": spec.dtype for spec in self.signature.specs}
        for fetch in fetches:
            named[f"tensor {fetch.address!r}"] = tf.as_dtype(self._values[fetch.address].dtype).name
        if of_strings := [name for name, dtype in named.items() if dtype == "string"]:
            reason = f"its {of_strings[0]} has strings, and XLA compiles numbers alone"
            raise NotCompiledError(self.name, XLA, reason)
        decisions = self._records.decisions
        for fetch in fetches:
            value = self._values[fetch.address]
            if not isinstance(value, InnerTensor) or decisions is None:
                continue
            where = None
            if value.varying:
                where = "inside a branch"
            elif any(decisions.end(loop) for loop in value.loops):
                where = "inside a loop whose number of steps the values of the inputs decide"
            if where is not None:
                reason = f"{fetch.address!r} is {where}, and XLA compiles shapes that are known"
                raise NotCompiledError(self.name, XLA, reason)

    def check_for_openvino(self, fetches: Sequence[Fetch]) -> None:
        """Check that OpenVINO may run this model.

        Raises:
            MissingExtraError: OpenVINO is not installed.
            NotCompiledError: more than values is asked for, the weights change during a job, or
                the inputs are not arrays.
        """
        openvino.require()
        for fetch in fetches:
            if not isinstance(fetch.request, Value):
                reason = f"{fetch.request.what}s are computed by TensorFlow alone"
                raise NotCompiledError(self.name, OPENVINO, reason)
        if self.checkpoints is not None:
            reason = "its weights change during the job, and OpenVINO makes constants of them"
            raise NotCompiledError(self.name, OPENVINO, reason)
        if not self.signature.specs:
            raise NotCompiledError(self.name, OPENVINO, "it has no inputs")
        for spec in self.signature.specs:
            if spec.parts:
                reason = f"its input {spec.name!r} is a {spec.composite} tensor"
                raise NotCompiledError(self.name, OPENVINO, reason)

    def by_openvino(
        self,
        frozen: FrozenGraph,
        positions: Sequence[int],
        fetches: Sequence[Fetch],
        feed: Callable[[Mapping[str, Array]], Mapping[str, Array]],
        by_tensorflow: Callable[[], Program],
    ) -> Program:
        """Return a program of a frozen graph with the tensors of the fetches.

        OpenVINO computes these tensors, and TensorFlow their layouts and transforms.

        Args:
            positions: the position of each fetch's tensor among the outputs.
            feed: returns the graph's inputs by name, for the features of a batch.
            by_tensorflow: makes the same program of TensorFlow.

        Raises:
            NotCompiledError: OpenVINO cannot compute the tensors.
        """
        graph = openvino.CompiledGraph(self.name, frozen)
        unchanged: set[int] = set()

        @tf.function(autograph=False)
        def transform(
            tensors: list[tf.Tensor], samples: tf.Tensor, lengths: dict[str, tf.Tensor]
        ) -> list[tf.Tensor]:
            found = [
                self._transformed(tensors[at], fetch, samples, lengths)
                for at, fetch in zip(positions, fetches, strict=True)
            ]
            unchanged.update(
                number for number, at in enumerate(positions) if found[number] is tensors[at]
            )
            return [one for number, one in enumerate(found) if number not in unchanged]

        compiled = transform.get_concrete_function(
            [tf.TensorSpec(one.shape, one.dtype) for one in frozen.outputs],
            tf.TensorSpec([], tf.int32),
            {axis: tf.TensorSpec([None], tf.int32) for axis in self.signature.free_axes},
        )
        first = self.signature.specs[0].name

        def applied(
            values: Sequence[Array], features: Mapping[str, Array], lengths: Mapping[str, Array]
        ) -> Sequence[tf.Tensor]:
            with tf.device("/CPU:0"):
                found: Sequence[tf.Tensor] = compiled(
                    [tf.constant(value) for value in values],
                    tf.constant(len(features[first])),
                    {axis: tf.constant(lengths[axis]) for axis in self.signature.free_axes},
                )
            return found

        def finish(
            values: Sequence[Array], features: Mapping[str, Array], lengths: Mapping[str, Array]
        ) -> list[Array]:
            # A call of TensorFlow takes several times as much processor time as a copy.
            needed = len(unchanged) < len(positions)
            changed = iter(applied(values, features, lengths) if needed else ())
            return [
                np.array(values[at])
                if number in unchanged
                else np.asarray(memoryview(next(changed)))
                for number, at in enumerate(positions)
            ]

        return openvino.OpenVinoProgram(self.name, graph, feed, finish, by_tensorflow)

    @cached_property
    def _records(self) -> Records:
        return complete(self.graph, self.found, self.signature, self.inert, self.impure_advice)

    @property
    def _edges(self) -> Edges:
        return Edges(lambda: consumed_by(self.found))

    @cached_property
    def _values(self) -> dict[str, Any]:
        return {one.record.address: one.value for one in self.found}


def _position(tensor: Any) -> Sequence[int]:
    """Return the position of a tensor among the results of its operation, or inside that."""
    return tensor.position if isinstance(tensor, InnerTensor) else (tensor.value_index,)


def _of_list(
    tensor: tf.Tensor,
    inner: InnerTensor,
    layout: Layout | None,
    samples: tf.Tensor,
    lengths: Mapping[str, tf.Tensor],
) -> tf.Tensor:
    """Return an inner tensor with its shape, which lists do not know, least of all empty ones."""
    if layout is None:
        return tensor
    # The steps of a loop over the samples, such as `tf.map_fn`, are the samples.
    of_samples = layout.axis == 0 and not layout.whole and not layout.split
    if not of_samples and layout.dims[layout.axis is not None].size is None:
        others = [_size(dim, samples, lengths) for dim in layout.dims[1:]]
        if layout.split and layout.axis is not None:
            others[layout.axis] *= samples
        elif not layout.whole and layout.axis is not None:
            others.insert(layout.axis, samples)
        empty, found = tf.stack([0, *others[1:]]), tf.shape(tensor)
        # In the graph of a session, `==` compares Python's objects.
        tensor = tf.reshape(tensor, tf.where(tf.equal(found[0], 0), empty, found))
    return tensor if inner.sizes is None else tf.ensure_shape(tensor, inner.sizes)


def _size(dim: Dim, samples: tf.Tensor, lengths: Mapping[str, tf.Tensor]) -> Any:
    """Return the length of an axis of a value that is not there: 0 if only the model knows it."""
    if dim.factors:
        sizes = [_size(factor, samples, lengths) for factor in dim.factors]
        return tf.reduce_prod(tf.stack(sizes))
    if dim.samples:
        return samples
    return tf.reduce_max(lengths[dim.free]) if dim.free else dim.size or 0


Call = Callable[[], Sequence[Array]]


@dataclass(eq=False)
class CompiledOnce:
    """A cache of the last compiled call, reused while the fetches stay the same."""

    _fetches: list[Fetch] = field(default_factory=list)
    _call: Call | None = None

    def of(self, fetches: Sequence[Fetch], compile_call: Callable[[], Call]) -> Call:
        """Return the call for these fetches, compiled if they differ from the last ones."""
        if self._call is None or self._fetches != list(fetches):
            self._call = compile_call()
            self._fetches = list(fetches)
        return self._call


def transformed(
    tensor: tf.Tensor, fetch: Fetch, samples: tf.Tensor | None, lengths: Mapping[str, tf.Tensor]
) -> tf.Tensor:
    """Return the result of a fetch: the tensor with its layout and transforms applied.

    Args:
        tensor: The model's tensor.
        samples: The number of samples of the batch. None for a constant.
        lengths: int32 (samples,), the samples' lengths along each free axis.
    """
    tensor = raw(tensor)
    if fetch.layout is not None:
        tensor = _arranged(tensor, fetch.layout, samples)
    if fetch.pipeline is not None and fetch.layout is not None:
        masked = Masked(tensor, fetch.layout.of_free_axes(lengths))
        tensor = fetch.pipeline.in_graph(tf, masked)
    # NumPy and HDF5 have no bfloat16. float32 represents all of its values exactly.
    return tf.cast(tensor, tf.float32) if tensor.dtype == tf.bfloat16 else tensor


def _arranged(tensor: tf.Tensor, layout: Layout, samples: tf.Tensor | None) -> tf.Tensor:
    """Move the sample axis to the front, and split a product of it with another axis."""
    if layout.axis is None:
        return tensor
    if layout.whole:
        return tf.expand_dims(tensor, 0)
    axis = layout.axis
    if layout.split:
        shape = tf.shape(tensor)
        tensor = tf.reshape(tensor, tf.concat([shape[:axis], [samples, -1], shape[axis + 1 :]], 0))
    if axis:
        others = [other for other in range(len(layout.dims)) if other != axis]
        tensor = tf.transpose(tensor, [axis, *others])
    return tensor
