"""Values of every step in the cells of recurrent layers, against cells that are called by hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import extractkit
from extractkit.core.catalog import Kind
from extractkit.core.values import Array
from extractkit.models.in_memory import live_model
from tests.models.programs import values_of

layers = keras.layers
DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(4, 6, 3)).astype(np.float32)


def drawn(model: Any) -> Any:
    """The model with weights of which none is zero."""
    draw = np.random.default_rng(0).normal
    model.set_weights([draw(size=one.shape).astype("f") for one in model.get_weights()])
    return model


def around(layer: Any, *shape: int | None) -> Any:
    x = keras.Input(shape, name="x")
    return drawn(keras.Model(x, layer(x)))


def by_hand(cell: Any, x: Array, states: Sequence[Any]) -> list[list[Array]]:
    """The states after each step, from calls of the cell outside of a loop, in a graph."""

    @tf.function
    def step(x: tf.Tensor, states: Sequence[tf.Tensor]) -> Any:
        return cell(x, states)[1]

    steps = []
    for at in range(x.shape[1]):
        states = tf.nest.flatten(step(tf.constant(x[:, at]), states))
        steps.append([state.numpy() for state in states])
    return steps


def zeros(*sizes: int, samples: int = 4) -> list[tf.Tensor]:
    return [tf.zeros((samples, size)) for size in sizes]


def stored(model: Any, path: str, inputs: Any, run_dir: Path, *overrides: str) -> Any:
    selectors = {"steps": {"path": path, "kind": "layer_output"}}
    return extractkit.extract(
        [*overrides], selectors=selectors, model=model, inputs=inputs, run_dir=run_dir
    )


@pytest.mark.parametrize(
    ("layer", "path", "sizes"),
    [
        (lambda: layers.LSTM(4, name="rnn"), "lstm_cell", (4, 4)),
        (lambda: layers.GRU(4, name="rnn"), "gru_cell", (4,)),
        (lambda: layers.GRU(4, reset_after=False, name="rnn"), "gru_cell", (4,)),
        (lambda: layers.SimpleRNN(4, name="rnn"), "simple_rnn_cell", (4,)),
    ],
    ids=["LSTM", "GRU", "GRU without reset_after", "SimpleRNN"],
)
def test_states_at_each_step_equal_those_of_a_cell_called_by_hand(
    layer: Any, path: str, sizes: tuple[int, ...]
) -> None:
    model = live_model(around(layer(), 6, 3))
    cell = model.keras_model.get_layer("rnn").cell
    keys = [f"rnn/{path}:output.1.{at}" for at in range(len(sizes))]
    found = list(values_of(model, keys, {"x": X}).values())
    for step, states in enumerate(by_hand(cell, X, zeros(*sizes))):
        for state, value in zip(states, found, strict=True):
            np.testing.assert_allclose(value[step], state, atol=1e-6)


def test_stacked_cells_have_each_their_steps() -> None:
    cells = layers.StackedRNNCells([layers.LSTMCell(4), layers.GRUCell(3)])
    model = live_model(around(layers.RNN(cells, name="rnn"), 6, 3))
    keys = [
        *(f"rnn/stacked_rnn_cells/lstm_cell:output.1.{at}" for at in range(2)),
        "rnn/stacked_rnn_cells/gru_cell:output.1.0",
    ]
    found = list(values_of(model, keys, {"x": X}).values())
    lstm, gru = model.keras_model.get_layer("rnn").cell.cells
    h, c, g = *zeros(4, 4), *zeros(3)
    for step in range(6):
        ((h, c),) = by_hand(lstm, X[:, step : step + 1], [h, c])
        ((g,),) = by_hand(gru, h[:, None], [g])
        for value, state in zip(found, (h, c, g), strict=True):
            np.testing.assert_allclose(value[step], state, atol=1e-6)


class Leaky(layers.Layer):
    """A cell of one's own, with a layer inside."""

    state_size = output_size = 4

    def __init__(self) -> None:
        super().__init__(name="leaky")
        self.inner = layers.Dense(4, name="inner")

    def build(self, shape: Any) -> None:
        self.inner.build(shape)
        self.built = True

    def call(self, x: Any, states: Any) -> Any:
        h = 0.9 * states[0] + 0.1 * keras.ops.tanh(self.inner(x))
        return h, [h]


