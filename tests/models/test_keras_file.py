"""Models saved by Keras: the values of the live model, or one clear message."""

import random
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from extractkit.core.catalog import Kind
from extractkit.core.component import Component
from extractkit.errors import ConfigError, ModelError
from extractkit.models import keras_file
from extractkit.models.keras_file import load
from tests.models.keras_factories import Unregistered
from tests.models.programs import values_of
from tests.models.zoo import MODELS, drawn
from tests.models.zoo_layers import Subclassed

FACTORY = Component("model.factory", "tests.models.keras_factories.one_layer")


def subclassed() -> keras.Model:
    model = Subclassed()
    model.build((None, 4))
    return model


def saved(model: keras.Model, file: Path) -> Path:
    model.save(file)
    return file


def small(file: Path) -> Path:
    return saved(keras.Sequential([keras.Input((4,)), layers.Dense(50, name="dense")]), file)


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (MODELS["sequential"], "m.keras"),
        (MODELS["sequential"], "m.h5"),
        (MODELS["sequential"], "m.hdf5"),
        (MODELS["shared_and_nested"], "m.keras"),
        (MODELS["shared_and_nested"], "m.h5"),
        (MODELS["attention"], "m.keras"),
        (subclassed, "m.keras"),
    ],
)
def test_a_saved_model_gives_what_the_live_one_gives(
    build: Callable[[], keras.Model], name: str, tmp_path: Path
) -> None:
    live = build()
    file = saved(live, tmp_path / name)
    model = load(str(file))
    batch = drawn(model.signature, 3, 5)
    outputs = [r.address for r in model.catalog.records if r.kind is Kind.MODEL_OUTPUT]
    found = values_of(model, outputs, batch)
    arrays = [*batch.values()]
    wanted = live([tf.constant(a) for a in arrays] if len(arrays) > 1 else tf.constant(arrays[0]))
    for value, expected in zip(found.values(), keras.tree.flatten(wanted), strict=True):
        np.testing.assert_allclose(value, expected, atol=1e-6)
    assert model.describe()["path"] == str(file)


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
def test_a_model_without_weights_is_a_model(name: str, tmp_path: Path) -> None:
    live = keras.Sequential([keras.Input((3,)), layers.Reshape((3, 1), name="column")])
    model = load(str(saved(live, tmp_path / name)))
    assert not [r for r in model.catalog.records if r.kind is Kind.WEIGHT]
    batch = drawn(model.signature, 2, 3)
    (value,) = values_of(model, ["column:output"], batch).values()
    np.testing.assert_array_equal(value, next(iter(batch.values()))[..., np.newaxis])


def message(file: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load(str(file))
    return str(caught.value)


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    for name in ("one.keras", "two.h5", "notes.txt"):
        (tmp_path / name).touch()
    file = tmp_path / "on.keras"
    assert message(file) == (
        f"model.path={str(file)!r} does not exist. Models in {str(tmp_path)!r}: "
        f"Available: 'one.keras', 'two.h5'."
    )


def test_a_seed_that_is_none_is_refused_though_a_file_needs_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.seed='abc' is not a whole number"):
        load(str(small(tmp_path / "m.keras")), seed="abc")  # type: ignore[arg-type]


def test_what_a_factory_prints_is_not_kept_from_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    inside: list[bool] = []
    quiet = [False]

    @contextmanager
    def quiet_start() -> Iterator[None]:
        quiet[0] = True
        yield
        quiet[0] = False

    def built(component: Component) -> keras.Model:
        inside.append(quiet[0])
        return keras.Sequential([keras.Input((4,)), layers.Dense(2)])

    monkeypatch.setattr(keras_file, "quiet_start", quiet_start)
    monkeypatch.setattr(Component, "instantiate", built)
    load(factory=FACTORY)
    assert inside == [False]


def test_a_directory_is_refused(tmp_path: Path) -> None:
    assert message(tmp_path) == (
        f"model.path={str(tmp_path)!r} is a folder; model=keras takes a file, or a folder that "
        f"Keras 2 saved, with saved_model.pb and keras_metadata.pb in it. It is empty."
    )


def test_another_ending_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.pb"
    file.write_bytes(b"?")
    assert message(file) == (
        f"model.path={str(file)!r} is not a model of Keras, and its format is unknown: "
        f"'model.pb' begins with b'?'"
    )


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.95])
@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
def test_a_truncated_file_is_damaged(name: str, kept: float, tmp_path: Path) -> None:
    file = small(tmp_path / name)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * kept)])
    text = message(file).removeprefix(f"model.path={str(file)!r} ")
    if not kept:
        assert text == "is an empty file. Copy it again"
    elif name == "m.keras":
        assert text == "is a zip archive that is cut off or damaged. Copy it again"
    else:
        assert text.startswith("is damaged, or not whole: OSError: ")


def test_flipped_bits_in_a_keras_file_are_found(tmp_path: Path) -> None:
    file = small(tmp_path / "m.keras")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    assert message(file) == (
        f"model.path={str(file)!r} is damaged, or not whole: BadZipFile: Bad CRC-32 for file "
        f"'model.weights.h5'"
    )


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "m.keras"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("notes.txt", "hello")
    assert message(file) == (
        f"model.path={str(file)!r} is a zip archive without config.json, so it is not a "
        f".keras file. Available: 'notes.txt'."
    )


