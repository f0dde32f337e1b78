"""Advice on a sweep that is not finished: resume it, or correct what was refused."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from extractkit.advice import command, override
from extractkit.runs.sweeps.record import JobStatus, SweepJob

_MOST_NAMED = 3
_UNFINISHED = (JobStatus.STARTED, JobStatus.FAILED, JobStatus.INTERRUPTED)


def next_steps(directory: Path, jobs: Iterable[SweepJob], options: Sequence[str] = ()) -> str:
    """Return what to do about a sweep that is not finished.

    A job that failed or was interrupted can end well when the sweep is resumed. One that was
    refused is refused again as long as nothing is corrected.

    Args:
        directory: Directory of the sweep.
        jobs: Its jobs.
        options: Options that `resume` needs, as in `--trust MODULE`.
    """
    listed = tuple(jobs)
    refused = [job.number for job in listed if job.refused]
    resume = command("resume", directory, *options)
    steps = []
    if not refused or any(job.status in _UNFINISHED and not job.refused for job in listed):
        steps.append(f"Go on with the sweep: {resume}")
    if refused:
        finished = any(job.status is JobStatus.FINISHED for job in listed)
        reuse = override("runtime.reuse_from", directory)
        again = f"; {reuse} takes over the runs that are finished" if finished else ""
        steps.append(
            f"{_named(refused)} refused, and {'is' if len(refused) == 1 else 'are'} refused again "
            f"until the configuration is corrected. Correct it and start the sweep again in "
            f"another directory (hydra.sweep.dir=DIR){again}. If the overrides are right, and a "
            f"file, a package or room on the disk was missing, add that and resume: {resume}"
        )
    return ". ".join(steps)


def _named(numbers: Sequence[int]) -> str:
    """Return the subject of a sentence: `Job 1 was`, `Jobs 1, 2 were`."""
    if len(numbers) == 1:
        return f"Job {numbers[0]} was"
    more = ", …" if len(numbers) > _MOST_NAMED else ""
    return f"Jobs {', '.join(map(str, numbers[:_MOST_NAMED]))}{more} were"
