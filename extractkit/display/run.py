"""A run as it is told of: `extractkit show`, and the table that closes a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from extractkit.advice import command
from extractkit.display.drift import overview as moves
from extractkit.display.text import (
    duration_text,
    plural,
    rate_text,
    safe,
    shape_text,
    size_text,
)
from extractkit.engine.listener import Summary
from extractkit.runs.disk import human_bytes
from extractkit.runs.drift import Drift
from extractkit.runs.manifest import Manifest, RunTensor, Status
from extractkit.runs.self_check import SelfCheck
from extractkit.sinks.hdf5 import AUTO, Hdf5Sink
from extractkit.sinks.hdf5_index import INDEX
from extractkit.value_checks import ValueStats

_STYLES = {Status.FINISHED: "green", Status.FAILED: "red"}
_FEW = 3
_HDF5 = f"{Hdf5Sink.__module__}.{Hdf5Sink.__qualname__}"


def overview(
    directory: Path, manifest: Manifest, committed: int | None = None, drift: Drift | None = None
) -> RenderableType:
    """A run's manifest in brief, and its tensors.

    Args:
        committed: how many shards of an unfinished run are stored.
        drift: how the tensors moved over its checkpoints, if it has any.
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
        facts.add_row("join", Text(command("finalize", safe(str(directory.parent.parent)))))
    if manifest.inputs is not None:
        facts.add_row("samples", _samples(manifest.samples, manifest.inputs.truncated))
        for note in manifest.inputs.notes:
            facts.add_row("", Text(safe(note)))
    if manifest.checkpoints:
        facts.add_row("checkpoints", _checkpoints(manifest))
    for left_out in manifest.skipped_checkpoints[:_FEW]:
        told = f"{left_out.label}: {left_out.reason}"
        facts.add_row("left out", Text(safe(told), style="yellow"))
    if len(manifest.skipped_checkpoints) > _FEW:
        rest = len(manifest.skipped_checkpoints) - _FEW
        facts.add_row("", f"and {plural(rest, 'checkpoint')} more, see the manifest")
    planned = f"{len(manifest.shards):,}"
    facts.add_row("shards", planned if committed is None else f"{committed:,} of {planned}")
    if (size := _stored_bytes(manifest)) is not None:
        facts.add_row("size", size)
    if (left_out_index := _left_out_index(manifest)) is not None:
        facts.add_row(INDEX, left_out_index)
    if manifest.volatile.self_check:
        facts.add_row("self-check", Text(safe(_self_check(manifest.volatile.self_check))))
    if manifest.actual is not None:
        _add_findings(facts, manifest.actual.skipped, *_told_of(manifest.actual.values))
    if committed is not None:
        facts.add_row("go on", Text(command("resume", safe(str(directory)))))
    if manifest.skipped:
        facts.add_row(
            "left out",
            f"{plural(len(manifest.skipped), 'tensor')}, with their reasons in the manifest",
        )
    parts: list[RenderableType] = [facts, "", _tensors(manifest.tensors)]
    if drift is not None:
        parts += ["", moves(drift)]
    return Group(*parts)


def summary(result: Summary) -> RenderableType:
    """What closes a run."""
    facts = Table.grid(padding=(0, 2))
    if result.checkpoints:
        facts.add_row("checkpoints", f"{result.checkpoints:,}")
    facts.add_row("samples", _samples(result.samples, result.truncated))
    facts.add_row("tensors", f"{result.tensors:,}")
    facts.add_row("stored", f"{human_bytes(result.bytes)} in {plural(result.shards, 'shard')}")
    done = result.samples if result.computed is None else result.computed
    rate = rate_text(done, result.seconds)
    facts.add_row("time", f"{duration_text(result.seconds)}{rate and f', {rate}'}")
    _add_findings(facts, result.skipped, result.non_finite, result.constant, result.unchanging)
    facts.add_row("look at it", Text(command("show", safe(str(result.directory)))))
    return facts


def _checkpoints(manifest: Manifest) -> str:
    labels = [safe(one.label) for one in manifest.checkpoints]
    shown = labels if len(labels) <= _FEW else [labels[0], labels[1], "…", labels[-1]]
    return f"{len(labels):,}: {', '.join(shown)}"


