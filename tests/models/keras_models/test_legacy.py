"""Keras 2, through tf-keras: the same contract, and files that Keras 3 refuses or reads wrongly."""

import importlib.util
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tf_keras import layers
from tf_keras.src.layers.rnn import gru_lstm_utils

import extractkit
from extractkit.core.catalog import Kind
from extractkit.core.requests import Value
from extractkit.errors import MissingExtraError, ModelError
from extractkit.models import Fetch, Model
from extractkit.models.in_memory import live_model
from extractkit.models.keras_file import load
from extractkit.models.keras_models.model import KerasModel
from extractkit.testing.models import ModelContract
from tests.models.programs import values_of
from tests.models.zoo import drawn


def operators() -> Any:
    """Python's operators on tensors are layers (TFOpLambda) to Keras 2, and unknown to Keras 3."""
    x = tf_keras.Input((4,))
    y = tf.math.multiply(layers.Dense(6, name="hidden")(x), 2.0) + 1.0
    return tf_keras.Model(x, layers.Dense(2)(tf.reshape(y, [-1, 6])))


def recurrent() -> Any:
    ids = tf_keras.Input((None,), dtype="int32")
    x = layers.Embedding(9, 4, mask_zero=True)(ids)
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True), name="both")(x)
    x = layers.SimpleRNN(3, return_sequences=True)(x)
    return tf_keras.Model(
        ids, layers.TimeDistributed(layers.Dense(2))(layers.GRU(3, return_sequences=True)(x))
    )


def nested() -> Any:
    one, two = tf_keras.Input((4,), name="one"), tf_keras.Input((4,), name="two")
    block = tf_keras.Sequential([layers.Dense(4), layers.BatchNormalization()], name="block")
    return tf_keras.Model([one, two], {"sum": layers.Add()([block(one), block(two)])})


