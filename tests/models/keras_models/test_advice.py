"""What refusals of Keras models say is true, and what they advise succeeds."""

from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from safetensors.numpy import save_file

from extractkit.advice import hydra_override
from extractkit.models import keras_file
from tests.advised import Answer, ask, refused

pytestmark = pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")

HERE = f"model.factory._target_={__name__}"
BUILD = f"{HERE}.build"


def build(last: str = "b") -> Any:
    layers = [keras.layers.Dense(3, name="a"), keras.layers.Dense(2, name=last)]
    return keras.Sequential([keras.Input((4,)), *layers], name="net")


class Mine(keras.layers.Layer):
    def call(self, x: Any) -> Any:
        return x * 2


class Mine2(tf_keras.layers.Layer):
    def call(self, x: Any) -> Any:
        return x * 2


class OwnTable(keras.layers.Layer):
    """Keeps a large table that it does not save, as a table of positions may be."""

    def build(self, shape: Any) -> None:
        self.table = self.add_weight(shape=(2000, 1000), initializer="ones", trainable=False)

    def call(self, x: Any) -> Any:
        return x + self.table[0, :4]

    def save_own_variables(self, store: Any) -> None:
        """Save nothing."""

    def load_own_variables(self, store: Any) -> None:
        """Load nothing."""


class Failing(keras.layers.Layer):
    def __init__(self, saves: bool = True, **settings: Any) -> None:
        super().__init__(**settings)
        self.saves = saves
        self.w = self.add_weight(shape=(4,), name="w")

    def call(self, x: Any) -> Any:
        return x

    def save_own_variables(self, store: Any) -> None:
        if not self.saves:
            raise RuntimeError("no way out")
        super().save_own_variables(store)

    def load_own_variables(self, store: Any) -> None:
        raise RuntimeError("no way in")


def failing(saves: bool = True) -> Any:
    return keras.Sequential([keras.Input((4,)), Failing(saves, name="own")])


PLACE = ""


def from_file() -> Any:
    return keras.models.load_model(PLACE, custom_objects={"OwnTable": OwnTable})


def no(*words: str) -> Answer:
    return refused("tensors", "model=keras", *words)


def at(key: str, file: Path) -> str:
    return hydra_override(f"model.{key}", file)


def test_weights_alone_go_into_what_a_callable_builds(tmp_path: Path) -> None:
    file = tmp_path / "my net.weights.h5"
    build().save_weights(file)
    answer = no(at("path", file))
    assert "In place of model.path give a callable that builds it: " in answer.message
    advised = [one.replace("package.module", __name__) for one in answer.overrides]
    assert ask("tensors", "model=keras", *advised).code == 0


@pytest.mark.parametrize("name", ["m.keras", "m.h5", "two.h5", "two.keras"])
def test_a_class_that_keras_does_not_know(name: str, tmp_path: Path) -> None:
    package, layer = (tf_keras, Mine2) if name.startswith("two") else (keras, Mine)
    model = package.Sequential([package.Input((4,)), layer(name="mine")])
    model.save(tmp_path / name)
    answer = no(at("path", tmp_path / name))
    unknown = f"needs {layer.__name__!r}, which Keras does not know by itself. Give its path: "
    assert unknown in answer.message
    advised = [one.replace("package.module", __name__) for one in answer.advised()]
    assert ask(*advised).code == 0


def test_a_large_weight_that_is_not_saved_is_no_proof_of_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "m.keras"
    keras.Sequential([keras.Input((4,)), OwnTable(name="own")]).save(file)
    custom = f"model.custom_objects.OwnTable={__name__}.OwnTable"
    answer = no(at("path", file), custom)
    assert "The file is damaged, or the layer does not save that weight. If so, " in answer.message
    monkeypatch.setattr(f"{__name__}.PLACE", str(file))
    (factory,) = (one for one in answer.overrides if "factory" in one)
    factory = factory.replace("package.module.function", f"{__name__}.from_file")
    assert "own" in ask("tensors", "model=keras", factory).out


