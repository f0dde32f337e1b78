"""An architecture from Python and weights from a file: all of them, or an error that names one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from extractkit.core.component import Component
from extractkit.errors import ConfigError, ModelError
from extractkit.models.keras_file import load
from extractkit.models.keras_models import weights
from extractkit.models.keras_models.model import KerasModel
from extractkit.models.keras_models.weights_by_name import ranked
from extractkit.models.weight_files import open_weights
from extractkit.models.weight_files.weight_file import find_scope
from tests.models import keras_factories
from tests.models.keras_factories import Unbuilt, flat, functional, keras_2

UNBUILT_INPUTS = {"x": {"dims": ["sample", 4], "dtype": "float32"}}


def factory(name: str, **arguments: object) -> Component:
    return Component("model.factory", f"{keras_factories.__name__}.{name}", arguments)


def drawn(model: Any) -> list[Any]:
    """Give a model other weights than any initializer does."""
    draw = np.random.default_rng(0)
    model.set_weights([draw.uniform(0.1, 1.0, w.shape) for w in model.get_weights()])
    return list(model.get_weights())


def assert_loaded(loaded: KerasModel, expected: list[Any]) -> None:
    for value, wanted in zip(loaded.keras_model.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(value, wanted)


def by_path(model: keras.Model, file: Path) -> None:
    arrays = {v.path: v.numpy() for v in model.weights}
    safetensors.numpy.save_file(arrays, str(file))


def by_tf1_names(model: keras.Model, file: Path) -> None:
    arrays = {v.path: v.numpy() for v in model.weights}
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for path, array in arrays.items():
            tf.compat.v1.get_variable(path, initializer=array, use_resource=False)
        tf.compat.v1.get_variable("global_step", initializer=np.int64(7))
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, str(file))


WRITERS: dict[str, tuple[str, Callable[[Any, Path], object]]] = {
    "weights.h5": ("w.weights.h5", lambda model, file: model.save_weights(file)),
    "keras": ("w.keras", lambda model, file: model.save(file)),
    "legacy h5": ("w.h5", lambda model, file: model.save(file)),
    "tf2 root": ("ckpt", lambda model, file: tf.train.Checkpoint(model).write(str(file))),
    "tf2 named": ("ckpt", lambda model, file: tf.train.Checkpoint(net=model).write(str(file))),
    "safetensors": ("w.safetensors", by_path),
    "tf1": ("w.ckpt", by_tf1_names),
}


@pytest.mark.parametrize("way", WRITERS)
def test_every_weight_is_loaded(way: str, tmp_path: Path) -> None:
    name, write = WRITERS[way]
    model = functional()
    expected = drawn(model)
    write(model, tmp_path / name)
    loaded = load(factory=factory("functional"), checkpoint=str(tmp_path / name))
    assert_loaded(loaded, expected)


@pytest.mark.parametrize("way", ["weights.h5", "keras", "safetensors"])
def test_a_subclassed_model_is_built_before_weights_are_loaded(way: str, tmp_path: Path) -> None:
    name, write = WRITERS[way]
    model = Unbuilt()
    model(tf.zeros((1, 4)))
    expected = drawn(model)
    write(model, tmp_path / name)
    checkpoint = str(tmp_path / name)
    loaded = load(factory=factory("Unbuilt"), checkpoint=checkpoint, input_axes=UNBUILT_INPUTS)
    assert_loaded(loaded, expected)
    assert [spec.name for spec in loaded.signature.specs] == ["x"]


@pytest.mark.parametrize(
    ("build", "name"),
    [
        ("keras_2", "w.h5"),
        ("keras_2", "w.weights.h5"),  # of a layout that Keras 3 no longer has
        ("keras_2", "ckpt"),
        ("flat", "w.h5"),
        ("flat", "ckpt"),
    ],
)
def test_weights_of_keras_2_go_into_either_keras(build: str, name: str, tmp_path: Path) -> None:
    model = keras_2()
    expected = drawn(model)
    if name == "w.h5":
        model.save_weights(tmp_path / name, save_format="h5")
    else:
        model.save_weights(tmp_path / name)
    assert_loaded(load(factory=factory(build), checkpoint=str(tmp_path / name)), expected)


@pytest.mark.parametrize(
    ("saved", "named"),
    [
        ("w.weights.h5", "w.h5"),
        ("w.weights.h5", "w.hdf5"),
        ("w.h5", "w.weights.h5"),
        ("w.h5", "w.hdf5"),
    ],
)
def test_weights_under_another_ending_are_known_by_their_content(
    saved: str, named: str, tmp_path: Path
) -> None:
    """Keras itself goes by the ending."""
    model = flat()
    expected = drawn(model)
    if saved.endswith(".weights.h5"):
        model.save_weights(tmp_path / saved)
    else:
        model.save(tmp_path / saved)
    (tmp_path / saved).rename(tmp_path / named)
    assert_loaded(load(factory=factory("flat"), checkpoint=str(tmp_path / named)), expected)


def test_a_checkpoint_replaces_the_weights_of_a_file(tmp_path: Path) -> None:
    model = flat()
    model.save(tmp_path / "m.keras")
    expected = drawn(model)
    model.save_weights(tmp_path / "other.weights.h5")
    path, checkpoint = str(tmp_path / "m.keras"), str(tmp_path / "other.weights.h5")
    loaded = load(path, checkpoint=checkpoint)
    assert_loaded(loaded, expected)
    assert loaded.describe()["checkpoint"] == [checkpoint]


def message(checkpoint: Path, **arguments: object) -> str:
    with pytest.raises(ModelError) as caught:
        load(factory=factory("flat", **arguments), checkpoint=str(checkpoint))
    start = f"model.checkpoint={str(checkpoint)!r} does not fit the model: "
    assert str(caught.value).startswith(start)
    return str(caught.value).removeprefix(start)


OTHER_SHAPES = {
    "weights.h5": "'layers/batch_normalization/vars/0' is [6] in the file, [4] in the model",
    "keras": "'layers/batch_normalization/vars/0' is [6] in the file, [4] in the model",
    "legacy h5": "'bidirectional/forward_lstm/lstm_cell/kernel' is [4, 12] in the file, "
    "'bidirectional/kernel' [4, 8] in the model",
    "tf2 root": "is [12] in the file",
    "safetensors": "'batch_normalization/beta' is [6] in the file, 'batch_normalization/beta' [4] "
    "in the model",
    "tf1": "'batch_normalization/beta' is [6] in the file, 'batch_normalization/beta' [4] in the "
    "model",
}


@pytest.mark.parametrize("way", OTHER_SHAPES)
def test_another_architecture_is_reported_by_the_first_weight_that_differs(
    way: str, tmp_path: Path
) -> None:
    name, write = WRITERS[way]
    keras.utils.clear_session()
    write(flat(), tmp_path / name)
    keras.utils.clear_session()
    assert OTHER_SHAPES[way] in message(tmp_path / name, units=2)


@pytest.mark.parametrize("way", WRITERS)
@pytest.mark.parametrize("deeper", ["file", "model"])
def test_nothing_stays_unloaded_on_either_side(way: str, deeper: str, tmp_path: Path) -> None:
    name, write = WRITERS[way]
    write(functional(deeper=deeper == "file"), tmp_path / name)
    architecture = factory("functional", deeper=deeper == "model")
    with pytest.raises(ModelError, match=r"does not fit the model: .*(not in|no counterpart)"):
        load(factory=architecture, checkpoint=str(tmp_path / name))


def test_names_of_another_library_are_not_understood(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    safetensors.numpy.save_file({"bert.encoder.weight": np.ones(3, np.float32)}, str(file))
    assert "of the model is not in the file. Available: 'bert.encoder.weight'." in message(file)


def test_two_models_in_one_checkpoint_are_not_mixed_up(tmp_path: Path) -> None:
    tf.train.Checkpoint(generator=flat(), critic=flat()).write(str(tmp_path / "gan"))
    with pytest.raises(ModelError, match=r"holds more than one model: 'critic/.*'generator/"):
        load(factory=factory("flat"), checkpoint=str(tmp_path / "gan"))


def test_a_corrupted_array_is_reported(tmp_path: Path) -> None:
    model = flat()
    model.save_weights(tmp_path / "w.weights.h5")
    with h5py.File(tmp_path / "w.weights.h5", "a") as file:
        del file["layers/dense/vars/0"]
    assert message(tmp_path / "w.weights.h5") == (
        "'layers/dense/vars/0' [6, 2] of the model is not in the file"
    )


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["dense_4/kernel", "dense_7/kernel"], ["dense-0/kernel-0", "dense-1/kernel-0"]),
        (["dense/kernel", "dense_1/kernel"], ["dense-0/kernel-0", "dense-1/kernel-0"]),
        (["a_10/b_3", "a_9/b_7", "a_9/b_8"], ["a-1/b-0", "a-0/b-0", "a-0/b-1"]),
    ],
)
def test_numbers_of_a_process_become_an_order(paths: list[str], expected: list[str]) -> None:
    assert ranked(paths) == expected


def test_initial_weights_are_drawn_from_the_seed() -> None:
    digests = [
        load(factory=factory(name), input_axes=inputs, seed=seed).weights_digest()
        for name, inputs in (("functional", None), ("Unbuilt", UNBUILT_INPUTS))
        for seed in (0, 0, 1)
    ]
    assert digests[0] == digests[1] != digests[2]
    assert digests[3] == digests[4] != digests[5]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (
            {"factory": factory("nothing")},
            ModelError,
            "model.factory._target_='tests.models.keras_factories.nothing' returns a object, not a "
            "Keras model or layer. Anything else is for model=module",
        ),
        (
            {"factory": factory("failing")},
            ModelError,
            "model.factory._target_='tests.models.keras_factories.failing' failed: RuntimeError: "
            "out of ideas",
        ),
        (
            {"factory": factory("flat", unit=3)},
            ConfigError,
            "model.factory.unit does not exist. Available: 'units'.",
        ),
        (
            {},
            ConfigError,
            "model=keras is given neither a file nor a factory. Give one: model.path=FILE, or "
            "model.factory._target_=package.module.build",
        ),
        (
            {"path": "m.keras", "factory": factory("flat")},
            ConfigError,
            "model=keras is given both a file and a factory. Give one: model.path=FILE, or "
            "model.factory._target_=package.module.build",
        ),
        (
            {"factory": "flat"},
            ConfigError,
            "model.factory='flat' is not a callable. Give one: "
            "model.factory._target_=package.module.build",
        ),
        (
            {"factory": factory("flat"), "seed": -1},
            ConfigError,
            "model.seed=-1 is not a whole number from 0 to 4294967295",
        ),
        (
            {
                "factory": factory("Unbuilt"),
                "input_axes": {"x": {"dims": ["sample", 4], "dtype": "flot32"}},
            },
            ConfigError,
            "model.input_axes.x.dtype='flot32' is not a type. Nearest: 'float32', 'float16', "
            "'float64'.",
        ),
        (
            {"factory": factory("flat"), "input_axes": {"idz": None}},
            ConfigError,
            "model.input_axes: 'idz' is not an input. Available: 'ids'.",
        ),
    ],
)
def test_settings_that_do_not_fit(arguments: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        load(**arguments)
    assert str(caught.value) == text


def headed(prefix: str, head: bool, units: int = 3) -> Any:
    """A Keras 2 model whose weights' paths begin with its own name, as those of transformers do."""
    tf_keras = pytest.importorskip("tf_keras")

    class Body(tf_keras.layers.Layer):  # type: ignore[misc]
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            self.first = tf_keras.layers.Dense(units, name="first")
            self.second = tf_keras.layers.Dense(2, name="second")

        def call(self, x: Any) -> Any:
            return self.second(self.first(x))

    class Headed(tf_keras.Model):  # type: ignore[misc]
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            self.body = Body(name="body")
            self.head = tf_keras.layers.Dense(5, name="head") if head else None

        def call(self, x: Any) -> Any:
            return self.head(self.body(x)) if self.head else self.body(x)

    model = Headed(name=prefix)
    model(tf.zeros([1, 4]))
    draw = np.random.default_rng(len(prefix))
    model.set_weights([draw.uniform(0.1, 1.0, w.shape) for w in model.get_weights()])
    return model


