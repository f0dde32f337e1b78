"""Gradients of models of every format: against GradientTape, and one sample at a time."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from keras import layers

import extractkit
from extractkit.core.values import Array
from extractkit.errors import JobError, SelectionError
from extractkit.models.in_memory import live_model
from extractkit.models.keras_models.model import KerasModel
from tests.gradients.networks import session_of_tensorflow_1
from tests.models import zoo
from tests.models.session_graphs import control_flow, frozen

Pick = Callable[[Any], Any]

ROWS = np.random.default_rng(0).normal(size=(9, 4)).astype("float32")
TOKENS = [
    np.random.default_rng(n).integers(1, 9, size=n).astype("int32") for n in (3, 5, 1, 7, 5, 2)
]


def gradients(
    folder: Path, inputs: object, *given: str, model: object = None, **selector: object
) -> extractkit.Run:
    chosen = {"g": {key: value for key, value in selector.items() if value is not None}}
    return extractkit.extract(
        ["selectors=none", *given],
        model=model,
        inputs=inputs,
        selectors=chosen,
        run_dir=folder / "run",
    )


def taped(call: Callable[[tf.Tensor], Any], rows: Sequence[Array], pick: Pick) -> list[Array]:
    """Differentiate with respect to the inputs, one sample at a time."""
    found = []
    for row in rows:
        given = tf.constant(row[None])
        with tf.GradientTape() as tape:
            tape.watch(given)
            number = pick(call(given))
        found.append(tape.gradient(number, given)[0].numpy())
    return found


def of_weights(model: Any, rows: Sequence[Array], pick: Pick) -> list[list[Array]]:
    """Differentiate with respect to each weight, one sample at a time."""
    found: list[list[Array]] = [[] for _ in model.weights]
    for row in rows:
        with tf.GradientTape() as tape:
            number = pick(model(row[None]))
        for own, one in zip(found, tape.gradient(number, model.weights), strict=True):
            own.append(tf.convert_to_tensor(one).numpy())
    return found


def near(run: extractkit.Run, key: str, wanted: Sequence[Array], tolerance: float = 1e-6) -> None:
    """Compare each sample's gradient, relative to its own largest element."""
    scales = [np.abs(one).max() or 1.0 for one in wanted]
    assert sum(one.any() for one in wanted) > len(wanted) / 2, "gradients of zeros show nothing"
    for at, (one, scale) in enumerate(zip(wanted, scales, strict=True)):
        np.testing.assert_allclose(run[key].sample(at) / scale, one / scale, rtol=0, atol=tolerance)


PICKS: Mapping[str, tuple[object, Pick]] = {
    "index": ({"index": 1}, lambda y: y[:, 1]),
    "from the end": ({"tensor": ":output", "index": [-1]}, lambda y: y[:, -1]),
    "argmax": ("argmax", lambda y: tf.reduce_max(y, axis=-1)),
    "difference": (
        {"index": "argmax", "minus": 0},
        lambda y: tf.reduce_max(y, axis=-1) - y[:, 0],
    ),
}


@pytest.mark.parametrize("name", PICKS)
def test_targets_of_a_keras_model(name: str, tmp_path: Path) -> None:
    of, pick = PICKS[name]
    model = zoo.sequential()
    run = gradients(tmp_path, ROWS, model=model, kind="model_input", gradient={"of": of})
    assert list(run) == [":input@grad"]
    near(run, ":input@grad", taped(model, ROWS, pick))


def test_inner_tensors_and_values_side_by_side(tmp_path: Path) -> None:
    model = zoo.convolutional()
    images = np.random.default_rng(0).normal(size=(5, 8, 8, 2)).astype("float32")
    run = extractkit.extract(
        ["selectors=none"],
        model=model,
        inputs=images,
        selectors={
            "g": {"path": "conv2d:output", "gradient": {"of": {"index": 0}}},
            "v": {"path": ["conv2d:output", ":output"]},
        },
        run_dir=tmp_path / "run",
    )
    assert set(run) == {"conv2d:output", "conv2d:output@grad", ":output"}
    rest = keras.Model(model.layers[1].output, model.output)
    near(run, "conv2d:output@grad", taped(rest, run["conv2d:output"][:], lambda y: y[:, 0]))
    np.testing.assert_allclose(run[":output"][:], model(images), atol=1e-6)


