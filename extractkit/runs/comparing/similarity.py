"""Similarity of tensors in one run or two, from the rows that they store. Needs no TensorFlow."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from extractkit.advice import command
from extractkit.core.component import require
from extractkit.core.notebook import Shown
from extractkit.core.statistics import Block, Merging, features
from extractkit.core.statistics.similarity import Similarity, unlike
from extractkit.core.transforms import Operand
from extractkit.core.values import Array, Ragged
from extractkit.errors import (
    RunDirectoryError,
    SelectionError,
    UnknownTensorError,
    choices,
)
from extractkit.runs.comparing.elements import Side, side
from extractkit.runs.comparing.pairing import Alignment, align, wanted
from extractkit.runs.comparing.result import SampleComparison
from extractkit.runs.manifest import Status
from extractkit.runs.reader import Run, open_run
from extractkit.runs.schema import plain
from extractkit.runs.views import TensorView

SCHEMA = 2
"""Version of the document's fields. Raise it with every change of them."""

_AT = "similarity"

_ROWS = 4096
"""Rows that are read before they are added to the sums."""


@dataclass(frozen=True, eq=False)
class SimilarityMatrix(Shown):
    """Linear CKA between tensors of two runs.

    Attributes:
        a, b: keys of the tensors of each run, along the two axes.
        cka: float64 (tensors of a, tensors of b), NaN for the tensors in `undefined_a` and
            `undefined_b`.
        count: the number of rows compared: of samples, or of their positions.
        samples: how samples were paired, and which were not.
        undefined_a, undefined_b: the tensors without a similarity, with the reason.
        within: whether the tensors of one run were compared with each other.
    """

    a: tuple[str, ...]
    b: tuple[str, ...]
    cka: npt.NDArray[np.float64]
    count: int
    samples: SampleComparison
    undefined_a: Mapping[str, str]
    undefined_b: Mapping[str, str]
    within: bool

    def __getitem__(self, keys: tuple[str, str]) -> float:
        """Return the similarity of a tensor of the first run and one of the second.

        Raises:
            UnknownTensorError: one of them was not compared.
        """
        for key, known in zip(keys, (self.a, self.b), strict=True):
            if key not in known:
                raise UnknownTensorError(f"{key!r} was not compared. {choices(key, known)}")
        return float(self.cka[self.a.index(keys[0]), self.b.index(keys[1])])

    def to_json(self) -> dict[str, object]:
        """Return the document that `extractkit similarity --json` prints: null in place of NaN."""
        cka = [[None if np.isnan(one) else one for one in row] for row in self.cka.tolist()]
        keys: dict[str, object] = {"schema": SCHEMA, "a": list(self.a), "b": list(self.b)}
        return {
            **keys,
            "cka": cka,
            "undefined_a": dict(self.undefined_a),
            "undefined_b": dict(self.undefined_b),
            "count": self.count,
            "samples": plain(self.samples),
        }

    def to_xarray(self) -> Any:
        """Return an `xarray.DataArray` with the keys along its axes, `tensor` and `other`.

        Raises:
            MissingExtraError: xarray is not installed.
        """
        xarray = require("xarray", "to_xarray")
        coordinates = {"tensor": list(self.a), "other": list(self.b)}
        return xarray.DataArray(self.cka, coordinates, ("tensor", "other"), name="cka")

    def __repr__(self) -> str:
        return f"<SimilarityMatrix: {len(self.a)} × {len(self.b)} tensors, {self.count:,} rows>"


def similarity(
    a: Run | str | Path,
    b: Run | str | Path | None = None,
    *,
    only: str | Sequence[str] | None = None,
    batch: int | None = None,
    trust: Sequence[str] = (),
) -> SimilarityMatrix:
    """Return linear CKA between all tensors of two runs that store values of the same samples.

    Tensors are streamed, with a shard of each in memory at a time. Samples are paired as by `diff`.
    All tensors need the same axes before the last one, which holds the features. To compare
    tensors without storing values, use the statistic `similarity`.

    Args:
        a, b: finished runs, or their directories. None: the tensors of `a` with each other. Of a
            run with checkpoints, give `run.at(checkpoint)`.
        only: globs over addresses, for both runs. None: all tensors with a value per sample.
        batch: rows of a minibatch, for an estimate that needs little memory. None: exact. The sums
            of the exact result take eight bytes for each pair of features.
        trust: modules whose callables the configurations of runs given by directory may name.

    Raises:
        ConfigError: `batch` is not a whole number of at least 4.
        SelectionError: tensors have no common rows, or the sums do not fit into memory.
        RunDirectoryError: a run is unfinished or damaged, or has checkpoints.
    """
    statistic = Similarity.parse({"batch": batch}, _AT)
    first = _opened(a, trust)
    second = first if b is None else _opened(b, trust)
    ours = _views(first, only)
    theirs = ours if b is None else _views(second, only)
    _check(statistic, first, ours, second, {} if b is None else theirs)
    aligned = align(first, second)
    if not len(aligned):
        raise SelectionError(f"{first.path} and {second.path} have no samples in common")
    sources = [(side(first, key), aligned.a) for key in ours]
    if b is not None:
        sources += [(side(second, key), aligned.b) for key in theirs]
    merging = Merging(statistic)
    seen = [_Seen() for _ in sources]
    for block in _blocks(sources, aligned):
        for one, rows in zip(seen, block, strict=True):
            one.add(rows.rows())
        merging.add(statistic.of(block))
    found = merging.finish()
    begin = 0 if b is None else len(ours)
    reasons = [
        one.undefined if np.isnan(own) else None
        for one, own in zip(seen, np.diagonal(found["cka"]), strict=True)
    ]
    return SimilarityMatrix(
        tuple(ours),
        tuple(theirs),
        np.ascontiguousarray(found["cka"][: len(ours), begin:]),
        int(found["count"]),
        aligned.found,
        {key: why for key, why in zip(ours, reasons, strict=False) if why is not None},
        {key: why for key, why in zip(theirs, reasons[begin:], strict=True) if why is not None},
        b is None,
    )


