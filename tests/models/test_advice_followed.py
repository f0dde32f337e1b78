"""What a refusal advises is taken out of its text by code, and followed: it has to succeed."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import save_file

from extractkit.advice import hydra_override, listing
from tests.advised import ask, refused
from tests.models.session_graphs import saved, weight

# Every character that a shell or Hydra's grammar gives a meaning of its own.
ODD = 'it\'s a zoo, v=1: {new} "q" $x (y)'
v1 = tf.compat.v1


def linear() -> None:
    x = v1.placeholder(tf.float32, [None, 4], "x")
    tf.nn.relu(tf.matmul(x, weight("w", [4, 3])), name="y")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an odd name, and models of most formats in it."""
    place = tmp_path_factory.mktemp("advice") / ODD
    place.mkdir()
    model = keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(3, name="hidden")])
    model.save(place / "net.keras")
    model.save(place / "net.h5")
    shutil.copy(place / "net.h5", place / "net.hdf")
    content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    with zipfile.ZipFile(place / "b.task", "w") as archive:
        archive.writestr("one two.tflite", content)
        archive.writestr("z.tflite", content)
    save_file({"kernel": np.ones((2, 3), "float32")}, place / "a, b.safetensors")
    module = tf.Module()
    module.w = tf.Variable(tf.ones([4, 3]), name="w")
    module.f = tf.function(
        lambda x: {"y": x @ module.w}, input_signature=[tf.TensorSpec([None, 4], name="x")]
    )
    tf.saved_model.save(module, str(place / "two"), {"a b": module.f, "c": module.f})
    shutil.copytree(place / "two", place / "parent/in ner")
    bare = tf.Module()
    bare.w = tf.Variable(tf.ones([4, 3]), name="w")
    tf.saved_model.save(bare, str(place / "bare"))
    for step in (1, 2):
        (place / "many").mkdir(exist_ok=True)
        saved(linear, place / f"many/a b.ckpt-{step}")
    (place / "many/checkpoint").unlink(missing_ok=True)
    with tf.Graph().as_default() as graph:
        tf.nn.relu(tf.constant([1.0, -1.0]), name="y")
    (place / "graph.pb").write_bytes(graph.as_graph_def().SerializeToString())
    return place


ANOTHER = [
    ("saved_model", "net.keras", "is a Keras archive. That is for model=keras "),
    ("frozen_graph", "net.h5", "is a Keras model in HDF5. That is for model=keras "),
    ("keras", "a, b.safetensors", "is weights in safetensors. That is for model=checkpoint "),
    ("tensorflow_js", "graph.pb", "is a GraphDef. That is for model=frozen_graph "),
    ("keras", "many/a b.ckpt-1", "is the index of a TensorFlow checkpoint. That is for model="),
    ("tflite", "two/saved_model.pb", "is the graph of a SavedModel. That is for model="),
    ("meta_graph", "two", "is a SavedModel. That is for model=saved_model "),
    ("keras", "two", "Read its graph: model=saved_model "),
    ("saved_model", "bare", "Read those: model=checkpoint "),
    ("checkpoint", "b.task", "is a bundle of TensorFlow Lite models. That is for model=tflite "),
    ("tflite", "b.task", "Available: 'one two.tflite', 'z.tflite'. Choose one: "),
    ("saved_model", "two", "Available: 'a b', 'c', 'f'. Choose one: 'model.signature=\"a b\"'"),
    ("saved_model", "parent", "SavedModels in it: Available: 'in ner'. Choose one: "),
    ("meta_graph", "many", "Available: 'a b.ckpt-1', 'a b.ckpt-2'. Choose one: "),
    ("checkpoint", "many", "is a folder with 2 files of weights. "),
]


@pytest.mark.parametrize(("model", "name", "text"), ANOTHER)
def test_what_is_advised_for_another_format_or_a_choice_lists_the_model(
    model: str, name: str, text: str, zoo: Path
) -> None:
    answer = refused("tensors", f"model={model}", hydra_override("model.path", zoo / name))
    assert text in answer.message
    for _ in range(3):  # the advice may lead to a choice, which is a step further
        advised = answer.advised()
        assert advised != list(answer.words), answer.message
        answer = ask(*advised)
        if not answer.code:
            break
    assert answer.code == 0, answer.message
    assert "tensor" in answer.out


def test_a_file_with_another_ending_is_read_once_it_is_renamed(zoo: Path) -> None:
    answer = refused("tensors", "model=keras", hydra_override("model.path", zoo / "net.hdf"))
    assert "Keras goes by the ending" in answer.message
    shutil.copy(zoo / "net.hdf", zoo / "net.h5")
    assert ask(*answer.advised()).code == 0


