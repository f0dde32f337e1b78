"""The page of a report: what it holds, and that nothing in a run can break out of it."""

import base64
import hashlib
import os
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

import extractkit
from extractkit import cli
from extractkit.errors import ConfigError, JobError, RunDirectoryError
from extractkit.reports.budget import decoded, embedded
from extractkit.runs import manifest
from extractkit.runs.reader import Run
from extractkit.store.local import write_durably
from extractkit.testing.reference import ReferenceModel
from tests.reports.examples import HOSTILE, STATISTICS, hostile_run
from tests.reports.parsed import Page


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return hostile_run(tmp_path_factory.mktemp("runs") / "<i>run")


@pytest.fixture(scope="module")
def page(run: Run) -> Page:
    return Page(extractkit.report(run.path).read_text("utf-8"))


def test_it_is_written_beside_the_run_which_stays_whole(run: Run, page: Page) -> None:
    assert (run.path.parent / "<i>run.html").is_file()
    assert not extractkit.verify(run.path).failed


def test_attention_on_the_page_is_that_of_the_run(run: Run, page: Page) -> None:
    figure = page.figures()["attention-map"]
    with h5py.File(run.path / "tensors.h5") as file:
        offsets, shapes, values = (
            file["attention:op/Softmax"][name][:] for name in ("offsets", "shapes", "values")
        )
    present = [index for index, text in enumerate(HOSTILE) if text]
    for cube, index in zip(figure["cubes"], present, strict=True):
        stored = values[offsets[index] : offsets[index + 1]].reshape(shapes[index])
        wanted = stored[:48, :48].astype(np.float16)
        np.testing.assert_array_equal(decoded(cube["values"])[0], wanted)
        assert cube["labels"] == [list(HOSTILE[index][:48])] * 2


def test_texts_and_names_stay_text(page: Page) -> None:
    tags = [tag for tag, _ in page.elements]
    assert not {"b", "i"} & set(tags)
    assert [tag for tag in tags if tag == "script"] == ["script"] * (len(page.data) + 3)
    assert "<i>run" in page.text
    assert f"0: {HOSTILE[0]}" in page.text
    assert f"4: {HOSTILE[4]}" in page.text


def test_only_its_own_code_can_run_and_nothing_is_loaded(run: Run, page: Page) -> None:
    for _, attributes in page.elements:
        assert not {"src", "style", "onclick", "onload"} & set(attributes)
        assert not (attributes.get("href") or "#").partition("#")[0]
    assert page.policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in page.policy
    text = run.path.with_name("<i>run.html").read_text("utf-8")
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    for one in scripts:
        digest = base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in page.policy
    assert len(scripts) == 2


def test_the_code_that_draws_charts_is_kept_for_the_next_page(run: Run, page: Page) -> None:
    (kept,) = (Path(os.environ["XDG_CACHE_HOME"]) / "extractkit" / "vega").glob("*.js")
    assert page.figures()
    assert kept.read_text("utf-8") in run.path.with_name("<i>run.html").read_text("utf-8")


def test_the_table_lists_each_tensor_with_its_extremes(run: Run, page: Page) -> None:
    (listing,) = page.data["tensors"]["blocks"]
    assert [row[0] for row in listing["rows"]] == [*run]
    at = [*run].index("pool:output")
    values = np.asarray(run["pool:output"])
    row, details = listing["rows"][at], listing["details"][at]
    assert row[1:3] == ["sample × 4", "float32"]
    assert [float(row[4]), float(row[5])] == pytest.approx(
        [np.nanmin(values), np.nanmax(values)], rel=1e-3
    )
    assert details["layer"] == "MeanPooling"
    assert details["selectors"] == "all"


def test_what_could_not_be_extracted_is_listed(page: Page) -> None:
    (listing,) = page.data["absent"]["blocks"]
    assert ["tensor", "attention:op/Count"] in [row[:2] for row in listing["rows"]]


def test_statistics_alone_get_a_page(tmp_path: Path) -> None:
    run = extractkit.extract(
        model=ReferenceModel(), inputs=["abc", "de"], selectors=STATISTICS, run_dir=tmp_path / "run"
    )
    page = Page(extractkit.report(run.path, tmp_path / "my.html").read_text("utf-8"))
    histogram = page.figures()["distribution"]
    counts = run.statistics["embedding:output"].histogram.counts
    np.testing.assert_array_equal(decoded(histogram["cubes"][0]["values"]), counts)
    assert {row[2] for row in page.data["statistics"]["blocks"][0]["rows"]} == {
        "moments", "histogram", "top",
    }  # fmt: skip
    assert "tensors" not in page.data


def test_an_unfinished_run_gets_a_page_about_what_is_whole(tmp_path: Path) -> None:
    run = hostile_run(tmp_path / "run")
    recorded = manifest.read(run.path)
    started = {"status": manifest.Status.INTERRUPTED, "actual": None, "files": recorded.files}
    manifest.write(run.path, type(recorded)(**{**vars(recorded), **started}))
    page = Page(extractkit.report(run.path).read_text("utf-8"))
    assert "This run is interrupted" in page.text
    assert "extractkit resume" in page.text
    assert "attention-map" in page.figures()


