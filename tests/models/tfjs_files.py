"""Files of TensorFlow.js, written as its format says, by none of its own code."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from google.protobuf.json_format import MessageToDict

v1 = tf.compat.v1
# How a weight is quantised: the type of the whole numbers, and how they become its values.
Quantised = tuple[str, float, float]


def write(
    folder: Path,
    topology: Mapping[str, Any],
    weights: Mapping[str, np.ndarray],
    *,
    shard: int = 64,
    quantised: Mapping[str, Quantised] | None = None,
    **more: Any,
) -> Path:
    """Write `model.json` and shards of so many bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    listed, content = [], b""
    for name, array in weights.items():
        entry: dict[str, Any] = {"name": name, "shape": list(array.shape)}
        entry["dtype"] = "string" if array.dtype == object else array.dtype.name
        if quantised and name in quantised:
            dtype, scale, least = quantised[name]
            entry["quantization"] = {"dtype": dtype, "original_dtype": entry["dtype"]}
            if dtype != "float16":
                entry["quantization"] |= {"scale": scale, "min": least}
                array = np.round((array.astype(np.float64) - least) / scale)
            array = array.astype(dtype)
        content += _bytes(array)
        listed.append(entry)
    paths = []
    count = max(1, -(-len(content) // shard))
    for number in range(count):
        name = f"group1-shard{number + 1}of{count}.bin"
        (folder / name).write_bytes(content[number * shard : (number + 1) * shard])
        paths.append(name)
    document = {"modelTopology": topology, **more}
    document["weightsManifest"] = [{"paths": paths, "weights": listed}]
    (folder / "model.json").write_text(json.dumps(document))
    return folder


def _bytes(array: np.ndarray) -> bytes:
    if array.dtype == object:
        return b"".join(len(text).to_bytes(4, "little") + text for text in array.ravel())
    return array.tobytes()


def layers_model(model: Any, folder: Path, **more: Any) -> Path:
    """Write a model of Keras 2 (tf-keras)."""
    topology = {
        "keras_version": "2.15.0",
        "backend": "tensorflow",
        "model_config": {
            "class_name": type(model).__name__,
            "config": json.loads(model.to_json())["config"],
        },
    }
    weights = {w.name.removesuffix(":0"): w.numpy() for w in model.weights}
    return write(folder, topology, weights, format="layers-model", **more)


def graph_model(
    graph_def: Any, inputs: Sequence[str], outputs: Mapping[str, str], folder: Path, **more: Any
) -> Path:
    """Write a frozen GraphDef, the values of its constants apart."""
    weights: dict[str, np.ndarray] = {}
    bare = tf.compat.v1.GraphDef.FromString(graph_def.SerializeToString())
    for node in bare.node:
        if node.op == "Const":
            value = tf.make_ndarray(node.attr["value"].tensor)
            if value.dtype == np.int64:
                value = value.astype(np.int32)
            weights[node.name] = value
            tensor = node.attr["value"].tensor
            kept = tf.TensorShape(tensor.tensor_shape).as_proto(), tensor.dtype
            tensor.Clear()
            tensor.tensor_shape.CopyFrom(kept[0])
            tensor.dtype = kept[1]
    signature = {
        "inputs": {name: {"name": f"{name}:0"} for name in inputs},
        "outputs": {key: {"name": name} for key, name in outputs.items()},
    }
    topology = MessageToDict(bare, preserving_proto_field_name=False)
    return write(folder, topology, weights, format="graph-model", signature=signature, **more)


def small_keras() -> Any:
    layers = tf_keras.layers
    inner = tf_keras.Sequential([layers.Input((4, 5)), layers.LSTM(3)], name="inner")
    x = layers.Input((8,), name="x")
    hidden = layers.Dense(20, activation="relu", name="hidden")(x)
    normal = layers.BatchNormalization(name="normal")(hidden)
    out = layers.Dense(2, name="out")(inner(layers.Reshape((4, 5))(normal)))
    model = tf_keras.Model(x, out, name="small")
    generator = np.random.default_rng(2)
    model.set_weights([generator.uniform(0.1, 1, w.shape) for w in model.get_weights()])
    return model


def small_graph() -> Any:
    """Two inputs, a 64-bit constant, a text, a depthwise convolution."""
    generator = np.random.default_rng(3)
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [None, 6, 6, 3], "x")
        filters = tf.constant(generator.normal(size=(3, 3, 3, 2)), tf.float32, name="filters")
        bias = tf.constant(generator.normal(size=6), tf.float32, name="bias")
        convolved = tf.nn.depthwise_conv2d(x, filters, [1, 1, 1, 1], "SAME", name="depthwise")
        hidden = tf.nn.relu6(tf.nn.bias_add(convolved, bias), name="hidden")
        axes = tf.constant([1, 2], tf.int64, name="axes")
        tf.reduce_mean(hidden, axes, name="pooled")
        tf.gather(tf.constant([b"a\0", b"", b"ccc"], name="words"), [2, 0, 1], name="named")
    return graph.as_graph_def()
