"""Layers that keep a state: rows are samples, and each call starts from the initial state."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tf_keras

import extractkit
from extractkit.core.component import Component
from extractkit.core.values import Array
from extractkit.errors import ConfigError, ModelError
from extractkit.models import keras_file, module
from extractkit.models.in_memory import live_model
from tests.models.keras_models.test_probing import lstm_step
from tests.models.programs import values_of

BOTH = pytest.mark.parametrize("package", [keras, tf_keras], ids=["Keras 3", "Keras 2"])
X = np.random.default_rng(0).normal(size=(10, 5, 3)).astype(np.float32)
WARNING = (
    "Stateful layers ('lstm'): each call starts from the initial state, and each row of a batch is "
    "a sample of its own. Keras's predict() carries the state from batch to batch"
)


def warning(setting: str) -> str:
    """Return the warning where the policy is set so."""
    carry, reset = setting.format("carry"), setting.format("reset")
    return f"{WARNING}. To carry it: {carry}; to hide this warning: {reset}"


def built() -> Any:
    return recurrent(keras)


def recurrent(package: Any, rows: int = 4, *more: Any) -> Any:
    """An LSTM that keeps its state, between batches of so many rows."""
    layers = package.layers
    x = layers.Input(batch_shape=(rows, 5, 3), name="x")
    y = layers.LSTM(4, stateful=True, return_sequences=True, name="lstm")(x)
    for layer in more:
        y = layer(y)
    return package.Model(x, layers.Dense(2, name="out")(y))


def fresh(package: Any, model: Any) -> Any:
    """The same model, which has seen nothing yet; Keras 3 cannot reset a stack of cells."""
    copy = package.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def by_hand(model: Any, x: Array) -> Array:
    """The LSTM's output from the initial state, in float64."""
    weights = [np.asarray(one, np.float64) for one in model.get_layer("lstm").get_weights()[:3]]
    state, steps = (np.zeros((len(x), 4)), np.zeros((len(x), 4))), []
    for step in range(x.shape[1]):
        state = lstm_step(weights, x[:, step], state)
        steps.append(state[0])
    return np.stack(steps, 1)


