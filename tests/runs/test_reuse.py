"""Finding a finished run by its identity."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from extractkit.errors import ConfigError
from extractkit.runs import manifest as manifests
from extractkit.runs.manifest import Status
from extractkit.runs.same_job import find_finished
from tests.runs.examples import Example, manifest


@pytest.fixture
def root(example: Example, tmp_path: Path) -> Path:
    """A finished run of identity "one", some directories down."""
    run = tmp_path / "outputs" / "day" / "b"
    shutil.copytree(example.path, run)
    recorded = manifests.read(run)
    manifests.write(run, replace(recorded, identity="one"))
    return tmp_path / "outputs"


def test_a_finished_run_of_the_identity_is_found(root: Path) -> None:
    assert find_finished(root, "one", print) == root / "day" / "b"
    assert find_finished(root / "day" / "b", "one", print) == root / "day" / "b"
    assert find_finished(root, "two", print) is None


def test_it_is_found_from_where_we_stand(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    assert find_finished(Path("outputs"), "one", print) == root / "day" / "b"


def test_of_several_the_first_path_is_taken(root: Path) -> None:
    shutil.copytree(root / "day" / "b", root / "day" / "a")
    assert find_finished(root, "one", print) == root / "day" / "a"


@pytest.mark.parametrize("status", [Status.STARTED, Status.FAILED, Status.INTERRUPTED])
def test_an_unfinished_run_is_not_taken(status: Status, tmp_path: Path) -> None:
    manifests.write(tmp_path, manifest(status=status, identity="one"))
    assert find_finished(tmp_path, "one", print) is None


def test_a_damaged_run_is_not_taken_and_said(root: Path) -> None:
    notes: list[str] = []
    shutil.copytree(root / "day" / "b", root / "day" / "c")
    (root / "day" / "b" / "tensors.h5").unlink()
    assert find_finished(root, "one", notes.append) == root / "day" / "c"
    (note,) = notes
    assert note.startswith("not reused: ")
    assert "tensors.h5 is missing" in note


@pytest.mark.parametrize("content", ["", "{}", '{"schema": 1}', '{"schema": 3}'])
def test_a_run_that_cannot_be_read_is_passed_over(content: str, root: Path) -> None:
    (root / "day" / "a").mkdir()
    (root / "day" / "a" / "manifest.json").write_text(content)
    assert find_finished(root, "one", print) == root / "day" / "b"


def test_a_run_without_sinks_is_passed_over(root: Path) -> None:
    odd = root / "day" / "a"
    odd.mkdir()
    manifests.write(odd, manifest(status=Status.FINISHED, identity="one", job_resolved={}))
    assert find_finished(root, "one", print) == root / "day" / "b"


def test_a_run_inside_another_is_not_looked_for(root: Path) -> None:
    shutil.copytree(root / "day" / "b", root / "day" / "inner")
    (root / "day" / "b" / "manifest.json").unlink()
    manifests.write(root, manifest(identity="two"))
    assert find_finished(root, "one", print) is None


def test_what_is_no_directory_is_refused(tmp_path: Path) -> None:
    for name in ("missing", "file"):
        (tmp_path / "file").touch()
        with pytest.raises(ConfigError) as caught:
            find_finished(tmp_path / name, "one", print)
        assert str(caught.value) == (
            f"runtime.reuse_from={str(tmp_path / name)!r} is not a directory. Give one that holds "
            f"runs, such as outputs, or null"
        )
