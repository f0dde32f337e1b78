"""SIGKILL at every boundary of a system call of a run, and of a resume; then what is left is
resumed, and has to end as if nothing had happened."""

import random
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.faults.calls import Call, killed, noting, watch
from tests.faults.figures import Figures
from tests.faults.runs import MANIFEST, begin, content, go_on, wrong_with
from tests.fuzz.outcomes import Outcome, outcome

Instant = tuple[Call, str]


def every_instant(scratch: Path, count: int | None, seed: int) -> Figures:
    """A run killed at each instant there is, or at `count` of them drawn by chance; and a resume.

    The resume that is killed is that of a run which was killed half-way.
    """
    figures = Figures()
    undisturbed, calls = observed(scratch / "undisturbed", begin)
    run = drawn(instants(calls), count, seed)
    for instant in run:
        _killed(scratch / "killed", begin, instant, undisturbed, figures)
    figures.counts["instants of a run"] = len(run)
    half_way = instants(calls)[len(instants(calls)) * 2 // 3]
    stopped = scratch / "stopped"
    _die(stopped, begin, half_way)
    _, calls = observed(Path(shutil.copytree(stopped, scratch / "resumed")), go_on)
    again = drawn(instants(calls), count, seed)
    for instant in again:
        shutil.copytree(stopped, scratch / "killed")
        _killed(scratch / "killed", go_on, instant, undisturbed, figures)
    figures.counts["instants of a resume"] = len(again)
    return figures


def random_instants(scratch: Path, count: int | None, seed: int) -> Figures:
    """A run and its resumes killed at random times, until one of them comes to its end."""
    figures = Figures()
    undisturbed, _ = observed(scratch / "undisturbed", begin)
    draw = random.Random(seed)
    for number in range(count or 20):
        directory = scratch / "killed"
        while True:
            seconds = draw.uniform(0, 0.1)
            how, words = outcome(lambda s=seconds: _with_a_timer(go_on, directory, s))
            if how is not Outcome.DIED:
                break
            figures.counts["kills"] += 1
        wrong = wrong_with(directory, undisturbed)
        if how is not Outcome.ANSWERED or wrong:
            figures.faults.append(f"run {number}: {how}: {words} {wrong}")
        figures.counts["runs finished in the end"] += not wrong
        shutil.rmtree(directory, ignore_errors=True)
    return figures


def observed(
    directory: Path, action: Callable[[Path], object]
) -> tuple[Mapping[str, object], list[Call]]:
    """Do it undisturbed, in this process's child; what it left, and the calls that it made."""
    calls = calls_of(directory, action)
    return content(directory), calls


def instants(calls: list[Call]) -> list[Instant]:
    """Before and after each call, and in the middle of each write."""
    return [
        (call, when)
        for call in calls
        for when in ("before", "within", "after")
        if when != "within" or call.name == "write"
    ]
