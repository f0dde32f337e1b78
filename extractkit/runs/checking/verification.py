"""Verification of a run, file by file and value by value. Needs no TensorFlow.

Only computing values again needs TensorFlow. The engine passes in the function for that.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from extractkit.advice import command
from extractkit.core.catalog import Layout
from extractkit.core.digests import Digest, digest
from extractkit.core.requests import further_of
from extractkit.core.shards import Shard
from extractkit.core.spec import TensorSpec, file_dtype
from extractkit.core.transforms import AxisLengths
from extractkit.core.transforms.pipeline import DO, BoundPipeline, Pipeline
from extractkit.core.transforms.pipeline import names as transform_names
from extractkit.core.transforms.projection import Components, FromRun, Project
from extractkit.core.transforms.registry import is_own
from extractkit.core.value_checks import EXAMINATION
from extractkit.core.values import (
    Dense,
    Values,
    from_stored,
    sample_shapes,
    varies,
    without,
)
from extractkit.errors import RunDirectoryError, UserError, counted
from extractkit.runs import COMPONENTS, JOURNAL, MANIFEST
from extractkit.runs import manifest as manifests
from extractkit.runs.checking import Check, Finding, Outcome, Verification
from extractkit.runs.checking.files import (
    SampleRows,
    given_files,
    listed_shards,
    other_files,
    recorded_files,
    sample_rows,
    shard_files,
)
from extractkit.runs.components import frozen
from extractkit.runs.directory import owner
from extractkit.runs.environment import VALUES_VERSION, host
from extractkit.runs.files import StoredFile
from extractkit.runs.journal import Entry
from extractkit.runs.manifest import Manifest, RunComponents, RunTensor, Status
from extractkit.runs.reader import sink_of
from extractkit.runs.statistics import RESULTS, results, serialized
from extractkit.sinks import Sink, StoredTensor


@dataclass(frozen=True, eq=False)
class IntactRun:
    """The intact content of a run, with which recomputed values are compared.

    Attributes:
        directory: the run directory.
        manifest: the run's manifest.
        entries: the committed shards, each with those of its files that are as written.
        sinks: the sinks that read them, by name.
        samples: whether the samples' rows are as written.
    """

    directory: Path
    manifest: Manifest
    entries: Mapping[Shard, Entry]
    sinks: Mapping[str, Sink]
    samples: bool


Recompute = Callable[[IntactRun], Sequence[Check]]
"""Computes values again, and returns the checks made with them."""


def verify(
    directory: Path,
    *,
    reader: Callable[[Manifest, str], Sink] = sink_of,
    recompute: Recompute | None = None,
    signed: Callable[[Path], Check] | None = None,
) -> Verification:
    """Check everything in a run, and report all that is wrong.

    For an unfinished run, checks what has been committed. Nothing is written, and files that are
    not as written are not opened.

    Args:
        directory: the run directory.
        reader: makes a sink that reads the run, from its manifest and the sink's name.
        recompute: called last, unless the manifest cannot be read.
        signed: checks the signature of the run, before anything else.

    Raises:
        RunDirectoryError: the directory holds neither manifest nor journal, or a process is
            changing it.
        ConfigError: the manifest names something that is not a sink, or not a trusted one.
    """
    if (at_work := owner(directory)) is not None:
        raise RunDirectoryError(
            f"{directory} is being worked on by {at_work}. Wait for it to end: "
            f"{command('verify', directory)}"
        )
    signatures = () if signed is None else (signed(directory),)
    manifest, first = _manifest(directory)
    sinks = {} if manifest is None else {name: reader(manifest, name) for name in manifest.sinks}
    journal, entries = listed_shards(directory, manifest)
    shards, intact = shard_files(directory, entries, manifest)
    if manifest is None:
        return Verification(str(directory), None, (*signatures, first, journal, shards))
    files = recorded_files(directory, manifest)
    samples, rows = sample_rows(directory, manifest, files)
    checks = [
        *signatures,
        first,
        files,
        journal,
        shards,
        samples,
        shard_contents(directory, manifest, intact, sinks, rows),
        *([merged_statistics(directory, manifest, intact)] if manifest.statistics else []),
        other_files(directory, manifest, entries),
        given_files(manifest),
    ]
    if recompute is not None:
        samples_intact = samples.outcome is Outcome.OK
        checks += recompute(IntactRun(directory, manifest, intact, sinks, samples_intact))
    return Verification(str(directory), manifest.status, tuple(checks))


def _manifest(directory: Path) -> tuple[Manifest | None, Check]:
    name = "manifest"
    path = directory / MANIFEST
    try:
        found = manifests.read(directory)
        sinks = " and ".join(found.sinks)
    except RunDirectoryError as error:
        if not os.path.isdir(directory):  # noqa: PTH112 - a name that is too long does not exist
            raise
        if path.exists():
            message = str(error)
        elif (directory / JOURNAL).exists():
            message = f"{path} is missing from its run"
        else:
            raise
        return None, Check.of(name, "unreadable", [Finding(MANIFEST, message)])
    notes = []
    if found.status is not Status.FINISHED:
        planned = f"of {len(found.shards)} planned shards" if found.plan else "before its plan"
        notes.append(f"the run is not finished (status: {found.status}), {planned}")
    size = (
        f"{counted(len(found.tensors), 'tensor')}, {counted(found.samples, 'sample')}, by {sinks}"
    )
    return found, Check.of(name, size, notes=notes)


_UNREADABLE = (
    RunDirectoryError,
    LookupError,
    TypeError,
    ValueError,
    OSError,
    RuntimeError,
    EOFError,
    MemoryError,
)
"""Exceptions of file readers for a file that is as written but not a valid shard."""


def shard_contents(
    directory: Path,
    manifest: Manifest,
    entries: Mapping[Shard, Entry],
    sinks: Mapping[str, Sink],
    rows: SampleRows,
) -> Check:
    """Check keys, counts, types, shapes, digests, statistics and missing samples of every shard.

    Holds one tensor of one shard in memory at a time.

    Args:
        entries: entries with their intact files. No other file is opened.
        rows: lengths and missing samples according to the samples' rows.
    """
    found: list[Finding] = []
    read = 0
    transforms = _transforms(directory, manifest, found)
    unpredicted: set[str] = set()
    for shard, entry in entries.items():
        tensors = manifest.tensors_in(shard)
        for name, file in entry.files.items():
            path = directory / file.name
            content = _Content(
                *(path, file.name, entry, shard, sinks[name], rows),
                *(transforms, found, unpredicted),
            )
            content.check(tensors, manifest.examined_in(shard))
            read += len(tensors)
    detail = f"{counted(read, 'tensor')} in {counted(len(entries), 'shard')}"
    if not unpredicted:
        return Check.of("values", detail, found)
    detail += f"; lengths of {counted(len(unpredicted), 'tensor')} not predicted"
    listed = ", ".join(map(repr, sorted(unpredicted)))
    why = "values or a plugin decide them, or the run does not record what does"
    return Check.of("values", detail, found, [f"lengths not predicted, as {why}: {listed}"])


def merged_statistics(directory: Path, manifest: Manifest, entries: Mapping[Shard, Entry]) -> Check:
    """Merge the partial results of statistics again, and compare the results with the stored ones.

    Args:
        entries: entries with their intact files. No other file is opened.
    """
    name = "statistics"
    varying = manifest.sample_shards
    held = {shard: entries[shard] for shard in varying if shard in entries}
    held = {shard: entry for shard, entry in held.items() if entry.statistics is not None}
    if not held:
        return Check.not_made(name, "no partial results of statistics are committed and whole")
    detail = f"partial results of {len(held)} of {counted(len(varying), 'shard')}"
    try:
        content = serialized(results(directory, manifest, held))
    except RunDirectoryError as error:
        return Check.of(name, detail, [Finding(None, str(error))])
    if manifest.status is not Status.FINISHED or manifest.part is not None:
        return Check.of(name, detail)
    stored = next((file for file in manifest.files if file.name == RESULTS), None)
    if stored is None:
        return Check.of(name, detail, [Finding(MANIFEST, f"{MANIFEST} names no {RESULTS}")])
    if len(held) < len(varying):
        return Check.of(
            name, detail, notes=[f"{RESULTS} is not compared, as partial results are lost"]
        )
    if other := _other_arithmetic(manifest):
        notes = [f"{RESULTS} is not compared bit for bit, as {' and '.join(other)} differ"]
        return Check.of(name, detail, notes=notes)
    if stored != StoredFile.of(RESULTS, content, by=stored.digest.algorithm):
        message = f"{directory / RESULTS}: it differs from the shards' merged partial results"
        return Check.of(name, detail, [Finding(RESULTS, message)])
    return Check.of(name, f"{detail}, merged again bit for bit")


def _other_arithmetic(manifest: Manifest) -> list[str]:
    """Return what may change the last bits of merged results, and differs from the record."""
    volatile = manifest.volatile
    hosts = [volatile.host, *(one.host for one in volatile.resumed)]
    pairs = {
        "values versions": (manifest.values_version, VALUES_VERSION),
        "releases of NumPy": (manifest.versions.get("numpy"), np.__version__),
        "processors": ({one.get("processor") for one in hosts}, {host().get("processor")}),
    }
    return [name for name, (recorded, now) in pairs.items() if recorded != now]


def read_whole(sink: Sink, path: Path, shard: Shard, tensor: StoredTensor) -> Values:
    """Read all values of one tensor in one shard."""
    if tensor.constant:
        return Dense(sink.read_constant(path, tensor.key))
    return sink.read(path, tensor.key, 0, len(shard))


def digests_by(
    directory: Path,
    manifest: Manifest,
    entries: Mapping[Shard, Entry],
    sink: Sink,
    wanted: Mapping[str, Digest],
) -> dict[str, Digest]:
    """Return the digests of shards' values, by the shard's key, as others were computed.

    Args:
        entries: the shards, whose files are intact. They are read where algorithms differ.
        sink: reads the files of the manifest's first sink.
        wanted: digests whose algorithms to use, by the shard's key.

    Raises:
        RunDirectoryError: a file cannot be read.
    """
    found = {}
    for shard, entry in entries.items():
        other = wanted.get(shard.key)
        found[shard.key] = entry.values
        if other is not None and other.algorithm is not entry.values.algorithm:
            path = directory / entry.files[next(iter(manifest.sinks))].name
            values = (
                (tensor.key, read_whole(sink, path, shard, tensor.stored))
                for tensor in manifest.tensors_in(shard)
            )
            found[shard.key] = digest(values, other.algorithm)
    return found


@dataclass(frozen=True, eq=False)
class _Content:
    """One shard as one sink wrote it.

    Adds everything that is wrong to `found`, and to `unpredicted` the tensors with an axis whose
    lengths do not follow from the samples' rows.
    """

    path: Path
    file: str
    entry: Entry
    shard: Shard
    sink: Sink
    rows: SampleRows
    transforms: Mapping[str, "_Transforms"]
    found: list[Finding]
    unpredicted: set[str]
    unreadable: set[str] = field(default_factory=set)

    def check(self, tensors: Sequence[RunTensor], examined: Sequence[str]) -> None:
        absent = self._absent()
        if self.entry.stats and (extra := set(self.entry.stats) ^ set(examined)):
            self._add(f"{JOURNAL} has checks of other tensors: {', '.join(sorted(extra))}")
        content = digest(self._checked(tensors, absent), self.entry.values.algorithm)
        if not self.unreadable and content != self.entry.values:
            self._add("the digest of its values is not the recorded one")

    def _checked(
        self, tensors: Sequence[RunTensor], absent: list[int]
    ) -> Iterator[tuple[str, Values]]:
        for tensor in tensors:
            key = tensor.key
            try:
                value = read_whole(self.sink, self.path, self.shard, tensor.stored)
                wrong = self._form(tensor, value, absent)
                wrong = wrong or self._substance(tensor.stored, value, absent)
            except _UNREADABLE as error:
                self.unreadable.add(key)
                self._add(f"it cannot be read: {error}", key)
                continue
            for message in wrong:
                self._add(message, key)
            yield key, value

    def _absent(self) -> list[int]:
        """Return the positions of the samples without values."""
        missing = {int(index) for index in self.entry.missing if index.isdecimal()}
        within = {index for index in missing if self.shard.start <= index < self.shard.stop}
        if len(within) != len(self.entry.missing):
            self._add(f"{JOURNAL} records missing samples that are not in the shard")
        known = {i for i in self.rows.missing if self.shard.start <= i < self.shard.stop}
        if lost := sorted(known - within):
            self._add(f"{JOURNAL} lacks missing samples, first {lost[0]}")
        return [index - self.shard.start for index in sorted(within)]

    def _form(self, tensor: RunTensor, value: Values, absent: list[int]) -> list[str]:
        """Check count, type and shape."""
        stored, shape = tensor.stored, tensor.stored.spec.sample_shape
        wrong = []
        if not _same_type(value.values.dtype, stored.spec.dtype):
            wrong.append(f"its type is {value.values.dtype}, not {stored.spec.dtype}")
        if stored.constant:
            if _differs(value.values.shape, shape):
                wrong.append(f"its shape is {list(value.values.shape)}, not {list(shape)}")
            return wrong
        if isinstance(value, Dense) == varies(shape):
            wrong.append(f"it is stored {'padded' if varies(shape) else 'ragged'}")
            return wrong
        if len(value) != len(self.shard):
            wrong.append(f"it has {counted(len(value), 'sample')}, not {len(self.shard)}")
            return wrong
        shapes = sample_shapes(value)
        if shapes.shape[1] != len(shape):
            wrong.append(f"its samples have {shapes.shape[1]} axes, not {len(shape)}")
            return wrong
        present = np.delete(np.arange(len(shapes)), absent)
        planned = self._planned(tensor)
        for axis, size in enumerate(shape):
            lengths = shapes[:, axis]
            expected = planned.get(axis + 1) if size is None else size
            if expected is None:
                self.unpredicted.add(tensor.key)
                continue
            off = np.flatnonzero(lengths != expected)
            off = off[np.isin(off, present)]
            if len(off):
                at = int(off[0])
                wrong.append(
                    f"sample {self.shard.start + at} has shape {shapes[at].tolist()}: its axis "
                    f"{axis} is not as long as recorded"
                )
        return wrong

    def _planned(self, tensor: RunTensor) -> AxisLengths:
        """Return the samples' lengths that follow from their rows, by stored axis."""
        if (transforms := self.transforms.get(tensor.key)) is None:
            return {}
        along = {at: self.rows.along(dim.free) for at, dim in enumerate(transforms.before.axes)}
        own = {
            at: n[self.shard.start : self.shard.stop] for at, n in along.items() if n is not None
        }
        return transforms.bound.lengths(np, own)

    def _substance(self, stored: StoredTensor, value: Values, absent: list[int]) -> list[str]:
        """Check the blanks in place of missing samples, and the statistics."""
        wrong = []
        value = from_stored(value, stored.spec.dtype)
        blank = without(value, absent, stored.spec.sample_shape)
        by = self.entry.values.algorithm
        if absent and digest([("", blank)], by) != digest([("", value)], by):
            wrong.append("a missing sample has a value")
        recorded = self.entry.stats.get(stored.key)
        if recorded is not None:
            start = self.shard.first
            if EXAMINATION.of((blank, start)) != recorded:
                wrong.append(f"{JOURNAL} records other findings in it (NaN, extremes, …)")
        return wrong

    def _add(self, message: str, tensor: str | None = None) -> None:
        of = f", {tensor!r}" if tensor is not None else ""
        self.found.append(
            Finding(self.file, f"{self.path}{of}: {message}", self.entry.shard, tensor)
        )


