"""Sweeps: the runs of several jobs below one directory, their records, and the index of them.

Each job writes a record of its own, because jobs may run in other processes and on other
machines. The process that launched the sweep writes the index, `sweep.json`, at the end. Until
then, and for failed jobs, readers use the records and the runs.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path, PurePosixPath

from extractkit.advice import command, override
from extractkit.errors import MISTAKEN, RunDirectoryError, counted
from extractkit.runs import MANIFEST, SWEEP, no_run
from extractkit.runs import manifest as manifests
from extractkit.runs.manifest import Manifest, Status
from extractkit.runs.schema import ChecksummedRecord
from extractkit.runs.upgrades import JOB_UPGRADES, SWEEP_UPGRADES

JOBS = "jobs"
"""Folder of the jobs' own records in the directory of a sweep."""

SCHEMA = 3
"""Version of the fields of a sweep and its jobs. Raise it with every change of them."""


class JobStatus(StrEnum):
    """The state of a job in a sweep."""

    STARTED = "started"
    FINISHED = "finished"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    NOT_STARTED = "not started"


_OF_RUN = {
    Status.FINISHED: JobStatus.FINISHED,
    Status.FAILED: JobStatus.FAILED,
    Status.INTERRUPTED: JobStatus.INTERRUPTED,
}


@dataclass(frozen=True)
class SweepJob:
    """One job of a sweep.

    Attributes:
        number: its position in the sweep, from 0.
        overrides: the job's own overrides as typed.
        values: the overrides as plain data, by key; None for a deleted key.
        run: its run directory, relative to the sweep's.
        attempt: the launch of the sweep that worked on it last, from 1.
        status: its state. For "not started", `error` has the reason.
        started, finished: times in UTC, ISO 8601.
        reused: directory of a finished run elsewhere that serves as its run
            (`runtime.reuse_from`).
        exit_code, error: of a failed job.
        samples, tensors, bytes: the content of its run.
        seconds: total time, including the loading of the model.
        timings: seconds spent in each stage, as recorded by its run.
    """

    number: int
    overrides: tuple[str, ...]
    values: Mapping[str, object]
    run: str
    attempt: int
    status: JobStatus
    started: str
    finished: str | None = None
    reused: str | None = None
    exit_code: int | None = None
    error: str | None = None
    samples: int | None = None
    tensors: int | None = None
    bytes: int | None = None
    seconds: float | None = None
    timings: Mapping[str, float] = field(default_factory=dict)

    @property
    def refused(self) -> bool:
        """Whether it failed because of a user's mistake."""
        return self.status is JobStatus.FAILED and self.exit_code == MISTAKEN

    def directory(self, sweep: Path) -> Path:
        """Return the directory of its run, or of the run reused in its place."""
        return sweep / self.run if self.reused is None else Path(self.reused)

    def holding(self, run: Manifest) -> "SweepJob":
        """Return the job with the content of its finished run filled in."""
        return replace(
            self,
            status=JobStatus.FINISHED,
            finished=self.finished or run.volatile.finished,
            exit_code=None,
            error=None,
            samples=run.samples,
            tensors=len(run.tensors),
            bytes=run.actual.bytes if run.actual else None,
            timings=run.volatile.timings,
        )


@dataclass(frozen=True)
class SweepRecord:
    """A sweep: its request and its result.

    Attributes:
        started: time of the first launch, UTC, ISO 8601.
        finished: time at which the last launch ended.
        overrides: the overrides as typed, including those of Hydra's own keys.
        config_dir, config_path, config_name: Hydra's options of these names.
        fail_fast: start no further job once one has failed.
        working_directory: the directory that relative paths refer to.
        attempt: the number of launches.
        status: finished if all jobs are, otherwise failed.
        jobs: the jobs by number. They are updated only when the launch ends.
        schema: version of these fields.
    """

    started: str
    overrides: tuple[str, ...]
    config_dir: str | None = None
    config_path: str | None = None
    config_name: str | None = None
    fail_fast: bool = False
    working_directory: str | None = None
    attempt: int = 1
    status: Status = Status.STARTED
    finished: str | None = None
    jobs: tuple[SweepJob, ...] = ()
    schema: int = SCHEMA

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys with more than one value, in the order of the overrides."""
        found: dict[str, set[str]] = {}
        for job in self.jobs:
            for key, value in job.values.items():
                found.setdefault(key, set()).add(repr(value))
        everywhere = len(self.jobs)
        return tuple(
            key
            for key, values in found.items()
            if len(values) > 1 or sum(key in job.values for job in self.jobs) < everywhere
        )

    @property
    def failures(self) -> tuple[SweepJob, ...]:
        """The jobs that have failed."""
        return tuple(job for job in self.jobs if job.status is JobStatus.FAILED)


@dataclass(frozen=True)
class JobFile:
    """A job's own record, as stored in its file."""

    job: SweepJob
    schema: int = SCHEMA


SWEEP_FILE = ChecksummedRecord(
    SweepRecord,
    "sweep index",
    SCHEMA,
    "run the sweep again elsewhere: run_dir=…",
    SWEEP_UPGRADES,
)
JOB_FILE = ChecksummedRecord(
    JobFile, "job record", SCHEMA, "delete it, and resume the sweep", JOB_UPGRADES
)


def is_sweep(directory: Path) -> bool:
    """Return True if a directory holds a sweep, damaged or not."""
    return os.path.exists(directory / SWEEP)  # noqa: PTH110 - a name that is too long does not exist


