"""A run as it is told of: `extractkit show`, and the table that closes a run."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from extractkit.display.text import duration_text, plural, rate_text, safe, shape_text, size_text
from extractkit.engine.listener import Summary
from extractkit.runs.disk import human_bytes
from extractkit.runs.manifest import Manifest, RunTensor, Status

_STYLES = {Status.FINISHED: "green", Status.FAILED: "red"}


def overview(directory: Path, manifest: Manifest, committed: int | None = None) -> RenderableType:
    """A run's manifest in brief, and its tensors.

    Args:
        committed: how many shards of an unfinished run are stored.
    """
    facts = Table.grid(padding=(0, 2))
    facts.add_row("run", Text(safe(str(directory))))
    facts.add_row("status", Text(manifest.status, style=_STYLES.get(manifest.status, "yellow")))
    facts.add_row("started", Text(safe(manifest.volatile.started)))
    if manifest.volatile.finished is not None:
        facts.add_row("finished", Text(safe(manifest.volatile.finished)))
    facts.add_row("job", Text(safe(" ".join(manifest.job_given)) or "–"))
    if manifest.inputs is not None:
        facts.add_row("samples", f"{manifest.samples:,}")
        for note in manifest.inputs.notes:
            facts.add_row("", Text(safe(note)))
    planned = f"{len(manifest.shards):,}"
    facts.add_row("shards", planned if committed is None else f"{committed:,} of {planned}")
    if (size := _stored_bytes(manifest)) is not None:
        facts.add_row("size", size)
    if committed is not None:
        facts.add_row("go on", Text(f"extractkit resume {safe(str(directory))}"))
    if manifest.skipped:
        facts.add_row(
            "left out",
            f"{plural(len(manifest.skipped), 'tensor')}, with their reasons in the manifest",
        )
    return Group(facts, "", _tensors(manifest.tensors))


def summary(result: Summary) -> RenderableType:
    """What closes a run."""
    facts = Table.grid(padding=(0, 2))
    cut = f", {result.truncated:,} of them cut off" if result.truncated else ""
    facts.add_row("samples", f"{result.samples:,}{cut}")
    facts.add_row("tensors", f"{result.tensors:,}")
    facts.add_row("stored", f"{human_bytes(result.bytes)} in {plural(result.shards, 'shard')}")
    done = result.samples if result.computed is None else result.computed
    rate = rate_text(done, result.seconds)
    facts.add_row("time", f"{duration_text(result.seconds)}{rate and f', {rate}'}")
    if result.skipped:
        told = f"{plural(result.skipped, 'sample')}, the reasons are in `run.skipped`"
        facts.add_row("skipped", Text(told, style="yellow"))
    for label, told, keys in (
        ("not finite", "NaN or infinity in", result.non_finite),
        ("constant", "one number throughout in", result.constant),
        ("unchanging", "the same for every sample:", result.unchanging),
    ):
        if keys:
            facts.add_row(label, Text(f"{told} {_first_of(keys)}", style="yellow"))
    facts.add_row("look at it", Text(f"extractkit show {safe(str(result.directory))}"))
    return facts


def _first_of(keys: Sequence[str]) -> str:
    more = ", …" if len(keys) > 3 else ""
    return f"{', '.join(safe(key) for key in keys[:3])}{more}"


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


def _stored_bytes(manifest: Manifest) -> str | None:
    planned = None
    if manifest.plan is not None:
        most = "" if manifest.plan.exact else "at least "
        planned = f"{most}{human_bytes(manifest.plan.bytes)} of values planned"
    if manifest.actual is None:
        return planned
    stored = human_bytes(manifest.actual.bytes)
    return stored if planned is None else f"{stored} ({planned})"
