"""Output of `extractkit show`: a run with its drift, or a sweep; and the closing summaries."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from extractkit.advice import command
from extractkit.core.attribution import COMPLETENESS, TOLERATED_GAP
from extractkit.core.component import require
from extractkit.core.statistics.results import Statistics
from extractkit.core.value_checks import ValueChecks
from extractkit.display import content_text, duration_text, rate_text, safe, size_text
from extractkit.display.tensors import statistics_table
from extractkit.engine import Summary
from extractkit.errors import ConfigError, choices, counted
from extractkit.runs.directory import human_bytes
from extractkit.runs.drift import Drift, Series, TensorDrift
from extractkit.runs.environment import SelfCheck, SharingMeasurement
from extractkit.runs.manifest import (
    SHARING,
    Manifest,
    RunTensor,
    Status,
)
from extractkit.runs.sweeps import JobStatus, SweepRecord, as_typed, next_steps
from extractkit.sinks.hdf5 import AUTO, INDEX, Hdf5Sink

_MOST_ROWS = 40
_NOTHING = "–"


def drift_overview(drift: Drift) -> Table:
    """Return a table of each tensor's drift from the first checkpoint, and its largest step."""
    table = Table(
        *("moved", "last against first", "cosine", "CKA", "largest step", "to"),
        box=None,
        pad_edge=False,
    )
    for key, moved in list(drift.tensors.items())[:_MOST_ROWS]:
        table.add_row(
            Text(safe(key), overflow="fold"),
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
    figures = require("matplotlib.figure", "plot", "a figure")
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
_FEW = 3
_HDF5 = f"{Hdf5Sink.__module__}.{Hdf5Sink.__qualname__}"


def overview(
    directory: Path,
    manifest: Manifest,
    committed: int | None = None,
    drift: Drift | None = None,
    statistics: Statistics | None = None,
) -> RenderableType:
    """Return a summary of a run's manifest, and its tensors.

    Args:
        committed: number of stored shards of an unfinished run.
        drift: the drift over its checkpoints, if it has any.
        statistics: the results of its statistics, once it is finished.
    """
    facts = Table.grid(padding=(0, 2))
    facts.add_row("run", Text(safe(str(directory))))
    facts.add_row("status", Text(manifest.status, style=_STYLES.get(manifest.status, "yellow")))
    facts.add_row("started", Text(safe(manifest.volatile.started)))
    if manifest.volatile.finished is not None:
        facts.add_row("finished", Text(safe(manifest.volatile.finished)))
    facts.add_row("job", Text(safe(" ".join(manifest.job_given)) or "–"))
    if manifest.part is not None:
        facts.add_row("part", Text(safe(manifest.part)))
        facts.add_row("join", Text(command("join", safe(str(directory.parent.parent)))))
    if manifest.inputs is not None:
        facts.add_row("samples", _samples(manifest.samples, manifest.inputs.truncated))
        for note in manifest.inputs.notes:
            facts.add_row("", Text(safe(note)))
    if manifest.checkpoints:
        facts.add_row("checkpoints", _checkpoints(manifest))
    for one in manifest.excluded[:_FEW]:
        facts.add_row("excluded", Text(safe(f"{one.label}: {one.reason}"), style="yellow"))
    if len(manifest.excluded) > _FEW:
        rest = len(manifest.excluded) - _FEW
        facts.add_row("", f"and {counted(rest, 'checkpoint')} more, see the manifest")
    planned = f"{len(manifest.shards):,}"
    if manifest.training is not None:
        facts.add_row("training", f"one checkpoint for each recorded {manifest.training}")
        committed = None  # a step is a checkpoint once all of its shards are committed
    facts.add_row("shards", planned if committed is None else f"{committed:,} of {planned}")
    if (size := _stored_bytes(manifest)) is not None:
        facts.add_row("size", size)
    if (no_index := _why_no_index(manifest)) is not None:
        facts.add_row(INDEX, no_index)
    if manifest.volatile.self_check:
        facts.add_row("self-check", Text(safe(_self_check(manifest.volatile.self_check))))
    if (measured := manifest.volatile.sharing) is not None:
        taken = str(manifest.settings.get(SHARING))
        facts.add_row("batches", Text(safe(f"{taken}{_sharing(measured)}")))
    if manifest.actual is not None:
        findings = (*_findings(manifest.checked_values), manifest.overflowing)
        _add_findings(facts, manifest.actual.missing, *findings)
        _add_gaps(facts, manifest.gaps)
    if committed is not None:
        facts.add_row("resume", Text(command("resume", safe(str(directory)))))
    if manifest.unextractable:
        facts.add_row(
            "unextractable",
            f"{counted(len(manifest.unextractable), 'tensor')}, with their reasons in the manifest",
        )
    parts: list[RenderableType] = [facts, ""]
    if manifest.tensors or not manifest.statistics:
        parts.append(_tensors(manifest.tensors))
    if manifest.statistics:
        parts += [""] * bool(manifest.tensors) + [statistics_table(manifest.statistics, statistics)]
    if drift is not None:
        parts += ["", drift_overview(drift)]
    return Group(*parts)


def summary(result: Summary) -> RenderableType:
    """Return the table that a finished job prints."""
    facts = Table.grid(padding=(0, 2))
    if result.checkpoints:
        facts.add_row("checkpoints", f"{result.checkpoints:,}")
    facts.add_row("samples", _samples(result.samples, result.truncated))
    facts.add_row("tensors", f"{result.tensors:,}")
    facts.add_row("stored", f"{human_bytes(result.bytes)} in {counted(result.shards, 'shard')}")
    done = result.samples if result.computed is None else result.computed
    rate = rate_text(done, result.seconds)
    facts.add_row("time", f"{duration_text(result.seconds)}{rate and f', {rate}'}")
    findings = (result.non_finite, result.constant, result.unchanging, result.overflowing)
    _add_findings(facts, result.missing, *findings)
    _add_gaps(facts, result.gaps)
    facts.add_row("look at it", Text(command("show", safe(str(result.directory)))))
    return facts


def _checkpoints(manifest: Manifest) -> str:
    labels = [safe(one.label) for one in manifest.checkpoints]
    shown = labels if len(labels) <= _FEW else [labels[0], labels[1], "…", labels[-1]]
    return f"{len(labels):,}: {', '.join(shown)}"


def _self_check(checks: Sequence[SelfCheck]) -> str:
    """Return the outputs that the self-check compared, for all sets of weights together."""
    compared = [one for one in checks if one.not_applicable is None]
    if not compared:
        return f"not applicable: {checks[0].not_applicable}"
    first, labels = compared[0], [str(one.checkpoint) for one in compared if one.checkpoint]
    at = f", checkpoints {', '.join(labels)}" if labels else ""
    largest = max(one.largest_difference for one in compared)
    return (
        f"{counted(len(first.outputs), 'output')} of {counted(first.samples, 'sample')} as from "
        f"{first.loaded_by}{at}; largest difference {largest:.2g}"
    )


def _sharing(measured: SharingMeasurement) -> str:
    """Return why no more samples share a batch, and how far they change each other's values."""
    why = f": {measured.reason}" if measured.reason else ""
    if measured.tensor is None or measured.difference == sys.float_info.max:
        return why
    return (
        f"{why}; largest relative difference to values alone {measured.difference:.2g}, "
        f"tolerance {measured.tolerance:.2g}"
    )


def _samples(count: int, truncated: int) -> str:
    return f"{count:,}{f', {truncated:,} of them cut off' if truncated else ''}"


def _add_findings(
    facts: Table,
    missing: int,
    non_finite: Sequence[str],
    constant: Sequence[str],
    unchanging: Sequence[str],
    overflowing: Sequence[str],
) -> None:
    """Add a row for each kind of samples and values that may be a mistake."""
    if missing:
        text = f"{counted(missing, 'sample')}, the reasons are in `run.missing`"
        facts.add_row("missing", Text(text, style="yellow"))
    for label, text, tensors in (
        ("not finite", "NaN or infinity in", non_finite),
        ("constant", "one number throughout in", constant),
        ("unchanging", "the same for every sample:", unchanging),
        ("overflow", "elements beyond the range of the type in", overflowing),
    ):
        if tensors:
            facts.add_row(label, Text(f"{text} {_first_of(tensors)}", style="yellow"))


def _add_gaps(facts: Table, gaps: Mapping[str, float]) -> None:
    """Add a row for the tensor of attributions that are farthest from complete."""
    if not gaps:
        return
    key, gap = max(gaps.items(), key=lambda one: one[1])
    text = f"largest gap {gap:.2g}, in {safe(key)}"
    if gap <= TOLERATED_GAP:
        facts.add_row(COMPLETENESS, Text(text))
    else:
        text = f"{text}: more than {TOLERATED_GAP:g}, so take more integrate.steps"
        facts.add_row(COMPLETENESS, Text(text, style="yellow"))


def _findings(values: Mapping[str, ValueChecks]) -> tuple[Sequence[str], ...]:
    """Return the tensors that are not finite, constant or unchanging, in detail if few."""
    non_finite = {key: _counted(one) for key, one in values.items() if not one.finite}
    constant = {key: f"{one.minimum:g}" for key, one in values.items() if one.constant}
    unchanging = [key for key, one in values.items() if one.never_changes]
    return _explained(non_finite), _explained(constant), unchanging


def _explained(found: Mapping[str, str]) -> list[str]:
    if len(found) > _FEW:
        return list(found)
    return [f"{key} ({count})" for key, count in found.items()]


def _counted(found: ValueChecks) -> str:
    """Return counts as text: `2 NaN, 1 infinite in 3 samples`."""
    sorts = ((found.nan, "NaN"), (found.inf, "infinite"))
    text = ", ".join(f"{count:,} {sort}" for count, sort in sorts if count)
    return f"{text} in {counted(found.samples, 'sample')}" if found.samples else text


def _first_of(tensors: Sequence[str]) -> str:
    more = ", …" if len(tensors) > _FEW else ""
    return f"{', '.join(map(safe, tensors[:_FEW]))}{more}"


def _tensors(tensors: tuple[RunTensor, ...]) -> Table:
    table = Table("tensor", "dtype", "shape", "bytes", "selectors", box=None, pad_edge=False)
    for tensor in tensors:
        stored = tensor.stored
        table.add_row(
            Text(safe(tensor.key), overflow="fold"),
            safe(stored.spec.dtype),
            content_text(stored.spec, tensor.request),
            size_text(stored.spec),
            Text(safe(", ".join(tensor.selectors))),
        )
    return table


def _why_no_index(manifest: Manifest) -> str | None:
    """Return why a finished run has no `tensors.h5`, or None if it has one."""
    if manifest.status is not Status.FINISHED or any(f.name == INDEX for f in manifest.files):
        return None
    sinks = manifest.job_resolved.get("sinks")
    for name, sink in sinks.items() if isinstance(sinks, Mapping) else ():
        if isinstance(sink, Mapping) and sink.get("_target_") == _HDF5:
            key = f"sinks.{safe(name)}.index"
            if sink.get("index", AUTO) == AUTO:
                return f"not written for so many shards; to write it: {key}=true"
            return f"not written: {key}=false"
    return None


def _stored_bytes(manifest: Manifest) -> str | None:
    planned = None
    if manifest.plan is not None:
        most = "" if manifest.plan.exact else "at least "
        planned = f"{most}{human_bytes(manifest.plan.bytes)} of values planned"
    if manifest.actual is None:
        return planned
    stored = human_bytes(manifest.actual.bytes)
    return stored if planned is None else f"{stored} ({planned})"


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
    facts.add_row("jobs", _counts(record))
    if record.status is not Status.FINISHED:
        facts.add_row("next", Text(safe(next_steps(directory, record.jobs))))
    return Group(facts, "", _table(record), *_reasons(record))


def sweep_summary(directory: Path, record: SweepRecord) -> str:
    """Return the closing lines of a sweep: how its jobs ended, and why some failed."""
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


def _counts(record: SweepRecord) -> str:
    """Return counts as text: `2 jobs finished, 1 failed`."""
    found = Counter(job.status for job in record.jobs)
    counts = [f"{found[status]:,} {status}" for status in JobStatus if found[status]]
    return ": ".join(filter(None, (counted(len(record.jobs), "job"), ", ".join(counts))))


def _first_line(error: str | None) -> str:
    return (error or "").partition("\n")[0]


def _number(count: int | None) -> str:
    return "" if count is None else f"{count:,}"