def test_an_archive_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "m.keras"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", b" " * (64 << 20))
    assert re.fullmatch(
        r"model\.path='.*' is refused: 'config\.json' in it grows from \d+ to 67108864 bytes",
        message(file),
    )


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
def test_a_weight_larger_than_the_file_takes_no_memory(name: str, tmp_path: Path) -> None:
    file = small(tmp_path / name)
    if name == "m.h5":
        with h5py.File(file, "a") as opened:
            config = opened.attrs["model_config"]
            opened.attrs["model_config"] = config.replace('"units": 50', '"units": 50000000000')
    else:
        with zipfile.ZipFile(file) as archive:
            parts = {part: archive.read(part) for part in archive.namelist()}
        parts["config.json"] = parts["config.json"].replace(b'"units": 50', b'"units": 50000000000')
        with zipfile.ZipFile(file, "w") as archive:
            for part, content in parts.items():
                archive.writestr(part, content)
    assert message(file) == (
        f"model.path={str(file)!r}: layer 'dense' has a weight of shape "
        f"(4, 50000000000), larger than all that is stored. The file is damaged, or the layer does "
        f"not save that weight. If so, load the model in Python: "
        f"model.factory._target_=package.module.function in place of model.path"
    )


@pytest.mark.parametrize("name", ["m.weights.h5", "m.h5"])
def test_weights_without_an_architecture_are_refused(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    if name == "m.h5":
        with h5py.File(file, "w") as opened:
            opened["kernel"] = np.ones(3)
    else:
        keras.Sequential([keras.Input((4,)), layers.Dense(2)]).save_weights(file)
    assert message(file) == (
        f"model.path={str(file)!r} holds weights alone, without the architecture. In place of "
        f"model.path give a callable that builds it: model.checkpoint={file} "
        f"model.factory._target_=package.module.build"
    )


def test_a_file_with_nothing_in_it_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "m.h5"
    h5py.File(file, "w").close()
    assert message(file) == (
        f"model.path={str(file)!r} is an HDF5 file with neither an architecture nor weights in it"
    )


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
def test_a_lambda_without_weights_is_refused_and_named(name: str, tmp_path: Path) -> None:
    lone = keras.Sequential([keras.Input((4,)), layers.Lambda(lambda v: v * 2, name="twice")])
    assert message(saved(lone, tmp_path / name)).endswith(
        "is refused: layer 'twice' holds Python code, which loading the file would run. If you "
        "trust it: model.safe_mode=false"
    )


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
def test_a_lambda_is_refused_and_named(name: str, tmp_path: Path) -> None:
    x = keras.Input((4,))
    inner = keras.Sequential([keras.Input((4,)), layers.Lambda(lambda v: v * 2, name="twice")])
    file = saved(keras.Model(x, inner(layers.Dense(4)(x))), tmp_path / name)
    assert message(file) == (
        f"model.path={str(file)!r} is refused: layer 'twice' holds Python code, which loading the "
        f"file would run. If you trust it: model.safe_mode=false"
    )


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
def test_an_unknown_class_is_named(name: str, tmp_path: Path) -> None:
    x = keras.Input((4,))
    file = saved(keras.Model(x, Unregistered()(layers.Dense(2)(x))), tmp_path / name)
    assert message(file) == (
        f"model.path={str(file)!r} needs 'Unregistered', which Keras does not know by itself. "
        f"Give its path: model.custom_objects.Unregistered=package.module.Unregistered"
    )


def test_a_home_directory_may_be_abbreviated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    small(tmp_path / "m.keras")
    assert load("~/m.keras").describe()["path"] == str(tmp_path / "m.keras")


def test_a_file_may_be_moved_once_it_is_loaded(tmp_path: Path) -> None:
    file = small(tmp_path / "m.keras")
    model = load(str(file))
    shutil.rmtree(tmp_path)
    batch = drawn(model.signature, 2, 0)
    assert values_of(model, ["dense:output"], batch)["dense:output"].shape == (2, 50)


@pytest.mark.parametrize("name", ["m.keras", "m.h5", "m.weights.h5"])
@pytest.mark.parametrize("seed", range(14))
def test_damage_of_any_kind_is_one_message_or_nothing(seed: int, name: str, tmp_path: Path) -> None:
    """HDF5 has no checksums: a flipped bit of a value is a value."""
    file = tmp_path / name
    live = keras.Sequential([keras.Input((4,)), layers.Dense(5)])
    live.save_weights(file) if name == "m.weights.h5" else live.save(file)
    content, draw = bytearray(file.read_bytes()), random.Random(seed)
    for _ in range(draw.choice([1, 4, 16])):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    if draw.random() < 0.2:
        del content[draw.randrange(len(content)) :]
    file.write_bytes(content)
    weights = name == "m.weights.h5"
    arguments: Any = (
        {"factory": FACTORY, "checkpoint": str(file)} if weights else {"path": str(file)}
    )
    with suppress(ModelError):
        load(**arguments).weights_digest()
