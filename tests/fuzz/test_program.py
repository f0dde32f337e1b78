"""Short forms of the fuzzing of configurations and runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROCESSES = 2
"""At work on the cases of one subject at a time: each case is a short process by itself."""


@pytest.mark.parametrize(("subject", "cases"), [("configs", 80), ("runs", 40)])
def test_mutations_are_answered_or_refused_in_one_message(subject: str, cases: int) -> None:
    share = cases // PROCESSES
    parts = [fuzzing(subject, first, share) for first in range(0, cases, share)]
    answered = 0
    for part in parts:
        said, failed = part.communicate(timeout=900)
        assert part.returncode == 0, said + failed
        counts = said.rpartition(f"{subject}: ")[2].split(", ")
        answered += sum(int(re.match(r"\d+", one)[0]) for one in counts)
    assert answered == cases


def fuzzing(subject: str, first: int, cases: int) -> subprocess.Popen[str]:
    """A process that tries some of the cases."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.fuzz", subject),
            *("--first", str(first), "--cases", str(cases)),
        ],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
