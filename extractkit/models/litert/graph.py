"""The content of a `.tflite` file, read without an interpreter, and smaller models cut from it.

The file is a FlatBuffer; LiteRT ships the readers made from its schema. They do not check offsets,
so a damaged file can make them raise any error: `probe` reads it in a child process first.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from extractkit.models.litert import Content
from extractkit.models.litert_internals import vector_start
from extractkit.models.recognition.content import TFLITE

RESOURCES = ("RESOURCE", "VARIANT")
"""Types without a value. Reading such a tensor ends the process."""

VARIABLE_HANDLE, ASSIGN, READ = "VAR_HANDLE", "ASSIGN_VARIABLE", "READ_VARIABLE"
"""Types of the operations on resource variables."""

CALL_ONCE = "CALL_ONCE"
"""The type of the operations that run a subgraph only once, before the first call."""

_CALLING = ("IF", "WHILE", "CALL", CALL_ONCE)
_STABLEHLO = "STABLEHLO_"
# The suffix of options that hold the number of a subgraph.
_CALLED = ("subgraphindex", "subgraph")

_DATA = 4  # offset of the field `data` in the schema's table `Buffer`
_DENSE = 0  # the schema's `DimensionType.DENSE`


@dataclass(frozen=True, eq=False)
class Quantization:
    """The parameters of quantisation: real = (q - zero point) · scale.

    Attributes:
        scales: float32 (n,): one for the tensor, or one for each index along `axis`.
        zero_points: int64 (n,).
        axis: their axis, if there are several.
    """

    scales: npt.NDArray[np.float32]
    zero_points: npt.NDArray[np.int64]
    axis: int


@dataclass(frozen=True, eq=False)
class GraphTensor:
    """One tensor of a subgraph.

    Attributes:
        index: its number in the subgraph.
        name: its name in the file. Names of fused operations are joined by ";".
        type: name of its TFLite type ("FLOAT32").
        shape: the stored shape, with None for sizes that may change.
        variable: whether it is a state that the interpreter keeps from call to call.
        quantization: its parameters; None if the tensor is not quantised.
        span: Offset and number of bytes of its value in the file; None if the file holds none.
        sparsity: How a sparse value is stored, as `sparsity.densify` takes it; None if dense.
    """

    index: int
    name: str
    type: str
    shape: tuple[int | None, ...]
    variable: bool
    quantization: Quantization | None
    span: tuple[int, int] | None = None
    sparsity: Mapping[str, Any] | None = None

    @property
    def constant(self) -> bool:
        """Return whether the file holds its value."""
        return self.span is not None


@dataclass(frozen=True)
class Operation:
    """One operation of a subgraph.

    Attributes:
        type: "CONV_2D", or the name of a custom operation.
        inputs, outputs: The numbers of its tensors; -1 for an omitted input.
        version: The version of a builtin operation.
        calls: Numbers of the subgraphs that it runs, if it is a loop, branch or call.
        variable: Container and name of the resource variable that it is a handle of.
    """

    type: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    version: int = 1
    calls: tuple[int, ...] = ()
    variable: tuple[str, str] | None = None


@dataclass(frozen=True)
class Subgraph:
    """One function of the model, run by a signature, loop or branch."""

    index: int
    name: str
    tensors: tuple[GraphTensor, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    operations: tuple[Operation, ...]


@dataclass(frozen=True)
class GraphSignature:
    """A named signature of one subgraph, with the numbers of its tensors by name."""

    key: str
    subgraph: int
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]


@dataclass(frozen=True)
class Graph:
    """A whole file."""

    description: str
    subgraphs: tuple[Subgraph, ...]
    signatures: tuple[GraphSignature, ...]


def called_subgraphs(graph: Graph, operations: Iterable[Operation]) -> set[int]:
    """Return the numbers of the subgraphs that operations run, at any depth."""
    found: set[int] = set()
    unseen = {number for operation in operations for number in operation.calls}
    while unseen:
        found |= unseen
        inner = [one for number in unseen for one in graph.subgraphs[number].operations]
        unseen = {number for operation in inner for number in operation.calls} - found
    return found


def read_graph(content: Content) -> Graph:
    """Read the structure of a file. Of weights, only the offset is read.

    Raises:
        ValueError: A number in the file is out of range.
        Exception: Any other error of the readers on a damaged file.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(content, 0)
    names = _names(schema.BuiltinOperator)
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    types = [(_operation_type(code, names), int(code.Version())) for code in codes]
    graph = Graph(
        description=_text(model.Description()),
        subgraphs=tuple(
            _subgraph(model, i, types, _names(schema.TensorType), schema)
            for i in range(model.SubgraphsLength())
        ),
        signatures=tuple(
            _signature(model.SignatureDefs(i)) for i in range(model.SignatureDefsLength())
        ),
    )
    _check(graph, len(content))
    return graph


