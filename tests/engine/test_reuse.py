"""A finished run of the same identity in place of computing it again: `runtime.reuse_from`."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from extractkit.core.job import Job
from extractkit.engine.execute import execute
from extractkit.errors import ConfigError
from extractkit.runs.manifest import Status, read
from extractkit.runs.reader import open_run
from extractkit.testing.reference import ReferenceModel
from tests.engine.examples import EVERYTHING, executed, job
from tests.engine.test_execute import Collected


def wanted(root: Path, **changes: object) -> Job:
    return job(EVERYTHING, shard_size=8, reuse_from=str(root), **changes)  # type: ignore[arg-type]


def reusing(path: Path, given: Job) -> tuple[Path, Collected]:
    reported = Collected()
    return execute(given, path, hydra_files={"x": ""}, listener=reported), reported


def test_a_finished_run_of_the_same_identity_is_found(tmp_path: Path) -> None:
    finished = executed(tmp_path / "runs" / "a", job(EVERYTHING, shard_size=8)).path
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    found, reported = reusing(tmp_path / "new" / "b", wanted(tmp_path / "runs"))
    assert found == finished
    assert reported.notes[-1] == f"reused {finished}: a finished run of the same identity"
    assert reported.summaries == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_it_is_found_below_the_directory_of_the_new_run(tmp_path: Path) -> None:
    finished = executed(tmp_path / "a", job(EVERYTHING, shard_size=8)).path
    found, _ = reusing(tmp_path / "b", wanted(tmp_path))
    assert found == finished
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("changes", [{"model": ReferenceModel(1)}, {"seed": 1}])
def test_a_run_of_another_identity_is_not_taken(
    changes: Mapping[str, object], tmp_path: Path
) -> None:
    executed(tmp_path / "a", job(EVERYTHING, shard_size=8))
    found, _ = reusing(tmp_path / "b", wanted(tmp_path, **changes))
    assert found == tmp_path / "b"
    assert open_run(found).status is Status.FINISHED


def test_a_damaged_run_is_not_taken(tmp_path: Path) -> None:
    executed(tmp_path / "a", job(EVERYTHING, shard_size=8))
    (tmp_path / "a" / "shards" / "constants.npz").unlink()
    found, _ = reusing(tmp_path / "b", wanted(tmp_path))
    assert found == tmp_path / "b"


def test_a_run_that_cannot_be_distinguished_is_computed(tmp_path: Path) -> None:
    class Eager(ReferenceModel):
        def definition_digest(self) -> None:
            return None

    executed(tmp_path / "a", job(EVERYTHING, model=Eager()))
    assert read(tmp_path / "a").identity is None
    found, reported = reusing(tmp_path / "b", wanted(tmp_path, model=Eager()))
    assert found == tmp_path / "b"
    assert any("it is unknown what this model computes" in note for note in reported.notes)


def test_what_is_no_directory_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"runtime\.reuse_from='.*none' is not a directory"):
        reusing(tmp_path / "b", wanted(tmp_path / "none"))
    assert not any(tmp_path.iterdir())