@BOTH
def test_each_row_is_a_sample_and_starts_from_the_initial_state(
    package: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = recurrent(package)
    model.predict(X[:4], batch_size=4, verbose=0)  # what it has seen is not to matter
    directory = tmp_path / "run"
    run = extractkit.extract(
        ["selectors=layers", "runtime.batch_size=4"], model=model, inputs=X, run_dir=directory
    )
    assert run["lstm:output"].dims == ("sample", None, "feature")
    np.testing.assert_allclose(np.asarray(run["lstm:output"]), by_hand(model, X), atol=1e-5)
    setting = "extractkit.models.in_memory.live_model(model, state='{}')"
    assert warning(setting) in caplog.messages
    assert run.manifest.model["state"] == "reset"
    assert run.manifest.model["stateful_layers"] == ["lstm"]


@BOTH
def test_the_models_own_call_starts_there_too_and_leaves_it_as_it_was(package: Any) -> None:
    model = recurrent(package)
    wrapped = live_model(model, state="reset")
    before = model.predict(X[:4], batch_size=4, verbose=0)
    after = model.predict(X[:4], batch_size=4, verbose=0)
    assert np.abs(before - after).max() > 1e-4
    outputs = [wrapped.own_call().outputs({"x": X[:6]}, {})[":output"] for _ in range(2)]
    np.testing.assert_array_equal(*outputs)
    (value,) = values_of(wrapped, [":output"], {"x": X[:6]}).values()
    np.testing.assert_allclose(outputs[0], value, atol=1e-6)
    np.testing.assert_allclose(outputs[0][:4], before, atol=1e-6)
    carried = model.predict(X[:4], batch_size=4, verbose=0)
    assert np.abs(carried - before).max() > 1e-4  # its state is still its own


@BOTH
def test_other_layers_that_keep_a_state(package: Any) -> None:
    layers = package.layers
    cells = [layers.LSTMCell(2), layers.GRUCell(3)]
    both = layers.Bidirectional(layers.GRU(3, stateful=True, return_sequences=True), name="both")
    stack = layers.RNN(cells, stateful=True, return_sequences=True, name="stack")
    model = recurrent(package, 2, both, stack)
    (value,) = values_of(live_model(model), [":output"], {"x": X[:6]}).values()
    for start in (0, 4):
        rows = X[start : start + 2]
        expected = fresh(package, model).predict(rows, batch_size=2, verbose=0)
        np.testing.assert_allclose(value[start : start + 2], expected, atol=1e-6)


@BOTH
def test_a_fixed_batch_without_any_state_has_rows_that_are_samples(package: Any) -> None:
    x = package.layers.Input(batch_shape=(4, 3), name="x")
    model = package.Model(x, package.layers.Dense(2, name="out")(x))
    wrapped = live_model(model)
    assert wrapped.catalog["out:output"].spec.titles == ("sample", "feature")
    (value,) = values_of(wrapped, ["out:output"], {"x": X[:, 0]}).values()
    kernel, bias = (np.asarray(one) for one in model.get_weights())
    np.testing.assert_allclose(value, X[:, 0] @ kernel + bias, atol=1e-6)


def test_a_stateful_layer_that_one_call_calls_twice_is_refused() -> None:
    x = keras.layers.Input(batch_shape=(4, 5, 3))
    lstm = keras.layers.LSTM(3, stateful=True, return_sequences=True, name="lstm")
    twice = keras.Model(x, lstm(lstm(x)))
    each = keras.layers.TimeDistributed(keras.layers.LSTM(3, stateful=True, name="lstm"))
    steps = keras.layers.Input(batch_shape=(4, 2, 5, 3))
    for model in (twice, keras.Model(steps, each(steps))):
        with pytest.raises(ModelError) as raised:
            _ = live_model(model).catalog
        assert str(raised.value) == (
            "stateful layer 'lstm' is called more than once in one call of the model, each time "
            "from the state that the call before it left. Such values are not offered: set "
            "stateful=False, or call it once"
        )


def test_a_policy_is_named_and_hides_the_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = str(tmp_path / "model.keras")
    recurrent(keras).save(path)
    keras_file.load(path, state="reset")
    assert caplog.messages == []
    keras_file.load(path)
    assert caplog.messages == [warning("model.state={}")]
    refused = r"^model\.state='keep' is not a policy\. Available: 'carry', 'reset'\."
    with pytest.raises(ConfigError, match=refused):
        keras_file.load(path, state="keep")
    with pytest.raises(ConfigError, match=refused):
        live_model(recurrent(keras), state="keep")


def test_what_a_factory_builds_has_the_key_with_another_format(
    caplog: pytest.LogCaptureFixture,
) -> None:
    factory = Component("model.factory", f"{__name__}.built", {})
    module.load(factory)
    setting = "model=keras in place of model=module, and model.state={}"
    assert caplog.messages == [warning(setting)]
    carried = keras_file.load(factory=factory, state="carry")
    assert carried.describe()["state"] == "carry"


def test_a_joined_sequence_has_the_values_that_carrying_gives(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where a model takes any number of steps, that is another way."""
    x = keras.layers.Input(batch_shape=(2, None, 3), name="x")
    y = keras.layers.LSTM(4, stateful=True, return_sequences=True, name="lstm")(x)
    model = keras.Model(x, y)
    carried = model.predict(X[:8], batch_size=2, verbose=0)  # four batches of two rows
    joined = X[:8].reshape(4, 2, 5, 3).swapaxes(0, 1).reshape(2, 20, 3)
    (value,) = values_of(live_model(model), [":output"], {"x": joined}).values()
    expected = carried.reshape(4, 2, 5, 4).swapaxes(0, 1).reshape(2, 20, 4)
    np.testing.assert_allclose(value, expected, atol=1e-5)
