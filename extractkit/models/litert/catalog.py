"""The catalog of a TFLite model, and its stored weights as dense and real numbers."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from extractkit.core.catalog import Kind, TensorRecord, address_of, escape
from extractkit.core.spec import SAMPLES, TEXT, Dim, TensorSpec, numpy_dtype
from extractkit.core.values import Array
from extractkit.inputs import Signature
from extractkit.models.axes import (
    NAMING,
    Dims,
    Names,
    Operation,
    infer_dims,
    of_sizes,
    propagated,
    with_names,
)
from extractkit.models.litert import Content
from extractkit.models.litert.entry import DTYPES, Entry, Flow, Probed, tensor_paths
from extractkit.models.litert.graph import RESOURCES, Graph, GraphTensor, Quantization, Subgraph


def dequantized(values: Array, quantization: Quantization) -> Array:
    """Return (q - zero point) · scale as float32, in the shape of `values`."""
    scales, zero_points = quantization.scales, quantization.zero_points
    if len(scales) > 1:
        along = [1] * values.ndim
        along[quantization.axis] = -1
        scales, zero_points = scales.reshape(along), zero_points.reshape(along)
    real = (values.astype(np.int64) - zero_points).astype(np.float32) * scales
    return np.asarray(real, np.float32).reshape(values.shape)


_DENSE = 0
_Numbers = npt.NDArray[np.int64]


def densify(values: Array, shape: Sequence[int], sparsity: Mapping[str, Any]) -> Array:
    """Return the dense array for the stored `values` of a sparse one.

    A level of storage is an axis, or the inside of a block of one. Each is dense, or lists the
    stored positions, as in rows of a CSR matrix (sparse tensors in TFLite's schema).

    Args:
        values: (n,), in the order of storage.
        shape: the shape of the dense array.
        sparsity: LiteRT's description: `traversal_order`, `dim_metadata`, `block_map` if in blocks.

    Raises:
        ValueError: the parts do not fit each other.
    """
    levels = [int(level) for level in sparsity["traversal_order"]]
    blocked = [int(axis) for axis in sparsity.get("block_map", ())]
    positions = np.zeros(1, np.int64)  # the position of each stored entry in the level
    coordinates: dict[int, _Numbers] = {}
    sizes: dict[int, int] = {}
    for level, storage in zip(levels, sparsity["dim_metadata"], strict=True):
        parents, positions, here = _expanded(positions, storage)
        coordinates = {other: column[parents] for other, column in coordinates.items()}
        coordinates[level] = here
        sizes[level] = int(storage.get("dense_size", 0))
    for block, axis in enumerate(blocked, start=len(shape)):
        coordinates[axis] = coordinates[axis] * sizes[block] + coordinates[block]
    flat = np.ravel_multi_index([coordinates[axis] for axis in range(len(shape))], tuple(shape))
    dense = np.zeros(shape, values.dtype)
    dense.reshape(-1)[flat] = values.reshape(-1)[positions]
    return dense


def _expanded(
    positions: _Numbers, storage: Mapping[str, Any]
) -> tuple[_Numbers, _Numbers, _Numbers]:
    """Return parent entry, position and coordinate of the entries of one level."""
    if storage["format"] == _DENSE:
        size = int(storage["dense_size"])
        parents = np.repeat(np.arange(len(positions)), size)
        here = np.tile(np.arange(size), len(positions))
        return parents, positions[parents] * size + here, here
    segments = np.asarray(storage["array_segments"], np.int64)
    begins, counts = segments[positions], np.diff(segments)[positions]
    parents = np.repeat(np.arange(len(positions)), counts)
    within = np.arange(len(parents)) - np.repeat(np.cumsum(counts) - counts, counts)
    found = begins[parents] + within
    return parents, found, np.asarray(storage["array_indices"], np.int64)[found]


def stored_value(content: Content, tensor: GraphTensor) -> Array:
    """Copy the value of a constant, dense if the file stores it sparse.

    Args:
        content: The content of the tensor's file.

    Raises:
        ValueError: The bytes in the file do not fill the shape.
    """
    assert tensor.span is not None
    offset, length = tensor.span
    dtype = numpy_dtype(DTYPES[tensor.type])
    shape = tuple(size or 0 for size in tensor.shape)
    if DTYPES[tensor.type] == TEXT:
        strings = _strings(bytes(content[offset : offset + length]), tensor.name)
        return _filled(strings, shape, "strings", tensor.name)
    if length % dtype.itemsize:
        raise ValueError(f"{length} bytes of tensor {tensor.name!r} are not {dtype.name} numbers")
    values = np.frombuffer(content, dtype, length // dtype.itemsize, offset).copy()
    if tensor.sparsity is not None:
        return densify(values, shape, tensor.sparsity)
    return _filled(values, shape, "numbers", tensor.name)


def _filled(values: Array, shape: tuple[int, ...], what: str, name: str) -> Array:
    if math.prod(shape) != len(values):
        raise ValueError(f"{len(values)} {what} of tensor {name!r} do not fill {shape}")
    return values.reshape(shape)


def _strings(content: bytes, name: str) -> Array:
    """Return strings as bytes objects, from their number, their offsets and their contents."""
    count = int.from_bytes(content[:4], "little")
    head = 4 * (count + 2)
    if head > len(content):
        raise ValueError(f"{len(content)} bytes of tensor {name!r} are too few for {count} strings")
    offsets = np.frombuffer(content, "<i4", count + 1, 4).tolist()
    if offsets != sorted(offsets) or offsets[0] < head or offsets[-1] > len(content):
        raise ValueError(f"strings of tensor {name!r} lie outside of it")
    strings = np.empty(count, object)
    strings[:] = [content[begin:end] for begin, end in pairwise(offsets)]
    return strings


DEQUANTIZED = "dequantized"

_IMPURE = "a random operation comes before it: the sample alone does not decide its value"
_UNWRITTEN = "XNNPACK leaves it out of its computation; model.xnnpack=false has it computed"
_NEVER_MADE = "no operation computes it"
_NOT_KEPT = "LiteRT keeps no value of it"


@dataclass(frozen=True)
class Found:
    """One tensor of the catalog.

    Attributes:
        record: its record in the catalog.
        index, subgraph: the number of the tensor, and of its subgraph.
        stored: whether the file itself holds the value.
        bare: whether the value's first axis, of size 1, is the sample axis.
        quantization: the parameters to dequantise the value; None for the raw value.
    """

    record: TensorRecord
    index: int
    subgraph: int
    stored: bool
    bare: bool = False
    quantization: Quantization | None = None


def find_tensors(graph: Graph, flow: Flow, signature: Signature, probed: Probed) -> list[Found]:
    """Return the tensors of the called subgraph, then those of its loops and branches."""
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


def consumed_by(graph: Graph, found: Sequence[Found]) -> list[tuple[int, ...]]:
    """Return, for each tensor, the positions of those that its operation consumes; see `Edges`.

    Dequantised values are listed with the tensors that they are made from.
    """
    listed: dict[tuple[int, int], list[int]] = {}
    for position, one in enumerate(found):
        listed.setdefault((one.subgraph, one.index), []).append(position)
    taken = {
        (subgraph.index, made): tuple(
            position
            for index in dict.fromkeys(operation.inputs)
            for position in listed.get((subgraph.index, index), ())
        )
        for subgraph in graph.subgraphs
        for operation in subgraph.operations
        for made in operation.outputs
    }
    return [taken.get((one.subgraph, one.index), ()) for one in found]


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

    @cached_property
    def _names(self) -> Mapping[int, Names]:
        """Names of axes, by the number of the tensor."""
        tensors = self._subgraph.tensors
        ranks = {tensor.index: len(tensor.shape) or None for tensor in tensors}
        operations = (
            Operation(
                one.type,
                [(index, ranks[index]) for index in one.inputs if index in ranks],
                (one.outputs[0], ranks[one.outputs[0]]),
            )
            for one in self._subgraph.operations
            if one.type in NAMING and one.outputs
        )
        return propagated(operations, {})

    def tensors(self) -> Iterator[Found]:
        """Yield the signature's inputs, every tensor by its own name, the signature's outputs."""
        paths = tensor_paths(self._subgraph)
        named = self._entry.signature is not None
        if named:
            for name, index in self._entry.inputs.items():
                yield from self._found(index, "", f"input.{escape(name)}", Kind.MODEL_INPUT)
        for tensor, (path, port) in zip(self._subgraph.tensors, paths, strict=True):
            kind = self._kind(tensor.index)
            # Inputs of the signature are listed already.
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
        dims, bare = self._dims(tensor, depends)
        record = TensorRecord(
            address=address_of(path, port),
            kind=kind,
            spec=TensorSpec(_dtype(tensor), dims),
            name=tensor.name if path else address_of(path, port),
            op_type=None if kind is Kind.MODEL_INPUT else self._made_or_kept_by(index),
            depends_on_inputs=depends,
            reason=self._why_not(tensor, depends),
        )
        yield from _with_dequantized(
            Found(record, index, self._subgraph.index, tensor.constant, bare), tensor
        )

    def _made_or_kept_by(self, index: int) -> str | None:
        return self._made_by.get(index) or self._kept_by.get(index)

    def _dims(self, tensor: GraphTensor, depends: bool) -> tuple[Dims, bool]:
        """Return the recorded dims, and whether the value itself has an axis of samples."""
        for name, index in self._entry.inputs.items():
            if index == tensor.index:
                spec = self._specs[name]
                bare = spec.sample_axis is not None
                return (SAMPLES, *map(Dim.parse, spec.dims, spec.shape)), bare
        if self._flow.blocked_reason(tensor.index) is not None:
            return _declared(tensor, depends), False
        trials = [shapes[tensor.index] for shapes in self._probed.shapes]
        if not depends:
            return of_sizes(trials[0]), False
        dims = infer_dims(self._probed.sizes, trials)
        base, other = trials[0], self._probed.other_shapes[tensor.index]
        if dims is None or base is None or other is None or len(base) != len(other):
            return None, False
        dims = tuple(
            dim if one == another else Dim.computed_from()
            for dim, one, another in zip(dims, base, other, strict=True)
        )
        dims = with_names(dims, self._names.get(tensor.index)) or ()
        bare = bool(dims) and dims[0].size == 1
        return (SAMPLES, *dims[1 if bare else 0 :]), bare

    def _why_not(self, tensor: GraphTensor, depends: bool) -> str | None:
        index = tensor.index
        if (reason := _without_counterpart(tensor)) is not None:
            return reason
        given = tensor.constant or tensor.variable or index in self._entry.inputs.values()
        if not given and index not in self._made_by:
            return _NEVER_MADE
        if index in self._flow.impure:
            return _IMPURE
        if (reason := self._flow.blocked_reason(index)) is not None:
            return reason
        if depends and index in self._probed.unwritten:
            return _UNWRITTEN
        if depends and all(shapes[index] is None for shapes in self._probed.shapes):
            return _NOT_KEPT
        return None


def _declared(tensor: GraphTensor, depends: bool) -> Dims:
    """Return the dims that the file states for a tensor that cannot be computed."""
    if not tensor.shape:  # a scalar, or not stated in the file
        return None
    dims = of_sizes(tensor.shape) or ()
    if not depends:
        return dims
    return (SAMPLES, *(dims[1:] if tensor.shape[0] in (1, None) else dims))


def _inner(subgraph: Subgraph, body: str) -> Iterator[Found]:
    """Yield the tensors of a loop's or branch's own body: its constants have values."""
    made_by = {index: one.type for one in subgraph.operations for index in one.outputs}
    for tensor, (path, port) in zip(subgraph.tensors, tensor_paths(subgraph), strict=True):
        if tensor.type in RESOURCES:
            continue
        reason = _without_counterpart(tensor)
        if reason is None and not tensor.constant:
            reason = f"it is made inside a loop or branch ({body}), once, often or never"
        known = tensor.shape if tensor.constant else None
        record = TensorRecord(
            address=address_of(f"{body}/{path}", port),
            kind=Kind.WEIGHT if tensor.constant else Kind.OP,
            spec=TensorSpec.fixed(_dtype(tensor), known),
            name=f"{subgraph.name}/{tensor.name}",
            op_type=made_by.get(tensor.index),
            depends_on_inputs=not tensor.constant,
            reason=reason,
        )
        yield from _with_dequantized(
            Found(record, tensor.index, subgraph.index, tensor.constant), tensor
        )


def _dtype(tensor: GraphTensor) -> str:
    return DTYPES.get(tensor.type, tensor.type.lower())


def _without_counterpart(tensor: GraphTensor) -> str | None:
    if tensor.type in DTYPES:
        return None
    return f"LiteRT's type {tensor.type} is not among those that can be stored"


def _with_dequantized(raw: Found, tensor: GraphTensor) -> Iterator[Found]:
    """Yield the tensor, and the dequantised values of a quantised one."""
    yield raw
    if tensor.quantization is None or not raw.record.spec.dtype.startswith(("int", "uint")):
        return
    path, port = raw.record.layer, raw.record.port
    port = DEQUANTIZED if port == "0" else f"{port}.{DEQUANTIZED}"
    record = replace(
        raw.record,
        address=address_of(path, port),
        name=address_of(raw.record.name, DEQUANTIZED),
        spec=replace(raw.record.spec, dtype="float32"),
    )
    yield replace(raw, record=record, quantization=tensor.quantization)
