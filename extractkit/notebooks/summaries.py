"""What notebooks show of each kind of value: the same facts and tables as terminals and reports."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from extractkit.core.values import Array
from extractkit.display.checks import diff_overview, similarity_overview, verify_overview
from extractkit.display.run import drift_overview, sweep_overview
from extractkit.display.tensors import (
    listing,
    plan_overview,
    statistics_of_tensor,
    statistics_table,
)
from extractkit.errors import ExtractkitError, counted
from extractkit.notebooks.html import (
    Pixels,
    element,
    folded,
    name,
    of_terminal,
    picture,
    table,
    written,
)
from extractkit.notebooks.plots import run_of
from extractkit.reports.charts import styles
from extractkit.reports.images import channels_first, is_map, reduced
from extractkit.reports.material import Material
from extractkit.reports.tensors import bars, facts_of, number
from extractkit.runs.directory import human_bytes
from extractkit.runs.manifest import Manifest
from extractkit.runs.overview import StatisticRow, TensorRow, content_text
from extractkit.runs.views import TensorView

_MOST_TENSORS = 200
_MOST_BARS = 40
_MOST_ROWS = 20
_FEW = 12
"""How many tensors are shown without being unfolded."""

_MOST_BYTES = 64_000_000
"""Bytes of a shard from which values are read to show them: its digest is checked first."""

_PICTURE = 168
_TEXT = 300


def html(value: Any) -> str:
    """Return a value as HTML. What cannot be read is named, and never an error."""
    kinds = (kind.__name__ for kind in type(value).__mro__)
    summary = next(found for kind in kinds if (found := _SUMMARIES.get(kind)) is not None)
    try:
        return written(*summary(value))
    except (ExtractkitError, OSError) as error:
        return written(element("pre", repr(value)), element("div", str(error), class_="warns"))


def _title(kind: str, of: str, *facts: str) -> Element:
    rest = "".join(f" · {fact}" for fact in facts if fact)
    return element("h4", f"{kind} ", name(of), element("span", rest, class_="soft"))


def _run(run: Any) -> Iterator[Element]:
    material = Material.of(run)
    recorded, found = material.manifest, material.overview
    stored = "" if recorded.actual is None else human_bytes(recorded.actual.bytes)
    yield _title(
        "Run",
        str(run.path),
        str(found.status),
        counted(recorded.samples, "sample"),
        counted(len(recorded.tensors), "tensor"),
        counted(len(recorded.checkpoints), "checkpoint") if recorded.checkpoints else "",
        "" if material.checkpoint is None else f"values of {material.checkpoint}",
        stored,
    )
    tensors = [*_tensors(_readable(material, found.tensors), found.tensors)]
    for damage in material.damage:
        yield element("div", damage, class_="bad")
    for finding in found.findings:
        if finding.warns:
            yield element("div", f"{finding.label}: {finding.fact.text}", class_="warns")
    yield from tensors
    if found.statistics:
        shown = of_terminal(statistics_table(found.statistics))
        yield folded(f"Statistics ({len(found.statistics):,})", *shown, opened=not found.tensors)
    if found.drift is not None:
        yield folded("Drift", *of_terminal(drift_overview(found.drift)))
    facts = [(fact.label, fact.text) for fact in found.facts]
    yield folded("Details", table((), facts))


def _readable(material: Material, shown: Sequence[TensorRow]) -> Material:
    """Return the material of the tensors whose bars are drawn, from the first sample stored."""
    run = material.run
    some = [row.key for row in shown[:_MOST_BARS]] if _are_small(material.manifest) else []
    first = [] if run is None else [part.start for part in run.committed if len(part)][:1]
    return replace(material, tensors=some, samples=first)


def _are_small(recorded: Manifest) -> bool:
    """Return whether shards are so small that one can be read to show some of its values."""
    known = recorded.actual or recorded.plan
    return known is not None and known.bytes <= _MOST_BYTES * max(1, len(recorded.shards))


@dataclass
class _Branch:
    """The tensors below a path of layers.

    Attributes:
        inner: what is below it, by the next part of the path.
        rows: the tensors there, with the rest of their names.
    """

    inner: dict[str, "_Branch"] = field(default_factory=dict)
    rows: list[tuple[str, TensorRow]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows) + sum(map(len, self.inner.values()))


def _tensors(material: Material, shown: Sequence[TensorRow]) -> Iterator[Element]:
    """Yield tensors as a tree along their addresses, with type, shape and bars."""
    root = _Branch()
    for row in shown[:_MOST_TENSORS]:
        layer, colon, port = row.key.partition(":")
        *path, port = [*layer.split("/"), f"{colon}{port}"] if layer else [row.key]
        at = root
        for part in path:
            at = at.inner.setdefault(part, _Branch())
        at.rows.append((port, row))
    yield from _branches(root, material, opened=len(shown) <= _FEW)
    if (rest := len(shown) - _MOST_TENSORS) > 0:
        yield element("div", f"… and {counted(rest, 'tensor')} more: list(run)", class_="soft")


def _branches(at: _Branch, material: Material, *, opened: bool) -> Iterator[Element]:
    for part, inner in at.inner.items():
        path, below = part, inner
        while not below.rows and len(below.inner) == 1:
            ((further, below),) = below.inner.items()
            path = f"{path}/{further}"
        if len(below) == 1:
            ((port, row),) = below.rows
            yield _leaf(f"{path}{port}", row, material)
        else:
            count = element("span", f" {len(below):,}", class_="soft")
            title = element("span", element("bdi", path), count)
            yield folded(title, *_branches(below, material, opened=opened), opened=opened)
    for port, row in at.rows:
        yield _leaf(port, row, material)


def _leaf(title: str, row: TensorRow, material: Material) -> Element:
    facts = " · ".join(filter(None, (row.shape, row.spec.dtype, row.size)))
    parts = [element("bdi", title), element("span", facts, class_="soft")]
    if drawn := bars(material, row.key):
        parts.append(element("span", drawn, class_="bars"))
    return element("div", *parts, class_="leaf")


def _view(view: TensorView) -> Iterator[Element]:
    stored = content_text(view.spec, view.request)
    yield _title("Tensor", view.key, stored, str(view.dtype))
    whole = Material.of(run_of(view))
    row = next(one for one in whole.overview.tensors if one.key == view.key)
    material = _readable(whole, [row])
    statistics: list[StatisticRow] = [
        one for one in whole.overview.statistics if one.key == row.key
    ]
    facts: list[tuple[str, str]] = []
    drawn = bars(material, view.key)
    if row.checks is not None and row.checks.minimum is not None:
        ends = f"{number(row.checks.minimum)} to {number(row.checks.maximum)}"
        facts.append(("values", ends))
    facts += facts_of(row, statistics).items()
    rows: list[tuple[str, str | Element]] = [*facts]
    if drawn:
        rows.insert(1, ("some values", element("span", drawn, class_="bars")))
    yield table((), rows)
    inner = material.views.get(view.key)
    if inner is not None and not inner.constant:
        for index in material.at_hand:
            value = material.sample(inner, index)
            if value is not None:
                yield from _value(inner, index, value)
    for damage in whole.damage:
        yield element("div", damage, class_="bad")


def _value(view: TensorView, index: int, value: Array) -> Iterator[Element]:
    """Yield a picture of a sample's value, or its first elements."""
    shape = " × ".join(map(str, value.shape)) or "a number"
    if value.dtype.kind in "fiub" and value.ndim > 1 and min(value.shape[-2:]) > 1:
        planes = channels_first(view, value) if is_map(view) else value[(0,) * (value.ndim - 2)]
        drawn = reduced(planes.reshape(-1, *planes.shape[-2:]).astype(np.float64))[0]
        what = f"sample {index}: {shape}"
        width = max(24, min(_PICTURE, 12 * drawn.shape[1]))
        yield element("div", f"{what}, the first map" if value.ndim > 2 else what, class_="soft")
        yield picture(coloured(drawn), f"{view.key}, {what}", width)
    elif value.size:
        some = np.array2string(value.reshape(-1)[:8], precision=4, separator=", ")
        more = ", …" if value.size > 8 else ""
        text = f"sample {index} ({shape}): {some[:_TEXT].rstrip(']')}{more}]"
        yield element("div", text, class_="soft")


