"""What is notable about a run, as plain values that terminals, notebooks and reports render."""

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from extractkit.advice import command
from extractkit.core.attribution import COMPLETENESS, TOLERATED_GAP
from extractkit.core.catalog import TensorRecord
from extractkit.core.requests import request_text
from extractkit.core.spec import SAMPLE, TEXT, Dim, TensorSpec, file_dtype
from extractkit.core.statistics.results import Statistics
from extractkit.core.value_checks import ValueChecks
from extractkit.errors import counted
from extractkit.runs import JOURNAL, journal, manifest
from extractkit.runs.directory import human_bytes
from extractkit.runs.drift import Drift, read_drift
from extractkit.runs.environment import SelfCheck, SharingMeasurement
from extractkit.runs.manifest import SHARING, Manifest, RunStatistics, RunTensor, Status
from extractkit.runs.statistics import read_statistics
from extractkit.sinks.hdf5 import AUTO, INDEX, Hdf5Sink

FEW = 3
"""How many tensors, checkpoints or labels are named where a line counts them."""

_HDF5 = f"{Hdf5Sink.__module__}.{Hdf5Sink.__qualname__}"


@dataclass(frozen=True)
class Fact:
    """A line about a run: a label, which is empty where the line continues the last, and a text.

    Attributes:
        warns: whether it may be a mistake.
    """

    label: str
    text: str
    warns: bool = False


@dataclass(frozen=True)
class Finding:
    """Something that may be a mistake in the samples or the values.

    Attributes:
        label: its kind, in a word or two.
        text: what was found, before the tensors.
        tensors: the keys of the tensors concerned, each with a detail, which may be empty.
        warns: whether it may be a mistake.
    """

    label: str
    text: str
    tensors: Mapping[str, str]
    warns: bool = True

    @property
    def fact(self) -> Fact:
        """The finding as a line that names few tensors: in detail, if these are all."""
        few = len(self.tensors) <= FEW
        named = [
            f"{key} ({detail})" if detail and few else key
            for key, detail in list(self.tensors.items())[:FEW]
        ]
        more = "" if few else ", …"
        text = f"{self.text} {', '.join(named)}{more}" if named else self.text
        return Fact(self.label, text, self.warns)


@dataclass(frozen=True)
class TensorRow:
    """A tensor of a run with a value per sample, or a constant.

    Attributes:
        key: its name in the run.
        record: its catalog record.
        spec: type and axes as stored.
        shape: its shape, and what is stored of it if not its value, as text.
        size: its bytes for each element of the free axes, as text; empty if unknown.
        selectors: names of the selectors that match it.
        checks: what the checks found in its values; None before the run is finished.
    """

    key: str
    record: TensorRecord
    spec: TensorSpec
    shape: str
    size: str
    selectors: tuple[str, ...]
    checks: ValueChecks | None = None


@dataclass(frozen=True)
class StatisticRow:
    """A statistic over all samples of a tensor, or of a group of tensors.

    Attributes:
        key: the tensor's, or the group's, name in the run.
        of: the shape of the tensor, and what it is if not a value; empty for a group.
        name: the name of the statistic.
        summary: what its results show, in one line; None if they are not computed yet.
    """

    key: str
    of: str
    name: str
    summary: str | None


@dataclass(frozen=True)
class Overview:
    """What is notable about a run.

    Attributes:
        path: the run directory.
        status: the state of the run.
        facts: lines about job, samples, checks and sizes, in order, with the findings among them.
        findings: what may be a mistake in samples and values.
        tensors: its tensors, in the manifest's order.
        statistics: its statistics over all samples.
        drift: the drift over its checkpoints, if it has any.
    """

    path: Path
    status: Status
    facts: tuple[Fact, ...]
    findings: tuple[Finding, ...] = ()
    tensors: tuple[TensorRow, ...] = ()
    statistics: tuple[StatisticRow, ...] = ()
    drift: Drift | None = None

    @classmethod
    def of(
        cls,
        directory: Path,
        recorded: Manifest,
        committed: int | None = None,
        drift: Drift | None = None,
        statistics: Statistics | None = None,
    ) -> "Overview":
        """Return what is notable in a run's manifest.

        Args:
            committed: number of stored shards of an unfinished run.
            drift: the drift over its checkpoints, if it has any.
            statistics: the results of its statistics, once it is finished.
        """
        found = _findings_of(recorded)
        return cls(
            directory,
            recorded.status,
            tuple(_facts(directory, recorded, committed, found)),
            found,
            tuple(_row(one, recorded) for one in recorded.tensors),
            tuple(_statistics(recorded.statistics, statistics)),
            drift,
        )


def read(directory: Path) -> Overview:
    """Read what is notable about a run.

    Raises:
        RunDirectoryError: there is no run, or it is damaged.
    """
    recorded = manifest.read(directory)
    drift = read_drift(directory, recorded.files)
    if recorded.status is Status.FINISHED:
        statistics = read_statistics(directory, recorded)
        return Overview.of(directory, recorded, drift=drift, statistics=statistics)
    return Overview.of(directory, recorded, len(journal.places(directory / JOURNAL)), drift)


