"""A model's own call against NumPy: what no program of ours has a part in."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import extractkit
from extractkit.core.catalog import Kind
from extractkit.core.component import Component
from extractkit.engine.batches import Batch
from extractkit.errors import JobError
from extractkit.models import HasOwnCall, Model, checkpoint, module, saved_model
from extractkit.models.in_memory import live_model
from extractkit.models.keras_models.loading import ReloadedModel
from extractkit.testing.models import drawn, own_call
from extractkit.testing.reference import ReferenceModel
from tests.models.programs import values_of

X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


def direct(model: Model, **features: Any) -> dict[str, Any]:
    return dict(own_call(model).outputs(features, {}))


class Counting(keras.layers.Layer):  # type: ignore[misc]
    """Doubles, and counts how often."""

    def build(self, shape: Any) -> None:
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    def call(self, x: Any) -> Any:
        self.calls.assign_add(1.0)
        return 2 * x


class CountsAfter(keras.layers.Layer):  # type: ignore[misc]
    """Multiplies by the number of the call, the first of which is 1."""

    def build(self, shape: Any) -> None:
        self.calls = self.add_weight(shape=(), initializer="ones", trainable=False, name="calls")

    def call(self, x: Any) -> Any:
        y = x * self.calls
        self.calls.assign_add(1.0)
        return y


class Untracked(keras.layers.Layer):  # type: ignore[misc]
    """Multiplies by a variable that Keras does not know of, and counts it up."""

    def __init__(self) -> None:
        super().__init__(name="untracked")
        self.calls = tf.Variable(1.0)

    def call(self, x: Any) -> Any:
        y = x * self.calls
        self.calls.assign_add(1.0)
        return y


def test_of_keras_by_calling_the_model() -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,), name="x")
    first, second = keras.layers.Dense(2, name="first"), keras.layers.Dense(3, activation="relu")
    own = keras.Model(inputs, {"a": first(inputs), "b": second(inputs)})
    found = direct(live_model(own), x=X)
    kernels = [np.asarray(layer.kernel) for layer in (first, second)]
    np.testing.assert_allclose(found[":output.a"], X @ kernels[0], atol=1e-6)
    np.testing.assert_allclose(found[":output.b"], np.maximum(X @ kernels[1], 0), atol=1e-6)


def test_of_keras_they_come_from_a_graph_as_those_of_predict_do() -> None:
    """Operation by operation a NaN comes out; TensorFlow's fused kernels make 0 of it."""
    keras.utils.set_random_seed(0)
    own = keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(3, "relu")])
    x = X.copy()
    x[1, 2] = np.nan
    found = direct(live_model(own), x=x)[":output"]
    predicted = own.predict(x, verbose=0)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(predicted))
    np.testing.assert_allclose(found, predicted, rtol=1e-6)


def test_what_the_call_assigns_is_put_back_where_keras_does_not_track_it() -> None:
    own = keras.Sequential([keras.Input((4,), name="x"), Untracked()])
    model = live_model(own)
    for _ in range(2):
        np.testing.assert_array_equal(direct(model, x=X)[":output"], X)
        np.testing.assert_array_equal(values_of(model, [":output"], {"x": X})[":output"], X)


class Remembering(keras.layers.Layer):  # type: ignore[misc]
    """Adds what a table holds, and then puts the batch's sum into it."""

    def __init__(self) -> None:
        super().__init__(name="remembering")
        self.table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, 0.0)

    def compute_output_spec(self, x: Any) -> Any:
        return keras.KerasTensor(x.shape, x.dtype)

    def call(self, x: Any) -> Any:
        key = tf.zeros([1], tf.int64)
        y = x + tf.reshape(self.table.lookup(key), [1, 1])
        self.table.insert(key, tf.reshape(tf.reduce_sum(x), [1]))
        return y


def test_a_call_that_puts_something_into_a_table_is_never_made() -> None:
    own = keras.Sequential([keras.Input((4,), name="x"), Remembering()])
    model = live_model(own)
    for _ in range(2):
        assert direct(model, x=X) == {}
        np.testing.assert_array_equal(values_of(model, [":output"], {"x": X})[":output"], X)


def test_what_the_call_of_a_model_loaded_again_assigns_is_put_back() -> None:
    def counted() -> Any:
        return keras.Sequential([keras.Input((4,), name="x"), CountsAfter(name="counts")])

    again = ReloadedModel(counted(), "a test")
    model = live_model(counted(), reload=lambda _: again)
    for _ in range(2):
        np.testing.assert_array_equal(direct(model, x=X)[":output"], X)


def test_what_the_call_assigns_is_put_back() -> None:
    own = keras.Sequential([keras.Input((4,), name="x"), Counting(name="counting")])
    model = live_model(own)
    calls = own.layers[0].calls
    before = float(calls)
    np.testing.assert_array_equal(direct(model, x=X)[":output"], 2 * X)
    assert float(calls) == before


