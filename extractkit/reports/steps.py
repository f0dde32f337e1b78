"""Sequences: gates and states of recurrent cells over steps, and what tokens a score is due to."""

from collections.abc import Iterator, Sequence

import numpy as np

from extractkit.core.requests import request_text
from extractkit.core.spec import STEP
from extractkit.core.values import Array
from extractkit.reports import Cube, Figure, Picker, Section
from extractkit.reports.budget import ENCODED, SINGLE, compact
from extractkit.reports.charts import bars, heatmap
from extractkit.reports.material import (
    Material,
    cut_short,
    fitting,
    not_all,
    sample_label,
    short_names,
    spread,
    tokens_along,
)
from extractkit.runs.views import TensorView

_MOST_STEPS = 100
_MOST_UNITS = 32
_MOST_SAMPLES = 24
_MOST_TENSORS = 24
_MOST_TOKENS = 128


def steps(material: Material, room: int) -> Iterator[Section]:
    """Yield values over the steps of loops, unit by unit."""
    views = [view for view in material.views.values() if has_steps(view)]
    shown = views[:_MOST_TENSORS]
    samples = fitting(
        {index: _bytes_of(material, shown, index) for index in _some(material)} if shown else {},
        room,
    )
    cubes, rows = [], []
    for index in samples:
        values = [material.sample(view, index) for view in shown]
        whole = [one[:_MOST_STEPS, :_MOST_UNITS] for one in values if one is not None]
        if len(whole) < len(shown) or not whole:
            continue
        size = tuple(max(one.shape[axis] for one in whole) for axis in (0, 1))
        padded = np.full((len(whole), *size), np.nan)
        for place, one in zip(padded, whole, strict=True):
            place[: one.shape[0], : one.shape[1]] = one
        labels = (_numbers(size[1]), _numbers(size[0]))
        cubes.append(Cube(compact(padded.transpose(0, 2, 1)), labels))
        rows.append(material.row(index))
    if not cubes:
        return
    names = tuple(short_names(view.key for view in shown).values())
    figure = Figure(
        "steps",
        "Units over steps",
        heatmap(STEP, "unit", "value", above=False, signed=True, step=14),
        ("sample", "tensor"),
        ("unit", STEP),
        tuple(cubes),
        caption=f"At most {_MOST_STEPS} steps and {_MOST_UNITS} units.",
    )
    notes = not_all(len(cubes), len(material.at_hand), "sample")
    notes += not_all(len(shown), len(views), "tensor", "tensors with steps")
    yield Section(
        "steps",
        "Steps",
        "States and gates at each step of a loop. Blue is positive, orange negative.",
        (figure, *notes),
        (Picker("sample", tuple(map(sample_label, rows))), Picker("tensor", names)),
    )


def saliency(material: Material, room: int) -> Iterator[Section]:
    """Yield attributions over the tokens of a sample."""
    views = [view for view in material.views.values() if is_saliency(view)][:_MOST_TENSORS]
    if not views:
        return
    each = _MOST_TOKENS * SINGLE * ENCODED * len(views)
    samples = spread(material.at_hand, max(1, min(_MOST_SAMPLES, int(room / each))))
    cubes, rows = [], []
    for index in samples:
        values = [material.sample(view, index) for view in views]
        whole = [
            of_tokens(view, one) for view, one in zip(views, values, strict=True) if one is not None
        ]
        if len(whole) < len(views) or len({len(one) for one in whole}) != 1 or not len(whole[0]):
            continue
        row = material.row(index)
        cut = np.stack(whole)[:, : material.most(_MOST_TOKENS)]
        cubes.append(Cube(cut.astype(np.float32), (tokens_along(views[0], 1, row, cut.shape[1]),)))
        rows.append(row)
    if not cubes:
        return
    kinds = dict.fromkeys(request_text(view.request) for view in views)
    figure = Figure(
        "saliency",
        "Tokens",
        bars("token", "relevance", step=26),
        ("sample", "tensor"),
        ("token",),
        tuple(cubes),
        caption=f"{'; '.join(kinds)}.",
    )
    yield Section(
        "saliency",
        "Saliency",
        "How much each token raises (above zero) or lowers the target. Of plain gradients: their "
        "length.",
        (
            figure,
            *not_all(len(cubes), len(material.at_hand), "sample"),
            *cut_short(rows, material.most(_MOST_TOKENS)),
        ),
        (
            Picker("sample", tuple(map(sample_label, rows))),
            Picker("tensor", tuple(short_names(view.key for view in views).values())),
        ),
    )


def _some(material: Material) -> Sequence[int]:
    return spread(material.at_hand, _MOST_SAMPLES)


def _bytes_of(material: Material, views: Sequence[TensorView], index: int) -> float:
    """Return the size of a sample's values on the page, as if all were as long as the first."""
    value = material.sample(views[0], index)
    sizes = (0, 0) if value is None else value.shape
    count = min(sizes[0], _MOST_STEPS) * min(sizes[1], _MOST_UNITS)
    return float(count * len(views) * SINGLE * ENCODED)


_SUMMED = {"times", "integrate"}
"""Methods whose features add up to what a token contributes."""


def of_tokens(view: TensorView, value: Array) -> Array:
    """Return a number for each token: the sum of contributions, or the length of a gradient."""
    numbers = value.astype(np.float64)
    if numbers.ndim == 1:
        return numbers
    if _SUMMED & set(view.gradient or {}):
        return np.asarray(numbers.sum(-1))
    return np.asarray(np.linalg.norm(numbers, axis=-1))


def has_steps(view: TensorView) -> bool:
    """Return whether a tensor has a vector for each step of a loop."""
    return view.dims[1:2] == (STEP,) and len(view.dims) == 3 and _is_numeric(view)


def is_saliency(view: TensorView) -> bool:
    """Return whether a tensor is an attribution to the tokens of a sample."""
    asked = bool(view.request) and _is_numeric(view)
    return asked and len(view.dims) in (2, 3) and _along_tokens(view)


def _along_tokens(view: TensorView) -> bool:
    axes = view.spec.axes
    return axes[1].free is not None and (len(axes) == 2 or axes[2].size is not None)


def _is_numeric(view: TensorView) -> bool:
    return not view.constant and not view.result and view.dtype.kind == "f"


def _numbers(count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count)))
