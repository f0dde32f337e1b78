"""Gradients of samples in batches equal those of each sample alone, whatever samples share."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import extractkit
from extractkit.core.values import Array
from extractkit.errors import JobError
from tests.engine.examples import Collected

ROWS = np.random.default_rng(0).normal(size=(9, 4)).astype("float32")


class Interacting(tf.Module):
    """Targets that each sample of a batch changes for the others, behind values that it does not.

    For a sample alone, the mean is the sample itself, and the softmax is 1.
    """

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def __call__(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        h = tf.tanh(x, name="h")
        centred = tf.sin(h - 0.5 * tf.reduce_mean(h, 0))
        return {
            "centred": tf.reduce_sum(centred, -1),
            "softmax": tf.reduce_sum(h * h * tf.nn.softmax(h, axis=0), -1),
        }


@pytest.mark.parametrize(
    ("target", "derivative"),
    [("centred", lambda h: 0.5 * np.cos(0.5 * h)), ("softmax", lambda h: 2 * h)],
)
def test_samples_that_change_the_targets_of_others_run_alone(
    target: str, derivative: Callable[[Array], Array], tmp_path: Path
) -> None:
    of = {"of": f":output.{target}"}
    listener = Collected()
    run = extractkit.extract(
        ["selectors=none", "runtime.batch_size=4"],
        model=Interacting(),
        inputs=ROWS,
        selectors={"g": {"path": ["h:0", ":input.x"], "gradient": of}, "v": {"path": "h:0"}},
        run_dir=tmp_path / "run",
        listener=listener,
    )
    assert run.manifest.settings["sharing"] == "one sample"
    (note,) = (one for one in listener.notes if "several samples together" in one)
    assert "give other values of ':input.x@grad' than each alone" in note
    h = np.tanh(ROWS.astype(np.float64))
    wanted = derivative(h)
    np.testing.assert_allclose(run["h:0"], h, rtol=1e-5)
    np.testing.assert_allclose(run["h:0@grad"], wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(run[":input.x@grad"], wanted * (1 - h * h), rtol=1e-5, atol=1e-6)


class Hidden(tf.Module):
    """A sum that padding does not change, but whose derivative is ∞ · 0 in padding."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None], tf.float32, name="x"),
            tf.TensorSpec([None, 1], tf.float32, name="scale"),
        ]
    )
    def __call__(self, x: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(tf.where(x > 0, tf.math.log(x * scale), 0.0), -1)


def test_values_survive_padding_that_gradients_do_not(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    inputs = [
        {
            "x": draw.uniform(1, 2, size).astype("float32"),
            "scale": draw.uniform(1, 2, 1).astype("float32"),
        }
        for size in (3, 5, 2, 3, 5, 4)
    ]

    def extracted(name: str, **selector: object) -> extractkit.Run:
        return extractkit.extract(
            ["selectors=none"],
            model=Hidden(),
            inputs=inputs,
            selectors={"g": selector},
            run_dir=tmp_path / name,
        )

    values = extracted("values", path=":output")
    assert values.manifest.settings["sharing"] == "samples of any lengths"
    run = extracted("gradients", path=":input.scale", gradient={"of": ":output"})
    assert run.manifest.settings["sharing"] == "samples of equal lengths"
    for at, one in enumerate(inputs):
        wanted = len(one["x"]) / one["scale"]
        np.testing.assert_allclose(run[":input.scale@grad"].sample(at), wanted, rtol=1e-6)


class Late(tf.Module):
    """A target that samples of a batch change for each other if one of them is large."""

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        large = tf.cast(tf.reduce_max(x) > 50, tf.float32)
        return tf.reduce_sum(tf.sin(x - large * tf.reduce_mean(x, 0)), -1)


def test_effects_that_later_samples_show_end_the_job(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(3000, 4)).astype("float32")
    rows[300:] += 60
    with pytest.raises(JobError) as ended:
        extractkit.extract(
            ["selectors=none", "runtime.batch_size=100", "runtime.shard_size=300"],
            model=Late(),
            inputs=rows,
            selectors={"g": {"kind": "model_input", "gradient": {"of": ":output"}}},
            run_dir=tmp_path / "run",
        )
    assert "':input.x@grad'" in str(ended.value)
    assert "runtime.batch_size=1" in str(ended.value)


class Jumping(tf.Module):
    """Gradients that jump by 1 % with the last bit of a sample, which batches round differently.

    Args:
        effect: something else that the batch does to the gradients that jump.
        every: whether those of every sample jump, or of some samples.
    """

    def __init__(self, effect: str, *, every: bool) -> None:
        super().__init__()
        self.effect = effect
        self.every = every

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        held = tf.stop_gradient(x)
        rows = tf.shape(x)[0]
        bits = tf.bitcast(held[:, 0], tf.int32) + tf.cast(rows > 1, tf.int32)
        beside = {
            "none": tf.zeros_like(x),
            "other samples": -0.05 * tf.reduce_mean(held, 0, keepdims=True),
            "their number": 1e-3 * tf.cast(rows, tf.float32),
            "their presence": 0.03 * tf.cast(rows > 1, tf.float32),
        }[self.effect]
        jumping = tf.cast(tf.logical_or(held[:, 1] > 0, self.every), tf.float32)
        jump = 0.01 * tf.cast(tf.bitwise.bitwise_and(bits, 1), tf.float32) * jumping
        return tf.reduce_sum(x * (1 + beside * jumping[:, tf.newaxis]), -1) + x[:, 0] * jump


@pytest.mark.parametrize("totals", [False, True])
@pytest.mark.parametrize(
    ("effect", "every"),
    [
        ("none", False),
        ("other samples", False),
        ("their number", False),
        ("their presence", True),
    ],
)
def test_samples_share_a_batch_where_rounding_alone_makes_gradients_jump(
    effect: str, every: bool, totals: bool, tmp_path: Path
) -> None:
    statistics = {"statistics": ["total"]} if totals else {}
    run = extractkit.extract(
        ["selectors=none"],
        model=Jumping(effect, every=every),
        inputs=ROWS,
        selectors={"g": {"path": ":input.x", "gradient": {"of": ":output"}, **statistics}},
        run_dir=tmp_path / "run",
    )
    shared = run.manifest.settings["sharing"]
    if effect != "none":
        assert shared == "one sample"
        return
    assert shared == "samples of any lengths"
    measured = run.manifest.volatile.sharing
    assert measured is not None
    assert measured.reason is None
    if not totals:
        assert 0.009 < measured.difference < 0.01 < measured.tolerance
        np.testing.assert_allclose(run[":input.x@grad"], np.ones((9, 4)), rtol=0.011)
