"""How a run begins, and how it is taken back."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from extractkit.core.digests import PREFERRED
from extractkit.core.shards import CONSTANTS_SHARD
from extractkit.core.values import Dense
from extractkit.errors import ConfigError, JobError, RunDirectoryError
from extractkit.runs import HYDRA, LOCK, LOG, MANIFEST, SAMPLES, SHARDS
from extractkit.runs import manifest as manifests
from extractkit.runs.directory import locked
from extractkit.runs.environment import Volatile
from extractkit.runs.files import StoredFile
from extractkit.runs.manifest import Manifest, Status
from extractkit.runs.recorder import AlreadyStored, Recorder, new_run
from extractkit.runs.shards import ShardValues
from extractkit.sinks.npz import NpzSink
from tests.runs.examples import manifest

STARTED = Manifest(volatile=Volatile(started="2026-11-22T15:04:05+00:00"))
COMPOSED = {"config.yaml": "a: é\n", "overrides.yaml": "[]\n"}


def names(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*")}


def test_a_run_begins_with_what_was_composed_and_a_manifest(tmp_path: Path) -> None:
    run = tmp_path / "a" / "run"
    with new_run(run, STARTED, COMPOSED) as written:
        files = {MANIFEST, HYDRA, *(f"{HYDRA}/{name}" for name in COMPOSED)}
        assert names(run) == {*files, LOCK}
        assert manifests.read(run) == written
        assert written.status is Status.STARTED
        assert written.files == tuple(
            StoredFile.of(f"{HYDRA}/{name}", text.encode(), by=PREFERRED)
            for name, text in COMPOSED.items()
        )
        for file in written.files:
            file.check(run)
    assert names(run) == files


@pytest.mark.parametrize("error", [ConfigError("no"), AlreadyStored(Path("other"))])
def test_a_mistake_takes_everything_back(error: Exception, tmp_path: Path) -> None:
    run = tmp_path / "a" / "run"

    def mistaken() -> None:
        with new_run(run, STARTED, COMPOSED) as written:
            (run / LOG).touch()
            recorder = Recorder.start(run, written, {"npz": NpzSink()})
            recorder.add_samples([{"index": 0}])
            recorder.freeze(manifest())
            raise error

    with pytest.raises(type(error)):
        mistaken()
    assert names(tmp_path) == set()


def test_a_directory_that_was_there_and_other_files_stay(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine").touch()

    def mistaken() -> None:
        with new_run(tmp_path / "a" / "b" / "run", STARTED, COMPOSED):
            (tmp_path / "a" / "b" / "yours").touch()
            raise ConfigError("no")

    with pytest.raises(ConfigError):
        mistaken()
    assert names(tmp_path) == {"a", "a/mine", "a/b", "a/b/yours"}


def test_a_mistake_after_a_shard_was_committed_takes_nothing_back(tmp_path: Path) -> None:
    def mistaken() -> None:
        with new_run(tmp_path / "run", STARTED, {}) as written:
            recorder = Recorder.start(tmp_path / "run", written, {"npz": NpzSink()})
            recorder.freeze(manifest())
            recorder.commit(ShardValues(CONSTANTS_SHARD, {"a": Dense(np.zeros(1))}))
            raise ConfigError("no")

    with pytest.raises(ConfigError):
        mistaken()
    assert {MANIFEST, SAMPLES, SHARDS} < names(tmp_path / "run")


@pytest.mark.parametrize("error", [JobError("broke"), KeyboardInterrupt(), ZeroDivisionError()])
def test_a_run_that_fails_stays(error: BaseException, tmp_path: Path) -> None:
    with pytest.raises(type(error)), new_run(tmp_path / "run", STARTED, COMPOSED):
        raise error
    assert manifests.read(tmp_path / "run").status is Status.STARTED
    assert LOCK not in names(tmp_path / "run")


@pytest.mark.parametrize("writes", range(6))
def test_a_full_disk_while_a_run_begins_leaves_nothing(
    writes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync
    done: list[int] = []

    def full(descriptor: int) -> None:
        done.append(descriptor)
        if len(done) > writes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(JobError, match="is full"), new_run(tmp_path / "a" / "b", STARTED, COMPOSED):
        raise AssertionError("it has not begun")
    assert names(tmp_path) == set()


def test_what_a_process_left_that_died_before_its_run_began_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "run" / HYDRA).mkdir(parents=True)
    (tmp_path / "run" / LOCK).write_text("{}")
    (tmp_path / "run" / "manifest.json.tmp").write_text("{")
    with new_run(tmp_path / "run", STARTED, COMPOSED):
        pass
    assert manifests.read(tmp_path / "run").status is Status.STARTED
    assert "manifest.json.tmp" not in names(tmp_path / "run")


def test_a_directory_on_which_another_process_works_is_left_to_it(tmp_path: Path) -> None:
    with locked(tmp_path):
        with pytest.raises(RunDirectoryError, match="is being worked on by process"):
            new_run(tmp_path, STARTED, COMPOSED).__enter__()
        assert names(tmp_path) == {LOCK}


def test_a_run_that_another_process_made_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []

    def meanwhile(path: Path) -> None:
        looked.append(path)
        if len(looked) == 2:
            raise RunDirectoryError(f"run_dir={path} holds a finished run")
        manifests.write(path, STARTED) if path.exists() else None

    (tmp_path / "run").mkdir()
    monkeypatch.setattr("extractkit.runs.recorder.check_unused", meanwhile)
    with pytest.raises(RunDirectoryError, match="holds a finished run"):
        new_run(tmp_path / "run", STARTED, COMPOSED).__enter__()
    assert names(tmp_path / "run") == {MANIFEST}


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"run_dir=.* cannot be made: File name"):
        new_run(tmp_path / "a" / ("x" * 300), STARTED, {}).__enter__()
    assert names(tmp_path) == set()
