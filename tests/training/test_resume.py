"""A resumed training resumes its run, and one that is killed at any moment leaves whole steps."""

import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import extractkit
from extractkit.errors import RunDirectoryError
from extractkit.runs import MANIFEST, journal
from extractkit.runs.manifest import Status
from extractkit.store import local
from tests.training.examples import digests, train


def contents(run: Path) -> dict[str, bytes]:
    """Return the files of a run that hold values."""
    names = ("shards", "statistics.npz", "drift.json", "samples.jsonl")
    files = (path for name in names for path in ((run / name), *(run / name).glob("*")))
    return {str(path.relative_to(run)): path.read_bytes() for path in files if path.is_file()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run of three epochs."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    train(run)
    return run


def assert_equal(run: Path, other: Path) -> None:
    one, two = extractkit.open(run), extractkit.open(other)
    assert contents(run) == contents(other)
    assert digests(one) == digests(two)
    assert one.manifest.checkpoints == two.manifest.checkpoints
    assert one.manifest.identity == two.manifest.identity
    assert one.status is Status.FINISHED
    assert not extractkit.verify(run).failed


def test_training_in_two_parts_makes_the_run_of_one(undisturbed: Path, tmp_path: Path) -> None:
    model = train(tmp_path / "run", epochs=1)
    assert extractkit.open(tmp_path / "run").drift is not None
    train(tmp_path / "run", model=model, initial_epoch=1)
    assert_equal(tmp_path / "run", undisturbed)
    assert extractkit.open(undisturbed).manifest.identity is not None


def test_the_same_training_again_keeps_every_file(undisturbed: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*.*")}
    train(undisturbed)
    after = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*.*")}
    log = undisturbed / "extractkit.log"
    assert {**after, log: 0} == {**before, log: 0}


class StoppedError(Exception):
    """Training fails."""


def stopped(run: Path, epochs: int, **settings: Any) -> None:
    """Record these epochs of a training that fails at the beginning of the next."""

    def fail(epoch: int, logs: object) -> None:
        if epoch == epochs:
            raise StoppedError

    failing = keras.callbacks.LambdaCallback(on_epoch_begin=fail)
    with pytest.raises(StoppedError):
        train(run, epochs=epochs + 1, further=[failing], **settings)


def test_steps_of_another_course_are_replaced(undisturbed: Path, tmp_path: Path) -> None:
    """As where training is resumed from an earlier step, and shuffles otherwise."""
    run = tmp_path / "run"
    stopped(run, epochs=2, shuffle=True)
    other = digests(extractkit.open(run))
    train(run)
    assert_equal(run, undisturbed)
    kept = [
        key for key, digest in digests(extractkit.open(run)).items() if other.get(key) == digest
    ]
    assert kept == ["checkpoint-000000-000000000-000000010"]


def test_a_finished_run_is_never_replaced(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(run, epochs=2, shuffle=True)
    before = contents(run)
    with pytest.raises(RunDirectoryError) as error:
        train(run)
    assert str(error.value) == (
        f"run_dir={run} holds a finished run, and this training differs from it at 'epoch_1', "
        f"where its weights are others. The run stays as it is. Choose another directory: "
        f"run_dir=…"
    )
    assert contents(run) == before
    assert extractkit.open(run).status is Status.FINISHED


def test_a_training_that_begins_before_the_record_leaves_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    stopped(run, epochs=8, initial_epoch=5)
    before, manifest = contents(run), (run / MANIFEST).read_bytes()
    assert recorded(run) == [5, 6, 7, 8]
    with pytest.raises(RunDirectoryError) as error:
        train(run)
    assert str(error.value) == (
        f"run_dir={run} holds a training recorded from 'epoch_5', and this one begins before that. "
        f"Choose another directory: run_dir=…"
    )
    assert contents(run) == before
    assert (run / MANIFEST).read_bytes() == manifest


@pytest.mark.parametrize("finished", [False, True])
def test_a_resumed_training_with_steps_between_the_recorded_ones_leaves_them(
    finished: bool, tmp_path: Path
) -> None:
    """An epoch has three steps."""
    run = tmp_path / "run"
    record = train if finished else stopped
    record(run, epochs=4, callback={"every": 6})
    before = contents(run)
    assert recorded(run) == [0, 6, 12]
    with pytest.raises(RunDirectoryError) as error:
        train(run, epochs=4, callback={"every": 3})
    assert str(error.value) == (
        f"run_dir={run} has no 'step_3', but later steps, up to 'step_12': it was recorded with "
        f"another every=…, or this training counts its steps otherwise. Give the same every=… as "
        f"before. Choose another directory: run_dir=…"
    )
    assert contents(run) == before
    train(run, epochs=5, callback={"every": 6})
    assert recorded(run) == [0, 6, 12]


def test_files_of_dropped_steps_are_removed(tmp_path: Path) -> None:
    """Also those of a process that died between the journal and the removal of files."""
    run = tmp_path / "run"
    stopped(run, epochs=4, shuffle=True)
    left = run / "shards" / "checkpoint-000007-000000000-000000010.npy"
    left.write_bytes(b"of a step that was never committed")
    train(run, epochs=2)
    assert recorded(run) == [0, 1, 2]
    entries = extractkit.open(run).journal.entries
    names = [Path(file.name).name for entry in entries for file in entry.stored]
    assert sorted(path.name for path in (run / "shards").iterdir()) == sorted(names)
    assert not extractkit.verify(run).failed


class Killed(BaseException):
    """The process dies."""


@contextmanager
def dying(monkeypatch: pytest.MonkeyPatch, after: int) -> Iterator[list[int]]:
    """Let nothing be written after a number of files and lines."""
    count = [0]

    def counting(original: Any) -> Any:
        def write(*args: Any, **kwargs: Any) -> Any:
            count[0] += 1
            if count[0] > after:
                raise Killed
            return original(*args, **kwargs)

        return write

    with monkeypatch.context() as patch:
        patch.setattr(local.os, "replace", counting(local.os.replace))
        patch.setattr(journal, "append_line", counting(journal.append_line))
        yield count


def assert_whole(run: Path, undisturbed: Path, same: bool = True) -> None:
    """Assert that a run of a process that died has whole steps, with the right values."""
    left, whole = extractkit.open(run), extractkit.open(undisturbed)
    assert left.status is Status.STARTED
    for key, view in left.items():
        assert view.shape == (len(left.checkpoints), *whole[key].shape[1:])
        values = np.asarray(view)
        if same:
            np.testing.assert_array_equal(values, whole[key][: len(view)])
    if left.checkpoints:
        assert len(left.statistics["a:output@spread"]["moments"]["mean"]) == len(left.checkpoints)
    assert not extractkit.verify(run).failed


# Three files are written before the first step: the manifest, rows, the plan. Each step has two
# files, a line and the manifest, and at the end there are four files more.
@pytest.mark.parametrize(
    ("after", "steps"), [(1, 0), (3, 0), (5, 0), (6, 0), (7, 1), (19, 4), (21, 4)]
)
def test_a_process_that_dies_leaves_whole_steps(
    after: int, steps: int, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with dying(monkeypatch, after), pytest.raises(Killed):
        train(run)
    assert len(recorded(run)) == steps
    assert_whole(run, undisturbed)
    train(run)
    assert_equal(run, undisturbed)


@pytest.mark.parametrize(("after", "steps"), [(1, 3), (2, 1), (3, 1), (6, 1)])
def test_a_process_that_dies_as_steps_are_replaced_leaves_whole_steps(
    after: int, steps: int, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    stopped(run, epochs=2, shuffle=True)
    with dying(monkeypatch, after), pytest.raises(Killed):
        train(run)
    assert len(recorded(run)) == steps
    assert_whole(run, undisturbed, same=steps == 1)
    train(run)
    assert_equal(run, undisturbed)


SCRIPT = """
    import os
    import signal
    import sys
    import keras
    import numpy as np
    import extractkit

    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x, y = rng.random((48, 3), dtype=np.float32), rng.random((48, 2), dtype=np.float32)
    layers = [keras.layers.Dense(4, name="a"), keras.layers.BatchNormalization()]
    model = keras.Sequential([keras.Input((3,)), *layers, keras.layers.Dense(2)])
    model.compile("adam", "mse")
    probe = extractkit.Callback("outputs", x[:8], sys.argv[1], every=4)
    backup = keras.callbacks.BackupAndRestore(sys.argv[2])


    def die(batch, logs):
        if model.optimizer.iterations == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)

    killed = keras.callbacks.LambdaCallback(on_train_batch_end=die)
    settings = {"batch_size": 8, "epochs": 10, "shuffle": False, "verbose": 0}
    model.fit(x, y, callbacks=[probe, backup, killed], **settings)
"""


def test_a_killed_training_and_its_run_are_resumed(
    tmp_path: Path, preloaded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the callback of Keras that restores model and optimizer at the last whole epoch."""
    script, run = tmp_path / "train.py", tmp_path / "killed"
    script.write_text(textwrap.dedent(SCRIPT), encoding="utf-8")
    command = [preloaded / "python", script, run, tmp_path / "backup"]
    done = subprocess.run([*command, "26"], stderr=subprocess.DEVNULL)
    assert done.returncode == -signal.SIGKILL
    assert recorded(run) == list(range(0, 25, 4))
    assert not extractkit.verify(run).failed
    subprocess.run([*command, "0"], check=True, stderr=subprocess.DEVNULL)
    arguments = ["", tmp_path / "whole", tmp_path / "other", 0]
    monkeypatch.setattr(sys, "argv", [*map(str, arguments)])
    exec(compile(textwrap.dedent(SCRIPT), str(script), "exec"), {})
    assert_equal(run, tmp_path / "whole")
    assert recorded(run) == list(range(0, 61, 4))


def recorded(run: Path) -> list[int | None]:
    """Return the steps of a run."""
    if not (run / MANIFEST).exists():
        return []
    return [one.step for one in extractkit.open(run).manifest.checkpoints]
