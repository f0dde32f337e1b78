"""Sections about a sweep: its runs by the keys that vary, and what tensors hold for each value."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from extractkit.core.statistics.results import TensorStatistics
from extractkit.core.values import Array
from extractkit.display import duration_text
from extractkit.errors import RunDirectoryError
from extractkit.reports import Block, Cube, Facts, Figure, Header, Listing, Note, Picker, Section
from extractkit.reports.budget import ENCODED, SINGLE, single
from extractkit.reports.charts import by_setting
from extractkit.reports.material import more
from extractkit.reports.summary import started_text, tone_of
from extractkit.runs.directory import human_bytes
from extractkit.runs.overview import Fact
from extractkit.runs.reader import Run
from extractkit.runs.sweeps import as_typed, counts_text, next_steps
from extractkit.runs.sweeps.reader import Sweep

_MOST_JOBS = 500
_MOST_TENSORS = 60
_MOST_LINES = 8
_LISTED = "in `extractkit show`"

_MEASURES = ("largest", "smallest", "NaN or infinite", "mean", "standard deviation")
"""What is shown of a tensor's values. The last two need the statistic `moments`."""


def header(found: Sweep) -> Header:
    """Return what the page about a sweep begins with."""
    record = found.record
    numbers = [("jobs", f"{len(found):,}"), ("finished", f"{len(found.runs):,}")]
    numbers += [("keys", f"{len(found.keys):,}"), ("started", started_text(record.started))]
    return Header(
        found.path.name,
        str(record.status),
        tone_of(record.status),
        " ".join(record.overrides),
        tuple(numbers),
    )


def sections_of(found: Sweep, room: int) -> list[Section]:
    """Return the sections of the page about a sweep, in order.

    Args:
        room: the bytes that the charts may take.
    """
    damage: dict[str, None] = {}
    results = list(_results(found, room, damage))
    return [_summary(found, damage), _runs(found), *results]


def _summary(found: Sweep, damage: Mapping[str, None]) -> Section:
    record = found.record
    facts = [
        Fact("jobs", counts_text(record)),
        Fact("varied", ", ".join(found.keys) or "nothing"),
        Fact("launches", f"{record.attempt:,}"),
        Fact("directory", str(found.path)),
    ]
    if record.finished is not None:
        facts.append(Fact("ended", record.finished))
    blocks: list[Block] = [Note(text, warns=True) for text in damage]
    wrong = [job for job in found.jobs if job.error]
    if wrong:
        blocks.append(Note(next_steps(found.path, found.jobs), warns=True))
        rows = tuple((str(job.number), str(job.status), job.error or "") for job in wrong)
        blocks.append(Listing(("job", "status", "reason"), rows[:_MOST_JOBS], numeric=(0,)))
        blocks += more(len(rows) - _MOST_JOBS, "job", _LISTED)
    return Section("overview", "Overview", "", (*blocks, Facts(tuple(facts))))


def _runs(found: Sweep) -> Section:
    columns = ("job", *found.keys, "status", "samples", "tensors", "size", "time")
    rows, details = [], []
    for job, row in zip(found.jobs[:_MOST_JOBS], found.table[:_MOST_JOBS], strict=True):
        rows.append(
            (
                str(job.number),
                *(as_typed(row[key]) for key in found.keys),
                str(job.status),
                "" if job.samples is None else str(job.samples),
                "" if job.tensors is None else str(job.tensors),
                "" if job.bytes is None else human_bytes(job.bytes),
                "" if job.seconds is None else duration_text(job.seconds),
            )
        )
        timings = {f"time for {name}": duration_text(one) for name, one in job.timings.items()}
        details.append({"run": str(row["run"]), "job": " ".join(job.overrides), **timings})
    keys = len(found.keys)
    listing = Listing(columns, tuple(rows), tuple(details), numeric=(keys + 2, keys + 3))
    notes = more(len(found.jobs) - len(rows), "job", _LISTED)
    return Section(
        "runs",
        "Runs",
        "A row for each job, with the keys that vary. Choose a row for its run and times.",
        (listing, *notes),
    )


def _results(found: Sweep, room: int, damage: dict[str, None]) -> Iterator[Section]:
    """Yield what tensors hold in each run, by the value of a key."""
    runs: dict[int, Run] = {}
    for number in [*found.runs][:_MOST_JOBS]:
        try:
            runs[number] = found.runs[number]
        except RunDirectoryError as error:
            damage[str(error)] = None
    tensors = _tensors(runs.values())
    if not tensors or not found.keys:
        return
    jobs = [job for job in found.jobs if job.number in runs]
    of_tensor = len(jobs) * len(_MEASURES) * SINGLE * ENCODED * len(found.keys)
    shown = tensors[: max(1, min(_MOST_TENSORS, int(room / of_tensor)))]
    values = np.stack([_measured(runs[job.number], shown, damage) for job in jobs], axis=-1)
    kept = [at for at in range(len(_MEASURES)) if np.isfinite(values[:, at]).any()]
    if not kept:
        return
    numbers = tuple(f"job {job.number}" for job in jobs)
    cubes, lines = [], set()
    for key in found.keys:
        others = tuple(
            ", ".join(f"{one}={as_typed(job.values.get(one))}" for one in found.keys if one != key)
            for job in jobs
        )
        lines |= {len({*others})}
        texts = {"setting": tuple(as_typed(job.values.get(key)) for job in jobs), "others": others}
        cubes.append(Cube(single(values[:, kept]), (numbers,), texts))
    figure = Figure(
        "results",
        "Values by setting",
        by_setting("setting", "others", coloured=1 < max(lines) <= _MOST_LINES),
        ("key", "tensor", "measure"),
        ("job",),
        tuple(cubes),
        caption="Mean and standard deviation are averages over features and checkpoints.",
    )
    notes = more(len(found.runs) - _MOST_JOBS, "run", "not shown")
    notes += more(len(tensors) - len(shown), "tensor", "not shown")
    yield Section(
        "results",
        "Results",
        "What the tensors hold for each value of a key.",
        (figure, *notes),
        (
            Picker("key", found.keys),
            Picker("tensor", tuple(shown)),
            Picker("measure", tuple(_MEASURES[at] for at in kept)),
        ),
    )


def _tensors(runs: Iterable[Run]) -> list[str]:
    """Return the keys of all runs' tensors, each once."""
    found: dict[str, None] = {}
    for run in runs:
        found |= dict.fromkeys((*run, *(one.key for one in run.manifest.statistics)))
    return list(found)


def _measured(run: Run, keys: Sequence[str], damage: dict[str, None]) -> Array:
    """Return the measures of tensors in a run, float64 (tensors, measures); NaN for none."""
    checks = run.manifest.actual.values if run.manifest.actual else {}
    try:
        statistics: Mapping[str, TensorStatistics] = run.statistics
    except RunDirectoryError as error:
        damage[str(error)] = None
        statistics = {}
    rows = []
    for key in keys:
        row = [np.nan] * len(_MEASURES)
        if key in statistics and "moments" in statistics[key]:
            moments = statistics[key]["moments"]
            spread = np.sqrt(moments["variance"])
            row = [
                float(np.max(moments["max"])),
                float(np.min(moments["min"])),
                np.nan,
                float(np.mean(moments["mean"])),
                float(np.mean(spread)),
            ]
        if (found := checks.get(key)) is not None:
            row[:3] = [
                np.nan if found.maximum is None else float(found.maximum),
                np.nan if found.minimum is None else float(found.minimum),
                float(found.nan + found.inf),
            ]
        rows.append(row)
    return np.array(rows, np.float64)
