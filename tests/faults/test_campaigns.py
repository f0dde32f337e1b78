"""Short forms of the campaigns, in a process that has imported no TensorFlow."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_CHECKOUT = Path(__file__).parents[2]

CAMPAIGNS = {
    "kills": 10,
    "checkpoint-kills": 5,
    "carry-kills": 5,
    "random-kills": 2,
    "parts": 12,
    "workers": 1,
    "power": 6,
    "bits": 17,
    "full-disk": 10,
    "refusals": 12,
    "file-sizes": 6,
    "tmpfs": 8,
}
"""How many faults of each at most; `make faults` brings about all that there are."""


@pytest.fixture(scope="module")
def called() -> subprocess.CompletedProcess[str]:
    """All campaigns, one after another."""
    asked = [f"{name}={count}" for name, count in CAMPAIGNS.items()]
    return subprocess.run(
        [sys.executable, "-m", "tests.faults", *asked, "--json"],
        cwd=_CHECKOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_no_fault_does_harm(name: str, called: subprocess.CompletedProcess[str]) -> None:
    again = f"python -m tests.faults {name}={CAMPAIGNS[name]}"
    harm = [line for line in called.stderr.splitlines() if line.startswith(f"  {name}: ")]
    assert not harm, again
    campaigns = map(json.loads, called.stdout.splitlines())
    found = {figures.pop("campaign"): figures for figures in campaigns}
    assert name in found, called.stderr  # it ended early
    figures, most = found[name], CAMPAIGNS[name]
    if name in ("kills", "checkpoint-kills", "carry-kills"):
        assert most // 2 < figures["kills of a run"] <= most
        assert figures["kills of a run"] == figures["runs finished bitwise equal"]
        assert most // 2 < figures["kills of a resume"] <= most
        assert figures["kills of a resume"] == figures["resumes finished bitwise equal"]
    elif name == "parts":
        assert most // 2 < figures["kills"] <= most
        assert figures["kills"] + 1 == figures["joined bitwise equal to an undisturbed run"]
    elif name == "workers":
        assert figures["runs"] == figures["runs finished bitwise equal"] == most
    elif name in ("full-disk", "refusals", "file-sizes"):
        assert most // 2 < figures["failures injected"] <= most
        assert figures["failures injected"] == figures["runs finished bitwise equal"]
    if not figures and name == "tmpfs":
        pytest.skip("this process may mount no file system")
    assert figures


def test_the_campaigns_ended_well(called: subprocess.CompletedProcess[str]) -> None:
    """Whatever a line of the report could not say."""
    assert called.returncode == 0, called.stderr
