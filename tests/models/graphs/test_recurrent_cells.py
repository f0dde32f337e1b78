"""States and gates of cells that only their equations show, against NumPy in float64."""

from collections.abc import Callable, Mapping
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
from extractkit.models.functions import inputs_of, outputs_of
from extractkit.models.functions.callables import graph_function
from extractkit.models.keras_models.dialects import keras_2
from extractkit.models.saved_model import load as saved_model
from tests.models.keras_models.test_cells import gru_by_hand, lstm_by_hand, sigmoid

DRAW = np.random.default_rng(0)
IDS = [DRAW.integers(1, 20, length).astype(np.int32) for length in (3, 7, 5, 1)]
BY_HAND: Mapping[str, Callable[..., dict[str, Array]]] = {"LSTM": lstm_by_hand, "GRU": gru_by_hand}


def stacked(package: Any, kind: str, mask: bool = True, **options: Any) -> Any:
    """Embedded tokens, a layer in both directions, and a second layer on its results."""
    layers = package.layers
    layer = getattr(layers, kind)
    ids = package.Input((None,), dtype="int32", name="ids")
    x = layers.Embedding(20, 6, mask_zero=mask, name="table")(ids)
    both = layers.Bidirectional(layer(4, return_sequences=True, **options), name="both")(x)
    model = package.Model(ids, layer(5, name="top", **options)(both))
    draw = np.random.default_rng(1).normal
    model.set_weights([draw(size=one.shape).astype("f") for one in model.get_weights()])
    return model


def expected(model: Any, kind: str, ids: Array) -> list[dict[str, Array]]:
    """States and gates of one sample alone: forward, backward in its own order, and on top."""
    table, *weights = model.get_weights()
    x = table[ids][None]
    each = len(weights) // 3
    forward, backward, top = (weights[at : at + each] for at in (0, each, 2 * each))
    ahead, back = BY_HAND[kind](forward, x), BY_HAND[kind](backward, x[:, ::-1])
    both = np.concatenate([ahead["hidden"], back["hidden"][:, ::-1]], -1)
    return [ahead, back, BY_HAND[kind](top, both)]


def check_states(run: Any, model: Any, kind: str) -> None:
    """Compare states and gates of all layers with those of each sample alone."""
    wanted = list(BY_HAND[kind](model.get_weights()[1:4], np.zeros((1, 1, 6))))
    assert [key.partition(":")[2] for key in run] == 3 * wanted
    places = list(dict.fromkeys(key.partition(":")[0] for key in run))
    assert ["forward" in places[0], "backward" in places[1], "top" in places[2]] == [True] * 3
    for at, ids in enumerate(IDS):
        for place, values in zip(places, expected(model, kind, ids), strict=True):
            for port, value in values.items():
                view = run[f"{place}:{port}"]
                assert view.dims[:2] == ("sample", "step")
                found = view.sample(at)
                np.testing.assert_allclose(found, value[0], atol=2e-5, err_msg=f"{place}:{port}")


def states(model: Any, run_dir: Path, **given: Any) -> Any:
    return extractkit.extract(["selectors=rnn_states"], model=model, run_dir=run_dir, **given)


@pytest.mark.parametrize(("kind", "mask"), [("LSTM", True), ("GRU", False)])
def test_fused_layers_of_keras_2_have_the_states_of_each_sample(
    kind: str, mask: bool, tmp_path: Path
) -> None:
    model = stacked(tf_keras, kind, mask)
    run = states(model, tmp_path / "run", inputs=IDS)
    assert next(iter(run)) == f"both/forward_{kind.lower()}:hidden"
    check_states(run, model, kind)


@pytest.mark.parametrize(
    ("kind", "package"),
    [
        ("LSTM", keras),
        ("GRU", keras),
        # Saving takes most of the time.
        pytest.param("GRU", tf_keras, marks=pytest.mark.thorough),
    ],
)
def test_saved_models_have_the_states_of_each_sample(
    kind: str, package: Any, tmp_path: Path
) -> None:
    model, path = stacked(package, kind), str(tmp_path / "saved")
    if package is keras:
        model.export(path, verbose=False)
    else:
        # Without gradients of its loops, which take a minute.
        with keras_2(tf_keras).inference():
            model.save(path, save_format="tf")
    run = states(saved_model(path), tmp_path / "run", inputs=IDS)
    check_states(run, model, kind)


# ---- equations

X = DRAW.normal(size=(4, 6, 3)).astype(np.float32)
KERNEL, RECURRENT = DRAW.normal(size=(3, 16)), DRAW.normal(size=(4, 16))
BIAS = DRAW.normal(size=16)
Step = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def looped(step: Step) -> Any:
    """A function that runs a step from (x, h, c) to (h, c) over the second axis of its input."""

    @tf.function(input_signature=[tf.TensorSpec([None, None, 3], tf.float32, name="x")])
    def function(x: tf.Tensor) -> tf.Tensor:
        zeros = tf.zeros([tf.shape(x)[0], 4])
        return tf.while_loop(
            lambda at, *_: at < tf.shape(x)[1],
            lambda at, h, c: (at + 1, *step(x[:, at], h, c)),
            (tf.constant(0), zeros, zeros),
        )[1]

    return function


