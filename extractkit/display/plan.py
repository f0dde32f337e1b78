"""`extractkit plan`: what a job would store, where, and whether there is room."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from extractkit.checkpoints import SkippedCheckpoint
from extractkit.display.text import plural, safe, shape_text
from extractkit.engine.preview import AT_LEAST, EXACT, UPPER_BOUND, Preview
from extractkit.runs.disk import human_bytes
from extractkit.tensors import TensorRecord

_MOST_ROWS = 60
_BOUNDS = {EXACT: "", UPPER_BOUND: "at most ", AT_LEAST: "at least "}


def overview(plan: Preview) -> RenderableType:
    """Tensors, selectors, what is left out, and the totals."""
    parts: list[RenderableType] = [_tensors(plan), ""]
    for name, count in plan.matches.items():
        parts.append(Text(f"selectors.{safe(name)} matches {plural(count, 'tensor')}"))
    parts.extend(_skipped(plan.skipped))
    parts.extend(_skipped_checkpoints(plan.skipped_checkpoints))
    if plan.shared is not None:
        because = f": {safe(plan.shared.reason)}" if plan.shared.reason else ""
        parts.append(Text(f"a call of the model takes {plan.shared.sharing}{because}"))
    parts.append(_totals(plan))
    return Group(*parts)


def _tensors(plan: Preview) -> Table:
    table = Table("tensor", "dtype", "stored shape", "bytes", "selectors", box=None, pad_edge=False)
    for tensor in plan.tensors[:_MOST_ROWS]:
        size = plan.sizes[tensor.key]
        measured = " (measured)" if tensor.key in plan.measured else ""
        table.add_row(
            Text(safe(tensor.key), overflow="fold"),
            safe(tensor.dtype),
            shape_text(tensor.dims, tensor.shape) + measured,
            "?" if size is None else human_bytes(size),
            Text(safe(", ".join(tensor.selectors))),
        )
    if len(plan.tensors) > _MOST_ROWS:
        table.add_row(f"… and {len(plan.tensors) - _MOST_ROWS:,} more; --json lists them all")
    return table


def _skipped(records: Sequence[TensorRecord]) -> list[Text]:
    if not records:
        return []
    lines = [f"{plural(len(records), 'matching tensor')} cannot be extracted:"]
    lines += [f"  {safe(record.address)}: {safe(record.reason or '')}" for record in records[:3]]
    if len(records) > 3:
        lines.append(f"  … and {len(records) - 3:,} more; extractkit tensors shows them")
    return [Text(line, style="yellow") for line in lines]


def _skipped_checkpoints(left_out: Sequence[SkippedCheckpoint]) -> list[Text]:
    if not left_out:
        return []
    lines = [f"{plural(len(left_out), 'checkpoint')} cannot be used:"]
    lines += [f"  {safe(one.label)}: {safe(one.reason)}" for one in left_out[:3]]
    if len(left_out) > 3:
        lines.append(f"  … and {len(left_out) - 3:,} more; --json lists them all")
    return [Text(line, style="yellow") for line in lines]


def _totals(plan: Preview) -> Text:
    size = f"{_BOUNDS.get(plan.bound, '')}{human_bytes(plan.bytes)}"
    count = len(plan.checkpoints)
    times = f"{plural(count, 'checkpoint')} of " if count else ""
    constants = any(tensor.constant for tensor in plan.tensors)  # they have a shard of their own
    shards = (len(plan.shards) + constants) * max(1, count)
    return Text(
        f"{times}{plural(plan.samples, 'sample')}, {plural(len(plan.tensors), 'tensor')}: {size} "
        f"in {plural(shards, 'shard')}; {human_bytes(plan.free_bytes)} are free for "
        f"{safe(str(plan.directory))}"
    )
