"""Whole models given as weights: their layers have to be those of the model."""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from extractkit.core.component import Component
from extractkit.errors import ModelError
from extractkit.inputs.in_memory import LiveArrays
from extractkit.models import keras_file
from tests.engine.examples import executed, job

tf_keras = pytest.importorskip("tf_keras")

CITIES = np.array([["rome"], ["oslo"], ["lima"], ["bern"]], object)
ORDERS = (["rome", "rome", "oslo"], ["oslo", "lima", "lima"])

Build = Callable[[Any, int], Any]


def lookup(package: Any, which: int, name: str | None = None) -> Any:
    """Return a model with a vocabulary that it has adapted to."""
    return _adapted(package.layers.StringLookup(name=name), np.array(ORDERS[which])[:, None])


def texts(package: Any, which: int) -> Any:
    layer = package.layers.TextVectorization(output_sequence_length=1)
    return _adapted(layer, np.array(ORDERS[which])[:, None])


def _adapted(layer: Any, data: Any) -> Any:
    layer.adapt(data)
    given = keras.Input((1,), dtype="string")
    return keras.Model(given, keras.layers.Embedding(5, 3)(layer(given)))


def lookup_of_a_factory() -> Any:
    return lookup(keras, 0)


def activation_of_a_factory() -> Any:
    return activation(keras, 0)


def given_words(package: Any, which: int) -> Any:
    """Return a model with a vocabulary that its configuration holds."""
    words = [["rome", "oslo"], ["bern", "lima"]][which]
    given = package.Input((1,), dtype="string")
    numbers = package.layers.StringLookup(vocabulary=words)(given)
    return package.Model(given, package.layers.Embedding(5, 3)(numbers))


def boundaries(package: Any, which: int) -> Any:
    layer = package.layers.Discretization(bin_boundaries=[(0.5, 2.0), (1.5, 3.0)][which])
    given = package.Input((1,))
    return package.Model(given, package.layers.Embedding(5, 3)(layer(given)))


def given_mean(package: Any, which: int) -> Any:
    layer = package.layers.Normalization(mean=[1.0, 2.0][which], variance=4.0)
    return _dense(package, layer)


def activation(package: Any, which: int) -> Any:
    return _dense(package, package.layers.Dense(4, ["relu", "tanh"][which]))


def kind(package: Any, which: int) -> Any:
    return _dense(package, [package.layers.ReLU(), package.layers.Softmax()][which])


def _dense(package: Any, layer: Any) -> Any:
    given = package.Input((1,))
    return package.Model(given, package.layers.Dense(2)(layer(given)))


def _saved(folder: Path, build: Build, package: Any, ending: str, which: list[int]) -> list[str]:
    paths = [str(folder / f"{place}{ending}") for place in range(len(which))]
    for path, one in zip(paths, which, strict=True):
        with warnings.catch_warnings(action="ignore"):  # Keras 2 advises against HDF5
            build(package, one).save(path)
    return paths


@pytest.mark.parametrize(
    ("build", "package", "ending", "reported"),
    [
        (lookup, keras, ".keras", "vocabulary[1] is 'lima' in the file, 'rome' in the model"),
        (texts, keras, ".keras", "is 'lima' in the file, 'rome' in the model"),
        (
            given_words,
            keras,
            ".h5",
            "vocabulary is ['bern', 'lima'] in the file, ['rome', 'oslo'] in the model",
        ),
        (boundaries, keras, ".keras", "bin_boundaries is [1.5, 3.0] in the file, [0.5, 2.0]"),
        (boundaries, tf_keras, ".h5", "bin_boundaries is [1.5, 3.0] in the file, [0.5, 2.0]"),
        (given_mean, keras, ".h5", "mean is 2.0 in the file, 1.0 in the model"),
        (activation, tf_keras, ".h5", "activation is 'tanh' in the file, 'relu' in the model"),
        (kind, keras, ".keras", "0 layers ReLU in the file, 1 in the model; 1 layers Softmax"),
    ],
)
def test_whole_models_of_other_layers_are_refused(
    tmp_path: Path, build: Build, package: Any, ending: str, reported: str
) -> None:
    first, other = _saved(tmp_path, build, package, ending, [0, 1])
    with pytest.raises(ModelError) as one:
        keras_file.load(first, checkpoint=other)
    assert reported in str(one.value)
    assert f"without model.checkpoint: model.path={other}. " in str(one.value)
    model = keras_file.load(first, checkpoints=[first, other])
    assert model.checkpoints is not None
    with pytest.raises(ModelError) as several:
        model.checkpoints.choose("fail")
    assert reported in str(several.value)
    assert f"without model.checkpoints: -m model.path={first},{other}. " in str(several.value)
    model.checkpoints.choose("skip")
    assert [one.path for one in model.checkpoints.checkpoints] == [first]


