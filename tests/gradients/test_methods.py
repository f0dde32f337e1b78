"""Methods of attribution: against loops by hand, in NumPy, on models of several formats."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import extractkit
from extractkit.core.attribution import method_text
from extractkit.core.values import Array
from extractkit.engine import Summary
from extractkit.errors import SelectionError
from tests.engine.examples import Collected
from tests.gradients.networks import session_of_tensorflow_1
from tests.gradients.test_formats import ROWS, TOKENS, Computed, custom, recurrent, refusal
from tests.models.session_graphs import control_flow, frozen

Call = Callable[[tf.Tensor], tf.Tensor]
INTEGRATE = {"steps": 64}


def stored(
    folder: Path, inputs: object, *given: str, model: object = None, **selectors: Any
) -> extractkit.Run:
    return extractkit.extract(
        ["selectors=none", *given],
        model=model,
        inputs=inputs,
        selectors=selectors,
        run_dir=folder / "run",
    )


def gradients_at(call: Call, points: Array) -> Array:
    """Differentiate the targets of samples by what each is computed from."""
    given = tf.constant(points)
    with tf.GradientTape() as tape:
        tape.watch(given)
        numbers = call(given)
    return np.asarray(tape.gradient(numbers, given))


def gradient_at(call: Call, point: Array) -> Array:
    return np.asarray(gradients_at(call, point[None])[0])


def integrated(
    call: Call, points: Sequence[Array], baselines: Sequence[Array], steps: int = 1000
) -> list[Array]:
    """Integrate by the midpoint rule. All points of a sample are one batch."""
    found = []
    for point, start in zip(points, baselines, strict=True):
        at = ((np.arange(steps) + 0.5) / steps).reshape(-1, *[1] * point.ndim)
        along = start + at * (point.astype(np.float64) - start)
        mean = gradients_at(call, along.astype(point.dtype)).astype(np.float64).mean(0)
        found.append(mean * (point - start))
    return found


def near(found: Sequence[Array], wanted: Sequence[Array], tolerance: float = 1e-5) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert np.any(other), "attributions of zeros show nothing"
        scale = np.abs(other).max()
        np.testing.assert_allclose(one / scale, other / scale, rtol=0, atol=tolerance)


def samples(run: extractkit.Run, key: str) -> list[Array]:
    return [run[key].sample(at) for at in range(len(run[key]))]


def chosen(model: keras.Model, row: Array) -> Call:
    """Return the logit that the model chooses for a sample, as a function of other inputs."""
    index = int(np.argmax(model(row[None])))
    return lambda given: model(given)[:, index]


def classifier() -> keras.Model:
    """Build a model without kinks, of which a rule of few points is exact."""
    keras.utils.set_random_seed(0)
    given = keras.Input((4,), name="x")
    hidden = layers.Dense(6, activation="tanh", name="h")(given)
    return keras.Model(given, layers.Dense(3, name="o")(hidden))


def test_gradient_times_value(tmp_path: Path) -> None:
    model = classifier()
    of = {"of": "argmax", "times": "value"}
    run = stored(tmp_path, ROWS, model=model, g={"kind": "model_input", "gradient": of})
    wanted = [row * gradient_at(chosen(model, row), row) for row in ROWS]
    near(samples(run, ":input.x@grad"), wanted)


PIXELS = np.random.default_rng(5).normal(size=(5, 8, 8, 2)).astype("float32")


def rectified() -> keras.Model:
    keras.utils.set_random_seed(1)
    given = keras.Input((8, 8, 2), name="pixels")
    x = layers.Conv2D(6, 3, activation="relu", name="edges")(given)
    x = layers.Conv2D(6, 3, activation="tanh", name="smooth")(x)
    x = layers.Conv2D(6, 3, activation="relu6", name="parts")(8 * x)
    pooled = layers.GlobalAveragePooling2D()(x)
    hidden = layers.Dense(8, activation="relu")(pooled)
    return keras.Model(given, layers.Dense(3, name="head")(hidden))


@tf.custom_gradient
def guided_relu(x: tf.Tensor) -> tuple[tf.Tensor, Call]:
    return tf.nn.relu(x), lambda back: tf.where((x > 0) & (back > 0), back, 0.0)


@tf.custom_gradient
def guided_relu6(x: tf.Tensor) -> tuple[tf.Tensor, Call]:
    inside = (x > 0) & (x < 6)
    return tf.nn.relu6(x), lambda back: tf.where(inside & (back > 0), back, 0.0)


def with_guided_relu(model: keras.Model) -> keras.Model:
    """Return a copy with the same weights, whose ReLU has the gradient by hand."""
    by_hand = {keras.activations.relu: guided_relu, keras.activations.relu6: guided_relu6}
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for layer in copy.layers:
        if (activation := getattr(layer, "activation", None)) in by_hand:
            layer.activation = by_hand[activation]
    return copy


@pytest.mark.parametrize("kind", ["keras", "saved", "session"])
def test_guided_gradients(kind: str, tmp_path: Path) -> None:
    model = rectified()
    guided = with_guided_relu(model)
    wanted = [gradient_at(chosen(guided, row), row) for row in PIXELS]
    plain = [gradient_at(chosen(model, row), row) for row in PIXELS]
    assert not np.allclose(wanted, plain, atol=1e-3)
    of = {"of": "argmax", "guided": True}
    selectors = {
        "g": {"kind": "model_input", "gradient": of},
        "plain": {"kind": "model_input", "gradient": {"of": "argmax"}},
    }
    if kind == "keras":
        selectors["edges"] = {"path": "edges:output", "gradient": of}
        run = stored(tmp_path, PIXELS, model=model, **selectors)
        head = keras.Model(guided.get_layer("smooth").input, guided.output)
        edges = np.asarray(keras.Model(guided.input, guided.get_layer("edges").output)(PIXELS))
        behind = [gradient_at(chosen(head, row), row) for row in edges]
        near(samples(run, "edges:output@grad"), behind)
        found = run[":input.pixels@grad@g"].gradient
        assert found == {"tensor": ":output", "index": "argmax", "guided": True}
        assert method_text(found) == "guided gradient"
    else:
        model.export(tmp_path / "saved", verbose=False)
        how = ["model=saved_model", f"model.path={tmp_path / 'saved'}"]
        if kind == "session":
            frozen_keras(model, tmp_path / "net.pb")
            how = ["model=frozen_graph", f"model.path={tmp_path / 'net.pb'}"]
        run = stored(tmp_path, PIXELS, *how, **selectors)
    (key,) = (one for one in run if one.endswith("@grad@g"))
    near(samples(run, key), wanted)
    near(samples(run, f"{key.removesuffix('@g')}@plain"), plain)


def frozen_keras(model: keras.Model, path: Path) -> None:
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    (given,) = model.inputs
    function = tf.function(lambda given: model(given)).get_concrete_function(
        tf.TensorSpec(given.shape, given.dtype, name=given.name)
    )
    graph = convert_variables_to_constants_v2(function).graph
    path.write_bytes(graph.as_graph_def().SerializeToString())


def test_guided_gradients_need_a_relu_outside_of_functions(tmp_path: Path) -> None:
    of = {"of": "argmax", "guided": True}
    found = refusal(classifier(), kind="model_input", gradient=of)
    assert (
        "there is no ReLU between it and the target, so that the guided gradient is the gradient "
        "itself"
    ) in found

    class Looped(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
        def __call__(self, x: tf.Tensor) -> tf.Tensor:
            def step(at: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                return at + 1, tf.nn.relu(y - 0.1)

            return tf.nn.relu(tf.while_loop(lambda at, _: at < 2, step, (tf.constant(0), x))[1])

    found = refusal(Looped(), kind="model_input", gradient=of)
    assert "a function or loop between it and the target has operations Relu, and only" in found

    # A tensor without one is left out, and the others are stored.
    pictures, numbers = keras.Input((4,), name="pictures"), keras.Input((2,), name="numbers")
    both = [layers.Dense(3, "relu")(pictures), layers.Dense(3, "tanh")(numbers)]
    model = keras.Model([pictures, numbers], layers.Dense(2)(layers.Concatenate()(both)))
    run = stored(
        tmp_path,
        {"pictures": ROWS, "numbers": ROWS[:, :2]},
        model=model,
        g={"kind": "model_input", "gradient": of},
    )
    assert [*run] == [":input.pictures@grad"]
    (left,) = run.manifest.unextractable
    assert left.address == ":input.numbers"


def test_the_chosen_element_is_the_target_along_the_whole_path(tmp_path: Path) -> None:
    """Where the model chooses another element at the baseline, its logit does not count."""
    model = classifier()
    of = {"of": "argmax", "integrate": {**INTEGRATE, "baseline": 3}}
    run = stored(tmp_path, ROWS, model=model, g={"kind": "model_input", "gradient": of})
    baseline = np.full(4, 3.0)
    at_baseline = int(np.argmax(model(baseline[None])))
    assert any(int(np.argmax(model(row[None]))) != at_baseline for row in ROWS)
    wanted = [integrated(chosen(model, row), [row], [baseline])[0] for row in ROWS]
    near(samples(run, ":input.x@grad"), wanted)
    np.testing.assert_allclose(run[":input.x@grad@completeness"][:], 1, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["keras", "saved", "hidden"])
def test_the_path_begins_at_another_sample(kind: str, tmp_path: Path) -> None:
    model = classifier()
    selector: dict[str, Any] = {"kind": "model_input"}
    how: tuple[str, ...] = ()
    if kind == "saved":
        model.export(tmp_path / "saved", verbose=False)
        how = ("model=saved_model", f"model.path={tmp_path / 'saved'}")
    points, call = ROWS, lambda row: chosen(model, row)
    if kind == "hidden":
        selector = {"path": "h:output"}
        head = keras.Model(model.get_layer("o").input, model.output)
        points = np.asarray(keras.Model(model.input, model.get_layer("h").output)(ROWS))
        call = lambda row: chosen(head, row)  # noqa: E731
    selectors = {
        f"from_{name}": {
            **selector,
            "gradient": {"of": "argmax", "integrate": {**INTEGRATE, "baseline": {"sample": one}}},
        }
        for name, one in {"number": 2, "id": "4"}.items()
    }
    given = None if how else model
    np.save(tmp_path / "x.npy", ROWS)
    arrays = ("inputs=arrays", f"inputs.path={tmp_path / 'x.npy'}", "runtime.shard_size=3")
    run = stored(tmp_path, None, *how, *arrays, model=given, **selectors)
    for key, view in run.items():
        start = 4 if "from_id" in key else 2
        if view.result:
            np.testing.assert_allclose(view[:], 1, rtol=0, atol=1e-4)
            assert view[start] == 1
            continue
        assert view.gradient["integrate"]["baseline"] == {"sample": "4" if start == 4 else 2}
        assert not view[start].any()
        others = [at for at in range(len(ROWS)) if at != start]
        wanted = [integrated(call(points[at]), [points[at]], [points[start]])[0] for at in others]
        near([view.sample(at) for at in others], wanted)
    if how:
        found = extractkit.verify(tmp_path / "run", recompute=1)
        assert not found.failed, [str(one) for one in found.findings]


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        ({"sample": "seven"}, "baseline.sample='seven' is not the id of a sample. Nearest: '0',"),
        ({"sample": 99}, "baseline.sample=99 does not exist: the inputs have samples 0 to "),
        ({"sample": -1}, "baseline.sample=-1 does not exist: the inputs have samples 0 to "),
        ({"sample": 1.5}, "baseline.sample=1.5 is not the number or the id of a sample"),
        ({"sample": True}, "baseline.sample=True is not the number or the id of a sample"),
        ({"sample": 1, "inputs": {"x": 0}}, "baseline.inputs and selectors.g.gradient.integrate."),
        ({"smple": 1}, "baseline.smple does not exist. Available: inputs, sample. "),
    ],
)
def test_samples_that_are_no_baseline(baseline: object, message: str, tmp_path: Path) -> None:
    of = {"of": "argmax", "integrate": {"steps": 2, "baseline": baseline}}
    with pytest.raises(extractkit.UserError, match=re.escape(message)):
        stored(tmp_path, ROWS, model=classifier(), g={"kind": "model_input", "gradient": of})
    assert not (tmp_path / "run").exists()


def test_samples_of_different_lengths_are_no_baselines(tmp_path: Path) -> None:
    given = keras.Input((None, 2), name="frames")
    model = keras.Model(given, layers.Dense(1)(layers.GlobalAveragePooling1D()(given)))
    of = {"of": {"index": 0}, "integrate": {"baseline": {"sample": 0}}}
    frames = [np.ones((2, 2)), np.ones((3, 2))]
    match = (
        r"baseline.sample=0: samples of model 'model' differ in length along '.*', and only points "
        r"of one shape are joined by a line. .* selectors.g.gradient.integrate.baseline='\{inputs: "
        r"\{frames: 0\}\}'"
    )
    with pytest.raises(SelectionError, match=match):
        stored(tmp_path, frames, model=model, g={"kind": "model_input", "gradient": of})


def test_completeness_shows_how_much_a_rule_of_few_points_lacks(tmp_path: Path) -> None:
    class Steep(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float64, name="x")])
        def __call__(self, x: tf.Tensor) -> tf.Tensor:
            return tf.reduce_sum(tf.sigmoid(20 * (x - 0.5)), -1)

    rows = np.array([[1.0, 1.0], [0.0, 0.0], [2.0, -1.0]])
    of = {"of": ":output", "integrate": {"steps": 3}}
    listener = Collected()
    run = extractkit.extract(
        ["selectors=none"],
        model=Steep(),
        inputs=rows,
        selectors={"g": {"kind": "model_input", "gradient": of}},
        run_dir=tmp_path / "run",
        listener=listener,
    )

    def value(x: Array) -> Array:
        return np.sum(1 / (1 + np.exp(-20 * (x - 0.5))), -1)

    found = run[":input.x@grad"][:]
    change = value(rows) - value(np.zeros(2))
    with np.errstate(invalid="ignore"):
        scale = np.maximum(np.abs(change), np.abs(found).sum(-1))
        wanted = np.where(scale == 0, 1, 1 + (found.sum(-1) - change) / scale)
    assert wanted[1] == 1 != wanted[0]
    np.testing.assert_allclose(run[":input.x@grad@completeness"][:], wanted, rtol=1e-12)
    (summary,) = listener.summaries
    assert isinstance(summary, Summary)
    assert summary.gaps == {":input.x@grad": pytest.approx(np.abs(wanted - 1).max())}
    assert run.manifest.gaps == summary.gaps
    assert not summary.constant
    assert not summary.unchanging


def test_inner_tensors_behind_a_loop_in_any_batch(tmp_path: Path) -> None:
    """Of a recurrent layer behind a mask, with a baseline of zeros and one of other tokens."""
    model = recurrent()
    _, words, lstm = model.layers
    tokens = TOKENS[:4]
    rows = [words(ids).numpy() for ids in tokens]

    def last(given: tf.Tensor) -> tf.Tensor:
        return lstm(given)[:, -1, 0]

    of = {"index": [-1, 0]}
    other = words(np.array(0)).numpy()
    ways = {
        "zeros": {"of": of, "integrate": {"steps": 8}},
        "token": {"of": of, "integrate": {"steps": 8, "baseline": {"inputs": {"ids": 0}}}},
        "noisy": {"of": of, "smooth": {"draws": 2}},
    }
    wanted = {
        "zeros": integrated(last, rows, [np.zeros_like(row) for row in rows], 100),
        "token": integrated(last, rows, [np.broadcast_to(other, row.shape) for row in rows], 100),
        "noisy": [
            np.mean([gradient_at(last, row + noise(ids, row, draw)) for draw in range(2)], axis=0)
            for ids, row in zip(tokens, rows, strict=True)
        ],
    }
    run = stored(
        tmp_path,
        [{"ids": ids} for ids in tokens],
        "runtime.batch_size=7",
        model=model,
        **{name: {"path": "words:output", "gradient": way} for name, way in ways.items()},
    )
    assert run.manifest.settings["sharing"] == "samples of any lengths"
    for name, each in wanted.items():
        near(samples(run, f"words:output@grad@{name}"), each)
    np.testing.assert_allclose(run["words:output@grad@token@completeness"][:], 1, atol=1e-5)


def test_batches_of_any_size_give_the_same(tmp_path: Path) -> None:
    model, methods = classifier(), {"i": {"integrate": {}}, "s": {"smooth": {}}}
    runs = [
        stored(
            tmp_path / str(size),
            np.tile(ROWS, (4, 1)),
            f"runtime.batch_size={size}",
            model=model,
            **{
                name: {"kind": "model_input", "gradient": {"of": "argmax", **method}}
                for name, method in methods.items()
            },
        )
        for size in (1, 7)
    ]
    sharing = [run.manifest.settings["sharing"] for run in runs]
    assert sharing == ["one sample", "samples of any lengths"]
    for name in methods:
        first, other = (run[f":input.x@grad@{name}"][:] for run in runs)
        np.testing.assert_allclose(other, first, rtol=0, atol=1e-6)


# ---- noise


def mixed(word: Array) -> Array:
    word = (word ^ (word >> np.uint64(16))) * np.uint64(0x7FEB352D) % 2**32
    word = (word ^ (word >> np.uint64(15))) * np.uint64(0x846CA68B) % 2**32
    return word ^ (word >> np.uint64(16))


def joined(one: Array, other: Array) -> Array:
    first = mixed((one + np.uint64(0x9E3779B9)) % 2**32)
    return mixed((first + np.asarray(other, np.uint64)) % 2**32)


def places(shape: Sequence[int]) -> Array:
    word = np.zeros((), np.uint64)
    for axis in np.indices(shape, np.uint64):
        word = joined(word, axis)
    return word


def noise(ids: Array, value: Array, draw: int, relative: float = 0.1, seed: int = 0) -> Array:
    """Return the noise of one sample, from its single input of whole numbers."""
    own = joined(places(ids.shape), ids).sum() % 2**32
    key = joined(joined(joined(np.zeros((), np.uint64), own), seed), draw)
    words = joined(key, places(value.shape))
    uniform = ((words >> np.uint64(1)).astype(np.float64) + 0.5) / 2**31
    normal = np.vectorize(NormalDist().inv_cdf)(uniform)
    return (relative * (value.max() - value.min()) * normal).astype(np.float32)


def test_noise_is_normal_and_independent() -> None:
    from extractkit.models.graphs.noise import normal

    keys = tf.cast(tf.range(100), tf.uint32)
    shape = tf.constant([100, 40, 50])
    one, other = (normal(shape, keys, 0, tf.constant(at), tf.float64).numpy() for at in range(2))
    seeded = normal(shape, keys, 1, tf.constant(0), tf.float64).numpy()
    for found in (one, other, seeded):
        assert abs(found.mean()) < 0.01
        assert abs(found.std() - 1) < 0.01
        assert abs((found**4).mean() - 3) < 0.1
    flat = one.reshape(100, -1)
    neighbours = [one[:, 1:] * one[:, :-1], one[..., 1:] * one[..., :-1], flat[1:] * flat[:-1]]
    for product in (*neighbours, one * other, one * seeded):
        assert abs(product.mean()) < 0.01
    longer = normal(tf.constant([100, 60, 50]), keys, 0, tf.constant(0), tf.float64).numpy()
    np.testing.assert_array_equal(longer[:, :40], one)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "bool", "string"])
def test_each_bit_of_the_inputs_decides_the_noise_and_padding_does_not(dtype: str) -> None:
    from extractkit.inputs import InputSpec
    from extractkit.models.graphs.noise import input_words

    spec = InputSpec("x", dtype, (None, 2), ("token", None))
    whole = np.arange(12).reshape(2, 3, 2) % (2 if dtype == "bool" else 100)
    values = whole.astype(str).astype(object) if dtype == "string" else whole.astype(dtype)

    def found(array: Array, *lengths: int) -> Array:
        given = {"x": tf.constant(array)}
        own = {"token": tf.constant(lengths, tf.int32)}
        return np.asarray(input_words((spec,), given, tf.constant(len(array)), own))

    both = found(values, 3, 2)
    assert both[0] == found(values[:1], 3)[0]
    assert both[1] == found(values[1:, :2], 2)[0]
    changed = values[:1].copy()
    changed[0, 0, 0], changed[0, 1, 1] = values[0, 1, 1], values[0, 0, 0]
    assert found(changed, 3) != both[0], "the same elements at other positions"
    assert found(values[:1], 2) != both[0]


# ---- formats


def by_hand(model: keras.Model, target: int) -> list[Array]:
    return integrated(
        lambda given: model(given)[:, target], list(ROWS), [np.zeros(4)] * len(ROWS), 200
    )


@pytest.mark.parametrize("compiled", ["graph", "xla"])
def test_custom_gradients_at_every_point(compiled: str, tmp_path: Path) -> None:
    """A function that a custom gradient keeps from the forward pass is computed anew."""
    model = custom()
    of = {"of": {"index": 1}, "integrate": INTEGRATE}
    run = stored(
        tmp_path,
        ROWS,
        f"runtime.compile={compiled}",
        model=model,
        g={"kind": "model_input", "gradient": of},
    )
    near(samples(run, ":input.x@grad"), by_hand(model, 1), 1e-4)


def test_saved_models_and_frozen_graphs(tmp_path: Path) -> None:
    model = classifier()
    model.export(tmp_path / "saved", verbose=False)
    kernel, bias, other, last = (one.numpy() for one in model.weights)
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], name="x")
        tf.add(tf.tanh(x @ kernel + bias) @ other, last, name="y")
    tf.io.write_graph(graph.as_graph_def(), str(tmp_path), "net.pb", as_text=False)
    formats = {"saved_model": "saved", "frozen_graph": "net.pb"}
    of = {"of": {"index": 2}, "integrate": INTEGRATE}
    wanted = by_hand(model, 2)
    for name, file in formats.items():
        how = [f"model={name}", f"model.path={tmp_path / file}"]
        run = stored(tmp_path / name, ROWS, *how, g={"kind": "model_input", "gradient": of})
        key = next(iter(run))
        near(samples(run, key), wanted, 1e-4)
        np.testing.assert_allclose(run[f"{key}@completeness"][:], 1, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("baseline", "number"), [(0.1, 0.1), ({"inputs": {"x": 2**24 + 1}}, 2**24 + 1)]
)
def test_baselines_have_all_digits_of_their_type(
    baseline: object, number: float, tmp_path: Path
) -> None:
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.int64, [None, 1], name="x")
        real = tf.cast(x, tf.float64, name="real")
        tf.reduce_sum(real * real, -1, name="y")
    tf.io.write_graph(graph.as_graph_def(), str(tmp_path), "net.pb", as_text=False)
    rows = np.array([[1], [2**24 + 3]])
    run = stored(
        tmp_path,
        rows,
        "model=frozen_graph",
        f"model.path={tmp_path / 'net.pb'}",
        g={
            "path": "real:0",
            "gradient": {"of": "y:0", "integrate": {"steps": 2, "baseline": baseline}},
        },
    )
    wanted = rows.astype(np.float64) ** 2 - np.float64(number) ** 2
    np.testing.assert_allclose(run["real:0@grad"][:], wanted, rtol=1e-12)


def test_sessions_of_tensorflow_1(tmp_path: Path) -> None:
    """A reference variable and one with a handle, which the loop takes from outside."""
    with session_of_tensorflow_1(tmp_path / "model") as made:
        kernel = made.session.run(made.w)
    sums = ROWS @ kernel + 1
    run = stored(
        tmp_path,
        ROWS,
        "model=meta_graph",
        f"model.path={tmp_path / 'model.meta'}",
        g={
            "path": ["x:0", "sum:0"],
            "gradient": {"of": {"tensor": "y:0", "index": 1}, "integrate": INTEGRATE},
        },
    )
    # Of one sum alone: all of the change from the baseline is its own.
    change = np.zeros((9, 3))
    change[:, 1] = np.tanh(sums[:, 1])
    np.testing.assert_allclose(run["sum:0@grad"][:], change, atol=1e-5)
    from_bias = np.tanh(sums[:, 1]) - np.tanh(1)
    parts = ROWS * kernel[:, 1]
    wanted = parts * (from_bias / parts.sum(1))[:, None]
    np.testing.assert_allclose(run["x:0@grad"][:], wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("h:0", {"integrate": {}}),
        ("h:0", {"smooth": {}}),
        ("far:0", {"integrate": {"baseline": {"inputs": {"x": 0}}}}),
        ("far:0", {"integrate": {"baseline": {"sample": 0}}}),
    ],
)
def test_loops_of_tensorflow_1_are_not_recomputed(
    path: str, method: Mapping[str, object], tmp_path: Path
) -> None:
    """They may be on a way without gradients, here to the index at which a number is taken."""

    def build() -> None:
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], name="x")
        h = tf.multiply(x, 2.0, name="h")
        whole = tf.cast(h[:, 0] > 1, tf.int32)
        index = tf.compat.v1.while_loop(
            lambda at, _: at < 2, lambda at, one: (at + 1, one + 1), [tf.constant(0), whole]
        )[1]
        far = tf.multiply(tf.gather(h, index, batch_dims=1), 3.0, name="far")
        tf.square(far, name="y")

    with control_flow(1):
        file = frozen(build, ["y"], tmp_path / "net.pb")
    how = ["model=frozen_graph", f"model.path={file}"]
    plain = stored(tmp_path, ROWS, *how, g={"path": path, "gradient": {"of": "y:0"}})
    assert np.any(plain[f"{path}@grad"][:])
    found = refusal(None, ROWS, *how, path=path, gradient={"of": "y:0", **method})
    assert (
        f"{path}: a loop of TensorFlow 1 depends on what is replaced, and cannot be recomputed for "
        f"other values"
    ) in found


def test_loops_and_branches_in_float64(tmp_path: Path) -> None:
    module, rows = Computed(), ROWS.astype("float64")
    of = {"of": ":output", "integrate": {"steps": 200}}
    run = stored(tmp_path, rows, model=module, g={"kind": "model_input", "gradient": of})
    (key, completeness) = run
    assert run[key].dtype == np.float64
    np.testing.assert_allclose(run[completeness][:], 1, rtol=0, atol=1e-6)
    near(samples(run, key), integrated(module, list(rows), [np.zeros(4)] * 9, 5000), 1e-4)


def test_half_precision(tmp_path: Path) -> None:
    given = keras.Input((4,), name="x")
    half = layers.Dense(5, "tanh", dtype="mixed_float16", name="half")(given)
    model = keras.Model(given, layers.Dense(2, dtype="float32", name="last")(half))
    methods = {
        "i": {"integrate": INTEGRATE},
        "s": {"smooth": {}},
        "t": {"times": "value"},
    }
    run = stored(
        tmp_path,
        ROWS,
        model=model,
        v={"path": "half:output"},
        **{
            name: {"path": "half:output", "gradient": {"of": {"index": 1}, **method}}
            for name, method in methods.items()
        },
    )
    # The rest is linear, so its gradient is the same everywhere.
    kernel = model.layers[-1].kernel.numpy()[:, 1]
    values = run["half:output"][:].astype(np.float32)
    for name, wanted in {"i": values * kernel, "s": [kernel] * 9, "t": values * kernel}.items():
        view = run[f"half:output@grad@{name}"]
        assert view.dtype == np.float16
        near(list(view[:].astype(np.float32)), list(wanted), 2e-3)


# ---- Grad-CAM


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("first", [False, True])
def test_class_activation_maps(rank: int, first: bool, tmp_path: Path) -> None:
    if first and rank != 2:
        pytest.skip("TensorFlow has no such kernel on CPUs")
    sizes = (6, 5, 4)[:rank]
    keras.utils.set_random_seed(rank)
    given = keras.Input((*sizes, 2), name="x")
    kind = {1: layers.Conv1D, 2: layers.Conv2D, 3: layers.Conv3D}[rank]
    rest = {
        1: layers.GlobalAveragePooling1D,
        2: layers.GlobalAveragePooling2D,
        3: layers.GlobalAveragePooling3D,
    }[rank]
    conv = kind(3, 2, padding="same", activation="tanh", name="conv")
    if first:
        moved = layers.Permute((3, 1, 2))(conv(given))
        tensor, axis = "permute:output", 1
        inner = layers.Permute((2, 3, 1))(moved)
    else:
        inner, tensor, axis = conv(given), "conv:output", rank + 1
    squared = layers.Multiply()([inner, inner])
    model = keras.Model(given, layers.Dense(3, name="last")(rest()(squared)))
    # Three axes of positions have no names.
    cam = {"channel": axis} if first or rank == 3 else True
    rows = np.random.default_rng(rank).normal(size=(4, *sizes, 2)).astype("float32")
    run = stored(
        tmp_path,
        rows,
        model=model,
        v={"path": tensor},
        g={
            "path": tensor,
            "gradient": {"of": "argmax", "cam": cam},
        },
    )
    key = f"{tensor}@grad"
    assert run[key].shape == (4, *sizes)
    found = []
    for row in rows:
        with tf.GradientTape() as tape:
            maps = conv(row[None])
            tape.watch(maps)
            logits = model.layers[-1](rest()(maps * maps))
            number = tf.reduce_max(logits)
        gradient = tape.gradient(number, maps).numpy()[0]
        weights = gradient.mean(axis=tuple(range(rank)))
        found.append(np.maximum((maps.numpy()[0] * weights).sum(-1), 0))
    assert sum(one.any() for one in found) >= 2
    np.testing.assert_allclose(run[key][:], found, rtol=1e-4, atol=1e-6)


def test_a_class_activation_map_of_tokens_ignores_padding(tmp_path: Path) -> None:
    model = recurrent()
    _, words, lstm = model.layers
    run = stored(
        tmp_path,
        [{"ids": ids} for ids in TOKENS],
        model=model,
        g={
            "path": "words:output",
            "gradient": {"of": {"index": [-1, 0]}, "cam": {"channel": "feature"}},
        },
    )
    assert run.manifest.settings["sharing"] == "samples of any lengths"
    wanted = []
    for ids in TOKENS:
        value = words(ids).numpy()
        weights = gradient_at(lambda given: lstm(given)[:, -1, 0], value).mean(0)
        wanted.append(np.maximum(value @ weights, 0))
    assert sum(one.any() for one in wanted) > 2
    for at, one in enumerate(wanted):
        np.testing.assert_allclose(run["words:output@grad"].sample(at), one, atol=1e-6)


def test_a_class_activation_map_of_many_positions_in_half_precision(tmp_path: Path) -> None:
    """Their number and the sum of their gradients are more than the type can hold."""

    class Weighted(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 256, 257, 2], tf.float16, name="x")])
        def __call__(self, x: tf.Tensor) -> tf.Tensor:
            return tf.reduce_sum(tf.cast(x, tf.float32) * [2.0, -1.0], [1, 2, 3])

    rows = np.random.default_rng(0).normal(size=(2, 256, 257, 2)).astype("float16")
    of = {"of": ":output", "cam": {"channel": 3}}
    run = stored(tmp_path, rows, model=Weighted(), g={"kind": "model_input", "gradient": of})
    wanted = np.maximum(rows.astype(np.float32) @ np.array([2, -1], np.float32), 0)
    found = run[":input.x@grad"]
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found[:], wanted.astype(np.float16))