@dataclass(frozen=True)
class _Transforms:
    """The transforms of a tensor with a value per sample, and its spec before them."""

    before: TensorSpec
    bound: BoundPipeline


def _transforms(
    directory: Path, manifest: Manifest, found: list[Finding]
) -> dict[str, _Transforms]:
    """Return the transforms of each tensor, by key, where the manifest determines them.

    It does not for plugins, whose code a file may not choose, and for some runs of older schemas,
    which record no transforms or no measured axes.

    Args:
        found: receives a finding for each tensor with transforms that it cannot have.
    """
    components = next((file for file in manifest.files if file.name == COMPONENTS), None)
    lost = False
    try:
        if components is not None:
            components.check(directory)
        offered = frozen(directory, manifest)
    except RunDirectoryError:  # reported by the check of the recorded files
        offered, lost = _no_components, True
    known = {}
    for tensor in manifest.tensors:
        if tensor.stored.constant or tensor.transforms is None:
            continue
        if tensor.result in further_of(tensor.request):
            continue  # the request's, not one of transforms
        used = list(transform_names(tensor.transforms))
        if lost and Project.name in used:
            continue
        if any(name is not None and not is_own(name) for name in used):
            continue
        layout = Layout.of(tensor.record)
        before = tensor.stored.spec
        if tensor.transforms and layout is not None:
            before = TensorSpec(tensor.record.spec.dtype, layout.dims)
        elif tensor.transforms and None not in used:
            continue
        try:
            at = _key_of(tensor, manifest.components)
            pipeline = Pipeline.parse({DO: tensor.transforms}, at).given(offered)
            bound = pipeline.bind(tensor.record.address, before).get(tensor.result)
        except UserError as error:
            problem = f"transforms that it cannot have: {error}"
        else:
            if bound is not None:
                known[tensor.key] = _Transforms(before, bound)
                continue
            problem = f"the result {tensor.result!r}, which its transforms do not have"
        message = f"{directory / MANIFEST}, {tensor.key!r}: it records {problem}"
        found.append(Finding(MANIFEST, message, tensor=tensor.key))
    return known


def _key_of(tensor: RunTensor, components: Sequence[RunComponents]) -> str:
    """Return the key of the selector that stores a tensor; if several do, one with components."""
    keys = [f"selectors.{name}" for name in tensor.selectors]
    owned = (key for key in keys if any(one.at.startswith(f"{key}.") for one in components))
    return next(owned, next(iter(keys), tensor.key))


def _no_components(at: str, source: FromRun) -> Sequence[Components]:
    return []


def _same_type(found: np.dtype[Any], recorded: str) -> bool:
    expected = file_dtype(recorded)
    if expected.kind == "O":
        return found.kind in "OSU"
    return found == expected


def _differs(found: tuple[int, ...], recorded: tuple[int | None, ...]) -> bool:
    return len(found) != len(recorded) or any(
        size is not None and size != own for own, size in zip(found, recorded, strict=True)
    )
