"""What refusals of graphs in sessions say is true, and what they advise succeeds."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from extractkit.advice import hydra_override
from extractkit.cli import FAILED
from extractkit.errors import ConfigError
from extractkit.models.frozen_graph import load
from tests.advised import ask, refused
from tests.models.session_graphs import saved, weight

v1 = tf.compat.v1


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`x` (N, 4) → `y`, and `checked`, which is of no sample and cannot be computed."""
    with tf.Graph().as_default() as built:
        x = v1.placeholder(tf.float32, [None, 4], "x")
        tf.add(x, 1.0, name="y")
        broken = tf.raw_ops.CheckNumerics(tensor=tf.constant([np.nan]), message="no number")
        tf.identity(broken, name="checked")
    file = tmp_path_factory.mktemp("sessions") / "g.pb"
    file.write_bytes(built.as_graph_def().SerializeToString())
    return file


def job(graph: Path, run_dir: Path, *more: str) -> tuple[str, ...]:
    path = hydra_override("model.path", graph)
    directory = hydra_override("hydra.run.dir", run_dir)
    return ("model=frozen_graph", path, "inputs=random", "inputs.samples=2", directory, *more)


def test_what_a_session_does_not_compile_is_computed_without(graph: Path, tmp_path: Path) -> None:
    words = job(graph, tmp_path / "run", "+selectors.mine.path=y:0", "runtime.compile=xla")
    answer = refused(*words)
    assert "which runs graphs only. Leave it out: runtime.compile=graph" in answer.message
    assert ask(*answer.advised("runtime.compile")).code == 0


def test_constants_that_cannot_be_computed_fail_the_job(graph: Path, tmp_path: Path) -> None:
    answer = ask(*job(graph, tmp_path / "run", "+selectors.mine.path=checked:0"))
    assert answer.code == FAILED, answer.message
    assert "cannot compute its constants: no number : Tensor had NaN values" in answer.message


@pytest.mark.parametrize(("device", "hidden"), [("/CPU:0", "-1"), ("/GPU:1", "1")])
def test_a_session_is_moved_by_what_it_sees(
    device: str, hidden: str, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(str(graph))

    def devices(kind: str | None = None) -> list[SimpleNamespace]:
        names = [f"/device:{one}" for one in ("CPU:0", "GPU:0", "GPU:1") if (kind or "") in one]
        return [SimpleNamespace(name=name, device_type=name[8:11]) for name in names]

    monkeypatch.setattr(tf.config, "list_logical_devices", devices)
    with pytest.raises(ConfigError) as caught:
        model.configure(0, False, device)
    assert str(caught.value) == (
        f"runtime.device={device!r}: model 'frozen_graph' runs in a session of TensorFlow 1, which "
        f"places what it can on /GPU:0. Leave it out, and have the environment hide other devices: "
        f"CUDA_VISIBLE_DEVICES={hidden}"
    )


def test_a_shard_that_was_not_copied_is_copied(tmp_path: Path) -> None:
    def linear() -> None:
        tf.matmul(v1.placeholder(tf.float32, [None, 4], "x"), weight("w", [4, 3]), name="y")

    prefix = saved(linear, tmp_path / "there/model")
    shutil.copytree(tmp_path / "there", tmp_path / "here")
    data = tmp_path / "here/model.data-00000-of-00001"
    data.unlink()
    words = ("tensors", "model=meta_graph", hydra_override("model.path", tmp_path / "here/model"))
    message = refused(*words).message
    assert f"{data.name!r} is missing from the checkpoint in {str(data.parent)!r}. Copy" in message
    shutil.copy(f"{prefix}.data-00000-of-00001", data.parent)
    assert ask(*words).code == 0
