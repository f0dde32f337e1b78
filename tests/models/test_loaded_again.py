"""Models of every format, loaded again by the format's own means; and faults that this finds."""

import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

import extractkit
from extractkit.engine import Silent
from extractkit.errors import JobError
from extractkit.models import SAME_OBJECT, keras_file
from extractkit.models.functions import FunctionModel
from extractkit.models.keras_models import weights
from extractkit.models.keras_models.loading import ReloadedModel, reloaded
from extractkit.models.keras_models.model import KerasModel
from extractkit.models.litert.model import TFLiteModel
from extractkit.models.sessions import SessionModel
from extractkit.runs.environment import SelfCheck
from extractkit.runs.journal import read

X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
KERNEL = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
MEAN, VARIANCE = np.float32([1, 2, 3, 4]), np.float32([4, 9, 16, 25])
STATISTICS = {"mean": MEAN, "variance": VARIANCE}


def expected(scale: float = 1.0) -> np.ndarray:
    """What every model here computes, in float64."""
    normal = (X.astype(np.float64) - MEAN * scale) / np.sqrt(VARIANCE.astype(np.float64))
    return normal @ (KERNEL.astype(np.float64) * scale)


def architecture(package: Any = keras) -> Any:
    """Normalization, whose statistics Keras turns into constants, and a kernel."""
    x = package.Input((4,), name="x")
    normal = package.layers.Normalization(name="norm")
    return package.Model(x, package.layers.Dense(3, use_bias=False, name="head")(normal(x)))


def filled(package: Any = keras, scale: float = 1.0) -> Any:
    made = architecture(package)
    normal = made.get_layer("norm")
    values = [MEAN * scale, VARIANCE, np.int64(0)]
    normal.set_weights(values[: len(normal.get_weights())])
    normal.finalize_state()
    made.get_layer("head").set_weights([KERNEL * scale])
    return made