def test_weights_one_sample_per_call(tmp_path: Path) -> None:
    model = zoo.sequential()
    run = gradients(tmp_path, ROWS, model=model, kind="weight", gradient={"of": {"index": 1}})
    assert run.manifest.settings["sharing"] == "one sample"
    wanted = of_weights(model, ROWS, lambda y: y[:, 1])
    for key, one in zip(run, wanted, strict=True):
        near(run, key, one)


def recurrent() -> keras.Model:
    ids = keras.Input((None,), dtype="int32", name="ids")
    words = layers.Embedding(9, 4, mask_zero=True, name="words")(ids)
    return keras.Model(ids, layers.LSTM(3, return_sequences=True, name="lstm")(words))


@pytest.mark.parametrize(
    ("size", "sharing"),
    [
        pytest.param(1, "one sample", marks=pytest.mark.thorough),
        (7, "samples of any lengths"),
    ],
)
def test_padding_and_batches_change_nothing(size: int, sharing: str, tmp_path: Path) -> None:
    """A loop behind a mask, and two targets in one run."""
    model = recurrent()
    _, words, lstm = model.layers
    rows = [words(ids).numpy() for ids in TOKENS]
    last = taped(lstm, rows, lambda y: y[:, -1, 0])
    largest = taped(lstm, rows, lambda y: tf.reduce_max(y, axis=(1, 2)))
    targets = {"last": [-1, 0], "largest": "argmax"}
    run = extractkit.extract(
        ["selectors=none", f"runtime.batch_size={size}"],
        model=model,
        inputs=[{"ids": ids} for ids in TOKENS],
        selectors={
            name: {"path": "words:output", "gradient": {"of": {"index": index}}}
            for name, index in targets.items()
        },
        run_dir=tmp_path / "run",
    )
    assert run.manifest.settings["sharing"] == sharing
    near(run, "words:output@grad@last", last)
    near(run, "words:output@grad@largest", largest)


def test_embedding_tables(tmp_path: Path) -> None:
    """TensorFlow gives a row for each token, which are added up for a token that occurs twice."""
    model = recurrent()
    tokens = [np.array(one, np.int32) for one in ([3, 1, 3, 3], [8], [2, 2, 5])]
    inputs = [{"ids": ids} for ids in tokens]
    of = {"of": {"index": [-1, 0]}}
    run = gradients(tmp_path, inputs, model=model, path="words:embeddings", gradient=of)
    wanted = []
    _, words, _ = model.layers
    for ids in tokens:
        with tf.GradientTape() as tape:
            number = model(ids[None])[0, -1, 0]
        rows = tape.gradient(number, words.embeddings.value)
        assert isinstance(rows, tf.IndexedSlices)
        table = np.zeros((9, 4), np.float64)
        for token, row in zip(rows.indices.numpy().ravel(), rows.values, strict=True):
            table[token] += row.numpy().ravel()
        wanted.append(table)
    near(run, "words:embeddings@grad", wanted)


def test_recurrent_layers_of_keras_2(tmp_path: Path) -> None:
    ids = tf_keras.Input((None,), dtype="int32", name="ids")
    embedded = tf_keras.layers.Embedding(9, 4, mask_zero=True, name="words")(ids)
    model = tf_keras.Model(ids, tf_keras.layers.LSTM(3, name="lstm")(embedded))
    run = gradients(
        tmp_path,
        [{"ids": ids} for ids in TOKENS],
        model=model,
        path="words:output",
        gradient={"of": {"index": 1}},
    )
    _, words, lstm = model.layers
    rows = [words(ids).numpy() for ids in TOKENS]
    near(run, "words:output@grad", taped(lstm, rows, lambda y: y[:, 1]))