def _check(graph: Graph, size: int) -> None:
    """Raise ValueError if a number is out of range."""
    for subgraph in graph.subgraphs:
        tensors = range(len(subgraph.tensors))
        _check_among(tensors, "tensor", (*subgraph.inputs, *subgraph.outputs))
        for operation in subgraph.operations:
            _check_among(tensors, "tensor", operation.outputs)
            _check_among(tensors, "tensor", (i for i in operation.inputs if i != -1))
            _check_among(range(len(graph.subgraphs)), "subgraph", operation.calls)
        for tensor in subgraph.tensors:
            if tensor.span is not None and sum(tensor.span) > size:
                raise ValueError(f"the value of tensor {tensor.name!r} is cut off")
    for signature in graph.signatures:
        _check_among(range(len(graph.subgraphs)), "subgraph", [signature.subgraph])
        tensors = range(len(graph.subgraphs[signature.subgraph].tensors))
        _check_among(tensors, "tensor", (*signature.inputs.values(), *signature.outputs.values()))


def _check_among(numbers: range, what: str, given: Iterable[int]) -> None:
    for number in given:
        if number not in numbers:
            raise ValueError(f"{what} {number} does not exist, there are {len(numbers)}")


def _names(enumeration: type) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


def _operation_type(code: Any, names: Mapping[int, str]) -> str:
    # Files from before the 128th type have the number in the older field.
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    return _text(code.CustomCode()) or names.get(number, f"OPERATION_{number}")


def _subgraph(
    model: Any, index: int, types: list[tuple[str, int]], type_names: Mapping[int, str], schema: Any
) -> Subgraph:
    subgraph = model.Subgraphs(index)
    return Subgraph(
        index=index,
        name=_text(subgraph.Name()),
        tensors=tuple(
            _tensor(model, subgraph.Tensors(i), i, type_names, schema)
            for i in range(subgraph.TensorsLength())
        ),
        inputs=_numbers(subgraph.InputsAsNumpy()),
        outputs=_numbers(subgraph.OutputsAsNumpy()),
        operations=tuple(
            _operation(operator, types[operator.OpcodeIndex()], schema)
            for operator in map(subgraph.Operators, range(subgraph.OperatorsLength()))
        ),
    )


def _operation(operator: Any, code: tuple[str, int], schema: Any) -> Operation:
    type_name, version = code
    inputs, outputs = _numbers(operator.InputsAsNumpy()), _numbers(operator.OutputsAsNumpy())
    calls: tuple[int, ...] = ()
    variable: tuple[str, str] | None = None
    if type_name in _CALLING or type_name.startswith(_STABLEHLO):
        unpacked = schema.OperatorT.InitFromObj(operator)
        options = {**_fields(unpacked.builtinOptions), **_fields(unpacked.builtinOptions2)}
        calls = tuple(
            int(number) for key, number in options.items() if key.lower().endswith(_CALLED)
        )
    elif type_name == VARIABLE_HANDLE:
        options = _fields(schema.OperatorT.InitFromObj(operator).builtinOptions)
        variable = (_text(options.get("container")), _text(options.get("sharedName")))
    return Operation(type_name, inputs, outputs, version, calls, variable)


def _fields(options: object) -> dict[str, Any]:
    return {} if options is None else vars(options)


def _tensor(
    model: Any, tensor: Any, index: int, type_names: Mapping[int, str], schema: Any
) -> GraphTensor:
    shape = _numbers(tensor.ShapeAsNumpy())
    span = _span(model.Buffers(tensor.Buffer()))
    # A stored value keeps the sizes of the file, even if inputs are resized.
    resizable = shape if span else _numbers(tensor.ShapeSignatureAsNumpy()) or shape
    return GraphTensor(
        index=index,
        name=_text(tensor.Name()),
        type=type_names.get(tensor.Type(), f"TYPE_{tensor.Type()}"),
        shape=tuple(None if size < 0 else size for size in resizable),
        variable=bool(tensor.IsVariable()),
        quantization=_quantization(tensor.Quantization()),
        span=span,
        sparsity=_sparsity(tensor.Sparsity(), schema),
    )


def _span(buffer: Any) -> tuple[int, int] | None:
    if buffer is None:
        return None
    if length := int(buffer.DataLength()):
        return vector_start(buffer, _DATA), length
    # Weights beyond two gigabytes are behind the FlatBuffer, at an offset.
    return (int(buffer.Offset()), int(buffer.Size())) if buffer.Offset() > 1 else None


