"""Values as HTML in notebooks: texts stay texts, and nothing that is damaged is an error."""

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Group
from rich.rule import Rule
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

import extractkit
from extractkit.errors import ExtractkitError
from extractkit.notebooks.html import element, name, of_terminal, table, written
from extractkit.notebooks.summaries import coloured
from extractkit.runs.reader import Run
from tests.notebooks.examples import Pictured
from tests.reports.examples import HOSTILE, STATISTICS

GOLDEN = Path(__file__).parents[1] / "golden" / "runs" / "schema-13"
HOOK = "_repr_html_"
ELEMENTS = {
    *("div", "style", "h4", "bdi", "span", "table", "thead", "tbody", "tr", "th", "td"),
    *("details", "summary", "pre", "img"),
}
ATTRIBUTES = {"class", "scope", "open", "src", "alt", "width"}


class Shown(HTMLParser):
    """HTML as a browser reads it: what may be in it, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text = ""
        self.path: list[str] = []
        self.feed(text)
        self.close()
        assert self.path == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ELEMENTS
        assert {key for key, _ in attrs} <= ATTRIBUTES
        source = dict(attrs).get("src")
        assert source is None or source.startswith("data:image/png;base64,")
        if tag != "img":
            self.path.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.path.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.path[-1] != "style":
            self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return extractkit.extract(
        model=Pictured(),
        inputs=list(HOSTILE),
        selectors={"all": {"path": "*"}, **STATISTICS},
        run_dir=tmp_path_factory.mktemp("runs") / "<i>run",
    )


def html_of(value: Any) -> str:
    """Return what notebooks get, which call this method of a value."""
    return str(getattr(value, HOOK)())


def values_of(run: Run) -> dict[str, Any]:
    results = run.statistics["pool:output@counted"]
    return {
        "run": run,
        **{f"view of {key}": view for key, view in run.items()},
        "statistics": run.statistics,
        "statistics of one": results,
        "results": results.moments,
        "catalog": extractkit.catalog(model=Pictured()),
        "plan": extractkit.plan(
            model=Pictured(), inputs=list(HOSTILE), selectors={"all": {"path": "*"}}
        ),
        "comparison": extractkit.diff(run.path, run.path),
        "similarity": extractkit.similarity(run, only=["pool:*", ":output"]),
        "verification": extractkit.verify(run.path),
    }


def test_every_value_has_html_and_a_short_text(run: Run) -> None:
    for what, value in values_of(run).items():
        shown = Shown(html_of(value))
        assert shown.text.strip(), what
        assert len(repr(value)) < 400, what
        assert "<i>" not in re.sub(r"<style>.*?</style>", "", html_of(value)), what


def test_a_run_shows_what_terminals_show(run: Run) -> None:
    text = Shown(html_of(run)).text
    for key in run:
        assert key[key.index(":") :] in text
    for fact in ("finished", "5 samples", "<i>run", "moments", "self-check"):
        assert fact in text
    view = next(view for view in run.values() if "softmax" in view.key or view.ndim == 4)
    shown = html_of(view)
    assert view.key in Shown(shown).text
    assert "data:image/png" in shown


def test_tables_of_terminals_are_tables_with_every_tensor(run: Run) -> None:
    """Those whose addresses stay whole in narrow terminals, too."""
    values = values_of(run)
    for what in ("comparison", "plan"):
        html = html_of(values[what])
        assert "<table" in html
        text = Shown(html).text
        assert [key for key in run if key.partition("@")[0] not in text] == [], what
    for what, wanted in (("similarity", "most similar"), ("statistics", "over all samples")):
        assert wanted in Shown(html_of(values[what])).text
    drift = extractkit.open(GOLDEN / "trajectory")
    assert "last against first" in Shown(html_of(drift)).text


def test_what_has_no_form_in_notebooks_is_not_lost() -> None:
    with pytest.raises(TypeError, match="Rule has no form in notebooks"):
        [*of_terminal(Group(Text("above"), Rule()))]


@given(st.lists(st.text(max_size=20), min_size=1, max_size=4))
def test_any_text_stays_text(texts: list[str]) -> None:
    rows = Table(*texts)
    rows.add_row(*(Text(one) for one in texts))
    tree = Tree(Text(texts[0]))
    for one in texts:
        tree.add(Text(one)).add(one)
    made = [*of_terminal(Group(rows, tree, Text(texts[-1], style="red"), *texts))]
    cells: list[str | Any] = [name(texts[0]), *texts[1:]]
    text = written(table(texts, [cells]), element("pre", *texts), *made)
    Shown(text)
    text.encode("utf-8")


def test_unfinished_and_damaged_runs_are_shown(run: Run, tmp_path: Path) -> None:
    whole = [one.relative_to(run.path) for one in run.path.rglob("*") if one.is_file()]
    for file in whole:
        copy = tmp_path / "copy"
        shutil.copytree(run.path, copy)
        opened = extractkit.open(copy)
        assert isinstance(opened, Run)
        (copy / file).write_bytes(b"damaged")
        for value in (opened, opened["pool:output"]):
            Shown(html_of(value))
        (copy / file).unlink()
        try:
            opened = extractkit.open(copy)
        except ExtractkitError:
            pass
        else:
            assert isinstance(opened, Run)
            for value in (opened, opened["layer_0/softmax:output"]):
                Shown(html_of(value))
        shutil.rmtree(copy)


def test_each_kind_of_run_is_shown_with_a_chart_of_each_tensor() -> None:
    """Interrupted ones, those with checkpoints, gradients, statistics alone, and a sweep."""
    kinds = sorted(path.parent for path in GOLDEN.glob("*/manifest.json"))
    assert len(kinds) > 4
    for kind in kinds:
        run = extractkit.open(kind)
        assert isinstance(run, Run)
        shown = Shown(html_of(run)).text
        assert kind.name in shown
        assert ("interrupted" in shown) == kind.name.endswith("interrupted")
        for view in run.values():
            Shown(html_of(view))
            if view.dtype.kind in "fiub":
                assert view.plot().to_dict()["datasets"]
    sweep = extractkit.open(next(GOLDEN.parent.glob("schema-*/sweep")))
    assert "2 jobs" in Shown(html_of(sweep)).text


def test_colours_are_those_of_charts_and_grey_where_nothing_is_finite() -> None:
    found = coloured(np.array([[0.0, 1.0], [np.nan, np.inf]]))
    assert found.tolist() == [[[246, 247, 251], [27, 37, 105]], [[160] * 3, [160] * 3]]
    signed = coloured(np.array([[-2.0, 0.0, 2.0]]))
    assert signed.tolist() == [[[165, 55, 15], [246, 244, 242], [51, 66, 168 - 3]]]


def test_pictures_are_files_that_pillow_reads() -> None:
    import base64
    import io

    from PIL import Image

    from extractkit.notebooks.html import picture

    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 3)).astype(np.uint8)
    source = str(picture(pixels, "noise", 30).get("src")).partition(",")[2]
    with Image.open(io.BytesIO(base64.b64decode(source))) as read:
        np.testing.assert_array_equal(np.asarray(read), pixels)