class Affine(tf.Module):
    """y = x·scale, and a sum with a shift."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = tf.Variable(3.0, name="shift")

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 4], tf.float32, name="x"),
            tf.TensorSpec([], tf.float32, name="scale"),
        ]
    )
    def __call__(self, x: tf.Tensor, scale: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": x * scale, "sum": x + self.shift}


@pytest.fixture(scope="module")
def affine(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("saved") / "affine"
    tf.saved_model.save(Affine(), str(folder))
    return str(folder)


@pytest.mark.parametrize("signature", ["serving_default", "__call__"])
def test_of_a_saved_model_by_its_function(signature: str, tmp_path: Path) -> None:
    folder = str(tmp_path / "affine")
    tf.saved_model.save(own := Affine(), folder, signatures=own.__call__)
    model = saved_model.load(folder, signature=signature, constants={"scale": 2.5})
    found = direct(model, x=X)
    np.testing.assert_allclose(found[":output.y"], X * 2.5, rtol=1e-6)
    np.testing.assert_allclose(found[":output.sum"], X + 3, rtol=1e-6)


class Drawing(tf.Module):
    """A value of each sample, and one that is drawn without a seed."""

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def __call__(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        drawn = tf.raw_ops.RandomStandardNormal(shape=tf.shape(x), dtype=tf.float32)
        return {"loc": 2 * x, "z": x + drawn}


def test_a_draw_without_a_seed_beside_the_outputs_does_not_end_a_job(tmp_path: Path) -> None:
    """TensorFlow refuses it in a deterministic job, which computes the rest nevertheless."""
    tf.saved_model.save(Drawing(), str(tmp_path / "m"))
    wanted = ["model=saved_model", f"model.path={tmp_path / 'm'}", "selectors=outputs"]
    run = extractkit.extract(wanted, inputs=X, run_dir=tmp_path / "run")
    np.testing.assert_array_equal(np.asarray(run[":output.loc"]), 2 * X)
    (checked,) = run.manifest.volatile.self_check
    assert "draws random numbers without a seed" in str(checked.not_applicable)


def test_a_function_that_lacks_an_input_is_not_called(affine: str) -> None:
    """What needs no `scale` could still be extracted."""
    model = saved_model.load(affine, signature="__call__")
    assert [spec.name for spec in model.signature.specs] == ["x"]
    assert direct(model, x=X) == {}


def one_row() -> Any:
    """Takes one sample per call, without an axis for it."""

    @tf.function(input_signature=[tf.TensorSpec([4], tf.float32, name="x")])
    def halved(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"half": x / 2}

    return halved


def ragged() -> Any:
    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def rows(x: tf.Tensor) -> tuple[tf.Tensor, tf.RaggedTensor]:
        return x + 1, tf.RaggedTensor.from_row_lengths(x, tf.ones([3], tf.int64))

    return rows


def built(name: str, **settings: Any) -> Model:
    return module.load(Component("model.factory", f"{__name__}.{name}"), **settings)


@pytest.mark.parametrize("eager", [False, True], ids=["traced", "eager"])
def test_of_one_sample_a_call_they_have_a_sample_axis(eager: bool) -> None:
    found = direct(built("one_row", eager=eager), x=X[:1])
    assert len(found) == 1
    np.testing.assert_array_equal(next(iter(found.values())), X[:1] / 2)


def test_the_parts_of_ragged_ones_have_addresses_too() -> None:
    model = built("ragged")
    outputs = {r.address for r in model.catalog.records if r.kind is Kind.MODEL_OUTPUT}
    found = direct(model, x=X)
    assert set(found) <= outputs
    np.testing.assert_array_equal(found[":output"], X + 1)


class Refusing(keras.layers.Layer):  # type: ignore[misc]
    """Takes no negative numbers."""

    def call(self, x: Any) -> Any:
        tf.debugging.assert_non_negative(x, message="no negative numbers")
        return x


def test_a_model_that_fails_says_why() -> None:
    model = live_model(keras.Sequential([keras.Input((4,), name="x"), Refusing()]), name="mine")
    with pytest.raises(JobError, match=r"model 'mine' failed on a batch: .*no negative numbers"):
        direct(model, x=-np.abs(X))


def test_weights_alone_have_none_of_their_own(tmp_path: Path) -> None:
    own = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    own.save_weights(tmp_path / "w.weights.h5")
    model = checkpoint.load(str(tmp_path / "w.weights.h5"))
    assert not isinstance(model, HasOwnCall)


def test_of_the_reference_model_sample_by_sample() -> None:
    model = ReferenceModel()
    batch: Batch = drawn(model, 2)
    found = own_call(model).outputs(batch.features, batch.lengths)[":output"]
    for row, value in zip(batch.features["tokens"], found, strict=True):
        np.testing.assert_array_equal(value, model.forward(row)[":output"])
