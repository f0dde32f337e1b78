"""Output of `extractkit show`: a run with its drift, or a sweep; and the closing summaries."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from extractkit.advice import command
from extractkit.core.component import require
from extractkit.display import duration_text, rate_text, safe
from extractkit.display.address_table import AddressTable
from extractkit.display.tensors import statistics_table
from extractkit.engine import Summary
from extractkit.errors import ConfigError, choices, counted
from extractkit.runs.directory import human_bytes
from extractkit.runs.drift import Drift, Series, TensorDrift
from extractkit.runs.manifest import Status
from extractkit.runs.overview import Overview, TensorRow, findings, samples_text
from extractkit.runs.sweeps import JobStatus, SweepRecord, as_typed, counts_text, next_steps

_MOST_ROWS = 40
_NOTHING = "–"


def drift_overview(drift: Drift) -> AddressTable:
    """Return a table of each tensor's drift from the first checkpoint, and its largest step."""
    table = AddressTable("moved", "last against first", "cosine", "CKA", "largest step", "to")
    for key, moved in list(drift.tensors.items())[:_MOST_ROWS]:
        table.add_row(
            safe(key),
            *(_measure_text(series[-1]) for series in _series(moved)),
            *_largest(moved.from_previous.relative_norm, drift.checkpoints),
        )
    if len(drift.tensors) > _MOST_ROWS:
        rest = len(drift.tensors) - _MOST_ROWS
        table.add_row(f"… and {rest:,} more; `run.drift` has them all")
    return table


def _series(moved: TensorDrift) -> tuple[Series, Series, Series]:
    first = moved.from_first
    return first.relative_norm, first.cosine, first.cka


def _measure_text(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.4g}"


def _largest(steps: Series, labels: Sequence[str]) -> tuple[str, str]:
    """Return the largest relative norm of a step and the checkpoint it leads to."""
    known = [
        (value, position) for position, value in enumerate(steps) if position and value is not None
    ]
    if not known:
        return _NOTHING, ""
    value, position = max(known)
    return _measure_text(value), safe(labels[position])


_ENDINGS = (".pdf", ".png", ".svg")
_MOST_LINES = 12
_MOST_TICKS = 12
_PANELS = (
    ("relative norm of the difference", "relative_norm"),
    ("cosine", "cosine"),
    ("linear CKA", "cka"),
)
_COLUMNS = ("from the first checkpoint", "from the one before")


def draw(drift: Drift, path: Path, steps: tuple[int | None, ...] = ()) -> None:
    """Draw each tensor's drift from the first and from the previous checkpoint.

    Args:
        path: the file of the figure. Its ending (.pdf, .png, .svg) selects the format.
        steps: the checkpoints' steps, for the horizontal axis.

    Raises:
        ConfigError: the ending is unknown, or the file cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    if path.suffix not in _ENDINGS:
        raise ConfigError(
            f"--figure={str(path)!r} does not end like a figure. {choices(path.suffix, _ENDINGS)}"
        )
    drawn = figure(drift, [] if None in steps else [step for step in steps if step is not None])
    try:
        drawn.savefig(path)
    except OSError as error:
        raise ConfigError(
            f"--figure={str(path)!r} cannot be written: {error.strerror}. Choose another file"
        ) from error


def figure(drift: Drift, steps: list[int]) -> Any:
    """Return Matplotlib's figure of a drift.

    Args:
        steps: The checkpoints' steps. If empty, they are numbered.

    Raises:
        MissingExtraError: Matplotlib is not installed.
    """
    # Not pyplot, which would look for a screen and keep every figure.
    figures = require("matplotlib.figure", "show --figure")
    figure = figures.Figure(figsize=(11, 9), layout="constrained")
    axes = figure.subplots(len(_PANELS), len(_COLUMNS), sharex=True, sharey="row")
    at = steps or list(range(len(drift.checkpoints)))
    shown = _most_moved(drift)
    for row, (label, measure) in zip(axes, _PANELS, strict=True):
        row[0].set_ylabel(label)
        for panel, column in zip(row, ("from_first", "from_previous"), strict=True):
            for key, moved in shown.items():
                _line(panel, at, getattr(getattr(moved, column), measure), key)
    for panel, title in zip(axes[0], _COLUMNS, strict=True):
        panel.set_title(title)
    for panel in axes[-1]:
        panel.set_xlabel("step" if steps else "checkpoint")
        if not steps:
            _label(panel, drift.checkpoints)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize="small")
    return figure


def _most_moved(drift: Drift) -> dict[str, TensorDrift]:
    """Return the tensors that moved most, as many as a figure can show, in the run's order."""

    def far(key: str) -> float:
        known = [one for one in drift.tensors[key].from_first.relative_norm if one is not None]
        return max(known, default=-1.0)

    chosen = set(sorted(drift.tensors, key=far, reverse=True)[:_MOST_LINES])
    return {key: moved for key, moved in drift.tensors.items() if key in chosen}