def test_the_same_layers_under_other_names_are_loaded(tmp_path: Path) -> None:
    paths = _saved(tmp_path, lookup, keras, ".keras", [0, 0])
    live = [keras.models.load_model(path) for path in paths]
    assert live[0].layers[2].name != live[1].layers[2].name
    model = keras_file.load(paths[0], checkpoints=paths)
    wanted = job({"path": ":output"}, model=model, inputs=LiveArrays(CITIES))
    run = executed(tmp_path / "run", wanted)
    expected = [
        one.predict(keras.ops.convert_to_tensor(CITIES.tolist()), verbose=0) for one in live
    ]
    np.testing.assert_allclose(np.asarray(run[":output"]), expected, rtol=1e-6)
    assert not np.allclose(*expected)


def test_the_code_of_a_factory_chooses_settings_but_no_vocabulary(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words, settings = tmp_path / "words.keras", tmp_path / "settings.keras"
    lookup(keras, 1).save(words)
    with pytest.raises(ModelError, match=r"differ from those of the model: 'string_lookup.*lima"):
        keras_file.load(
            factory=Component("model.factory", f"{__name__}.lookup_of_a_factory"),
            checkpoint=str(words),
        )
    activation(keras, 1).save(settings)
    with caplog.at_level(logging.WARNING):
        keras_file.load(
            factory=Component("model.factory", f"{__name__}.activation_of_a_factory"),
            checkpoint=str(settings),
        )
    assert "activation is 'tanh' in the file, 'relu' in the model" in caplog.text


def test_vocabularies_in_files_are_compared_by_content(tmp_path: Path) -> None:
    saved = {}
    for name, words in (
        ("one", "rome\noslo\n"),
        ("same", "rome\r\noslo"),
        ("other", "oslo\nrome\n"),
    ):
        listed = tmp_path / f"{name}.txt"
        listed.write_bytes(words.encode())
        saved[name] = _of_vocabulary(tmp_path / f"{name}.h5", str(listed))
    saved["typed"] = _of_vocabulary(tmp_path / "typed.h5", ["rome", "oslo"])
    for same in ("same", "typed"):
        keras_file.load(saved["one"], checkpoint=saved[same])
    with pytest.raises(ModelError) as error:
        keras_file.load(saved["one"], checkpoint=saved["other"])
    assert "'lookup' vocabulary is " in str(error.value)
    (tmp_path / "other.txt").unlink()
    with pytest.raises(ModelError, match="'lookup' vocabulary is "):
        keras_file.load(saved["one"], checkpoint=saved["other"])


def _of_vocabulary(path: Path, vocabulary: object) -> str:
    layer = tf_keras.layers.StringLookup(vocabulary=vocabulary, name="lookup")
    given = tf_keras.Input((1,), dtype="string")
    model = tf_keras.Model(given, tf_keras.layers.Embedding(5, 3, name="embed")(layer(given)))
    with warnings.catch_warnings(action="ignore"):  # Keras 2 advises against HDF5
        model.save(path)
    return str(path)


def test_a_factorys_model_is_described_once_for_all_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = _saved(tmp_path, lookup, keras, ".keras", [0, 0, 0])
    described = []
    original = keras.Model.save

    def counted(model: Any, *args: Any, **kwargs: Any) -> None:
        described.append(model)
        original(model, *args, **kwargs)

    monkeypatch.setattr(keras.Model, "save", counted)
    model = keras_file.load(
        factory=Component("model.factory", f"{__name__}.lookup_of_a_factory"), checkpoints=paths
    )
    assert model.checkpoints is not None
    model.checkpoints.choose("fail")
    assert len(described) == 1


def test_the_code_of_a_lambda_of_keras_2_is_not_compared(tmp_path: Path) -> None:
    built: dict[str, Any] = {}
    for name, source in (("one", "lambda x: x + 1"), ("two", "\n\nlambda x: x + 1")):
        k = tf_keras
        x = k.Input((2,))
        layer = k.layers.Lambda(eval(source.strip(), {}), name="shift")
        built[name] = k.Model(x, k.layers.Dense(2, name="head")(layer(x)))
        with pytest.warns(UserWarning, match="legacy"):
            built[name].save(tmp_path / f"{name}.h5")
    read = keras_file.load(
        str(tmp_path / "one.h5"), checkpoint=str(tmp_path / "two.h5"), safe_mode=False
    )
    np.testing.assert_array_equal(read.keras_model(np.ones((1, 2))), built["two"](np.ones((1, 2))))


def test_settings_of_training_do_not_count(tmp_path: Path) -> None:
    def net(augmented: bool) -> keras.Model:
        layers = [keras.Input((8, 8, 3))]
        if augmented:
            layers.append(keras.layers.RandomHue(0.1, name="hue"))
        return keras.Sequential(
            [
                *layers,
                keras.layers.BatchNormalization(synchronized=augmented, name="norm"),
                keras.layers.Conv2D(2, 3, name="conv"),
            ]
        )

    net(False).save(tmp_path / "plain.keras")
    trained = net(True)
    trained.save(tmp_path / "trained.keras")
    read = keras_file.load(
        str(tmp_path / "plain.keras"), checkpoint=str(tmp_path / "trained.keras")
    )
    x = np.random.default_rng(0).uniform(size=(1, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(read.keras_model(x), trained.predict(x, verbose=0), rtol=1e-6)
