"""Short forms of the fuzzing of configurations and runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("subject", "cases"), [("configs", 500), ("runs", 100)])
def test_mutations_are_answered_or_refused_in_one_message(subject: str, cases: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", subject, "--cases", str(cases)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = done.stdout.rpartition(f"{subject}: ")[2].split(", ")
    assert sum(int(re.match(r"\d+", one)[0]) for one in counts) == cases
