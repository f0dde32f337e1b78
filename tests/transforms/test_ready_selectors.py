"""Ready selectors on samples of different lengths, against a plain loop."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import extractkit
from extractkit.core.values import Array

SAMPLES = [
    np.random.default_rng(length).normal(size=(length, 3)).astype(np.float32)
    for length in (5, 2, 7, 1)
]


def sequence_model() -> keras.Model:
    keras.utils.set_random_seed(3)
    frames = keras.Input((None, 3), name="frames")
    hidden = keras.layers.Dense(4, "tanh", name="lift")(frames)
    mixed = keras.layers.Conv1D(6, 2, padding="causal", name="mix")(hidden)
    return keras.Model(frames, keras.layers.Dense(2, name="head")(mixed))


def saved(model: keras.Model, directory: Path, form: str) -> tuple[str, str]:
    """The `model` group's entry, and the path of the model saved in its format."""
    if form == "keras":
        model.save(directory / "net.keras")
        return "keras", str(directory / "net.keras")
    if form == "saved_model":
        model.export(directory / "net", verbose=False)
        return "saved_model", str(directory / "net")
    converter = tf.lite.TFLiteConverter.from_keras_model(
        keras.Model(model.input, model.get_layer("lift")(model.input))
    )
    (directory / "net.tflite").write_bytes(converter.convert())
    return "tflite", str(directory / "net.tflite")


def by_sample(model: keras.Model, layer: str) -> list[Array]:
    """The outputs of a layer for each sample alone, by Keras itself."""
    inner = keras.Model(model.input, model.get_layer(layer).output)
    return [np.asarray(inner(sample[None]))[0] for sample in SAMPLES]


@pytest.mark.parametrize("selector", ["pooled", "last_token"])
@pytest.mark.parametrize(
    ("form", "layers"),
    [("keras", ("lift", "mix", "head")), ("saved_model", ("head",)), ("tflite", ("lift",))],
)
def test_padding_takes_no_part(
    tmp_path: Path, selector: str, form: str, layers: tuple[str, ...]
) -> None:
    model = sequence_model()
    name, path = saved(model, tmp_path, form)
    run = extractkit.extract(
        [f"model={name}", f"model.path={path}", f"selectors={selector}"],
        inputs=[{"frames": sample} for sample in SAMPLES],
        run_dir=tmp_path / "run",
    )
    for layer in layers:
        key = f"{layer}:output" if form == "keras" else next(iter(run))
        rows = by_sample(model, layer)
        expected = [row.mean(0) if selector == "pooled" else row[-1] for row in rows]
        np.testing.assert_allclose(np.asarray(run[key]), expected, rtol=2e-5, atol=1e-6)


class TimeFirst(tf.Module):
    """A layer on frames whose samples are along the second axis."""

    def __init__(self) -> None:
        super().__init__()
        draw = np.random.default_rng(5)
        self.kernel = tf.Variable(draw.normal(size=(3, 4)).astype(np.float32))

    @tf.function(input_signature=[tf.TensorSpec([None, None, 3], tf.float32, name="frames")])
    def __call__(self, frames: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"lifted": tf.tanh(frames @ self.kernel)}


def test_samples_may_be_along_another_axis_than_the_first(tmp_path: Path) -> None:
    net = TimeFirst()
    tf.saved_model.save(net, str(tmp_path / "net"), signatures=net.__call__)
    run = extractkit.extract(
        [
            *("model=saved_model", f"model.path={tmp_path / 'net'}"),
            "model.input_axes={frames: [time, sample, 3]}",
            "selectors=[pooled,last_token,statistics]",
        ],
        inputs=[{"frames": sample} for sample in SAMPLES],
        run_dir=tmp_path / "run",
    )
    rows = [np.tanh(sample.astype(np.float64) @ net.kernel.numpy()) for sample in SAMPLES]
    close = {"rtol": 2e-5, "atol": 1e-6}
    means, last = run[":output.lifted@pooled"], run[":output.lifted@last_token"]
    np.testing.assert_allclose(np.asarray(means), [row.mean(0) for row in rows], **close)
    np.testing.assert_allclose(np.asarray(last), [row[-1] for row in rows], **close)
    moments = run.statistics[":output.lifted@statistics"].moments
    np.testing.assert_allclose(moments.mean, np.concatenate(rows).mean(0), **close)
    assert int(moments.count) == sum(map(len, SAMPLES))


