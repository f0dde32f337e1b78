"""The page about two runs, against NumPy."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import extractkit
from extractkit import cli
from extractkit.core.catalog import Catalog
from extractkit.core.spec import TensorSpec
from extractkit.core.values import Array
from extractkit.errors import ConfigError
from extractkit.reports.budget import decoded
from extractkit.reports.comparison import header
from extractkit.runs.comparing.overview import departures
from extractkit.runs.comparing.result import Comparison
from extractkit.runs.reader import Run
from extractkit.testing.reference import ReferenceModel
from tests.reports.examples import EVERYTHING, HOSTILE
from tests.reports.parsed import Page

TEXTS = [*HOSTILE, "abcdefgh", "abc"]


class Changed(ReferenceModel):
    """The same model with a layer that is off by a little in every second element."""

    def forward(self, tokens: Array) -> dict[str, Array]:
        found = super().forward(tokens)
        off = found["pool:output"].copy()
        off[..., ::2] *= np.float32(1 + 1e-3)
        if len(tokens) == 3:
            off[..., 0] = np.nan
        return {**found, "pool:output": off}


def extracted(model: ReferenceModel, into: Path) -> Run:
    return extractkit.extract(model=model, inputs=TEXTS, selectors=EVERYTHING, run_dir=into)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    folder = tmp_path_factory.mktemp("runs")
    return extracted(ReferenceModel(), folder / "a"), extracted(Changed(), folder / "<i>b")


@pytest.fixture(scope="module")
def found(runs: tuple[Run, Run]) -> Comparison:
    return extractkit.diff(*runs)


@pytest.fixture(scope="module")
def page(found: Comparison) -> Page:
    path = extractkit.report(found)
    assert path == Path(found.a).with_name("a-<i>b.html")
    return Page(path.read_text("utf-8"))


def pooled(runs: Sequence[Run]) -> tuple[list[int], Array, Array]:
    """The samples with values, and both tensors."""
    here = [at for at in range(len(TEXTS)) if at not in runs[0].missing]
    a, b = (np.stack([run["pool:output"].sample(at) for at in here]) for run in runs)
    return here, a.astype(np.float64), b.astype(np.float64)


def test_errors_are_counted_by_size_and_by_sample(runs: tuple[Run, Run], found: Comparison) -> None:
    apart = departures(found, 10)
    (one,) = (one for one in apart.tensors if one.tensor.a == "pool:output")
    _, a, b = pooled(runs)
    errors = np.abs(a - b)
    known = errors[np.isfinite(errors)]
    wanted = Counter(int(np.floor(4 * np.log10(error))) for error in known if error)
    assert one.counts == wanted
    assert one.largest == np.abs(a[np.isfinite(b)]).max()
    assert one.by_sample is not None
    np.testing.assert_array_equal(
        one.by_sample, np.where(np.isnan(errors).any(1), np.inf, errors.max(1))
    )


def test_the_page_draws_the_errors_in_the_order_of_the_first_run(
    found: Comparison, page: Page
) -> None:
    figure = page.figures()["layers"]
    measured = [one for one in found.tensors if one.errors is not None]
    assert figure["cubes"][0]["labels"] == [[one.a for one in measured]]
    relative = [one.errors.relative_l2 for one in measured if one.errors]
    drawn = decoded(figure["cubes"][0]["values"])
    np.testing.assert_allclose(drawn, [one or np.nan for one in relative], rtol=1e-6)
    verdicts = figure["cubes"][0]["texts"]["verdict"]
    at = [one.a for one in measured].index("pool:output")
    assert verdicts[at] == "beyond the tolerance"
    assert set(verdicts[:at]) == {"bitwise equal"}


def test_the_first_tensor_that_departs_and_the_furthest_sample_are_named(page: Page) -> None:
    assert "the first beyond: pool:output" in page.text
    *_, listing = page.data["samples"]["blocks"]
    assert listing["rows"][0][:2] == ["6: abc", "pool:output"]
    assert "<i>b against a" in page.text


def test_all_tensors_are_listed_with_their_measures(found: Comparison, page: Page) -> None:
    (listing,) = page.data["tensors"]["blocks"]
    assert listing["tree"]
    assert [row[:2] for row in listing["rows"]] == [[one.a, one.verdict] for one in found.tensors]
    at = [one.a for one in found.tensors].index("pool:output")
    assert listing["details"][at]["worst sample"].startswith("6: ")


def test_runs_that_are_equal_say_so(runs: tuple[Run, Run], tmp_path: Path) -> None:
    again = extracted(ReferenceModel(), tmp_path / "again")
    path = extractkit.report(extractkit.diff(runs[0], again), tmp_path / "page.html")
    page = Page(path.read_text("utf-8"))
    assert "bitwise equal" in page.text
    assert "errors" not in page.data
    assert "samples" not in page.data


def test_two_runs_on_the_command_line(
    runs: tuple[Run, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = (str(run.path) for run in runs)
    given = ["--output", str(tmp_path / "p.html"), "--only", "pool:output", "--rtol", "0.1"]
    assert cli.execute(["report", a, b, *given]) == cli.DONE
    assert capsys.readouterr().out == f"{tmp_path / 'p.html'}\n"
    page = Page((tmp_path / "p.html").read_text("utf-8"))
    assert [row[0] for row in page.data["tensors"]["blocks"][0]["rows"]] == ["pool:output"]


@pytest.mark.parametrize("option", ["--map FILE", "--only GLOB", "--rtol X", "--atol X"])
def test_options_of_a_comparison_need_two_runs(runs: tuple[Run, Run], option: str) -> None:
    run, flag = str(runs[0].path), option.partition(" ")[0]
    with pytest.raises(ConfigError) as refused:
        cli.execute(["report", run, flag, "0.5"])
    assert str(refused.value) == (
        f"report: {flag} is for two runs, and only {run} is given. Name the other: "
        f"extractkit report {run} OTHER {option}"
    )


def test_the_head_of_the_page_names_runs_by_their_folders(
    found: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(found.a)
    shown = header(replace(found, a=".", mapped=True))
    assert shown.name == "<i>b against a"
    assert shown.job.startswith("extractkit diff . ")
    assert shown.job.endswith(" --map FILE")


def test_a_page_inside_either_run_is_refused(found: Comparison) -> None:
    inside = Path(found.b) / "page.html"
    with pytest.raises(ConfigError, match=re.escape(f"output={str(inside)!r} is inside the run")):
        extractkit.report(found, inside)


class Large(ReferenceModel):
    """Numbers of 64 bits, whose errors have no place among those of 32 bits."""

    factor = 1.0

    def forward(self, tokens: Array) -> dict[str, Array]:
        found = super().forward(tokens)
        return {**found, "pool:output": found["pool:output"].astype(np.float64) * self.factor}


class Larger(Large):
    factor = 1e200


def test_errors_beyond_the_range_of_a_chart_are_listed(tmp_path: Path) -> None:
    both = []
    for model in (Large(), Larger()):
        ours = [
            replace(one, spec=TensorSpec.of("float64", ("sample", None), one.spec.shape))
            if one.address == "pool:output"
            else one
            for one in model.catalog.records
        ]
        model.__dict__["catalog"] = Catalog(ours, model.catalog.model)
        both.append(extracted(model, tmp_path / type(model).__name__))
    page = Page(extractkit.report(extractkit.diff(*both)).read_text("utf-8"))
    (listing,) = page.data["tensors"]["blocks"]
    (row,) = (row for row in listing["rows"] if row[0] == "pool:output")
    assert float(row[2]) > 1e190
    figure = page.figures()["errors"]
    assert figure["cubes"][0]["labels"][0][-1].endswith(("e+199", "e+200"))