def test_weights_of_each_checkpoint(tmp_path: Path) -> None:
    model, seeds = custom(), (1, 2)
    model.save(tmp_path / "net.keras")
    for seed in seeds:
        draw = np.random.default_rng(seed)
        model.set_weights([draw.normal(size=one.shape) for one in model.get_weights()])
        model.save_weights(tmp_path / f"step_{seed}.weights.h5")
    run = gradients(
        tmp_path,
        ROWS,
        "model=keras",
        f"model.path={tmp_path / 'net.keras'}",
        f"model.checkpoints={tmp_path}/step_*.weights.h5",
        kind="model_input",
        gradient={"of": {"index": 1}},
    )
    for seed in seeds:
        model.load_weights(tmp_path / f"step_{seed}.weights.h5")
        wanted = taped(model, ROWS, lambda y: y[:, 1])
        near(run.at(f"step_{seed}"), ":input.x@grad", wanted)


@pytest.mark.parametrize("compiled", ["graph", "xla"])
def test_half_precision_and_xla(compiled: str, tmp_path: Path) -> None:
    given = keras.Input((4,), name="x")
    half = layers.Dense(5, "tanh", dtype="mixed_float16", name="half")(given)
    model = keras.Model(given, layers.Dense(2, dtype="float32", name="last")(half))
    run = gradients(
        tmp_path,
        ROWS,
        f"runtime.compile={compiled}",
        model=model,
        path=["half:output", ":input.x"],
        gradient={"of": {"index": 1}},
    )
    assert run["half:output@grad"].dtype == np.float16
    kernel = model.layers[-1].kernel.numpy()[:, 1]
    near(run, "half:output@grad", [kernel] * len(ROWS), 1e-3)
    # Of numbers in float32: half precision rounds what they are multiplied by.
    first, bias = (one.numpy().astype(np.float64) for one in model.layers[1].weights)
    wanted = ((1 - np.tanh(ROWS @ first + bias) ** 2) * kernel) @ first.T
    near(run, ":input.x@grad", list(wanted), 1e-2)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[keras.Model, Path]:
    given = keras.Input((4,), name="x")
    hidden = layers.Dense(6, activation="tanh", name="h")(given)
    model = keras.Model(given, layers.Dense(3, name="o")(hidden))
    folder = tmp_path_factory.mktemp("models") / "saved"
    model.export(folder, verbose=False)
    return model, folder


@pytest.mark.parametrize("kind", ["model_input", "weight"])
def test_saved_models(kind: str, exported: tuple[keras.Model, Path], tmp_path: Path) -> None:
    model, folder = exported
    how = ["model=saved_model", f"model.path={folder}"]
    run = gradients(tmp_path, ROWS, *how, kind=kind, gradient={"of": {"index": 2}})
    _hold(run, model, kind)


def _hold(run: extractkit.Run, model: keras.Model, kind: str) -> None:
    if kind == "model_input":
        (key,) = run
        near(run, key, taped(model, ROWS, lambda y: y[:, 2]))
        return
    wanted = {one[0].shape: one for one in of_weights(model, ROWS, lambda y: y[:, 2])}
    assert len(wanted) == len(list(run)) == 4
    for key in run:
        near(run, key, wanted[tuple(run[key].shape[1:])])


@pytest.mark.parametrize("kind", ["model_input", "weight"])
def test_frozen_graphs(kind: str, exported: tuple[keras.Model, Path], tmp_path: Path) -> None:
    model, _ = exported
    kernel, bias, other, last = (one.numpy() for one in model.weights)
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], name="x")
        tf.add(tf.tanh(x @ kernel + bias) @ other, last, name="y")
    tf.io.write_graph(graph.as_graph_def(), str(tmp_path), "net.pb", as_text=False)
    how = ["model=frozen_graph", f"model.path={tmp_path / 'net.pb'}"]
    run = gradients(tmp_path, ROWS, *how, kind=kind, gradient={"of": {"index": 2}})
    _hold(run, model, kind)


