"""Power failures: the calls of a run replayed up to each of them, everything that was not forced
out being lost, kept or torn; what is left is resumed, and has to end as if nothing had happened."""

import random
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from extractkit.errors import RunDirectoryError
from extractkit.runs import JOURNAL, journal
from extractkit.runs.shards import check_entry
from tests.faults.calls import Call, killed
from tests.faults.children import recorded, watched
from tests.faults.disk import Change, Data, Disk, File, Names, Tree, lay_out
from tests.faults.figures import Figures, every_nth
from tests.faults.runs import SINKS, Undisturbed, begin, resume_run
from tests.fuzz.outcomes import Outcome, outcome

_MIXTURES = 4
"""How often, after each call, chance decides on everything by itself."""


def every_call(scratch: Path, count: int | None, seed: int) -> Figures:
    """The power fails after each call of a run, and after each of the resume of a killed one.

    Args:
        count: of directories to resume in each case, evenly spaced; None: every one that differs.
    """
    figures = Figures()
    place = scratch / "place"
    undisturbed = Undisturbed(scratch)
    campaigns = [("run", undisturbed.calls, 0)]
    for stop in _stops(undisturbed.calls):
        place.mkdir()
        watched(begin, place / "run", killed(stop, "before"))
        made = [call for call in undisturbed.calls if call.number < stop]
        campaigns.append(("resume", [*made, *recorded(resume_run, place / "run")], len(made)))
        shutil.rmtree(place)
    for what, calls, first in campaigns:
        # Of some, each has its turn only if they are the same with every seed.
        failures = list(_failures(calls, first, seed if count is None else 0))
        figures.counts[f"power failures in a {what}"] += len(failures)
        different = {tuple(tree.items()): (reported, tree, n) for reported, tree, n in failures}
        for reported, tree, promised in every_nth(list(different.values()), count, seed):
            place.mkdir()
            lay_out(tree, place)
            wrong = []
            if (whole := _whole(place / "run")) < promised:
                wrong.append(f"{promised} shards were committed, {whole} are left")
            how, words = outcome(lambda: resume_run(place / "run"))
            if how is not Outcome.ANSWERED:
                wrong.append(f"{how}: {words}")
            wrong += undisturbed.wrong_with(place / "run")
            shutil.rmtree(place)
            figures.counts["different directories left by them"] += 1
            figures.counts["finished bitwise equal"] += not wrong
            if wrong:
                figures.faults.append(f"{what}, {reported}: {wrong}")
    return figures


def _stops(calls: list[Call]) -> list[int]:
    """Where a process is killed that is resumed later: in the middle of things, and around the call
    by which the last shard is committed."""
    synced = [c.number for c in calls if (c.name, c.path) == ("fsync", f"run/{JOURNAL}")]
    return [calls[2 * len(calls) // 3].number, synced[-1], synced[-1] + 1]


def _failures(calls: list[Call], first: int, seed: int) -> Iterator[tuple[str, Tree, int]]:
    """After each call from `first` on, in some ways: the way in words, what is left, and how many
    shards had been committed."""
    disk = Disk()
    draw = random.Random(seed)
    promised = synced = lines = 0
    for done, call in enumerate(calls):
        disk.make(call)
        if call.path not in (f"run/{JOURNAL}", "run"):
            promised = synced  # whatever commits a line has returned
        elif call.name == "write":
            lines += call.value.count(b"\n")
        elif call.name == "fsync" and call.path != "run":
            synced = lines
        if done == len(calls) - 1:
            promised = lines  # whoever is reported that the run is finished may rely on all of it
        if done < first:
            continue
        for way, (names, data) in _WAYS.items():
            yield f"after {call}, {way}", disk.after_power_loss(names, data), promised
        for mixture in range(_MIXTURES):
            tree = disk.after_power_loss(
                lambda changes: [change for change in changes if draw.random() < 0.5],
                lambda file: draw.choice(_CONTENTS)(file),
            )
            yield f"after {call}, mixture {mixture} of seed {seed}", tree, promised


def _nothing(changes: list[Change]) -> list[Change]:
    return []


def _everything(changes: list[Change]) -> list[Change]:
    return changes


def _old(file: File) -> bytes:
    return file.synced or b""


def _new(file: File) -> bytes:
    return file.current


def _half(file: File) -> bytes:
    """What was synced, and half of what was written since; of a file that was cut, all."""
    sure = _old(file)
    return file.current[: (len(sure) + len(file.current) + 1) // 2]


def _zeros(file: File) -> bytes:
    """The new length, but zeros where nothing was synced: the length comes to the disk alone."""
    sure = _old(file)
    if file.current.startswith(sure):
        return sure.ljust(len(file.current), b"\0")
    return bytes(len(file.current))


_CONTENTS: tuple[Data, ...] = (_old, _new, _half, _zeros)

_WAYS: Mapping[str, tuple[Names, Data]] = {
    "all lost": (_nothing, _old),
    "names lost": (_nothing, _new),
    "data lost": (_everything, _old),
    "data torn": (_everything, _half),
    "data zeros": (_everything, _zeros),
    "nothing lost": (_everything, _new),
}


def _whole(directory: Path) -> int:
    """How many shards the journal lists that are whole."""
    whole = 0
    for entry in journal.read(directory / JOURNAL).entries:
        try:
            check_entry(directory, entry, SINKS)
        except RunDirectoryError:
            continue
        whole += 1
    return whole