@pytest.mark.parametrize(
    "more", [("+selectors.mine.path=hiden",), (), ("selectors=outputs", "+selectors.a.op_type=x")]
)
def test_the_list_of_tensors_is_the_whole_command(more: tuple[str, ...], zoo: Path) -> None:
    path = hydra_override("model.path", zoo / "net.keras")
    answer = refused("plan", "model=keras", path, "model.safe_mode=true", *more)
    assert answer.command == ["tensors", "model=keras", path, "model.safe_mode=true"]
    assert "hidden" in ask(*answer.command).out


def test_the_list_of_tensors_finds_a_configuration_of_ones_own(zoo: Path) -> None:
    (zoo / "my/model").mkdir(parents=True)
    (zoo / "my/model/own.yaml").write_text("defaults: [keras]\n", encoding="utf-8")
    words = ("--config-dir", str(zoo / "my"), "model=own")
    path = hydra_override("model.path", zoo / "net.keras")
    answer = refused("plan", *words, path, "+selectors.mine.path=hiden")
    assert ask(*answer.command).code == 0


def test_an_experiment_is_listed_without_its_selectors() -> None:
    given = ("experiment=mine", "inputs.limit=3", "model.max_length=8")
    assert listing("bert", given, selectors=("first",)) == (
        "extractkit tensors experiment=mine model.max_length=8 '~selectors.first'"
    )


@pytest.mark.parametrize("kind", ["zip", "gztar"])
def test_an_archive_is_read_once_it_is_unpacked(
    kind: str, zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    archive = shutil.make_archive(str(tmp_path / "my model"), kind, zoo / "bare")
    answer = refused("tensors", "model=checkpoint", hydra_override("model.path", archive))
    before, command = answer.message.strip().split(": python -m ")
    assert before.endswith("Unpack it and give the path of what is in it")
    subprocess.run(f"{sys.executable} -m {command}", shell=True, check=True)
    assert ask("tensors", "model=checkpoint", "model.path=NAME").code == 0


@pytest.mark.parametrize("model", ["checkpoint", "saved_model"])
def test_a_path_that_tensorflow_takes_for_a_pattern(
    model: str, zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorFlow's own words are that the checkpoint does not exist."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(zoo / "two", tmp_path / "run [1]/two")
    answer = refused("tensors", f"model={model}", hydra_override("model.path", "run [1]/two"))
    assert "TensorFlow takes '[' in the path of a checkpoint for a pattern" in answer.message
    assert "damaged" not in answer.message
    command = answer.message.partition("give a link to it: ")[2].partition(", then")[0]
    subprocess.run(command, shell=True, check=True)
    below = "NAME" if model == "checkpoint" else ""
    target = "NAME/variables" if below else "two"
    if not below:
        (tmp_path / "two").mkdir()
        shutil.copy("run [1]/two/saved_model.pb", "two")
        Path("two/variables").symlink_to(Path("NAME").resolve())
    more = ("model.signature=c",) if model == "saved_model" else ()
    assert ask("tensors", f"model={model}", f"model.path={target}", *more).code == 0


CUT = [
    ("frozen_graph", "graph.pb", "is a GraphDef that is damaged or cut off. Copy it again"),
    ("saved_model", "two/saved_model.pb", "is a SavedModel that is damaged or cut off. Copy it"),
    ("keras", "net.keras", "is a zip archive that is cut off or damaged. Copy it again"),
    ("checkpoint", "net.keras", "is a zip archive that is cut off or damaged. Copy it again"),
]


@pytest.mark.parametrize(("model", "name", "text"), CUT)
def test_only_what_is_of_the_format_is_called_damaged(
    model: str, name: str, text: str, zoo: Path, tmp_path: Path
) -> None:
    file = tmp_path / Path(name).name
    whole = (zoo / name).read_bytes()
    file.write_bytes(whole[: len(whole) * 2 // 3])
    path = hydra_override("model.path", file)
    assert text in refused("tensors", f"model={model}", path).message
    file.write_bytes(b"hello, this is text")
    message = refused("tensors", f"model={model}", path).message
    assert "damaged" not in message
    assert f"its format is unknown: '{file.name}' begins with b'hello, this '" in message


@pytest.mark.parametrize(
    "model",
    ["saved_model", "frozen_graph", "meta_graph", "checkpoint", "keras", "tflite",
     "tensorflow_js", "bert", "keras_hub"],
)  # fmt: skip
def test_a_path_that_leads_nowhere_names_the_folder_that_is_missing(model: str, zoo: Path) -> None:
    path = hydra_override("model.path", zoo / "prent/net")
    message = refused("tensors", f"model={model}", path).message
    assert f"there is no folder {str(zoo / 'prent')!r}" in message
    assert "'parent'" in message
