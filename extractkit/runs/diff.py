"""`extractkit diff`: two runs, tensor by tensor and sample by sample. Needs no TensorFlow."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from extractkit.advice import command
from extractkit.errors import RunDirectoryError
from extractkit.runs.comparison.alignment import Alignment, align
from extractkit.runs.comparison.blocks import IncomparableError, blocks
from extractkit.runs.comparison.checkpoints import pair
from extractkit.runs.comparison.circumstances import circumstances
from extractkit.runs.comparison.elements import compare, family
from extractkit.runs.comparison.joining import join
from extractkit.runs.comparison.result import Comparison, TensorComparison, Tolerance, Verdict
from extractkit.runs.comparison.tally import Tally
from extractkit.runs.manifest import Status
from extractkit.runs.reader import Run, open_run
from extractkit.runs.views import TensorView


def diff(
    a: Run | str | Path,
    b: Run | str | Path,
    *,
    mapping: Mapping[str, str] | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    only: str | Sequence[str] | None = None,
    trust: Sequence[str] = (),
) -> Comparison:
    """Compare two finished runs; `a` is the reference.

    Tensors are streamed, a shard of each run in memory at a time. Samples belong together by their
    ids where those are unique in both runs, else by their numbers. Runs with checkpoints are
    compared checkpoint by checkpoint, those of one label, or else of one step, with each other.

    Args:
        a, b: runs, or their directories.
        mapping: addresses of `a` to addresses of `b`, `*` standing for any text, the same on both
            sides; only what it names is compared. None: equal keys belong together.
        rtol, atol: numbers are within the tolerance where
            |a − b| ≤ atol + rtol · max(|a|, |b|); more in `Tolerance`.
        only: globs over addresses; nothing else is compared.
        trust: modules whose callables the configurations of runs given by directory may name.

    Raises:
        ConfigError: a tolerance that is none, or a malformed mapping.
        SelectionError: the mapping names a tensor that a run does not have, or `only` fits none.
        RunDirectoryError: a run is unfinished or damaged, or only one of them has checkpoints.
    """
    tolerance = Tolerance(rtol, atol)
    a, b = (one if isinstance(one, Run) else open_run(one, trust=trust) for one in (a, b))
    for run in (a, b):
        if run.status is not Status.FINISHED:
            raise RunDirectoryError(
                f"{run.path} is not finished (status: {run.status}), so it cannot be compared. "
                f"Finish it: {command('resume', run.path)}"
            )
    joined = join(a, b, mapping, only)
    aligned = align(a, b)
    pairs = pair(a, b)
    return Comparison(
        a=str(a.path),
        b=str(b.path),
        tolerance=tolerance,
        mapped=mapping is not None,
        samples=aligned.found,
        tensors=tuple(
            replace(
                _compared(first[one], second[other], aligned, tolerance),
                checkpoint=label,
                checkpoint_b=other_label,
            )
            for label, other_label, first, second in pairs.both
            for one, other in joined.pairs
        ),
        only_in_a=joined.only_in_a,
        only_in_b=joined.only_in_b,
        checkpoints_only_in_a=pairs.only_in_a,
        checkpoints_only_in_b=pairs.only_in_b,
        circumstances=circumstances(a.manifest, b.manifest),
    )


def _compared(
    a: TensorView, b: TensorView, aligned: Alignment, tolerance: Tolerance
) -> TensorComparison:
    tally = Tally()
    try:
        _check(a, b, aligned)
        for block in blocks(a, b, aligned):
            tally.add(block.pairs, compare(block.a, block.b, tolerance))
    except IncomparableError as error:
        return TensorComparison(a.key, b.key, Verdict.INCOMPARABLE, str(error))
    counts = tally.counts()
    verdict = Verdict.BEYOND if counts.beyond else Verdict.WITHIN
    if not counts.unequal and a.dtype == b.dtype:
        verdict = Verdict.EQUAL
    first_unequal, first_beyond, worst = (
        None if pair is None or a.constant else aligned.place(pair)
        for pair in (tally.first_unequal, tally.first_beyond, tally.worst)
    )
    return TensorComparison(
        a.key, b.key, verdict, None, counts, tally.errors(), first_unequal, first_beyond, worst
    )


def _check(a: TensorView, b: TensorView, aligned: Alignment) -> None:
    """Refuse what needs no reading to be told apart."""
    if a.constant != b.constant:
        raise IncomparableError(
            f"it is constant in {'A' if a.constant else 'B'} and has samples in "
            f"{'B' if a.constant else 'A'}"
        )
    if family(a.dtype) != family(b.dtype):
        raise IncomparableError(f"{a.dtype} against {b.dtype}")
    if not a.constant and not len(aligned):
        raise IncomparableError("the runs have no sample in common that has values")
