"""SavedModels of TensorFlow 2 and 1: signatures, functions, what stands inside them."""

import shutil
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import extractkit
from extractkit.advice import hydra_override
from extractkit.core.catalog import Kind
from extractkit.core.requests import Value
from extractkit.errors import ConfigError, JobError, ModelError
from extractkit.models import Compilation, Fetch, Model
from extractkit.models.saved_model import load
from extractkit.runs.files import files_with_companions
from extractkit.testing.models import ModelContract
from tests.advised import ask, refused
from tests.fuzz.damage import damaged


class Nested(tf.Module):
    """Functions in functions, a loop, a branch, a text table, two signatures."""

    def __init__(self) -> None:
        self.kernel = tf.Variable(
            np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32), name="kernel"
        )
        words = tf.lookup.KeyValueTensorInitializer(["one", "two"], tf.constant([1, 2], tf.int64))
        self.table = tf.lookup.StaticHashTable(words, -1)

    @tf.function
    def inner(self, x: tf.Tensor) -> tf.Tensor:
        with tf.name_scope("inner"):
            return tf.nn.relu(x @ self.kernel)

    @tf.function
    def middle(self, x: tf.Tensor) -> tf.Tensor:
        return self.inner(x) + 1.0

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def __call__(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        hidden = self.middle(x)
        total = hidden
        for _ in tf.range(3):
            total = total * 2.0
        return {"hidden": hidden, "total": total}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="word")])
    def look_up(self, word: tf.Tensor) -> tf.Tensor:
        return {"number": self.table.lookup(tf.strings.lower(word))}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 4], tf.float32, name="x"),
            tf.TensorSpec([], tf.float32, name="scale"),
        ]
    )
    def scaled(self, x: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
        return {"y": x * scale}


@pytest.fixture(scope="session")
def nested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "nested"
    module = Nested()
    signatures = {
        "serving_default": module.__call__,
        "look_up": module.look_up,
        "scaled": module.scaled,
    }
    tf.saved_model.save(module, str(folder), signatures=signatures)
    return folder


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[keras.Model, Path]:
    """A Keras model with a recurrent layer, as `model.export` writes it."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.LSTM(4, name="memory"), keras.layers.Dense(2, name="head")]
    model = keras.Sequential([keras.Input((5, 3)), *layers])
    folder = tmp_path_factory.mktemp("saved") / "exported"
    model.export(str(folder), verbose=False)
    return model, folder


@pytest.fixture(scope="session")
def version_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel as TensorFlow 1 wrote them: a session's graph, with a table."""
    folder = tmp_path_factory.mktemp("saved") / "version-one"
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x = tf.compat.v1.placeholder(tf.float32, [None, 3], "x")
        kernel = tf.compat.v1.get_variable(
            "dense/kernel", initializer=np.arange(6, dtype=np.float32).reshape(3, 2),
            use_resource=False,
        )  # fmt: skip
        hidden = tf.nn.relu(tf.matmul(x, kernel, name="dense/MatMul"), name="dense/Relu")
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.saved_model.simple_save(session, str(folder), {"x": x}, {"y": hidden})
    return folder


class TestNested(ModelContract):
    @pytest.fixture(autouse=True)
    def _path(self, nested: Path) -> None:
        self.path = nested

    def model(self) -> Model:
        return load(str(self.path))


def test_every_file_that_tensorflow_writes_belongs_to_the_graph(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("one\ntwo\n")
    module = Nested()
    module.words = tf.saved_model.Asset(str(tmp_path / "words.txt"))
    tf.saved_model.save(module, str(tmp_path / "saved"))
    written = {path for path in (tmp_path / "saved").rglob("*") if path.is_file()}
    assert {path.name for path in written} >= {"fingerprint.pb", "words.txt", "variables.index"}
    found, _ = files_with_companions(tmp_path / "saved" / "saved_model.pb")
    assert set(found) == written


class TestExported(ModelContract):
    @pytest.fixture(autouse=True)
    def _path(self, exported: tuple[keras.Model, Path]) -> None:
        self.path = exported[1]

    def model(self) -> Model:
        return load(str(self.path))


class TestVersionOne(ModelContract):
    @pytest.fixture(autouse=True)
    def _path(self, version_one: Path) -> None:
        self.path = version_one

    def model(self) -> Model:
        return load(str(self.path))


X = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)


def test_what_stands_in_nested_functions_agrees_with_numpy(nested: Path, tmp_path: Path) -> None:
    run = extractkit.extract(
        ["model=saved_model", f"model.path={nested}", "selectors=[outputs,weights]",
         "+selectors.inner.op_type=[Relu,MatMul]"],
        inputs=X,
        run_dir=tmp_path / "run",
    )  # fmt: skip
    kernel = Nested().kernel.numpy()
    np.testing.assert_array_equal(np.asarray(run["kernel:0"]), kernel)
    product, rectified = np.asarray(run["inner/matmul:0"]), np.asarray(run["inner/Relu:0"])
    np.testing.assert_allclose(product, X @ kernel, rtol=1e-5)
    np.testing.assert_allclose(rectified, np.maximum(X @ kernel, 0), rtol=1e-5)
    hidden = np.maximum(X @ kernel, 0) + 1
    np.testing.assert_allclose(np.asarray(run[":output.hidden"]), hidden, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(run[":output.total"]), hidden * 8, rtol=1e-5)


def test_a_loop_of_a_saved_model_gives_each_step(nested: Path, tmp_path: Path) -> None:
    run = extractkit.extract(
        ["model=saved_model", f"model.path={nested}", "selectors=outputs",
         "+selectors.inner={path: '*while/body*', op_type: Mul}"],
        inputs=X,
        run_dir=tmp_path / "run",
    )  # fmt: skip
    (doubled,) = [key for key in run if "while" in key]
    assert run[doubled].dims[:2] == ("sample", "step")
    hidden = np.asarray(run[":output.hidden"])
    expected = np.stack([hidden * 2, hidden * 4, hidden * 8], 1)
    np.testing.assert_array_equal(np.asarray(run[doubled]), expected)


def test_a_recurrent_layer_of_a_saved_model_gives_each_step(
    exported: tuple[keras.Model, Path], tmp_path: Path
) -> None:
    model, folder = exported
    x = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
    run = extractkit.extract(
        ["model=saved_model", f"model.path={folder}",
         "+selectors.inner={path: '*while/body*', op_type: Tanh}"],
        inputs=x,
        run_dir=tmp_path / "run",
    )  # fmt: skip
    cell, state = model.get_layer("memory").cell, [np.zeros((4, 4), np.float32)] * 2
    expected = []
    for step in range(5):
        _, state = cell(x[:, step], state)
        expected.append(np.tanh(state[1]))
    found = [np.asarray(run[key]) for key in run]
    assert any(
        one.shape == (4, 5, 4) and np.allclose(one, np.stack(expected, 1), atol=1e-6)
        for one in found
    )


def test_texts_go_through_tables(nested: Path, tmp_path: Path) -> None:
    run = extractkit.extract(
        ["model=saved_model", f"model.path={nested}", "model.signature=look_up",
         "selectors=outputs"],
        inputs=["ONE", "two", "three"],
        run_dir=tmp_path / "run",
    )  # fmt: skip
    np.testing.assert_array_equal(np.asarray(run[":output.number"]), [1, 2, -1])


def test_an_input_can_be_given_a_value_for_all_samples(nested: Path, tmp_path: Path) -> None:
    run = extractkit.extract(
        ["model=saved_model", f"model.path={nested}", "model.signature=scaled",
         "model.constants.scale=2.5", "selectors=outputs"],
        inputs=X,
        run_dir=tmp_path / "run",
    )  # fmt: skip
    np.testing.assert_array_equal(np.asarray(run[":output.y"]), X * np.float32(2.5))


def test_a_function_that_is_no_signature_can_be_called(nested: Path) -> None:
    model = load(str(nested), signature="__call__")
    assert [spec.name for spec in model.signature.specs] == ["x"]


def test_an_exported_keras_model_agrees_with_the_model(
    exported: tuple[keras.Model, Path], tmp_path: Path
) -> None:
    model, folder = exported
    x = np.random.default_rng(0).normal(size=(7, 5, 3)).astype(np.float32)
    run = extractkit.extract(
        ["model=saved_model", f"model.path={folder}", "selectors=[outputs,weights]"],
        inputs=x,
        run_dir=tmp_path / "run",
    )  # fmt: skip
    outputs = [view for address, view in run.items() if address.startswith(":output")]
    np.testing.assert_allclose(np.asarray(outputs[0]), model.predict_on_batch(x), atol=1e-6)
    stored = [np.asarray(run[a]).tobytes() for a in run if not a.startswith(":")]
    assert sorted(stored) == sorted(weight.tobytes() for weight in model.get_weights())


def test_a_graph_of_version_one_agrees_with_a_plain_session(
    version_one: Path, tmp_path: Path
) -> None:
    x = X[:, :3]
    run = extractkit.extract(
        ["model=saved_model", f"model.path={version_one}", "+selectors.all.path=*"],
        inputs=x,
        run_dir=tmp_path / "run",
    )  # fmt: skip
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.saved_model.load(session, ["serve"], str(version_one))
        names = ["dense/MatMul:0", "dense/Relu:0", "dense/kernel:0"]
        expected = session.run(names, {"x:0": x})
    for name, value in zip(names, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(run[name]), value)


def test_dropout_that_is_off_does_no_harm(tmp_path: Path) -> None:
    """Its unseeded random numbers run, and a deterministic run refuses those."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x = tf.compat.v1.placeholder(tf.float32, [None, 3], "x")
        noise = tf.raw_ops.RandomUniform(shape=tf.shape(x), dtype=tf.float32)
        kept = tf.cast(noise >= 0.0, tf.float32)
        with tf.control_dependencies([kept]):
            doubled = tf.identity(x * 2.0)
        tf.compat.v1.saved_model.simple_save(
            session, str(tmp_path / "dropout"), {"x": x}, {"y": doubled, "kept": x * kept}
        )
    model = load(str(tmp_path / "dropout"))
    model.configure(seed=0, deterministic=True, device=None)
    batch = {"x": np.ones((2, 3), np.float32)}
    (value,) = model.program([Fetch(Value(":output.y"))], Compilation())(batch, {})
    np.testing.assert_array_equal(value, np.full((2, 3), 2.0))


def test_only_what_is_needed_runs(tmp_path: Path) -> None:
    """What comes later would fail, if it ran."""

    class Failing(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
        def __call__(self, x: tf.Tensor) -> tf.Tensor:
            early = tf.nn.relu(x, name="early")
            return tf.debugging.check_numerics(early / 0.0, "later")

    tf.saved_model.save(Failing(), str(tmp_path / "failing"))
    model = load(str(tmp_path / "failing"))
    early = next(r.address for r in model.catalog.records if r.op_type == "Relu")
    later = next(r.address for r in model.catalog.records if r.op_type == "CheckNumerics")
    batch = {"x": np.ones((2, 2), np.float32)}
    (value,) = model.program([Fetch(Value(early))], Compilation())(batch, {})
    np.testing.assert_array_equal(value, batch["x"])
    with pytest.raises(Exception, match="later"):
        model.program([Fetch(Value(later))], Compilation())(batch, {})


def refusal(path: Path, **arguments: object) -> str:
    with pytest.raises((ModelError, ConfigError)) as caught:
        load(str(path), **arguments)  # type: ignore[arg-type]
    return str(caught.value)


def test_a_signature_that_does_not_exist(nested: Path) -> None:
    message = refusal(nested, signature="serving")
    assert "model.signature='serving' does not exist in" in message
    assert "'serving_default'" in message


def test_a_signature_that_is_no_text(nested: Path) -> None:
    assert "model.signature=3 does not exist in" in refusal(nested, signature=3)


def test_tags_that_do_not_exist(nested: Path) -> None:
    assert refusal(nested, tags=["train"]).endswith(
        "no graph has just these tags. Available: 'model.tags=[serve]'"
    )


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Return a SavedModel of TensorFlow 1 whose second graph has tags that a shell reads."""
    folder = tmp_path / "odd"
    builder = tf.compat.v1.saved_model.Builder(str(folder))
    for tags in (["serve"], ["it's {a}", "x,y"]):
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            x = tf.compat.v1.placeholder(tf.float32, [None, 2], "x")
            y = tf.matmul(x, tf.compat.v1.get_variable("w", initializer=np.ones((2, 2), "f")))
            session.run(tf.compat.v1.global_variables_initializer())
            signature = tf.compat.v1.saved_model.predict_signature_def({"x": x}, {"y": y})
            signatures = {"serving_default": signature}
            if tags == ["serve"]:
                builder.add_meta_graph_and_variables(session, tags, signatures)
            else:
                builder.add_meta_graph(tags, signatures)
    builder.save()
    return folder


def test_tags_are_quoted_for_a_shell(odd: Path) -> None:
    path = hydra_override("model.path", odd)
    answer = refused("tensors", "model=saved_model", path, "model.tags=[gpu]")
    assert len(answer.overrides) == 2
    assert ask(*answer.advised()).code == 0


def test_damaged_variables_are_named_by_their_own_folder(odd: Path) -> None:
    """They are loaded from a copy that is gone when the message is read."""
    data = odd / "variables/variables.data-00000-of-00001"
    content = data.read_bytes()
    data.write_bytes(bytes([content[0] ^ 255]) + content[1:])
    message = refusal(odd)
    assert f"TensorBundle at {odd}/variables/variables" in message
    assert "Checksum does not match" in message


def test_a_folder_that_is_no_saved_model(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    assert refusal(tmp_path).endswith(
        "is not a SavedModel: there is no saved_model.pb in it. It holds 'notes.txt'."
    )


def test_a_folder_of_saved_models_names_them(nested: Path) -> None:
    message = refusal(nested.parent)
    assert "SavedModels in it: Available: 'nested'. Choose one: model.path=" in message
    assert message.endswith("/nested")


def test_a_missing_folder_names_its_neighbours(nested: Path) -> None:
    assert "does not exist. Folders in" in refusal(nested.parent / "nestd")
    assert "'nested'" in refusal(nested.parent / "nestd")


def test_a_file_of_another_format(tmp_path: Path) -> None:
    (tmp_path / "m.keras").write_text("?")
    assert "is not the folder of a SavedModel, with a saved_model.pb in it, and" in refusal(
        tmp_path / "m.keras"
    )


@pytest.mark.parametrize("content", [b"", b"no protocol buffer", b"\x08\x01\x12\xff\xff"])
def test_a_damaged_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "saved_model.pb").write_bytes(content)
    assert "damaged" in refusal(tmp_path)


def test_a_missing_variable_file(nested: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(nested, copy)
    (copy / "variables" / "variables.index").unlink()
    assert "is a SavedModel without its variables: " in refusal(copy)


def test_constants_that_do_not_exist(nested: Path) -> None:
    message = refusal(nested, signature="scaled", constants={"scal": 1.0})
    assert message == "model.constants: 'scal' is not an input. Available: 'scale', 'x'."


def test_what_needs_a_scalar_input_asks_for_its_value(nested: Path) -> None:
    reason = load(str(nested), signature="scaled").catalog[":output.y"].reason
    assert reason == (
        "it needs 'scale', which nothing is given for: name it in model.input_axes, or give its "
        "value in model.constants"
    )


def test_kinds(nested: Path) -> None:
    records = load(str(nested)).catalog.records
    assert {record.kind for record in records} == {
        Kind.MODEL_INPUT, Kind.MODEL_OUTPUT, Kind.OP, Kind.WEIGHT,
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(25))
def test_damage_is_reported_or_harmless(nested: Path, tmp_path: Path, seed: int) -> None:
    what = damaged(nested, tmp_path / "damaged", seed)
    try:
        model = load(str(tmp_path / "damaged"))
        model.weights_digest()
    except (ModelError, JobError) as error:
        reported = str(error)
    else:
        reported = "" if model.catalog.records else "it has nothing"
    assert not reported or "model.path=" in reported or "model 'saved_model'" in reported, what


def test_another_process_gives_the_same_definition(nested: Path, preloaded: Path) -> None:
    """Whatever names TensorFlow gives its functions there."""
    code = (
        "import sys\nfrom extractkit.models.saved_model import load\n"
        "for name in sys.argv[2:]: print(load(sys.argv[1], name).definition_digest())"
    )
    names = ["scaled", "look_up", "serving_default"]
    run = subprocess.run(
        [preloaded / "python", "-c", code, str(nested), *names],
        capture_output=True,
        text=True,
        check=True,
    )
    here = [load(str(nested), name).definition_digest() for name in reversed(names)]
    assert None not in here
    assert run.stdout.splitlines()[-3:] == here[::-1]
