"""Quantised types of TensorFlow, against a plain session."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from extractkit.core.requests import Value
from extractkit.core.values import Array
from extractkit.models import Compilation, Fetch
from extractkit.models.frozen_graph import load
from extractkit.models.in_memory import live_model
from extractkit.models.sessions import SessionModel
from extractkit.testing.models import drawn

v1 = tf.compat.v1

_WEIGHTS = np.random.default_rng(0).integers(0, 256, (4, 3), np.uint8)
_SIGNED = np.random.default_rng(1).integers(-128, 128, (3,), np.int8)


def _constant(graph: tf.Graph, values: Array, dtype: tf.DType, name: str) -> tf.Tensor:
    """A constant of a quantised type, which no function of TensorFlow's makes."""
    proto = v1.make_tensor_proto(values)
    proto.dtype = dtype.as_datatype_enum
    attributes = {
        "value": v1.AttrValue(tensor=proto),
        "dtype": v1.AttrValue(type=dtype.as_datatype_enum),
    }
    return graph.create_op("Const", [], [dtype], name=name, attrs=attributes).outputs[0]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight-bit weights and activations as `graph_transforms` leaves them."""
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [None, 4], name="x")
        weights = _constant(graph, _WEIGHTS, tf.quint8, "weights")
        bias = _constant(graph, _SIGNED, tf.qint8, "bias")
        raw = tf.raw_ops
        for mode in ("MIN_FIRST", "MIN_COMBINED"):
            raw.Dequantize(input=weights, min_range=-1.3, max_range=1.1, mode=mode, name=mode)
        real = raw.Dequantize(input=bias, min_range=-2.0, max_range=2.0, mode="SCALED", name="real")
        q, low, high = raw.QuantizeV2(
            input=x, min_range=-3.0, max_range=3.0, T=tf.quint8, mode="MIN_FIRST", name="quantize"
        )
        product, least, most = raw.QuantizedMatMul(
            a=q, b=weights, min_a=low, max_a=high, min_b=-1.3, max_b=1.1, Toutput=tf.qint32,
            name="product",
        )  # fmt: skip
        made = raw.Dequantize(input=product, min_range=least, max_range=most, mode="MIN_FIRST")
        tf.add(made, real, name="y")
        path = tmp_path_factory.mktemp("quantized") / "graph.pb"
        path.write_bytes(graph.as_graph_def().SerializeToString())
    return path


def by_session(file: Path, names: list[str], x: Array) -> list[Any]:
    """The tensors in a session of TensorFlow's."""
    graph_def = v1.GraphDef.FromString(file.read_bytes())
    with tf.Graph().as_default(), v1.Session() as session:
        tf.graph_util.import_graph_def(graph_def, name="")
        return list(session.run(names, {"x:0": x}))


@pytest.fixture(scope="module")
def model(file: Path) -> SessionModel:
    return load(str(file))


def test_constants_are_the_raw_integers(model: SessionModel) -> None:
    assert model.catalog["weights:0"].spec.dtype == "uint8"
    assert model.catalog["bias:0"].spec.dtype == "int8"
    weights, bias = model.constants([Fetch(Value("weights:0")), Fetch(Value("bias:0"))])
    np.testing.assert_array_equal(weights, _WEIGHTS)
    np.testing.assert_array_equal(bias, _SIGNED)
    assert weights.dtype == np.uint8
    assert bias.dtype == np.int8
    assert len(model.weights_digest()) == 64


def test_values_are_those_of_a_session(model: SessionModel, file: Path) -> None:
    batch = drawn(model, 3)
    names = ["quantize:0", "product:0", "y:0"]
    ours = model.program([Fetch(Value(name)) for name in names], Compilation())(
        batch.features, batch.lengths
    )
    q, product, y = by_session(file, names, batch.features["x"])
    np.testing.assert_array_equal(ours[0], q.astype(q.dtype[0] if q.dtype.names else q.dtype))
    np.testing.assert_array_equal(ours[1], product.astype(np.int32))
    np.testing.assert_array_equal(ours[2], y)
    assert [value.dtype.name for value in ours] == ["uint8", "int32", "float32"]


def test_scale_and_zero_point_say_what_the_integers_stand_for(
    model: SessionModel, file: Path
) -> None:
    described = model.describe()["quantized"]
    assert isinstance(described, dict)
    names = {address: [one["by"] for one in entries] for address, entries in described.items()}
    assert names == {"weights:0": ["MIN_FIRST", "MIN_COMBINED"], "bias:0": ["real"]}
    for address, entries in described.items():
        (raw,) = model.constants([Fetch(Value(address))])
        for one in entries:
            (expected,) = by_session(file, [f"{one['by']}:0"], np.zeros((1, 4), np.float32))
            real = (raw.astype(np.float64) - one["zero_point"]) * one["scale"]
            np.testing.assert_allclose(real, expected, rtol=1e-5, atol=1e-6)


def test_a_model_with_ragged_tensors_inside_is_described() -> None:
    class Rows(tf_keras.layers.Layer):  # type: ignore[misc]
        def call(self, x: tf.Tensor) -> tf.RaggedTensor:
            return tf.RaggedTensor.from_tensor(x)

    class Mean(tf_keras.layers.Layer):  # type: ignore[misc]
        def call(self, x: tf.RaggedTensor) -> tf.Tensor:
            return tf.reduce_mean(x, 1)

    inputs = tf_keras.Input((3,))
    model = live_model(tf_keras.Model(inputs, Mean()(Rows(name="rows")(inputs))))
    assert "RaggedTensor" in (model.catalog["rows:output"].reason or "")
    described = model.describe()
    assert described["parameters"] == 0
    assert "quantized" not in described
