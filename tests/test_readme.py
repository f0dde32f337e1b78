"""Every command and snippet of the README runs as it stands there, in one folder, in order."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
SNIPPET = re.compile(r"^```(bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# What sets the machine up has been done by whoever runs this test.
SET_UP = re.compile(r"^(make|python -m pip) ", re.MULTILINE)


def snippets() -> list[tuple[str, str]]:
    return [found.groups() for found in SNIPPET.finditer(README.read_text(encoding="utf-8"))]  # type: ignore[misc]


@pytest.mark.real_model
def test_every_command_and_snippet_works(tmp_path: Path) -> None:
    shutil.copy(README, tmp_path)
    scripts = Path(sys.executable).parent
    variables = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    ran = 0
    for language, text in snippets():
        if SET_UP.search(text):
            continue
        program = ["bash", "-euo", "pipefail", "-c"] if language == "bash" else ["python", "-c"]
        done = subprocess.run(
            [*program, text],
            cwd=tmp_path,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stderr}"
        ran += 1
    assert ran >= 5


def test_the_main_command_is_the_one_that_the_demonstration_runs() -> None:
    main = "python -m extractkit model=bert selectors=attention"
    assert main in README.read_text(encoding="utf-8")
    assert main in (README.parent / "Makefile").read_text(encoding="utf-8")
