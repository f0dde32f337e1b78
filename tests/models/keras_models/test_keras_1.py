"""Files of Keras 1, written by hand as keras 1.2.2 wrote them, against NumPy."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from extractkit.core.values import Array
from extractkit.errors import ModelError
from extractkit.models.keras_file import load
from extractkit.models.keras_models.old_configs import translated_layer
from tests.models.programs import values_of

UNITS = 3
STEPS = 4


def node(class_name: str, name: str, **config: Any) -> dict[str, Any]:
    return {"class_name": class_name, "config": {"name": name, "trainable": True, **config}}


def written(file: Path, config: Any, weights: dict[str, dict[str, Array]], version: str) -> Path:
    with h5py.File(file, "w") as opened:
        opened.attrs["model_config"] = json.dumps(config).encode()
        opened.attrs["keras_version"] = version.encode()
        group = opened.create_group("model_weights")
        group.attrs["keras_version"] = version.encode()
        group.attrs["layer_names"] = [name.encode() for name in weights]
        for layer, arrays in weights.items():
            inside = group.create_group(layer)
            inside.attrs["weight_names"] = [name.encode() for name in arrays]
            for name, array in arrays.items():
                inside[name] = array
    return file


def drawn(*shape: int, seed: int) -> Array:
    values: Array = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return values


def run(file: Path, batch: Array) -> Array:
    model = load(str(file))
    assert model.dialect.name == "Keras 2"
    return values_of(model, [":output"], {model.signature.specs[0].name: batch})[":output"]


def hard_sigmoid(x: Array) -> Array:
    return np.clip(0.2 * x + 0.5, 0, 1)


def test_convolutions_and_dense_layers(tmp_path: Path) -> None:
    kernel, bias = drawn(2, 2, 1, 3, seed=0), drawn(3, seed=1)
    dense, shift = drawn(12, 2, seed=2), drawn(2, seed=3)
    shared = {"init": "glorot_uniform", "W_regularizer": None, "b_regularizer": None}
    layers = [
        node(
            "Convolution2D",
            "convolution2d_1",
            batch_input_shape=[None, 5, 5, 1],
            input_dtype="float32",
            nb_filter=3,
            nb_row=2,
            nb_col=2,
            border_mode="valid",
            subsample=[1, 1],
            dim_ordering="tf",
            activation="relu",
            bias=True,
            activity_regularizer=None,
            W_constraint=None,
            b_constraint=None,
            **shared,
        ),
        node(
            "MaxPooling2D",
            "maxpooling2d_1",
            pool_size=[2, 2],
            strides=[2, 2],
            border_mode="valid",
            dim_ordering="tf",
        ),
        node("Dropout", "dropout_1", p=0.5),
        node("Flatten", "flatten_1"),
        node(
            "Dense", "dense_1", output_dim=2, activation="linear", bias=True, input_dim=12, **shared
        ),
    ]
    weights = {
        "convolution2d_1": {"convolution2d_1_W": kernel, "convolution2d_1_b": bias},
        "dense_1": {"dense_1_W": dense, "dense_1_b": shift},
    }
    config = {"class_name": "Sequential", "config": layers}
    file = written(tmp_path / "m.h5", config, weights, "1.2.2")
    x = drawn(2, 5, 5, 1, seed=4)
    convolved = np.zeros((2, 4, 4, 3), np.float32)
    for row in range(4):
        for column in range(4):
            patch = x[:, row : row + 2, column : column + 2]
            convolved[:, row, column] = np.einsum("nijc,ijcf->nf", patch, kernel) + bias
    pooled = np.maximum(convolved, 0).reshape(2, 2, 2, 2, 2, 3).max(axis=(2, 4))
    np.testing.assert_allclose(run(file, x), pooled.reshape(2, 12) @ dense + shift, atol=1e-5)


def test_an_lstm_keeps_its_twelve_arrays_apart(tmp_path: Path) -> None:
    gates = "icfo"
    arrays = {}
    for index, gate in enumerate(gates):
        arrays[f"lstm_1_W_{gate}"] = drawn(2, UNITS, seed=3 * index)
        arrays[f"lstm_1_U_{gate}"] = drawn(UNITS, UNITS, seed=3 * index + 1)
        arrays[f"lstm_1_b_{gate}"] = drawn(UNITS, seed=3 * index + 2)
    lstm = node(
        "LSTM",
        "lstm_1",
        batch_input_shape=[None, STEPS, 2],
        input_dim=2,
        input_length=None,
        output_dim=UNITS,
        init="glorot_uniform",
        inner_init="orthogonal",
        forget_bias_init="one",
        activation="tanh",
        inner_activation="hard_sigmoid",
        dropout_W=0.0,
        dropout_U=0.0,
        return_sequences=False,
        go_backwards=False,
        stateful=False,
        unroll=False,
        consume_less="cpu",
        W_regularizer=None,
        U_regularizer=None,
        b_regularizer=None,
    )
    config = {"class_name": "Sequential", "config": [lstm]}
    file = written(tmp_path / "m.h5", config, {"lstm_1": arrays}, "1.1.0")
    x = drawn(2, STEPS, 2, seed=40)
    state, memory = np.zeros((2, UNITS)), np.zeros((2, UNITS))
    for step in range(STEPS):
        i, c, f, o = (
            x[:, step] @ arrays[f"lstm_1_W_{g}"]
            + state @ arrays[f"lstm_1_U_{g}"]
            + arrays[f"lstm_1_b_{g}"]
            for g in gates
        )
        memory = hard_sigmoid(f) * memory + hard_sigmoid(i) * np.tanh(c)
        state = hard_sigmoid(o) * np.tanh(memory)
    np.testing.assert_allclose(run(file, x), state, atol=1e-5)


def test_graphs_of_layers_are_merged(tmp_path: Path) -> None:
    one, two = drawn(3, 2, seed=0), drawn(3, 2, seed=1)
    inputs = node("InputLayer", "input_1", batch_input_shape=[None, 3], input_dtype="float32")
    del inputs["config"]["trainable"]  # which keras 1.2.2 does not write of an input
    a, b = (node("Dense", name, output_dim=2, activation="tanh", bias=False) for name in "ab")
    total = node("Merge", "sum", mode="sum", concat_axis=-1, dot_axes=-1, layers=[])
    both = node("Merge", "both", mode="concat", concat_axis=1, layers=[])
    sources: dict[str, list[str]] = {
        "input_1": [], "a": ["input_1"], "b": ["input_1"], "sum": ["a", "b"], "both": ["sum", "b"]
    }  # fmt: skip
    layers = [
        {
            **each,
            "name": each["config"]["name"],
            "inbound_nodes": [[[source, 0, 0] for source in sources[each["config"]["name"]]]]
            if sources[each["config"]["name"]]
            else [],
        }
        for each in (inputs, a, b, total, both)
    ]
    ends = {"input_layers": [["input_1", 0, 0]], "output_layers": [["both", 0, 0]]}
    config = {"class_name": "Model", "config": {"name": "m", "layers": layers, **ends}}
    weights = {"a": {"a_W": one}, "b": {"b_W": two}}
    file = written(tmp_path / "m.h5", config, weights, "1.2.0")
    x = drawn(4, 3, seed=5)
    p, q = np.tanh(x @ one), np.tanh(x @ two)
    np.testing.assert_allclose(run(file, x), np.concatenate([p + q, q], axis=1), atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (
            node("MaxoutDense", "maxout", output_dim=3),
            "layer 'maxout' is a MaxoutDense of Keras 1, which is not translated. Nearest: "
            "'Dense', 'Flatten', 'MaxPooling1D'.",
        ),
        (
            node("BatchNormalization", "norm", mode=1, axis=-1, epsilon=1e-3, momentum=0.9),
            "layer 'norm' (BatchNormalization) has mode=1, for which Keras 2 has no setting",
        ),
        (
            node("Merge", "cut", mode="lambda"),
            "layer 'cut' (Merge) has mode='lambda', for which Keras 2 has no setting",
        ),
    ],
)
def test_what_cannot_be_translated_is_named(
    layer: dict[str, Any], text: str, tmp_path: Path
) -> None:
    config = {"class_name": "Sequential", "config": [layer]}
    file = written(tmp_path / "m.h5", config, {"x": {"x_W": drawn(2, seed=0)}}, "1.2.2")
    with pytest.raises(ModelError) as caught:
        load(str(file))
    assert str(caught.value) == f"model.path={str(file)!r}: {text}"


def test_layers_inside_layers_are_translated() -> None:
    dense = node("Dense", "d", output_dim=2, activation="relu", bias=True)
    translated = translated_layer(node("TimeDistributed", "each", layer=dense))
    assert translated["config"]["layer"] == {
        "class_name": "Dense",
        "config": {
            "name": "d", "trainable": True, "units": 2, "activation": "relu", "use_bias": True
        },
    }  # fmt: skip