def coloured(values: Array) -> Pixels:
    """Return the colours of values, (height, width, 3), as charts have them."""
    numbers = np.asarray(values, np.float64)
    finite = np.isfinite(numbers)
    signed = bool((numbers[finite] < 0).any())
    ramp = styles()["light"]["range"]["diverging" if signed else "heatmap"]  # type: ignore[index]
    stops = np.array([[int(one[at : at + 2], 16) for at in (1, 3, 5)] for one in ramp], np.float64)
    top = float(np.abs(numbers[finite]).max(initial=0)) or 1.0
    shares = np.where(finite, numbers, 0) / top
    shares = (shares + 1) / 2 if signed else shares
    places = np.linspace(0, 1, len(stops))
    channels = [np.interp(shares, places, stops[:, at]) for at in range(3)]
    found = np.stack(channels, -1)
    found[~finite] = _NOT_FINITE
    return found.round().astype(np.uint8)


_NOT_FINITE = (160, 160, 160)


def _statistics(found: Any) -> Iterator[Element]:
    rows = [
        StatisticRow(key, "", statistic, results.summary())
        for key, one in found.items()
        for statistic, results in one.items()
    ]
    yield _title("Statistics", counted(len(found), "tensor"))
    yield from of_terminal(statistics_table(rows))


