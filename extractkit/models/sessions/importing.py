"""Graphs of TensorFlow 1 from files, checked, into sessions."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import tensorflow as tf
from google.protobuf import text_format
from google.protobuf.message import DecodeError, Message

from extractkit.errors import ModelError
from extractkit.models.foreign import told
from extractkit.models.graphs.imported import ImportedGraph
from extractkit.models.graphs.stand_ins import put_stand_ins
from extractkit.models.in_force import remember
from extractkit.models.operation_libraries import why_not_loaded
from extractkit.models.recognition import refuse_damaged, refuse_others, refuse_unknown
from extractkit.models.sessions.graph import LaterSession, clean

_Graph = TypeVar("_Graph")

_MODELS = ("frozen_graph", "meta_graph")
_TEXT = (".pbtxt", ".txt", ".prototxt")


def read_graph_def(path: str, file: Path) -> Any:
    """The GraphDef in a file.

    Raises:
        ModelError: something else is in it, or nothing.
    """
    try:
        graph_def = parsed(path, file, tf.compat.v1.GraphDef(), "GraphDef")
        if not graph_def.node:
            if graph_def.ListFields() == []:  # fields of another message alone
                refuse_unknown(path, file, "a GraphDef")
            raise ModelError(f"model.path={path!r} holds no graph: it has no operations")
        if not all(node.name and node.op for node in graph_def.node):
            refuse_unknown(path, file, "a GraphDef")
    except ModelError:
        refuse_others(path, "frozen_graph")
        raise
    return graph_def


def parsed(path: str, file: Path, message: Message, kind: str) -> Any:
    """A message of a file, binary or text by its ending.

    Raises:
        ModelError: it cannot be read as one.
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
    """A session of its own for a graph, with the process's settings of threads.

    Raises:
        ModelError: TensorFlow cannot import the graph.
    """
    graph = _imported(path, graph_def, _with_python_objects)
    return tf.compat.v1.Session(graph=graph, config=session_config())


def later_session(path: str, graph_def: Any) -> LaterSession:
    """Return a graph whose session is opened, for a second import of it, when something is run.

    A graph of 30,000 operations takes seconds to import into a session, which listing needs not.

    Raises:
        ModelError: TensorFlow cannot import the graph.
    """
    graph = _imported(path, graph_def, ImportedGraph)
    return LaterSession(graph, partial(new_session, path, graph.as_graph_def()))


def _imported(path: str, graph_def: Any, importing: Callable[[Any], _Graph]) -> _Graph:
    clean(graph_def)
    make_importable(graph_def)
    try:
        return importing(graph_def)
    except (ValueError, TypeError, KeyError, tf.errors.OpError) as error:
        raise ModelError(f"model.path={path!r} {why_not_loaded(error)}") from error


def _with_python_objects(graph_def: Any) -> tf.Graph:
    graph = tf.Graph()
    with graph.as_default():
        tf.graph_util.import_graph_def(graph_def, name="")
    return graph


def plain_session(graph_def: Any) -> tf.compat.v1.Session:
    """A session for a graph as it is, but for what `make_importable` changes.

    Raises:
        ModelError: TensorFlow cannot import the graph so.
    """
    make_importable(graph_def)
    graph = tf.Graph()
    try:
        with graph.as_default():
            tf.compat.v1.import_graph_def(graph_def, name="")
    except (ValueError, TypeError, KeyError, tf.errors.OpError) as error:
        raise ModelError(f"tf.compat.v1.import_graph_def: {told(error)}") from error
    return tf.compat.v1.Session(graph=graph, config=session_config())


def session_config() -> Any:
    """Settings of a session as those of the process; what a device lacks runs on another."""
    remember()  # the first session starts TensorFlow's threads
    return tf.compat.v1.ConfigProto(
        allow_soft_placement=True,
        intra_op_parallelism_threads=tf.config.threading.get_intra_op_parallelism_threads(),
        inter_op_parallelism_threads=tf.config.threading.get_inter_op_parallelism_threads(),
    )


def make_importable(graph_def: Any) -> None:
    """Put stand-ins for unknown operations and seeds where they are missing, in place."""
    put_stand_ins(graph_def)
    seed_unseeded(graph_def)


def seed_unseeded(graph_def: Any) -> None:
    """Give random operations a seed where they have none.

    A run that has to be deterministic refuses to start those that have none, even if dropout that
    is off makes nothing of their values. What depends on them is refused anyway.
    """
    functions = (function.node_def for function in graph_def.library.function)
    for nodes in (graph_def.node, *functions):
        for node in nodes:
            if {"seed", "seed2"} <= set(node.attr) and not (
                node.attr["seed"].i or node.attr["seed2"].i
            ):
                node.attr["seed"].i = 1