@pytest.mark.parametrize("saves", [True, False])
def test_a_layer_that_fails_to_load_is_not_of_another_architecture(
    saves: bool, tmp_path: Path
) -> None:
    file = tmp_path / "m.weights.h5"
    failing().save_weights(file)
    message = no(f"{HERE}.failing", f"model.factory.saves={saves}", at("checkpoint", file)).message
    assert "fails to load: ValueError: A total of 1 objects could not be loaded. " in message
    assert "no way in" in message
    assert "does not fit" not in message
    save_file({"own/w": np.ones(4, "float32")}, tmp_path / "m.safetensors")
    message = no(f"{HERE}.failing", at("checkpoint", tmp_path / "m.safetensors")).message
    assert "layer 'own' fails once its weights are loaded: RuntimeError: no way in" in message


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"c/kernel": "b/kernel"}, "'net/b/kernel' of the model is not in the file. Available: "),
        ({"more": None}, "'more' of the file is not in the model"),
    ],
)
def test_the_weight_that_is_named_is_the_one_that_differs(
    change: dict[str, str | None], text: str, tmp_path: Path
) -> None:
    """The file leaves out the model's own name, which is no difference."""
    shapes = {"a/kernel": (4, 3), "a/bias": (3,), "b/kernel": (3, 2), "b/bias": (2,)}
    for new, old in change.items():
        shapes[new] = (1,) if old is None else shapes.pop(old)
    file = tmp_path / "m.safetensors"
    save_file({key: np.ones(shape, "float32") for key, shape in shapes.items()}, file)
    assert text in no(BUILD, at("checkpoint", file)).message


def test_names_of_variables_alone_do_not_tell_whose_they_are(tmp_path: Path) -> None:
    shapes = {"kernel": (4, 2), "bias": (2,)}
    file = tmp_path / "m.safetensors"
    save_file({key: np.ones(shape, "float32") for key, shape in shapes.items()}, file)
    message = no(f"{HERE}.top", at("checkpoint", file)).message
    assert "'top/kernel' of the model is not in the file. Available: 'bias', 'kernel'." in message


def test_a_checkpoint_of_one_model_is_read_where_one_of_two_is_not(tmp_path: Path) -> None:
    tf.train.Checkpoint(a=build(), b=build()).write(str(tmp_path / "two"))
    message = no(BUILD, at("checkpoint", tmp_path / "two")).message
    assert "are the same weight of this one. Give a checkpoint of one model" in message
    tf.train.Checkpoint(a=build()).write(str(tmp_path / "one"))
    assert ask("tensors", "model=keras", BUILD, at("checkpoint", tmp_path / "one")).code == 0


def test_a_file_of_theano_is_read_once_keras_has_turned_its_kernels(tmp_path: Path) -> None:
    """As Keras 2.3.1 on TensorFlow does when it loads the file, and says when it saves it."""
    file = tmp_path / "m.h5"
    model = tf_keras.Sequential([tf_keras.Input((5, 5, 1)), tf_keras.layers.Conv2D(2, 3)])
    model.save(file)
    with h5py.File(file, "a") as opened:
        opened.attrs["backend"] = "theano"
    message = no(at("path", file)).message
    assert "set KERAS_BACKEND=tensorflow, then load_model(FILE).save(NEW)" in message
    with h5py.File(file, "a") as opened:
        opened.attrs["backend"] = "tensorflow"
    assert ask("tensors", "model=keras", at("path", file)).code == 0


def test_averages_are_read_once_they_are_in_place(tmp_path: Path) -> None:
    model = tf_keras.Sequential([tf_keras.Input((4,)), tf_keras.layers.Dense(2, name="top")])
    model.compile(tf_keras.optimizers.SGD(use_ema=True), "mse")
    model.fit(np.ones((8, 4)), np.ones((8, 2)), verbose=0)
    model.save_weights(tmp_path / "m.weights.h5")
    words = (f"{HERE}.top", at("checkpoint", tmp_path / "m.weights.h5"))
    answer = no(*words, "model.moving_averages=true")
    assert "model.optimizer.finalize_variable_values(model.trainable_variables)" in answer.message
    model.optimizer.finalize_variable_values(model.trainable_variables)
    model.save_weights(tmp_path / "m.weights.h5")
    assert ask("tensors", "model=keras", *words).code == 0


def top() -> Any:
    return tf_keras.Sequential([tf_keras.Input((4,)), tf_keras.layers.Dense(2, name="top")])


def test_averages_of_an_inner_optimizer_are_put_in_place_as_the_warning_says(
    tmp_path: Path,
) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="top")])
    inner = keras.optimizers.SGD(use_ema=True, ema_momentum=0.5)
    model.compile(keras.optimizers.LossScaleOptimizer(inner), "mse")
    model.train_on_batch(np.ones((8, 4)), np.ones((8, 2)))
    file = tmp_path / "m.keras"
    model.save(file)
    answer = ask("tensors", "model=keras", at("path", file))
    advised = "model.optimizer.finalize_variable_values(model.trainable_variables), then model.save"
    assert f"To use the averages: save a copy with them in place of the weights: {advised}; " in (
        answer.message
    )
    assert advised in no(at("path", file), "model.moving_averages=true").message
    model.optimizer.finalize_variable_values(model.trainable_variables)
    model.save(file)
    average = np.asarray(inner._model_variables_moving_average[0])
    loaded = keras_file.load(str(file), moving_averages=False).keras_model
    np.testing.assert_array_equal(loaded.get_weights()[0], average)
