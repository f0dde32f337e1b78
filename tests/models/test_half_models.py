"""Models of which only a part was copied: what is missing is named, and copying it helps."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from extractkit.core.requests import Value
from extractkit.errors import ModelError
from extractkit.models import (
    Fetch,
    checkpoint,
    frozen_graph,
    keras_file,
    meta_graph,
    saved_model,
    tflite,
)
from tests.models.session_graphs import saved, weight

v1 = tf.compat.v1
X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


def linear() -> None:
    x = v1.placeholder(tf.float32, [None, 4], "x")
    tf.nn.relu(tf.matmul(x, weight("w", [4, 3])), name="y")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tf2`, `tf1`: SavedModels; `ck`: a graph and a checkpoint of TensorFlow 1."""
    folder = tmp_path_factory.mktemp("whole")
    module = tf.Module()
    module.w = tf.Variable(tf.ones([4, 3]), name="w")
    module.f = tf.function(
        lambda x: {"y": x @ module.w}, input_signature=[tf.TensorSpec([None, 4], name="x")]
    )
    tf.saved_model.save(module, str(folder / "tf2"), signatures=module.f)
    with v1.Graph().as_default() as graph, v1.Session() as session:
        linear()
        session.run(v1.global_variables_initializer())
        x, y = (graph.get_tensor_by_name(name) for name in ("x:0", "y:0"))
        v1.saved_model.simple_save(session, str(folder / "tf1"), {"x": x}, {"y": y})
    (folder / "ck").mkdir()
    saved(linear, folder / "ck/model.ckpt-5")
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Callable[..., Path]:
    def copied(name: str, *left_out: str) -> Path:
        target = tmp_path / name
        shutil.copytree(whole / name, target)
        for pattern in left_out:
            for found in list(target.glob(pattern)):
                shutil.rmtree(found) if found.is_dir() else found.unlink()
        return target

    return copied


def refused(load: Callable[..., object], path: object, **more: object) -> str:
    with pytest.raises(ModelError) as raised:
        load(str(path), **more)
    message = str(raised.value)
    # TensorFlow's own words, and the folder in which a SavedModel is prepared, say nothing.
    for untrue in ("damaged", "Unsuccessful", "DATA_LOSS", "NotFoundError", "/tmp/tmp"):
        assert untrue not in message, message
    return message


@pytest.mark.parametrize("name", ["tf2", "tf1"])
def test_a_saved_model_without_its_variables(
    name: str, copy: Callable[..., Path], whole: Path
) -> None:
    path = copy(name, "variables")
    assert f"'{path}/variables/variables.index' is missing" in refused(saved_model.load, path)
    shutil.copytree(whole / name / "variables", path / "variables")
    data = next((path / "variables").glob("*.data*"))
    data.unlink()
    message = refused(saved_model.load, path)
    assert f"'{data}' is missing. Copy the whole folder variables" in message
    # What is advised works.
    shutil.copytree(whole / name / "variables", path / "variables", dirs_exist_ok=True)
    assert saved_model.load(str(path)).constants([Fetch(Value("w:0"))])[0].shape == (4, 3)


def test_the_variables_of_a_saved_model_alone(copy: Callable[..., Path], whole: Path) -> None:
    path = copy("tf2", "saved_model.pb", "fingerprint.pb")
    message = refused(saved_model.load, path)
    assert "the variables of a SavedModel without its saved_model.pb" in message
    assert f"model=checkpoint model.path={path}/variables/variables" in message
    assert checkpoint.load(f"{path}/variables/variables").catalog.records
    message = refused(saved_model.load, whole / "tf2/variables")
    assert (
        f"the variables of a SavedModel. That is for model=saved_model model.path={whole}/tf2"
        in message
    )
    assert "a SavedModel" in refused(frozen_graph.load, whole / "tf2/saved_model.pb")


