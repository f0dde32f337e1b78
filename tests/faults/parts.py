"""SIGKILL around every system call by which parts are joined; joining again has to end as a single
process would have."""

import shutil
from dataclasses import replace
from pathlib import Path

from extractkit.core.job import Job
from extractkit.core.shards import Part
from extractkit.engine import Silent
from extractkit.engine.execute import execute
from extractkit.runs.parts import join
from tests.faults.calls import killed
from tests.faults.children import recorded, watched
from tests.faults.figures import Figures, every_nth
from tests.faults.kills import instants
from tests.faults.runs import HYDRA_FILES, Undisturbed, several_shards
from tests.fuzz.outcomes import Outcome, outcome

_PARTS = 3


def every_instant(scratch: Path, count: int | None, seed: int) -> Figures:
    """The joining of three parts, killed at every instant there is, and again where it goes on.

    Args:
        count: of the instants, evenly spaced; None: all.
    """
    figures = Figures()
    undisturbed = Undisturbed(scratch)
    parts, place = scratch / "parts", scratch / "place"
    for number in range(1, _PARTS + 1):
        part = _part(f"{number}/{_PARTS}")
        execute(part, parts / "run", hydra_files=HYDRA_FILES, listener=Silent())
    shutil.copytree(parts, place)
    found = instants(recorded(join, place / "run"))
    _judge(undisturbed, place, "undisturbed", figures)
    shutil.rmtree(place)
    for instant in every_nth(found, count, seed):
        call, when = instant
        shutil.copytree(parts, place)
        how, words = watched(join, place / "run", killed(call.number, when))
        if how is not Outcome.DIED:
            raise RuntimeError(f"not killed {when} {call}: {how}: {words}")
        figures.counts["kills"] += 1
        how, words = outcome(lambda: join(place / "run"))
        _judge(undisturbed, place, f"{when} {call}: {how}: {words}", figures)
        shutil.rmtree(place)
    return figures


def _part(part: str) -> Job:
    job = several_shards()
    return replace(job, runtime=replace(job.runtime, part=Part.parse(part)))


def _judge(undisturbed: Undisturbed, place: Path, what: str, figures: Figures) -> None:
    wrong = undisturbed.wrong_with(place / "run")
    figures.counts["joined bitwise equal to an undisturbed run"] += not wrong
    if wrong:
        figures.faults.append(f"{what}: {wrong}")