class Saved(tf.Module):
    def __init__(self) -> None:
        self.kernel = tf.Variable(KERNEL, name="kernel")

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def __call__(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": ((x - MEAN) / np.sqrt(VARIANCE)) @ self.kernel}


def module() -> tf.Module:
    return Saved()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model in every format."""
    folder = tmp_path_factory.mktemp("again")
    np.save(folder / "x.npy", X)
    whole = filled()
    whole.save(folder / "model.keras")
    for scale in (1, 2, 3, 4):
        filled(scale=scale).save_weights(folder / f"step_{scale}.weights.h5")
    tf.saved_model.save(Saved(), str(folder / "saved"))
    with warnings.catch_warnings(action="ignore"):  # of what is not the newest format
        filled(tf_keras).save(folder / "old.h5")
        converter = tf.lite.TFLiteConverter.from_keras_model(whole)
        (folder / "model.tflite").write_bytes(converter.convert())
        _save_graphs(folder)
    return folder


def _save_graphs(folder: Path) -> None:
    """The formats of TensorFlow 1."""
    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], "x")
        kernel = tf.compat.v1.get_variable("kernel", initializer=KERNEL, use_resource=False)
        y = tf.matmul((x - MEAN) / np.sqrt(VARIANCE), kernel, name="y")
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, str(folder / "meta" / "model"))
        tf.compat.v1.saved_model.simple_save(session, str(folder / "old"), {"x": x}, {"y": y})
        frozen = tf.compat.v1.graph_util.convert_variables_to_constants(
            session, graph.as_graph_def(), ["y"]
        )
        (folder / "frozen.pb").write_bytes(frozen.SerializeToString())


FACTORY = f"model.factory._target_={__name__}.architecture"
FORMATS = {
    "keras": (["model=keras", "model.path={}/model.keras"], "keras.models.load_model"),
    "keras 2": (["model=keras", "model.path={}/old.h5"], "tf_keras.models.load_model"),
    "factory and weights": (
        ["model=keras", FACTORY, "model.checkpoint={}/step_1.weights.h5"],
        f"{__name__}.architecture and load_weights",
    ),
    "saved model": (["model=saved_model", "model.path={}/saved"], "tf.saved_model.load"),
    "saved model of TensorFlow 1": (
        ["model=saved_model", "model.path={}/old"],
        "tf.compat.v1.saved_model.load, without stored shapes",
    ),
    "frozen graph": (
        ["model=frozen_graph", "model.path={}/frozen.pb"],
        "tf.compat.v1.import_graph_def",
    ),
    "meta graph": (
        ["model=meta_graph", "model.path={}/meta"],
        "tf.compat.v1.train.import_meta_graph and Saver.restore, without stored shapes",
    ),
    "tflite": (["model=tflite", "model.path={}/model.tflite"], "ai_edge_litert.Interpreter"),
    "module": (["model=module", f"model.factory._target_={__name__}.module"], SAME_OBJECT),
}


def job(files: Path, arguments: Sequence[str]) -> list[str]:
    given = [argument.format(files) for argument in arguments]
    return [*given, "selectors=outputs", "inputs=arrays", f"inputs.path={files / 'x.npy'}"]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_loaded_again_by_its_own_means(
    files: Path, tmp_path: Path, name: str
) -> None:
    arguments, loaded_by = FORMATS[name]
    run = extractkit.extract(job(files, arguments), run_dir=tmp_path / "run")
    (view,) = run.values()
    np.testing.assert_allclose(np.asarray(view), expected(), rtol=1e-4, atol=1e-5)
    (check,) = run.manifest.volatile.self_check
    assert check.loaded_by == loaded_by
    assert check.outputs == (view.record.address,)
    assert check.samples == (1 if name == "tflite" else 6)
    assert check.relative_difference < 1e-5


def failed(directory: Path, overrides: Sequence[str], **live: Any) -> str:
    with pytest.raises(JobError) as error:
        extractkit.extract(overrides, run_dir=directory, **live)
    assert read(directory / "journal.jsonl").entries == ()
    return str(error.value)


def test_a_constant_of_a_layer_that_is_stale_in_the_trace(files: Path, tmp_path: Path) -> None:
    """As if the trace were made before the weights are loaded."""
    model = keras_file.load(path=str(files / "model.keras"))
    normal = model.keras_model.get_layer("norm")
    vars(model).pop("traced", None)
    right, normal.mean = normal.mean, tf.zeros_like(normal.mean)
    assert model.traced
    normal.mean = right
    message = failed(
        tmp_path / "run",
        ["+selectors.x.path='head:kernel'", "selectors=outputs"],
        model=model,
        inputs=X,
    )
    assert message.startswith(
        "runtime.self_check: ':output' is not the model's own output: 18 elements apart, by "
    )
    assert "compared for 6 samples with keras.models.load_model, to 1e-05 + 0.0001 of" in message


def test_a_weight_that_is_not_the_files(files: Path, tmp_path: Path) -> None:
    model = keras_file.load(path=str(files / "model.keras"))
    head = model.keras_model.get_layer("head")
    head.kernel.assign(KERNEL + np.float32(1e-2))
    message = failed(tmp_path / "run", ["selectors=outputs"], model=model, inputs=X)
    assert "':output' is not the model's own output" in message


def test_another_number_of_outputs_is_a_difference(files: Path, tmp_path: Path) -> None:
    model = keras_file.load(path=str(files / "model.keras"))
    x = keras.Input((4,), name="x")
    other = keras.Model(x, [keras.layers.Dense(3)(x), keras.layers.Dense(3)(x)])
    vars(model)["reload"] = lambda checkpoint: ReloadedModel(other, "another loader")
    message = failed(tmp_path / "run", ["selectors=outputs"], model=model, inputs=X)
    assert message.startswith(
        "runtime.self_check: ':output' is not the model's own output: the model's own call returns "
        "2 outputs, not 1. It was compared for 6 samples with another loader, to "
    )


@pytest.mark.parametrize("checked", [True, False])
def test_a_job_computes_with_its_own_seed_after_the_check(
    checked: bool, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A factory with weights is built again with the seed of the model."""
    seeds: list[int] = []
    monkeypatch.setattr(
        Silent, "advanced", lambda *_: seeds.append(tf.compat.v1.random.get_seed(None)[0])
    )
    arguments, _ = FORMATS["factory and weights"]
    overrides = [*job(files, arguments), "model.seed=5", "runtime.seed=7"]
    extractkit.extract([*overrides, f"runtime.self_check={checked}"], run_dir=tmp_path / "run")
    assert set(seeds) == {7}


@pytest.fixture
def dropping(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds that were set. TensorFlow then optimises the graphs of all functions again."""
    seeds: list[int] = []
    set_seed = tf.random.set_seed

    def noted(seed: int) -> None:
        seeds.append(seed)
        set_seed(seed)

    monkeypatch.setattr(tf.random, "set_seed", noted)
    return seeds


def test_the_check_drops_no_kernels(tmp_path: Path, dropping: list[int]) -> None:
    settings = {"run_dir": tmp_path / "run", "runtime": {"seed": 7}}
    run = extractkit.extract(["selectors=outputs"], model=architecture(), inputs=X, **settings)
    assert run.manifest.volatile.self_check[0].largest_difference is not None
    assert dropping == [7]


def test_an_architecture_that_is_built_again_with_its_seed_drops_no_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dropping: list[int]
) -> None:
    def Tiny(weights: None, input_shape: tuple[int, ...], **_: object) -> Any:  # noqa: N802
        return keras.Sequential([keras.Input(input_shape), keras.layers.Dense(3)])

    monkeypatch.setattr(keras.applications, "Tiny", Tiny, raising=False)
    settings = ("model.architecture=Tiny", "model.input_shape=[2,2,1]", "model.preprocess=false")
    seeds, drawn = ("model.seed=7", "runtime.seed=7"), ("inputs=random", "inputs.samples=2")
    run = extractkit.extract(
        ["model=applications", *settings, *seeds, *drawn, "selectors=outputs"],
        run_dir=tmp_path / "run",
    )
    assert run.manifest.volatile.self_check[0].largest_difference == 0
    assert dropping == [7, 7]  # as the model is loaded, and as the job is configured


def test_weights_that_keras_does_not_read_are_recorded_as_matched_by_name() -> None:
    given: Any = SimpleNamespace(
        file=lambda checkpoint: object(), loaded_by=lambda checkpoint: weights.BY_NAME
    )
    again = reloaded(architecture(), "a factory", given, None)
    assert again.loaded_by == "a factory and extractkit's own matching by name"


CHECKPOINTS = ["model=keras", FACTORY, "model.checkpoints='{}/step_*.weights.h5'"]


def test_checkpoints_are_loaded_again_one_by_one(files: Path, tmp_path: Path) -> None:
    run = extractkit.extract(job(files, CHECKPOINTS), run_dir=tmp_path / "run")
    for scale in (1, 2, 3, 4):
        found = np.asarray(run.at(f"step_{scale}")[":output"])
        np.testing.assert_allclose(found, expected(scale), rtol=1e-4, atol=1e-4)
    checks = run.manifest.volatile.self_check
    assert [one.checkpoint for one in checks] == ["step_1", "step_2", "step_4"]
    assert {one.loaded_by for one in checks} == {f"{__name__}.architecture and load_weights"}


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model keeps the weights that it had when the second checkpoint is loaded."""
    load_weights = keras.Model.load_weights
    models: list[Any] = []

    def instead(model: Any, path: Any, *given: Any, **named: Any) -> None:
        models.append(model)
        if model is models[0]:
            path = str(path).replace("step_2", "step_1")
        load_weights(model, path, *given, **named)

    monkeypatch.setattr(keras.Model, "load_weights", instead)


@pytest.mark.usefixtures("forgotten")
def test_a_second_checkpoint_that_is_not_loaded(files: Path, tmp_path: Path) -> None:
    message = failed(tmp_path / "run", job(files, CHECKPOINTS))
    assert "':output' is not the model's own output at checkpoint step_2: " in message


SQUARE = np.random.default_rng(2).normal(size=(2, 4, 4)).astype(np.float32)


def pair() -> Any:
    """Two layers in a row, whose kernels have one shape."""
    x = keras.Input((4,), name="x")
    first, second = (keras.layers.Dense(4, use_bias=False, name=name) for name in ("a", "b"))
    return keras.Model(x, second(keras.activations.tanh(first(x))))


def exchanged(model: Any) -> None:
    model.set_weights(model.get_weights()[::-1])


def transposed(model: Any) -> None:
    model.set_weights([model.get_weights()[0].T, model.get_weights()[1]])


def left_out(model: Any) -> None:
    model.set_weights([np.zeros((4, 4), np.float32), model.get_weights()[1]])


@pytest.mark.parametrize("fault", [None, exchanged, transposed, left_out])
def test_weights_that_get_into_wrong_places(
    fault: Callable[[Any], None] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has the shape that its place takes, so that only values can tell."""
    right = pair()
    right.set_weights(list(SQUARE))
    right.save_weights(tmp_path / "x.weights.h5")
    load = weights.load_weights

    def instead(model: Any, *arguments: Any) -> None:
        load(model, *arguments)
        if fault is not None:
            fault(model)

    monkeypatch.setattr(weights, "load_weights", instead)
    np.save(tmp_path / "x.npy", X)
    overrides = [
        *("model=keras", f"model.factory._target_={__name__}.pair", "selectors=outputs"),
        *(f"model.checkpoint={tmp_path}/x.weights.h5", f"inputs.path={tmp_path}/x.npy"),
        "inputs=arrays",
    ]
    if fault is not None:
        message = failed(tmp_path / "run", overrides)
        assert "is not the model's own output" in message
        return
    run = extractkit.extract(overrides, run_dir=tmp_path / "run")
    own = np.tanh(X.astype(np.float64) @ SQUARE[0]) @ SQUARE[1]
    np.testing.assert_allclose(np.asarray(run[":output"]), own, rtol=1e-4, atol=1e-5)


class Subclassed(tf_keras.Model):
    """A model without variables before its first call, as those of transformers are."""

    def __init__(self) -> None:
        super().__init__()
        self.head = tf_keras.layers.Dense(3, use_bias=False, name="head")

    def build(self, shape: Any) -> None:
        self.head.build(shape)
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.head(x)


def test_a_model_that_is_built_by_its_first_call(tmp_path: Path) -> None:
    right = Subclassed()
    right(X)
    right.set_weights([KERNEL])
    right.save_weights(str(tmp_path / "x.weights.h5"))
    np.save(tmp_path / "x.npy", X)
    overrides = [
        *("model=keras", f"model.factory._target_={__name__}.Subclassed", "selectors=outputs"),
        *(f"model.checkpoint={tmp_path}/x.weights.h5", f"inputs.path={tmp_path}/x.npy"),
        *("inputs=arrays", "model.input_axes={x: {dims: [sample, 4], dtype: float32}}"),
    ]
    run = extractkit.extract(overrides, run_dir=tmp_path / "run")
    np.testing.assert_allclose(
        np.asarray(run[":output"]), X.astype(np.float64) @ KERNEL, rtol=1e-4, atol=1e-5
    )
    (check,) = run.manifest.volatile.self_check
    assert (check.outputs, check.not_applicable) == ((":output",), None)


ADAPTERS = {
    "keras": KerasModel,
    "saved model": FunctionModel,
    "saved model of TensorFlow 1": SessionModel,
    "frozen graph": SessionModel,
    "tflite": TFLiteModel,
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_inputs_in_another_order_end_a_job_of_every_format(
    files: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter: Any = ADAPTERS[name]
    program = adapter.program

    def instead(model: Any, *arguments: Any) -> Any:
        right = program(model, *arguments)
        return lambda features, lengths: right(
            {key: np.ascontiguousarray(value[:, ::-1]) for key, value in features.items()}, lengths
        )

    monkeypatch.setattr(adapter, "program", instead)
    message = failed(tmp_path / "run", job(files, FORMATS[name][0]))
    assert "is not the model's own output" in message


@pytest.mark.parametrize("name", ["frozen graph", "meta graph", "saved model of TensorFlow 1"])
def test_stored_shapes_that_operations_contradict_are_dropped(
    files: Path, tmp_path: Path, name: str
) -> None:
    """As graphs hold them that another version has written."""
    folder = Path(shutil.copytree(files, tmp_path / "files"))
    messages = {
        "frozen.pb": tf.compat.v1.GraphDef(),
        "meta/model.meta": tf.compat.v1.MetaGraphDef(),
        "old/saved_model.pb": SavedModel(),
    }
    for file, message in messages.items():
        message.ParseFromString((folder / file).read_bytes())
        metas = getattr(message, "meta_graphs", [message])
        for node in getattr(metas[0], "graph_def", metas[0]).node:
            if node.name == "y":
                shape = tf.TensorShape([7, 9]).as_proto()
                del node.attr["_output_shapes"].list.shape[:]
                node.attr["_output_shapes"].list.shape.append(shape)
        (folder / file).write_bytes(message.SerializeToString())
    run = extractkit.extract(job(folder, FORMATS[name][0]), run_dir=tmp_path / "run")
    (view,) = run.values()
    np.testing.assert_allclose(np.asarray(view), expected(), rtol=1e-4, atol=1e-5)
    (check,) = run.manifest.volatile.self_check
    assert str(check.loaded_by).endswith(", without stored shapes")


def made(half: bool) -> Iterator[keras.Model]:
    x = keras.Input((4,), name="x")
    dtype = "mixed_bfloat16" if half else "float32"
    yield keras.Model(x, keras.layers.Dense(3, dtype=dtype)(x))


@pytest.mark.parametrize("half", [False, True])
def test_numbers_of_16_bits_have_a_tolerance_of_their_own(half: bool, tmp_path: Path) -> None:
    (model,) = made(half)
    run = extractkit.extract(["selectors=outputs"], model=model, inputs=X, run_dir=tmp_path / "run")
    (check,) = run.manifest.volatile.self_check
    assert isinstance(check, SelfCheck)
    first = "0.001 + 0.01" if half else "1e-05 + 0.0001"
    assert check.tolerance == f"{first} of a tensor's largest value"
