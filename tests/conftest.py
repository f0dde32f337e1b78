"""Hooks for the whole suite."""

import os
import secrets
import signal
from collections.abc import Generator

import hypothesis
import pytest

# Ray reads these when it is imported. Clusters of these tests have a token of their own, so that
# nobody else's is looked for, and tell nobody that they are used.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

REQUIRE = "EXTRACTKIT_REQUIRE_REAL_MODELS"

# No test fails for taking its time: machines that run the gate have other work, too.
hypothesis.settings.register_profile("gate", deadline=None)
hypothesis.settings.load_profile("gate")


@pytest.fixture(autouse=True, scope="session")
def _no_terminal() -> Generator[None]:
    """Output is folded where a width is told, and none is to be told by chance.

    pytest imports readline, which leaves COLUMNS and LINES to every process started from then on:
    that is where xdist's have theirs from.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in ("COLUMNS", "LINES"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> Generator[None]:
    """Signals do what they do at a terminal, also where the gate runs in the background."""
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def _refuse(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure that says why."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"{REQUIRE} is set, so real models must be tested, but: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A real model's test skips without its weights; where these are required, it fails."""
    report = yield
    skipped = report.skipped and not hasattr(report, "wasxfail")
    if skipped and os.environ.get(REQUIRE) and item.get_closest_marker("real_model"):
        _refuse(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a module that skips itself while it is imported, before any mark can be read."""
    report = yield
    # What is optional has an environment of its own.
    optional = "optional" in collector.path.parts
    skipped = report.skipped and isinstance(collector, pytest.Module) and not optional
    if skipped and os.environ.get(REQUIRE) and "real_model" in collector.path.read_text("utf-8"):
        _refuse(report)
    return report
