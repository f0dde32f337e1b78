"""Which format a file is, and what in a directory is meant; everything else is one message."""

import importlib.util
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from extractkit.errors import JobError, MissingExtraError, ModelError, UnknownTensorError
from extractkit.models.weight_files import open_weights
from tests.models.weight_files import examples

READ = (
    "Weights are read from TensorFlow checkpoints (their prefix or folder), .h5, .hdf5, .keras "
    "and .safetensors files, and the model.json of TensorFlow.js"
)


def message(path: Path | str) -> str:
    with pytest.raises(ModelError) as caught:
        open_weights(str(path))
    text = str(caught.value)
    at = f"model.path={str(path)!r}"
    assert text.startswith(at)
    return text.removeprefix(at)


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.h5", "model.ckpt-1.index", "notes.txt"):
        (tmp_path / name).touch()
    assert message(tmp_path / "c.h5") == (
        f" does not exist. Weights in {str(tmp_path)!r}: "
        f"Available: 'a.safetensors', 'b.h5', 'model.ckpt-1'."
    )
    assert message(tmp_path / "no" / "c.h5") == (
        f" does not exist: there is no folder {str(tmp_path / 'no')!r}. Folders in "
        f"{str(tmp_path)!r}: There is none."
    )


def test_a_directory_without_weights(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    assert message(tmp_path) == f" is a folder without weights. It holds 'notes.txt'. {READ}"


def test_a_directory_with_several_files_names_them(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.h5", "model.ckpt-1.index"):
        (tmp_path / name).touch()
    assert message(tmp_path) == (
        f" is a folder with 3 files of weights. Available: 'a.safetensors', 'b.h5', "
        f"'model.ckpt-1'. Give one: model.path={tmp_path}/a.safetensors"
    )


@pytest.mark.parametrize("name", ["m.txt", "m.pb", "m"])
@pytest.mark.parametrize("content", [b"", b"hello, this is text\n", bytes(100)])
def test_something_else(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    begin = content[:12]
    unknown = (
        f" is not a file of weights, and its format is unknown: {name!r} begins with {begin!r}"
    )
    assert message(tmp_path / name) == (unknown if content else " is an empty file. Copy it again")


@pytest.mark.parametrize(
    ("name", "reported"),
    [
        (
            "m.h5",
            " is not an HDF5 file, and its format is unknown: 'm.h5' begins with b'hello, this '",
        ),
        (
            "m.keras",
            " is not a .keras file, and its format is unknown: 'm.keras' begins with "
            "b'hello, this '",
        ),
        (
            "m.safetensors",
            " is not a file of weights, and its format is unknown: 'm.safetensors' begins with "
            "b'hello, this '",
        ),
        (
            "m.safetensors.index.json",
            " is damaged, or not whole: JSONDecodeError: Expecting value: line 1 column 1 (char 0)",
        ),
    ],
)
def test_text_under_another_name(tmp_path: Path, name: str, reported: str) -> None:
    (tmp_path / name).write_text("hello, this is text\n", encoding="utf-8")
    assert message(tmp_path / name) == reported


def test_hdf5_without_weights(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.h5", "w") as opened:
        opened.create_group("layers")
    assert message(tmp_path / "m.h5") == " is an HDF5 file that holds no weights"


@pytest.mark.parametrize("name", ["m.h5", "m.keras"])
def test_a_whole_model_without_weights_has_none_to_list(name: str, tmp_path: Path) -> None:
    keras.Sequential([keras.Input((3,)), keras.layers.Flatten()]).save(tmp_path / name)
    assert message(tmp_path / name) == " is an HDF5 file that holds no weights"


def test_an_archive_without_weights(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    assert message(tmp_path / "m.keras") == (
        " holds no model.weights.h5. Available: 'config.json'."
    )


def test_a_truncated_hdf5_file(tmp_path: Path) -> None:
    examples.legacy_hdf5(tmp_path / "m.h5")
    content = (tmp_path / "m.h5").read_bytes()
    (tmp_path / "m.h5").write_bytes(content[: len(content) // 2])
    assert message(tmp_path / "m.h5").startswith(
        " is damaged, or not whole: OSError: Unable to synchronously open file (truncated file"
    )


def test_a_truncated_archive(tmp_path: Path) -> None:
    examples.trained_model().save(tmp_path / "m.keras")
    content = (tmp_path / "m.keras").read_bytes()
    (tmp_path / "m.keras").write_bytes(content[: len(content) // 2])
    assert message(tmp_path / "m.keras") == (
        " is a zip archive that is cut off or damaged. Copy it again"
    )


def test_a_truncated_safetensors_file(tmp_path: Path) -> None:
    examples.safetensors(tmp_path / "m.safetensors")
    content = (tmp_path / "m.safetensors").read_bytes()
    (tmp_path / "m.safetensors").write_bytes(content[:-1])
    assert message(tmp_path / "m.safetensors") == (
        " (m.safetensors) is damaged, or not whole: SafetensorError: Error while deserializing "
        "header: incomplete metadata, file not fully covered"
    )


def test_a_missing_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples.safetensors(tmp_path / "m.safetensors")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as caught:
        open_weights(str(tmp_path / "m.safetensors"))
    assert str(caught.value) == (
        f"model.path={str(tmp_path / 'm.safetensors')!r} needs safetensors, which is not "
        f"installed. Install it: python -m pip install 'extractkit[safetensors]'"
    )


def test_a_key_of_configuration_of_ones_own_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^model\.checkpoint='/nowhere/x' does not exist"):
        open_weights("/nowhere/x", key="model.checkpoint")


def test_an_unknown_key_and_a_file_that_changed(tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    examples.safetensors(file)
    weights = open_weights(str(file))
    assert "scale" in weights
    assert len(weights) == len(list(weights)) == 6
    with pytest.raises(UnknownTensorError) as caught:
        weights.entry("scal")
    assert str(caught.value) == (
        f"{str(file)!r} holds no 'scal'. Available: 'empty', 'encoder.layer.0.query.bias', "
        f"'encoder.layer.0.query.weight', 'encoder.layer.10.query.bias', "
        f"'encoder.layer.2.query.bias', 'scale'."
    )
    with file.open("ab") as opened:
        opened.write(b"\0")
    with pytest.raises(JobError, match="changed while the job ran"):
        weights.read("scale")


def test_keys_come_in_natural_order(tmp_path: Path) -> None:
    examples.safetensors(tmp_path / "m.safetensors")
    assert open_weights(str(tmp_path / "m.safetensors")).keys() == (
        "empty",
        "encoder.layer.0.query.bias",
        "encoder.layer.0.query.weight",
        "encoder.layer.2.query.bias",
        "encoder.layer.10.query.bias",
        "scale",
    )


def test_hdf5_and_safetensors_need_no_tensorflow(tmp_path: Path) -> None:
    examples.safetensors(tmp_path / "m.safetensors")
    examples.legacy_hdf5(tmp_path / "m.h5")
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "m.keras")
    names = ["m.safetensors", "m.h5", "m.keras"]
    code = (
        "import sys\n"
        "from extractkit.models.checkpoint import load\n"
        f"for name in {names}: load({str(tmp_path)!r} + '/' + name).weights_digest()\n"
        "sys.exit(bool({'tensorflow', 'keras'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_sharded_index_in_a_directory_comes_before_its_parts(tmp_path: Path) -> None:
    arrays = examples.named_arrays()
    shards = {key: f"model-{number % 2}.safetensors" for number, key in enumerate(arrays)}
    for name in set(shards.values()):
        part = {key: arrays[key] for key, shard in shards.items() if shard == name}
        examples.save_file(part, tmp_path / name)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": shards}), encoding="utf-8")
    weights = open_weights(str(tmp_path))
    assert set(weights) == set(arrays)
    for key, array in arrays.items():
        np.testing.assert_array_equal(weights.read(key), array, strict=True)
    (tmp_path / "model-1.safetensors").unlink()
    assert message(index) == (
        " names 'model-1.safetensors', which is missing beside it. "
        "Available: 'model-0.safetensors'."
    )
    index.write_text(json.dumps({"weight_map": {"x": "../x.safetensors"}}), encoding="utf-8")
    assert message(index) == " names '../x.safetensors', which is not the name of a file beside it"
    index.write_text(json.dumps({"weight_map": {"x": "model-0.safetensors"}}), encoding="utf-8")
    assert message(index) == (": 'x' is not in model-0.safetensors, where the index locates it")
