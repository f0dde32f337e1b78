"""Samples: a map of all by their principal components, and those with the largest values."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from extractkit.core.component import require
from extractkit.core.values import Array
from extractkit.errors import RunDirectoryError, UserError
from extractkit.reports import Cube, Figure, Listing, Note, Picker, Section
from extractkit.reports.budget import single
from extractkit.reports.charts import points
from extractkit.reports.material import Material, not_all, sample_label, spread
from extractkit.runs.samples import Row
from extractkit.runs.views import TensorView

_MOST_SAMPLES = 1500
_MOST_TENSORS = 8
_BYTES_OF_POINT = 150
_BYTES_OF_EXAMPLE = 160
_MOST_UNITS = 50
_MOST_CLASSES = 20
_WIDEST = 4096
_NEIGHBOURS = 15

_OWN_FIELDS = {"id", "index", "length", "source", "text", "tokens", "truncated", "missing"}
"""Fields of samples' rows that are not labels."""


def sample_map(material: Material, room: int) -> Iterator[Section]:
    """Yield a map of samples by two principal components, for each tensor of one vector."""
    views = [view for view in material.views.values() if is_vector(view)]
    most = min(material.most(_MOST_SAMPLES), room // _BYTES_OF_POINT)
    samples = spread(material.at_hand, most)
    if len(samples) < 3 or not views:
        return
    shown = spread(views, max(1, min(_MOST_TENSORS, room // (len(samples) * _BYTES_OF_POINT))))
    found = {
        view.key: values
        for view in shown
        if (values := _vectors(material, view, samples)) is not None
    }
    if not found:
        return
    rows = [material.row(index) for index in samples]
    places, shares = zip(*map(components, found.values()), strict=True)
    caption = f"Of all variance, these two hold {_span(shares)}."
    figures = [_figure("samples", "Principal components", places, rows, caption)]
    if material.umap:
        neighbours = [neighbourhoods(values) for values in found.values()]
        caption = "Neighbours are close. Sizes of groups and distances between them mean little."
        figures.append(_figure("samples-umap", "UMAP", neighbours, rows, caption))
    notes = not_all(len(samples), len(material.at_hand), "sample")
    notes += not_all(len(found), len(views), "tensor", "tensors with one vector per sample")
    yield Section(
        "samples",
        "Map of samples",
        "Each point is a sample. Close points have similar values.",
        (*figures, *notes),
        (Picker("tensor", tuple(found)),),
    )


def _figure(
    name: str, title: str, places: Sequence[Array], rows: Sequence[Row], caption: str
) -> Figure:
    """Return a chart of samples at two numbers each, (samples, 2) for each tensor."""
    field, texts, numbers = colours(rows)
    labels = tuple(map(sample_label, rows))
    return Figure(
        name,
        title,
        points("first", "second", field, nominal=bool(texts)),
        ("tensor",),
        ("sample",),
        tuple(Cube(single(np.column_stack([one, numbers])), (labels,), texts) for one in places),
        caption=caption,
        fields=("first", "second", "number"),
    )


def _span(shares: Sequence[float]) -> str:
    ends = dict.fromkeys(f"{one:.0%}" for one in (min(shares), max(shares)))
    return " to ".join(ends)


def is_vector(view: TensorView) -> bool:
    """Return whether a tensor has one vector per sample."""
    sizes = view.spec.sample_shape
    usable = not view.constant and not view.result and view.dtype.kind == "f"
    return usable and len(sizes) == 1 and sizes[0] is not None and 1 < sizes[0] <= _WIDEST


def _vectors(material: Material, view: TensorView, samples: Sequence[int]) -> Array | None:
    """Return the values of samples, float64 (samples, features); None if some are damaged."""
    try:
        values = view[np.asarray(samples)].astype(np.float64)
    except RunDirectoryError as error:
        material.damage[str(error)] = None
        return None
    return values if np.isfinite(values).all() else None


def components(values: Array) -> tuple[Array, float]:
    """Return the first two principal components, (samples, 2), and their share of the variance.

    The sign of each is such that its largest number is positive.
    """
    centred = values - values.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    found = left[:, :2] * sizes[:2]
    largest = found[np.abs(found).argmax(axis=0), range(found.shape[1])]
    found = found * np.where(largest < 0, -1, 1)
    total = float((sizes**2).sum())
    return found, float((sizes[:2] ** 2).sum()) / total if total else 1.0


def neighbourhoods(values: Array) -> Array:
    """Return two numbers for each sample, (samples, 2), by UMAP: the same in each call.

    Raises:
        MissingExtraError: umap-learn is not installed.
    """
    umap = require("umap", "report --umap")
    near = min(_NEIGHBOURS, len(values) - 1)
    made = umap.UMAP(n_neighbors=near, init="pca", random_state=0, n_jobs=1)
    return np.asarray(made.fit_transform(values), np.float64)


def colours(rows: Sequence[Row]) -> tuple[str | None, Mapping[str, tuple[str, ...]], Array]:
    """Return the field that colours samples, its texts if it is a class, and its numbers if not.

    A label with few different values is a class. Without one, the length of samples counts.
    """
    for name in (name for name in rows[0] if name not in _OWN_FIELDS):
        values = [row.get(name) for row in rows]
        if all(isinstance(one, str | int | bool) for one in values):
            classes = {str(one) for one in values}
            if 1 < len(classes) <= _MOST_CLASSES:
                return name, {"class": tuple(map(str, values))}, np.zeros(len(rows))
    lengths = np.array([_length(row) for row in rows], np.float64)
    return ("length" if np.isfinite(lengths).any() else None), {}, lengths


def _length(row: Row) -> float:
    length = row.get("length")
    if isinstance(length, Mapping):
        length = max((one for one in length.values() if isinstance(one, int)), default=None)
    return float(length) if isinstance(length, int) else np.nan


def examples(material: Material, room: int) -> Iterator[Section]:
    """Yield the samples with the largest values of units, where the run has the statistic `top`."""
    rows: list[tuple[str, ...]] = []
    size, whole = 0, True
    for key in _with_top(material):
        try:
            found = material.run.examples(key) if material.run else ()
        except (RunDirectoryError, UserError) as error:
            material.damage[str(error)] = None
            continue
        for one in found:
            if one.unit >= _MOST_UNITS or size > room:
                whole = False
                break
            text = one.context or str(one.row.get("text") or one.id)
            row = (key, str(one.unit), f"{one.value:.4g}", str(one.sample), text[:_WIDEST])
            size += sum(map(len, row)) + _BYTES_OF_EXAMPLE // 4
            rows.append(row)
    if not rows:
        return
    notes = [] if whole else [Note("More are in `run.examples`.")]
    columns = ("tensor", "unit", "value", "sample", "where")
    yield Section(
        "examples",
        "Largest values",
        "The samples, and in brackets the tokens, where units are largest.",
        (Listing(columns, tuple(rows), numeric=(1, 2, 3)), *notes),
    )


def _with_top(material: Material) -> list[str]:
    known = (one for one in material.overview.statistics if one.summary is not None)
    return [one.key for one in known if one.name == "top"]