def test_graphs_of_tensorflow_1(tmp_path: Path) -> None:
    """A reference variable and one with a handle."""
    with session_of_tensorflow_1(tmp_path / "model") as made:
        by_hand = tf.gradients(made.y[:, 1], [made.x, made.w, made.b])
        wanted = [made.session.run(by_hand, {made.x: row[None]}) for row in ROWS]
    run = gradients(
        tmp_path,
        ROWS,
        "model=meta_graph",
        f"model.path={tmp_path / 'model.meta'}",
        "runtime.batch_size=1",
        kind=["model_input", "weight"],
        gradient={"of": {"tensor": "y:0", "index": 1}},
    )
    assert list(run) == ["x:0@grad", "w:0@grad", "b:0@grad"]
    near(run, "x:0@grad", [one[0][0] for one in wanted])
    near(run, "w:0@grad", [one[1] for one in wanted])
    near(run, "b:0@grad", [one[2] for one in wanted])


class Computed(tf.Module):
    """A function in float64, with a loop and a branch."""

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float64, name="x")])
    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        for _ in tf.range(3):
            x = tf.tanh(x * [1.0, -2.0, 0.5, 3.0])
        return tf.reduce_sum(tf.sin(x) * x, axis=-1)


def test_finite_differences_in_float64(tmp_path: Path) -> None:
    module, rows = Computed(), ROWS.astype("float64")
    run = gradients(tmp_path, rows, model=module, kind="model_input", gradient={"of": ":output"})
    step = 1e-6
    wanted = np.empty_like(rows)
    for axis in range(rows.shape[1]):
        moved = np.zeros(4)
        moved[axis] = step
        wanted[:, axis] = (module(rows + moved) - module(rows - moved)) / (2 * step)
    (key,) = run
    assert run[key].dtype == np.float64
    near(run, key, list(wanted), tolerance=1e-8)


# ---- custom gradients


@tf.custom_gradient
def reversed_gradient(x: tf.Tensor) -> Any:
    """Pass on the values, and reverse the gradient, as domain-adversarial training does."""
    return tf.identity(x), lambda upstream: -upstream


@keras.saving.register_keras_serializable("tests")
class Reversed(layers.Layer):
    def call(self, x: tf.Tensor) -> Any:
        return reversed_gradient(x)


def custom() -> keras.Model:
    given = keras.Input((4,), name="x")
    middle = layers.Dense(5, activation="silu", name="middle")(given)
    return keras.Model(given, layers.Dense(2, name="last")(Reversed(name="back")(middle)))


def test_custom_gradients_of_a_keras_model_apply(tmp_path: Path) -> None:
    model = custom()
    run = gradients(tmp_path, ROWS, model=model, kind="model_input", gradient={"of": {"index": 0}})
    near(run, ":input.x@grad", taped(model, ROWS, lambda y: y[:, 0]))


def test_a_trace_for_custom_gradients_is_shared_by_programs_of_one_target() -> None:
    def graph(model: KerasModel, *targets: str) -> object:
        return model.differentiable([":output"], targets).graph

    model = live_model(custom())
    trial = graph(model)
    first = graph(model, ":output")
    assert first is trial
    assert graph(model, ":output") is first
    second = graph(model, "middle:output")
    assert second is not first
    assert graph(model) is second
    assert graph(model, ":output") is not first, "gradients of many targets pile up in one graph"
    plain = live_model(zoo.sequential())
    assert graph(plain, ":output") is not graph(plain, ":output")


class Changing(layers.Layer):
    """A layer that calls another one at will."""

    more = False

    def build(self, shape: Any) -> None:
        self.inner = layers.Dense(4, name="inner")
        self.inner.build(shape)

    def call(self, x: tf.Tensor) -> Any:
        back = reversed_gradient(x)
        return self.inner(back) if self.more else back


def test_custom_gradients_of_a_model_that_changes_are_refused() -> None:
    given = keras.Input((4,), name="x")
    changing = Changing(name="changing")
    model = live_model(keras.Model(given, changing(given)))
    assert model.catalog.records
    changing.more = True
    with pytest.raises(JobError, match="has custom gradients, and other tensors each time it"):
        model.differentiable([":output"])


# ---- refusals


def refusal(model: object, inputs: object = ROWS, *given: str, **selector: object) -> str:
    with pytest.raises(SelectionError) as refused:
        extractkit.plan(
            ["selectors=none", *given], model=model, inputs=inputs, selectors={"g": selector}
        )
    return str(refused.value)


