"""Statistics: distributions of values, results over all samples, and drift over checkpoints."""

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from extractkit.core.statistics import Array
from extractkit.core.statistics.results import Results
from extractkit.errors import RunDirectoryError, counted
from extractkit.reports import Cube, Figure, Listing, Picker, Section
from extractkit.reports.budget import single
from extractkit.reports.charts import bars, heatmap, lines
from extractkit.reports.material import Material, more
from extractkit.reports.tensors import number
from extractkit.runs.drift import Drift, Series, TensorDrift

_BINS = 40
_BYTES_OF_BIN = 20
_MOST_FEATURES = 4
_MOST_TENSORS = 250
_MOST_LISTED = 2000
_MOST_LINES = 60


def distributions(material: Material, room: int) -> Iterator[Section]:
    """Yield a histogram for each tensor: the run's own over all samples, or one of some values."""
    most = min(_MOST_TENSORS, room // (_BINS * _BYTES_OF_BIN))
    counted_for = [*_counted(material, most)]
    names = {name for name, _ in counted_for}
    drawn = [
        (key, _drawn(values))
        for key, values in material.drawn.items()
        if key not in names and values.size
    ]
    every = [*((f"{name}, all samples", cube) for name, cube in counted_for), *drawn]
    if not every:
        return
    shown = every[:most]
    notes = more(len(every) - len(shown), "histogram", "not shown, so that the page stays small")
    figure = Figure(
        "distribution",
        "Histogram",
        bars("value_from", "elements", name="from"),
        ("tensor",),
        ("value_from",),
        tuple(cube for _, cube in shown),
        caption="Each bar begins at the number below it.",
    )
    lead = "How many elements have which value"
    lead += (
        ": over all samples where the run has this statistic, else of some values of a few samples."
        if drawn
        else ", over all samples."
    )
    picker = Picker("tensor", tuple(name for name, _ in shown))
    yield Section("distributions", "Distributions", lead, (figure, *notes), (picker,))


def _counted(material: Material, most: int) -> Iterator[tuple[str, Cube]]:
    """Yield the histograms that the run holds as statistics, with the key and the feature."""
    if material.run is None:
        return
    try:
        every = material.run.statistics
    except RunDirectoryError:
        return  # named in the overview
    found = 0
    for key, one in every.items():
        if "histogram" not in one or found >= most or not material.shows(key):
            continue
        results: Results = one["histogram"]
        edges, counts = results["edges"], results["counts"]
        if counts.ndim == 1 or edges.ndim == 1:
            total = counts if counts.ndim == 1 else counts.sum(0)
            yield key, _cube(edges, total)
            found += 1
            continue
        for feature in range(min(_MOST_FEATURES, len(counts))):
            yield f"{key}, feature {feature}", _cube(edges[feature], counts[feature])
            found += 1


def _drawn(values: Array) -> Cube:
    counts, edges = np.histogram(values, min(_BINS, max(1, len(np.unique(values[:_BINS])))))
    return _cube(edges, counts)


def _cube(edges: Array, counts: Array) -> Cube:
    # An edge that is almost zero would get a long label.
    negligible = 1e-6 * np.abs(edges).max()
    labels = tuple(number(0.0 if abs(edge) < negligible else float(edge)) for edge in edges[:-1])
    return Cube(np.asarray(counts, np.float32), (labels,))


def statistics(material: Material, room: int) -> Iterator[Section]:
    """Yield a table of all statistics over samples."""
    rows = [
        (one.key, one.of, one.name, "not computed yet" if one.summary is None else one.summary)
        for one in material.overview.statistics
    ]
    if not rows:
        return
    shown, size = 0, 0
    for row in rows[:_MOST_LISTED]:
        size += sum(map(len, row)) + 20
        if size > room:
            break
        shown += 1
    notes = more(len(rows) - shown, "row", "in `run.statistics`")
    columns = ("tensor", "of", "statistic", "over all samples")
    yield Section(
        "statistics",
        "Statistics",
        "Results over all samples, in one line each.",
        (Listing(columns, tuple(rows[:shown])), *notes),
    )


_MEASURES: Mapping[str, Callable[[TensorDrift], Series]] = {
    "distance from the first": lambda one: one.from_first.relative_norm,
    "distance from the one before": lambda one: one.from_previous.relative_norm,
    "cosine with the first": lambda one: one.from_first.cosine,
    "CKA with the first": lambda one: one.from_first.cka,
    "CKA with the one before": lambda one: one.from_previous.cka,
}
"""What the map of drift can show of a tensor, for each checkpoint."""


def drift(material: Material, room: int) -> Iterator[Section]:
    """Yield how tensors move over the checkpoints of the run."""
    found = material.overview.drift
    if found is None or not found.tensors:
        return
    most = max(1, min(_MOST_LINES, room // (60 * max(1, len(found.checkpoints)))))
    every = [key for key in found.tensors if material.shows(key)]
    keys = every[:most]
    notes = more(len(every) - len(keys), "tensor", "in `run.drift`")
    labels = tuple(keys), found.checkpoints
    overall = Figure(
        "drift-map",
        "All tensors",
        heatmap("checkpoint", "tensor", "measure", zero=False),
        ("measure",),
        ("tensor", "checkpoint"),
        tuple(
            Cube(_numbers(of(found.tensors[key]) for key in keys), labels)
            for of in _MEASURES.values()
        ),
        clicks={"tensor": "tensor"},
        caption="Choose a cell to see its tensor below. CKA is 1 for values that differ by an "
        "orthogonal transform, a factor and an offset.",
    )
    figure = Figure(
        "drift",
        "Distance",
        lines("checkpoint", "measure"),
        ("tensor",),
        ("measure", "checkpoint"),
        tuple(_moved(found, key) for key in keys),
        caption="Length of the difference, relative to that at the earlier checkpoint.",
    )
    yield Section(
        "drift",
        "Drift",
        f"How tensors move over {counted(len(found.checkpoints), 'checkpoint')}.",
        (overall, figure, *notes),
        (Picker("measure", tuple(_MEASURES)), Picker("tensor", tuple(keys))),
    )


def _moved(found: Drift, key: str) -> Cube:
    one = found.tensors[key]
    series = one.from_first.relative_norm, one.from_previous.relative_norm
    return Cube(_numbers(series), (("from the first", "from the one before"), found.checkpoints))


def _numbers(series: Iterable[Series]) -> Array:
    return single(np.array([[np.nan if n is None else n for n in each] for each in series]))


def moments(material: Material, room: int) -> Iterator[Section]:
    """Yield mean and standard deviation of tensors over the checkpoints of the run."""
    run = material.over_checkpoints
    if run is None:
        return
    try:
        every = {key: one["moments"] for key, one in run.statistics.items() if "moments" in one}
    except RunDirectoryError:
        return  # named in the overview
    labels = run.checkpoints
    most = max(1, min(_MOST_LINES, room // (40 * max(1, len(labels)))))
    shown = [*every][:most]
    if not shown or len(labels) < 2:
        return
    measures = ("mean", "standard deviation")
    cubes = []
    for key in shown:
        mean, variance = every[key]["mean"], every[key]["variance"]
        each = [one.reshape(len(labels), -1).mean(1) for one in (mean, np.sqrt(variance))]
        cubes.append(Cube(single(np.array(each)), (measures, labels)))
    notes = more(len(every) - len(shown), "tensor", "in `run.statistics`")
    figure = Figure(
        "moments",
        "Mean and standard deviation",
        lines("checkpoint", "measure"),
        ("tensor",),
        ("measure", "checkpoint"),
        tuple(cubes),
        caption="Those of features, averaged.",
    )
    yield Section(
        "moments",
        "Statistics over checkpoints",
        f"How the values of all samples change over {counted(len(labels), 'checkpoint')}.",
        (figure, *notes),
        (Picker("tensor", tuple(shown)),),
    )
