"""Paths from a tensor to a target: where they end, and what has no gradient along them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import extractkit
from extractkit.core.values import Array
from extractkit.errors import SelectionError
from tests.models.session_graphs import frozen

ROWS = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")


def gradients(
    folder: Path, model: object, inputs: object, *given: str, of: object, **selector: object
) -> extractkit.Run:
    return extractkit.extract(
        ["selectors=none", *given],
        model=model,
        inputs=inputs,
        selectors={"g": {**selector, "gradient": {"of": of}}},
        run_dir=folder / "run",
    )


def listed(run: extractkit.Run) -> Mapping[str, str]:
    return {one.address: one.reason for one in run.manifest.unextractable}


# ---- inputs inside the graph


@pytest.fixture(scope="module")
def weights() -> Sequence[Array]:
    numbers = np.random.default_rng(1)
    return [numbers.normal(size=shape).astype("float32") for shape in ((4, 3), (3,), (4,))]


def _inner(x: tf.Tensor, weights: Sequence[Array]) -> tf.Tensor:
    """Return x·U + tanh(x·W)·V, where tanh(x·W) is an input, too."""
    w, v, u = weights
    h = tf.tanh(tf.linalg.matmul(x, w, name="xw"), name="h")
    return tf.add(tf.reduce_sum(h * v, -1), tf.reduce_sum(x * u, -1), name="y")


@pytest.mark.parametrize("function", [False, True])
def test_gradients_end_at_inputs_inside_the_graph(
    function: bool, weights: Sequence[Array], tmp_path: Path
) -> None:
    _, v, u = weights
    if function:
        module = tf.Module()
        module.call = tf.function(
            lambda x: _inner(x, weights),
            input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")],
        )
        tf.saved_model.save(module, tmp_path / "saved", {"serving_default": module.call})
        how = ["model=saved_model", f"model.path={tmp_path / 'saved'}"]
        of, scope = ":output.output_0", "PartitionedCall/"
    else:

        def build() -> None:
            _inner(tf.compat.v1.placeholder(tf.float32, [None, 4], name="x"), weights)

        how = ["model=frozen_graph", f"model.path={frozen(build, ['y'], tmp_path / 'net.pb')}"]
        of, scope = "y:0", ""
    fed = np.random.default_rng(2).normal(size=(5, 3)).astype("float32")
    inputs = [{"x": row, f"{scope}h:0": h} for row, h in zip(ROWS, fed, strict=True)]
    how += [rf"model.input_axes={{x: [sample, null], {scope}h\:0: [sample, null]}}"]
    run = gradients(tmp_path, None, inputs, *how, of=of, kind="model_input")
    assert len(list(run)) == 2
    by_shape = {run[key].shape[1:]: np.asarray(run[key]) for key in run}
    np.testing.assert_allclose(by_shape[4,], np.tile(u, (5, 1)), rtol=1e-6)
    np.testing.assert_allclose(by_shape[3,], np.tile(v, (5, 1)), rtol=1e-6)
    with pytest.raises(
        SelectionError, match=r"xw:0: the target does not depend on it through opera"
    ):
        gradients(tmp_path / "other", None, inputs, *how, of=of, path="**xw:0")


def test_other_results_of_the_operation_of_an_inner_input_are_refused(tmp_path: Path) -> None:
    """TensorFlow stops at whole operations, so the gradient would lack a part."""

    def build() -> None:
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], name="x")
        one, other = tf.split(x, 2, axis=1, name="half")
        tf.reduce_sum(tf.square(one) * other, -1, name="y")

    file = frozen(build, ["y"], tmp_path / "net.pb")
    how = ["model=frozen_graph", f"model.path={file}"]
    how += [r"model.input_axes={x: [sample, null], half\:1: [sample, null]}"]
    inputs = [{"x": row, "half:1": row[:2]} for row in ROWS]
    with pytest.raises(SelectionError, match=r"another result of operation 'half' \(Split\) is an"):
        gradients(tmp_path, None, inputs, *how, of="y:0", path="x:0")
    run = gradients(tmp_path, None, inputs, *how, of="y:0", path="half:0")
    np.testing.assert_allclose(run["half:0@grad"], 2 * ROWS[:, :2] * ROWS[:, :2], rtol=1e-6)


# ---- tensors without a gradient among others


class Unread(layers.Layer):
    """A layer with a sublayer that is not called, and a weight that is not read."""

    def build(self, shape: Any) -> None:
        self.used = layers.Dense(2, name="used")
        self.used.build(shape)
        self.spare = layers.Dense(2, name="spare")
        self.spare.build(shape)
        self.idle = self.add_weight(shape=(3,), name="idle")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.used(x)


def test_weights_that_are_not_read_have_no_gradient(tmp_path: Path) -> None:
    given = keras.Input((4,), name="x")
    model = keras.Model(given, Unread(name="both")(given))
    run = gradients(tmp_path, model, ROWS, of={"index": 1}, kind="weight")
    assert sorted(run) == ["both/used:bias@grad", "both/used:kernel@grad"]
    reasons = listed(run)
    assert {"both:idle", "both/spare:kernel", "both/spare:bias"} <= set(reasons)
    assert (
        reasons["both:idle"]
        == "the target does not depend on it through operations with a gradient"
    )
    wanted = np.zeros((5, 4, 2), np.float32)
    wanted[:, :, 1] = ROWS
    np.testing.assert_allclose(run["both/used:kernel@grad"], wanted, rtol=1e-6)


@tf.custom_gradient
def failing(x: tf.Tensor) -> Any:
    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        raise KeyError("a table of this layer")

    return tf.identity(x), gradient


class Failing(layers.Layer):
    def call(self, x: tf.Tensor) -> Any:
        return failing(x)


class Halves(tf.Module):
    """Rounding, which TensorFlow gives no gradient, beside a way around it."""

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        steps = tf.round(tf.sin(x, name="wave"), name="steps")
        return tf.reduce_sum(steps * x, -1)


def test_a_tensor_whose_gradient_is_none_is_listed(tmp_path: Path) -> None:
    run = gradients(tmp_path, Halves(), ROWS, of=":output", path=["wave:0", "steps:0", ":input.x"])
    assert set(run) == {"steps:0@grad", ":input.x@grad"}
    assert listed(run)["wave:0"] == (
        "the target does not depend on it through operations with a gradient"
    )
    np.testing.assert_allclose(run["steps:0@grad"], ROWS)
    np.testing.assert_allclose(run[":input.x@grad"], np.round(np.sin(ROWS)))


def test_tensors_whose_gradients_fail_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []
    own = tf.gradients

    def counted(*args: Any, **kwargs: Any) -> Any:
        tries.append(args)
        return own(*args, **kwargs)

    monkeypatch.setattr(tf, "gradients", counted)
    given = x = keras.Input((4,), name="x")
    for at in range(12):
        x = layers.Dense(4, name=f"before_{at}")(x)
    x = layers.Dense(3, name="behind")(Failing(name="failing")(x))
    model = keras.Model(given, layers.Dense(2, name="last")(x))
    path = [":input.x", "before_*:output", "*:input"]
    run = gradients(tmp_path, model, ROWS, of={"index": 0}, path=path)
    assert set(run) == {"behind:input@grad", "last:input@grad"}
    reasons = listed(run)
    failing = {":input.x", "failing:input", *(f"before_{at}:output" for at in range(12))}
    assert failing <= set(reasons)
    reason = "TensorFlow cannot differentiate the target by it: KeyError: 'a table of this layer'"
    assert {reasons[one] for one in failing} == {reason}
    assert len(tries) < 20


# ---- samples


class Limited(layers.Layer):
    """A layer of sequences of six, which the shapes in the graph show."""

    def build(self, shape: Any) -> None:
        self.positions = self.add_weight(shape=(6, 2), name="positions")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return x + self.positions


@pytest.mark.parametrize("path", ["words:output", "words:embeddings"])
def test_a_failing_sample_is_skipped(path: str, tmp_path: Path) -> None:
    """The target fails, not the tensor that the gradient is with respect to."""
    ids = keras.Input((None,), dtype="int32", name="ids")
    words = Limited(name="limited")(layers.Embedding(5, 2, name="words")(ids))
    model = keras.Model(ids, layers.GlobalAveragePooling1D(name="pool")(words))
    inputs = [{"ids": np.arange(size, dtype=np.int32) % 5} for size in (6, 30, 6)]
    how = ["runtime.bad_samples=skip"]
    run = gradients(tmp_path, model, inputs, *how, of={"index": 1}, path=path)
    (reason,) = run.missing.values()
    assert "it has 30 along 'token', where 6 would do" in reason


class Banned(tf.Module):
    """Scores of which a sample's own may all be -∞, or NaN."""

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32, name="x")])
    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return x + tf.where(x > 0, tf.where(x == 7, np.nan, 0.0), -np.inf)


GIVEN = [[1, 3, 2, 0.5], [1, 5], [2], [-1, 5, -1], [1, 7, 9, 4], [4, 1], [-1, -2], [-3]]


def test_the_largest_element_is_never_padding(tmp_path: Path) -> None:
    rows = [np.array(one, np.float32) for one in GIVEN]
    run = gradients(
        tmp_path,
        Banned(),
        [{"x": row} for row in rows],
        "runtime.batch_size=4",
        of={"index": "argmax"},
        kind="model_input",
    )
    (key,) = run
    assert run.manifest.settings["sharing"] == "samples of any lengths"
    for at, row in enumerate(rows):
        wanted = np.zeros(len(row))
        wanted[np.argmax(np.where(row > 0, np.where(row == 7, np.nan, row), -np.inf))] = 1
        assert run[key].sample(at).tolist() == wanted.tolist()
