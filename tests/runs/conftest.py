"""Runs to read."""

from pathlib import Path

import pytest

from tests.runs.examples import Example, finished_run


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Example:
    """A finished run; tests that change it copy it first."""
    return finished_run(tmp_path_factory.mktemp("example") / "run")


@pytest.fixture
def run_path(tmp_path: Path) -> Path:
    """Where a run may go."""
    return tmp_path / "run"
