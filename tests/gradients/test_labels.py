"""Targets by label, and losses: against GradientTape and `keras.losses` on every format."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from keras import layers

import extractkit
from extractkit import cli
from extractkit.core.picks import LOSS_ALIASES, parse_loss
from extractkit.core.values import Array
from extractkit.errors import BadSampleError, InputError, SelectionError
from tests.advised import refused
from tests.gradients.test_formats import near

ROWS = np.random.default_rng(0).normal(size=(9, 4)).astype("float32")
LABELS = np.random.default_rng(1).integers(0, 3, 9)
SHARES = np.random.default_rng(2).dirichlet(np.ones(3), 9)

Number = Callable[[tf.Tensor, Any], tf.Tensor]


def network(package: Any = keras) -> Any:
    package.utils.set_random_seed(0)
    given = package.Input((4,), name="x")
    hidden = package.layers.Dense(5, "tanh", name="hidden")(given)
    return package.Model(given, package.layers.Dense(3, "softmax", name="head")(hidden))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in several formats, and its samples with labels."""
    folder = tmp_path_factory.mktemp("labels")
    model = network()
    model.save(folder / "net.keras")
    model.export(folder / "saved", verbose=False)
    network(tf_keras).save(folder / "net2.keras")
    arrays = {"x": ROWS, "y": LABELS, "shares": SHARES, "mark": LABELS % 2}
    for name in ("y", "shares", "mark"):
        np.savez(folder / f"{name}.npz", x=ROWS, **{name: arrays[name]})
    return folder


def inputs_of(folder: Path, labels: str = "y") -> list[str]:
    return ["inputs=arrays", f"inputs.path={folder / labels}.npz", f"inputs.labels={labels}"]


def extracted(
    folder: Path, run_dir: Path, of: object, labels: str = "y", *given: str, **selector: object
) -> extractkit.Run:
    if not any(one.startswith("model=") for one in given):
        given = ("model=keras", f"model.path={folder / 'net.keras'}", *given)
    selector = {"kind": "model_input", **selector} if "path" not in selector else selector
    return extractkit.extract(
        [*given, *inputs_of(folder, labels), "selectors=none"],
        selectors={"g": {**selector, "gradient": {"of": of}}},
        run_dir=run_dir,
    )


def taped(model: Any, labels: Array, number: Number) -> list[Array]:
    """Differentiate with respect to the inputs, one sample at a time."""
    found = []
    for row, label in zip(ROWS, labels, strict=True):
        given = tf.constant(row[None])
        with tf.GradientTape() as tape:
            tape.watch(given)
            # A copy of the probabilities, which does not remember their logits.
            one = number(tf.identity(model(given)), label)
        found.append(tape.gradient(one, given)[0].numpy())
    return found


def of_label(y: tf.Tensor, label: Any) -> tf.Tensor:
    return y[:, int(label)]


def loss(name: str, **options: object) -> Number:
    """Return a loss as users write it, without what a model does."""

    def number(y: tf.Tensor, label: Any) -> tf.Tensor:
        one = getattr(keras.losses, name)(**options, reduction="sum")
        return one(np.asarray(label)[None], y)

    return number


TARGETS: Mapping[str, tuple[object, str, Number]] = {
    "label": ({"index": "label"}, "y", of_label),
    "argmax against label": (
        {"tensor": ":output", "index": "argmax", "minus": ["label"]},
        "y",
        lambda y, label: tf.reduce_max(y, axis=-1) - of_label(y, label),
    ),
    "sparse": (
        {"loss": "sparse_categorical_crossentropy"},
        "y",
        loss("SparseCategoricalCrossentropy"),
    ),
    "categorical": (
        {"loss": "categorical_crossentropy", "options": {"label_smoothing": 0.1}},
        "shares",
        loss("CategoricalCrossentropy", label_smoothing=0.1),
    ),
    "squared": ({"loss": "mean_squared_error"}, "shares", loss("MeanSquaredError")),
    "dice": (
        {"loss": "dice", "options": {"axis": [1]}},
        "shares",
        loss("Dice", axis=(1,)),
    ),
}