@dataclass
class _Seen:
    """The rows of a tensor so far: whether all are numbers, and whether they differ."""

    finite: bool = True
    first: Array | None = None
    changes: bool = False

    def add(self, rows: Array) -> None:
        self.finite = self.finite and bool(np.isfinite(rows).all())
        if len(rows) and self.first is None:
            self.first = rows[0].copy()
        self.changes = self.changes or bool((rows != self.first).any())

    @property
    def undefined(self) -> str:
        """The reason why the tensor has no similarity, if it has none."""
        if not self.finite:
            return "it holds NaN or infinities"
        return "its variance is lost in rounding" if self.changes else "it never changes"


def _opened(run: Run | str | Path, trust: Sequence[str]) -> Run:
    opened = run if isinstance(run, Run) else open_run(run, trust=trust)
    if opened.status is not Status.FINISHED:
        raise RunDirectoryError(
            f"{opened.path} is not finished (status: {opened.status}), so it cannot be compared. "
            f"Finish it: {command('resume', opened.path)}"
        )
    if labels := opened.checkpoints:
        raise RunDirectoryError(
            f"{opened.path} has {len(labels)} checkpoints. Compare those that you want, in Python: "
            f"similarity(run.at({labels[0]!r}), run.at({labels[-1]!r}))"
        )
    return opened


def _views(run: Run, only: str | Sequence[str] | None) -> dict[str, TensorView]:
    keys = wanted(run, only)
    found = {key: view for key, view in run.items() if key in keys and not view.constant}
    if not found:
        given = "" if only is None else f"only={only!r} matches none: "
        raise SelectionError(
            f"{given}{run.path} stores no such tensor with a value per sample. "
            f"{choices(str(only or ''), [key for key, view in run.items() if not view.constant])}"
        )
    return found


def _check(
    statistic: Similarity,
    a: Run,
    ours: Mapping[str, TensorView],
    b: Run,
    theirs: Mapping[str, TensorView],
) -> None:
    """Check that all tensors have the same rows, and that the sums fit into memory."""
    # Two checkpoints of one run have the same path, so the names may be equal.
    named = [
        (f"{key} of {run.path}", _operand(view))
        for run, views in ((a, ours), (b, theirs))
        for key, view in views.items()
    ]
    operands = [operand for _, operand in named]
    choose = "Choose tensors by their addresses: only=[…], on the command line --only GLOB"
    if len(operands) < 2:
        raise SelectionError(f"{a.path} stores one such tensor, {next(iter(ours))!r}. {choose}")
    for operand in operands:
        try:
            features(operand, _AT)
        except SelectionError as error:
            raise SelectionError(f"{error}. {choose}") from error
    if (apart := unlike(named)) is not None:
        raise SelectionError(f"{_AT} compares tensors row by row, and {apart}. {choose}")
    if (excess := statistic.excess(operands)) is not None:
        raise SelectionError(f"{_AT} of {len(operands)} tensors {excess}. {choose}")


def _operand(view: TensorView) -> Operand:
    return Operand.of(view.spec, view.key)


def _blocks(
    sources: Sequence[tuple[Side, npt.NDArray[np.int64]]], aligned: Alignment
) -> Iterator[list[Block]]:
    """Yield the rows of all tensors, of a few thousand positions at a time."""
    widths = [(one.view.spec.sample_shape or (1,))[-1] or 0 for one, _ in sources]
    waiting: list[list[Array]] = [[] for _ in sources]
    count = begin = 0
    values = zip(*(one.samples(numbers) for one, numbers in sources), strict=True)
    for pair, sample in enumerate(values):
        if len({value.shape[:-1] for value in sample}) > 1:
            shapes = " and ".join(dict.fromkeys(str(list(value.shape)) for value in sample))
            raise SelectionError(
                f"{_AT} compares tensors row by row, and those of sample "
                f"{aligned.sample(pair).id!r} have shapes {shapes}"
            )
        for rows, value, width in zip(waiting, sample, widths, strict=True):
            rows.append(value.reshape(-1, width))
        count += len(waiting[0][-1])
        if count >= _ROWS:
            yield _joined(waiting, widths, begin)
            waiting, count, begin = [[] for _ in sources], 0, pair + 1
    if waiting[0]:
        yield _joined(waiting, widths, begin)


def _joined(waiting: Sequence[Sequence[Array]], widths: Sequence[int], begin: int) -> list[Block]:
    counts = np.array([len(rows) for rows in waiting[0]], np.int64)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    samples = np.arange(begin, begin + len(counts))
    return [
        Block(Ragged(np.concatenate(rows), offsets), samples, width)
        for rows, width in zip(waiting, widths, strict=True)
    ]
