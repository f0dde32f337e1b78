"""A stored value is a function of its sample; what is not is refused, not stored as if it were."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import extractkit
from extractkit.core.catalog import Kind
from extractkit.core.component import Component
from extractkit.errors import ConfigError, JobError
from extractkit.models.in_memory import live_model
from extractkit.models.module import load


class Counting(keras.layers.Layer):
    """Adds how often it has been called."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False, name="count")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        self.count.assign(self.count + 1.0)
        return x + self.count


class Noisy(keras.layers.Layer):
    """Adds noise, at inference too."""

    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)
        self.generator = keras.random.SeedGenerator(0)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return x + keras.random.normal(tf.shape(x), seed=self.generator)


class FirstFifty(keras.layers.Layer):
    """At most fifty steps, whatever it is given."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return x[:, :50] * 2.0


class Even(keras.layers.Layer):
    """Takes even numbers of steps only, which no shape shows."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies([tf.debugging.assert_equal(tf.shape(x)[1] % 2, 0)]):
            return x * 2.0


def attention(x: Any) -> Any:
    return keras.layers.LayerNormalization()(keras.layers.MultiHeadAttention(2, 2)(x, x))


def pooled_and_upsampled(x: Any) -> Any:
    half = keras.layers.MaxPooling1D(2)(x)
    return keras.layers.Concatenate()([x, keras.layers.UpSampling1D(2)(half)])


@pytest.mark.parametrize(
    ("layers", "taken"),
    [
        (attention, True),
        (keras.layers.Conv1D(2, 3, padding="same"), True),
        (FirstFifty(), True),
        (pooled_and_upsampled, False),
        (Even(), False),
        (keras.layers.Conv1D(2, 3, strides=2), False),
        (keras.layers.LSTM(2, return_sequences=True), False),  # inside a loop, nothing is known
    ],
)
def test_sizes_between_two_are_taken_if_no_length_is_computed_from_them(
    layers: Any, taken: bool
) -> None:
    x = keras.Input((None, 4))
    model = live_model(keras.Model(x, layers(keras.layers.Dense(4)(x))))
    assert model.takes_sizes_between([":output"]) is taken


@pytest.mark.parametrize("layer", [Counting(name="odd"), Noisy(name="odd")], ids=["count", "noise"])
def test_what_follows_randomness_or_an_assignment_is_listed_with_the_reason(
    layer: keras.layers.Layer, tmp_path: Path
) -> None:
    x = keras.Input((3,))
    before = keras.layers.Dense(3, name="before")(x)
    model = keras.Model(x, keras.layers.Dense(2, name="after")(layer(before)))
    catalog = live_model(model).catalog
    for address in ("odd:output", "after:output", ":output"):
        assert "random or assigning operation" in str(catalog[address].reason)
    assert catalog["before:output"].extractable
    weights = [weight.copy() for weight in model.get_weights()]
    run = extractkit.extract(
        ["selectors=layers", "runtime.batch_size=2"],
        model=model,
        inputs=np.ones((6, 3), "float32"),
        run_dir=tmp_path / "run",
    )
    assert list(run) == ["before:output"]
    assert len(set(map(bytes, np.asarray(run["before:output"])))) == 1
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("length", [1, 20])
def test_a_length_that_the_free_axes_do_not_tell_is_an_error(length: int, tmp_path: Path) -> None:
    x = keras.Input((None, 4))
    model = keras.Model(x, FirstFifty(name="cut")(x))
    with pytest.raises(JobError, match=r"'cut:output' with dims .* cannot be stored"):
        extractkit.extract(
            ["selectors=layers"],
            model=model,
            inputs=np.ones((6, length, 4), "float32"),
            run_dir=tmp_path / "run",
        )


def test_inputs_that_must_be_equally_long_share_an_axis(tmp_path: Path) -> None:
    a, b = keras.Input((None, 4), name="a"), keras.Input((None, 4), name="b")
    model = keras.Model([a, b], keras.layers.Add(name="sum")([a, b]))
    arrays = {name: np.full((3, 5, 4), value, "float32") for name, value in (("a", 1), ("b", 2))}
    run = extractkit.extract(
        ["selectors=outputs"], model=model, inputs=arrays, run_dir=tmp_path / "run"
    )
    assert run[":output"].dims == ("sample", "axis1", None)
    np.testing.assert_array_equal(run[":output"], np.full((3, 5, 4), 3, "float32"))


@pytest.mark.parametrize("device", ["nonsense", "/GPU:7"])
def test_a_device_that_is_not_there_is_refused(device: str, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    with pytest.raises(
        ConfigError, match=r"runtime\.device='.*' is not a device\. Available: '/CPU:0'"
    ):
        extractkit.extract(
            ["selectors=outputs", f"runtime.device={device}"],
            model=model,
            inputs=np.ones((2, 2), "float32"),
            run_dir=tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()


@tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
def random_in_a_loop(x: tf.Tensor) -> tf.Tensor:
    for _ in tf.range(2):
        x = x + tf.random.normal([2])
    return x


_count = tf.Variable(0.0)


@tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
def assigning_in_a_branch(x: tf.Tensor) -> tf.Tensor:
    return tf.cond(tf.reduce_sum(x) > 0.0, lambda: x + _count.assign_add(1.0), lambda: x)


_rows = tf.Variable(tf.ones([3, 2]))


@tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
def assigning_a_slice(x: tf.Tensor) -> tf.Tensor:
    y = x + _rows[0]
    _rows[0].assign(tf.reduce_mean(x, 0))
    return y


@tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
def random_where_it_never_runs(x: tf.Tensor) -> tf.Tensor:
    never = tf.constant(False)
    return tf.raw_ops.If(
        cond=never, input=[x], Tout=[tf.float32],
        then_branch=_noisy.get_concrete_function(), else_branch=_plain.get_concrete_function(),
    )[0]  # fmt: skip


@tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32)])
def _noisy(x: tf.Tensor) -> tf.Tensor:
    return x + tf.random.normal([2])


@tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32)])
def _plain(x: tf.Tensor) -> tf.Tensor:
    return x + 1.0


@pytest.mark.parametrize("name", ["random_in_a_loop", "assigning_in_a_branch", "assigning_a_slice"])
def test_what_loops_branches_and_slices_do_is_seen(name: str) -> None:
    factory = Component("model.factory", f"{__name__}.{name}", partial=True)
    (output,) = [r for r in load(factory).catalog.records if r.kind is Kind.MODEL_OUTPUT]
    assert output.reason is not None
    assert "random or assigning" in output.reason or "writes or trains" in output.reason


def test_the_side_of_a_branch_that_never_runs_does_no_harm() -> None:
    factory = Component("model.factory", f"{__name__}.random_where_it_never_runs", partial=True)
    (output,) = [r for r in load(factory).catalog.records if r.kind is Kind.MODEL_OUTPUT]
    assert output.extractable
