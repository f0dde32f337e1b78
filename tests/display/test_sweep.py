"""A sweep as it is reported of."""

import io
from dataclasses import replace
from pathlib import Path

from rich.console import RenderableType

from extractkit.display import printable, render
from extractkit.display.run import sweep_overview, sweep_summary
from extractkit.runs.manifest import Status
from extractkit.runs.sweeps import JobStatus, SweepJob, SweepRecord

DONE = SweepJob(
    number=0,
    overrides=("model=a", "n=1"),
    values={"model": "a", "n": 1, "flag": None},
    run="0",
    attempt=1,
    status=JobStatus.FINISHED,
    started="2026-11-22T15:04:05+00:00",
    samples=1200,
    tensors=3,
    bytes=84_800,
    seconds=61.0,
)
BAD = replace(
    DONE,
    number=1,
    overrides=("model=[b,c]", "n=1"),
    values={"model": ["b", "c"], "n": 1, "flag": True},
    run="1",
    status=JobStatus.FAILED,
    exit_code=1,
    error="no\x1b[31m room\nand a second line",
    samples=None,
    tensors=None,
    bytes=None,
    seconds=None,
)
SWEEP = SweepRecord(
    started="2026-11-22T15:04:05+00:00",
    overrides=("model=a,[b,c]", "n=1"),
    status=Status.FAILED,
    jobs=(DONE, BAD),
)


def text_of(renderable: RenderableType) -> str:
    return render(renderable, io.StringIO())


def test_a_row_for_each_job_with_what_was_varied() -> None:
    lines = [line.split() for line in text_of(sweep_overview(Path("s"), SWEEP)).splitlines()]
    assert ["job", "model", "flag", "status", "samples", "tensors", "size", "time", "run"] in lines
    assert ["0", "a", "null", "finished", "1,200", "3", "84.8", "kB", "1:01", "0"] in lines
    assert ["1", "[b,c]", "true", "failed", "1"] in lines
    assert ["next", "Resume", "the", "sweep:", "extractkit", "resume", "s"] in lines


def test_reasons_stand_below_on_one_line_each() -> None:
    shown = text_of(sweep_overview(Path("s"), SWEEP))
    assert shown.endswith("\njob 1: no\\x1b[31m room\n")


def test_a_finished_sweep_needs_no_going_on() -> None:
    whole = replace(SWEEP, status=Status.FINISHED, jobs=(DONE,))
    assert "resume" not in text_of(sweep_overview(Path("s"), whole))


def test_the_summary_names_what_failed() -> None:
    assert printable(sweep_summary(Path("s"), SWEEP)) == (
        "sweep of 2 jobs: 1 finished, 1 failed. Look at it: extractkit show s\n"
        "  job 1 (model=[b,c] n=1): no\\x1b[31m room\n"
    )
    assert sweep_summary(Path("s"), replace(SWEEP, jobs=())).startswith("sweep of 0 jobs. ")
