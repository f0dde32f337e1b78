"""Small models converted to TFLite, one for each thing that such a file can hold."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import flatbuffers
import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

SIDE, CHANNELS = 8, 2
KERNEL = np.arange(12, dtype=np.float32).reshape(3, 4) - 5


def _spec(shape: list[int | None], name: str = "x") -> tf.TensorSpec:
    return tf.TensorSpec(shape, tf.float32, name=name)


class _Two(tf.Module):
    """Two signatures, one without a sample axis."""

    @tf.function(input_signature=[_spec([2], "a"), _spec([], "b")])
    def arithmetic(self, a: tf.Tensor, b: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"sum": a + b, "product": a * b}

    @tf.function(input_signature=[_spec([None, 3])])
    def dense(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": tf.nn.relu(x @ tf.constant(KERNEL))}


class _Attention(tf.Module):
    """A free axis, an attention map over it, and positions whose number the values decide."""

    @tf.function(input_signature=[_spec([1, None, 3])])
    def __call__(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        hidden = tf.nn.relu(tf.einsum("btf,fg->btg", x, tf.constant(KERNEL / 10)))
        weights = tf.nn.softmax(tf.matmul(hidden, hidden, transpose_b=True))
        return {
            "pooled": tf.reduce_mean(weights @ hidden, 1),
            "positive": tf.reshape(tf.where(tf.reshape(x, [-1]) > 0), [-1]),
        }


class _Scalars(tf.Module):
    """Tensors without axes between operations, empty ones, and sizes as numbers."""

    @tf.function(input_signature=[_spec([1, None])])
    def __call__(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        mean = tf.reduce_mean(tf.abs(x), name="mean")
        return {
            "scaled": tf.nn.relu(x) / (mean + 1.0),
            "first": x * x[0, 0],
            "by_length": x / tf.cast(tf.shape(x)[1], tf.float32),
            "empty": tf.gather(x[0], tf.reshape(tf.where(x[0] > 1e6), [-1])),
            "branch": tf.cond(tf.reduce_sum(x) > 0, lambda: x * 2.0, lambda: x - 3.0),
            "mean": mean,
        }


def lacking_weights() -> np.ndarray[Any, np.dtype[np.float32]]:
    """Float32 (4, 3), of the model "flex"."""
    return np.random.default_rng(4).normal(size=(4, 3)).astype(np.float32)


class _Lacking(tf.Module):
    """An operation that LiteRT lacks (FlexErf), what comes before, beside and after it."""

    @tf.function(input_signature=[_spec([1, 4])])
    def __call__(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        hidden = tf.nn.relu(x @ tf.constant(lacking_weights()), name="hidden")
        after = tf.math.erf(hidden) * 2.0
        return {"after": after, "beside": hidden + tf.constant([1.0, 2, 3]), "hidden": hidden}


class _LackingInLoop(tf.Module):
    """The same in the body of a loop."""

    @tf.function(input_signature=[_spec([1, 3])])
    def __call__(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        (y,) = tf.while_loop(
            lambda y: tf.reduce_sum(y) < 100.0, lambda y: (tf.math.erf(y) + y,), [tf.abs(x) + 1]
        )
        return {"y": y, "twice": x * 2}


class _Total(tf.Module):
    """A state: what was given so far, added up."""

    def __init__(self) -> None:
        super().__init__()
        self.total = tf.Variable(tf.zeros([1, 3]), name="total")

    @tf.function(input_signature=[_spec([1, 3])])
    def __call__(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        self.total.assign_add(x)
        return {"total": self.total * 1.0, "double": x * 2}


class _Loop(tf.Module):
    """Doubled, and (1, 2, 3) added, until the sum is 100 or more."""

    @tf.function(input_signature=[_spec([1, 3])])
    def __call__(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        (y,) = tf.while_loop(
            lambda y: tf.reduce_sum(y) < 100.0,
            lambda y: (y * 2 + tf.constant([1.0, 2, 3]),),
            [tf.abs(x) + 1],
        )
        return {"y": y}


class _Noise(tf.Module):
    """Random numbers added in one output, none in the other."""

    @tf.function(input_signature=[_spec([1, 3])])
    def __call__(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"noisy": x + tf.random.uniform([1, 3]), "plain": x * 3}


class _NoiseInLoop(tf.Module):
    """The same in the body of a loop."""

    @tf.function(input_signature=[_spec([1, 3])])
    def __call__(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        (y,) = tf.while_loop(
            lambda y: tf.reduce_sum(y) < 100.0,
            lambda y: (y + tf.random.uniform([1, 3]),),
            [tf.abs(x) + 1],
        )
        return {"noisy": y, "plain": x * 3}


class _Convolution(tf.Module):
    """What is quantised in several ways; its float twin is the measure."""

    def __init__(self) -> None:
        super().__init__()
        draw = np.random.default_rng(0)
        self.kernel = tf.constant(draw.normal(size=(3, 3, CHANNELS, 4)).astype(np.float32))
        self.dense = tf.constant(draw.normal(size=(4, 3)).astype(np.float32))

    @tf.function(input_signature=[_spec([1, SIDE, SIDE, CHANNELS])])
    def __call__(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        hidden = tf.nn.relu(tf.nn.conv2d(x, self.kernel, 1, "VALID"), name="hidden")
        return {"y": tf.reduce_mean(hidden, [1, 2]) @ self.dense}


def recurrent_weights() -> dict[str, Any]:
    """Float32 (units, features), (units, units) and (units,) of the model "recurrent"."""
    draw = np.random.default_rng(2)
    shapes = {"kernel": (4, 3), "recurrent_kernel": (4, 4), "bias": (4,)}
    return {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def by_hand(
    tensors: Mapping[str, tuple[list[int], Any]], inputs: list[str | None], code: str, options: Any
) -> bytes:
    """A file of one operation that takes "x" and makes "y", which no converter writes any more.

    Args:
        tensors: Shape and value of each tensor; "state" for the value of a variable tensor.
        inputs: Names of what the operation takes; None for what is left out.
        options: Of the schema, named as the type of options is.
    """
    model = schema.ModelT()
    model.version = 3
    model.buffers = [schema.BufferT()]
    graph = schema.SubGraphT()
    graph.tensors = []
    for name, (shape, data) in tensors.items():
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.isVariable = name.encode(), shape, data is STATE
        if isinstance(data, np.ndarray):
            tensor.buffer = len(model.buffers)
            model.buffers.append(schema.BufferT())
            model.buffers[-1].data = np.frombuffer(data.tobytes(), np.uint8)
        graph.tensors.append(tensor)
    numbers = {name: number for number, name in enumerate(tensors)}
    operation = schema.OperatorT()
    operation.inputs = [-1 if name is None else numbers[name] for name in inputs]
    operation.outputs = [numbers["y"]]
    kind = type(options).__name__.removesuffix("T")
    operation.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
    operation.builtinOptions = options
    graph.operators, graph.inputs, graph.outputs = [operation], [numbers["x"]], [numbers["y"]]
    codes = schema.OperatorCodeT()
    codes.builtinCode = codes.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, code)
    model.operatorCodes, model.subgraphs = [codes], [graph]
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


STATE = "state"
"""Marks a variable tensor in `by_hand`."""


def _recurrent() -> bytes:
    """An RNN whose state is a variable tensor."""
    weights = recurrent_weights()
    options = schema.SequenceRNNOptionsT()
    options.fusedActivationFunction = schema.ActivationFunctionType.TANH
    tensors = {
        "x": ([1, 5, 3], None),
        **{name: (list(array.shape), array) for name, array in weights.items()},
        "state": ([1, 4], STATE),
        "y": ([1, 5, 4], None),
    }
    inputs: list[str | None] = ["x", *weights, "state"]
    return by_hand(tensors, inputs, "UNIDIRECTIONAL_SEQUENCE_RNN", options)


def images(count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Random images, float32 (count, SIDE, SIDE, CHANNELS)."""
    draw = np.random.default_rng(1)
    return draw.normal(size=(count, SIDE, SIDE, CHANNELS)).astype(np.float32)


