"""Widgets: what they hold of a run, and what they do in a browser without a network."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import extractkit
from extractkit.errors import ConfigError, MissingExtraError, UnknownTensorError
from extractkit.notebooks import widgets
from extractkit.runs.reader import Run
from tests.notebooks.examples import HEADS, LAYERS, Pictured
from tests.reports.examples import HOSTILE, hostile_run

pytest.importorskip("anywidget")

CODE = Path(widgets.__file__).parent
TEXTS = [*HOSTILE, "abcdef", "abcdefgh"]
MAPS = {"maps": {"path": "layer_*/softmax:output"}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("runs") / "run"
    return extractkit.extract(model=Pictured(), inputs=TEXTS, selectors=MAPS, run_dir=path)


def maps_in(widget: Any) -> Any:
    return np.frombuffer(widget.maps, "<f4").reshape(widget.shape)


def check(widget: Any, run: Run, sample: int) -> None:
    for layer in range(LAYERS):
        value = run[f"layer_{layer}/softmax:output"].sample(sample)
        found = maps_in(widget)[layer]
        np.testing.assert_allclose(found[1:], value, atol=1e-3)
        np.testing.assert_allclose(found[0], value.mean(0), atol=1e-3)


def test_attention_is_that_of_the_sample_and_follows_it(run: Run) -> None:
    widget = run.widget.attention(5, layer=1, head=2)
    check(widget, run, 5)
    assert (widget.layer, widget.head, widget.count) == (1, 3, len(TEXTS))
    assert widget.title == "5: abcdef"
    widget.sample = 6
    check(widget, run, 6)
    assert widget.title == "6: abcdefgh"
    widget.sample = 3  # an empty text has no maps
    assert widget.maps == b""
    assert "sample 3" in widget.title
    widget.sample = 0
    check(widget, run, 0)


def test_maps_without_heads_are_shown(tmp_path: Path) -> None:
    run = hostile_run(tmp_path / "run")
    widget = run.widget.attention(2, head=0)
    assert widget.heads == ["head 0"]
    value = run["attention:op/Softmax"].sample(2)
    np.testing.assert_allclose(maps_in(widget)[0, 0], value, atol=1e-3)


def test_mistakes_are_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownTensorError, match=f"layer=9: there are {LAYERS}, from 0 on"):
        run.widget.attention(5, layer=9)
    with pytest.raises(UnknownTensorError, match=f"layer='a': there are {LAYERS}, from 0 on"):
        run.widget.attention(5, layer="a")
    with pytest.raises(ConfigError, match="tokens=0 is not a whole number of 1 or more"):
        run.widget.attention(5, tokens=0)
    with pytest.raises(UnknownTensorError, match=f"head=3: there are {HEADS}, from 0 on"):
        run.widget.attention(5, head=3)
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'extractkit\[notebook\]'"):
        _ = run.widget


def test_the_tree_has_every_tensor_of_a_run_and_of_a_catalog(run: Run) -> None:
    assert [row[0] for row in run.widget.tensors().rows] == [*run]
    catalog = extractkit.catalog(model=Pictured())
    rows = catalog.widget.tensors().rows
    assert [row[0] for row in rows] == [*catalog]
    assert any(row[4].startswith("cannot be extracted: ") for row in rows)


def test_a_widget_loads_nothing() -> None:
    for file in CODE.glob("*.js"):
        text = file.read_text("utf-8")
        assert "import" not in text
        assert "://" not in text
        assert "innerHTML" not in text


# What a notebook does with a widget: give it a model, and listen to what it sets.
PAGE = """<!doctype html><meta charset="utf-8"><title>widget</title><body style="%s">
<div id="root"></div><script type="module">
const values = %s;
values.maps = values.maps && new DataView(
  Uint8Array.from(atob(values.maps), (char) => char.charCodeAt(0)).buffer);
const heard = new Map();
window.model = {
  get: (name) => values[name],
  set: (name, value) => { values[name] = value; (heard.get(`change:${name}`) || (() => {}))(); },
  save_changes: () => {}, on: (event, then) => heard.set(event, then), off: () => {},
};
%s
made.render({ model: window.model, el: document.getElementById("root") });
</script>"""


def page_of(widget: Any, into: Path, style: str = "") -> Path:
    import base64

    names = [name for name in widget.trait_names(sync=True) if not name.startswith("_")]
    values = {name: getattr(widget, name) for name in names if name not in ("layout", "tabbable")}
    values = {name: value for name, value in values.items() if name != "tooltip"}
    if "maps" in values:
        values["maps"] = base64.b64encode(values["maps"]).decode()
    code = (CODE / f"{into.stem}.js").read_text("utf-8").replace("export default", "const made =")
    into.write_text(PAGE % (style, json.dumps(values).replace("<", "\\u003c"), code), "utf-8")
    return into


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 900, "height": 700})
    opened = context.new_page()
    wrong: list[str] = []
    opened.on("console", lambda message: wrong.append(message.text))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("request", lambda one: wrong.append(one.url))
    yield opened
    assert [text for text in wrong if not text.startswith("file:")] == []
    context.close()


@pytest.mark.browser
def test_attention_can_be_pointed_at_and_chosen(run: Run, page: Any, tmp_path: Path) -> None:
    widget = run.widget.attention(0)
    page.goto(page_of(widget, tmp_path / "attention.html").as_uri())
    assert page.locator("bdi.title").inner_text().startswith("0: </script>")
    grid, full = page.locator("canvas").nth(0), page.locator("canvas").nth(1)
    grid.press("ArrowDown")
    grid.press("ArrowRight")
    assert page.evaluate("[model.get('layer'), model.get('head')]") == [1, 1]
    assert page.locator("select").nth(0).evaluate("one => one.selectedIndex") == 1
    box = full.bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)  # the first cell is right of the labels
    shown = page.locator(".value").inner_text()
    one = float(shown.rpartition(": ")[2])
    assert one == pytest.approx(maps_in(widget)[1, 1, 0, 0], abs=1e-3)
    coloured = full.evaluate(
        "one => new Set(one.getContext('2d').getImageData(95, 95, 80, 80).data).size"
    )
    assert coloured > 3


@pytest.mark.browser
def test_tensors_can_be_searched_and_chosen(page: Any, tmp_path: Path) -> None:
    catalog = extractkit.catalog(model=Pictured())
    page.goto(page_of(catalog.widget.tensors(), tmp_path / "tensors.html").as_uri())
    assert page.locator("[role=status]").inner_text() == f"{len(catalog)} tensors, 0 chosen"
    assert "block/<b>image:output" in page.locator(".tree").inner_text()
    page.fill("input[type=search]", "softmax:output")
    assert page.locator(".tree label").count() == LAYERS
    page.locator(".tree input").first.check()
    assert page.evaluate("model.get('chosen')") == ["layer_0/softmax:output"]
    page.fill("input[type=search]", "")
    page.evaluate("model.set('chosen', [])")
    assert page.locator("input:checked").count() == 0
