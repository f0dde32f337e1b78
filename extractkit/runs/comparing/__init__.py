"""Comparison of two runs, tensor by tensor and sample by sample. Needs no TensorFlow."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from extractkit.advice import command
from extractkit.core.requests import request_text, without_addresses
from extractkit.core.statistics import Merging
from extractkit.core.statistics.results import Statistics
from extractkit.core.values import Array
from extractkit.errors import RunDirectoryError
from extractkit.runs.comparing.elements import (
    IncomparableError,
    Side,
    blocks,
    check_statistics,
    sides,
)
from extractkit.runs.comparing.measures import Tallying, compare, family
from extractkit.runs.comparing.pairing import (
    Alignment,
    PairedCheckpoints,
    PairedResults,
    Result,
    align,
    pair,
    pair_results,
    pair_tensors,
)
from extractkit.runs.comparing.result import (
    Circumstance,
    Comparison,
    Counts,
    TensorComparison,
    Tolerance,
    Verdict,
)
from extractkit.runs.manifest import Manifest, Status
from extractkit.runs.reader import Run, open_run

_ADAPTER, _STATE = "model._target_", "model.state"


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
    """Compare two finished runs, of which `a` is the reference.

    Tensors are streamed, with a shard of each run in memory at a time. Samples are paired by their
    ids if those are unique in both runs, otherwise by their numbers. Runs with checkpoints are
    compared checkpoint by checkpoint, paired by label, or else by step. Quantised integers are
    compared as the real numbers that they stand for, unless both runs have them in the same scale.

    Args:
        a, b: runs, or their directories.
        mapping: addresses of `a` to addresses of `b`. `*` matches any text, the same on both sides.
            Only the tensors named are compared, and no statistics. None: equal keys are paired.
        rtol, atol: numbers are within the tolerance if
            |a − b| ≤ atol + rtol · max(|a|, |b|); see `Tolerance`.
        only: globs over addresses. No other tensors are compared.
        trust: modules whose callables the configurations of runs given by directory may name.

    Raises:
        ConfigError: an invalid tolerance or a malformed mapping.
        SelectionError: the mapping names a tensor that a run lacks, or `only` matches none.
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
    joined = pair_tensors(a, b, mapping, only)
    aligned = align(a, b)
    pairs = pair(a, b)
    # The addresses in a mapping are of tensors with values per sample.
    results = pair_results(a, b, only) if mapping is None else PairedResults((), (), ())
    return Comparison(
        a=str(a.path),
        b=str(b.path),
        tolerance=tolerance,
        mapped=mapping is not None,
        samples=aligned.found,
        tensors=tuple(
            replace(
                _compared(first, one, second, other, aligned, tolerance, mapping),
                checkpoint=label,
                checkpoint_b=other_label,
            )
            for label, other_label, first, second in pairs.both
            for one, other in joined.pairs
        )
        + tuple(_compared_statistics(pairs, results.both, tolerance)),
        only_in_a=joined.only_in_a + results.only_in_a,
        only_in_b=joined.only_in_b + results.only_in_b,
        checkpoints_only_in_a=pairs.only_in_a,
        checkpoints_only_in_b=pairs.only_in_b,
        circumstances=circumstances(a.manifest, b.manifest),
    )


def _compared(
    a: Run,
    one: str,
    b: Run,
    other: str,
    aligned: Alignment,
    tolerance: Tolerance,
    mapping: Mapping[str, str] | None,
) -> TensorComparison:
    tallying = Tallying()
    merging = Merging(tallying)
    try:
        _check_requests(a[one].request, b[other].request, named_apart=mapping is not None)
        ours, theirs = sides(a, one, b, other)
        pairs = _pairs(ours, theirs, aligned)
        for block in blocks(ours, theirs, pairs):
            merging.add(tallying.of((block.pairs, compare(block.a, block.b, tolerance))))
    except IncomparableError as error:
        return TensorComparison(a[one].key, b[other].key, Verdict.INCOMPARABLE, str(error))
    tally = merging.finish()
    verdict = _verdict(tally.counts, same_type=ours.dtype == theirs.dtype)
    first_unequal, first_beyond, worst = (
        None if pair is None or pairs is None else pairs.sample(pair)
        for pair in (tally.first_unequal, tally.first_beyond, tally.worst)
    )
    return TensorComparison(
        *(ours.key, theirs.key, verdict, None, tally.counts, tally.errors()),
        *(first_unequal, first_beyond, worst),
    )


def _verdict(counts: Counts, *, same_type: bool) -> Verdict:
    if not counts.unequal and same_type:
        return Verdict.EQUAL
    return Verdict.BEYOND if counts.beyond else Verdict.WITHIN