def _int8(converter: Any) -> None:
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[None]] for image in images(100))
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8


def _float16(converter: Any) -> None:
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]


def _resources(converter: Any) -> None:
    converter.experimental_enable_resource_variables = True


def _flex(converter: Any) -> None:
    sets = tf.lite.OpsSet
    converter.target_spec.supported_ops = [sets.TFLITE_BUILTINS, sets.SELECT_TF_OPS]


def _as_it_is(converter: Any) -> None:
    pass


_Made = tuple[Callable[[], tf.Module], tuple[str, ...], Callable[[Any], None]]

_CONVERTED: Mapping[str, _Made] = {
    "two": (_Two, ("arithmetic", "dense"), _as_it_is),
    "attention": (_Attention, ("__call__",), _as_it_is),
    "scalars": (_Scalars, ("__call__",), _as_it_is),
    "flex": (_Lacking, ("__call__",), _flex),
    "flex_loop": (_LackingInLoop, ("__call__",), _flex),
    "total": (_Total, ("__call__",), _resources),
    "loop": (_Loop, ("__call__",), _as_it_is),
    "noise": (_Noise, ("__call__",), _as_it_is),
    "noise_loop": (_NoiseInLoop, ("__call__",), _as_it_is),
    "float32": (_Convolution, ("__call__",), _as_it_is),
    "float16": (_Convolution, ("__call__",), _float16),
    "int8": (_Convolution, ("__call__",), _int8),
}

MODELS = (*(name for name in _CONVERTED if not name.endswith("_loop")), "recurrent")


@cache
def content(name: str) -> bytes:
    """The file of one of the MODELS."""
    if name == "recurrent":
        return _recurrent()
    make, functions, configure = _CONVERTED[name]
    module = make()
    signatures = {
        "serving_default" if len(functions) == 1 else function: getattr(module, function)
        for function in functions
    }
    with TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures=signatures)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, [*signatures])
        configure(converter)
        converted: bytes = converter.convert()
    return converted


def changed(name: str, change: Callable[[Any], None]) -> bytes:
    """One of the MODELS after a change to the unpacked file."""
    model = schema.ModelT.InitFromPackedBuf(content(name), 0)
    change(model)
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def written(name: str, folder: Path) -> Path:
    """One of the MODELS as a file in a folder."""
    path = folder / f"{name}.tflite"
    if not path.exists():
        path.write_bytes(content(name))
    return path
