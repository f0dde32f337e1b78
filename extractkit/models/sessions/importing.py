"""Import of TensorFlow 1 graphs: into sessions, without dropout, and for analysis.

Dropout multiplies by a mask of zeros and ones and by the inverse of the keep probability. Only
exactly this is recognised, so that removing it leaves the tensor itself. Both forms that TensorFlow
1 wrote are supported: `x / keep * floor(keep + uniform)`, and `x * scale` where `uniform >= rate`.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import tensorflow as tf
from google.protobuf import text_format
from google.protobuf.message import DecodeError, Message

from extractkit.core.values import Array
from extractkit.errors import ConfigError, ModelError, choices
from extractkit.models.failures import error_summary, load_failure
from extractkit.models.graphs import COLOCATION, AnyGraph, AnyTensor, ImportedGraph
from extractkit.models.graphs.control_flow import Range, known_ranges
from extractkit.models.graphs.feeding import tensor_named
from extractkit.models.graphs.rebuilding import replace_unknown_operations, unknown_operation_of
from extractkit.models.process import remember
from extractkit.models.recognition import refuse_damaged, refuse_others, refuse_unknown

_UNIFORM = Range(0.0, 1.0, below=True)
_RANDOM = ("RandomUniform", "StatelessRandomUniform", "StatelessRandomUniformV2")


def dropouts(graph: tf.Graph) -> dict[str, str]:
    """Return, for the last operation of each dropout, its input tensor (`op:0`).

    Functions that the graph calls are not searched.
    """
    if not any(operation.type in _RANDOM for operation in graph.get_operations()):
        return {}
    ranges = known_ranges(graph, frozenset())
    found = {}
    for operation in graph.get_operations():
        for mask, kept in _masked(operation):
            given = _given(mask, kept, ranges)
            if given is not None:
                found[operation.name] = given.name
    return found


def without_dropout(graph_def: Any, found: Mapping[str, str]) -> None:
    """Replace each dropout by an identity, in place."""
    for node in graph_def.node:
        if node.name in found:
            waits = [edge for edge in node.input if edge.startswith("^")]
            dtype = node.attr["T"].type
            node.op = "Identity"
            node.ClearField("attr")
            node.attr["T"].type = dtype
            del node.input[:]
            node.input.extend([found[node.name].removesuffix(":0"), *waits])


def _masked(operation: Any) -> Collection[tuple[tf.Tensor, tf.Tensor]]:
    """Return the possible mask of a dropout, and the masked tensor."""
    if operation.type == "Mul":
        one, other = operation.inputs
        return ((other, one), (one, other))
    if operation.type in ("Select", "SelectV2"):
        condition, kept, otherwise = operation.inputs
        zero = tf.get_static_value(otherwise)
        if zero is not None and zero.size and not zero.any():
            return ((condition, kept),)
    return ()


def _given(mask: tf.Tensor, kept: tf.Tensor, ranges: Mapping[str, Range]) -> tf.Tensor | None:
    """Return the input of a dropout, or None if it is something else."""
    while mask.op.type in ("Cast", "Identity"):
        mask = mask.op.inputs[0]
    if mask.op.type == "Floor" and mask.op.inputs[0].op.type in ("Add", "AddV2"):
        one, other = mask.op.inputs[0].op.inputs
        for drawn, keep in ((one, other), (other, one)):
            if ranges.get(drawn.name) == _UNIFORM:
                return _unscaled(kept, keep, _number(keep))
    if mask.op.type == "GreaterEqual":
        drawn, rate = mask.op.inputs
        dropped = _number(rate)
        if ranges.get(drawn.name) == _UNIFORM and dropped is not None:
            return _unscaled(kept, None, 1 - dropped)
    return None


def _unscaled(scaled: tf.Tensor, keep: tf.Tensor | None, share: float | None) -> tf.Tensor | None:
    """Return the tensor that is scaled by the inverse keep probability, or None."""
    operation = scaled.op
    if operation.type in ("RealDiv", "Div"):
        values, divisor = operation.inputs
        same = keep is not None and divisor.name == keep.name
        return values if same or _are_close(_number(divisor), share) else None
    if operation.type == "Mul" and share:
        one, other = operation.inputs
        for values, scale in ((one, other), (other, one)):
            if _are_close(_number(scale), 1 / share):
                return values
    return None


def _are_close(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and math.isclose(one, other, rel_tol=1e-5)


def _number(tensor: tf.Tensor) -> float | None:
    """Return the value of a scalar that is constant in the graph."""
    if tensor.shape.num_elements() != 1 or not tensor.dtype.is_floating:
        return None
    value = tf.get_static_value(tensor)
    return None if value is None else float(value.reshape(-1)[0])


PLACEHOLDERS = ("Placeholder", "PlaceholderV2", "PlaceholderWithDefault")


@dataclass(frozen=True, eq=False)
class SessionGraph:
    """A graph without a session; see `graphs.rebuilding.SourceGraph`.

    Attributes:
        graph: the graph.
        inputs: the tensor of each named input.
    """

    graph: AnyGraph
    inputs: Mapping[str, AnyTensor]


@dataclass(frozen=True, eq=False)
class SessionTemplate:
    """A graph that is not changed, and a function that opens a session for a copy.

    Attributes:
        graph: the graph.
        open: opens a session with the same operations and without variables to restore.
    """

    graph: ImportedGraph
    open: Callable[[], tf.compat.v1.Session]


def clean(graph_def: Any) -> None:
    """Remove attributes that prevent importing a graph in part or on other devices.

    Stored shapes may come from another TensorFlow. Colocation has no meaning if the other nodes are
    not imported.
    """
    drop_stored_shapes(graph_def)
    for node in graph_def.node:
        node.device = ""
        node.attr.pop(COLOCATION, None)


WITHOUT_SHAPES = ", without stored shapes"
"""Follows the loader's name if `drop_stored_shapes` removed shapes."""


