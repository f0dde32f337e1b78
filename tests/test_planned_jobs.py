"""The jobs of a sweep before the first of them: those that Hydra then makes."""

from collections.abc import Sequence

import pytest
from omegaconf import DictConfig, OmegaConf

from extractkit.config.compose import planned_jobs
from extractkit.config.hydra_internals import BASIC_SWEEPER


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
