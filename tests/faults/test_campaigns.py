"""Short forms of the campaigns, in a process that has imported no TensorFlow."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

Counts = Counter[str]

_CHECKOUT = Path(__file__).parents[2]

CAMPAIGNS = {
    "kills": 6,
    "checkpoint-kills": 4,
    "carry-kills": 4,
    "random-kills": 2,
    "parts": 6,
    "power": 4,
    "bits": 17,
    "full-disk": 6,
    "refusals": 8,
    "file-sizes": 4,
    "tmpfs": 5,
}
"""How many faults of each at most; `make faults` brings about all that there are.

`tests/engine/distributed` kills workers at a known instant, in forks, which takes less time.
"""


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
    early = next((one for one in CAMPAIGNS if one not in found), None)
    assert name in found, f"{early} ended early, and those behind it did not run: {called.stderr}"
    figures, most = found[name], CAMPAIGNS[name]
    if not figures and name == "tmpfs":
        pytest.skip("this process may mount no file system")
    CHECKS[name](Counter(figures), most)


def _killed_twice(figures: Counts, most: int) -> None:
    assert most // 2 < figures["kills of a run"] <= most
    assert figures["kills of a run"] == figures["runs finished bitwise equal"]
    assert most // 2 < figures["kills of a resume"] <= most
    assert figures["kills of a resume"] == figures["resumes finished bitwise equal"]


def _killed_at_random(figures: Counts, most: int) -> None:
    assert figures["kills"] >= 1
    assert figures["runs finished bitwise equal"] == most


def _joined(figures: Counts, most: int) -> None:
    assert most // 2 < figures["kills"] <= most
    assert figures["kills"] + 1 == figures["joined bitwise equal to an undisturbed run"]


def _without_power(figures: Counts, most: int) -> None:
    for what in ("run", "resume"):
        assert figures[f"power failures in a {what}"] >= most
    # Those of a run, and of each resume.
    assert figures["different directories left by them"] > most
    assert figures["different directories left by them"] == figures["finished bitwise equal"]


def _flipped(figures: Counts, most: int) -> None:
    assert figures["bits flipped"] == most
    assert figures["files taken away"] >= 1
    damaged = figures["bits flipped"] + figures["files taken away"]
    assert figures["found and named by verify"] == damaged
    read = figures["of no matter to the reader, which read everything right"]
    assert figures["refused by the reader"] >= 1
    assert figures["refused by the reader"] + read == damaged


def _refused(figures: Counts, most: int) -> None:
    assert most // 2 < figures["failures injected"] <= most
    assert figures["failures injected"] == figures["runs finished bitwise equal"]
    assert figures["of them reported in one line that names the file"] >= 1


CHECKS: Mapping[str, Callable[[Counts, int], None]] = {
    **dict.fromkeys(("kills", "checkpoint-kills", "carry-kills"), _killed_twice),
    "random-kills": _killed_at_random,
    "parts": _joined,
    "power": _without_power,
    "bits": _flipped,
    **dict.fromkeys(("full-disk", "refusals", "file-sizes", "tmpfs"), _refused),
}
"""What each campaign has to count, so that no fault goes missing."""


def test_the_campaigns_ended_well(called: subprocess.CompletedProcess[str]) -> None:
    """Whatever a line of the report could not say."""
    assert called.returncode == 0, called.stderr
