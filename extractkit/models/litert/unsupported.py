"""Operations that LiteRT cannot run, and smaller models without them."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from extractkit.models.failures import error_summary
from extractkit.models.litert import TFLiteFile
from extractkit.models.litert.entry import Flow
from extractkit.models.litert.graph import Graph, Operation, Subgraph, called_subgraphs
from extractkit.models.litert.interpreter import Runnable, Settings
from extractkit.models.litert.state import keep_buffers
from extractkit.models.recognition.content import TFLITE

FLEX = "Flex"
"""The prefix of the names of TensorFlow's own operations in a TensorFlow Lite file."""

_CUSTOM = re.compile(r"Encountered unresolved custom op: (.+?)\.\s")
_SELECT = "Select TensorFlow op(s)"
_BUILTIN = re.compile(r"Didn't find op for builtin opcode '(\w+)' version '(\d+)'")
_UNKNOWN = re.compile(r"Op builtin_code out of range: (\d+)")
_NODE = re.compile(r"Node number (\d+) \((.+?)\) failed to \w+")

_EDGE_TPU = "edgetpu-custom-op"
_XNNPACK = ("Convolution2DTransposeBias", "MaxPoolingWithArgmax2D", "MaxUnpooling2D")
_MEDIAPIPE = ("Landmarks2TransformMatrix", "TransformLandmarks", "TransformTensorBilinear")


def missing(
    error: Exception, graph: Graph, subgraph: Subgraph, settings: Settings
) -> Mapping[int, str] | None:
    """Find the operations that lack a kernel, by LiteRT's error.

    Args:
        error: What LiteRT raised.
        subgraph: The called subgraph, whole.

    Returns:
        Reasons by number of operation, for every operation of the type that LiteRT names. Empty if
        the operation is in a part of the file that is not called. None for any other error.
    """
    words = str(error)
    if _SELECT in words:
        return _reasons(graph, subgraph, lambda one: one.type.startswith(FLEX), settings)
    if found := _CUSTOM.search(f"{words}\n"):
        custom = found[1]
        return _reasons(graph, subgraph, lambda one: one.type == custom, settings)
    if found := _BUILTIN.search(words):
        named = (found[1], int(found[2]))
        return _reasons(graph, subgraph, lambda one: (one.type, one.version) == named, settings)
    if found := _UNKNOWN.search(words):
        name = f"OPERATION_{found[1]}"
        return _reasons(graph, subgraph, lambda one: one.type == name, settings)
    return None


def failing(error: Exception, subgraph: Subgraph, tried: Sequence[int]) -> Mapping[int, str]:
    """Find the operation that has a kernel but fails.

    Args:
        subgraph: The called subgraph, whole.
        tried: Numbers of the operations that were tried, in order.
    """
    for position, name in _NODE.findall(str(error)):
        if int(position) < len(tried):
            number = tried[int(position)]
            if subgraph.operations[number].type == name:
                return {
                    number: f"{_needed(name, number)}, which LiteRT cannot run: "
                    f"{error_summary(error)}"
                }
    return {}


def mark_all_failing(error: Exception, subgraph: Subgraph) -> Mapping[int, str]:
    """Give every operation the reason that LiteRT cannot run the file."""
    reason = f"LiteRT cannot run the file: {error_summary(error)}"
    return dict.fromkeys(range(len(subgraph.operations)), reason)


def _reasons(
    graph: Graph, subgraph: Subgraph, lacks: Callable[[Operation], bool], settings: Settings
) -> Mapping[int, str]:
    found: dict[int, str] = {}
    for number, one in enumerate(subgraph.operations):
        if lacks(one):
            found[number] = f"{_needed(one.type, number)}, {_why(one, settings)}"
        elif inner := next(filter(lacks, _inner(graph, one)), None):
            found[number] = (
                f"{_needed(one.type, number)}, which runs {inner.type}, {_why(inner, settings)}"
            )
    return found


def _inner(graph: Graph, operation: Operation) -> Iterator[Operation]:
    for number in sorted(called_subgraphs(graph, [operation])):
        yield from graph.subgraphs[number].operations


def _needed(name: str, number: int) -> str:
    return f"it needs {name} (operation {number})"


def _why(operation: Operation, settings: Settings) -> str:
    name = operation.type
    if name.startswith(FLEX):
        return (
            f"TensorFlow's own operation {name.removeprefix(FLEX)}: LiteRT's Python package runs "
            f"none of those (SELECT_TF_OPS, Flex). Extract from the model that was converted, "
            f"such as a SavedModel"
        )
    if name == _EDGE_TPU:
        return (
            "a program for an Edge TPU. Extract from the file that the Edge TPU compiler was given"
        )
    if name in _XNNPACK and not settings.xnnpack:
        return "which only XNNPACK has: model.xnnpack=true"
    if name in _MEDIAPIPE:
        return "MediaPipe's own operation, which only MediaPipe has"
    if name.isupper() and name.replace("_", "").isalnum():
        return f"of which LiteRT has no version {operation.version}"
    return "a custom operation, which LiteRT does not have"


def runnable_of(file: TFLiteFile, graph: Graph, flow: Flow, cut_off: bool) -> Runnable:
    """Return the whole file, or the file without the operations that LiteRT cannot run."""
    if not cut_off:
        return Runnable(file.model(), flow.subgraph)
    subgraph = flow.subgraph
    kept, ends = flow.runnable_for_inputs()
    return cut(file.read(), graph, subgraph, kept, subgraph.inputs, ends)


def constants_of(file: TFLiteFile, graph: Graph, flow: Flow, wanted: Sequence[int]) -> Runnable:
    """Return a model of the operations that do not depend on inputs."""
    operations = flow.needed_for(wanted)
    return cut(file.read(), graph, flow.subgraph, operations, (), wanted)


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
