"""The tensors of a run: a table to search, with what is known about each."""

from collections.abc import Iterator, Mapping

import numpy as np

from extractkit.core.statistics.histograms import bars_of
from extractkit.core.value_checks import ValueChecks
from extractkit.errors import counted
from extractkit.reports import Listing, Note, Section
from extractkit.reports.material import Material
from extractkit.runs.overview import StatisticRow, TensorRow

_BYTES_OF_ROW = 120
"""Characters of a row and its details beside the names in it."""

_BARS = 24
_COLUMNS = ("tensor", "shape", "type", "size", "smallest", "largest", "values")


def tensors(material: Material, room: int) -> Iterator[Section]:
    """Yield the table of tensors."""
    overview = material.overview
    if not overview.tensors:
        return
    rows: list[tuple[str, ...]] = []
    details: list[Mapping[str, str]] = []
    statistics: dict[str, list[StatisticRow]] = {}
    for one in overview.statistics:
        statistics.setdefault(one.key, []).append(one)
    size = 0
    for tensor in overview.tensors:
        row = _row(material, tensor)
        detail = facts_of(tensor, statistics.get(tensor.key, []))
        size += _BYTES_OF_ROW + sum(map(len, (*row, *detail.values())))
        if size > room:
            break
        rows.append(row)
        details.append(detail)
    notes = []
    if (rest := len(overview.tensors) - len(rows)) > 0:
        notes.append(
            Note(f"{counted(rest, 'tensor')} more are not shown, so that the page stays small.")
        )
    lead = (
        "Smallest and largest are over all values. The bars are drawn from at most 4,096 values of "
        "four samples. Choose a row for its details."
    )
    listing = Listing(_COLUMNS, tuple(rows), tuple(details), numeric=(4, 5), tree=True)
    yield Section("tensors", "Tensors", lead, (listing, *notes))


def _row(material: Material, tensor: TensorRow) -> tuple[str, ...]:
    checks = tensor.checks or ValueChecks()
    return (
        tensor.key,
        tensor.shape,
        tensor.spec.dtype,
        tensor.size,
        number(checks.minimum),
        number(checks.maximum),
        bars(material, tensor.key),
    )


def bars(material: Material, key: str) -> str:
    """Return a histogram of some values of a tensor as characters; empty if they are all one."""
    drawn = material.drawn.get(key)
    if drawn is None or not drawn.size or drawn.min() == drawn.max():
        return ""
    return bars_of(np.histogram(drawn, _BARS)[0])


def number(value: float | None) -> str:
    """Return a number with four digits; empty for none."""
    return "" if value is None else f"{value:.4g}"


def facts_of(tensor: TensorRow, statistics: list[StatisticRow]) -> dict[str, str]:
    """Return what is known about a tensor, by label, without what is empty."""
    record, checks = tensor.record, tensor.checks
    found = {
        "address": record.address,
        "name": record.name if record.name != record.address else "",
        "kind": record.kind.replace("_", " "),
        "layer": record.layer_type or "",
        "operation": record.op_type or "",
        "selectors": ", ".join(tensor.selectors),
        "axes": ", ".join(map(str, tensor.spec.axes)),
    }
    if checks is not None:
        found["elements"] = f"{checks.elements:,} of {counted(checks.examined, 'sample')}"
        found["not finite"] = (
            "" if checks.finite else f"{checks.nan:,} NaN, {checks.inf:,} infinite"
        )
    found |= {one.name: one.summary or "not computed yet" for one in statistics}
    return {label: text for label, text in found.items() if text}