@pytest.mark.parametrize("labels", ["y", "shares"])
def test_targets_with_labels(labels: str, folder: Path, tmp_path: Path) -> None:
    targets = {name: one for name, one in TARGETS.items() if one[1] == labels}
    run = extractkit.extract(
        ["model=keras", f"model.path={folder / 'net.keras'}", *inputs_of(folder, labels)],
        selectors={
            name.replace(" ", "_"): {"kind": "model_input", "gradient": {"of": of}}
            for name, (of, _, _) in targets.items()
        },
        run_dir=tmp_path / "run",
    )
    model = keras.models.load_model(folder / "net.keras")
    values = np.load(folder / f"{labels}.npz")[labels]
    for name, (_, _, number) in targets.items():
        key = f":input.x@grad@{name.replace(' ', '_')}"
        near(run, key, taped(model, values, number))
    assert run.manifest.settings["sharing"] == "samples of any lengths"


def test_logits_and_central_differences(folder: Path, tmp_path: Path) -> None:
    """Gradients of a loss in float64, by steps in NumPy."""
    keras.utils.set_random_seed(3)
    given = keras.Input((4,), dtype="float64", name="x")
    model = keras.Model(given, layers.Dense(3, dtype="float64", name="head")(given))
    model.save(tmp_path / "wide.keras")
    of = {"loss": "sparse_categorical_crossentropy", "options": {"from_logits": True}}
    how = ("model=keras", f"model.path={tmp_path / 'wide.keras'}")
    run = extracted(folder, tmp_path / "run", of, "y", *how)
    kernel, bias = (np.asarray(one, np.float64) for one in model.get_weights())

    def number(rows: Array) -> Array:
        logits = rows @ kernel + bias
        every = np.log(np.exp(logits).sum(-1)) - logits[np.arange(9), LABELS]
        return np.asarray(every)

    found, rows = run[":input.x@grad"][:], ROWS.astype(np.float64)
    for axis in range(4):
        step = np.zeros(4)
        step[axis] = 1e-6
        differences = (number(rows + step) - number(rows - step)) / 2e-6
        np.testing.assert_allclose(found[:, axis], differences, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("kind", ["saved_model", "keras 2", "function", "frozen", "session"])
def test_formats(kind: str, folder: Path, tmp_path: Path) -> None:
    """The element at the label, and a loss, in one job."""
    model: Any = keras.models.load_model(folder / "net.keras")
    how, live, output = [], None, None
    if kind == "saved_model":
        how = ["model=saved_model", f"model.path={folder / 'saved'}"]
    elif kind == "keras 2":
        model = tf_keras.models.load_model(folder / "net2.keras")
        how = ["model=keras", f"model.path={folder / 'net2.keras'}"]
    elif kind == "function":
        given = [tf.TensorSpec([None, 4], tf.float32, name="x")]
        live = tf.function(lambda x: model(x), input_signature=given)
    else:
        how, output = graph_of_tensorflow_1(kind, model, tmp_path), "y:0"
    targets = {name: TARGETS[name] for name in ("label", "sparse")}
    run = extractkit.extract(
        [*how, "selectors=none", *inputs_of(folder)],
        model=live,
        selectors={
            name: {"kind": "model_input", "gradient": {"of": {"tensor": output, **of}}}
            for name, (of, _, _) in targets.items()
            if isinstance(of, dict)
        },
        run_dir=tmp_path / "run",
    )
    assert len(list(run)) == len(targets)
    for name, (_, _, number) in targets.items():
        (key,) = (key for key in run if key.endswith(f"@{name}"))
        near(run, key, taped(model, LABELS, number), 1e-5)


@pytest.mark.parametrize("kind", ["keras", "session"])
def test_integrated_gradients_of_labels_and_losses(kind: str, folder: Path, tmp_path: Path) -> None:
    """Their sums are the differences to a sample of zeros."""
    model: Any = keras.models.load_model(folder / "net.keras")
    how, output = ["model=keras", f"model.path={folder / 'net.keras'}"], ":output"
    if kind == "session":
        how, output = graph_of_tensorflow_1(kind, model, tmp_path), "y:0"
    loss_of = {"loss": "sparse_categorical_crossentropy"}
    run = extractkit.extract(
        [*how, "selectors=none", *inputs_of(folder)],
        selectors={
            name: {
                "kind": "model_input",
                "gradient": {"of": {"tensor": output, **of}, "integrate": {"steps": 64}},
            }
            for name, of in {"label": {"index": "label"}, "loss": loss_of}.items()
        },
        run_dir=tmp_path / "run",
    )
    own, zeros = (np.asarray(model(rows), np.float64) for rows in (ROWS, np.zeros_like(ROWS)))
    at = np.arange(9), LABELS
    wanted = {"label": own[at] - zeros[at], "loss": np.log(zeros[at]) - np.log(own[at])}
    for name, differences in wanted.items():
        (key,) = (key for key in run if key.endswith(f"@grad@{name}"))
        sums = np.asarray(run[key][:], np.float64).sum(-1)
        np.testing.assert_allclose(sums, differences, atol=1e-5)


def graph_of_tensorflow_1(kind: str, model: Any, folder: Path) -> list[str]:
    weights = model.get_weights()
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], "x")
        first = tf.compat.v1.get_variable("first", initializer=weights[0])
        last = tf.compat.v1.get_variable("last", initializer=weights[2])
        hidden = tf.tanh(x @ first + weights[1])
        y = tf.nn.softmax(hidden @ last + weights[3], name="y")
        with tf.compat.v1.Session(graph=graph) as session:
            session.run(tf.compat.v1.global_variables_initializer())
            if kind == "frozen":
                path = folder / "net.pb"
                path.write_bytes(
                    tf.compat.v1.graph_util.convert_variables_to_constants(
                        session, graph.as_graph_def(), ["y"]
                    ).SerializeToString()
                )
                return ["model=frozen_graph", f"model.path={path}"]
            tf.compat.v1.saved_model.simple_save(session, str(folder / "v1"), {"x": x}, {"y": y})
    return ["model=saved_model", f"model.path={folder / 'v1'}"]