def test_a_layer_inside_a_cell_of_ones_own_has_every_step(tmp_path: Path) -> None:
    model = around(layers.RNN(Leaky(), name="rnn"), 6, 3)
    run = stored(model, "rnn/leaky/inner:output", X, tmp_path / "run")
    view = run["rnn/leaky/inner:output"]
    assert view.dims == ("sample", "step", "feature")
    dense = model.get_layer("rnn").cell.inner
    np.testing.assert_allclose(np.asarray(view), np.asarray(dense(X)), atol=1e-6)


def test_a_convolutional_lstm_has_every_step(tmp_path: Path) -> None:
    x = DRAW.normal(size=(3, 4, 7, 6, 2)).astype(np.float32)
    layer = layers.ConvLSTM2D(3, 3, return_sequences=True, name="rnn")
    model = around(layer, *x.shape[1:])
    run = stored(model, "rnn*:output*", x, tmp_path / "run")
    np.testing.assert_array_equal(
        np.asarray(run["rnn/conv_lstm_cell:output"]), np.asarray(run["rnn:output"])
    )
    cell, states = layer.cell, [tf.zeros((3, 5, 4, 3))] * 2
    for step, (_, c) in enumerate(by_hand(cell, x, states)):
        np.testing.assert_allclose(
            np.asarray(run["rnn/conv_lstm_cell:output.1.1"])[:, step], c, atol=1e-6
        )


# ---- lengths, masks and directions

IDS = [DRAW.integers(1, 20, length).astype(np.int32) for length in (3, 7, 5, 1, 5, 2, 7)]


def reading(layer: Any, mask: bool) -> Any:
    x = keras.Input((None,), dtype="int32", name="ids")
    return drawn(keras.Model(x, layer(layers.Embedding(20, 6, mask_zero=mask)(x))))


def alone(model: Any, layer: str, ids: Array, backwards: bool = False) -> list[list[Array]]:
    """The states of a layer's cell on one sample, called by hand, without padding."""
    embedding = next(one for one in model.layers if isinstance(one, layers.Embedding))
    x = np.asarray(embedding(ids[None]))
    found = model.get_layer(layer)
    one = getattr(found, "backward_layer" if backwards else "forward_layer", found)
    sizes = np.atleast_1d(one.cell.state_size)
    return by_hand(one.cell, x[:, ::-1] if backwards else x, zeros(*sizes, samples=1))


@pytest.mark.parametrize("mask", [True, False], ids=["mask", "no mask"])
def test_each_sample_has_its_own_steps_whatever_is_in_its_batch(mask: bool, tmp_path: Path) -> None:
    model = reading(layers.LSTM(4, name="rnn"), mask)
    run = stored(model, "rnn/lstm_cell:output*", IDS, tmp_path / "run")
    assert str(run["rnn/lstm_cell:output"].spec.axes[1]) == "step=token"
    for at, ids in enumerate(IDS):
        steps = alone(model, "rnn", ids)
        for port, key in enumerate(("output.1.0", "output.1.1")):
            value = run[f"rnn/lstm_cell:{key}"].sample(at)
            np.testing.assert_allclose(value, [step[port][0] for step in steps], atol=1e-6)


@pytest.mark.parametrize("mask", [True, False], ids=["mask", "no mask"])
def test_steps_of_a_backward_layer_are_in_the_order_of_its_loop(mask: bool, tmp_path: Path) -> None:
    layer = layers.Bidirectional(layers.GRU(4, name="gru"), name="both")
    model = reading(layer, mask)
    run = stored(model, "both/*/gru_cell:output", IDS, tmp_path / "run")
    for name, backwards in (("forward", False), ("backward", True)):
        for at, ids in enumerate(IDS):
            steps = alone(model, "both", ids, backwards)
            value = run[f"both/{name}_gru/gru_cell:output"].sample(at)
            np.testing.assert_allclose(value, [step[0][0] for step in steps], atol=1e-6)


