"""What Keras computes to learn shapes is not offered, and takes no name from the loop."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from extractkit.core.catalog import TensorRecord
from extractkit.core.values import Array
from extractkit.models.in_memory import live_model
from extractkit.models.keras_models.model import KerasModel
from tests.models.programs import values_of

BOTH = pytest.mark.parametrize("package", [keras, tf_keras], ids=["Keras 3", "Keras 2"])


def around(package: Any, layer: Any, *shape: int) -> KerasModel:
    x = package.layers.Input(shape, name="x")
    return live_model(package.Model(x, layer(x)))


def stacked(package: Any, **options: Any) -> Any:
    cells = [package.layers.LSTMCell(4), package.layers.GRUCell(3)]
    return package.layers.RNN(cells, name="rnn", **options)


def in_a_loop(record: TensorRecord) -> bool:
    return record.extractable and record.spec.axes[0].title == "step"


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def lstm_step(weights: list[Array], x: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
    kernel, recurrent, bias = weights
    i, f, g, o = np.split(x @ kernel + state[0] @ recurrent + bias, 4, -1)
    c = sigmoid(f) * state[1] + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru_step(weights: list[Array], x: Array, h: Array) -> Array:
    kernel, recurrent, (bias, recurrent_bias) = weights
    z, r, n = np.split(x @ kernel + bias, 3, -1)
    hz, hr, hn = np.split(h @ recurrent + recurrent_bias, 3, -1)
    z = sigmoid(z + hz)
    return z * h + (1 - z) * np.tanh(n + sigmoid(r + hr) * hn)


def by_hand(layer: Any, x: Array) -> list[tuple[Array, Array, Array]]:
    """`h` and `c` of the LSTM and `h` of the GRU, step by step, in float64."""
    weights = [np.asarray(one, np.float64) for one in layer.get_weights()]
    state, h, steps = (np.zeros((len(x), 4)), np.zeros((len(x), 4))), np.zeros((len(x), 3)), []
    for step in range(x.shape[1]):
        state = lstm_step(weights[:3], x[:, step], state)
        h = gru_step(weights[3:], state[0], h)
        steps.append((*state, h))
    return steps


def offered(model: KerasModel, x: Array) -> dict[str, Array]:
    """Every value of real numbers that can be extracted."""
    keys = [
        record.address
        for record in model.catalog.records
        if record.extractable and record.depends_on_inputs and record.spec.dtype == "float32"
    ]
    return values_of(model, keys, {"x": x})


def equal(found: dict[str, Array], value: Array) -> list[str]:
    return [
        address
        for address, one in found.items()
        if one.shape == value.shape and np.allclose(one, value, atol=1e-5)
    ]


@BOTH
def test_no_offered_value_is_that_of_a_probing_call(package: Any) -> None:
    model = around(package, stacked(package), 5, 3)
    weights = model.keras_model.get_layer("rnn").get_weights()
    draw = np.random.default_rng(0).normal
    model.keras_model.set_weights([draw(size=weight.shape) for weight in weights])
    x = draw(size=(2, 5, 3)).astype(np.float32)
    steps = by_hand(model.keras_model.get_layer("rnn"), x)
    found = offered(model, x)
    assert equal(found, steps[-1][2])[-2:] == ["rnn:output", ":output"]
    probed = {name: equal(found, value) for name, value in zip("hcg", steps[0], strict=True)}
    assert probed == {"h": [], "c": [], "g": []}


@BOTH
def test_the_call_inside_the_loop_has_the_plain_name(package: Any) -> None:
    catalog = around(package, stacked(package), 5, 3).catalog
    for path in ("", "/lstm_cell", "/gru_cell"):
        assert in_a_loop(catalog[f"rnn/stacked_rnn_cells{path}:output"])
    assert not [record.address for record in catalog.records if "@2:" in record.address]
    cells = {record.address.partition(":")[0] for record in catalog.records} - {"", "rnn"}
    assert cells == {f"rnn/stacked_rnn_cells{path}" for path in ("", "/lstm_cell", "/gru_cell")}


@BOTH
def test_unrolled_steps_are_counted_from_the_first(package: Any) -> None:
    model = around(package, stacked(package, unroll=True), 3, 3)
    x = np.random.default_rng(0).normal(size=(2, 3, 3)).astype(np.float32)
    steps = by_hand(model.keras_model.get_layer("rnn"), x)
    calls = ["", "@2", "@3"]
    keys = [f"rnn/stacked_rnn_cells{call}/lstm_cell:output" for call in calls]
    for value, (h, _, _) in zip(values_of(model, keys, {"x": x}).values(), steps, strict=True):
        np.testing.assert_allclose(value, h, atol=1e-5)
    assert not [r for r in model.catalog.records if r.address.startswith("rnn/lstm_cell")]


def custom_cell(package: Any) -> Any:
    """A cell with a layer inside."""

    class Cell(package.layers.Layer):
        state_size = output_size = 4

        def __init__(self) -> None:
            super().__init__(name="cell")
            self.inner = package.layers.Dense(4, name="inner")

        def build(self, shape: Any) -> None:
            self.inner.build(shape)
            self.built = True

        def call(self, x: Any, states: Any) -> Any:
            h = package.activations.tanh(self.inner(x) + 0.5 * states[0])
            return h, [h]

    return package.layers.RNN(Cell(), name="rnn")


def rnn_in_rnn(package: Any) -> Any:
    """An RNN whose cell splits each step into three shorter ones and runs an RNN over them."""

    class Cell(package.layers.Layer):
        state_size = output_size = 4

        def __init__(self) -> None:
            super().__init__(name="cell")
            self.inner = package.layers.RNN(package.layers.LSTMCell(4), name="inner")

        def build(self, shape: Any) -> None:
            self.inner.build((None, 3, 2))
            self.built = True

        def call(self, x: Any, states: Any) -> Any:
            h = self.inner(tf.reshape(x, (-1, 3, 2))) + 0.5 * states[0]
            return h, [h]

    return package.layers.RNN(Cell(), name="rnn")


def own_loop(package: Any) -> Any:
    """A layer of a user's own that runs `backend.rnn`."""

    class Loop(package.layers.Layer):
        def call(self, x: Any) -> Any:
            def step(x: Any, states: Any) -> Any:
                h = package.activations.tanh(x + 0.5 * states[0])
                return h, [h]

            return package.backend.rnn(step, x, [x[:, 0] * 0])[0]

    return Loop(name="rnn")


