"""Advice on a sweep that is not finished."""

from pathlib import Path

import pytest

from extractkit.runs.sweeps import JobStatus, SweepJob, next_steps

FINISHED, NOT_STARTED = (JobStatus.FINISHED, None), (JobStatus.NOT_STARTED, None)
FAILED, REFUSED = (JobStatus.FAILED, 1), (JobStatus.FAILED, 2)
INTERRUPTED, STARTED = (JobStatus.INTERRUPTED, None), (JobStatus.STARTED, None)
GO_ON = "Resume the sweep: extractkit resume 's p' --trust own"


def advice(*jobs: tuple[JobStatus, int | None]) -> str:
    found = [
        SweepJob(number, (), {}, str(number), 1, status, "", exit_code=code)
        for number, (status, code) in enumerate(jobs)
    ]
    return next_steps(Path("s p"), found, ("--trust", "own"))


@pytest.mark.parametrize("job", [FAILED, INTERRUPTED, STARTED, NOT_STARTED])
def test_what_failed_or_was_interrupted_is_resumed(job: tuple[JobStatus, int | None]) -> None:
    assert advice(FINISHED, job) == GO_ON


def test_what_was_refused_is_to_be_corrected() -> None:
    assert advice(FINISHED, REFUSED) == (
        "Job 1 was refused, and is refused again until the configuration is corrected. Correct it "
        "and start the sweep again in another directory (run_dir=DIR); "
        "'runtime.reuse_from=\"s p\"' reuses the finished runs. If the overrides are "
        "right, and a file, a package or disk space was missing, add that and resume: "
        "extractkit resume 's p' --trust own"
    )


def test_nothing_is_taken_over_where_nothing_is_finished() -> None:
    assert "reuse_from" not in advice(FAILED, REFUSED)


def test_both_are_said_where_both_happened() -> None:
    found = advice(REFUSED, FAILED, REFUSED, REFUSED, REFUSED)
    assert found.startswith(f"{GO_ON}. Jobs 0, 2, 3, … were refused, and are refused again until")


def test_jobs_that_wait_for_a_refused_one_are_not_resumed() -> None:
    """With `--fail-fast` they would wait again."""
    assert advice(FINISHED, REFUSED, NOT_STARTED).startswith("Job 1 was refused")
