"""Runs in forked children, with their system calls watched."""

import pickle
from collections.abc import Callable
from pathlib import Path

from tests.faults.calls import Around, Call, noting, watch
from tests.fuzz.outcomes import Outcome, outcome

Action = Callable[[Path], object]
"""Does something to a run directory."""


def watched(action: Action, directory: Path, around: Around) -> tuple[Outcome, str]:
    """Do it in a child, every change in and beside the run directory being made by `around`."""

    def child() -> None:
        watch(directory.parent, around)
        action(directory)

    return outcome(child)


def recorded(action: Action, directory: Path) -> list[Call]:
    """Do it in a child; every change that it made in and beside the run directory.

    Raises:
        RuntimeError: it failed.
    """
    noted = directory.parent.with_name("calls.pickle")

    def child() -> None:
        calls: list[Call] = []
        watch(directory.parent, noting(calls))
        action(directory)
        noted.write_bytes(pickle.dumps(calls))

    how, words = outcome(child)
    if how is not Outcome.ANSWERED:
        raise RuntimeError(f"undisturbed, it {how}: {words}")
    calls: list[Call] = pickle.loads(noted.read_bytes())
    return calls
