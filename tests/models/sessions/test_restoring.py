"""Checkpoints that cannot be restored: what is said of them is true, and what is advised helps."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from extractkit.advice import hydra_override
from tests.advised import Answer, ask, refused
from tests.models.session_graphs import saved, trained, weight

v1 = tf.compat.v1


def linear() -> None:
    x = v1.placeholder(tf.float32, [None, 4], "x")
    tf.nn.relu(tf.matmul(x, weight("w", [4, 3])), name="y")


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    return str(saved(linear, tmp_path / "net/model"))


def no(prefix: str, *more: str) -> Answer:
    return refused("tensors", "model=meta_graph", hydra_override("model.path", prefix), *more)


def test_a_checkpoint_of_the_same_model_without_what_training_keeps(tmp_path: Path) -> None:
    """It does not fit, but to say that it belongs to another model would be wrong."""
    with tf.Graph().as_default(), v1.Session() as session:
        trained()
        session.run([v1.global_variables_initializer(), v1.local_variables_initializer()])
        v1.train.Saver().save(session, str(tmp_path / "all"))
        some = v1.train.Saver(v1.trainable_variables())
        some.save(session, str(tmp_path / "some"), write_meta_graph=False)
    other = hydra_override("model.checkpoint", tmp_path / "some")
    message = no(str(tmp_path / "all"), other).message
    assert (
        "the checkpoint does not fit the graph: 'beta1_power' is not in the checkpoint" in message
    )
    assert "another model" not in message


def test_a_file_that_is_not_a_checkpoint_is_not_called_damaged(prefix: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    message = no(prefix, hydra_override("model.checkpoint", tmp_path / "notes.txt")).message
    assert "notes.txt' is not a TensorFlow checkpoint, and its format is unknown: " in message
    assert "damaged" not in message


@pytest.mark.parametrize("what", ["values", "end", "index"])
def test_damage_is_called_so_and_a_copy_mends_it(what: str, prefix: str, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "net", tmp_path / "copy")
    file = Path(f"{prefix}.index" if what == "index" else f"{prefix}.data-00000-of-00001")
    content = file.read_bytes()
    changed = content[:3] + bytes([content[3] ^ 255]) + content[4:]
    file.write_bytes(changed if what == "values" else content[:-20])
    assert f"checkpoint {prefix!r} is damaged or cut off (" in no(prefix).message
    shutil.copy(tmp_path / "copy" / file.name, file)
    assert ask("tensors", "model=meta_graph", hydra_override("model.path", prefix)).code == 0


def test_a_checkpoint_without_its_graph_is_read_as_weights(prefix: str) -> None:
    Path(f"{prefix}.meta").unlink()
    for given in (prefix, f"{prefix}.index", str(Path(prefix).parent)):
        answer = no(given)
        assert "he weights alone: model=checkpoint " in answer.message
        assert "w" in ask(*answer.advised()).out


def test_a_table_is_filled_once_its_file_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = tmp_path / "words.txt"
    words.write_text("a\nb\n")

    def look_up() -> None:
        index = tf.lookup.TextFileIndex
        source = tf.lookup.TextFileInitializer(
            "words.txt", tf.string, index.WHOLE_LINE, tf.int64, index.LINE_NUMBER
        )
        table = tf.lookup.StaticHashTable(source, -1)
        weight("w", [2])
        tf.identity(table.lookup(v1.placeholder(tf.string, [None], "x")), name="y")

    prefix = str(saved(look_up, tmp_path / "model"))
    words.rename("elsewhere.txt")
    message = no(prefix).message
    assert "words.txt; No such file or directory. The graph reads that file when it starts: put it "
    assert "its tables cannot be filled: NotFoundError: words.txt" in message
    Path("elsewhere.txt").rename(words)
    assert ask("tensors", "model=meta_graph", hydra_override("model.path", prefix)).code == 0


def test_averages_go_into_variables_that_nothing_assigns_to(tmp_path: Path) -> None:
    """As in a graph that was cut down to what computes its outputs."""
    average = np.arange(6, dtype="float32").reshape(2, 3)
    with tf.Graph().as_default(), v1.Session() as session:
        w = v1.get_variable("w", initializer=average + 1)
        v1.get_variable("w/ExponentialMovingAverage", initializer=average)
        tf.matmul(v1.placeholder(tf.float32, [None, 2], "x"), w, name="y")
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(tmp_path / "model"), write_meta_graph=False)
        cut = v1.graph_util.extract_sub_graph(session.graph.as_graph_def(), ["y"])
    assert not any(node.op.startswith("Assign") for node in cut.node)
    meta = v1.MetaGraphDef(graph_def=cut)
    (tmp_path / "model.meta").write_bytes(meta.SerializeToString())
    from extractkit.core.requests import Value
    from extractkit.models import Fetch
    from extractkit.models.meta_graph import load

    for setting, wanted in ((False, average + 1), (True, average)):
        model = load(str(tmp_path / "model"), moving_averages=setting)
        (address,) = (one.address for one in model.catalog.records if one.kind == "weight")
        np.testing.assert_array_equal(model.constants([Fetch(Value(address))])[0], wanted)
