"""Code that files ask for: named in the configuration, or refused."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from extractkit.errors import ConfigError, ModelError
from extractkit.models.keras_file import load
from tests.models import keras_factories
from tests.models.keras_factories import Unregistered
from tests.models.programs import values_of
from tests.models.zoo import drawn


def saved(layer: Any, file: Path) -> keras.Model:
    x = keras.Input((4,))
    model = keras.Model(x, layer(layers.Dense(3)(x)))
    model.save(file)
    return model


def assert_same(path: Path, live: keras.Model, **settings: Any) -> None:
    model = load(str(path), **settings)
    batch = drawn(model.signature, 3, 0)
    found = values_of(model, [":output"], batch)[":output"]
    np.testing.assert_allclose(found, live(batch["input"]), atol=1e-6)


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
def test_custom_objects_are_imported(name: str, tmp_path: Path) -> None:
    live = saved(Unregistered(), tmp_path / name)
    target = f"{keras_factories.__name__}.Unregistered"
    assert_same(tmp_path / name, live, custom_objects={"Unregistered": target})


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
def test_code_in_a_file_runs_where_the_user_says_so(name: str, tmp_path: Path) -> None:
    live = saved(layers.Lambda(lambda v: v * 2, name="twice"), tmp_path / name)
    assert_same(tmp_path / name, live, safe_mode=False)


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (
            "nowhere.Unregistered",
            "model.custom_objects.Unregistered='nowhere.Unregistered' cannot be imported: No "
            "module named 'nowhere'. Give the dotted path of a class or function, as in "
            "package.module.Unregistered",
        ),
        (
            "keras.layers.Densee",
            "model.custom_objects.Unregistered='keras.layers.Densee' cannot be imported: module "
            "'keras.layers' has no attribute 'Densee'. Give the dotted path of a class or "
            "function, as in package.module.Unregistered",
        ),
        (
            3,
            "model.custom_objects.Unregistered=3 is not a dotted path, as in "
            "package.module.Unregistered",
        ),
    ],
)
def test_a_custom_object_that_is_not_there(target: object, text: str, tmp_path: Path) -> None:
    saved(Unregistered(), tmp_path / "m.keras")
    with pytest.raises(ConfigError) as caught:
        load(str(tmp_path / "m.keras"), custom_objects={"Unregistered": target})
    assert str(caught.value) == text


def test_a_custom_object_of_another_kind(tmp_path: Path) -> None:
    saved(Unregistered(), tmp_path / "m.keras")
    with pytest.raises(ModelError, match=r"cannot be loaded by Keras|needs 'Unregistered'"):
        load(str(tmp_path / "m.keras"), custom_objects={"Unregistered": "math.prod"})


def test_operations_of_keras_are_read_from_hdf5(tmp_path: Path) -> None:
    x = keras.Input((3, 2), name="input")
    live = keras.Model(x, keras.ops.mean(layers.Dense(2)(x[:, :, 0]), axis=1) * 2.0 + 1.0)
    file = tmp_path / "sliced.h5"
    live.save(file)
    assert_same(file, live)
