"""Static shapes, against those that TensorFlow's public import gives."""

import numpy as np
import pytest
import tensorflow as tf

from extractkit.models.axes import RawShape
from extractkit.models.graphs.rebuilding import StaticShapes, tensors_in_graph
from extractkit.models.sessions.importing import SessionGraph

_WEIGHTS = tf.Variable(np.ones((4, 3), "float32"))


@tf.function(autograph=False)
def _function(x: tf.Tensor, y: tf.Tensor) -> list[tf.Tensor]:
    hidden = tf.nn.relu(tf.matmul(x, _WEIGHTS))
    rows = tf.concat([hidden, hidden], 0)
    loop = tf.while_loop(lambda i, _: i < 3, lambda i, v: (i + 1, v * 2.0), (0, hidden))[1]
    found = tf.where(tf.reduce_sum(x, 1) > 0)
    return [rows, *tf.split(y, 2, 1), loop, found, tf.strings.as_string(hidden), tf.unique(y[0])[0]]


def source() -> tuple[SessionGraph, list[str]]:
    """A function's graph with captures, several outputs, a loop and unknown lengths."""
    traced = _function.get_concrete_function(
        tf.TensorSpec([None, 4], tf.float32), tf.TensorSpec([None, None], tf.float32)
    )
    graph = SessionGraph(traced.graph, dict(zip("xy", traced.inputs, strict=False)))
    names = [
        tensor.name
        for operation in traced.graph.get_operations()
        for tensor in operation.outputs
        if operation.type != "Placeholder"
    ]
    return graph, [*names, *(tensor.name for tensor in graph.inputs.values())]


def specs(rows: int, columns: int) -> dict[str, tf.TensorSpec]:
    return {
        "x": tf.TensorSpec([rows, 4], tf.float32),
        "y": tf.TensorSpec([rows, columns], tf.float32),
    }


def public_shapes(
    graph: SessionGraph, sizes: dict[str, tf.TensorSpec], names: list[str]
) -> list[RawShape]:
    with tf.__internal__.FuncGraph("public").as_default():
        features = {n: tf.compat.v1.placeholder(s.dtype, s.shape) for n, s in sizes.items()}
        tensors = tensors_in_graph(graph, features, names)
        return [None if t.shape.rank is None else tuple(t.shape.as_list()) for t in tensors]


@pytest.mark.parametrize(("rows", "columns"), [(5, 6), (13, 8)])
def test_shapes_are_those_of_the_public_import(rows: int, columns: int) -> None:
    graph, names = source()
    found = StaticShapes(graph, "xy", names).at(specs(rows, columns))
    assert found == public_shapes(graph, specs(rows, columns), names)
    assert (2 * rows, 3) in found
    assert (None, 1) in found or (None, 2) in found


def test_sizes_that_the_graph_cannot_have_are_refused() -> None:
    graph, names = source()
    with pytest.raises(ValueError, match="evenly divide"):
        StaticShapes(graph, "xy", names).at(specs(5, 7))
