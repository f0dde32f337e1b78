"""How a sweep begins and ends, and how each of its jobs leaves its record."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from extractkit.advice import command
from extractkit.errors import RunDirectoryError
from extractkit.runs.layout import LOCK, check_writable, elsewhere, fresh, locked, owner
from extractkit.runs.manifest import MANIFEST, SWEEP, Status, now
from extractkit.runs.sweeps import (
    JOB_FILE,
    JOBS,
    SWEEP_FILE,
    JobFile,
    JobStatus,
    SweepJob,
    SweepRecord,
    is_sweep,
    jobs,
    read,
    refreshed,
)
from extractkit.store.local import make_directory, writing

HYDRA_RECORD = "multirun.yaml"
"""What Hydra writes into the directory of a sweep: the configuration that it composed for it."""

SWEEP_KEY = "hydra.sweep.dir"
"""The configuration key that names the directory."""

_QUEUE = ".submitit"
"""Folder in which Hydra's launcher of that name talks to its jobs, by pickles."""


@dataclass(frozen=True)
class SweepPlace:
    """A sweep that is under way, as its jobs see it from whatever process.

    Attributes:
        directory: of the sweep, absolute.
        attempt: which launch this is, from 1 on.
        fail_fast: whether no job is to begin once one has failed.
        resumes: whether jobs are gone on with, and not begun alone.
        working_directory: where it was launched first.
    """

    directory: Path
    attempt: int = 1
    fail_fast: bool = False
    resumes: bool = False
    working_directory: str | None = None

    def write(self, job: SweepJob) -> None:
        """Write, or replace, a job's record.

        Raises:
            JobError: it could not be written.
        """
        JOB_FILE.write(self.directory / JOBS / f"{job.number}.json", JobFile(job))

    def recorded(self, number: int) -> SweepJob | None:
        """What an earlier launch of the sweep has left of a job."""
        try:
            return JOB_FILE.read(self.directory / JOBS / f"{number}.json").job
        except FileNotFoundError:
            return None

    def in_the_way(self) -> SweepJob | None:
        """The job because of whose failure none is to begin any more."""
        if not self.fail_fast:
            return None
        found = [job for job in jobs(self.directory) if job.attempt == self.attempt]
        return next((job for job in found if job.status is JobStatus.FAILED), None)


def check_unused(directory: Path) -> None:
    """Make sure that a new sweep may be written to a directory; touches nothing.

    Raises:
        RunDirectoryError: it holds a sweep or a run, is no directory or is not writable.
    """
    check_writable(directory, SWEEP_KEY)
    at, other = f"{SWEEP_KEY}={directory}", elsewhere(SWEEP_KEY)
    if is_sweep(directory):
        at_work = owner(directory)
        go_on = f"Go on with it: {command('resume', directory)}. {other}"
        raise RunDirectoryError(
            f"{at} holds a sweep. {go_on}"
            if at_work is None
            else f"{at} is being worked on by {at_work}. Wait for it to end. {other}"
        )
    for name, what in ((MANIFEST, "a run"), (JOBS, f"{JOBS}/, but no {SWEEP}")):
        if (directory / name).exists():
            raise RunDirectoryError(f"{at} holds {what}. {other}")


@contextmanager
def begun(directory: Path, started: SweepRecord) -> Iterator[SweepPlace]:
    """A new sweep, this process's own while the context lasts.

    Where no job left a run, nothing of the sweep stays.

    Raises:
        RunDirectoryError: something is there already, or the directory cannot be made.
        JobError: the disk refuses.
    """
    with fresh(directory, SWEEP_KEY, check_unused):
        try:
            SWEEP_FILE.write(directory / SWEEP, started)
            make_directory(directory / JOBS)
            yield SweepPlace(
                directory,
                fail_fast=started.fail_fast,
                working_directory=started.working_directory,
            )
        finally:
            _take_back(directory)


@contextmanager
def gone_on(directory: Path) -> Iterator[SweepPlace]:
    """A sweep that is gone on with, this process's own while the context lasts.

    Raises:
        RunDirectoryError: it is no sweep, is damaged, or another process works on it.
        JobError: the disk refuses.
    """
    with locked(directory):
        recorded = read(directory)
        again = replace(
            recorded, status=Status.STARTED, finished=None, attempt=recorded.attempt + 1
        )
        with writing(directory):
            _set_aside(directory, recorded.attempt)
        SWEEP_FILE.write(directory / SWEEP, again)
        make_directory(directory / JOBS)
        yield SweepPlace(
            directory, again.attempt, again.fail_fast, True, recorded.working_directory
        )


def end(directory: Path, *, interrupted: bool, all_ended: bool) -> SweepRecord:
    """Put the index together from what the jobs have left, and write it.

    Args:
        interrupted: whether the sweep was.
        all_ended: whether no job runs any more; one that says so still has died.

    Returns:
        The index.

    Raises:
        RunDirectoryError: a record is damaged.
        JobError: the index could not be written.
    """
    found = [refreshed(directory, job) for job in jobs(directory)]
    if all_ended:
        found = [_dead(job) if job.status is JobStatus.STARTED else job for job in found]
    status = Status.FAILED
    if interrupted:
        status = Status.INTERRUPTED
    elif found and all(job.status is JobStatus.FINISHED for job in found):
        status = Status.FINISHED
    recorded = SWEEP_FILE.read(directory / SWEEP)
    ended = replace(recorded, status=status, finished=now(), jobs=tuple(found))
    SWEEP_FILE.write(directory / SWEEP, ended)
    return ended


def _dead(job: SweepJob) -> SweepJob:
    told = "its process ended without a word: killed, or out of memory"
    return replace(job, status=JobStatus.FAILED, exit_code=1, error=told)


def _set_aside(directory: Path, attempt: int) -> None:
    """Have Hydra and its launchers find nothing that somebody else may have put there.

    Hydra would write through a link, and submitit reads pickles, which can run any code.
    """
    with suppress(FileNotFoundError):
        os.unlink(directory / HYDRA_RECORD)  # noqa: PTH108 - as runs.write does
    with suppress(FileNotFoundError):
        os.rename(directory / _QUEUE, directory / f"{_QUEUE}.{attempt}")  # noqa: PTH104


def _take_back(directory: Path) -> None:
    """Remove what a sweep has written, where none of its jobs left anything."""
    names = {path.name for path in directory.iterdir()}
    if names <= {SWEEP, JOBS, HYDRA_RECORD, LOCK}:
        shutil.rmtree(directory / JOBS, ignore_errors=True)
        for name in (HYDRA_RECORD, SWEEP):
            (directory / name).unlink(missing_ok=True)
