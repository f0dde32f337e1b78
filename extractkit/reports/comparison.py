"""Sections about two runs: where they depart, by how much, and in which samples."""

import os
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from extractkit.core.values import Array
from extractkit.errors import counted
from extractkit.reports import Block, Cube, Facts, Figure, Header, Listing, Note, Picker, Section
from extractkit.reports.budget import single
from extractkit.reports.charts import bars, heatmap, profile
from extractkit.reports.material import more, sample_label
from extractkit.reports.tensors import number
from extractkit.runs.comparing.overview import (
    BINS_PER_DECADE,
    Departure,
    Departures,
    facts,
    name_of,
    one_sided,
    verdict,
)
from extractkit.runs.comparing.result import Comparison, Errors, TensorComparison, Verdict
from extractkit.runs.overview import Fact

MOST_TENSORS = 200
"""Of how many tensors each element's error is read."""

_MOST_ROWS = 4000
_MOST_CIRCUMSTANCES = 200
_MOST_SAMPLES = 24
_MOST_ACROSS = 40
_LONGEST = 200

_LISTED = "in `extractkit diff --json`"

_MEASURES = (
    "error relative to A",
    "largest error",
    "mean error",
    "one minus cosine",
)
_COLOURED = {
    Verdict.WITHIN: "within the tolerance",
    Verdict.BEYOND: "beyond the tolerance",
    Verdict.EQUAL: "bitwise equal",
}


def header(found: Comparison) -> Header:
    """Return what the page about two runs begins with."""
    counts = Counter(one.verdict for one in found.tensors)
    numbers = [("samples", f"{found.samples.compared:,}"), ("tensors", f"{len(found.tensors):,}")]
    numbers += [(str(one), f"{counts[one]:,}") for one in Verdict if counts[one]]
    options = [f"--rtol={found.tolerance.rtol:g}", f"--atol={found.tolerance.atol:g}"]
    options += ["--map", "FILE"] if found.mapped else []
    a, b = (os.path.basename(os.path.abspath(one)) for one in (found.a, found.b))  # noqa: PTH100, PTH119 - links stay as they are
    return Header(
        f"{b} against {a}",
        "they differ" if found.beyond else "within the tolerance",
        "warn" if found.beyond else "good",
        shlex.join(["extractkit", "diff", found.a, found.b, *options]),
        tuple(numbers),
    )


def sections_of(found: Comparison, apart: Departures) -> list[Section]:
    """Return the sections of the page about two runs, in order."""
    return [
        _summary(found),
        *_layers(found),
        *_tensors(found),
        *_errors(apart),
        *_worst_samples(apart),
        *_circumstances(found),
    ]


def _summary(found: Comparison) -> Section:
    last = verdict(found)
    blocks: list[Block] = [Note(last.text, warns=last.warns)]
    lines = list(facts(found))
    first = next((one for one in found.tensors if one.verdict is Verdict.BEYOND), None)
    if first is not None:
        lines.append(Fact("first beyond", name_of(first), warns=True))
    furthest = max(
        (one for one in found.tensors if _relative(one) is not None),
        key=lambda one: _relative(one) or 0,
        default=None,
    )
    if furthest is not None and _relative(furthest):
        text = f"{name_of(furthest)}: {_relative(furthest):.2g} of A's length"
        lines.append(Fact("furthest apart", text))
    alone = [Fact("in one run", one.text, one.warns) for one in one_sided(found)]
    blocks.append(Facts((*lines, *alone)))
    return Section("overview", "Overview", "A is the reference.", tuple(blocks))


def _relative(one: TensorComparison) -> float | None:
    return None if one.errors is None else one.errors.relative_l2


def _layers(found: Comparison) -> Iterator[Section]:
    """Yield the errors of all tensors in the order in which the model computes them."""
    every = [one for one in found.tensors if one.errors is not None and one.result is None]
    shown = every[:MOST_TENSORS]
    if len(shown) < 2:
        return
    names = tuple(map(name_of, shown))
    classes = {"verdict": tuple(_COLOURED[one.verdict] for one in shown)}
    numbers = np.array([_measures(one.errors) for one in shown if one.errors is not None])
    cubes = tuple(Cube(single(column), (names,), classes) for column in numbers.T)
    figure = Figure(
        "layers",
        "Tensors in the order of A",
        profile("tensor", "error", "verdict", tuple(_COLOURED.values())),
        ("measure",),
        ("tensor",),
        cubes,
        caption="Tensors without any error have no point.",
    )
    notes = more(len(every) - len(shown), "tensor", "in the table below")
    yield Section(
        "layers",
        "Layer by layer",
        "Where the runs begin to depart, and how far they go.",
        (figure, *notes),
        (Picker("measure", _MEASURES),),
    )


def _measures(errors: Errors) -> list[float]:
    """Return the measures of a tensor; NaN for none, and for 0, which a logarithm does not have."""
    found = [
        errors.relative_l2,
        errors.max_abs,
        errors.mean_abs,
        None if errors.cosine is None else 1 - errors.cosine,
    ]
    # Below these, one minus cosine is rounding of the sums.
    least = [0.0, 0.0, 0.0, 1e-15]
    return [
        np.nan if one is None or one <= smallest else one
        for one, smallest in zip(found, least, strict=True)
    ]


