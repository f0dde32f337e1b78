"""The page about a sweep, against its runs."""

from pathlib import Path

import numpy as np
import pytest

import extractkit
from extractkit.reports.budget import decoded
from extractkit.runs.sweeps.reader import Sweep
from tests.reports.parsed import Page
from tests.sweep_examples import placed, swept


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(placed(tmp_path_factory.mktemp("sweep")))
        failed = swept(
            "model.seed=0,1",
            "inputs.limit=2,3",
            "+selectors.counted={path: 'pool:output', statistics: [moments]}",
            "+selectors.pooled={path: 'pool:output'}",
        )
        assert failed == []
        found = extractkit.open(Path("s").absolute())
        assert isinstance(found, Sweep)
        return found


@pytest.fixture(scope="module")
def page(sweep: Sweep) -> Page:
    path = extractkit.report(sweep.path)
    assert path == sweep.path.with_name("s.html")
    return Page(path.read_text("utf-8"))


def test_runs_are_listed_by_the_keys_that_vary(sweep: Sweep, page: Page) -> None:
    (listing,) = page.data["runs"]["blocks"]
    assert listing["columns"][:4] == ["job", "model.seed", "inputs.limit", "status"]
    assert [row[:4] for row in listing["rows"]] == [
        ["0", "0", "2", "finished"],
        ["1", "0", "3", "finished"],
        ["2", "1", "2", "finished"],
        ["3", "1", "3", "finished"],
    ]
    assert listing["details"][3]["run"] == str(sweep.jobs[3].directory(sweep.path))


def test_results_are_those_of_each_run(sweep: Sweep, page: Page) -> None:
    figure = page.figures()["results"]
    pickers = {one["name"]: one["options"] for one in page.data["results"]["pickers"]}
    assert pickers["key"] == ["model.seed", "inputs.limit"]
    by_seed = figure["cubes"][0]
    assert by_seed["texts"]["setting"] == ["0", "0", "1", "1"]
    assert by_seed["texts"]["others"] == [f"inputs.limit={n}" for n in (2, 3, 2, 3)]
    drawn = decoded(by_seed["values"])
    assert drawn.shape == (len(pickers["tensor"]), len(pickers["measure"]), 4)
    for job in range(4):
        values = np.asarray(sweep.runs[job]["pool:output@pooled"], np.float64)
        wanted = {
            "mean": values.mean(),
            "standard deviation": values.std(axis=0).mean(),
            "smallest": values.min(),
            "largest": values.max(),
        }
        for measure, number in wanted.items():
            selector = "counted" if measure in ("mean", "standard deviation") else "pooled"
            tensor = pickers["tensor"].index(f"pool:output@{selector}")
            found = drawn[tensor, pickers["measure"].index(measure), job]
            assert found == pytest.approx(number, rel=1e-5)


def test_a_job_that_failed_is_named_with_the_reason(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(placed(tmp_path))
        assert len(swept("inputs.limit=2,0", "+selectors.all={path: '*'}")) == 1
    page = Page(extractkit.report(tmp_path / "s").read_text("utf-8"))
    rows = page.data["overview"]["blocks"][0]["rows"]
    assert rows[0][:2] == ["1", "failed"]
    assert "inputs.limit" in rows[0][2]
    assert "not started" not in page.text
