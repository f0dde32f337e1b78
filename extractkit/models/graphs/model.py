"""The base of all models that are one TensorFlow graph, and the digest of such a graph.

Names do not enter the digest, since they depend on what was built before. A node is identified by
its operation, attributes, device if any, and the positions of its inputs in the order of nodes; a
function by its body, and by whether XLA has to compile it.
"""

import hashlib
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any, Self

import tensorflow as tf

from extractkit.core import digests
from extractkit.core.catalog import VARIABLES, Catalog, Kind, TensorRecord
from extractkit.core.values import Array
from extractkit.inputs import Sample, Signature
from extractkit.models import CheckpointAxis, Encoded, Fetch, encode_arrays
from extractkit.models.graphs.rebuilding import SourceGraph
from extractkit.models.graphs.records import (
    Found,
    Records,
    complete,
    free_axes_are_independent,
    scales_of,
    takes,
)
from extractkit.models.graphs.signature import tied
from extractkit.models.graphs.transforming import transformed
from extractkit.models.process import configure

_PYTHON = re.compile(r"^(Stateless|Eager)?PyFunc")
# Attributes that only group nodes.
_SHARED = ("shared_name", "frame_name", "tensor_array_name", "stack_name")
_NAMES = ("container", "debug_name")
# The only internal attribute of TensorFlow that changes the computation.
_XLA = "_XlaMustCompile"


def graph_digest(graph_def: Any, contents: Mapping[str, str]) -> str | None:
    """Return the SHA-256 over every node, in order.

    Args:
        graph_def: The graph, and the functions in its library that it runs.
        contents: Texts that replace the attributes of nodes, by name, for nodes whose attributes do
            not describe their content or must not count.

    Returns:
        The digest in hexadecimal. None if the graph calls Python code, which it does not contain.
    """
    library = {function.signature.name: function for function in graph_def.library.function}
    for nodes in (graph_def.node, *(function.node_def for function in library.values())):
        if any(_PYTHON.search(node.op) for node in nodes):
            return None
    return _Digests(library).body(graph_def.node, contents=contents).hex()


class _Digests:
    """Digests of functions, each computed once.

    Args:
        library: Definitions of functions by name.
    """

    def __init__(self, library: Mapping[str, Any]) -> None:
        self._library = library
        self._made: dict[str, bytes] = {}

    def body(
        self,
        nodes: Sequence[Any],
        arguments: Sequence[str] = (),
        results: Sequence[str] = (),
        contents: Mapping[str, str] | None = None,
    ) -> bytes:
        """Return the digest of nodes in order.

        Args:
            arguments: Names that the nodes' inputs may refer to, besides the nodes themselves.
            results: The edges of the results.
            contents: See `graph_digest`.
        """
        names = [*arguments, *(node.name for node in nodes)]
        places = {name: place for place, name in enumerate(names)}
        shared: dict[bytes, int] = {}
        digests = [
            self._node(node, places, shared, (contents or {}).get(node.name)) for node in nodes
        ]
        return _digest([str(len(arguments)), *digests, *(_edge(one, places) for one in results)])

    def _node(
        self, node: Any, places: Mapping[str, int], shared: dict[bytes, int], content: str | None
    ) -> bytes:
        data = [_edge(one, places) for one in node.input if not one.startswith("^")]
        # Control inputs are a set.
        control = sorted(_edge(one, places) for one in node.input if one.startswith("^"))
        operation = self._function(node.op) if node.op in self._library else node.op
        parts = [content] if content is not None else self._attributes(node.attr, shared)
        placed = ["device", _device(node.device)] if node.device else []
        parts += [*placed, *_compilation(node.attr)]
        return _digest([operation, "inputs", *data, *control, "attributes", *parts])

    def _attributes(
        self, attributes: Mapping[str, Any], shared: dict[bytes, int]
    ) -> list[str | bytes]:
        parts: list[str | bytes] = []
        for key in sorted(attributes):
            value = attributes[key]
            if key.startswith("_") or key in _NAMES:
                continue
            if key in _SHARED:
                parts += [key, str(shared.setdefault(value.s, len(shared))) if value.s else ""]
            else:
                parts += [key, self._attribute(value)]
        return parts

    def _attribute(self, value: Any) -> bytes:
        kind = value.WhichOneof("value")
        if kind == "func":
            return self._called(value.func)
        if kind == "tensor":
            return _tensor(value.tensor)
        if kind == "list" and (value.list.func or value.list.tensor):
            return _digest([*map(self._called, value.list.func), *map(_tensor, value.list.tensor)])
        return bytes(value.SerializeToString(deterministic=True))

    def _called(self, function: Any) -> bytes:
        parts = self._attributes(function.attr, {})
        return _digest([self._function(function.name), *parts, *_compilation(function.attr)])

    def _function(self, name: str) -> bytes:
        if name not in self._library:
            return name.encode()
        if name not in self._made:
            # A placeholder while it is computed, for recursive functions.
            self._made[name] = b"recursion"
            function = self._library[name]
            body = self.body(
                function.node_def,
                [argument.name for argument in function.signature.input_arg],
                [
                    *(function.ret[one.name] for one in function.signature.output_arg),
                    *(f"^{one}" for one in sorted(function.control_ret.values())),
                ],
            )
            compiled = _compilation(function.attr)
            self._made[name] = _digest([body, *compiled]) if compiled else body
        return self._made[name]