@pytest.mark.parametrize("ending", ["", ".meta", ".index", ".data-00000-of-00001"])
def test_any_file_of_a_checkpoint_stands_for_it(ending: str, whole: Path) -> None:
    path = f"{whole}/ck/model.ckpt-5{ending}"
    model = meta_graph.load(path)
    other = meta_graph.load(f"{whole}/ck", checkpoint=path)
    if ending != ".meta":
        assert checkpoint.load(path).catalog.records
    assert model.weights_digest() == other.weights_digest()


def test_a_graph_without_its_checkpoint(copy: Callable[..., Path], whole: Path) -> None:
    path = copy("ck", "*.index", "*.data*")
    message = refused(meta_graph.load, path)
    assert "has no weights beside it" in message
    assert f"{path}/model.ckpt-5.index" in message
    assert meta_graph.load(str(path), checkpoint=f"{whole}/ck/model.ckpt-5").catalog.records
    (path / "model.ckpt-5.index").write_bytes((whole / "ck/model.ckpt-5.index").read_bytes())
    message = refused(meta_graph.load, path)
    assert "'model.ckpt-5.data-00000-of-00001' is missing from the checkpoint" in message


def test_a_checkpoint_without_its_graph(copy: Callable[..., Path]) -> None:
    path = copy("ck", "*.meta")
    message = refused(meta_graph.load, f"{path}/model.ckpt-5.index")
    assert "has no graph beside it" in message
    assert f"model=checkpoint model.path={path}/model.ckpt-5.index" in message
    assert checkpoint.load(f"{path}/model.ckpt-5.index").catalog.records


def test_the_data_of_a_checkpoint_without_its_index(copy: Callable[..., Path]) -> None:
    path = copy("ck", "*.meta", "*.index", "checkpoint")
    for given in (path, path / "model.ckpt-5.data-00000-of-00001", path / "model.ckpt-5"):
        message = refused(checkpoint.load, given)
        assert "model.ckpt-5.index" in message, message
        assert "opy" in message
    message = refused(meta_graph.load, path / "model.ckpt-5.data-00000-of-00001")
    assert "model.ckpt-5.index" in message


def test_the_index_of_a_checkpoint_without_its_data(copy: Callable[..., Path]) -> None:
    path = copy("ck", "*.meta", "*.data*", "checkpoint")
    for given in (path, path / "model.ckpt-5.index", path / "model.ckpt-5"):
        message = refused(checkpoint.load, given)
        assert "'model.ckpt-5.data-00000-of-00001' is missing" in message, message


class Canary:
    """A pickle that makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["m.pkl", "m.pt", "m.bin", "m.h5", "m.pb", "m.tflite", "m.keras"])
def test_a_pickle_is_named_and_never_opened(name: str, tmp_path: Path) -> None:
    file, opened = tmp_path / name, tmp_path / "opened"
    file.write_bytes(pickle.dumps(Canary(opened)))
    for load in (
        checkpoint.load,
        frozen_graph.load,
        meta_graph.load,
        saved_model.load,
        tflite.load,
        keras_file.load,
    ):
        message = refused(load, file)
        assert "is a pickle. Reading a pickle runs code" in message, (load, message)
    assert not opened.exists()


def test_a_pointer_of_git_lfs_in_place_of_a_file(copy: Callable[..., Path], whole: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    path = copy("tf2")
    (path / "saved_model.pb").write_bytes(pointer)
    assert "a pointer of Git LFS" in refused(saved_model.load, path)
    (path / "m.ckpt").write_bytes(pointer)
    for load, more in (
        (checkpoint.load, {}),
        (frozen_graph.load, {}),
        (tflite.load, {}),
        (keras_file.load, {}),
    ):
        message = refused(load, path / "m.ckpt", **more)
        assert "Fetch the file itself: git lfs pull" in message, (load, message)
    message = refused(meta_graph.load, f"{whole}/ck", checkpoint=str(path / "m.ckpt"))
    assert message.startswith("model.checkpoint=")
    assert "a pointer of Git LFS" in message