def drop_stored_shapes(graph_def: Any) -> bool:
    """Remove the stored shapes of a graph in place, and return whether there were any.

    TensorFlow refuses a graph whose stored shapes differ from the inferred ones, as in graphs of
    other versions.
    """
    stored = [node for node in graph_def.node if "_output_shapes" in node.attr]
    for node in stored:
        del node.attr["_output_shapes"]
    return bool(stored)


def with_constants(graph_def: Any, constants: Mapping[str, Array]) -> ImportedGraph:
    """Return the graph with placeholders, named by operation, replaced by constants."""
    graph_def = tf.compat.v1.GraphDef.FromString(graph_def.SerializeToString())
    clean(graph_def)
    for node in graph_def.node:
        if node.name in constants:
            dtype = node.attr["dtype"].type
            value = tf.make_tensor_proto(constants[node.name], dtype)
            node.op = "Const"
            node.ClearField("input")
            node.ClearField("attr")
            node.attr["dtype"].type = dtype
            node.attr["value"].tensor.CopyFrom(value)
    return ImportedGraph(graph_def)


def placeholders(graph: AnyGraph) -> dict[str, AnyTensor]:
    """Return a graph's own placeholders by the names of their operations."""
    return {
        operation.name: operation.outputs[0]
        for operation in graph.get_operations()
        if operation.type in PLACEHOLDERS and unknown_operation_of(operation) is None
    }


def outputs_named(graph: AnyGraph, names: Sequence[str] | None) -> dict[str, AnyTensor]:
    """Return `model.outputs` as tensors by name.

    Raises:
        ConfigError: one of them does not exist.
    """
    outputs = {}
    for name in names or ():
        tensor = tensor_named(graph, name)
        if tensor is None:
            there = [operation.name for operation in graph.get_operations() if operation.outputs]
            raise ConfigError(f"model.outputs: {name!r} is not a tensor. {choices(name, there)}")
        outputs[name] = tensor
    return outputs


_Graph = TypeVar("_Graph")

_MODELS = ("frozen_graph", "meta_graph")
_TEXT = (".pbtxt", ".txt", ".prototxt")


