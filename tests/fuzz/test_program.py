"""A short form of the fuzzing of configurations and runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

CASES = 20
"""Of each subject; `make fuzz-runs` tries 10,000 configurations and 1,000 runs."""


def test_mutations_are_answered_or_refused_in_one_message() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "configs", "runs", "--cases", str(CASES)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for subject in ("configs", "runs"):
        (counts,) = re.findall(rf"^{subject}: (.*)", done.stdout, re.MULTILINE)
        assert sum(map(int, re.findall(r"(?:^|, )(\d+)", counts))) == CASES
