"""Files that are whole, but packed, split, named or placed in another way than a loader expects."""

import importlib
import json
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import save_file

from extractkit.advice import hydra_override
from extractkit.errors import ModelError
from extractkit.models.weight_files.hdf5_listing import listing
from tests.advised import ask, refused

FORMATS = [
    *("keras", "saved_model", "frozen_graph", "meta_graph", "checkpoint", "tflite"),
    *("tensorflow_js", "bert", "keras_hub", "hugging_face"),
]
MODULES = {"keras": "keras_file", "keras_hub": "hub"}
"""Files of the loaders whose names are not their formats'."""


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of Keras, and a checkpoint, in a folder of a name that a shell splits."""
    place = tmp_path_factory.mktemp("whole files")
    model = keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(3, name="hidden")])
    model.save(place / "net.keras")
    model.save_weights(place / "split.weights.json", max_shard_size=1e-7)
    module = tf.Module()
    module.w = tf.Variable(tf.ones([4, 3]), name="w")
    tf.train.Checkpoint(module=module).write(str(place / "run-7"))
    return place


def path(place: Path) -> str:
    return hydra_override("model.path", place)


def run(command: str, place: Path) -> None:
    """Run a command for Python's own modules that a message ends in."""
    before, _, words = command.partition("python -m ")
    assert before == "", command
    subprocess.run(f"{sys.executable} -m {words}", shell=True, check=True, cwd=place)


def test_an_archive_of_keras_that_was_unpacked_is_packed_again(zoo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a net"
    with zipfile.ZipFile(zoo / "net.keras") as archive:
        archive.extractall(folder)
    for model in ("keras_hub", "hugging_face", "saved_model"):
        assert "is a .keras archive that was unpacked. Pack it again: " in refusal(model, folder)
    answer = refused("tensors", "model=keras", path(folder))
    run(answer.message.partition("Pack it again: ")[2].partition(", then")[0], tmp_path)
    assert answer.overrides == ["model=keras", "model.path=NAME.keras"]
    assert "hidden" in ask("tensors", "model=keras", path(tmp_path / "NAME.keras")).out


def changed(file: Path, local: int, central: int, number: int) -> bytes:
    """An archive with another number at these places of the headers of all members."""
    content = bytearray(file.read_bytes())
    for magic, offset in ((b"PK\x03\x04", local), (b"PK\x01\x02", central)):
        at = content.find(magic)
        while at >= 0:
            struct.pack_into("<H", content, at + offset, number)
            at = content.find(magic, at + 4)
    return bytes(content)


@pytest.mark.parametrize("model", ["keras_file", "checkpoint"])
@pytest.mark.parametrize(
    ("places", "text"),
    [
        ((8, 10, 9), "is packed in a way that Python cannot unpack (That compression method is "),
        ((6, 8, 1), "is encrypted. Unpack it with its password, and pack it again: python -m zip"),
    ],
)
def test_an_archive_that_python_cannot_unpack_is_not_called_damaged(
    model: str, places: tuple[int, int, int], text: str, zoo: Path, tmp_path: Path
) -> None:
    file = tmp_path / "net.keras"
    file.write_bytes(changed(zoo / "net.keras", *places))
    message = refusal(model, file)
    assert text in message
    assert "damaged" not in message


def test_weights_that_keras_split_are_saved_in_one_file(zoo: Path, tmp_path: Path) -> None:
    answer = refused("tensors", "model=checkpoint", path(zoo / "split.weights.json"))
    assert "is the index of weights that Keras split" in answer.message
    code = answer.message.strip().partition("Save them in one file: ")[2]
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="hidden")])
    for statement in code.replace("NAME", str(tmp_path / "one")).split(", then "):
        exec(statement, {"model": model})
    assert "hidden" in ask("tensors", "model=checkpoint", path(tmp_path / "one.weights.h5")).out


@pytest.mark.parametrize("model", ["checkpoint", "keras_file"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pytorch_model-00001-of-00002.bin", "the index of weights in several pickles of PyTorch"),
        ("tf_model-00001-of-00002.h5", "is the index of weights in several HDF5 files. Save them "),
    ],
)
def test_an_index_is_of_the_format_of_its_files(
    model: str, name: str, text: str, tmp_path: Path
) -> None:
    (tmp_path / "some.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    message = refusal(model, tmp_path / "some.index.json")
    assert text in message
    assert "model=checkpoint" not in message


def test_an_index_of_safetensors_is_known_by_its_content(tmp_path: Path) -> None:
    save_file({"kernel": np.ones((2, 3), np.float32)}, tmp_path / "part.safetensors")
    content = {"weight_map": {"kernel": "part.safetensors"}}
    (tmp_path / "list.json").write_text(json.dumps(content))
    answer = refused("tensors", "model=keras", path(tmp_path / "list.json"))
    assert "is the index of weights in safetensors" in answer.message
    assert "kernel" in ask(*answer.advised()).out


def test_a_dataset_that_takes_too_much_memory_is_not_called_damaged(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "zeros.h5", "w") as file:
        file.create_dataset("kernel", (2**50,), "float32", chunks=(2**20,), compression="gzip")
    found = listing(str(tmp_path / "zeros.h5"))
    assert found["refused"].startswith("'kernel' takes 4,503,599,627,370,496 bytes of memory, the ")


def refusal(model: str, place: object) -> str:
    """What a loader says, without the program around it."""
    module = importlib.import_module(f"extractkit.models.{MODULES.get(model, model)}")
    with pytest.raises(ModelError) as caught:
        module.load(str(place))
    return str(caught.value)


@pytest.mark.parametrize("model", FORMATS)
def test_a_path_that_cannot_be_looked_up(model: str) -> None:
    assert "cannot be looked up: File name too long" in refusal(model, "n" * 300)
    message = refusal(model, "~nobody-of-this-name/x")
    assert "cannot be looked up: Could not determine home directory" in message


@pytest.mark.parametrize("model", FORMATS)
def test_a_path_below_a_file_says_so(model: str, zoo: Path) -> None:
    message = refusal(model, zoo / "net.keras/inner")
    if model == "tflite":  # which looks into archives
        assert "is an archive without a model of TensorFlow Lite in it" in message
    else:
        assert f"does not exist: {str(zoo / 'net.keras')!r} is a file, not a folder" in message


def test_a_checkpoint_that_its_folder_names_is_gone(zoo: Path, tmp_path: Path) -> None:
    for file in zoo.glob("run-7.*"):
        shutil.copy(file, tmp_path)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "run-8"\n')
    answer = refused("tensors", "model=checkpoint", path(tmp_path))
    assert "names 'run-8', which is neither there nor in the folder" in answer.message
    assert ask(*answer.advised()).code == 0
    answer = refused("tensors", "model=checkpoint", path(tmp_path / "run-6.index"))
    assert f"Checkpoints in {str(tmp_path)!r}: Available: 'run-7'." in answer.message


def test_a_misspelled_file_of_tensorflow_js_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text("{}")
    message = refusal("tensorflow_js", tmp_path / "modle.json")
    assert f"Folders and .json files in {str(tmp_path)!r}: Available: 'model.json'." in message
