"""TFLite files that keep a state, one for each way in which they do."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from tests.models.tflite_zoo import STATE, by_hand
from tests.models.tflite_zoo import content as of_zoo


class _Stream(tf.Module):
    """A buffer and a counter, whose first values are not zeros, and a variable never assigned."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = tf.Variable(tf.reshape(tf.range(8.0), [1, 4, 2]), name="buffer")
        self.count = tf.Variable(7, name="count")
        self.gain = tf.Variable([2.0, 3.0], name="gain")

    @tf.function(input_signature=[tf.TensorSpec([1, None, 2], name="x")])
    def __call__(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        joined = tf.concat([self.buffer, tf.tanh(x * self.gain)], 1)
        self.buffer.assign(joined[:, -4:])
        self.count.assign_add(tf.shape(x)[1])
        return {"mean": tf.reduce_mean(joined, 1), "count": self.count + 0}


class _Total(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        self.total = tf.Variable(tf.ones([1, 3]), name="total")


class _Loop(_Total):
    """The variable is assigned in the body of a loop, which is given its handle."""

    @tf.function(input_signature=[tf.TensorSpec([1, 3], name="x")])
    def __call__(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        number = tf.constant(0)
        while number < 3:
            self.total.assign_add(x)
            number += 1
        return {"y": self.total * 1.0}


class _Random(_Total):
    """Random numbers go into the variable."""

    @tf.function(input_signature=[tf.TensorSpec([1, 3], name="x")])
    def __call__(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        self.total.assign_add(tf.random.uniform([1, 3]))
        return {"y": self.total * 1.0, "z": x * 2}


class _Lacking(_Total):
    """An operation that LiteRT lacks comes before the assignment."""

    @tf.function(input_signature=[tf.TensorSpec([1, 3], name="x")])
    def __call__(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        self.total.assign_add(tf.math.erf(x))
        return {"y": self.total * 1.0, "z": x * 2}


def _drawn(*shape: int) -> tuple[list[int], Any]:
    return [*shape], np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def _lstm() -> bytes:
    """An LSTM without peepholes and projection, as Keras's converted layers are."""
    gates = ("input", "forget", "cell", "output")
    tensors = {
        "x": ([1, 5, 3], None),
        **{f"x to {gate}": _drawn(4, 3) for gate in gates},
        **{f"h to {gate}": _drawn(4, 4) for gate in gates},
        **{f"bias of {gate}": _drawn(4) for gate in gates},
        "h": ([1, 4], STATE),
        "c": ([1, 4], STATE),
        "y": ([1, 5, 4], None),
    }
    options = schema.UnidirectionalSequenceLSTMOptionsT()
    options.fusedActivationFunction = schema.ActivationFunctionType.TANH
    peepholes, projection = [None] * 3, [None] * 2
    weights = [*list(tensors)[1:9], *peepholes, *list(tensors)[9:13], *projection]
    inputs = ["x", *weights, "h", "c", *[None] * 4]
    return by_hand(tensors, inputs, "UNIDIRECTIONAL_SEQUENCE_LSTM", options)


def _svdf() -> bytes:
    """A layer of keyword spotting, which remembers its last six inputs."""
    tensors = {
        "x": ([1, 3], None),
        "features": _drawn(4, 3),
        "times": _drawn(4, 6),
        "bias": _drawn(4),
        "memory": ([1, 24], STATE),
        "y": ([1, 4], None),
    }
    options = schema.SVDFOptionsT()
    options.rank = 1
    return by_hand(tensors, ["x", "features", "times", "bias", "memory"], "SVDF", options)


_BY_HAND: dict[str, Callable[[], bytes]] = {"lstm": _lstm, "svdf": _svdf}
_MODULES = {"stream": _Stream, "loop": _Loop, "random": _Random, "lacking": _Lacking}


@cache
def content(name: str) -> bytes:
    """Return one of these files, or one of the zoo's."""
    if name in _BY_HAND:
        return _BY_HAND[name]()
    if name not in _MODULES:
        return of_zoo(name)
    module = _MODULES[name]()
    function = module.__call__.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
    converter.experimental_enable_resource_variables = True
    if name == "lacking":
        sets = tf.lite.OpsSet
        converter.target_spec.supported_ops = [sets.TFLITE_BUILTINS, sets.SELECT_TF_OPS]
    converted: bytes = converter.convert()
    return converted


def written(name: str, folder: Path, change: Callable[[Any], None] | None = None) -> Path:
    """Write one of the files, after a change to what it holds."""
    path = folder / f"{name}.tflite"
    whole = content(name)
    if change is not None:
        model = schema.ModelT.InitFromPackedBuf(whole, 0)
        change(model)
        builder = flatbuffers.Builder()
        builder.Finish(model.Pack(builder), b"TFL3")
        whole = bytes(builder.Output())
    path.write_bytes(whole)
    return path