def test_layers_whose_axes_are_only_measured_take_part(tmp_path: Path) -> None:
    keras.utils.set_random_seed(3)
    frames = keras.Input((None, 3), name="frames")
    read = keras.layers.LSTM(4, return_sequences=True, name="read")(frames)
    model = keras.Model(frames, keras.layers.LSTM(2, name="end")(read))
    run = extractkit.extract(
        ["selectors=[pooled,last_token,statistics]"],
        model=model,
        inputs=[{"frames": sample} for sample in SAMPLES],
        run_dir=tmp_path / "run",
    )
    rows = by_sample(model, "read")
    np.testing.assert_allclose(
        np.asarray(run["read:output@last_token"]), [row[-1] for row in rows], rtol=2e-5, atol=1e-6
    )
    # One selector alone stores what has no axis of tokens.
    # The cells have an axis of steps.
    statistics, stored = (
        {key for key in one if "cell" not in key} for one in (run.statistics, run)
    )
    assert statistics == {"read:output@statistics", "end:output", ":output"}
    assert stored == {"read:output@last_token", "read:output@pooled"}
    assert {"end/lstm_cell:output@last_token", "end/lstm_cell:output@pooled"} < {*run}


def test_pooled_pictures_are_means_over_height_and_width(tmp_path: Path) -> None:
    keras.utils.set_random_seed(3)
    picture = keras.Input((None, None, 1), name="picture")
    model = keras.Model(picture, keras.layers.Conv2D(3, 2, name="filters")(picture))
    draw = np.random.default_rng(0)
    samples = [draw.normal(size=(*size, 1)).astype(np.float32) for size in ((4, 5), (6, 3))]
    run = extractkit.extract(
        ["selectors=pooled"], model=model, inputs=samples, run_dir=tmp_path / "run"
    )
    expected = [np.asarray(model(sample[None]))[0].mean((0, 1)) for sample in samples]
    np.testing.assert_allclose(np.asarray(run["filters:output"]), expected, rtol=1e-5, atol=1e-6)


def channels_first() -> tf.types.experimental.GenericFunction:
    """Layers on pictures in the layout of PyTorch, which TensorFlow's CPU kernels transpose."""
    kernel = np.random.default_rng(2).normal(size=(2, 2, 1, 3)).astype(np.float32)

    @tf.function(input_signature=[tf.TensorSpec([None, 1, 6, 5], tf.float32, name="picture")])
    def net(picture: tf.Tensor) -> tf.Tensor:
        return tf.nn.conv2d(picture, kernel, 1, "VALID", data_format="NCHW")

    return net


def test_channels_are_features_also_where_they_come_first(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    samples = draw.normal(size=(4, 1, 6, 5)).astype(np.float32)
    net = channels_first()
    run = extractkit.extract(
        ["selectors=[pooled,statistics]"], model=net, inputs=samples, run_dir=tmp_path / "run"
    )
    expected = np.asarray(net(samples)).astype(np.float64)
    means = np.asarray(run[":output@pooled"])
    np.testing.assert_allclose(means, expected.mean((2, 3)), rtol=1e-5, atol=1e-6)
    found = run.statistics[":output@statistics"].moments
    np.testing.assert_allclose(found.mean, expected.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.variance, expected.var((0, 2, 3)), rtol=1e-5, atol=1e-6)


def test_statistics_leave_out_layers_whose_last_axis_differs(tmp_path: Path) -> None:
    frames = keras.Input((None, 3), name="frames")
    lifted = keras.layers.Dense(4, name="lift")(frames)
    logits = keras.layers.Dense(1, name="logits")(lifted)
    model = keras.Model(frames, [lifted, keras.ops.squeeze(logits, -1)])
    run = extractkit.extract(
        ["selectors=statistics"],
        model=model,
        inputs=[{"frames": sample} for sample in SAMPLES],
        run_dir=tmp_path / "run",
    )
    assert {"lift:output", "logits:output"} <= set(run.statistics)
    assert not [key for key in run.statistics if "squeeze" in key]
    expected = np.concatenate([np.asarray(model(sample[None])[0])[0] for sample in SAMPLES])
    found = run.statistics["lift:output"].moments
    np.testing.assert_allclose(found.mean, expected.mean(0), rtol=1e-5, atol=1e-6)
