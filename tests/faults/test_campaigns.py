"""Short forms of the campaigns, each in a process that has imported no TensorFlow."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_CHECKOUT = Path(__file__).parents[2]

CAMPAIGNS = {
    "kills": 15,
    "checkpoint-kills": 6,
    "carry-kills": 8,
    "random-kills": 3,
    "parts": 20,
    "workers": 2,
    "power": 20,
    "bits": 40,
    "full-disk": 20,
    "refusals": 20,
    "file-sizes": 10,
    "tmpfs": 15,
}
"""How many faults of each, drawn by chance; `make faults` brings about all that there are."""


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_no_fault_does_harm(name: str) -> None:
    figures = campaign(name, CAMPAIGNS[name])
    count = CAMPAIGNS[name]
    assert figures.pop("campaign") == name
    if name in ("kills", "checkpoint-kills", "carry-kills"):
        assert figures["kills of a run"] == figures["runs finished bitwise equal"] == count
        assert figures["kills of a resume"] == figures["resumes finished bitwise equal"] == count
    elif name == "parts":
        assert figures["kills"] + 1 == figures["joined bitwise equal to an undisturbed run"]
    elif name == "workers":
        assert figures["runs"] == figures["runs finished bitwise equal"] == count
    elif name == "full-disk":
        assert figures["failures injected"] == figures["runs finished bitwise equal"] == count
    if not figures and name == "tmpfs":
        pytest.skip("this process may mount no file system")
    assert figures


def campaign(name: str, count: int) -> dict[str, object]:
    """The figures of one campaign, which found no fault."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", name, "--json", "--count", str(count)],
        cwd=_CHECKOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    figures: dict[str, object] = json.loads(done.stdout)
    return figures