class Custom(tf_keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(3)
        self.scale = tf.Variable(2.0, name="scale")

    def call(self, x: Any) -> Any:
        return self.dense(x) * self.scale


def subclassed() -> Any:
    model = Custom()
    model.build((None, 4))
    return model


MODELS: dict[str, Callable[[], Any]] = {
    build.__name__: build for build in (operators, recurrent, nested, subclassed)
}


@pytest.mark.parametrize("name", MODELS)
class TestKeras2Model(ModelContract):
    @pytest.fixture(autouse=True)
    def _named(self, name: str) -> None:
        self.name = name

    def model(self) -> Model:
        tf_keras.backend.clear_session()
        tf_keras.utils.set_random_seed(0)
        return live_model(MODELS[self.name](), name=self.name)


@pytest.mark.parametrize("name", MODELS)
def test_values_are_those_of_the_model_itself(name: str) -> None:
    model = live_model(MODELS[name](), name=name)
    batch = drawn(model.signature, 3, 5)
    outputs = [r.address for r in model.catalog.records if r.kind is Kind.MODEL_OUTPUT]
    arrays = [tf.constant(array) for array in batch.values()]
    wanted = model.keras_model(arrays if len(arrays) > 1 else arrays[0])
    found = values_of(model, outputs, batch)
    for value, expected in zip(found.values(), keras.tree.flatten(wanted), strict=True):
        np.testing.assert_allclose(value, expected, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_the_models_own(name: str) -> None:
    model = live_model(MODELS[name](), name=name)
    records = [r for r in model.catalog.records if r.kind is Kind.WEIGHT]
    values = model.constants([Fetch(Value(record.address)) for record in records])
    expected = model.keras_model.get_weights()
    assert sorted(v.tobytes() for v in values) == sorted(np.asarray(w).tobytes() for w in expected)


def test_weights_have_the_names_that_keras_3_gives_them() -> None:
    catalog = live_model(recurrent()).catalog
    named = [r.address for r in catalog.records if r.kind is Kind.WEIGHT]
    assert "embedding:embeddings" in named
    assert "both/forward_lstm/lstm_cell:recurrent_kernel" in named


def test_a_live_model_is_extracted(tmp_path: Path) -> None:
    model = operators()
    samples = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    run = extractkit.extract(
        ["+selectors.h.path=hidden:output"], model=model, inputs=samples, run_dir=tmp_path / "run"
    )
    dense = model.get_layer("hidden")
    wanted = samples @ dense.kernel.numpy() + dense.bias.numpy()
    np.testing.assert_allclose(np.asarray(run["hidden:output"]), wanted, atol=1e-6)


def saved(model: Any, file: Path) -> Path:
    with pytest.warns(UserWarning, match="HDF5") if file.suffix == ".h5" else nullcontext():
        model.save(file)
    return file


@pytest.mark.parametrize("file", ["m.h5", "m.keras"])
@pytest.mark.parametrize("name", ["operators", "recurrent"])
def test_what_keras_3_refuses_is_loaded(name: str, file: str, tmp_path: Path) -> None:
    live = MODELS[name]()
    model = load(str(saved(live, tmp_path / file)))
    assert model.dialect.name == "Keras 2"
    batch = drawn(model.signature, 3, 5)
    np.testing.assert_allclose(
        values_of(model, [":output"], batch)[":output"], live(batch["input"]), atol=1e-6
    )


def test_no_gradients_of_recurrent_layers_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    monkeypatch.setattr(gru_lstm_utils, "function_register", lambda *given, **more: made.append(1))
    x = tf_keras.Input((None, 2))
    live = tf_keras.Model(x, layers.GRU(2)(layers.LSTM(2, return_sequences=True)(x)))
    assert len(made) == 2  # Keras makes them
    model = load(str(saved(live, tmp_path / "m.keras")))
    batch = drawn(model.signature, 3, 5)
    lengths = dict.fromkeys(model.signature.free_axes, np.full(3, 5))
    own = model.own_call().outputs(batch, lengths)
    assert len(made) == 2
    np.testing.assert_allclose(own[":output"], live(tf.constant(batch["input"])), atol=1e-6)


def test_a_function_that_keras_3_changed_is_that_of_keras_2(tmp_path: Path) -> None:
    """Keras 3 would load it, and compute x / 6 + 0.5 in place of 0.2 x + 0.5, in silence."""
    x = tf_keras.Input((4,))
    file = saved(tf_keras.Model(x, layers.Dense(4, "hard_sigmoid")(x)), tmp_path / "m.h5")
    model = load(str(file))
    kernel = model.keras_model.get_weights()[0]
    batch = {"input": np.array([[1.0, -2.0, 0.5, 3.0]], np.float32)}
    wanted = np.clip(0.2 * (batch["input"] @ kernel) + 0.5, 0, 1)
    np.testing.assert_allclose(values_of(model, [":output"], batch)[":output"], wanted, atol=1e-6)


def test_without_tf_keras_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = saved(operators(), tmp_path / "m.h5")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tf_keras" else find(name)
    )
    with pytest.raises(MissingExtraError) as caught:
        load(str(file))
    text = str(caught.value)
    assert text.startswith(
        f"model.path={str(file)!r}: Keras 3 refuses it (ValueError: Unknown layer: 'TFOpLambda'"
    )
    assert text.endswith(
        "It needs tf-keras, which is not installed. Install it: "
        "python -m pip install 'extractkit[legacy]'"
    )


@pytest.mark.parametrize("file", ["m.h5", "m.keras"])
def test_tf_keras_runs_no_code_of_a_file(file: str, tmp_path: Path) -> None:
    """It would run that of HDF5 files, whatever its own safe mode says."""
    x = tf_keras.Input((4,))
    y = layers.Dense(2)(tf.math.multiply(x, 2.0))
    model = tf_keras.Model(x, layers.Lambda(lambda v: v * 2, name="twice")(y))
    path = saved(model, tmp_path / file)
    with pytest.raises(ModelError) as caught:
        load(str(path))
    assert str(caught.value) == (
        f"model.path={str(path)!r} is refused: layer 'twice' holds Python code, which loading the "
        f"file would run. If you trust it: model.safe_mode=false"
    )
    trusted: KerasModel = load(str(path), safe_mode=False)
    batch = drawn(trusted.signature, 2, 0)
    np.testing.assert_allclose(
        values_of(trusted, [":output"], batch)[":output"], model(batch["input"]), atol=1e-6
    )


def test_tf_keras_imports_no_module_that_a_file_names(tmp_path: Path) -> None:
    x = tf_keras.Input((4,))
    model = tf_keras.Model(x, Doubling()(layers.Dense(2)(tf.math.multiply(x, 2.0))))
    path = saved(model, tmp_path / "m.keras")
    with pytest.raises(ModelError) as caught:
        load(str(path))
    assert str(caught.value) == (
        f"model.path={str(path)!r} needs 'Doubling', which Keras does not know by itself. Give "
        f"its path: model.custom_objects.Doubling=package.module.Doubling"
    )
    loaded = load(str(path), custom_objects={"Doubling": f"{__name__}.Doubling"})
    assert "doubling:output" in loaded.catalog


class Doubling(layers.Layer):
    def call(self, x: Any) -> Any:
        return x * 2.0


class Recurrence(layers.Layer):
    """At most four steps of a recurrence, by an `if` and a loop that depend on tensors."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.dense = layers.Dense(3, name="dense")

    def call(self, x: Any) -> Any:
        if tf.shape(x)[1] > 4:
            x = x[:, :4]
        steps = self.dense(x)
        state = tf.zeros_like(steps[:, 0])
        for step in tf.range(tf.shape(steps)[1]):
            state = 0.5 * state + steps[:, step]
        return state


def test_control_flow_of_own_layers_may_depend_on_tensors(tmp_path: Path) -> None:
    x = tf_keras.Input((None, 2), name="x")
    model = tf_keras.Model(x, layers.Dense(2, name="out")(Recurrence(name="recurrence")(x)))
    given = np.random.default_rng(0).normal(size=(3, 6, 2)).astype("float32")
    run = extractkit.extract(
        ["selectors=[layers,outputs]"], model=model, inputs=given, run_dir=tmp_path / "run"
    )
    kernel, bias = (np.asarray(w, "float64") for w in model.layers[1].dense.get_weights())
    state = np.zeros((3, 3))
    for step in range(4):
        state = 0.5 * state + given[:, step] @ kernel + bias
    np.testing.assert_allclose(np.asarray(run["recurrence:output"]), state, atol=1e-6)
    np.testing.assert_allclose(
        np.asarray(run[":output"]), model.predict(given, verbose=0), atol=1e-6
    )
    [check] = run.manifest.volatile.self_check
    assert check.outputs == (":output",)