def test_a_loss_of_texts_behind_a_recurrent_layer(tmp_path: Path) -> None:
    """The axis of the samples is measured, after the labels have been read."""
    keras.utils.set_random_seed(0)
    ids = keras.Input((None,), dtype="int32", name="ids")
    words = layers.Embedding(9, 4, mask_zero=True, name="words")(ids)
    model = keras.Model(ids, layers.Dense(3, name="head")(layers.LSTM(5)(words)))
    draw = np.random.default_rng(0)
    texts = [draw.integers(1, 9, length).astype("int32") for length in (3, 5, 1, 4)]
    labels = [0, 2, 1, 2]
    loss = {"loss": "sparse_categorical_crossentropy", "options": {"from_logits": True}}
    run = extractkit.extract(
        ["selectors=none"],
        model=model,
        inputs=extractkit.Labelled([{"ids": one} for one in texts], labels),
        selectors={
            "words": {"path": "words:output", "gradient": {"of": loss}},
            "sum": {"path": "head:kernel", "gradient": {"of": loss}, "statistics": ["total"]},
        },
        run_dir=tmp_path / "run",
    )
    embeddings, *rest = model.layers[1:]
    by_words, by_kernel = [], []
    for text, label in zip(texts, labels, strict=True):
        with tf.GradientTape() as tape:
            value = embeddings(text[None])
            tape.watch(value)
            logits = value
            for layer in rest:
                logits = layer(logits)
            number = keras.losses.sparse_categorical_crossentropy(np.array([label]), logits, True)
        first, second = tape.gradient(number, [value, model.layers[-1].kernel.value])
        by_words.append(first[0].numpy())
        by_kernel.append(second.numpy())
    near(run, "words:output@grad", by_words)
    total = run.statistics["head:kernel@grad"].total
    np.testing.assert_allclose(total.sum, np.sum(by_kernel, 0), 1e-5, 1e-6)
    with pytest.raises(InputError, match=r"its label .* is 3, not a whole number of 0 to 2"):
        extractkit.plan(
            ["selectors=none"],
            model=model,
            inputs=extractkit.Labelled([{"ids": one} for one in texts], [0, 3, 1, 2]),
            selectors={"words": {"path": "words:output", "gradient": {"of": loss}}},
        )