class Obstacles(tf.Module):
    """Operations that TensorFlow does not differentiate, on the way to some outputs."""

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def __call__(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        wave = tf.sin(x, name="wave")
        picture = wave[:, None, :, None]
        contrast = tf.raw_ops.AdjustContrastv2(images=picture, contrast_factor=2.0, name="contrast")

        def step(at: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return at + 1, tf.nn.silu(y)

        looped = tf.while_loop(lambda at, _: at < 2, step, [0, x])[1]
        return {
            "contrast": tf.reduce_sum(contrast, [1, 2, 3]),
            "looped": tf.reduce_sum(looped, -1),
            "rounded": tf.reduce_sum(tf.round(x), -1),
            "square": tf.reduce_sum(tf.square(x, name="square"), -1),
        }


@pytest.mark.parametrize(
    ("target", "path", "message"),
    [
        (":output.square", "wave:0", "the target does not depend on it through operations with a"),
        (
            ":output.rounded",
            ":input.x",
            ":input.x: the target does not depend on it through operations",
        ),
        (
            ":output.contrast",
            "wave:0",
            "wave:0: TensorFlow has no gradient of operation 'contrast' (AdjustContrastv2)",
        ),
        (":output.looped", ":input.x", "has a custom gradient, which is Python code that graphs"),
    ],
)
def test_without_a_path_there_is_no_gradient(target: str, path: str, message: str) -> None:
    assert message in refusal(Obstacles(), path=path, gradient={"of": target})


def test_behind_an_operation_without_a_gradient_there_is_one(tmp_path: Path) -> None:
    of = {"of": ":output.contrast"}
    run = gradients(tmp_path, ROWS, model=Obstacles(), path="contrast:0", gradient=of)
    np.testing.assert_array_equal(run["contrast:0@grad"], np.ones((9, 1, 4, 1)))


def test_loops_of_tensorflow_1_are_refused(tmp_path: Path) -> None:
    def build() -> None:
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], name="x")
        looped = tf.compat.v1.while_loop(
            lambda at, _: at < 2, lambda at, y: (at + 1, tf.tanh(y)), [tf.constant(0), x]
        )
        tf.reduce_sum(tf.square(looped[1], name="square"), -1, name="y")

    with control_flow(1):
        file = frozen(build, ["y"], tmp_path / "net.pb")
    how = ["model=frozen_graph", f"model.path={file}"]
    run = gradients(tmp_path, ROWS, *how, path="square:0", gradient={"of": "y:0"})
    np.testing.assert_array_equal(run["square:0@grad"], np.ones((9, 4)))
    found = refusal(None, ROWS, *how, kind="model_input", gradient={"of": "y:0"})
    assert re.search(r"x:0: operation '\S+' \(Exit\) is part of a loop or branch of Tens", found)


def test_interpreters_have_no_gradients(tmp_path: Path) -> None:
    converted = tf.lite.TFLiteConverter.from_keras_model(zoo.sequential()).convert()
    file = tmp_path / "net.tflite"
    file.write_bytes(converted)
    how = ["model=tflite", f"model.path={file}"]
    found = refusal(None, ROWS, *how, kind="model_input", gradient={"of": "argmax"})
    assert found == (
        "selectors.g.gradient: model 'tflite' computes no gradients, because the interpreter of "
        "TensorFlow Lite has no derivatives of its operations. Leave gradient out to store values"
    )


def test_whole_numbers_have_no_gradient() -> None:
    found = refusal(
        recurrent(),
        [{"ids": ids} for ids in TOKENS],
        kind="model_input",
        gradient={"of": "argmax"},
    )
    assert "it holds int32, and gradients need real numbers" in found


def test_a_measured_target_that_does_not_fit() -> None:
    found = refusal(
        recurrent(),
        [{"ids": ids} for ids in TOKENS],
        path="words:output",
        gradient={"of": {"index": 0}},
    )
    assert re.search(r"is not one number per sample: ':output' has dims \['token', .*\]", found)
