"""Folders that Keras 2 saved: SavedModels in which it describes the layers of a model."""

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tf_keras import layers

import extractkit
from extractkit.errors import MissingExtraError, ModelError
from extractkit.models.keras_file import load
from extractkit.models.recognition import recognize
from extractkit.runs.environment import SelfCheck

X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
HERE = f"{__name__}."


class Scaled(layers.Layer):  # type: ignore[misc]
    def build(self, shape: Any) -> None:
        self.scale = self.add_weight(name="scale", shape=(shape[-1],), initializer="ones")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return x * self.scale * 2


class Renamed(layers.Layer):  # type: ignore[misc]
    """`Scaled` as somebody changed it after a model was saved."""

    def build(self, shape: Any) -> None:
        self.factor = self.add_weight(name="factor", shape=(shape[-1],), initializer="ones")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return x * self.factor * 2


class Own(tf_keras.Model):  # type: ignore[misc]
    """A class without a configuration."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.dense = layers.Dense(units, name="dense")

    def get_config(self) -> dict[str, Any]:
        raise NotImplementedError

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.dense(x) * 2


def redrawn(model: Any) -> Any:
    """Give a model weights that no initializer gives."""
    generator = np.random.default_rng(1)
    for weight in model.weights:
        weight.assign(generator.uniform(0.5, 1.5, weight.shape))
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled and trained model, one layer in a model of its own, and its predictions."""
    path = tmp_path_factory.mktemp("keras_2") / "net"
    x = tf_keras.Input((4,), name="x")
    inner = tf_keras.Sequential([layers.Dense(3, "relu", name="first")], name="inner")
    y = layers.BatchNormalization(name="bn")(inner(x))
    model = redrawn(tf_keras.Model(x, layers.Dense(2, name="last")(y)))
    model.compile("adam", "mse")
    model.fit(X, np.zeros((6, 2)), verbose=0)
    model.save(path, save_format="tf")
    np.save(path.parent / "y.npy", model.predict(X, verbose=0))
    np.savez(path.parent / "w.npz", **{w.name.replace("/", "|"): w.numpy() for w in model.weights})
    return path


@pytest.fixture(scope="module")
def custom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keras_2") / "custom"
    x = tf_keras.Input((4,), name="x")
    model = redrawn(tf_keras.Model(x, Scaled(name="scaled")(x)))
    model.save(path, save_format="tf")
    np.save(path.parent / "y.npy", model.predict(X, verbose=0))
    return path


def message(path: Path, **settings: Any) -> str:
    with pytest.raises(ModelError) as caught:
        load(str(path), **settings)
    return str(caught.value)


def graph_of(path: Path) -> str:
    return (
        f". Or read its graph, which needs no Python: model=saved_model model.path={str(path)!r}"
    ).replace("'", "")


def test_layers_outputs_and_weights(folder: Path, tmp_path: Path) -> None:
    run = extractkit.extract(
        ["model=keras", f"model.path={folder}", "selectors=[layers,outputs]"],
        inputs=X,
        run_dir=tmp_path / "run",
    )
    with np.load(folder.parent / "w.npz") as stored:
        w = {key.replace("|", "/").removesuffix(":0"): stored[key] for key in stored}
    first = np.maximum(X @ w["first/kernel"] + w["first/bias"], 0)
    normal = (first - w["bn/moving_mean"]) / np.sqrt(w["bn/moving_variance"] + 1e-3)
    normal = normal * w["bn/gamma"] + w["bn/beta"]
    np.testing.assert_allclose(np.asarray(run["inner/first:output"]), first, atol=1e-5)
    np.testing.assert_allclose(np.asarray(run["bn:output"]), normal, atol=1e-5)
    wanted = np.load(folder.parent / "y.npy")
    np.testing.assert_allclose(np.asarray(run[":output"]), wanted, atol=1e-5)
    (check,) = run.manifest.volatile.self_check
    assert isinstance(check, SelfCheck)
    assert check.loaded_by == "tf_keras.models.load_model"


def test_a_folder_is_recognized_as_keras_where_tf_keras_is_installed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = recognize(str(folder))
    assert found is not None
    assert (found.model, found.what) == ("keras", "a SavedModel of Keras 2")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = recognize(str(folder))
    assert found is not None
    assert found.model == "saved_model"


