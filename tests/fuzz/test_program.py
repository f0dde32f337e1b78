"""A short form of the fuzzing of configurations and runs."""

import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

CASES = 30
"""Of each subject; `make fuzz-runs` tries 10,000 configurations and 1,000 runs."""

FIRST = datetime.now(UTC).toordinal() * CASES % 10_000
"""Each day has the next ones."""


def test_mutations_are_answered_or_refused_in_one_message() -> None:
    cases = ("--first", str(FIRST), "--cases", str(CASES))
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "configs", "runs", *cases],
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