def test_batches_of_any_size_give_the_same_steps(tmp_path: Path) -> None:
    model = reading(layers.LSTM(4, name="rnn"), mask=True)
    path = "rnn/lstm_cell:output*"
    runs = [
        stored(model, path, IDS, tmp_path / str(size), f"runtime.batch_size={size}")
        for size in (1, 3, 7)
    ]
    for at in range(len(IDS)):
        first, *others = (run["rnn/lstm_cell:output.1.1"].sample(at) for run in runs)
        for other in others:
            np.testing.assert_allclose(other, first, atol=1e-6)


def test_a_second_layer_after_the_first_has_its_steps(tmp_path: Path) -> None:
    x = keras.Input((None, 3), name="x")
    h = layers.LSTM(4, return_sequences=True, name="one")(x)
    model = drawn(keras.Model(x, layers.LSTM(5, return_sequences=True, name="two")(h)))
    samples = [DRAW.normal(size=(length, 3)).astype(np.float32) for length in (2, 5, 3)]
    run = stored(model, "*:output", samples, tmp_path / "run")
    for at in range(3):
        for name in ("one", "two"):
            np.testing.assert_array_equal(
                run[f"{name}/lstm_cell:output"].sample(at), run[f"{name}:output"].sample(at)
            )


def test_the_fused_layers_of_keras_2_have_steps_by_operation(tmp_path: Path) -> None:
    x = tf_keras.Input((6, 3), name="x")
    model = tf_keras.Model(x, tf_keras.layers.LSTM(4, return_sequences=True, name="rnn")(x))
    run = extractkit.extract(
        selectors={"steps": {"path": "rnn:op/*", "op_type": "Mul"}, "out": {"path": "rnn:output"}},
        model=model,
        inputs=X,
        run_dir=tmp_path / "run",
    )
    output = np.asarray(run["rnn:output"])
    steps = [np.asarray(run[key]) for key in run if "Mul" in key]
    assert any(one.shape == output.shape and np.array_equal(one, output) for one in steps)


def test_a_stateful_layer_carries_its_state_from_step_to_step(tmp_path: Path) -> None:
    x = keras.Input(batch_shape=(2, 3, 3), name="x")
    layer = layers.LSTM(4, stateful=True, return_sequences=True, name="rnn")
    model = drawn(keras.Model(x, layer(x)))
    model = live_model(model, state="carry")
    run = stored(model, "rnn*:output", X[:, :3], tmp_path / "run")
    cell = np.asarray(run["rnn/lstm_cell:output"])
    np.testing.assert_array_equal(cell, np.asarray(run["rnn:output"]))


# ---- states and gates by name


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def lstm_by_hand(weights: Sequence[Array], x: Array) -> dict[str, Array]:
    """States and gates of an LSTM (samples, steps, units), in float64."""
    kernel, recurrent, bias = (np.asarray(one, np.float64) for one in weights)
    h = c = np.zeros((len(x), len(recurrent)))
    steps: dict[str, list[Array]] = {}
    for step in range(x.shape[1]):
        i, f, g, o = np.split(x[:, step] @ kernel + h @ recurrent + bias, 4, -1)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        c = f * c + i * g
        h = o * np.tanh(c)
        values = {"hidden": h, "cell": c, "gate.i": i, "gate.f": f, "gate.c": g, "gate.o": o}
        for name, value in values.items():
            steps.setdefault(name, []).append(value)
    return {name: np.stack(values, 1) for name, values in steps.items()}