def test_the_label_along_an_axis_of_tokens(tmp_path: Path) -> None:
    """A position in a text of its own length, which only the batch can show to exist."""
    keras.utils.set_random_seed(0)
    ids = keras.Input((None,), dtype="int32", name="ids")
    words = layers.Embedding(9, 4, name="words")(ids)
    score = layers.Dense(1, "tanh", name="score")(words)
    model = keras.Model(ids, layers.Reshape((-1,), name="start")(score))
    model.save(tmp_path / "net.keras")
    texts = [[3, 5, 1], [2], [7, 7, 4, 1, 8], [6, 2]]

    def run(name: str, labels: list[int], *given: str) -> extractkit.Run:
        rows = [{"ids": t, "start": n} for t, n in zip(texts, labels, strict=True)]
        (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
        how = ["model=keras", f"model.path={tmp_path / 'net.keras'}", "selectors=none", *given]
        return extractkit.extract(
            [*how, "inputs=texts", f"inputs.path={tmp_path}/x.jsonl", "inputs.labels=start"],
            selectors={"g": {"path": "words:output", "gradient": {"of": {"index": "label"}}}},
            run_dir=tmp_path / name,
        )

    labels = [2, 0, 4, 1]
    found = run("run", labels)
    assert found.manifest.settings["sharing"] == "samples of any lengths"
    assert found.manifest.volatile.sharing.lengths["token"] >= 8
    _, embed, *rest = model.layers
    for at, (text, label) in enumerate(zip(texts, labels, strict=True)):
        given = embed(np.array([text]))
        with tf.GradientTape() as tape:
            tape.watch(given)
            after = given
            for layer in rest:
                after = layer(after)
            number = after[0, label]
        wanted = tape.gradient(number, given)[0]
        np.testing.assert_allclose(found["words:output@grad"].sample(at), wanted, atol=1e-6)
    message = "label 5 is beyond the end of axis 'token' of ':output', which has 5 elements"
    with pytest.raises(BadSampleError, match=message):
        run("beyond", [2, 0, 5, 1])
    skipped = run("skipped", [2, 0, 5, 1], "runtime.bad_samples=skip")
    assert message in str(skipped.missing)
    for at in (0, 1, 3):
        np.testing.assert_array_equal(
            skipped["words:output@grad"].sample(at), found["words:output@grad"].sample(at)
        )


def test_a_label_and_a_position(folder: Path, tmp_path: Path) -> None:
    """The class of the last step."""
    keras.utils.set_random_seed(0)
    given = keras.Input((4,), name="x")
    steps = layers.Reshape((2, 2), name="steps")(given)
    model = keras.Model(given, layers.Dense(3, "tanh", name="head")(steps))
    model.save(tmp_path / "net.keras")
    how = ("model=keras", f"model.path={tmp_path / 'net.keras'}")
    run = extracted(folder, tmp_path / "run", {"index": [-1, "label"]}, "y", *how)
    near(run, ":input.x@grad", taped(model, LABELS, lambda y, label: y[:, -1, int(label)]))


def test_one_number_and_one_label(folder: Path, tmp_path: Path) -> None:
    """A row of one number: Keras alone would average over the samples."""
    given = keras.Input((4,), name="x")
    score = layers.Dense(1, name="score")(given)
    model = keras.Model(given, layers.Reshape((), name="flat")(score))
    model.save(tmp_path / "net.keras")
    how = ("model=keras", f"model.path={tmp_path / 'net.keras'}")
    of = {"loss": "binary_crossentropy", "options": {"from_logits": True}}
    run = extracted(folder, tmp_path / "run", of, "mark", *how)
    kernel = np.asarray(model.get_weights()[0], np.float64)
    logit = (ROWS @ kernel)[:, 0]
    wanted = (1 / (1 + np.exp(-logit)) - LABELS % 2)[:, None] * kernel.T
    near(run, ":input.x@grad", list(wanted))


def test_bad_labels_fail_or_are_skipped(folder: Path, tmp_path: Path) -> None:
    labels = LABELS.copy()
    labels[4] = 3
    np.savez(tmp_path / "y.npz", x=ROWS, y=labels)
    of = {"index": "label"}
    how = ("model=keras", f"model.path={folder / 'net.keras'}")
    with pytest.raises(InputError) as caught:
        extracted(tmp_path, tmp_path / "run", of, "y", *how)
    assert str(caught.value) == (
        f"sample '4' (number 4): inputs.path='{tmp_path / 'y.npz'}', sample 4: its label "
        f"(inputs.labels) is 3, not a whole number of 0 to 2, which selectors.g.gradient.of takes. "
        f"To leave such samples out: runtime.bad_samples=skip"
    )
    whole = extracted(folder, tmp_path / "whole", of)
    skip = ("runtime.bad_samples=skip",)
    left = extracted(tmp_path, tmp_path / "left", of, "y", *how, *skip)
    assert [at for at, row in enumerate(left.samples) if "missing" in row] == [4]
    key = ":input.x@grad"
    for at in (*range(4), *range(5, 9)):
        np.testing.assert_allclose(left[key].sample(at), whole[key].sample(at), atol=1e-7)


def test_labels_are_part_of_the_identity_and_recorded(folder: Path, tmp_path: Path) -> None:
    of = {"index": "label"}
    run = extracted(folder, tmp_path / "run", of)
    assert run[":input.x@grad"].gradient == {"tensor": ":output", "index": ["label"]}
    assert [row["y"] for row in run.samples] == LABELS.tolist()
    other = LABELS.copy()
    other[8] = (other[8] + 1) % 3
    np.savez(tmp_path / "y.npz", x=ROWS, y=other)
    how = ("model=keras", f"model.path={folder / 'net.keras'}")
    changed = extracted(tmp_path, tmp_path / "changed", of, "y", *how)
    assert run.manifest.identity != changed.manifest.identity
    sparse = extracted(folder, tmp_path / "loss", TARGETS["sparse"][0])
    assert sparse[":input.x@grad"].gradient == {
        "tensor": ":output",
        "loss": "sparse_categorical_crossentropy",
        "options": {},
    }


def test_verify_recomputes_gradients_by_label(folder: Path, tmp_path: Path) -> None:
    extracted(folder, tmp_path / "run", TARGETS["argmax against label"][0])
    found = extractkit.verify(tmp_path / "run", recompute=1)
    assert not found.failed, [str(one) for one in found.findings]


def test_short_names_are_those_of_keras() -> None:
    for short, name in LOSS_ALIASES.items():
        for written in (short, short.upper()):
            assert parse_loss(written, {}, "of").name == name
            assert keras.losses.get(written) is getattr(keras.losses, name)


REFUSED: Mapping[str, tuple[object, str]] = {
    "unknown": (
        {"loss": "sparse_crossentropy"},
        "selectors.g.gradient.of.loss=sparse_crossentropy is not a function of keras.losses. "
        "Nearest: 'binary_crossentropy', 'sparse_categorical_crossentropy', ",
    ),
    "option": (
        {"loss": "mean_squared_error", "options": {"from_logits": True}},
        "selectors.g.gradient.of.options.from_logits does not exist. ",
    ),
    "whole batch": (
        {"loss": "dice"},
        "keras.losses.dice of ':output' is one number for all samples of a batch. Choose a loss "
        "that is one number per sample, or give its axes: options.axis",
    ),
    "several": (
        {"loss": "mean_squared_error", "tensor": "steps:output"},
        "keras.losses.mean_squared_error of 'steps:output' is 2 numbers per sample, of shape [2], "
        "not one, and is neither added up nor averaged",
    ),
    "index": (
        {"loss": "mean_squared_error", "index": 3},
        "selectors.g.gradient.of.index does not exist with a loss. Available: 'loss', 'options', ",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_loss_per_sample(name: str, folder: Path, tmp_path: Path) -> None:
    given = keras.Input((4,), name="x")
    steps = layers.Reshape((2, 2), name="steps")(given)
    model = keras.Model(given, layers.Dense(3)(layers.Flatten()(steps)))
    model.save(tmp_path / "net.keras")
    of, message = REFUSED[name]
    how = ("model=keras", f"model.path={tmp_path / 'net.keras'}")
    with pytest.raises(extractkit.UserError, match=re.escape(message)):
        extracted(folder, tmp_path / "run", of, "y", *how)
    assert not (tmp_path / "run" / "manifest.json").exists()


def test_models_samples_and_labels_in_memory(folder: Path, tmp_path: Path) -> None:
    model = keras.models.load_model(folder / "net.keras")
    selectors = {"g": {"kind": "model_input", "gradient": {"of": {"index": "label"}}}}
    run = extractkit.extract(
        ["selectors=none", "runtime.shard_size=4"],
        model=model,
        inputs=extractkit.Labelled(ROWS, LABELS),
        selectors=selectors,
        run_dir=tmp_path / "run",
    )
    near(run, ":input.x@grad", taped(model, LABELS, of_label))
    given = {"model": model, "inputs": extractkit.Labelled(ROWS, LABELS)}
    found = extractkit.verify(tmp_path / "run", recompute=3, **given)
    assert not found.failed, [str(one) for one in found.findings]


def test_plan_refuses_targets_without_labels(folder: Path, tmp_path: Path) -> None:
    job = ["model=keras", f"model.path={folder / 'net.keras'}", "selectors=gradients"]
    job += ["selectors.gradients.gradient.of={index: label}", f"run_dir={tmp_path / 'run'}"]
    arrays = [*job, "inputs=arrays", f"inputs.path={folder / 'y.npz'}"]
    lacking = refused("plan", *arrays).message
    assert "Name where it is: inputs.labels=COLUMN" in lacking
    assert (
        "has no labels. Choose inputs that have" in refused("plan", *job, "inputs=random").message
    )
    assert cli.execute(["plan", *arrays, "inputs.labels=y"]) == 0


def test_two_targets_share_labels_of_one_form(folder: Path, tmp_path: Path) -> None:
    def run(name: str, second: object) -> extractkit.Run:
        how = ["model=keras", f"model.path={folder / 'net.keras'}", *inputs_of(folder)]
        return extractkit.extract(
            [*how, "selectors=none"],
            selectors={
                "one": {"path": ":input.x", "gradient": {"of": {"index": "label"}}},
                "two": {"path": ":input.x", "gradient": {"of": second}},
            },
            run_dir=tmp_path / name,
        )

    both = run("both", {"loss": "sparse_categorical_crossentropy"})
    for name, target in (("one", "label"), ("two", "sparse")):
        alone = extracted(folder, tmp_path / name, TARGETS[target][0])
        np.testing.assert_allclose(both[f":input.x@grad@{name}"], alone[":input.x@grad"], atol=1e-7)
    with pytest.raises(SelectionError, match="A job has one label for each sample"):
        run("apart", {"loss": "mean_squared_error"})
