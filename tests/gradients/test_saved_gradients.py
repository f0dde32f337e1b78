"""Custom gradients that SavedModels hold, against those of the same model in Python."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import extractkit
from extractkit.errors import SelectionError
from extractkit.models.saved_model import load
from tests.gradients.test_formats import ROWS, custom, gradients, near, of_weights, taped

Pick = Callable[[Any], Any]


@tf.custom_gradient
def wave(x: tf.Tensor) -> Any:
    """Return the sine, with a gradient of something else that only the gradient needs."""
    bell = tf.exp(-x * x)
    return tf.sin(x), lambda upstream: 3 * upstream * bell


@tf.function
def doubled(x: tf.Tensor) -> tf.Tensor:
    return 2 * x


class Custom(tf.Module):
    """Functions in functions, whose custom gradients capture what functions may hold."""

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        self.kernel = tf.Variable(draw.normal(size=(4, 3)).astype("float32"), name="kernel")
        self.scale = tf.Variable(2.0, name="scale")

    @property
    def weights(self) -> tuple[tf.Variable, ...]:
        return self.variables

    @tf.function
    def block(self, x: tf.Tensor, factor: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
        @tf.custom_gradient
        def square(y: tf.Tensor) -> Any:
            return tf.square(y), lambda upstream: doubled(upstream) * other * factor

        @tf.custom_gradient
        def scaled(y: tf.Tensor) -> Any:
            def backward(upstream: tf.Tensor, variables: Any = None) -> Any:
                return 2 * self.scale * upstream, [tf.reduce_sum(upstream) for _ in variables]

            return self.scale * y, backward

        return scaled(tf.nn.silu(square(wave(x)) @ self.kernel))

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        one = self.block(wave(x), tf.constant(3.0), x + 1)
        return one + self.block(self.scale * x, tf.sqrt(self.scale), x * x)


def saved(model: Any, call: Any, folder: Path, hold: bool = True) -> list[str]:
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=hold)
    tf.saved_model.save(model, folder / "saved", call, options)
    return ["model=saved_model", f"model.path={folder / 'saved'}"]


def test_gradients_that_capture_tensors_arguments_and_variables(tmp_path: Path) -> None:
    model = Custom()
    how = saved(model, model.__call__, tmp_path)
    of: dict[str, object] = {"of": {"index": 1}}
    run = extractkit.extract(
        ["selectors=none", *how],
        inputs=ROWS,
        selectors={
            "g": {"kind": "model_input", "gradient": of},
            "weights": {"kind": "weight", "gradient": of},
            "sum": {"kind": "model_input", "gradient": {**of, "integrate": {"steps": 3}}},
        },
        run_dir=tmp_path / "run",
    )
    pick: Pick = lambda y: y[:, 1]  # noqa: E731
    near(run, ":input.x@grad@g", taped(model, ROWS, pick))
    kernel, scale = of_weights(model, ROWS, pick)
    near(run, "kernel:0@grad", kernel)
    near(run, "scale:0@grad", scale)
    # Methods recompute the gradient at other points.
    nodes, weights = np.polynomial.legendre.leggauss(3)
    points = [np.float32((node + 1) / 2) * ROWS for node in nodes]
    mean = sum(
        weight / 2 * np.stack(taped(model, point, pick))
        for weight, point in zip(weights, points, strict=True)
    )
    near(run, ":input.x@grad@sum", list(ROWS * mean))
    assert not extractkit.verify(tmp_path / "run", recompute=2).failed


def test_gradients_of_a_keras_model_by_either_path(tmp_path: Path) -> None:
    """`silu` has one, in Keras too."""
    model = custom()
    model.export(tmp_path / "saved", verbose=False)
    how = ["model=saved_model", f"model.path={tmp_path / 'saved'}"]
    run = gradients(tmp_path, ROWS, *how, kind="model_input", gradient={"of": {"index": 0}})
    (key,) = run
    near(run, key, taped(model, ROWS, lambda y: y[:, 0]))


def test_guided_gradients_pass_custom_ones(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    given = keras.Input((4,), name="x")
    first = layers.Dense(5, "silu", name="first")(given)
    second = layers.Dense(5, "relu", name="second")(first)
    model = keras.Model(given, layers.Dense(2, name="last")(second))
    model.export(tmp_path / "saved", verbose=False)
    how = ["model=saved_model", f"model.path={tmp_path / 'saved'}"]
    of = {"of": {"index": 0}, "guided": True}
    run = gradients(tmp_path, ROWS, *how, kind="model_input", gradient=of)

    @tf.custom_gradient
    def guided(x: tf.Tensor) -> Any:
        y = tf.nn.relu(x)
        return y, lambda upstream: tf.nn.relu(upstream) * tf.cast(y > 0, tf.float32)

    model.get_layer("second").activation = guided
    (key,) = run
    near(run, key, taped(model, ROWS, lambda y: y[:, 0]))


def test_gradients_that_the_file_lacks_are_refused(tmp_path: Path) -> None:
    """They are, even if another model of this process has gradients of the same names."""
    model = custom()
    call = tf.function(
        lambda x: {"y": model(x)}, input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")]
    )
    how = saved(model, {"serving_default": call}, tmp_path, hold=False)
    of = {"of": {"index": 0}}
    with pytest.raises(SelectionError) as refused:
        gradients(tmp_path, ROWS, *how, kind="model_input", gradient=of)
    assert (
        "IdentityN' (IdentityN) has a custom gradient, which the SavedModel does not hold. Save it "
        "with options=tf.saved_model.SaveOptions(experimental_custom_gradients=True)"
    ) in str(refused.value)
    assert not (tmp_path / "run").exists()
    # Behind the custom gradients there is nothing to refuse.
    run = gradients(tmp_path, ROWS, *how, op_type="IdentityN", take="-1:", gradient=of)
    wanted = np.tile(model.layers[-1].kernel.numpy()[:, 0], (9, 1))
    (key,) = run
    near(run, key, list(wanted))


class Looped(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        step: Any = lambda at, y: (at + 1, tf.nn.silu(y))  # noqa: E731
        return tf.reduce_sum(tf.while_loop(lambda at, _: at < 2, step, [0, x])[1], -1)


def test_gradients_in_loops_are_refused(tmp_path: Path) -> None:
    model = Looped()
    how = saved(model, model.__call__, tmp_path)
    with pytest.raises(
        SelectionError, match="has a custom gradient, which does not apply in loops and branches"
    ):
        gradients(tmp_path, ROWS, *how, kind="model_input", gradient={"of": ":output.output_0"})


def test_the_catalog_is_that_of_the_graph(tmp_path: Path) -> None:
    """What operations take for their gradients is in copies of the graph alone."""
    model = Custom()
    saved(model, model.__call__, tmp_path)
    held = load(str(tmp_path / "saved"))
    saved(model, model.__call__, tmp_path / "other", hold=False)
    lost = load(str(tmp_path / "other" / "saved"))
    assert held.catalog.records == lost.catalog.records
    assert held.definition_digest() == lost.definition_digest()
