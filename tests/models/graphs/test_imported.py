"""Imported graphs, against the Python objects that TensorFlow's public import makes of them."""

from collections import Counter
from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from extractkit.models.graphs import ImportedGraph, static_value
from tests.models.session_graphs import control_flow

v1 = tf.compat.v1


@tf.function(autograph=False)
def _doubled(x: tf.Tensor) -> tf.Tensor:
    return x * 2.0


@cache
def graph_def() -> Any:
    """Loops, branches, a function, a reference variable, waits, several results, open shapes."""
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [None, 4], "x")
        v1.placeholder(tf.float32, None, "any")
        mean, _ = tf.nn.moments(x, [0], name="moments")
        for version in (1, 2):
            with control_flow(version):
                positive = mean[0] > 0
                tf.while_loop(lambda i, _: i < 3, lambda i, v: (i + 1, v * 2.0), (0, x))
                tf.cond(positive, lambda: x + 1.0, lambda: tf.zeros_like(x))
        halves = tf.split(x, 2, 1, name="halves")
        weight = v1.Variable(np.ones((4, 2), "float32"), use_resource=False, name="weight")
        with tf.control_dependencies([halves[1], weight.initializer]):
            tf.matmul(x, weight, name="product")
        tf.add(x, x, name="twice")
        _doubled(x)
        tf.unique(x[0], name="unique")
        tf.reshape(x, [2, tf.size(tf.constant([1, 2, 3]), name="three"), -1], name="rows")
        return graph.as_graph_def()


def tensor(one: Any) -> tuple[object, ...]:
    shape = None if one.shape.rank is None else tuple(one.shape.as_list())
    return (one.name, one.op.name, one.value_index, one.dtype, shape)


def operation(one: Any) -> dict[str, object]:
    return {
        "name": one.name,
        "type": one.type,
        "inputs": [tensor(given) for given in one.inputs],
        "control": sorted(before.name for before in one.control_inputs),
        "outputs": [tensor(made) for made in one.outputs],
        "consumers": [Counter(c.name for c in made.consumers()) for made in one.outputs],
        "node": one.node_def,
    }


@pytest.fixture(scope="module")
def whole() -> tf.Graph:
    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(graph_def(), name="")
    return graph


@pytest.fixture(scope="module")
def imported() -> ImportedGraph:
    return ImportedGraph(graph_def())


def test_operations_are_those_of_the_public_import(
    whole: tf.Graph, imported: ImportedGraph
) -> None:
    expected = [operation(one) for one in whole.get_operations()]
    assert [operation(one) for one in imported.get_operations()] == expected
    types = {one["type"] for one in expected}
    assert {
        "Enter",
        "NextIteration",
        "Merge",
        "StatelessIf",
        "StatelessWhile",
        "VariableV2",
    } <= types
    assert imported.as_graph_def() == whole.as_graph_def()


def test_tensors_are_found_by_name(imported: ImportedGraph) -> None:
    found = imported.get_tensor_by_name("halves:1")
    assert found is imported.get_operation_by_name("halves").outputs[1]
    assert found.graph is imported


@pytest.mark.parametrize("name", ["halves:2", "halves", "halves:x", "halves:", "nothing:0"])
def test_a_name_of_no_tensor_is_refused(imported: ImportedGraph, name: str) -> None:
    with pytest.raises(KeyError):
        imported.get_tensor_by_name(name)


@pytest.mark.parametrize("name", ["three:0", "halves/split_dim:0", "x:0", "rows/shape:0"])
def test_static_values_are_those_of_the_public_import(
    whole: tf.Graph, imported: ImportedGraph, name: str
) -> None:
    expected = tf.get_static_value(whole.get_tensor_by_name(name))
    found = static_value(imported.get_tensor_by_name(name))
    assert (found is None) == (expected is None)
    assert np.array_equal(found, expected)


def test_graphs_imported_afterwards_are_whole(whole: tf.Graph) -> None:
    ImportedGraph(graph_def())
    with tf.Graph().as_default() as again:
        tf.graph_util.import_graph_def(graph_def(), name="")
    assert len(again.get_operations()) == len(whole.get_operations())


def test_what_tensorflow_cannot_import_is_refused() -> None:
    damaged = deepcopy(graph_def())
    damaged.node[-1].input[0] = "gone"
    with pytest.raises(ValueError, match="gone"):
        ImportedGraph(damaged)
