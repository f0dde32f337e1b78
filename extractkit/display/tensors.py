"""Output about tensors: those of a model as a tree, a job's plan, and the statistics of a run.

A BERT has a thousand operations and a hundred layers. Without a selector, the tree shows the
outputs and weights of the layers and the model. It only counts the other tensors, at their layer
or, in formats without layers, at their name scope. With selectors, it shows exactly the matching
tensors, including operations.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from extractkit.core.catalog import VARIABLES, Catalog, Kind, TensorRecord
from extractkit.core.checkpoints import ExcludedCheckpoint
from extractkit.core.job import OPENVINO
from extractkit.core.plan import Constant, OverSamples, PerSample, PlannedTensor, divided, groups_of
from extractkit.core.spec import storable
from extractkit.core.statistics.results import TensorStatistics
from extractkit.display import counts_text, safe
from extractkit.display.address_table import AddressTable
from extractkit.errors import counted
from extractkit.runs.directory import human_bytes
from extractkit.runs.manifest import RunStatistics
from extractkit.runs.overview import StatisticRow, content_text, shape_text, size_text

if TYPE_CHECKING:
    from extractkit.engine.preview import Preview

_MOST_SCOPES = 500

_SHOWN = (Kind.MODEL_INPUT, Kind.MODEL_OUTPUT, Kind.LAYER_OUTPUT, *VARIABLES)


def listing(catalog: Catalog, matches: Mapping[str, Sequence[TensorRecord]]) -> RenderableType:
    """Return the tree and the counts below it. `matches` holds the records of each selector."""
    if not matches:
        shown = [record for record in catalog.records if record.kind in _SHOWN]
        # A format without layers has only operations.
        return Group(
            tensor_tree(catalog, shown or catalog.records, counted=catalog.records),
            "",
            _totals(catalog),
            Text(_hint(catalog), style="dim"),
        )
    matched = {record.address for records in matches.values() for record in records}
    shown = [record for record in catalog.records if record.address in matched]
    return Group(tensor_tree(catalog, shown), "", _selectors(catalog, matches))


def tensor_tree(
    catalog: Catalog, shown: Iterable[TensorRecord], counted: Iterable[TensorRecord] = ()
) -> Tree:
    """Return the layers of `shown` with their tensors, and count those only in `counted`."""
    visible = {record.address for record in shown}
    counted_at = _counted_at([record for record in counted if record.address not in visible])
    hidden: dict[str, Counter[Kind]] = {}
    types = {scope.path: scope.type for record in catalog.records for scope in record.scopes}
    for record in catalog.records:
        if record.address in counted_at:
            hidden.setdefault(counted_at[record.address], Counter())[record.kind] += 1
    root = Tree(_label(catalog.model, types.get(""), hidden.get("")), guide_style="dim")
    layers = {"": root}
    for record in catalog.records:
        if record.address in visible:
            _layer(record.layer, layers, types, hidden).add(_leaf(record))
        elif record.address in counted_at:
            _layer(counted_at[record.address], layers, types, hidden)
    return root


def _counted_at(records: Sequence[TensorRecord]) -> dict[str, str]:
    """Return the path of the layer at which each record is counted, by address.

    In a graph, it is the name scope around the operation, or an outer one if there are very many.
    """
    counted_at = {record.address: record.layer for record in records if record.scopes}
    scopes = {r.address: r.layer.split("/")[:-1] for r in records if not r.scopes}
    deepest = max(map(len, scopes.values()), default=0)
    kept = next(
        depth
        for depth in range(deepest, -1, -1)
        if depth == 0 or len({tuple(scope[:depth]) for scope in scopes.values()}) <= _MOST_SCOPES
    )
    return counted_at | {address: "/".join(scope[:kept]) for address, scope in scopes.items()}


def _layer(
    path: str,
    layers: dict[str, Tree],
    types: Mapping[str, str],
    hidden: Mapping[str, Counter[Kind]],
) -> Tree:
    if path not in layers:
        parent, _, name = path.rpartition("/")
        above = _layer(parent, layers, types, hidden)
        layers[path] = above.add(_label(name, types.get(path), hidden.get(path)))
    return layers[path]


def _label(name: str, kind: str | None, hidden: Counter[Kind] | None) -> Text:
    label = Text(safe(name), style="bold")
    if kind is not None:
        label.append(f"  {safe(kind)}", style="not bold cyan")
    if hidden:
        label.append(f"  + {counts_text(hidden)}", style="not bold dim")
    return label


def _leaf(record: TensorRecord) -> Text:
    leaf = Text(f":{safe(record.port)}", style="" if record.extractable else "dim")
    leaf.append(f"  {safe(record.spec.dtype)}", style="green")
    leaf.append(f"  {safe(shape_text(record.spec))}")
    if size := size_text(replace(record.spec, dtype=storable(record.spec.dtype))):
        leaf.append(f"  {safe(size)}", style="dim")
    if record.reason is not None:
        leaf.append(f"  cannot be extracted: {safe(record.reason)}", style="yellow")
    return leaf


def _totals(catalog: Catalog) -> Text:
    kinds = Counter(record.kind for record in catalog.records)
    unreachable = sum(not record.extractable for record in catalog.records)
    text = f"{counted(len(catalog), 'tensor')}: {counts_text(kinds)}"
    return Text(f"{text}; {unreachable:,} cannot be extracted" if unreachable else text)


def _hint(catalog: Catalog) -> str:
    deepest = max(catalog.records, key=lambda record: record.depth, default=None)
    example = f", as in {safe(deepest.address)}" if deepest else ""
    return (
        f"An address is the path of layers with the port{example}. What a selector matches, "
        f"operations included: add selectors=… or '+selectors.mine.path=\"*:output\"'"
    )


def _selectors(catalog: Catalog, matches: Mapping[str, Sequence[TensorRecord]]) -> Table:
    table = Table("selector", "matches", "of which cannot be extracted", box=None, pad_edge=False)
    for name, records in matches.items():
        unreachable = sum(not record.extractable for record in records)
        table.add_row(
            safe(name),
            f"{len(records):,} of {len(catalog):,} tensors",
            f"{unreachable:,}" if unreachable else "–",
        )
    return table


_MOST_ROWS = 60


def plan_overview(plan: "Preview") -> RenderableType:
    """Return the tensors, selectors, notes and totals of a plan."""
    parts: list[RenderableType] = [_tensors(plan), ""]
    for name, count in plan.matches.items():
        parts.append(Text(f"selectors.{safe(name)} matches {counted(count, 'tensor')}"))
    parts.extend(_unextractable(plan.unextractable))
    parts.extend(_excluded(plan.excluded))
    if plan.shared is not None:
        because = f": {safe(plan.shared.reason)}" if plan.shared.reason else ""
        parts.append(Text(f"a call of the model takes {plan.shared.sharing}{because}"))
    if plan.declined is not None:
        parts.append(Text(f"runtime.compile=auto takes TensorFlow's graph: {safe(plan.declined)}"))
    elif plan.compile == OPENVINO:
        parts.append(Text("OpenVINO computes the tensors, as TensorFlow does on the first batch"))
    parts.append(_plan_totals(plan))
    return Group(*parts)


def _tensors(plan: "Preview") -> AddressTable:
    table = AddressTable("tensor", "dtype", "stored shape", "bytes", "selectors")
    for tensor in plan.tensors[:_MOST_ROWS]:
        size = plan.sizes[tensor.key]
        measured = " (measured)" if tensor.key in plan.measured else ""
        table.add_row(
            safe(tensor.key),
            safe(tensor.spec.dtype),
            _stored_text(tensor) + measured,
            "?" if size is None else human_bytes(size),
            safe(", ".join(tensor.selectors)),
        )
    for one in groups_of(plan.tensors):
        size, name = plan.sizes[one.group.key], one.group.statistic.name
        stored = f"{name} of {counted(len(one.tensors), 'tensor')}"
        held = "?" if size is None else human_bytes(size)
        table.add_row(one.group.key, "float64", stored, held, one.group.selector)
    if len(plan.tensors) > _MOST_ROWS:
        table.add_row(f"… and {len(plan.tensors) - _MOST_ROWS:,} more; --json lists them all")
    return table


def _stored_text(tensor: PlannedTensor) -> str:
    shape = safe(content_text(tensor.spec, tensor.request.written))
    match tensor.stored:
        case OverSamples(asked):
            return f"{', '.join(asked.names)} of {shape}"
        case PerSample() | Constant():
            return shape


def _unextractable(records: Sequence[TensorRecord]) -> list[Text]:
    if not records:
        return []
    lines = [f"{counted(len(records), 'matching tensor')} cannot be extracted:"]
    lines += [f"  {safe(record.address)}: {safe(record.reason or '')}" for record in records[:3]]
    if len(records) > 3:
        lines.append(f"  … and {len(records) - 3:,} more; extractkit tensors shows them")
    return [Text(line, style="yellow") for line in lines]


def _excluded(checkpoints: Sequence[ExcludedCheckpoint]) -> list[Text]:
    if not checkpoints:
        return []
    lines = [f"{counted(len(checkpoints), 'checkpoint')} cannot be used:"]
    lines += [f"  {safe(one.label)}: {safe(one.reason)}" for one in checkpoints[:3]]
    if len(checkpoints) > 3:
        lines.append(f"  … and {len(checkpoints) - 3:,} more; --json lists them all")
    return [Text(line, style="yellow") for line in lines]


def _plan_totals(plan: "Preview") -> Text:
    # Imported late: `extractkit show` needs this module, but not the engine.
    from extractkit.engine.preview import AT_LEAST, UPPER_BOUND

    bounds = {UPPER_BOUND: "at most ", AT_LEAST: "at least "}
    size = f"{bounds.get(plan.bound, '')}{human_bytes(plan.bytes)}"
    count = len(plan.checkpoints)
    times = f"{counted(count, 'checkpoint')} of " if count else ""
    constants, _ = divided(plan.tensors)  # they form a separate shard
    shards = (len(plan.shards) + bool(constants)) * max(1, count)
    return Text(
        f"{times}{counted(plan.samples, 'sample')}, {counted(len(plan.tensors), 'tensor')}: {size} "
        f"in {counted(shards, 'shard')}; {human_bytes(plan.free_bytes)} are free for "
        f"{safe(str(plan.directory))}"
    )


_MOST_TENSORS = 40
_MOST_ELEMENTS = 20


def statistics_table(rows: Sequence[StatisticRow]) -> RenderableType:
    """Return a row for each statistic of a run, with what its results show."""
    table = AddressTable("tensor", "of", "statistic", "over all samples")
    tensors = list(dict.fromkeys(one.key for one in rows))
    shown = set(tensors[:_MOST_TENSORS])
    before = None
    for one in rows:
        if one.key in shown:
            first = (one.key, one.of) if one.key != before else ("", "")
            summary = "not computed yet" if one.summary is None else one.summary
            table.add_row(*map(safe, (*first, one.name, summary)))
            before = one.key
    if (rest := len(tensors) - len(shown)) > 0:
        table.add_row(f"… and {rest:,} more; `run.statistics` has them all")
    return table


def statistics_of_tensor(
    key: str, found: TensorStatistics, recorded: RunStatistics | None = None
) -> RenderableType:
    """Return the statistics of one tensor, each as a table of its first elements.

    Args:
        recorded: the shape of the tensor, and what it is; None: those of several tensors.
    """
    of = "" if recorded is None else f" ({content_text(recorded.spec, recorded.request)})"
    parts: list[RenderableType] = [Text(f"{safe(key)}{of}")]
    for name, results in found.items():
        columns = results.columns(_MOST_ELEMENTS + 1)
        table = Table(*columns, box=None, pad_edge=False)
        for row in zip(*(column[:_MOST_ELEMENTS] for column in columns.values()), strict=True):
            table.add_row(*(Text(safe(_cell(value))) for value in row))
        parts += ["", Text(safe(f"{name}: {results.summary()}")), table]
        if len(next(iter(columns.values()))) > _MOST_ELEMENTS:
            code = f"run.statistics[{key!r}].{name}.to_pandas()"
            parts.append(Text(safe(f"… and more rows; all of them: {code}")))
    return Group(*parts)


def _cell(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, np.floating) else str(value)