def _edge(text: str, places: Mapping[str, int]) -> str:
    """Return an edge by position: `name`, `name:1`, `^name`, or in a function `name:output:0`."""
    control = "^" if text.startswith("^") else ""
    name, _, output = text.lstrip("^").partition(":")
    return f"{control}{places[name]}:{output or '0'}"


def _compilation(attributes: Mapping[str, Any]) -> list[str]:
    # Looking up a missing key would add it.
    return [_XLA] if _XLA in attributes and attributes[_XLA].b else []


def _device(name: str) -> str:
    """Return the type and number of a device, without its process."""
    try:
        device = tf.DeviceSpec.from_string(name)
    except ValueError:  # TensorFlow refuses it if it is used
        return name
    return f"{device.device_type}:{device.device_index}"


def _tensor(tensor: Any) -> bytes:
    """Return the digest of a tensor's content, which has several encodings."""
    try:
        array = tf.make_ndarray(tensor)
    except (TypeError, ValueError):  # NumPy does not have the type
        return bytes(tensor.SerializeToString(deterministic=True))
    sha = hashlib.sha256()
    digests.update(sha, "", tf.as_dtype(tensor.dtype).name, array)
    return sha.digest()


def _digest(parts: Iterable[str | bytes]) -> bytes:
    sha = hashlib.sha256()
    for part in parts:
        encoded = part if isinstance(part, bytes) else part.encode("utf-8", "surrogateescape")
        sha.update(len(encoded).to_bytes(8, "little") + encoded)
    return sha.digest()


Encoder = Callable[[Sequence[Sample]], Sequence[Encoded]]


@dataclass(frozen=True, eq=False)
class GraphModel:
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
    encoder: Encoder | None = field(default=None, kw_only=True)
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
        return Catalog(self._records.records, self.name)

    def configure(self, seed: int, deterministic: bool, device: str | None) -> Mapping[str, object]:
        """Seed Python, NumPy and TensorFlow; see `tensorflow_process.configure`."""
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
            digests.update(sha, record.address, record.dtype, self.read(value))
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
        places = {node.name: place for place, node in enumerate(graph_def.node)}
        signature = asdict(replace(self.signature, model=""))
        del signature["optional"]  # it does not affect the given inputs
        del signature["takes_pictures"]  # covered by `preprocessing`
        for spec in signature["specs"]:
            if spec["composite"] is None:
                del spec["composite"], spec["parts"]
        identity = {
            "graph": graph,
            "addresses": [
                [one.record.address, places[one.value.op.name], one.value.value_index]
                for one in self.found
                if one.in_graph and one.value.graph is self.graph.graph
            ],
            "signature": signature,
            "preprocessing": self.preprocessing,
        }
        return digests.of_plain_data(identity)

    def describe(self) -> Mapping[str, object]:
        """Return the number of parameters, the preprocessing, and the origin."""
        weights = [record for record in self.catalog.records if record.kind is Kind.WEIGHT]
        parameters = sum(prod(size or 0 for size in record.shape or ()) for record in weights)
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

    def takes(self, addresses: Sequence[str], sizes: Mapping[str, int]) -> bool:
        """Return False if tensors cannot be computed at these sizes, by the graph's static shapes.

        True is not a guarantee: some shapes are known only when the graph runs.
        """
        names = [self._values[address].name for address in addresses]
        return takes(self.graph, names, self.signature, sizes)

    def _weights(self) -> Iterator[tuple[TensorRecord, Any]]:
        """Yield every weight with a value, slots included, with its variable or tensor."""
        for record in self.catalog.records:
            if record.kind in VARIABLES and record.extractable:
                yield record, self._values[record.address]

    @staticmethod
    def _weight_content(record: TensorRecord) -> str:
        return f"weight {record.address} {record.dtype} {record.shape}"

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
        if fetch.address in self._records.whole:
            tensor = tf.expand_dims(tensor, 0)
        if tensor.shape.rank is None and fetch.layout is not None:
            # The graph does not determine it, but a run did.
            rank = len(fetch.layout.dims) - (fetch.layout.split or fetch.layout.whole)
            tensor = tf.ensure_shape(tensor, [None] * rank)
        return transformed(tensor, fetch, samples, lengths)

    @cached_property
    def _records(self) -> Records:
        return complete(self.graph, self.found, self.signature, self.inert, self.impure_advice)

    @cached_property
    def _values(self) -> dict[str, Any]:
        return {one.record.address: one.value for one in self.found}