def as_h5(model: Any, file: Path) -> None:
    model.save_weights(str(file))


def as_safetensors(model: Any, file: Path) -> None:
    """The model's own name is left out, as transformers does."""
    arrays = {v.name.partition("/")[2]: v.numpy() for v in model.weights}
    safetensors.numpy.save_file(arrays, str(file))


@pytest.mark.parametrize(("write", "name"), [(as_h5, "w.h5"), (as_safetensors, "w.safetensors")])
def test_weights_of_another_head_are_found_by_their_scope(
    write: Callable[[Any, Path], None], name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved, plain = headed("with_head", head=True), headed("plain", head=False)
    write(saved, tmp_path / name)
    with caplog.at_level("INFO"):
        weights.load_weights(plain, open_weights(str(tmp_path / name), "model.checkpoint"))
    for value, wanted in zip(plain.get_weights(), saved.body.get_weights(), strict=True):
        np.testing.assert_array_equal(value, wanted)
    assert "the model has no counterpart of" in caplog.text
    assert caplog.text.count("head/kernel:0") == 1


def plain() -> Any:
    return headed("plain", head=False)


@pytest.mark.parametrize(
    ("head", "loaded_by"), [(True, weights.BY_NAME), (False, weights.BY_KERAS)]
)
def test_what_loads_the_weights_again_is_recorded(
    head: bool, loaded_by: str, tmp_path: Path
) -> None:
    """Keras alone cannot read the weights of a model with another head."""
    as_h5(headed("plain", head=head), tmp_path / "w.h5")
    built = Component("model.factory", f"{__name__}.plain", {})
    model = load(factory=built, checkpoint=str(tmp_path / "w.h5"), input_axes=UNBUILT_INPUTS)
    assert model.own_call().loaded_by == f"{__name__}.plain and {loaded_by}"


@pytest.mark.parametrize(("write", "name"), [(as_h5, "w.h5"), (as_safetensors, "w.safetensors")])
@pytest.mark.parametrize("wrong", ["no head", "another width"])
def test_no_scope_is_taken_that_does_not_hold_all(
    write: Callable[[Any, Path], None], name: str, wrong: str, tmp_path: Path
) -> None:
    write(headed("with_head", head=wrong != "no head"), tmp_path / name)
    model = headed("other", head=wrong == "no head", units=3 if wrong == "no head" else 7)
    before = model.get_weights()
    with pytest.raises(ModelError, match="does not fit the model: "):
        weights.load_weights(model, open_weights(str(tmp_path / name), "model.checkpoint"))
    for value, wanted in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, wanted)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["m/a/k", "m/a/b"], (["m/a/k", "m/a/b"], [])),
        (["a/k", "a/b"], (["a/k", "a/b"], [])),
        (["n/a/k", "n/a/b", "n/head/k"], (["n/a/k", "n/a/b"], ["n/head/k"])),
        (["x/n/a/k", "x/n/a/b", "y/c"], (["x/n/a/k", "x/n/a/b"], ["y/c"])),
        # Something more in the scope is another architecture.
        (["n/a/k", "n/a/b", "n/a/c"], None),
        (["n/a/k"], None),
        (["na/k", "na/b"], None),
        ([], None),
    ],
)
def test_a_scope_holds_all_weights_and_nothing_else(
    names: list[str], found: tuple[list[str], list[str]] | None
) -> None:
    own = ["m/a/k", "m/a/b"]
    scope = find_scope(own, {name: name for name in names}, "model.checkpoint='x'", droppable=1)
    assert (scope and (list(scope.keys), list(scope.outside))) == found


def test_the_name_of_a_layer_is_not_left_out() -> None:
    file = ["decoder/dense/k", "decoder/dense/b", "norm/g"]
    own = ["encoder/dense/k", "encoder/dense/b"]
    names = {name: name for name in file}
    assert find_scope(own, names, "model.checkpoint='x'", droppable=0) is None
    assert find_scope(own, names, "model.checkpoint='x'", droppable=1) is not None


def test_two_scopes_that_fit_are_not_mixed_up() -> None:
    names = ["teacher/a/k", "student/a/k"]
    with pytest.raises(ModelError) as caught:
        find_scope(["m/a/k"], {n: n for n in names}, "model.checkpoint='x'", droppable=1)
    assert str(caught.value) == (
        "model.checkpoint='x' holds the weights of the model more than once: under 'teacher/a/' "
        "and 'student/a/'. Give a file with one of them"
    )