def _self_check(checks: Sequence[SelfCheck]) -> str:
    """What was compared, for the sets of weights together: they have the same outputs."""
    compared = [one for one in checks if one.not_applicable is None]
    if not compared:
        return f"not applicable: {checks[0].not_applicable}"
    first, labels = compared[0], [str(one.checkpoint) for one in compared if one.checkpoint]
    at = f", checkpoints {', '.join(labels)}" if labels else ""
    largest = max(one.largest_difference for one in compared)
    return (
        f"{plural(len(first.outputs), 'output')} of {plural(first.samples, 'sample')} as from "
        f"{first.loaded_by}{at}; largest difference {largest:.2g}"
    )


def _samples(count: int, truncated: int) -> str:
    return f"{count:,}{f', {truncated:,} of them cut off' if truncated else ''}"


def _add_findings(
    facts: Table,
    skipped: int,
    non_finite: Sequence[str],
    constant: Sequence[str],
    unchanging: Sequence[str],
) -> None:
    """A row for each sort of samples and values that may be a mistake; tensors are texts."""
    if skipped:
        told = f"{plural(skipped, 'sample')}, the reasons are in `run.skipped`"
        facts.add_row("skipped", Text(told, style="yellow"))
    for label, told, tensors in (
        ("not finite", "NaN or infinity in", non_finite),
        ("constant", "one number throughout in", constant),
        ("unchanging", "the same for every sample:", unchanging),
    ):
        if tensors:
            facts.add_row(label, Text(f"{told} {_first_of(tensors)}", style="yellow"))


def _told_of(values: Mapping[str, ValueStats]) -> tuple[list[str], list[str], list[str]]:
    """Tensors not finite, constant, unchanging; with what was found where they are few."""
    non_finite = {key: _counted(one) for key, one in values.items() if not one.finite}
    constant = {key: f"{one.minimum:g}" for key, one in values.items() if one.constant}
    unchanging = [key for key, one in values.items() if one.never_changes]
    return _explained(non_finite), _explained(constant), unchanging


def _explained(found: Mapping[str, str]) -> list[str]:
    if len(found) > _FEW:
        return list(found)
    return [f"{key} ({told})" for key, told in found.items()]


def _counted(found: ValueStats) -> str:
    """`2 NaN, 1 infinite in 3 samples`."""
    sorts = ((found.nan, "NaN"), (found.inf, "infinite"))
    told = ", ".join(f"{count:,} {sort}" for count, sort in sorts if count)
    return f"{told} in {plural(found.samples, 'sample')}" if found.samples else told


def _first_of(tensors: Sequence[str]) -> str:
    more = ", …" if len(tensors) > _FEW else ""
    return f"{', '.join(map(safe, tensors[:_FEW]))}{more}"


def _tensors(tensors: tuple[RunTensor, ...]) -> Table:
    table = Table("tensor", "dtype", "shape", "bytes", "selectors", box=None, pad_edge=False)
    for tensor in tensors:
        stored = tensor.stored
        shape = stored.shape if stored.constant else (None, *stored.shape)
        table.add_row(
            Text(safe(tensor.key), overflow="fold"),
            safe(stored.dtype),
            shape_text(stored.dims, shape),
            size_text(stored.dims, shape, stored.dtype),
            Text(safe(", ".join(tensor.selectors))),
        )
    return table


def _left_out_index(manifest: Manifest) -> str | None:
    """Why a finished run of the HDF5 sink has no file over all shards; None where it has."""
    if manifest.status is not Status.FINISHED or any(f.name == INDEX for f in manifest.files):
        return None
    sinks = manifest.job_resolved.get("sinks")
    for name, sink in sinks.items() if isinstance(sinks, Mapping) else ():
        if isinstance(sink, Mapping) and sink.get("_target_") == _HDF5:
            key = f"sinks.{safe(name)}.index"
            if sink.get("index", AUTO) == AUTO:
                return f"left out for so many shards; to have it: {key}=true"
            return f"left out: {key}=false"
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
