"""The called signature of a TFLite model, and the dependencies of its tensors."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from extractkit.core.catalog import escape
from extractkit.core.spec import TEXT
from extractkit.core.values import Array
from extractkit.errors import ModelError, choices
from extractkit.inputs import InputSpec, Quantized, Signature
from extractkit.models.axes import RawShape, Sizes
from extractkit.models.litert import TFLiteFile
from extractkit.models.litert.graph import (
    READ,
    RESOURCES,
    Graph,
    GraphTensor,
    Operation,
    Runnable,
    Subgraph,
    called_subgraphs,
    cut,
)
from extractkit.models.signature import input_spec, tied

DTYPES = {
    "FLOAT16": "float16",
    "FLOAT32": "float32",
    "FLOAT64": "float64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "BOOL": "bool",
    "COMPLEX64": "complex64",
    "COMPLEX128": "complex128",
    "STRING": TEXT,
}
"""NumPy's name for each TFLite type whose values can be stored."""

_DEFAULT = "serving_default"
_WRAPPER = "StatefulPartitionedCall/"
_RANDOM = re.compile("RANDOM|MULTINOMIAL|RNG_BIT")


@dataclass(frozen=True)
class Entry:
    """A callable entry point of a model.

    Attributes:
        signature: the signature's name; None for a file without signatures.
        subgraph: the subgraph that it runs.
        inputs, outputs: numbers of the subgraph's tensors by name, in order.
        random: numbers of the subgraph's operations that draw random numbers, or run some that do.
    """

    signature: str | None
    subgraph: Subgraph
    inputs: dict[str, int]
    outputs: dict[str, int]
    random: frozenset[int] = frozenset()

    def input_tensors(self) -> dict[str, GraphTensor]:
        """Return the input tensors of a call by name."""
        return {name: self.subgraph.tensors[index] for name, index in self.inputs.items()}


@dataclass(frozen=True)
class Reading:
    """The interpretation of open sizes of inputs.

    Attributes:
        tied: whether axes at the same position of several inputs share a length.
        leading: whether an open first axis is a free axis of a sample, not the sample axis.
    """

    tied: bool = False
    leading: bool = False


READINGS = (Reading(), Reading(tied=True), Reading(leading=True), Reading(tied=True, leading=True))
"""The readings in the order in which they are tried."""


def entry_of(graph: Graph, signature: str | None) -> Entry:
    """Return the signature of this name, or the default entry point.

    The default is `serving_default`, else the first signature, else the first subgraph.

    Raises:
        ModelError: there is no such signature, or it takes neither numbers nor strings.
    """
    keys = [one.key for one in graph.signatures]
    if signature is not None and signature not in keys:
        raise ModelError(
            f"model.signature={signature!r} is not in the file. {choices(signature, keys)}"
        )
    if keys:
        wanted = signature or (_DEFAULT if _DEFAULT in keys else keys[0])
        chosen = graph.signatures[keys.index(wanted)]
        subgraph = graph.subgraphs[chosen.subgraph]
        inputs, outputs = dict(chosen.inputs), dict(chosen.outputs)
        entry = Entry(chosen.key, subgraph, inputs, outputs, _random(graph, subgraph))
    else:
        subgraph = graph.subgraphs[0]
        names = tensor_paths(subgraph)
        entry = Entry(
            None,
            subgraph,
            {_input_name(*names[index]): index for index in subgraph.inputs},
            {":".join(names[index]): index for index in subgraph.outputs},
            _random(graph, subgraph),
        )
    for name, tensor in entry.input_tensors().items():
        if tensor.type not in DTYPES:
            raise ModelError(
                f"input {name!r} of the file is {tensor.type}; model=tflite takes numbers and "
                f"strings"
            )
    return entry


def _random(graph: Graph, subgraph: Subgraph) -> frozenset[int]:
    """Return the numbers of the operations that draw random numbers, or run some that do."""
    return frozenset(
        number
        for number, operation in enumerate(subgraph.operations)
        if _RANDOM.search(operation.type)
        or any(
            _RANDOM.search(inner.type)
            for called in called_subgraphs(graph, [operation])
            for inner in graph.subgraphs[called].operations
        )
    )


def _input_name(path: str, port: str) -> str:
    return path if port == "0" else f"{path}:{port}"


def tensor_paths(subgraph: Subgraph) -> list[tuple[str, str]]:
    """Return path and port of every tensor: its first name, as in TensorFlow (`scope/name:0`).

    A second tensor with the same name is `scope/name@2:0`. Results of operations are named before
    constants.
    """
    split = [_path_and_port(tensor.name) for tensor in subgraph.tensors]
    short = [path.removeprefix(_WRAPPER) for path, _ in split]
    full = {path for path, _ in split}
    unique: dict[tuple[str, str], int] = {}
    for index in sorted(range(len(split)), key=lambda i: subgraph.tensors[i].constant):
        path, port = split[index]
        stays_unique = short[index] not in full and short.count(short[index]) == 1
        base = short[index] if stays_unique and short[index] else path
        candidate, count = (base, port), 1
        while candidate in unique:
            count += 1
            candidate = (f"{base}@{count}", port)
        unique[candidate] = index
    return sorted(unique, key=unique.__getitem__)


