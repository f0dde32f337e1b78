"""The page in a real browser: nothing fails, nothing is requested, everything can be used."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import extractkit
from extractkit.testing.reference import ReferenceModel
from tests.real_models import FOLDER, skipped_if_out_of_reach
from tests.reports import browser as chromium
from tests.reports.examples import HOSTILE, STATISTICS

pytestmark = pytest.mark.browser


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


@pytest.fixture(params=["light", "dark"])
def page(request: pytest.FixtureRequest, browser: Any, report: Path) -> Iterator[Any]:
    """The page on a desktop in light, and on a phone in dark; it must not fail."""
    width = 1280 if request.param == "light" else 390
    context = browser.new_context(
        color_scheme=request.param, viewport={"width": width, "height": 844}
    )
    opened = context.new_page()
    wrong: list[str] = []
    opened.on("console", lambda message: wrong.append(message.text))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("request", lambda one: wrong.append(one.url) if one.url != opened.url else None)
    opened.goto(report.as_uri())
    yield opened
    assert [text for text in wrong if not text.startswith("file:")] == []
    context.close()


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

    search = page.locator("#tensors input[type=search]")
    if search.count():
        search.fill("pool")
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
    from axe_playwright_python.base import AXE_FILE_PATH

    read_through(page)
    # The page's policy forbids other scripts, so axe is evaluated by the browser's own tools.
    page.evaluate(AXE_FILE_PATH.read_text("utf-8"))
    found = page.evaluate("axe.run().then(found => found.violations)")
    assert [(one["id"], one["nodes"][0]["html"][:100]) for one in found] == []