def gru_by_hand(weights: Sequence[Array], x: Array) -> dict[str, Array]:
    """States and gates of a GRU (samples, steps, units), in float64."""
    kernel, recurrent, bias = (np.asarray(one, np.float64) for one in weights)
    h = np.zeros((len(x), len(recurrent)))
    steps: dict[str, list[Array]] = {}
    for step in range(x.shape[1]):
        z, r, n = np.split(x[:, step] @ kernel + bias[0], 3, -1)
        hz, hr, hn = np.split(h @ recurrent + bias[1], 3, -1)
        z, r = sigmoid(z + hz), sigmoid(r + hr)
        n = np.tanh(n + r * hn)
        h = z * h + (1 - z) * n
        for name, value in {"hidden": h, "gate.z": z, "gate.r": r, "gate.h": n}.items():
            steps.setdefault(name, []).append(value)
    return {name: np.stack(values, 1) for name, values in steps.items()}


def named_states(model: Any, run_dir: Path) -> dict[str, Any]:
    run = extractkit.extract(["selectors=rnn_states"], model=model, inputs=X, run_dir=run_dir)
    return {key.partition(":")[2]: run[key] for key in run}


@pytest.mark.parametrize("implementation", [1, 2])
@pytest.mark.parametrize("package", [keras, tf_keras], ids=["Keras 3", "Keras 2"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_states_and_gates_have_their_names(
    kind: str, package: Any, implementation: int, tmp_path: Path
) -> None:
    options = {"reset_after": True} if kind == "GRU" else {}
    cell = getattr(package.layers, f"{kind}Cell")(4, implementation=implementation, **options)
    x = package.layers.Input((6, 3), name="x")
    model = drawn(package.Model(x, package.layers.RNN(cell, name="rnn")(x)))
    found = named_states(model, tmp_path / "run")
    expected = (lstm_by_hand if kind == "LSTM" else gru_by_hand)(model.get_weights(), X)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dims == ("sample", "step", "feature")
        np.testing.assert_allclose(np.asarray(found[name]), value, atol=1e-5, err_msg=name)


def test_a_simple_cell_has_a_hidden_state_alone(tmp_path: Path) -> None:
    model = around(layers.SimpleRNN(4, return_sequences=True, name="rnn"), 6, 3)
    found = named_states(model, tmp_path / "run")
    assert list(found) == ["hidden"]
    np.testing.assert_allclose(np.asarray(found["hidden"]), model.predict(X), atol=1e-6)


def test_gates_follow_the_activations_of_the_cell(tmp_path: Path) -> None:
    options = {"activation": "softsign", "recurrent_activation": "hard_sigmoid"}
    model = around(layers.LSTM(4, name="rnn", **options), 6, 3)
    found = named_states(model, tmp_path / "run")
    assert set(np.unique(np.asarray(found["gate.f"]))) >= {0.0, 1.0}
    cell = np.asarray(found["gate.o"]) * keras.ops.softsign(np.asarray(found["cell"]))
    np.testing.assert_allclose(np.asarray(found["hidden"]), cell, atol=1e-6)


class Scaled(layers.LSTMCell):
    """A cell whose computation is overridden, so that only its equations show the gates."""

    def call(self, x: Any, states: Any, training: bool = False) -> Any:
        return super().call(2 * x, states)


def test_a_cell_that_overrides_its_computation_has_states_by_its_equations(tmp_path: Path) -> None:
    model = around(layers.RNN(Scaled(4), name="rnn"), 6, 3)
    found = named_states(model, tmp_path / "run")
    expected = lstm_by_hand(model.get_weights(), 2 * X)
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(np.asarray(found[name]), value, atol=1e-5, err_msg=name)


def test_a_cell_of_other_equations_has_no_named_states() -> None:
    model = live_model(around(layers.RNN(Leaky(), name="rnn"), 6, 3))
    assert not [record for record in model.catalog.records if record.kind is Kind.STATE]


def test_tracing_leaves_the_activations_of_a_cell_as_they_are() -> None:
    layer = layers.LSTM(4, name="rnn")
    before = layer.cell.activation, layer.cell.recurrent_activation
    assert live_model(around(layer, 6, 3)).catalog
    assert (layer.cell.activation, layer.cell.recurrent_activation) == before
