"""Smaller TensorFlow Lite models, made of some operations of a file."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from extractkit.models.litert.file import TFLiteFile
from extractkit.models.litert.flow import Flow
from extractkit.models.litert.graph import Graph, Subgraph, called_subgraphs
from extractkit.models.litert.interpreter import Runnable
from extractkit.models.recognition.content import TFLITE


def runnable_of(file: TFLiteFile, graph: Graph, flow: Flow, cut_off: bool) -> Runnable:
    """Return the file as it is, or without the operations that LiteRT cannot run."""
    if not cut_off:
        return Runnable(file.model(), flow.subgraph)
    subgraph = flow.subgraph
    kept, ends = flow.runnable_for_inputs()
    return cut(file.read(), graph, subgraph, kept, subgraph.inputs, ends)


def constants_of(file: TFLiteFile, graph: Graph, flow: Flow, wanted: Sequence[int]) -> Runnable:
    """Return what computes tensors that depend on no input, and nothing else."""
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
    """Make a model of some operations of one subgraph, and of the subgraphs that these run.

    Tensors and subgraphs keep their numbers. Whatever the operations do not use is left empty.

    Args:
        content: The file.
        graph: As read from it.
        subgraph: The one that is called.
        operations: Numbers of the operations to keep, in order.
        inputs: Tensors that a call is given.
        outputs: Tensors that they make, to be the outputs. Without any, the inputs are.

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
    _keep_buffers(model, used, content, schema)
    # They name tensors, subgraphs and buffers of the whole file.
    model.signatureDefs = model.metadata = model.metadataBuffer = None
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), TFLITE)
    part = replace(subgraph, operations=kept, inputs=tuple(inputs), outputs=tuple(own.outputs))
    return Runnable(bytes(builder.Output()), part)


def _keep_used_codes(model: Any, subgraphs: Sequence[Any]) -> None:
    """Drop what no operation needs: LiteRT refuses a file that names one that it lacks."""
    operators = [operator for subgraph in subgraphs for operator in subgraph.operators]
    used = sorted({operator.opcodeIndex for operator in operators})
    model.operatorCodes = [model.operatorCodes[index] for index in used]
    for operator in operators:
        operator.opcodeIndex = used.index(operator.opcodeIndex)


def _keep_buffers(model: Any, used: set[int], content: bytes, schema: Any) -> None:
    for index, buffer in enumerate(model.buffers):
        if index not in used:
            model.buffers[index] = schema.BufferT()
        elif buffer.offset > 1:
            # A value behind the FlatBuffer moves into it: what is made has nothing behind.
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
