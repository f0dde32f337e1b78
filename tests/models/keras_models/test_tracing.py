"""Layer calls are watched while one function is traced, and only then."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from extractkit.models.in_memory import live_model
from extractkit.models.keras_models.tracing import LayerCall, Trace, ports, trace

SPEC = tf.TensorSpec([None, 4], tf.float32, name="a/b c")


def traced(function: Callable[[tf.Tensor], Any]) -> Trace:
    def called(features: Mapping[str, tf.Tensor]) -> Any:
        return function(features[SPEC.name])

    return trace(called, [SPEC])


def named(calls: tuple[LayerCall, ...]) -> list[str]:
    return [call.layer.name for call in calls]


class Doubling(layers.Layer):
    """Calls its layer, and by a nested function or another thread once more."""

    def __init__(self, again: Callable[[Callable[[], Any]], None], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dense = layers.Dense(4, name="inner")
        self.dense.build((None, 4))
        self.again = again
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        y = self.dense(x)
        self.again(lambda: self.dense(np.zeros((1, 4), np.float32)))
        return y


def in_a_thread(call: Callable[[], Any]) -> None:
    other = threading.Thread(target=call)
    other.start()
    other.join()


def in_a_nested_function(call: Callable[[], Any]) -> None:
    tf.function(call)()


def in_a_graph_of_its_own(call: Callable[[], Any]) -> None:
    """As Keras does to learn a layer's output shape."""
    with tf.Graph().as_default():
        layers.Dense(2)(tf.zeros((1, 4)))


@pytest.mark.parametrize("again", [in_a_thread, in_a_nested_function, in_a_graph_of_its_own])
def test_only_calls_of_the_traced_graph_are_recorded(again: Callable[..., None]) -> None:
    assert named(traced(Doubling(again, name="outer")).calls) == ["outer", "inner"]


def test_calls_know_their_parents_and_operations_lie_within() -> None:
    outer, inner = traced(Doubling(lambda call: None, name="outer")).calls
    assert (outer.parent, inner.parent) == (None, outer)
    assert outer.start <= inner.start < inner.end <= outer.end
    made = [operation.type for operation in inner.graph.get_operations()[inner.start : inner.end]]
    assert "MatMul" in made


def test_inputs_keep_names_that_are_no_identifiers() -> None:
    assert list(traced(lambda x: x + 1.0).inputs) == [SPEC.name]


def test_layers_are_called_as_before_whatever_happens() -> None:
    original = layers.Layer.__call__

    def failing(x: tf.Tensor) -> None:
        assert layers.Layer.__call__ is not original
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        traced(failing)
    assert layers.Layer.__call__ is original


def test_ports_follow_the_structure() -> None:
    one = tf.constant(1)
    assert list(ports("output", one)) == ["output"]
    assert list(ports("output", [one, (one, one)])) == ["output", "output.1.0", "output.1.1"]
    assert list(ports("output", {"a": one, "b": [one, None, "text"]})) == ["output.a", "output.b.0"]


class Ragged(layers.Layer):
    """Passes a ragged tensor on to a layer that makes it dense."""

    def call(self, x: tf.Tensor) -> Any:
        return tf.RaggedTensor.from_tensor(x)


class Dense(layers.Layer):
    def call(self, x: tf.RaggedTensor) -> Any:
        return x.to_tensor(shape=[None, 4])


class Both(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.ragged, self.dense = Ragged(name="ragged"), Dense(name="dense")

    def call(self, x: tf.Tensor) -> Any:
        return self.dense(self.ragged(x))


def test_what_is_no_dense_array_is_listed_with_the_reason() -> None:
    catalog = live_model(Both(), example=np.ones((2, 4), np.float32)).catalog
    reason = "a RaggedTensor, which is not one dense array"
    assert catalog["ragged:output"].reason == catalog["dense:input"].reason == reason
    assert catalog["dense:output"].extractable