def read(directory: Path) -> SweepRecord:
    """Read the current state of a sweep.

    Raises:
        RunDirectoryError: there is none, a record is damaged or of another version, or it names a
            run outside the sweep.
    """
    try:
        recorded = SWEEP_FILE.read(directory / SWEEP)
    except FileNotFoundError as error:
        if not os.path.isdir(directory):  # noqa: PTH112
            raise RunDirectoryError(no_run(directory, (SWEEP, MANIFEST))) from error
        hint = f"holds no {SWEEP}"
        if (directory / MANIFEST).exists():
            hint = f"is a single run. Open it by extractkit.open({str(directory)!r})"
        raise RunDirectoryError(f"{directory} is not a sweep: it {hint}") from error
    _check(recorded.jobs, str(directory / SWEEP))
    if recorded.status is Status.FINISHED:
        return recorded
    return replace(recorded, jobs=tuple(refreshed(directory, job) for job in jobs(directory)))


def jobs(directory: Path) -> tuple[SweepJob, ...]:
    """Read the jobs of a sweep from their own records, in the order of their numbers.

    Raises:
        RunDirectoryError: a record is damaged, or names a run outside the sweep.
    """
    found = []
    for path in (directory / JOBS).glob("*.json"):
        job = JOB_FILE.read(path).job
        if path.name != f"{job.number}.json":
            raise RunDirectoryError(f"{path} is the record of job {job.number}. Put it back there")
        found.append(job)
    _check(found, str(directory / JOBS))
    return tuple(sorted(found, key=lambda job: job.number))


def refreshed(directory: Path, job: SweepJob) -> SweepJob:
    """Return a job updated from its run, which may have been killed, or resumed on its own."""
    if job.status is JobStatus.FINISHED:
        return job
    try:
        run = manifests.read(job.directory(directory))
    except RunDirectoryError:
        return job
    if not is_of(run, job):
        return job
    if run.status is Status.FINISHED:
        return job.holding(run)
    # The failure that the job recorded itself is kept.
    started = job.status is JobStatus.STARTED
    return replace(job, status=_OF_RUN.get(run.status, job.status)) if started else job


def is_of(run: Manifest, job: SweepJob) -> bool:
    """Return True if a run is that of the job, or may be used as its run."""
    return job.reused is not None or run.job_given == job.overrides


def as_typed(value: object) -> str:
    """Format a value as in an override: `[a,b]`, `null`, `true`."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(as_typed, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{as_typed(entry)}' for key, entry in value.items())}}}"
    return str(value)


def counts_text(record: SweepRecord) -> str:
    """Return how the jobs of a sweep ended, as text: `3 jobs: 2 finished, 1 failed`."""
    found = Counter(job.status for job in record.jobs)
    counts = [f"{found[status]:,} {status}" for status in JobStatus if found[status]]
    return ": ".join(filter(None, (counted(len(record.jobs), "job"), ", ".join(counts))))


def leads_out(run: str) -> bool:
    """Return True if a run directory, relative to its sweep's, would be outside the sweep."""
    path = PurePosixPath(run)
    return path.is_absolute() or ".." in path.parts or not path.parts


def _check(found: Iterable[SweepJob], at: str) -> None:
    numbers: set[int] = set()
    for job in found:
        if leads_out(job.run):
            raise RunDirectoryError(f"{at} records the run {job.run!r}, outside the sweep")
        if job.number < 0 or job.number in numbers:
            raise RunDirectoryError(f"{at} records job {job.number} twice, or a job below 0")
        numbers.add(job.number)


_MOST_NAMED = 3
_UNFINISHED = (JobStatus.STARTED, JobStatus.FAILED, JobStatus.INTERRUPTED)


def next_steps(directory: Path, jobs: Iterable[SweepJob], options: Sequence[str] = ()) -> str:
    """Return the advice for a sweep that is not finished.

    A job that failed or was interrupted may succeed when the sweep is resumed. One that was refused
    is refused again until the mistake is corrected.

    Args:
        directory: the directory of the sweep.
        jobs: its jobs.
        options: options that `resume` needs, such as `--trust MODULE`.
    """
    listed = tuple(jobs)
    refused = [job.number for job in listed if job.refused]
    resume = command("resume", directory, *options)
    steps = []
    if not refused or any(job.status in _UNFINISHED and not job.refused for job in listed):
        steps.append(f"Resume the sweep: {resume}")
    if refused:
        finished = any(job.status is JobStatus.FINISHED for job in listed)
        reuse = override("runtime.reuse_from", directory)
        again = f"; {reuse} reuses the finished runs" if finished else ""
        steps.append(
            f"{_named(refused)} refused, and {'is' if len(refused) == 1 else 'are'} refused again "
            f"until the configuration is corrected. Correct it and start the sweep again in "
            f"another directory (run_dir=DIR){again}. If the overrides are right, and a "
            f"file, a package or disk space was missing, add that and resume: {resume}"
        )
    return ". ".join(steps)


def _named(numbers: Sequence[int]) -> str:
    """Return the subject of a sentence: `Job 1 was`, `Jobs 1, 2 were`."""
    if len(numbers) == 1:
        return f"Job {numbers[0]} was"
    more = ", …" if len(numbers) > _MOST_NAMED else ""
    return f"Jobs {', '.join(map(str, numbers[:_MOST_NAMED]))}{more} were"
