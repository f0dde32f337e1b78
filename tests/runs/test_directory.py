"""Whether a directory may become a run."""

import os
import shutil
from pathlib import Path

import pytest

from extractkit.core.shards import CONSTANTS_SHARD, Shard
from extractkit.errors import RunDirectoryError
from extractkit.runs import HYDRA, LOCK, shard_file
from extractkit.runs import manifest as manifests
from extractkit.runs.directory import check_unused
from extractkit.runs.manifest import Status
from tests.runs.examples import Example, manifest


def test_a_missing_or_empty_directory_is_free_and_stays_as_it_is(tmp_path: Path) -> None:
    check_unused(tmp_path)
    check_unused(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_is_kept(example: Example) -> None:
    with pytest.raises(RunDirectoryError) as caught:
        check_unused(example.path)
    message = str(caught.value)
    assert "holds a finished run of 2026-11-22 15:04 UTC (8 samples, 5 tensors)" in message
    assert f"extractkit show {example.path}" in message
    assert "run_dir=" in message


@pytest.mark.parametrize("status", [Status.STARTED, Status.FAILED, Status.INTERRUPTED])
def test_an_unfinished_run_is_kept(status: Status, tmp_path: Path) -> None:
    manifests.write(tmp_path, manifest(status=status))
    with pytest.raises(RunDirectoryError) as caught:
        check_unused(tmp_path)
    assert str(caught.value) == (
        f"run_dir={tmp_path} holds an unfinished run of 2026-11-22 15:04 UTC (status: "
        f"{status}; 8 samples, 5 tensors). Resume it: extractkit resume {tmp_path}. Delete it "
        f"if you do not need it. Choose another directory: run_dir=…"
    )


@pytest.mark.parametrize(
    "left",
    [
        [LOCK],
        [LOCK, HYDRA],
        [LOCK, HYDRA, "manifest.json.tmp"],
        [LOCK, "manifest.json.tmp"],
    ],
    ids=",".join,
)
def test_what_a_process_left_that_died_before_its_run_began_is_free(
    left: list[str], tmp_path: Path
) -> None:
    for name in left:
        (tmp_path / name).mkdir() if name == HYDRA else (tmp_path / name).touch()
    check_unused(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(left)


@pytest.mark.parametrize("left", [[HYDRA], [LOCK, "shards"], [LOCK, "a.txt"], ["a.tmp"]])
def test_what_nobody_left_before_a_run_began_is_kept(left: list[str], tmp_path: Path) -> None:
    for name in left:
        (tmp_path / name).touch()
    with pytest.raises(RunDirectoryError, match="is not empty"):
        check_unused(tmp_path)


def test_the_file_of_a_shard_has_one_name() -> None:
    assert shard_file(Shard(5, 8), ".h5") == "shards/000000005-000000008.h5"
    assert shard_file(CONSTANTS_SHARD, ".npz") == "shards/constants.npz"


def test_a_run_that_cannot_be_read_is_kept(example: Example, tmp_path: Path) -> None:
    shutil.copytree(example.path, tmp_path / "run")
    (tmp_path / "run" / "manifest.json").write_text("{}")
    with pytest.raises(RunDirectoryError, match="holds a run that cannot be read"):
        check_unused(tmp_path / "run")


def test_other_files_are_kept(tmp_path: Path) -> None:
    for name in "dacb":
        (tmp_path / name).touch()
    with pytest.raises(RunDirectoryError, match=r"is not empty \(it holds a, b, c, …\)"):
        check_unused(tmp_path)


def test_a_file_is_no_run_directory(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(RunDirectoryError, match="a is a file"):
        check_unused(tmp_path / "a")
    with pytest.raises(RunDirectoryError, match="cannot be made"):
        check_unused(tmp_path / "a" / "b")


def test_a_directory_that_may_not_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A test that runs as root could write anywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(RunDirectoryError, match="not a writable directory"):
        check_unused(tmp_path / "run")
