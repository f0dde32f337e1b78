"""Runs over several checkpoints on workers and in parts: the same as in one process."""

from pathlib import Path

import pytest

from extractkit.engine import Silent
from extractkit.engine.execute import execute
from extractkit.runs.parts import join
from tests.engine.checkpoint_examples import files, over
from tests.engine.examples import executed
from tests.faults.runs import content


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three sets of weights."""
    return files(tmp_path_factory.mktemp("weights"), [0, 1, 2])


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, paths: list[str]) -> dict[str, object]:
    """What the run holds that was made in this process."""
    return content(
        executed(tmp_path_factory.mktemp("local") / "run", over(paths, shard_size=7)).path
    )


@pytest.mark.usefixtures("quick_workers")
def test_two_processes_make_the_same_run(
    tmp_path: Path, paths: list[str], local: dict[str, object]
) -> None:
    job = over(paths, shard_size=7, engine="processes")
    assert content(executed(tmp_path / "run", job).path) == local


def test_parts_become_the_run_of_one_process(
    tmp_path: Path, paths: list[str], local: dict[str, object]
) -> None:
    """Parts cut the axis anywhere; how tensors drift along it is reported when they are joined."""
    for number in range(1, 5):
        part = over(paths, shard_size=7, part=f"{number}/4")
        made = execute(part, tmp_path / "run", hydra_files={}, listener=Silent())
        assert not (made / "drift.json").exists()
    join(tmp_path / "run")
    assert content(tmp_path / "run") == local
    assert "drift.json" in local
