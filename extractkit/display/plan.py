"""`extractkit plan`: what a job would store, where, and whether there is room."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from extractkit.display.text import plural, safe, shape_text
from extractkit.plan import PlannedTensor, Shard
from extractkit.runs.disk import human_bytes
from extractkit.tensors import TensorRecord

_MOST_ROWS = 60
_BOUNDS = {"exact": "", "upper bound": "at most ", "at least": "at least "}


class Plan(Protocol):
    """What is shown of the engine's preview."""

    @property
    def tensors(self) -> tuple[PlannedTensor, ...]: ...
    @property
    def matches(self) -> Mapping[str, int]: ...
    @property
    def skipped(self) -> tuple[TensorRecord, ...]: ...
    @property
    def samples(self) -> int: ...
    @property
    def measured(self) -> tuple[str, ...]: ...
    @property
    def bytes(self) -> int: ...
    @property
    def bound(self) -> str: ...
    @property
    def sizes(self) -> Mapping[str, int | None]: ...
    @property
    def shards(self) -> tuple[Shard, ...]: ...
    @property
    def directory(self) -> Path: ...
    @property
    def free_bytes(self) -> int: ...


def overview(plan: Plan) -> RenderableType:
    """Tensors, selectors, what is left out, and the totals."""
    parts: list[RenderableType] = [_tensors(plan), ""]
    for name, count in plan.matches.items():
        parts.append(Text(f"selectors.{safe(name)} matches {plural(count, 'tensor')}"))
    parts.extend(_skipped(plan.skipped))
    parts.append(_totals(plan))
    return Group(*parts)


def _tensors(plan: Plan) -> Table:
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


def _totals(plan: Plan) -> Text:
    size = f"{_BOUNDS.get(plan.bound, '')}{human_bytes(plan.bytes)}"
    return Text(
        f"{plural(plan.samples, 'sample')}, {plural(len(plan.tensors), 'tensor')}: {size} in "
        f"{plural(len(plan.shards), 'shard')}; {human_bytes(plan.free_bytes)} are free for "
        f"{safe(str(plan.directory))}"
    )