def _path_and_port(name: str) -> tuple[str, str]:
    first = name.partition(";")[0]
    path, _, port = first.rpartition(":")
    if not path or not port.isdecimal() or not port.isascii():
        path, port = first, "0"
    return "/".join(map(escape, path.split("/"))), port


def signature_of(entry: Entry, model: str, reading: Reading) -> Signature:
    """Return the signature of a call on one sample. Calls are made sample by sample."""
    tensors = entry.input_tensors()
    specs = tuple(
        _spec(name, tensor, len(tensors) == 1, reading) for name, tensor in tensors.items()
    )
    specs = tied(specs) if reading.tied and len(specs) > 1 else specs
    signature = Signature(model, specs, batch=1)
    return replace(signature, takes_text=signature.string is not None)


def _spec(name: str, tensor: GraphTensor, alone: bool, reading: Reading) -> InputSpec:
    first = tensor.shape[:1]
    counts_samples = first == (1,) or (first == (None,) and not reading.leading)
    own = tensor.shape[1:] if counts_samples else tensor.shape
    spec = input_spec(name, DTYPES[tensor.type], own, alone)
    spec = replace(spec, sample_axis=0 if counts_samples else None)
    if tensor.quantization is None or not spec.dtype.startswith(("int", "uint")):
        return spec
    # Every number of a quantised type is valid.
    limits = np.iinfo(spec.dtype)
    spec = replace(spec, low=int(limits.min), high=int(limits.max) + 1)
    scales, zero_points = tensor.quantization.scales, tensor.quantization.zero_points
    if len(scales) != 1:
        return spec
    return replace(spec, quantized=Quantized(float(scales[0]), int(zero_points[0])))


def call_arrays(
    entry: Entry, signature: Signature, features: Mapping[str, Array]
) -> dict[int, Array]:
    """Return one sample's arrays in the subgraph's layout, by the numbers of its tensors."""
    return {
        entry.inputs[spec.name]: features[spec.name]
        if spec.sample_axis is None
        else features[spec.name][np.newaxis]
        for spec in signature.specs
    }


