"""Totals of gradients with respect to weights: of batches, equal to the sum over samples."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import extractkit
from extractkit.core.values import Array
from extractkit.errors import FinalError, SelectionError
from tests.gradients.networks import classifier

ROWS = np.random.default_rng(0).normal(size=(11, 4)).astype("float32")
LABELS = np.random.default_rng(1).integers(0, 3, 11)
LOSS = {"loss": "sparse_categorical_crossentropy", "options": {"from_logits": True}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("totals")
    classifier().save(folder / "net.keras")
    np.savez(folder / "x.npz", x=ROWS, y=LABELS)
    return folder


def extracted(
    folder: Path, run_dir: Path, *given: str, statistics: Sequence[str] = ("total",)
) -> extractkit.Run:
    how = ["model=keras", f"model.path={folder / 'net.keras'}", "selectors=none"]
    inputs = ["inputs=arrays", f"inputs.path={folder / 'x.npz'}", "inputs.labels=y"]
    return extractkit.extract(
        [*how, *inputs, "runtime.shard_size=4", *given],
        selectors={
            "g": {"kind": "weight", "gradient": {"of": LOSS}, "statistics": list(statistics)}
        },
        run_dir=run_dir,
    )


def taped(folder: Path) -> dict[str, Array]:
    """Differentiate the loss of the whole data set at once, in float64."""
    model: Any = keras.models.load_model(folder / "net.keras")
    weights = [tf.Variable(one, dtype=tf.float64) for one in model.get_weights()]
    with tf.GradientTape() as tape:
        hidden = tf.tanh(ROWS.astype(np.float64) @ weights[0] + weights[1])
        logits = hidden @ weights[2] + weights[3]
        every = tf.nn.sparse_softmax_cross_entropy_with_logits(LABELS, logits)
        loss = tf.reduce_sum(every)
    names = ("hidden:kernel", "hidden:bias", "head:kernel", "head:bias")
    found = tape.gradient(loss, weights)
    return {f"{name}@grad": one.numpy() for name, one in zip(names, found, strict=True)}


def test_the_total_is_the_gradient_of_the_loss_over_the_data_set(
    folder: Path, tmp_path: Path
) -> None:
    run = extracted(folder, tmp_path / "run")
    assert run.manifest.settings["sharing"] == "samples of any lengths"
    for key, wanted in taped(folder).items():
        found = run.statistics[key].total
        assert (found.count, found.sum.shape) == (11, wanted.shape)
        np.testing.assert_allclose(found.sum, wanted, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.mean, wanted / 11, rtol=1e-5, atol=1e-6)
    kernel = run.statistics["head:kernel@grad"].total
    assert kernel.dims["sum"] == ("axis0", "axis1")


@pytest.mark.parametrize("how", ["with moments", "omitting samples"])
def test_samples_run_alone_where_each_gradient_is_needed(
    how: str, folder: Path, tmp_path: Path
) -> None:
    given = ("runtime.non_finite=skip",) if how == "omitting samples" else ()
    statistics = ("total",) if given else ("total", "moments")
    run = extracted(folder, tmp_path / "run", *given, statistics=statistics)
    assert run.manifest.settings["sharing"] == "one sample"
    for key, wanted in taped(folder).items():
        np.testing.assert_allclose(run.statistics[key].total.sum, wanted, rtol=1e-5, atol=1e-6)


def test_resumed_recomputed_and_joined_totals_have_the_same_bits(
    folder: Path, tmp_path: Path
) -> None:
    def results(name: str) -> bytes:
        return (tmp_path / name / "statistics.npz").read_bytes()

    extracted(folder, tmp_path / "whole")
    extracted(folder, tmp_path / "cut")
    for shard in sorted((tmp_path / "cut" / "shards").iterdir())[1:]:
        shard.unlink()
    extractkit.resume(tmp_path / "cut")
    assert results("cut") == results("whole")
    for part in (1, 2):
        extracted(folder, tmp_path / "joined", f"runtime.part={part}/2")
    extractkit.join(tmp_path / "joined")
    assert results("joined") == results("whole")
    found = extractkit.verify(tmp_path / "whole", recompute=3)
    assert not found.failed, [str(one) for one in found.findings]


def test_samples_that_the_model_fails_on_are_not_in_the_total(folder: Path, tmp_path: Path) -> None:
    labels = LABELS.copy()
    labels[5] = 7
    np.savez(tmp_path / "x.npz", x=ROWS, y=labels)
    (tmp_path / "net.keras").write_bytes((folder / "net.keras").read_bytes())
    run = extracted(tmp_path, tmp_path / "run", "runtime.bad_samples=skip")
    left = [at for at in range(11) if at != 5]
    logits = np.asarray(keras.models.load_model(folder / "net.keras")(ROWS[left]), np.float64)
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    wanted = (shares - np.eye(3)[LABELS[left]]).sum(0)
    found = run.statistics["head:bias@grad"].total
    assert found.count == 10
    np.testing.assert_allclose(found.sum, wanted, rtol=1e-5, atol=1e-6)


class Interacting(tf.Module):
    """A target of each sample that the others of its batch change."""

    def __init__(self) -> None:
        self.w = tf.Variable(np.linspace(-1, 1, 4).astype("float32"), name="w")

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        h = x * self.w
        return tf.reduce_sum(tf.sin(h - 0.5 * tf.reduce_mean(h, 0)), -1)


def test_samples_that_interact_run_alone(tmp_path: Path) -> None:
    module = Interacting()
    run = extractkit.extract(
        ["selectors=none"],
        model=module,
        inputs=ROWS,
        selectors={"g": {"kind": "weight", "gradient": {"of": ":output"}, "statistics": "total"}},
        run_dir=tmp_path / "run",
    )
    assert run.manifest.settings["sharing"] == "one sample"
    (key,) = run.statistics
    rows, w = ROWS.astype(np.float64), np.linspace(-1, 1, 4)
    wanted = (np.cos(0.5 * rows * w) * 0.5 * rows).sum(0)
    np.testing.assert_allclose(run.statistics[key].total.sum, wanted, rtol=1e-5, atol=1e-5)


def test_padding_that_changes_gradients_of_weights_is_found(tmp_path: Path) -> None:
    """Padding adds nothing to values here, and something to the gradient of row 0."""
    ids = keras.Input((None,), dtype="int32", name="ids")
    table = np.random.default_rng(0).normal(size=(9, 3)).astype("float32")
    table[0] = 0
    words = layers.Embedding(9, 3, name="words", weights=[table])(ids)
    added = keras.ops.sum(words, axis=1)
    model = keras.Model(ids, layers.Dense(2, name="head")(added))
    texts = [np.array(one, np.int32) for one in ([1, 2], [3], [4, 5, 6, 7, 8], [2, 2, 1])]
    run = extractkit.extract(
        ["selectors=none"],
        model=model,
        inputs=[{"ids": one} for one in texts],
        selectors={
            "g": {
                "path": "words:embeddings",
                "gradient": {"of": {"index": 1}},
                "statistics": "total",
            }
        },
        run_dir=tmp_path / "run",
    )
    kernel = model.layers[-1].kernel.numpy()[:, 1]
    wanted = np.zeros((9, 3))
    for text in texts:
        for token in text:
            wanted[token] += kernel
    assert run.manifest.settings["sharing"] == "samples of equal lengths"
    found = run.statistics["words:embeddings@grad"].total.sum
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_values_of_other_tensors_have_totals(folder: Path, tmp_path: Path) -> None:
    run = extractkit.extract(
        ["model=keras", f"model.path={folder / 'net.keras'}", "selectors=none"],
        inputs=ROWS,
        selectors={"v": {"path": "hidden:output", "statistics": "total"}},
        run_dir=tmp_path / "run",
    )
    kernel, bias, *_ = keras.models.load_model(folder / "net.keras").get_weights()
    wanted = np.tanh(ROWS @ kernel + bias).astype(np.float64).sum(0)
    np.testing.assert_allclose(run.statistics["hidden:output"].total.sum, wanted, rtol=1e-5)


def test_infinite_totals_are_of_no_sample(folder: Path, tmp_path: Path) -> None:
    rows = ROWS.copy()
    rows[6] = np.nan
    np.savez(tmp_path / "x.npz", x=rows, y=LABELS)
    (tmp_path / "net.keras").write_bytes((folder / "net.keras").read_bytes())
    with pytest.raises(FinalError, match=r"holds \d+ NaN values\. To store them: "):
        extracted(tmp_path, tmp_path / "run", "runtime.non_finite=fail")


def test_samples_of_different_shapes_have_no_total(tmp_path: Path) -> None:
    ids = keras.Input((None,), dtype="int32", name="ids")
    model = keras.Model(ids, layers.Embedding(9, 3, name="words")(ids))
    with pytest.raises(SelectionError, match="adds up samples of one shape, and those of 'words"):
        extractkit.extract(
            ["selectors=none"],
            model=model,
            inputs=[{"ids": np.array([1, 2], np.int32)}],
            selectors={"v": {"path": "words:output", "statistics": "total"}},
            run_dir=tmp_path / "run",
        )