def _line(panel: Any, at: list[int], series: Series, key: str) -> None:
    values = [float("nan") if value is None else value for value in series]
    mark = "." if len(values) < 60 else None
    # A leading underscore would keep it out of the legend.
    panel.plot(at, values, marker=mark, linewidth=1, label=f" {_plain(key)}")


def _label(panel: Any, labels: tuple[str, ...]) -> None:
    every = -(-len(labels) // _MOST_TICKS)
    positions = range(0, len(labels), every)
    panel.set_xticks(list(positions), [_plain(labels[position]) for position in positions])
    panel.tick_params(axis="x", labelrotation=45, labelsize="small")


def _plain(text: str) -> str:
    # A dollar sign would start a formula.
    return safe(text).replace("$", r"\$")


_STYLES = {Status.FINISHED: "green", Status.FAILED: "red"}


def run_overview(found: Overview) -> RenderableType:
    """Return a summary of a run, and its tensors."""
    facts = Table.grid(padding=(0, 2))
    for one in found.facts:
        if one.label == "status":
            style = _STYLES.get(found.status, "yellow")
        else:
            style = "yellow" if one.warns else ""
        facts.add_row(one.label, Text(safe(one.text), style=style))
    parts: list[RenderableType] = [facts, ""]
    if found.tensors or not found.statistics:
        parts.append(_tensors(found.tensors))
    if found.statistics:
        parts += [""] * bool(found.tensors) + [statistics_table(found.statistics)]
    if found.drift is not None:
        parts += ["", drift_overview(found.drift)]
    return Group(*parts)


def summary(result: Summary) -> RenderableType:
    """Return the table that a finished job prints."""
    facts = Table.grid(padding=(0, 2))
    if result.checkpoints:
        facts.add_row("checkpoints", f"{result.checkpoints:,}")
    facts.add_row("samples", samples_text(result.samples, result.truncated))
    facts.add_row("tensors", f"{result.tensors:,}")
    facts.add_row("stored", f"{human_bytes(result.bytes)} in {counted(result.shards, 'shard')}")
    done = result.samples if result.computed is None else result.computed
    rate = rate_text(done, result.seconds)
    facts.add_row("time", f"{duration_text(result.seconds)}{rate and f', {rate}'}")
    for one in findings(
        result.missing,
        dict.fromkeys(result.non_finite, ""),
        dict.fromkeys(result.constant, ""),
        result.unchanging,
        result.overflowing,
        result.gaps,
    ):
        fact = one.fact
        facts.add_row(fact.label, Text(safe(fact.text), style="yellow" if fact.warns else ""))
    facts.add_row("look at it", Text(command("show", safe(str(result.directory)))))
    return facts


def _tensors(tensors: Sequence[TensorRow]) -> AddressTable:
    table = AddressTable("tensor", "dtype", "shape", "bytes", "selectors")
    for one in tensors:
        cells = (one.key, one.spec.dtype, one.shape, one.size, ", ".join(one.selectors))
        table.add_row(*map(safe, cells))
    return table


_JOB_STYLES = {JobStatus.FINISHED: "green", JobStatus.FAILED: "red"}


def sweep_overview(directory: Path, record: SweepRecord) -> RenderableType:
    """Return a summary of a sweep, and a row for each job."""
    facts = Table.grid(padding=(0, 2))
    facts.add_row("sweep", Text(safe(str(directory))))
    facts.add_row("status", Text(record.status))
    facts.add_row("started", Text(safe(record.started)))
    if record.finished is not None:
        facts.add_row("ended", Text(safe(record.finished)))
    facts.add_row("given", Text(safe(" ".join(record.overrides)) or "–"))
    facts.add_row("jobs", counts_text(record))
    if record.status is not Status.FINISHED:
        facts.add_row("next", Text(safe(next_steps(directory, record.jobs))))
    return Group(facts, "", _table(record), *_reasons(record))


def sweep_summary(directory: Path, record: SweepRecord) -> str:
    """Return the closing lines of a sweep: how its jobs ended, and why some failed."""
    look = command("show", safe(str(directory)))
    lines = [f"sweep of {counts_text(record)}. Look at it: {look}"]
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
            Text(job.status, style=_JOB_STYLES.get(job.status, "yellow")),
            _number(job.samples),
            _number(job.tensors),
            "" if job.bytes is None else human_bytes(job.bytes),
            "" if job.seconds is None else duration_text(job.seconds),
            Text(safe(job.reused or job.run), overflow="fold"),
        )
    return table


def _reasons(record: SweepRecord) -> list[RenderableType]:
    failed = [job for job in record.jobs if job.error is not None]
    lines = [Text(f"job {job.number}: {safe(_first_line(job.error))}") for job in failed]
    return ["", *lines] if lines else []


def _first_line(error: str | None) -> str:
    return (error or "").partition("\n")[0]


def _number(count: int | None) -> str:
    return "" if count is None else f"{count:,}"