def _tensors(found: Comparison) -> Iterator[Section]:
    if not found.tensors:
        return
    shown = found.tensors[:_MOST_ROWS]
    columns = ("tensor", "verdict", "largest error", "mean error", "relative", "cosine", "beyond")
    listing = Listing(
        columns,
        tuple(map(_row, shown)),
        tuple(map(_details, shown)),
        numeric=(2, 3, 4, 5, 6),
        tree=True,
    )
    notes = more(len(found.tensors) - len(shown), "tensor", _LISTED)
    yield Section(
        "tensors",
        "Tensors",
        "Relative is the length of the difference, divided by that of A. Beyond counts elements "
        "beyond the tolerance. Choose a row for its details.",
        (listing, *notes),
    )


def _row(one: TensorComparison) -> tuple[str, ...]:
    errors, counts = one.errors, one.counts
    measured: Sequence[float | None] = (None,) * 4
    if errors is not None:
        measured = (errors.max_abs, errors.mean_abs, errors.relative_l2, errors.cosine)
    beyond = "" if counts is None else str(counts.beyond)
    return (name_of(one), str(one.verdict), *map(number, measured), beyond)


def _details(one: TensorComparison) -> Mapping[str, str]:
    found = {
        "in B": one.b if one.b != one.a else "",
        "reason": one.reason or "",
    }
    if one.counts is not None:
        found["elements"] = (
            f"{one.counts.elements:,}, of which {one.counts.unequal:,} unequal and "
            f"{one.counts.beyond:,} beyond the tolerance"
        )
        if one.counts.lone:
            found["lone"] = f"{one.counts.lone:,} NaN or infinite in one run alone"
    if one.errors is not None:
        found["largest relative error"] = number(one.errors.max_rel)
        found["correlation"] = number(one.errors.correlation)
    for label, pair in (
        ("first unequal sample", one.first_unequal),
        ("first sample beyond", one.first_beyond),
        ("worst sample", one.worst),
    ):
        found[label] = "" if pair is None else f"{pair.a}: {pair.id}"
    return {label: text for label, text in found.items() if text}


def _errors(apart: Departures) -> Iterator[Section]:
    """Yield a histogram of errors for each tensor that differs."""
    shown = [one for one in apart.tensors if one.counts]
    if not shown:
        return
    figure = Figure(
        "errors",
        "Errors of all elements",
        bars("error_from", "elements", name="error from"),
        ("tensor",),
        ("error_from",),
        tuple(map(_histogram, shown)),
        caption="Elements without an error are not drawn. Each bar begins at the number below it.",
    )
    notes = more(apart.of - len(apart.tensors), "tensor", "different, and not shown here")
    yield Section(
        "errors",
        "Distribution of errors",
        "How many elements are how far apart: four bars for each power of ten.",
        (figure, *notes),
        (Picker("tensor", tuple(name_of(one.tensor) for one in shown)),),
    )


def _histogram(one: Departure) -> Cube:
    bins = range(min(one.counts), max(one.counts) + 1)
    labels = tuple(f"{10 ** (at / BINS_PER_DECADE):.1e}" for at in bins)
    return Cube(np.array([one.counts.get(at, 0) for at in bins], np.float32), (labels,))


def _worst_samples(apart: Departures) -> Iterator[Section]:
    """Yield the samples that depart most, and in which tensors."""
    shown = [one for one in apart.tensors if one.by_sample is not None and len(one.by_sample)]
    if not shown:
        return
    # An error counts as a share of the tensor's largest value, so that tensors can be compared.
    shares = np.stack([_shares(one) for one in shown])
    furthest = shares.max(axis=0)
    order = [int(at) for at in np.argsort(-furthest, kind="stable") if furthest[at] > 0]
    if not order:
        return
    rows = []
    for at in order[:_MOST_SAMPLES]:
        where = int(shares[:, at].argmax())
        errors = shown[where].by_sample
        size = np.nan if errors is None else float(errors[at])
        text = sample_label(apart.a.samples[int(apart.aligned.a[at])])
        rows.append(
            (text[:_LONGEST], name_of(shown[where].tensor), number(size), number(furthest[at]))
        )
    columns = shown[:_MOST_ACROSS]
    picked = order[:_MOST_SAMPLES]
    drawn = np.where(np.isfinite(shares), shares, np.nan)[: len(columns)][:, picked].T
    figure = Figure(
        "worst-samples",
        "Largest error of each sample",
        heatmap("tensor", "sample", "share", step=28),
        (),
        ("sample", "tensor"),
        (
            Cube(
                single(drawn),
                (
                    tuple(row[0] for row in rows),
                    tuple(name_of(one.tensor) for one in columns),
                ),
            ),
        ),
        caption="As a share of the tensor's largest value.",
    )
    notes = more(len(shown) - len(columns), "tensor", "considered in the list below")
    yield Section(
        "samples",
        "Samples that depart most",
        f"{len(picked):,} of {counted(len(order), 'sample')} with an error, the furthest first.",
        (
            figure,
            *notes,
            Listing(("sample", "tensor", "largest error", "share"), tuple(rows), numeric=(2, 3)),
        ),
    )


def _shares(one: Departure) -> Array:
    found = np.zeros(0) if one.by_sample is None else one.by_sample
    return found / one.largest if one.largest else np.where(found > 0, np.inf, 0.0)


def _circumstances(found: Comparison) -> Iterator[Section]:
    if not found.circumstances:
        return
    rows = tuple(
        (one.key, _text(one.a), _text(one.b)) for one in found.circumstances[:_MOST_CIRCUMSTANCES]
    )
    notes = more(len(found.circumstances) - len(rows), "difference", _LISTED)
    yield Section(
        "circumstances",
        "What else differs",
        "Models, inputs, versions, settings and machines that may explain a difference.",
        (Listing(("what", "in A", "in B"), rows), *notes),
    )


def _text(value: object) -> str:
    return "nothing" if value is None else str(value)
