"""The jobs of a sweep before the first of them: those that Hydra then makes."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from extractkit.config.app import launch
from extractkit.config.compose import planned_jobs
from extractkit.config.hydra_internals import BASIC_SWEEPER
from extractkit.core.job import Job


def config(*overrides: str, sweeper: str = BASIC_SWEEPER, params: object = None) -> DictConfig:
    return OmegaConf.create(
        {
            "hydra": {
                "sweeper": {"_target_": sweeper, "params": params},
                "overrides": {"task": list(overrides)},
            }
        }
    )


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["a=1"], [["a=1"]]),
        (["a=1,2", "b=x,y"], [["a=1", "b=x"], ["a=1", "b=y"], ["a=2", "b=x"], ["a=2", "b=y"]]),
        (["a=range(0,3)", "b=[1,2]"], [[f"a={n}", "b=[1,2]"] for n in range(3)]),
        (["a='x,y','z'"], [["a='x,y'"], ["a='z'"]]),
    ],
)
def test_all_are_reported_in_order(overrides: Sequence[str], expected: list[list[str]]) -> None:
    found = planned_jobs(config(*overrides))
    assert [list(job.overrides) for job in found] == expected
    assert [job.number for job in found] == list(range(len(expected)))
    assert {(job.status.value, job.error) for job in found} == {("not started", "not begun")}


def test_what_the_sweeper_always_varies_is_among_them() -> None:
    found = planned_jobs(config("a=1", params={"b": "1,2"}))
    assert [job.values for job in found] == [{"b": 1, "a": 1}, {"b": 2, "a": 1}]


def test_of_what_only_hydra_knows_there_are_none() -> None:
    assert planned_jobs(config("model=glob(*)")) == []
    assert planned_jobs(config("a=interval(0,1)")) == []
    assert planned_jobs(config("a=1,2", sweeper="hydra_plugins.other.Sweeper")) == []


@pytest.mark.parametrize(
    ("arguments", "jobs"),
    [
        ([], 1),
        (["-m", "inputs.limit=1,2"], 2),
        (["hydra.mode=MULTIRUN", "inputs.limit=1,2"], 2),
        (["+hydra={mode: MULTIRUN}", "inputs.limit=1,2"], 2),
        (["--config-dir=own", "experiment=many", "inputs.limit=1,2"], 2),
        (["hydra.searchpath=[file://own]", "experiment=many", "inputs.limit=1,2"], 2),
    ],
)
def test_a_sweep_begins_wherever_hydra_s_mode_is_set(
    arguments: list[str], jobs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    experiment = tmp_path / "own" / "experiment" / "many.yaml"
    experiment.parent.mkdir(parents=True)
    experiment.write_text("# @package _global_\nhydra: {mode: MULTIRUN}\n", "utf-8")
    limits: list[object] = []
    given = ["model=keras", "model.path=net.keras", "selectors=outputs", "inputs.path=t.txt"]
    failures = launch(
        [*arguments, *given],
        lambda composed: limits.append(composed.job.inputs.arguments["limit"]),
        lambda error: pytest.fail(str(error)),
        dry=True,
    )
    assert not failures
    assert len(limits) == jobs


def test_a_job_is_composed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resolvers of the user's own that choose an option or a value are asked once each."""
    monkeypatch.chdir(tmp_path)
    asked: list[object] = []

    def answered(option: object) -> object:
        asked.append(option)
        return option

    OmegaConf.register_new_resolver("answered", answered)
    jobs: list[Job] = []
    try:
        launch(
            [
                "model=keras",
                "model.path=net.keras",
                "selectors=outputs",
                "inputs=${answered:random}",
                "inputs.seed=${answered:3}",
            ],
            lambda composed: jobs.append(composed.job),
            lambda error: pytest.fail(str(error)),
            dry=True,
        )
    finally:
        OmegaConf.clear_resolver("answered")
    assert [job.inputs.target for job in jobs] == ["extractkit.inputs.random.Random"]
    assert asked == ["random", 3]