def _compared_statistics(
    pairs: PairedCheckpoints, results: Sequence[Result], tolerance: Tolerance
) -> Iterator[TensorComparison]:
    requests = _requests(pairs.a), _requests(pairs.b)
    for label, other_label, _, _ in pairs.both:
        # The statistics of the whole runs are read once.
        one = _statistics_at(pairs.a, label)
        other = _statistics_at(pairs.b, other_label)
        for key, statistic, result in results:
            name = f"{key} {statistic}.{result}"
            try:
                for tensor in one[key].tensors:
                    _check_requests(*(of[tensor] for of in requests), named_apart=False)
                check_statistics(pairs.a.manifest, pairs.b.manifest, one[key].tensors)
                found = _compared_arrays(
                    name,
                    one[key][statistic][result],
                    other[key][statistic][result],
                    tolerance,
                )
            except IncomparableError as error:
                found = TensorComparison(name, name, Verdict.INCOMPARABLE, str(error))
            yield replace(
                found,
                checkpoint=label,
                checkpoint_b=other_label,
                result=f"{statistic}.{result}",
            )


def _requests(run: Run) -> dict[str, Mapping[str, object]]:
    """Return the requests of the tensors with statistics, empty for values, by key."""
    return {one.key: one.request for one in run.manifest.statistics}


def _statistics_at(run: Run, label: str | None) -> Statistics:
    if label is None:
        return run.statistics
    return run.statistics.at(run.checkpoints.index(label))


def _compared_arrays(label: str, a: Array, b: Array, tolerance: Tolerance) -> TensorComparison:
    """Compare two results of statistics.

    Raises:
        IncomparableError: their shapes or families differ.
    """
    if a.shape != b.shape or family(a.dtype) != family(b.dtype):
        raise IncomparableError(
            f"{a.dtype.name} {list(a.shape)} against {b.dtype.name} {list(b.shape)}"
        )
    compared = compare(a.reshape(1, -1), b.reshape(1, -1), tolerance)
    tally = Tallying().of((np.zeros(1, np.int64), compared))
    verdict = _verdict(tally.counts, same_type=a.dtype == b.dtype)
    return TensorComparison(label, label, verdict, None, tally.counts, tally.errors())


def _check_requests(a: Mapping[str, object], b: Mapping[str, object], *, named_apart: bool) -> None:
    """Check that both are values, or for example gradients of one target.

    Args:
        named_apart: whether tensors of one run may have other names in the other, as with a
            mapping. The addresses in requests may differ then.

    Raises:
        IncomparableError: they are not.
    """
    if a == b or (named_apart and without_addresses(a) == without_addresses(b)):
        return
    one, other = (f"the {request_text(of) or 'value'}" for of in (a, b))
    raise IncomparableError(f"it is {one} in A and {other} in B")


def _pairs(a: Side, b: Side, aligned: Alignment) -> Alignment | None:
    """Return the pairs of samples to compare, or None for constants, which have no samples.

    Raises:
        IncomparableError: the tensors cannot be compared, as far as is known without reading.
    """
    match a.constant, b.constant:
        case True, False:
            raise IncomparableError("it is constant in A and has samples in B")
        case False, True:
            raise IncomparableError("it is constant in B and has samples in A")
        case True, True:
            pairs = None
        case _:
            pairs = aligned
    if (families := {family(a.dtype), family(b.dtype)}) == {"integer", "real"}:
        raise IncomparableError(
            f"{a.dtype} against {b.dtype}, and the integers have no recorded scale"
        )
    if len(families) > 1:
        raise IncomparableError(f"{a.dtype} against {b.dtype}")
    if pairs is not None and not len(pairs):
        raise IncomparableError("the runs have no sample in common with values")
    return pairs


def circumstances(a: Manifest, b: Manifest) -> tuple[Circumstance, ...]:
    """List everything recorded in two manifests that may explain a difference; None if absent."""
    one, other = dict(_leaves("", _recorded(a))), dict(_leaves("", _recorded(b)))
    if one.get(_ADAPTER) != other.get(_ADAPTER):
        # Settings of different adapters cannot be compared.
        one, other = _without_settings(one), _without_settings(other)
    return tuple(
        Circumstance(key, one.get(key), other.get(key))
        for key in dict.fromkeys((*one, *other))
        if one.get(key) != other.get(key)
    )


def _recorded(manifest: Manifest) -> Mapping[str, object]:
    return {
        "model": {**_configured(manifest), **_carried(manifest)},
        "weights": manifest.model.get("weights"),
        "inputs": manifest.inputs and manifest.inputs.digest,
        "versions": manifest.versions,
        "settings": manifest.settings,
        "seeds": manifest.seeds,
        "environment": manifest.environment,
        "host": manifest.volatile.host,
    }


def _configured(manifest: Manifest) -> Mapping[str, object]:
    """Return the settings of the model, or none if the model was in memory."""
    configured = manifest.job_resolved.get("model")
    return configured if isinstance(configured, Mapping) else {}


def _carried(manifest: Manifest) -> Mapping[str, object]:
    """Return the initial state of a stateful model's calls, even if it is the default."""
    return {"state": manifest.model["state"]} if "state" in manifest.model else {}


def _without_settings(leaves: Mapping[str, object]) -> dict[str, object]:
    kept = (_ADAPTER, _STATE)
    return {
        key: value for key, value in leaves.items() if key in kept or not key.startswith("model.")
    }


def _leaves(path: str, value: object) -> Iterator[tuple[str, object]]:
    if not isinstance(value, Mapping):
        yield path, value
        return
    for key, entry in value.items():
        yield from _leaves(f"{path}.{key}" if path else str(key), entry)
