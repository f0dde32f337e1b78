"""Canonical paths: the same whatever was built before."""

import inspect

import keras
import pytest
from keras.src.utils.naming import to_snake_case

from extractkit.models.naming import Paths, Ports, Siblings, base_name, snake_case

CLASSES = sorted(name for name, value in vars(keras.layers).items() if inspect.isclass(value))


@pytest.mark.parametrize("class_name", [*CLASSES, "MyLSTMCell", "HTTPServer2D", "_Private", "X"])
def test_made_up_names_are_those_of_keras(class_name: str) -> None:
    assert snake_case(class_name) == to_snake_case(class_name)


@pytest.mark.parametrize(
    ("class_name", "name", "base"),
    [
        ("Dense", "dense", "dense"),
        ("Dense", "dense_12", "dense"),
        ("Conv2D", "conv2d_3", "conv2d"),
        ("LSTMCell", "lstm_cell_1", "lstm_cell"),
        ("Dense", "head", "head"),
        ("Dense", "head_1", "head_1"),
        ("Dense", "my_dense_1", "my_dense_1"),
        ("Dense", "dense_one", "dense_one"),
        ("Dense", "Dense_1", "Dense_1"),
        ("Dense", "conv2d_1", "conv2d_1"),
        ("GRU", "forward_gru_4", "forward_gru"),
        ("GRU", "backward_gru", "backward_gru"),
        ("GRU", "forward_mine_4", "forward_mine_4"),
        ("Variable", "variable_17", "variable"),
    ],
)
def test_only_the_counter_of_a_made_up_name_is_dropped(
    class_name: str, name: str, base: str
) -> None:
    assert base_name(class_name, name) == base


def test_siblings_are_numbered_by_their_first_calls() -> None:
    siblings = Siblings()
    given = [("a", "softmax_7"), ("b", "softmax"), ("a", "softmax_7"), ("c", "softmax_9")]
    names = [siblings.name(layer, "Softmax", name) for layer, name in given]
    assert names == ["softmax", "softmax.1", "softmax", "softmax.2"]


def test_a_name_that_looks_numbered_takes_no_other_layers_place() -> None:
    siblings = Siblings()
    given = [("a", "softmax.1"), ("b", "softmax"), ("c", "softmax_1"), ("d", "softmax.1")]
    names = [siblings.name(layer, "Softmax", name) for layer, name in given]
    assert names == ["softmax.1", "softmax", "softmax.2", "softmax.1.1"]


@pytest.mark.parametrize(
    ("name", "component"),
    [
        ("a/b", "a%2Fb"),
        ("a:b", "a%3Ab"),
        ("50%", "50%25"),
        ("call@2", "call%402"),
        ("..", "%2E%2E"),
        ("größe", "größe"),
    ],
)
def test_what_an_address_reserves_is_escaped(name: str, component: str) -> None:
    assert Siblings().name("layer", "Dense", name) == component


def test_a_second_call_within_one_call_of_the_parent_is_counted() -> None:
    paths = Paths()

    def call(parent: str, path: str) -> str:
        return paths.call(parent, "encoder", path, "dense", "Dense", "dense_3")

    assert [call("first", "encoder"), call("first", "encoder")] == [
        "encoder/dense",
        "encoder/dense@2",
    ]
    assert call("second", "encoder@2") == "encoder@2/dense"


def test_paths_without_a_call_do_not_count() -> None:
    paths = Paths()
    assert paths.child("model", "", "dense", "Dense", "dense_4") == "dense"
    assert paths.call("call", "model", "", "dense", "Dense", "dense_4") == "dense"
    assert paths.call("call", "model", "", "other", "Dense", "dense_2") == "dense.1"


def test_ports_are_made_unique() -> None:
    ports = Ports()
    given = ["op/MatMul", "op/MatMul", "output", "op/MatMul.1", "op/MatMul"]
    assert [ports.unique(port) for port in given] == [
        "op/MatMul",
        "op/MatMul.1",
        "output",
        "op/MatMul.1.1",
        "op/MatMul.2",
    ]