def test_the_verb_prints_the_file_last(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--output", "page.html", "--figures", "figures"]
    assert cli.execute(["report", str(run.path), *options]) == cli.DONE
    assert capsys.readouterr().out == f"{tmp_path / 'page.html'}\n"
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"attention-map.svg", "attention-map.png"} <= names


GOLDEN = Path(__file__).parents[1] / "golden" / "runs"
RECENT = sorted((GOLDEN / "schema-12").rglob("manifest.json"))


@pytest.mark.parametrize(
    "recorded", RECENT, ids=lambda path: str(path.parent.relative_to(GOLDEN / "schema-12"))
)
def test_each_kind_of_run_gets_a_page(recorded: Path, tmp_path: Path) -> None:
    kind = recorded.parent.name
    page = Page(extractkit.report(recorded.parent, tmp_path / "page.html").read_text("utf-8"))
    assert {"overview", "tensors", "provenance"} <= set(page.data)
    assert ("This run is " in page.text) == kind.endswith("interrupted")
    assert ("drift" in page.data) == (kind in ("trajectory", "training"))
    assert ("saliency" in page.data) == kind.startswith("gradients")
    assert ("statistics" in page.data) == kind.startswith(("statistics", "training"))
    assert "is damaged" not in page.text


def test_a_damaged_run_gets_a_page_that_names_the_damage(tmp_path: Path) -> None:
    run = hostile_run(tmp_path / "run")
    shard = next((run.path / "shards").iterdir())
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    page = Page(extractkit.report(run.path).read_text("utf-8"))
    assert shard.name in page.text
    assert len(page.data["tensors"]["blocks"][0]["rows"]) == len(run)


def test_what_is_no_run_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunDirectoryError, match="is not a run directory"):
        extractkit.report(tmp_path / "empty")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (
            {"output": "{run}/page.html"},
            "output='{run}/page.html' is inside the run, whose files do",
        ),
        ({"figures": "{run}"}, "figures='{run}' is inside the run"),
        ({"output": "{tmp}/no/page.html"}, "{tmp}/no is not a directory. Make it first"),
        ({"output": "{tmp}"}, "output='{tmp}' is a directory. Choose another name"),
        ({"figures": "{tmp}/file"}, "figures='{tmp}/file' is a file. Choose another name"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused(
    run: Run, tmp_path: Path, places: dict[str, str], message: str
) -> None:
    (tmp_path / "file").touch()
    known = {"run": run.path, "tmp": tmp_path}
    given = {name: text.format(**known) for name, text in places.items()}
    with pytest.raises(ConfigError, match=re.escape(message.format(**known))):
        extractkit.report(run.path, **given)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_of_files_that_exist_only_reports_are_replaced(run: Run, tmp_path: Path) -> None:
    page, mine, link, figures = (tmp_path / name for name in ("p.html", "mine.html", "link", "f"))
    mine.write_text("<html>mine", "utf-8")
    link.symlink_to(mine)
    figures.mkdir()
    (figures / "attention-map.png").write_bytes(b"mine")
    other = "Choose another name"
    for output, message in (
        (mine, f"exists and is not a report, which alone is replaced. {other}, or remove it first"),
        (link, f"is a link. {other}"),
        (Path(os.devnull), f"is not a regular file. {other}"),
    ):
        with pytest.raises(ConfigError) as caught:
            extractkit.report(run.path, output)
        assert str(caught.value) == f"output={str(output)!r} {message}"
    with pytest.raises(ConfigError, match=r"figures='.*f': attention-map\.png exists there\. "):
        extractkit.report(run.path, page, figures=figures)
    assert not page.exists()
    assert mine.read_text("utf-8") == "<html>mine"
    assert [one.read_bytes() for one in figures.iterdir()] == [b"mine"]
    page.write_bytes(extractkit.report(run.path).read_bytes()[:3000])
    extractkit.report(run.path, page)
    assert page.read_bytes() == extractkit.report(run.path).read_bytes()


@pytest.mark.parametrize("failing", ["attention-map.png", "page.html"])
def test_what_cannot_be_written_leaves_nothing(
    run: Run, tmp_path: Path, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, *content: bytes) -> None:
        if path.name == failing:
            raise JobError(f"{path} could not be written: Read-only file system")
        write_durably(path, *content)

    monkeypatch.setattr("extractkit.reports.page.write_durably", refused)
    why = rf"{failing} could not be written: Read-only file system\. Choose another place"
    with pytest.raises(ConfigError, match=why):
        extractkit.report(run.path, tmp_path / "page.html", figures=tmp_path / "figures")
    assert list(tmp_path.iterdir()) == []


def test_embedded_data_cannot_end_its_element() -> None:
    assert embedded({"a": "</script><!--", "b": "\ud800\u2028"}) == (
        '{"a":"\\u003c/script\\u003e\\u003c!--","b":"\\ud800\\u2028"}'
    )
