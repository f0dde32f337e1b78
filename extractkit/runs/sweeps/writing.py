"""Start and end of a sweep, and the records of its jobs."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from extractkit.advice import command
from extractkit.errors import RunDirectoryError
from extractkit.runs import ELSEWHERE, LOCK, MANIFEST, RUN_KEY, SWEEP
from extractkit.runs.directory import check_writable, locked, new_directory, owner
from extractkit.runs.environment import now
from extractkit.runs.manifest import Status
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
"""The file in which Hydra records the configuration that it composed for a sweep."""

_QUEUE = ".submitit"
"""The folder in which Hydra's launcher of that name exchanges pickles with its jobs."""


@dataclass(frozen=True)
class ActiveSweep:
    """A sweep in progress, as seen by its jobs from any process.

    Attributes:
        directory: the directory of the sweep, absolute.
        attempt: the number of this launch, from 1.
        fail_fast: start no further job once one has failed.
        resumes: whether existing runs are resumed.
        working_directory: where the sweep was launched first.
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
        """Return the record that an earlier launch has left of a job, or None."""
        try:
            return JOB_FILE.read(self.directory / JOBS / f"{number}.json").job
        except FileNotFoundError:
            return None

    def blocking_failure(self) -> SweepJob | None:
        """Return the failed job because of which no further job may start, or None."""
        if not self.fail_fast:
            return None
        found = [job for job in jobs(self.directory) if job.attempt == self.attempt]
        return next((job for job in found if job.status is JobStatus.FAILED), None)


def check_unused(directory: Path) -> None:
    """Check that a new sweep may be written to a directory. Changes nothing.

    Raises:
        RunDirectoryError: it holds a sweep or a run, is not a directory or not writable.
    """
    check_writable(directory)
    at, other = f"{RUN_KEY}={directory}", ELSEWHERE
    if is_sweep(directory):
        at_work = owner(directory)
        resume = f"Resume it: {command('resume', directory)}. {other}"
        raise RunDirectoryError(
            f"{at} holds a sweep. {resume}"
            if at_work is None
            else f"{at} is being worked on by {at_work}. Wait for it to end. {other}"
        )
    for name, what in ((MANIFEST, "a run"), (JOBS, f"{JOBS}/, but no {SWEEP}")):
        if (directory / name).exists():
            raise RunDirectoryError(f"{at} holds {what}. {other}")


@contextmanager
def new_sweep(directory: Path, started: SweepRecord) -> Iterator[ActiveSweep]:
    """Start a new sweep, and hold its lock while the context lasts.

    If no job leaves a run, everything of the sweep is removed.

    Raises:
        RunDirectoryError: the directory is in use or cannot be made.
        JobError: the disk refuses.
    """
    with new_directory(directory, check_unused):
        try:
            SWEEP_FILE.write(directory / SWEEP, started)
            make_directory(directory / JOBS)
            yield ActiveSweep(
                directory,
                fail_fast=started.fail_fast,
                working_directory=started.working_directory,
            )
        finally:
            _undo(directory)


@contextmanager
def resumed_sweep(directory: Path) -> Iterator[ActiveSweep]:
    """Resume a sweep, and hold its lock while the context lasts.

    Raises:
        RunDirectoryError: it is not a sweep, is damaged, or another process holds its lock.
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
        yield ActiveSweep(
            directory, again.attempt, again.fail_fast, True, recorded.working_directory
        )


def end(directory: Path, *, interrupted: bool, all_ended: bool) -> SweepRecord:
    """Build the index from the records of the jobs, and write it.

    Args:
        interrupted: whether the sweep was interrupted.
        all_ended: whether all jobs have ended. A job recorded as started has then died.

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
    error = "its process ended without a message: killed, or out of memory"
    return replace(job, status=JobStatus.FAILED, exit_code=1, error=error)


def _set_aside(directory: Path, attempt: int) -> None:
    """Move away the files that Hydra and its launchers would otherwise use.

    They may come from elsewhere: Hydra would write through a link, and submitit reads pickles,
    which can run any code.
    """
    with suppress(FileNotFoundError):
        os.unlink(directory / HYDRA_RECORD)  # noqa: PTH108 - see store/local.py
    with suppress(FileNotFoundError):
        os.rename(directory / _QUEUE, directory / f"{_QUEUE}.{attempt}")  # noqa: PTH104


def _undo(directory: Path) -> None:
    """Remove what a sweep has written, unless one of its jobs left a run."""
    names = {path.name for path in directory.iterdir()}
    if names <= {SWEEP, JOBS, HYDRA_RECORD, LOCK}:
        shutil.rmtree(directory / JOBS, ignore_errors=True)
        for name in (HYDRA_RECORD, SWEEP):
            (directory / name).unlink(missing_ok=True)
