"""A sweep as it is told of: `extractkit show`, and what closes one."""

from collections import Counter
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from extractkit.advice import command
from extractkit.display.text import duration_text, plural, safe
from extractkit.runs.disk import human_bytes
from extractkit.runs.manifest import Status
from extractkit.runs.sweeps.next_steps import next_steps
from extractkit.runs.sweeps.record import JobStatus, SweepRecord, as_typed

_STYLES = {JobStatus.FINISHED: "green", JobStatus.FAILED: "red"}


def overview(directory: Path, record: SweepRecord) -> RenderableType:
    """A sweep in brief, and a row for each of its jobs."""
    facts = Table.grid(padding=(0, 2))
    facts.add_row("sweep", Text(safe(str(directory))))
    facts.add_row("status", Text(record.status))
    facts.add_row("started", Text(safe(record.started)))
    if record.finished is not None:
        facts.add_row("ended", Text(safe(record.finished)))
    facts.add_row("given", Text(safe(" ".join(record.overrides)) or "–"))
    facts.add_row("jobs", _counts(record))
    if record.status is not Status.FINISHED:
        facts.add_row("next", Text(safe(next_steps(directory, record.jobs))))
    return Group(facts, "", _table(record), *_reasons(record))


def summary(directory: Path, record: SweepRecord) -> str:
    """What closes a sweep, as lines: how its jobs ended, and why some did not end well."""
    look = command("show", safe(str(directory)))
    lines = [f"sweep of {_counts(record)}. Look at it: {look}"]
    lines += [
        f"  job {job.number} ({' '.join(job.overrides)}): {_first_line(job.error)}"
        for job in record.failures
    ]
    return "".join(f"{line}\n" for line in lines)


def _table(record: SweepRecord) -> Table:
    keys = record.keys
    headings = ("job", *map(safe, keys), "status", "samples", "tensors", "size", "time", "run")
    table = Table(*headings, box=None, pad_edge=False)
    for job in record.jobs:
        table.add_row(
            str(job.number),
            *(Text(safe(as_typed(job.values.get(key))), overflow="fold") for key in keys),
            Text(job.status, style=_STYLES.get(job.status, "yellow")),
            _number(job.samples),
            _number(job.tensors),
            "" if job.bytes is None else human_bytes(job.bytes),
            "" if job.seconds is None else duration_text(job.seconds),
            Text(safe(job.reused or job.run), overflow="fold"),
        )
    return table


def _reasons(record: SweepRecord) -> list[RenderableType]:
    told = [job for job in record.jobs if job.error is not None]
    lines = [Text(f"job {job.number}: {safe(_first_line(job.error))}") for job in told]
    return ["", *lines] if lines else []


def _counts(record: SweepRecord) -> str:
    """`2 jobs finished, 1 failed`."""
    counted = Counter(job.status for job in record.jobs)
    told = [f"{counted[status]:,} {status}" for status in JobStatus if counted[status]]
    return ": ".join(filter(None, (plural(len(record.jobs), "job"), ", ".join(told))))


def _first_line(error: str | None) -> str:
    return (error or "").partition("\n")[0]


def _number(count: int | None) -> str:
    return "" if count is None else f"{count:,}"
