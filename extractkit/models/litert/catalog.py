"""Which tensors a TFLite model offers, their addresses, and where their values come from."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from extractkit.inputs.protocol import Signature
from extractkit.models.axes import infer_dims
from extractkit.models.litert.entry import DTYPES, Entry, tensor_paths
from extractkit.models.litert.flow import Flow
from extractkit.models.litert.graph import RESOURCES, Graph, GraphTensor, Quantization, Subgraph
from extractkit.models.litert.probe import Probed
from extractkit.tensors import BY_VALUES, SAMPLE, UNKNOWN, Kind, TensorRecord, escape, join

DEQUANTIZED = "dequantized"

_IMPURE = "a random operation comes before it: the sample alone does not decide its value"
_UNWRITTEN = "XNNPACK leaves it out of its computation; model.xnnpack=false has it computed"
_NEVER_MADE = "no operation computes it"

Dims = tuple[str | None, ...]


@dataclass(frozen=True)
class Found:
    """One tensor of the catalog.

    Attributes:
        record: as the catalog lists it.
        index, subgraph: its number, and that of its subgraph.
        stored: whether the file itself holds the value.
        bare: whether the value's first axis, of size 1, is the sample axis.
        quantization: by which the value is to be made real; None for the value as it is.
    """

    record: TensorRecord
    index: int
    subgraph: int
    stored: bool
    bare: bool = False
    quantization: Quantization | None = None


def find_tensors(graph: Graph, flow: Flow, signature: Signature, probed: Probed) -> list[Found]:
    """Every tensor of the called subgraph, then those of the bodies of its loops and branches."""
    entry = flow.entry
    found = [*_Called(flow, signature, probed).tensors()]
    called = {entry.subgraph.index, *(one.subgraph for one in graph.signatures)}
    scopes = {one.record.address.partition("/")[0] for one in found}
    for subgraph in graph.subgraphs:
        if subgraph.index not in called:
            base = body = escape(subgraph.name)
            count = 1
            while body in scopes:
                count += 1
                body = f"{base}@{count}"
            scopes.add(body)
            found += _inner(subgraph, body)
    return found


class _Called:
    """The subgraph that is called."""

    def __init__(self, flow: Flow, signature: Signature, probed: Probed) -> None:
        self._flow = flow
        self._entry: Entry = flow.entry
        self._subgraph = flow.subgraph
        self._specs = {spec.name: spec for spec in signature.specs}
        self._probed = probed
        operations = self._subgraph.operations
        self._made_by = {index: operations[number].type for index, number in flow.made_by.items()}
        states = {tensor.index for tensor in self._subgraph.tensors if tensor.variable}
        self._kept_by = {
            index: one.type for one in operations for index in one.inputs if index in states
        }

    def tensors(self) -> Iterator[Found]:
        """The signature's inputs, every tensor by its own name, the signature's outputs."""
        paths = tensor_paths(self._subgraph)
        named = self._entry.signature is not None
        if named:
            for name, index in self._entry.inputs.items():
                yield from self._found(index, "", f"input.{escape(name)}", Kind.MODEL_INPUT)
        for tensor, (path, port) in zip(self._subgraph.tensors, paths, strict=True):
            kind = self._kind(tensor.index)
            # A signature's inputs have been listed; no operation makes them a second time.
            if not (named and kind is Kind.MODEL_INPUT):
                yield from self._found(tensor.index, path, port, kind)
        if named:
            for name, index in self._entry.outputs.items():
                yield from self._found(index, "", f"output.{escape(name)}", Kind.MODEL_OUTPUT)

    def _kind(self, index: int) -> Kind:
        if index in self._entry.inputs.values():
            return Kind.MODEL_INPUT
        if self._subgraph.tensors[index].constant:
            return Kind.WEIGHT
        if self._entry.signature is None and index in self._subgraph.outputs:
            return Kind.MODEL_OUTPUT
        return Kind.OP

    def _found(self, index: int, path: str, port: str, kind: Kind) -> Iterator[Found]:
        tensor = self._subgraph.tensors[index]
        if tensor.type in RESOURCES:
            return
        depends = index in self._flow.dependent
        dims, shape, bare = self._axes(tensor, depends)
        record = TensorRecord(
            address=join(path, port),
            kind=kind,
            dtype=_dtype(tensor),
            shape=shape,
            dims=dims,
            name=tensor.name if path else join(path, port),
            op_type=None if kind is Kind.MODEL_INPUT else self._made_or_kept_by(index),
            depends_on_inputs=depends,
            reason=self._why_not(tensor, depends),
        )
        yield from _twins(Found(record, index, self._subgraph.index, tensor.constant, bare), tensor)

    def _made_or_kept_by(self, index: int) -> str | None:
        return self._made_by.get(index) or self._kept_by.get(index)

    def _axes(
        self, tensor: GraphTensor, depends: bool
    ) -> tuple[Dims | None, tuple[int | None, ...] | None, bool]:
        """Dims and shape as recorded, and whether the value has the sample axis itself."""
        for name, index in self._entry.inputs.items():
            if index == tensor.index:
                spec = self._specs[name]
                bare = spec.sample_axis is not None
                return (SAMPLE, *spec.dims), (None, *spec.shape), bare
        if self._flow.why_blocked(tensor.index) is not None:
            return (*_declared(tensor, depends), False)
        trials = [shapes[tensor.index] for shapes in self._probed.shapes]
        if not depends:
            known = trials[0]
            return (None, None, False) if known is None else ((None,) * len(known), known, False)
        dims = infer_dims(self._probed.sizes, trials)
        base, other = trials[0], self._probed.other_shapes[tensor.index]
        if dims is None or base is None or other is None or len(base) != len(other):
            return None, None, False
        dims = tuple(
            dim if one == another else BY_VALUES
            for dim, one, another in zip(dims, base, other, strict=True)
        )
        shape = tuple(size if dim is None else None for dim, size in zip(dims, base, strict=True))
        bare = shape[:1] == (1,)
        rest = slice(1 if bare else 0, None)
        return (SAMPLE, *dims[rest]), (None, *shape[rest]), bare

    def _why_not(self, tensor: GraphTensor, depends: bool) -> str | None:
        index = tensor.index
        if (reason := _without_counterpart(tensor)) is not None:
            return reason
        given = tensor.constant or tensor.variable or index in self._entry.inputs.values()
        if not given and index not in self._made_by:
            return _NEVER_MADE
        if index in self._flow.impure:
            return _IMPURE
        if (reason := self._flow.why_blocked(index)) is not None:
            return reason
        if depends and index in self._probed.unwritten:
            return _UNWRITTEN
        return None


def _declared(
    tensor: GraphTensor, depends: bool
) -> tuple[Dims | None, tuple[int | None, ...] | None]:
    """Dims and shape that the file states of a tensor that cannot be computed."""
    if not tensor.shape:  # a scalar, or the file does not say
        return None, None
    if not depends:
        return tuple(UNKNOWN if size is None else None for size in tensor.shape), tensor.shape
    own = tensor.shape[1:] if tensor.shape[0] in (1, None) else tensor.shape
    return (SAMPLE, *(UNKNOWN if size is None else None for size in own)), (None, *own)


def _inner(subgraph: Subgraph, body: str) -> Iterator[Found]:
    """The tensors of a loop's or branch's own body: its constants have values."""
    made_by = {index: one.type for one in subgraph.operations for index in one.outputs}
    for tensor, (path, port) in zip(subgraph.tensors, tensor_paths(subgraph), strict=True):
        if tensor.type in RESOURCES:
            continue
        reason = _without_counterpart(tensor)
        if reason is None and not tensor.constant:
            reason = f"it is made inside a loop or branch ({body}), once, often or never"
        known = tensor.shape if tensor.constant else None
        record = TensorRecord(
            address=join(f"{body}/{path}", port),
            kind=Kind.WEIGHT if tensor.constant else Kind.OP,
            dtype=_dtype(tensor),
            shape=known,
            dims=None if known is None else (None,) * len(known),
            name=f"{subgraph.name}/{tensor.name}",
            op_type=made_by.get(tensor.index),
            depends_on_inputs=not tensor.constant,
            reason=reason,
        )
        yield from _twins(Found(record, tensor.index, subgraph.index, tensor.constant), tensor)


def _dtype(tensor: GraphTensor) -> str:
    return DTYPES.get(tensor.type, tensor.type.lower())


def _without_counterpart(tensor: GraphTensor) -> str | None:
    if tensor.type in DTYPES:
        return None
    return f"LiteRT's type {tensor.type} is not among those that can be stored"


def _twins(raw: Found, tensor: GraphTensor) -> Iterator[Found]:
    """The tensor as it is, and where it is quantised also as the real numbers that are meant."""
    yield raw
    if tensor.quantization is None or not raw.record.dtype.startswith(("int", "uint")):
        return
    path, port = raw.record.layer, raw.record.port
    port = DEQUANTIZED if port == "0" else f"{port}.{DEQUANTIZED}"
    record = replace(
        raw.record,
        address=join(path, port),
        name=join(raw.record.name, DEQUANTIZED),
        dtype="float32",
    )
    yield replace(raw, record=record, quantization=tensor.quantization)