NEIGHBOURS: dict[str, tuple[Any, Callable[[Any], Any], tuple[int, ...]]] = {
    "LSTM": (keras, lambda k: k.layers.LSTM(4), (5, 3)),
    "dropout": (keras, lambda k: k.layers.LSTM(4, dropout=0.5), (5, 3)),
    "custom cell 3": (keras, custom_cell, (5, 3)),
    "custom cell 2": (tf_keras, custom_cell, (5, 3)),
    "RNN in RNN 3": (keras, rnn_in_rnn, (5, 6)),
    "RNN in RNN 2": (tf_keras, rnn_in_rnn, (5, 6)),
    "convolutional 3": (keras, lambda k: k.layers.ConvLSTM1D(4, 2), (5, 6, 3)),
    "convolutional 2": (tf_keras, lambda k: k.layers.ConvLSTM1D(4, 2), (5, 6, 3)),
    "own loop": (tf_keras, own_loop, (5, 4)),
}


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_neighbours_offer_no_probing_call_either(name: str) -> None:
    package, build, shape = NEIGHBOURS[name]
    layer = build(package)
    model = around(package, layer, *shape)
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    first = np.asarray(layer(x[:, :1]))  # a probing call sees the first step alone
    assert equal(offered(model, x), first) == []


@BOTH
def test_nested_loops_have_the_plain_names(package: Any) -> None:
    catalog = around(package, rnn_in_rnn(package), 5, 6).catalog
    for path in ("cell", "cell/inner", "cell/inner/lstm_cell"):
        assert in_a_loop(catalog[f"rnn/{path}:output"])
    assert not [record.address for record in catalog.records if "@2:" in record.address]


@BOTH
def test_cells_of_both_directions_have_the_plain_names(package: Any) -> None:
    both = package.layers.Bidirectional(stacked(package), name="both")
    catalog = around(package, both, 5, 3).catalog
    for direction in ("forward", "backward"):
        for cell in ("lstm_cell", "gru_cell"):
            address = f"both/{direction}_rnn/stacked_rnn_cells/{cell}:output"
            assert in_a_loop(catalog[address])
    assert not [record.address for record in catalog.records if "@2:" in record.address]


def test_around_other_layers_no_probing_call_is_offered() -> None:
    backwards = keras.layers.Bidirectional(stacked(keras), name="both")
    for layer, shape in [
        (backwards, (5, 3)),
        (keras.layers.TimeDistributed(keras.layers.LSTM(2), name="each"), (2, 5, 3)),
    ]:
        catalog = around(keras, layer, *shape).catalog
        outputs = [r for r in catalog.records if "cell:output" in r.address]
        assert outputs
        assert all(map(in_a_loop, outputs))
