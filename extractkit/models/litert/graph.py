"""What a `.tflite` file says by itself: subgraphs, tensors, operations, signatures. No interpreter.

The file is a FlatBuffer; LiteRT ships the readers made from its schema. They check no offset, so a
damaged file can make them raise anything: `probe` reads it in a child process first.
"""

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

RESOURCES = ("RESOURCE", "VARIANT")
"""Types without a value: reading such a tensor ends the process."""


@dataclass(frozen=True, eq=False)
class Quantization:
    """How whole numbers stand for real ones: (q - zero point) · scale.

    Attributes:
        scales: float32 (n,): one for the tensor, or one for each index along `axis`.
        zero_points: int64 (n,).
        axis: the axis that they lie along, where there are several.
    """

    scales: npt.NDArray[np.float32]
    zero_points: npt.NDArray[np.int64]
    axis: int


@dataclass(frozen=True, eq=False)
class GraphTensor:
    """One tensor of a subgraph.

    Attributes:
        index: its number in the subgraph.
        name: as the file has it; names of fused operations are joined by ";".
        type: name of its TFLite type ("FLOAT32").
        shape: as stored; None where it may be resized.
        constant: whether the file holds its value.
        variable: whether it is a state that the interpreter keeps from call to call.
        quantization: None where its numbers are what they are.
    """

    index: int
    name: str
    type: str
    shape: tuple[int | None, ...]
    constant: bool
    variable: bool
    quantization: Quantization | None


@dataclass(frozen=True)
class Operation:
    """One operation: its type ("CONV_2D"), and what it takes and makes, by number."""

    type: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Subgraph:
    """One function of the model: what a signature runs, or a body of a loop or branch."""

    index: int
    name: str
    tensors: tuple[GraphTensor, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    operations: tuple[Operation, ...]


@dataclass(frozen=True)
class GraphSignature:
    """A named way to call one subgraph: numbers of its tensors by the signature's names."""

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


def read_graph(path: Path) -> Graph:
    """Read a file that `probe` has found to be sound; weights are not read."""
    from ai_edge_litert import schema_py_generated as schema

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
        model = schema.Model.GetRootAs(buffer, 0)
        operations = _names(schema.BuiltinOperator)
        types = [
            _operation_type(model.OperatorCodes(i), operations)
            for i in range(model.OperatorCodesLength())
        ]
        graph = Graph(
            description=_text(model.Description()),
            subgraphs=tuple(
                _subgraph(model, i, types, _names(schema.TensorType))
                for i in range(model.SubgraphsLength())
            ),
            signatures=tuple(
                _signature(model.SignatureDefs(i)) for i in range(model.SignatureDefsLength())
            ),
        )
        del model  # it refers to the buffer, which is closed now
    return graph


def _names(enumeration: type) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


def _operation_type(code: Any, names: Mapping[int, str]) -> str:
    # Files from before there were more than 127 types have the number in the older field.
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    return _text(code.CustomCode()) or names.get(number, f"OPERATION_{number}")


def _subgraph(model: Any, index: int, types: list[str], type_names: Mapping[int, str]) -> Subgraph:
    subgraph = model.Subgraphs(index)
    return Subgraph(
        index=index,
        name=_text(subgraph.Name()),
        tensors=tuple(
            _tensor(model, subgraph.Tensors(i), i, type_names)
            for i in range(subgraph.TensorsLength())
        ),
        inputs=_numbers(subgraph.InputsAsNumpy()),
        outputs=_numbers(subgraph.OutputsAsNumpy()),
        operations=tuple(
            Operation(
                types[operator.OpcodeIndex()],
                _numbers(operator.InputsAsNumpy()),
                _numbers(operator.OutputsAsNumpy()),
            )
            for operator in map(subgraph.Operators, range(subgraph.OperatorsLength()))
        ),
    )


def _tensor(model: Any, tensor: Any, index: int, type_names: Mapping[int, str]) -> GraphTensor:
    shape = _numbers(tensor.ShapeAsNumpy())
    resizable = _numbers(tensor.ShapeSignatureAsNumpy()) or shape
    buffer = model.Buffers(tensor.Buffer())
    return GraphTensor(
        index=index,
        name=_text(tensor.Name()),
        type=type_names.get(tensor.Type(), f"TYPE_{tensor.Type()}"),
        shape=tuple(None if size < 0 else size for size in resizable),
        # Weights beyond two gigabytes stand behind the FlatBuffer, at an offset.
        constant=buffer is not None and (buffer.DataLength() > 0 or buffer.Offset() > 1),
        variable=bool(tensor.IsVariable()),
        quantization=_quantization(tensor.Quantization()),
    )


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
    """A vector of the file; one that is absent reads as 0."""
    return tuple(map(int, array)) if isinstance(array, np.ndarray) else ()


def _text(name: bytes | None) -> str:
    return (name or b"").decode(errors="backslashreplace")