def _tensor_statistics(found: Any) -> Iterator[Element]:
    key = found.tensors[0] if len(found.tensors) == 1 else counted(len(found.tensors), "tensor")
    yield from of_terminal(statistics_of_tensor(f"Statistics of {key}", found))


def _results(found: Any) -> Iterator[Element]:
    columns = found.columns(_MOST_ROWS)
    rows = zip(*columns.values(), strict=True)
    yield element("div", found.summary())
    yield table(
        [*columns],
        [[f"{cell:.6g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows],
    )


def _catalog(found: Any) -> Iterator[Element]:
    yield _title("Catalog", found.model, counted(len(found), "tensor"))
    yield from of_terminal(listing(found, {}))


def _plan(found: Any) -> Iterator[Element]:
    yield _title("Plan", found.model, counted(len(found.tensors), "tensor"))
    yield from of_terminal(plan_overview(found))


def _comparison(found: Any) -> Iterator[Element]:
    yield _title("Comparison", counted(len(found.tensors), "tensor"))
    yield from of_terminal(diff_overview(found))


def _similarity(found: Any) -> Iterator[Element]:
    yield _title("Similarity", "linear CKA")
    yield from of_terminal(similarity_overview(found))
    if found.cka.size > 1:
        what = "CKA of each tensor with each other"
        yield picture(coloured(found.cka), what, max(24, min(_PICTURE, 12 * len(found.b))))


def _verification(found: Any) -> Iterator[Element]:
    yield from of_terminal(verify_overview(found))


def _sweep(found: Any) -> Iterator[Element]:
    yield _title("Sweep", str(found.path), counted(len(found), "job"))
    yield from of_terminal(sweep_overview(found.path, found.record))


_SUMMARIES: Mapping[str, Callable[[Any], Iterable[Element]]] = {
    "Run": _run,
    "TensorView": _view,
    "Statistics": _statistics,
    "TensorStatistics": _tensor_statistics,
    "Results": _results,
    "Catalog": _catalog,
    "Preview": _plan,
    "Comparison": _comparison,
    "SimilarityMatrix": _similarity,
    "Verification": _verification,
    "Sweep": _sweep,
}
"""What is shown of each kind of value, by the name of its class, so that none is imported here that
brings the engine along."""
