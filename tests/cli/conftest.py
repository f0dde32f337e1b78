"""A place to work in, the program, and a run that it has made."""

import subprocess
from pathlib import Path

import pytest

from extractkit import cli
from tests.cli.called import SLOW_MODEL, Program, command, variables


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A working directory with a folder of configuration and a module of the user's own."""
    models = tmp_path / "my" / "model"
    models.mkdir(parents=True)
    target = "_target_: extractkit.testing.reference.ReferenceModel\nseed: 0\n"
    (models / "reference.yaml").write_text(target, encoding="utf-8")
    for name in ("chatty", "broken", "leaving", "slow", "ending_late", "taken_down_late", "Sick"):
        (models / f"{name}.yaml").write_text(f"_target_: own.{name}\n", encoding="utf-8")
    (tmp_path / "own.py").write_text(SLOW_MODEL, encoding="utf-8")
    return tmp_path


@pytest.fixture
def program(place: Path, light: Path) -> Program:
    """Call the program in that directory, as the console script does: without it on the path."""

    def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments, python=light / "python"),
            cwd=place,
            env=variables(**environment),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return call


@pytest.fixture
def run(program: Program, place: Path) -> Path:
    """A finished run of twelve shards of the reference model."""
    arguments = ("model=reference", "selectors=layers", "inputs.limit=12", "runtime.shard_size=1")
    assert program(*arguments, "run_dir=r").returncode == cli.DONE
    return place / "r"
