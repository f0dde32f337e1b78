"""What of a TFLite model is called: one signature, or the first subgraph; and what that takes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from extractkit.errors import ModelError, choices
from extractkit.inputs.protocol import InputSpec, Quantized, Signature
from extractkit.models.graphs.signature import input_spec, tied
from extractkit.models.litert.graph import Graph, GraphTensor, Subgraph
from extractkit.tensors import TEXT, escape
from extractkit.values import Array

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
"""Our name of each TFLite type whose values can be stored."""

_DEFAULT = "serving_default"
_WRAPPER = "StatefulPartitionedCall/"


@dataclass(frozen=True)
class Entry:
    """One way into a model.

    Attributes:
        signature: its name; None for a file without signatures.
        subgraph: what it runs.
        inputs, outputs: numbers of the subgraph's tensors by name, in order.
    """

    signature: str | None
    subgraph: Subgraph
    inputs: dict[str, int]
    outputs: dict[str, int]

    def input_tensors(self) -> dict[str, GraphTensor]:
        """The tensors that a call is given, by name."""
        return {name: self.subgraph.tensors[index] for name, index in self.inputs.items()}


@dataclass(frozen=True)
class Reading:
    """How the sizes of inputs that a file leaves open are understood.

    Attributes:
        tied: whether axes of several inputs at one place share a length.
        leading: whether an open first axis is a free axis of the sample and not the sample axis.
    """

    tied: bool = False
    leading: bool = False


READINGS = (Reading(), Reading(tied=True), Reading(leading=True), Reading(tied=True, leading=True))
"""In the order in which they are tried."""


def entry_of(graph: Graph, signature: str | None) -> Entry:
    """The signature of that name, or one way in where nobody chose.

    That is `serving_default`, else the first signature, else the first subgraph.

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
        entry = Entry(chosen.key, subgraph, dict(chosen.inputs), dict(chosen.outputs))
    else:
        subgraph = graph.subgraphs[0]
        names = tensor_paths(subgraph)
        entry = Entry(
            None,
            subgraph,
            {_input_name(*names[index]): index for index in subgraph.inputs},
            {":".join(names[index]): index for index in subgraph.outputs},
        )
    for name, tensor in entry.input_tensors().items():
        if tensor.type not in DTYPES:
            raise ModelError(
                f"input {name!r} of the file is {tensor.type}; model=tflite takes numbers and "
                f"strings"
            )
    return entry


def _input_name(path: str, port: str) -> str:
    return path if port == "0" else f"{path}:{port}"


def tensor_paths(subgraph: Subgraph) -> list[tuple[str, str]]:
    """Path and port of every tensor: its first name, as TensorFlow writes it (`scope/name:0`).

    A second tensor of a name is `scope/name@2:0`; what operations make comes before constants.
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
    """What a call takes for one sample; calls are made sample by sample."""
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
    # Every number of a quantised type stands for something.
    limits = np.iinfo(spec.dtype)
    spec = replace(spec, low=int(limits.min), high=int(limits.max) + 1)
    scales, zero_points = tensor.quantization.scales, tensor.quantization.zero_points
    if len(scales) != 1:
        return spec
    return replace(spec, quantized=Quantized(float(scales[0]), int(zero_points[0])))


def call_arrays(
    entry: Entry, signature: Signature, features: Mapping[str, Array]
) -> dict[int, Array]:
    """One sample's arrays as the subgraph takes them, by the numbers of its tensors."""
    return {
        entry.inputs[spec.name]: features[spec.name]
        if spec.sample_axis is None
        else features[spec.name][np.newaxis]
        for spec in signature.specs
    }