@dataclass(frozen=True)
class Flow:
    """The dependencies in a subgraph, and the operations that cannot run.

    Attributes:
        entry: The called entry point.
        lacking: Reasons by the numbers of the operations that cannot be run.
    """

    entry: Entry
    lacking: Mapping[int, str]

    @property
    def subgraph(self) -> Subgraph:
        """The subgraph that is called."""
        return self.entry.subgraph

    @cached_property
    def made_by(self) -> Mapping[int, int]:
        """Numbers of the operations that make tensors, by tensor."""
        operations = enumerate(self.subgraph.operations)
        return {index: number for number, one in operations for index in one.outputs}

    @cached_property
    def dependent(self) -> frozenset[int]:
        """Tensors whose values depend on inputs or states."""
        states = {tensor.index for tensor in self.subgraph.tensors if tensor.variable}
        reads = {i for one in self.subgraph.operations if one.type == READ for i in one.outputs}
        return self._downstream({*self.entry.inputs.values()} | states | reads)

    @cached_property
    def impure(self) -> frozenset[int]:
        """Tensors that depend on random operations, also by way of a state."""
        operations = self.subgraph.operations
        sources = [operations[number] for number in sorted(self.entry.random)]
        random = {index for one in sources for index in one.outputs}
        reached = self._downstream(random)
        of_state = [one for one in operations if self.touches_state(one)]
        if all(one not in sources and reached.isdisjoint(one.inputs) for one in of_state):
            return reached
        tensors = self.subgraph.tensors
        states = {i for one in of_state for i in one.inputs if i != -1 and tensors[i].variable}
        return self._downstream(states | random.union(*(one.outputs for one in of_state)))

    @cached_property
    def blocked(self) -> Mapping[int, int]:
        """For each operation that depends on one that cannot run, the number of that one.

        An operation that cannot run needs itself. After a state that is not written, no later
        operation on a state has the right value.
        """
        found: dict[int, int] = {}
        missing: dict[int, int] = {}
        unwritten: int | None = None
        for number, operation in enumerate(self.subgraph.operations):
            of_state = self.touches_state(operation)
            cause = number if number in self.lacking else None
            if cause is None:
                cause = next((missing[i] for i in operation.inputs if i in missing), None)
            if cause is None and of_state:
                cause = unwritten
            if cause is not None:
                found[number] = cause
                missing.update((index, cause) for index in operation.outputs)
                unwritten = cause if of_state else unwritten
        return found

    def blocked_reason(self, index: int) -> str | None:
        """Return why a tensor cannot be computed, or None if it can."""
        number = self.made_by.get(index)
        cause = None if number is None else self.blocked.get(number)
        return None if cause is None else self.lacking[cause]

    @cached_property
    def runnable(self) -> tuple[int, ...]:
        """Numbers of the operations that can be run, in order."""
        numbers = range(len(self.subgraph.operations))
        return tuple(number for number in numbers if number not in self.blocked)

    def runnable_for_inputs(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the operations that can be run for a call, and its final tensors.

        Tensors that depend on constants alone are excluded unless needed: XNNPACK fails on unused
        dequantised weights.
        """
        operations = [self.subgraph.operations[number] for number in self.runnable]
        taken = {index for one in operations for index in one.inputs}
        ends = [
            index
            for one in operations
            for index in one.outputs
            if index in self.subgraph.outputs or (index not in taken and self._varies(index))
        ]
        effects = {n for n in self.runnable if not self.subgraph.operations[n].outputs}
        needed = {*self.needed_for(ends)}.union(
            effects, *(self.needed_for(self.subgraph.operations[n].inputs) for n in effects)
        )
        return tuple(sorted(needed)), tuple(ends)

    def _varies(self, index: int) -> bool:
        return index in self.dependent or index in self.impure

    @cached_property
    def fixed(self) -> tuple[int, ...]:
        """Tensors that operations compute from constants alone."""
        return tuple(
            index
            for index, number in self.made_by.items()
            if number not in self.blocked
            and not self._varies(index)
            and not self.touches_state(self.subgraph.operations[number])
        )

    def needed_for(self, wanted: Iterable[int]) -> tuple[int, ...]:
        """Return the numbers of the operations that make these tensors, in order."""
        open_tensors, needed = [*wanted], set[int]()
        while open_tensors:
            number = self.made_by.get(open_tensors.pop())
            if number is not None and number not in needed:
                needed.add(number)
                open_tensors += self.subgraph.operations[number].inputs
        return tuple(sorted(needed))

    def touches_state(self, operation: Operation) -> bool:
        """Return whether an operation reads or writes a state."""
        if operation.calls and not operation.outputs:
            return True  # it runs only for its effect on states
        tensors = self.subgraph.tensors
        own = [tensors[i] for i in (*operation.inputs, *operation.outputs) if i != -1]
        return any(tensor.variable or tensor.type in RESOURCES for tensor in own)

    def _downstream(self, sources: set[int]) -> frozenset[int]:
        """Return the sources and everything computed from them; operations are in running order."""
        reached = set(sources)
        for operation in self.subgraph.operations:
            if not reached.isdisjoint(operation.inputs):
                reached.update(operation.outputs)
        return frozenset(reached)

    def model_of_inputs(self, file: TFLiteFile, graph: Graph, cut_off: bool) -> Runnable:
        """Return the whole file, or the file without the operations that LiteRT cannot run."""
        if not cut_off:
            return Runnable(file.model(), self.subgraph)
        kept, ends = self.runnable_for_inputs()
        return cut(file.read(), graph, self.subgraph, kept, self.subgraph.inputs, ends)

    def model_of_constants(self, file: TFLiteFile, graph: Graph, wanted: Sequence[int]) -> Runnable:
        """Return a model of the operations that do not depend on inputs."""
        operations = self.needed_for(wanted)
        return cut(file.read(), graph, self.subgraph, operations, (), wanted)


@dataclass(frozen=True)
class Probed:
    """The result of running a file on synthetic samples.

    Attributes:
        tied, leading: the `Reading` of open sizes with which it runs.
        sizes: sizes of free axes at which it ran: a base, and one enlarged per axis.
        shapes: shapes of every tensor of the called subgraph, at each of `sizes`; None if the
            tensor has no value.
        other_shapes: shapes at the base with different values of the inputs.
        unwritten: numbers of the tensors that XNNPACK does not compute.
        change: largest difference in an output between runs with and without preserved
            intermediates; 0 if bitwise equal.
        cut: Whether only a part of the file can be run.
        lacking: Reasons by the numbers of the called subgraph's operations that cannot be run.
    """

    tied: bool
    leading: bool
    sizes: Sizes
    shapes: tuple[tuple[RawShape, ...], ...]
    other_shapes: tuple[RawShape, ...]
    unwritten: frozenset[int]
    change: float
    cut: bool
    lacking: Mapping[int, str]

    @property
    def reading(self) -> Reading:
        """The interpretation of open sizes."""
        return Reading(self.tied, self.leading)
