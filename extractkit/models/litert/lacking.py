"""Operations of a TensorFlow Lite file that LiteRT cannot run, found in what it says of them."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from extractkit.models.foreign import told
from extractkit.models.litert.graph import Graph, Operation, Subgraph, called_subgraphs
from extractkit.models.litert.interpreter import Settings

FLEX = "Flex"
"""Begins the names of TensorFlow's own operations in a TensorFlow Lite file."""

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
    """Find the operations of which LiteRT says that it has no kernel.

    Args:
        error: What LiteRT raised.
        subgraph: The one that is called, whole.

    Returns:
        Reasons by number of operation, of every operation of the type that LiteRT names. Empty if
        the operation is in a part of the file that is not called. None if LiteRT says nothing of
        the kind.
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
    """Find the one operation that LiteRT has a kernel for, but cannot run.

    Args:
        subgraph: The one that is called, whole.
        tried: Numbers of the operations that LiteRT was given, in order.
    """
    for place, name in _NODE.findall(str(error)):
        if int(place) < len(tried):
            number = tried[int(place)]
            if subgraph.operations[number].type == name:
                return {number: f"{_needed(name, number)}, which LiteRT cannot run: {told(error)}"}
    return {}


def all_failing(error: Exception, subgraph: Subgraph) -> Mapping[int, str]:
    """Give every operation the reason that LiteRT cannot run the file."""
    reason = f"LiteRT cannot run the file: {told(error)}"
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