def findings(
    missing: int,
    non_finite: Mapping[str, str],
    constant: Mapping[str, str],
    unchanging: Iterable[str],
    overflowing: Iterable[str],
    gaps: Mapping[str, float],
) -> tuple[Finding, ...]:
    """Return each kind of samples and values that may be a mistake.

    Args:
        missing: number of samples without values.
        non_finite, constant: keys of tensors, with their counts or the number as text.
        unchanging, overflowing: keys of tensors.
        gaps: the largest difference of completeness from 1, for each tensor of attributions.
    """
    found: list[Finding] = []
    if missing:
        text = f"{counted(missing, 'sample')}, the reasons are in `run.missing`"
        found.append(Finding("missing", text, {}))
    for label, text, tensors in (
        ("not finite", "NaN or infinity in", non_finite),
        ("constant", "one number throughout in", constant),
        ("unchanging", "the same for every sample:", dict.fromkeys(unchanging, "")),
        ("overflow", "elements beyond the range of the type in", dict.fromkeys(overflowing, "")),
    ):
        if tensors:
            found.append(Finding(label, text, tensors))
    if gaps:
        key, gap = max(gaps.items(), key=lambda one: one[1])
        text = f"largest gap {gap:.2g}, in {key}"
        if beyond := gap > TOLERATED_GAP:
            text = f"{text}: more than {TOLERATED_GAP:g}, so take more integrate.steps"
        found.append(Finding(COMPLETENESS, text, {}, beyond))
    return tuple(found)


def samples_text(count: int, truncated: int) -> str:
    """Return the number of samples, and how many were cut off to fit the model."""
    return f"{count:,}{f', {truncated:,} of them cut off' if truncated else ''}"


def shape_text(spec: TensorSpec) -> str:
    """Return a shape with names of free axes and sizes of fixed axes: `sample × token × 384`."""
    if spec.dims is None:
        return "any shape"
    return " × ".join(map(_axis, spec.dims)) or "scalar"


def content_text(spec: TensorSpec, request: Mapping[str, object]) -> str:
    """Return the shape of what is stored of a tensor, and what it is if it is not the value.

    Args:
        request: what is asked for beside the value, as plain data; empty for values.
    """
    shape = shape_text(spec)
    return f"{shape}, {request_text(request)}" if request else shape


def size_text(spec: TensorSpec) -> str:
    """Return bytes in files for each element of the free axes: `1.5 kB/token`, `576 kB`."""
    try:
        size = 0 if spec.dtype == TEXT else file_dtype(spec.dtype).itemsize
    except TypeError:
        return ""
    if not spec.known or not size:
        return ""
    varying: Counter[str] = Counter()
    for dim in (factor for axis in spec.axes for factor in axis.factors or (axis,)):
        if dim.size is not None:
            size *= dim.size
        else:
            varying[dim.length] += 1
    samples = varying.pop(SAMPLE, 0)
    factors = [_power(dim, count) for dim, count in varying.items()] or ["sample"] * min(samples, 1)
    return "/".join([human_bytes(size), *factors])


def _axis(dim: Dim) -> str:
    return f"{dim.size}" if dim.size is not None else dim.title or dim.length


def _power(dim: str, count: int) -> str:
    return dim if count == 1 else f"{dim}^{count}"


def _row(tensor: RunTensor, recorded: Manifest) -> TensorRow:
    spec = tensor.stored.spec
    return TensorRow(
        tensor.key,
        tensor.record,
        spec,
        content_text(spec, tensor.request),
        size_text(spec),
        tensor.selectors,
        recorded.actual.values.get(tensor.key) if recorded.actual else None,
    )


def _statistics(
    recorded: Sequence[RunStatistics], found: Statistics | None
) -> Iterable[StatisticRow]:
    of = {one.key: content_text(one.spec, one.request) for one in recorded}
    if found is None:
        return [StatisticRow(one.key, of[one.key], n, None) for one in recorded for n in one.names]
    return [
        StatisticRow(key, of.get(key, ""), name, results.summary())
        for key, one in found.items()
        for name, results in one.items()
    ]


