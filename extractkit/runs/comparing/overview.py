"""What is notable about a comparison, as plain values that terminals and reports render."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from extractkit.errors import counted
from extractkit.runs.comparing.elements import BlockPair, blocks, sides
from extractkit.runs.comparing.measures import compare
from extractkit.runs.comparing.pairing import Alignment, align
from extractkit.runs.comparing.result import (
    Comparison,
    OneSided,
    TensorComparison,
    Tolerance,
    Verdict,
)
from extractkit.runs.overview import Fact
from extractkit.runs.reader import Run, open_run

_MOST_NAMES = 3
_WORDS = {
    Verdict.EQUAL: "bitwise equal",
    Verdict.WITHIN: "within the tolerance",
    Verdict.BEYOND: "beyond it",
    Verdict.INCOMPARABLE: "not comparable",
}

BINS_PER_DECADE = 4


def facts(found: Comparison) -> tuple[Fact, ...]:
    """Return lines about the runs, their samples, and the tolerance."""
    samples, tolerance = found.samples, found.tolerance
    missing = f", {samples.missing:,} missing in both" if samples.missing else ""
    return (
        Fact("A", found.a),
        Fact("B", found.b),
        Fact("samples", f"{samples.compared:,} by {samples.aligned_by}{missing}"),
        Fact("tolerance", f"{tolerance.atol:g} + {tolerance.rtol:g} · max(|a|, |b|)"),
    )


def one_sided(found: Comparison) -> Iterator[Fact]:
    """Yield lines about what exists in one of the runs only."""
    for run, keys in (("A", found.only_in_a), ("B", found.only_in_b)):
        if keys:
            verb = "not mapped" if found.mapped else f"only in {run}"
            names = _few(keys[:_MOST_NAMES], len(keys))
            yield Fact("", f"{counted(len(keys), 'tensor')} of {run} {verb}: {names}")
    for run, labels in (("A", found.checkpoints_only_in_a), ("B", found.checkpoints_only_in_b)):
        if labels:
            names = _few(labels[:_MOST_NAMES], len(labels))
            text = f"{counted(len(labels), 'checkpoint')} only in {run}: {names}"
            yield Fact("", text, warns=True)
    samples = found.samples
    for where, alone in (
        ("only in A", samples.only_in_a),
        ("only in B", samples.only_in_b),
        ("missing in A alone", samples.missing_in_a),
        ("missing in B alone", samples.missing_in_b),
    ):
        if alone.count:
            yield Fact("", _samples(where, alone), warns=True)


def verdict(found: Comparison) -> Fact:
    """Return the line that sums up a comparison."""
    counts = Counter(one.verdict for one in found.tensors)
    text = ", ".join(f"{counts[one]:,} {_WORDS[one]}" for one in Verdict if counts[one])
    line = f"{counted_tensors(found.tensors)} compared: {text or 'none'}"
    first = next((one for one in found.tensors if one.verdict is Verdict.BEYOND), None)
    if first is not None:
        where = "" if first.checkpoint is None else f"{first.checkpoint}: "
        line += f"; the first beyond: {where}{first.a}"
    return Fact("", line, warns=found.beyond)


def counted_tensors(tensors: Sequence[TensorComparison]) -> str:
    """Return counts as text: `2 tensors and 5 results of statistics`."""
    results = sum(one.result is not None for one in tensors)
    values = len(tensors) - results
    listed = [counted(values, "tensor")] if values or not results else []
    listed += [f"{counted(results, 'result')} of statistics"] if results else []
    return " and ".join(listed)


def name_of(one: TensorComparison) -> str:
    """Return the names of a tensor in both runs, after those of its checkpoint."""
    name = _both(one.a, one.b)
    return name if one.checkpoint is None else f"{_both(one.checkpoint, one.checkpoint_b)}: {name}"


def _both(a: str, b: str | None) -> str:
    return a if a == b else f"{a} = {b}"


def _samples(where: str, alone: OneSided) -> str:
    return f"{counted(alone.count, 'sample')} {where}: {_few(alone.first, alone.count)}"


def _few(names: tuple[str, ...], count: int) -> str:
    return ", ".join(names) + (", …" if count > len(names) else "")


@dataclass(frozen=True, eq=False)
class Departure:
    """The errors of one tensor that is not the same in both runs, element by element.

    Attributes:
        tensor: its comparison.
        counts: number of finite errors |a − b| by bin: bin n begins at 10 ** (n / BINS_PER_DECADE).
        largest: the largest finite |a|.
        by_sample: float64 (pairs of samples,), the largest error of each; infinite for a lone NaN
            or infinity. None for constants.
    """

    tensor: TensorComparison
    counts: Mapping[int, int]
    largest: float
    by_sample: npt.NDArray[np.float64] | None


@dataclass(frozen=True, eq=False)
class Departures:
    """The tensors of a comparison that are not the same in both runs, in the first run's order.

    Attributes:
        a, b: the runs.
        aligned: the pairs of their samples.
        tensors: the tensors with numbers, at most as many as were asked for.
        of: number of all such tensors.
    """

    a: Run
    b: Run
    aligned: Alignment
    tensors: tuple[Departure, ...]
    of: int


def departures(found: Comparison, most: int, *, trust: Sequence[str] = ()) -> Departures:
    """Read the tensors that a comparison found to differ once more, for each element's error.

    Args:
        most: the largest number of tensors.
        trust: modules whose callables the configurations of the runs may name.

    Raises:
        RunDirectoryError: a run is damaged.
    """
    a, b = (open_run(Path(one), trust=trust) for one in (found.a, found.b))
    aligned = align(a, b)
    apart = [
        one
        for one in found.tensors
        if one.errors is not None and one.result is None and one.verdict is not Verdict.EQUAL
    ]
    return Departures(
        a,
        b,
        aligned,
        tuple(_departure(a, b, aligned, one, found.tolerance) for one in apart[:most]),
        len(apart),
    )


def _departure(
    a: Run, b: Run, aligned: Alignment, one: TensorComparison, tolerance: Tolerance
) -> Departure:
    if one.checkpoint is not None and one.checkpoint_b is not None:
        a, b = a.at(one.checkpoint), b.at(one.checkpoint_b)
    ours, theirs = sides(a, one.a, b, one.b)
    pairs = None if ours.constant else aligned
    counts: Counter[int] = Counter()
    largest = 0.0
    by_sample = np.zeros(1 if pairs is None else len(pairs))
    for block in blocks(ours, theirs, pairs):
        errors, rows, size = _errors(block, tolerance)
        bins, times = np.unique(_bin(errors[errors > 0]), return_counts=True)
        counts.update(dict(zip(bins.tolist(), times.tolist(), strict=True)))
        largest = max(largest, size)
        np.maximum.at(by_sample, block.pairs, rows)
    return Departure(
        one, dict(sorted(counts.items())), largest, None if pairs is None else by_sample
    )


def _errors(
    block: BlockPair, tolerance: Tolerance
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], float]:
    """Return the errors of finite pairs, the largest of each row, and the largest finite |a|."""
    numbers = compare(block.a, block.b, tolerance).numbers
    if numbers is None:
        raise TypeError("texts have no errors")
    rows = np.where(numbers.lone, np.inf, numbers.error).max(axis=1, initial=0)
    size = float(np.abs(numbers.a).max(initial=0))
    finite = numbers.error[numbers.finite]
    return finite[np.isfinite(finite)], rows, size


def _bin(errors: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    return np.asarray(np.floor(np.log10(errors) * BINS_PER_DECADE), np.int64)