def test_without_tf_keras_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tf_keras" else find(name)
    )
    with pytest.raises(MissingExtraError) as caught:
        load(str(folder))
    assert str(caught.value) == (
        f"model.path={str(folder)!r}: Keras 2 wrote it. It needs tf-keras, which is not installed. "
        f"Install it: python -m pip install 'extractkit[legacy]'{graph_of(folder)}"
    )


def test_a_class_that_is_named_is_used(custom: Path) -> None:
    model = load(str(custom), custom_objects={"Scaled": HERE + "Scaled"})
    found = model.keras_model.predict(X, verbose=0)
    np.testing.assert_allclose(found, np.load(custom.parent / "y.npy"), atol=1e-6)


def test_a_class_that_is_not_named_is_refused(custom: Path) -> None:
    assert message(custom) == (
        f"model.path={str(custom)!r} needs 'Scaled', which Keras does not know by itself. Give "
        f"its path: model.custom_objects.Scaled=package.module.Scaled{graph_of(custom)}"
    )


def test_a_class_whose_weights_have_other_names_is_refused(custom: Path) -> None:
    text = message(custom, custom_objects={"Scaled": HERE + "Renamed"})
    assert text.startswith(
        f"model.path={str(custom)!r} cannot be loaded by Keras: AssertionError: Found 1 Python "
        f"objects that were not bound to checkpointed values"
    )
    assert text.endswith(graph_of(custom))


def test_a_class_without_configuration_is_refused(tmp_path: Path) -> None:
    model = Own(3)
    model(X)
    model.save(tmp_path / "own", save_format="tf")
    assert message(tmp_path / "own").startswith(
        f"model.path={str(tmp_path / 'own')!r} needs 'Own', which Keras does not know by itself."
    )
    assert message(tmp_path / "own", custom_objects={"Own": HERE + "Own"}) == (
        f"model.path={str(tmp_path / 'own')!r}: layer 'own' cannot be made of class 'Own': the "
        f"folder holds no configuration that fits. Give the class a get_config, and save the model "
        f"again{graph_of(tmp_path / 'own')}"
    )


def test_vocabularies_are_read(tmp_path: Path) -> None:
    x = tf_keras.Input((1,), dtype="string", name="x")
    ids = layers.StringLookup(vocabulary=["a", "b"], name="ids")(x)
    model = tf_keras.Model(x, layers.Flatten()(layers.Embedding(3, 2)(ids)))
    model.save(tmp_path / "text", save_format="tf")
    words = tf.constant([["b"], ["a"], ["?"]])
    loaded = load(str(tmp_path / "text")).keras_model
    np.testing.assert_array_equal(loaded(words), model(words))


def test_code_in_a_folder_is_refused(tmp_path: Path) -> None:
    x = tf_keras.Input((4,))
    model = tf_keras.Model(x, layers.Lambda(lambda v: v * 2, name="twice")(x))
    model.save(tmp_path / "code", save_format="tf")
    text = message(tmp_path / "code")
    assert "layer 'twice' holds Python code" in text
    assert text.endswith(graph_of(tmp_path / "code"))


def test_a_saved_model_without_layers_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "net")
    (tmp_path / "net" / "keras_metadata.pb").write_bytes(b"")
    assert message(tmp_path / "net") == (
        f"model.path={str(tmp_path / 'net')!r} is damaged: keras_metadata.pb describes no layers"
    )
    (tmp_path / "net" / "keras_metadata.pb").unlink()
    assert message(tmp_path / "net") == (
        f"model.path={str(tmp_path / 'net')!r} is a SavedModel without keras_metadata.pb, in which "
        f"Keras 2 describes the layers of a model: tf.saved_model.save or the export of Keras 3 "
        f"wrote it. Read its graph: model=saved_model model.path={tmp_path / 'net'}"
    )


def test_missing_variables_are_named(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "net", ignore=shutil.ignore_patterns("variables.index"))
    variables = tmp_path / "net" / "variables"
    assert message(tmp_path / "net") == (
        f"model.path={str(tmp_path / 'net')!r} is a SavedModel without its variables: "
        f"{str(variables / 'variables.index')!r} is missing. Copy the whole folder variables of "
        f"the SavedModel to {str(variables)!r}"
    )


def test_averages_are_refused(folder: Path) -> None:
    assert "averages of an optimizer" in message(folder, moving_averages=True)