def _facts(
    directory: Path, recorded: Manifest, committed: int | None, found: Sequence[Finding]
) -> Iterable[Fact]:
    volatile = recorded.volatile
    yield Fact("run", str(directory))
    yield Fact("status", recorded.status)
    yield Fact("started", volatile.started)
    if volatile.finished is not None:
        yield Fact("finished", volatile.finished)
    yield Fact("job", " ".join(recorded.job_given) or "–")
    if recorded.part is not None:
        yield Fact("part", recorded.part)
        yield Fact("join", command("join", directory.parent.parent))
    if recorded.inputs is not None:
        yield Fact("samples", samples_text(recorded.samples, recorded.inputs.truncated))
        yield from (Fact("", note) for note in recorded.inputs.notes)
    if recorded.checkpoints:
        yield Fact("checkpoints", _checkpoints(recorded))
    for one in recorded.excluded[:FEW]:
        yield Fact("excluded", f"{one.label}: {one.reason}", warns=True)
    if (rest := len(recorded.excluded) - FEW) > 0:
        yield Fact("", f"and {counted(rest, 'checkpoint')} more, see the manifest")
    if recorded.training is not None:
        yield Fact("training", f"one checkpoint for each recorded {recorded.training}")
        committed = None  # a step is a checkpoint once all of its shards are committed
    planned = f"{len(recorded.shards):,}"
    yield Fact("shards", planned if committed is None else f"{committed:,} of {planned}")
    if (size := _stored_bytes(recorded)) is not None:
        yield Fact("size", size)
    if (no_index := _why_no_index(recorded)) is not None:
        yield Fact(INDEX, no_index)
    if volatile.self_check:
        yield Fact("self-check", _self_check(volatile.self_check))
    if (measured := volatile.sharing) is not None:
        yield Fact("batches", f"{recorded.settings.get(SHARING)}{_sharing(measured)}")
    yield Fact("digests", recorded.digests.label)
    yield from (one.fact for one in found)
    if committed is not None:
        yield Fact("resume", command("resume", directory))
    if recorded.unextractable:
        number = counted(len(recorded.unextractable), "tensor")
        yield Fact("unextractable", f"{number}, with their reasons in the manifest")


def _checkpoints(recorded: Manifest) -> str:
    labels = [one.label for one in recorded.checkpoints]
    shown = labels if len(labels) <= FEW else [labels[0], labels[1], "…", labels[-1]]
    return f"{len(labels):,}: {', '.join(shown)}"


def _self_check(checks: Sequence[SelfCheck]) -> str:
    """Return the outputs that the self-check compared, for all sets of weights together."""
    compared = [one for one in checks if one.not_applicable is None]
    if not compared:
        return f"not applicable: {checks[0].not_applicable}"
    first, labels = compared[0], [str(one.checkpoint) for one in compared if one.checkpoint]
    at = f", checkpoints {', '.join(labels)}" if labels else ""
    largest = max(one.largest_difference for one in compared)
    return (
        f"{counted(len(first.outputs), 'output')} of {counted(first.samples, 'sample')} as from "
        f"{first.loaded_by}{at}; largest difference {largest:.2g}"
    )


def _sharing(measured: SharingMeasurement) -> str:
    """Return why no more samples share a batch, and how far they change each other's values."""
    why = f": {measured.reason}" if measured.reason else ""
    if measured.tensor is None or measured.difference == sys.float_info.max:
        return why
    return (
        f"{why}; largest relative difference to values alone {measured.difference:.2g}, "
        f"tolerance {measured.tolerance:.2g}"
    )


def _findings_of(recorded: Manifest) -> tuple[Finding, ...]:
    if recorded.actual is None:
        return ()
    values = recorded.checked_values
    return findings(
        recorded.actual.missing,
        {key: _counted(one) for key, one in values.items() if not one.finite},
        {key: f"{one.minimum:g}" for key, one in values.items() if one.constant},
        [key for key, one in values.items() if one.never_changes],
        recorded.overflowing,
        recorded.gaps,
    )


def _counted(found: ValueChecks) -> str:
    """Return counts as text: `2 NaN, 1 infinite in 3 samples`."""
    sorts = ((found.nan, "NaN"), (found.inf, "infinite"))
    text = ", ".join(f"{count:,} {sort}" for count, sort in sorts if count)
    return f"{text} in {counted(found.samples, 'sample')}" if found.samples else text


def _why_no_index(recorded: Manifest) -> str | None:
    """Return why a finished run has no `tensors.h5`, or None if it has one."""
    if recorded.status is not Status.FINISHED or any(f.name == INDEX for f in recorded.files):
        return None
    sinks = recorded.job_resolved.get("sinks")
    for name, sink in sinks.items() if isinstance(sinks, Mapping) else ():
        if isinstance(sink, Mapping) and sink.get("_target_") == _HDF5:
            key = f"sinks.{name}.index"
            if sink.get("index", AUTO) == AUTO:
                return f"not written for so many shards; to write it: {key}=true"
            return f"not written: {key}=false"
    return None


def _stored_bytes(recorded: Manifest) -> str | None:
    planned = None
    if recorded.plan is not None:
        most = "" if recorded.plan.exact else "at least "
        planned = f"{most}{human_bytes(recorded.plan.bytes)} of values planned"
    if recorded.actual is None:
        return planned
    stored = human_bytes(recorded.actual.bytes)
    return stored if planned is None else f"{stored} ({planned})"
