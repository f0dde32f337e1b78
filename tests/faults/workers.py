"""Workers killed at random times, one in each run; each run has to end as an undisturbed one."""

import os
import random
import secrets
import shutil
import threading
import time
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import psutil

from extractkit.core.component import Component
from extractkit.core.job import Job
from extractkit.core.values import Array
from extractkit.engine import Silent
from extractkit.engine.distributed import worker
from extractkit.engine.execute import execute
from extractkit.runs import JOURNAL
from extractkit.testing.reference import ReferenceModel
from tests.engine.test_resume import Collected
from tests.faults.figures import Figures
from tests.faults.runs import HYDRA_FILES, Undisturbed, several_shards
from tests.fuzz.outcomes import Outcome, outcome

_SAMPLE_SECONDS = 0.05

_HANGING = 240.0
"""Seconds after which a run hangs."""

_LATEST = 0.6
"""Seconds after which a worker is killed at the latest before it is ready."""

_AT_WORK = 0.2
"""Seconds after the first commit after which one is killed at a sample: others are still left."""

_BUSY = "EXTRACTKIT_TESTS_BUSY"
"""The variable with the directory where each process touches a file as it begins a sample."""


class Unhurried(ReferenceModel):
    """Takes its time over each sample, so that a kill may come in the middle of one."""

    def forward(self, tokens: Array) -> dict[str, Array]:
        Path(os.environ[_BUSY], str(os.getpid())).touch()
        time.sleep(_SAMPLE_SECONDS)
        return super().forward(tokens)


def killed_processes(scratch: Path, count: int | None, seed: int) -> Figures:
    """A run on two processes, one of which is killed.

    Args:
        count: of runs; None: twenty.
    """
    return _killed_at_random("processes", scratch, count or 20, seed)


def killed_actors(scratch: Path, count: int | None, seed: int) -> Figures:
    """A run on two actors of a Ray cluster, started for it, one of which is killed.

    Nothing is counted where Ray is not installed.

    Args:
        count: of runs; None: twenty.
    """
    if find_spec("ray") is None:
        return Figures()
    # The clusters have a token of their own, and nobody else's is looked for.
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    os.environ["PATH"] = os.defpath  # Ray starts programs of the system's
    return _killed_at_random("ray", scratch, count or 20, seed)


def _killed_at_random(engine: str, scratch: Path, count: int, seed: int) -> Figures:
    figures = Figures()
    busy = scratch / "busy"
    busy.mkdir()
    os.environ[_BUSY] = str(busy)
    undisturbed = Undisturbed(scratch, _in_this_process)
    draw = random.Random(seed)
    directory = scratch / "place" / "run"
    for number in range(count):
        # Every other one at a sample: to start takes longer than to compute.
        at_work = bool((number + seed) % 2)
        seconds = draw.uniform(0.0, _AT_WORK if at_work else _LATEST)
        directory.parent.mkdir()
        how, words = outcome(
            lambda at_work=at_work, seconds=seconds: _run_and_kill(
                engine, directory, busy if at_work else None, seconds
            ),
            _HANGING,
        )
        wrong = undisturbed.wrong_with(directory)
        figures.counts["runs"] += 1
        figures.counts["workers killed before they were ready"] += "before it was ready" in words
        figures.counts["workers killed at a shard, which another computed"] += "again" in words
        figures.counts["runs finished bitwise equal"] += not wrong
        if wrong or how is not Outcome.ANSWERED:
            figures.faults.append(
                f"run {number} of seed {seed}, after {seconds:.3f} s: {how}: {words}: {wrong}"
            )
        shutil.rmtree(directory.parent)
    return figures


def _job(engine: str) -> Job:
    """The job of all campaigns, on a model that takes longer."""
    job = several_shards()
    model = Component("model", "extractkit.api.given", {"live": Unhurried()})
    return replace(job, model=model, runtime=replace(job.runtime, engine=engine))


def _in_this_process(directory: Path) -> None:
    execute(_job("local"), directory, hydra_files=HYDRA_FILES, listener=Silent())


def _run_and_kill(engine: str, directory: Path, busy: Path | None, seconds: float) -> str:
    """Run the job and kill one of its workers; return what was reported.

    Args:
        busy: where processes show that they begin a sample: kill one in the middle of a sample, so
            long after the first commit. None: kill any, so long after there is a directory.
    """
    reported = Collected()
    ended = threading.Event()
    killer = threading.Thread(target=_kill_one, args=(directory, busy, seconds, ended), daemon=True)
    killer.start()
    execute(_job(engine), directory, hydra_files=HYDRA_FILES, listener=reported)
    ended.set()
    killer.join()
    return "; ".join(note for note in reported.notes if note.startswith("worker "))


def _kill_one(directory: Path, busy: Path | None, seconds: float, ended: threading.Event) -> None:
    after = directory if busy is None else directory / JOURNAL
    while not ended.is_set() and not (_workers() and after.exists()):
        time.sleep(0.005)
    time.sleep(seconds)
    while not ended.is_set():
        with suppress(psutil.NoSuchProcess):  # it has ended
            for worker in _workers():
                if busy is None or _in_a_sample(busy / str(worker.pid)):
                    worker.kill()
                    return
        time.sleep(0.002)


def _in_a_sample(began: Path) -> bool:
    """Return whether a sample began just now, so that the sample takes a while yet."""
    if not began.exists():
        return False
    return 0 <= time.time() - began.stat().st_mtime < _SAMPLE_SECONDS / 2


def _workers() -> list[psutil.Process]:
    """The processes that compute shards for this one."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            words = " ".join(process.cmdline())
            if words.startswith("ray::Actor") or f"from {worker.__name__} import" in words:
                found.append(process)
    return found
