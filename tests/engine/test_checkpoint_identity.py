"""What of an axis of checkpoints is part of a run's identity: contents, labels, steps, order."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from extractkit.core.component import Component
from extractkit.core.job import Job
from extractkit.engine import Silent
from extractkit.engine.execute import execute
from tests.engine.checkpoint_examples import drawn, files, over, written
from tests.engine.examples import executed, job
from tests.engine.test_identity import POOLED, identity


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    return files(tmp_path / "a")


def named(checkpoints: object) -> Job:
    """A job as a configuration gives it, its paths among the model's arguments."""
    target = "extractkit.testing.reference.ReferenceModel"
    arguments = {"checkpoints": checkpoints}
    return replace(job(POOLED), model=Component("model", target, arguments))


def live(checkpoints: list[str]) -> Job:
    return over(checkpoints, POOLED)


BOTH = pytest.mark.parametrize("of", [named, live])
Maker = Callable[[list[str]], Job]


@BOTH
def test_the_directory_does_not_matter(of: Maker, paths: list[str], tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    moved = [path.replace("/a/", "/b/") for path in paths]
    assert moved != paths
    assert identity(of(moved)) == identity(of(paths))


def test_nor_does_it_whether_a_glob_or_a_list_named_them(paths: list[str], tmp_path: Path) -> None:
    assert identity(named(f"{tmp_path}/a/*")) == identity(named(paths))


@BOTH
def test_content_labels_order_and_number_matter(
    of: Maker, paths: list[str], tmp_path: Path
) -> None:
    before = identity(of(paths))
    renamed = shutil.copy(paths[1], tmp_path / "a" / "other.safetensors")
    others = [
        paths[::-1],
        paths[:2],
        [paths[0], str(renamed), paths[2]],
        [paths[1], paths[0], paths[2]],
    ]
    found = [identity(of(other)) for other in others]
    written(Path(paths[1]), drawn(8))
    found.append(identity(of(paths)))
    assert len({before, *found}) == 6


def test_one_checkpoint_is_not_a_run_without_an_axis(paths: list[str]) -> None:
    assert identity(named(paths[:1])) != identity(named(None))


def test_a_finished_run_is_reused_wherever_its_checkpoints_lie(
    paths: list[str], tmp_path: Path
) -> None:
    finished = executed(tmp_path / "runs" / "first", named(paths)).path
    shutil.move(tmp_path / "a", tmp_path / "b")
    moved = [path.replace("/a/", "/b/") for path in paths]

    def wanted(given: list[str]) -> Path:
        of = named(given)
        of = replace(of, runtime=replace(of.runtime, reuse_from=str(tmp_path / "runs")))
        return execute(of, tmp_path / "new", hydra_files={}, listener=Silent())

    assert wanted(moved) == finished
    assert not (tmp_path / "new").exists()
    written(Path(moved[2]), drawn(8))
    assert wanted(moved) == tmp_path / "new"


def test_a_damaged_drift_is_no_run_to_reuse(paths: list[str], tmp_path: Path) -> None:
    finished = executed(tmp_path / "runs" / "first", named(paths)).path
    (finished / "drift.json").unlink()
    of = named(paths)
    of = replace(of, runtime=replace(of.runtime, reuse_from=str(tmp_path / "runs")))
    assert execute(of, tmp_path / "new", hydra_files={}, listener=Silent()) == tmp_path / "new"
