"""SIGKILL around every system call of a run, and of a resume; what is left is resumed, and has to
end as if nothing had happened."""

import random
import shutil
import signal
from pathlib import Path

from tests.faults.calls import Call, killed
from tests.faults.children import Action, recorded, watched
from tests.faults.figures import Figures, every_nth
from tests.faults.runs import (
    Undisturbed,
    begin,
    begin_carrying,
    begin_over_checkpoints,
    resume_run,
    resume_run_carrying,
    resume_run_over_checkpoints,
)
from tests.fuzz.outcomes import Outcome, outcome

_LATEST = 0.05
"""Seconds of processor time after which the first kill comes at the latest."""

_LATER = 1.1
"""Each kill may come so many times later than the one before, so that every run ends."""


def every_instant(
    scratch: Path,
    count: int | None,
    seed: int,
    begin: Action = begin,
    resume_run: Action = resume_run,
) -> Figures:
    """A run, and the resume of one that was killed, each killed at every instant there is.

    Args:
        count: of the instants of each, evenly spaced; None: all.
        begin, resume_run: run a job, and resume what is left of it.
    """
    figures = Figures()
    place = scratch / "place"
    undisturbed = Undisturbed(scratch, begin)
    every = instants(undisturbed.calls)
    stopped = scratch / "stopped"
    two_thirds = every[2 * len(every) // 3]
    _kill(begin, two_thirds, place)
    place.rename(stopped)
    shutil.copytree(stopped, place)
    calls = recorded(resume_run, place / "run")
    shutil.rmtree(place)
    for what, action, found in (("run", begin, every), ("resume", resume_run, instants(calls))):
        for instant in every_nth(found, count, seed):
            if action is resume_run:
                shutil.copytree(stopped, place)
            _kill(action, instant, place)
            how, words = outcome(lambda: resume_run(place / "run"))
            wrong = undisturbed.wrong_with(place / "run")
            figures.counts[f"kills of a {what}"] += 1
            figures.counts[f"{what}s finished bitwise equal"] += not wrong
            if wrong or how is not Outcome.ANSWERED:
                call, when = instant
                figures.faults.append(f"{what}, {when} {call}: {how}: {words}: {wrong}")
            shutil.rmtree(place)
    return figures


def every_instant_over_checkpoints(scratch: Path, count: int | None, seed: int) -> Figures:
    """The same of a run over several checkpoints."""
    return every_instant(scratch, count, seed, begin_over_checkpoints, resume_run_over_checkpoints)


def every_instant_carrying(scratch: Path, count: int | None, seed: int) -> Figures:
    """The same of a run that carries the model's state from shard to shard."""
    return every_instant(scratch, count, seed, begin_carrying, resume_run_carrying)


def random_instants(scratch: Path, count: int | None, seed: int) -> Figures:
    """Runs killed at random times, again and again until one of their processes comes to its end.

    Args:
        count: of runs.
    """
    figures = Figures()
    place = scratch / "place"
    undisturbed = Undisturbed(scratch)
    draw = random.Random(seed)
    for number in range(count or 20):
        place.mkdir()
        how, words, latest = Outcome.DIED, "", _LATEST
        while how is Outcome.DIED:
            seconds = draw.uniform(0.001, latest)
            latest *= _LATER
            how, words = outcome(lambda seconds=seconds: _timed(place / "run", seconds))
            figures.counts["kills"] += how is Outcome.DIED
        wrong = undisturbed.wrong_with(place / "run")
        figures.counts["runs finished bitwise equal"] += not wrong
        if wrong or how is not Outcome.ANSWERED:
            figures.faults.append(f"seed {seed}, run {number}: {how}: {words}: {wrong}")
        shutil.rmtree(place)
    return figures


def instants(calls: list[Call]) -> list[tuple[Call, str]]:
    """Before and after each call, and within each write."""
    return [
        (call, when)
        for call in calls
        for when in ("before", "within", "after")
        if when != "within" or call.name == "write"
    ]


def _kill(action: Action, instant: tuple[Call, str], place: Path) -> None:
    place.mkdir(exist_ok=True)
    call, when = instant
    how, words = watched(action, place / "run", killed(call.number, when))
    if how is not Outcome.DIED:
        raise RuntimeError(f"not killed {when} {call}: {how}: {words}")


def _timed(directory: Path, seconds: float) -> None:
    """Continue a run until a timer ends this process."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    # A busy machine takes longer, but not more processor time.
    signal.setitimer(signal.ITIMER_PROF, seconds)
    resume_run(directory)
    signal.setitimer(signal.ITIMER_PROF, 0)