def _sparsity(parameters: Any, schema: Any) -> Mapping[str, Any] | None:
    if parameters is None:
        return None
    unpacked = schema.SparsityParametersT.InitFromObj(parameters)
    storage = [
        {"format": _DENSE, "dense_size": int(level.denseSize)}
        if level.format == _DENSE
        else {
            "format": int(level.format),
            "array_segments": _numbers(np.asarray(level.arraySegments.values)),
            "array_indices": _numbers(np.asarray(level.arrayIndices.values)),
        }
        for level in unpacked.dimMetadata
    ]
    blocks = unpacked.blockMap
    return {
        "traversal_order": _numbers(unpacked.traversalOrder),
        "dim_metadata": storage,
        **({} if blocks is None else {"block_map": _numbers(blocks)}),
    }


def _quantization(parameters: Any) -> Quantization | None:
    if parameters is None or not parameters.ScaleLength():
        return None
    scales = np.array(parameters.ScaleAsNumpy(), np.float32)
    zero_points = np.zeros(len(scales), np.int64)
    if parameters.ZeroPointLength():
        zero_points[:] = parameters.ZeroPointAsNumpy()
    return Quantization(scales, zero_points, int(parameters.QuantizedDimension()))


def _signature(signature: Any) -> GraphSignature:
    return GraphSignature(
        key=_text(signature.SignatureKey()),
        subgraph=int(signature.SubgraphIndex()),
        inputs=dict(_tensor_map(signature.Inputs, signature.InputsLength())),
        outputs=dict(_tensor_map(signature.Outputs, signature.OutputsLength())),
    )


def _tensor_map(entry: Any, count: int) -> Iterator[tuple[str, int]]:
    for i in range(count):
        yield _text(entry(i).Name()), int(entry(i).TensorIndex())


def _numbers(array: Any) -> tuple[int, ...]:
    """Return a vector of the file. An absent vector is read as 0."""
    return tuple(map(int, array)) if isinstance(array, np.ndarray) else ()


def _text(name: bytes | None) -> str:
    return (name or b"").decode(errors="backslashreplace")


@dataclass(frozen=True, eq=False)
class Runnable:
    """A model for LiteRT, and its called signature.

    Attributes:
        model: The path of a file, or the content of one.
        subgraph: The called subgraph.
    """

    model: Path | bytes
    subgraph: Subgraph


def cut(
    content: bytes,
    graph: Graph,
    subgraph: Subgraph,
    operations: Sequence[int],
    inputs: Sequence[int],
    outputs: Sequence[int],
) -> Runnable:
    """Make a model of some operations of one subgraph and of the subgraphs that they run.

    Tensors and subgraphs keep their numbers. Unused ones are left empty.

    Args:
        content: The file.
        graph: The graph read from it.
        subgraph: The number of the called subgraph.
        operations: Numbers of the operations to keep, in order.
        inputs: The input tensors of a call.
        outputs: The output tensors. If empty, the inputs are also the outputs.

    Raises:
        RuntimeError: The weights of the operations take more than the two gigabytes that a
            FlatBuffer can hold.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    own = model.subgraphs[subgraph.index]
    kept = tuple(subgraph.operations[number] for number in operations)
    own.operators = [own.operators[number] for number in operations]
    own.inputs, own.outputs = [*inputs], [*outputs] or [*inputs]
    called = called_subgraphs(graph, kept)
    for index, other in enumerate(model.subgraphs):
        if index != subgraph.index and index not in called:
            other.tensors, other.operators, other.inputs, other.outputs = [], [], [], []
    inner = [model.subgraphs[index] for index in sorted(called - {subgraph.index})]
    _keep_used_codes(model, [own, *inner])
    used = {own.tensors[i].buffer for one in kept for i in one.inputs if i != -1}
    used |= {tensor.buffer for one in inner for tensor in one.tensors}
    keep_buffers(model, used, content, schema)
    # They refer to tensors, subgraphs and buffers of the whole file.
    model.signatureDefs = model.metadata = model.metadataBuffer = None
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), TFLITE)
    part = replace(subgraph, operations=kept, inputs=tuple(inputs), outputs=tuple(own.outputs))
    return Runnable(bytes(builder.Output()), part)


def _keep_used_codes(model: Any, subgraphs: Sequence[Any]) -> None:
    """Drop unused operation codes: LiteRT refuses a file with a code that it does not know."""
    operators = [operator for subgraph in subgraphs for operator in subgraph.operators]
    used = sorted({operator.opcodeIndex for operator in operators})
    model.operatorCodes = [model.operatorCodes[index] for index in used]
    for operator in operators:
        operator.opcodeIndex = used.index(operator.opcodeIndex)


def keep_buffers(model: Any, used: set[int], content: bytes, schema: Any) -> None:
    """Empty all buffers of a model but these, and move values stored behind the model into it."""
    for index, buffer in enumerate(model.buffers):
        if index not in used:
            model.buffers[index] = schema.BufferT()
        elif buffer.offset > 1:
            # Values stored after the FlatBuffer are moved into it.
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