def read_graph_def(path: str, file: Path) -> Any:
    """Return the GraphDef in a file.

    Raises:
        ModelError: the file is empty, or holds something else.
    """
    try:
        graph_def = parsed(path, file, tf.compat.v1.GraphDef(), "GraphDef")
        if not graph_def.node:
            if graph_def.ListFields() == []:  # only fields of another message
                refuse_unknown(path, file, "a GraphDef")
            raise ModelError(f"model.path={path!r} holds no graph: it has no operations")
        if not all(node.name and node.op for node in graph_def.node):
            refuse_unknown(path, file, "a GraphDef")
    except ModelError:
        refuse_others(path, "frozen_graph")
        raise
    return graph_def


def parsed(path: str, file: Path, message: Message, kind: str) -> Any:
    """Return the message in a file, binary or text according to its ending.

    Raises:
        ModelError: the file cannot be parsed.
    """
    try:
        if file.suffix in _TEXT:
            text_format.Parse(file.read_text("utf-8"), message)
        else:
            message.ParseFromString(file.read_bytes())
    except (DecodeError, text_format.ParseError, UnicodeDecodeError, OSError) as error:
        refuse_damaged(path, file, f"a {kind}", error, *_MODELS)
    return message


def new_session(path: str, graph_def: Any) -> tf.compat.v1.Session:
    """Return a new session for a graph, with the process's thread settings.

    Raises:
        ModelError: TensorFlow cannot import the graph.
    """
    graph = _imported(path, graph_def, _with_python_objects)
    return tf.compat.v1.Session(graph=graph, config=session_config())


def session_template(path: str, graph_def: Any) -> SessionTemplate:
    """Return a graph whose session is opened only when something is run.

    Importing a graph of 30,000 operations into a session takes seconds, and listing does not need
    it.

    Raises:
        ModelError: TensorFlow cannot import the graph.
    """
    graph = _imported(path, graph_def, ImportedGraph)
    return SessionTemplate(graph, partial(new_session, path, graph.as_graph_def()))


def _imported(path: str, graph_def: Any, importing: Callable[[Any], _Graph]) -> _Graph:
    clean(graph_def)
    make_importable(graph_def)
    try:
        return importing(graph_def)
    except (ValueError, TypeError, KeyError, tf.errors.OpError) as error:
        raise ModelError(f"model.path={path!r} {load_failure(error)}") from error


def _with_python_objects(graph_def: Any) -> tf.Graph:
    graph = tf.Graph()
    with graph.as_default():
        tf.graph_util.import_graph_def(graph_def, name="")
    return graph


def plain_session(graph_def: Any) -> tf.compat.v1.Session:
    """Return a session for a graph, changed only by `make_importable`.

    Raises:
        ModelError: TensorFlow cannot import the graph.
    """
    make_importable(graph_def)
    graph = tf.Graph()
    try:
        with graph.as_default():
            tf.compat.v1.import_graph_def(graph_def, name="")
    except (ValueError, TypeError, KeyError, tf.errors.OpError) as error:
        raise ModelError(f"tf.compat.v1.import_graph_def: {error_summary(error)}") from error
    return tf.compat.v1.Session(graph=graph, config=session_config())


def session_config() -> Any:
    """Return the process's settings for a session.

    Operations that a device lacks run on another.
    """
    remember()  # the first session starts TensorFlow's threads
    return tf.compat.v1.ConfigProto(
        allow_soft_placement=True,
        intra_op_parallelism_threads=tf.config.threading.get_intra_op_parallelism_threads(),
        inter_op_parallelism_threads=tf.config.threading.get_inter_op_parallelism_threads(),
    )


def make_importable(graph_def: Any) -> None:
    """Replace unknown operations by placeholders, and add missing seeds, in place."""
    replace_unknown_operations(graph_def)
    seed_unseeded(graph_def)


def seed_unseeded(graph_def: Any) -> None:
    """Give random operations without a seed a seed.

    A deterministic run refuses to start operations without one, even if dropout that is off ignores
    their values. Tensors that depend on them are unextractable in any case.
    """
    functions = (function.node_def for function in graph_def.library.function)
    for nodes in (graph_def.node, *functions):
        for node in nodes:
            if {"seed", "seed2"} <= set(node.attr) and not (
                node.attr["seed"].i or node.attr["seed2"].i
            ):
                node.attr["seed"].i = 1