def found_in(step: Step) -> list[str]:
    concrete = looped(step).get_concrete_function()
    model = graph_function("model", concrete, inputs_of(concrete), outputs_of(concrete))
    return [one.address for one in model.catalog.records if one.kind is Kind.STATE]


def summed(x: tf.Tensor, h: tf.Tensor) -> tf.Tensor:
    kernel, recurrent, bias = (tf.constant(one, tf.float32) for one in (KERNEL, RECURRENT, BIAS))
    return x @ kernel + h @ recurrent + bias


def old_order(x: tf.Tensor, h: tf.Tensor, c: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The order of TensorFlow 1, with 1 added to the forget gate, and factors swapped."""
    i, g, f, o = tf.split(summed(x, h), 4, -1)
    c = tf.tanh(g) * tf.sigmoid(i) + c * tf.sigmoid(f + 1.0)
    return tf.tanh(c) * tf.sigmoid(o), c


def one_activation(x: tf.Tensor, h: tf.Tensor, c: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Gates and candidate with the same activation, in the order of PyTorch."""
    i, f, g, o = tf.split(summed(x, h), 4, -1)
    c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.sigmoid(g)
    return tf.sigmoid(o) * tf.sigmoid(c), c


def columns(order: str) -> list[Array]:
    """The weights with the columns of gates in the order of Keras."""
    at = {name: position for position, name in enumerate(order)}
    taken = np.concatenate([np.arange(4) + 4 * at[name] for name in "ifgo"])
    return [KERNEL[:, taken], RECURRENT[:, taken], BIAS[taken]]


def by_hand(
    order: str, forget: float, candidate: Callable[[Array], Array], out: Callable[[Array], Array]
) -> dict[str, Array]:
    kernel, recurrent, bias = columns(order)
    h = c = np.zeros((len(X), 4))
    steps: dict[str, list[Array]] = {}
    for at in range(X.shape[1]):
        i, f, g, o = np.split(X[:, at] @ kernel + h @ recurrent + bias, 4, -1)
        i, f, g, o = sigmoid(i), sigmoid(f + forget), candidate(g), sigmoid(o)
        c = f * c + i * g
        h = o * out(c)
        values = {"hidden": h, "cell": c, "gate.i": i, "gate.f": f, "gate.c": g, "gate.o": o}
        for port, value in values.items():
            steps.setdefault(port, []).append(value)
    return {port: np.stack(values, 1) for port, values in steps.items()}


@pytest.mark.parametrize(
    ("step", "wanted"),
    [
        (old_order, lambda: by_hand("igfo", 1, np.tanh, np.tanh)),
        (one_activation, lambda: by_hand("ifgo", 0, sigmoid, sigmoid)),
    ],
)
def test_roles_follow_from_the_equations(step: Step, wanted: Any, tmp_path: Path) -> None:
    run = states(looped(step), tmp_path / "run", inputs=X)
    values = wanted()
    assert [key.partition(":")[2] for key in run] == list(values)
    for key, value in zip(run, values.values(), strict=True):
        np.testing.assert_allclose(np.asarray(run[key]), value, atol=1e-5, err_msg=key)


def forgetful(x: tf.Tensor, h: tf.Tensor, c: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """A moving average: its factors do not depend on the state."""
    f, i, g, o = tf.split(tf.sigmoid(x @ tf.constant(KERNEL, tf.float32)), 4, -1)
    c = f * c + i * g
    return o * tf.tanh(c), c


def without_reset(x: tf.Tensor, h: tf.Tensor, c: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    z, n, _, _ = tf.split(summed(x, h), 4, -1)
    z = tf.sigmoid(z)
    return z * h + (1 - z) * tf.tanh(n), c


def swapped(x: tf.Tensor, h: tf.Tensor, c: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """States that are exchanged, so that neither is the next value of itself."""
    h, c = old_order(x, h, c)
    return c, h


@pytest.mark.parametrize("step", [forgetful, without_reset, swapped])
def test_other_loops_have_no_named_states(step: Step) -> None:
    assert found_in(step) == []


def on_a_gpu(x: tf.Tensor) -> tf.Tensor:
    h = tf.zeros([1, tf.shape(x)[0], 4])
    return tf.raw_ops.CudnnRNN(
        input=x, input_h=h, input_c=h, params=tf.zeros([200]), is_training=False, name="rnn"
    )[0]


def test_a_fused_operation_for_gpus_has_states_with_a_reason() -> None:
    function = tf.function(on_a_gpu, input_signature=[tf.TensorSpec([None, None, 3], name="x")])
    concrete = function.get_concrete_function()
    model = graph_function("model", concrete, inputs_of(concrete), outputs_of(concrete))
    found = [one for one in model.catalog.records if one.kind is Kind.STATE]
    ports = ["hidden", "cell", "gate.i", "gate.f", "gate.c", "gate.o"]
    assert [one.address for one in found] == [f"rnn:{port}" for port in ports]
    assert {one.reason for one in found} == {
        "computed inside CudnnRNN, an operation for GPUs that computes all steps at once and "
        "returns neither gates nor the states of its cells. Its hidden states are its result rnn:0"
    }
