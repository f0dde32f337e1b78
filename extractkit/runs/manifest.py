"""The manifest: a run's complete description of itself, as one frozen value and one JSON file.

Fields that may differ between two runs of the same job (times, machine) are grouped under
`volatile`. All others identify what was done.
"""

import math
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from itertools import accumulate, chain, groupby, pairwise, repeat
from pathlib import Path

from extractkit.advice import command
from extractkit.core.attribution import COMPLETENESS
from extractkit.core.catalog import TensorRecord
from extractkit.core.checkpoints import AXIS, Checkpoint, ExcludedCheckpoint
from extractkit.core.digests import PREFERRED, Algorithm
from extractkit.core.shards import CONSTANTS_SHARD, OuterAxis, Part, Position, Shard, over_axes
from extractkit.core.spec import PER_SAMPLE, TensorSpec
from extractkit.core.transforms.casting import OVERFLOW
from extractkit.core.value_checks import ValueChecks
from extractkit.errors import RunDirectoryError
from extractkit.runs import MANIFEST, PARTS, SWEEP, no_run
from extractkit.runs.environment import VALUES_VERSION, GitState, Volatile
from extractkit.runs.files import Origin, StoredFile
from extractkit.runs.journal import Entry
from extractkit.runs.manifest_upgrades import MANIFEST_UPGRADES
from extractkit.runs.samples import SCHEMA as ROWS_SCHEMA
from extractkit.runs.schema import ChecksummedRecord
from extractkit.runs.schema import with_checksum as with_checksum  # the bytes of a manifest
from extractkit.sinks import StoredTensor

SCHEMA = 14
"""Version of the manifest's fields. Raise it with every change of them."""

SHARING = "sharing"
"""The key in `settings` of which samples may share a batch."""

MOST_SAMPLES = 1 << 40
"""Upper bound on the samples of a run, so that a damaged count cannot exhaust the memory."""

MOST_SHARDS = 1 << 23
"""Upper bound on the shards of a run at each checkpoint, for the same reason."""


class Status(StrEnum):
    """The state of a run."""

    STARTED = "started"
    FINISHED = "finished"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class RunTensor:
    """One tensor of a run.

    Attributes:
        stored: how it is stored.
        record: its catalog record.
        selectors: names of the selectors that match it.
        transforms: the transforms that lead to it, in the full form (`do`); null if the run is
            older than schema 10 and its configuration does not give them.
        result: the name of a further result of these transforms; empty for the main one.
        request: what is stored of the tensor if not its value, such as `{gradient: {…}}` with the
            target and the method; empty for values.
    """

    stored: StoredTensor
    record: TensorRecord
    selectors: tuple[str, ...]
    transforms: tuple[object, ...] | None = ()
    result: str = ""
    request: Mapping[str, object] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Its name in the run."""
        return self.stored.key


@dataclass(frozen=True)
class RunStatistics:
    """The statistics of one tensor over all samples.

    Attributes:
        key: the tensor's name in the run.
        record: its catalog record.
        selectors: names of the selectors that match it.
        transforms: the transforms before, as `do` has them.
        statistics: the statistics as configured.
        names: the names of the statistics, in order.
        spec: that of the tensor after the transforms.
        request: as in `RunTensor`.
    """

    key: str
    record: TensorRecord
    selectors: tuple[str, ...]
    transforms: tuple[object, ...]
    statistics: tuple[object, ...]
    names: tuple[str, ...]
    spec: TensorSpec = field(metadata=PER_SAMPLE)
    request: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class RunComponents:
    """Principal components of another run onto which a transform projects.

    `components.npz` holds them.

    Attributes:
        at: the configuration key of the transform.
        run: the directory of the other run.
        identity: its identity; None if it is unknown.
        tensor: the tensor's key there.
        address: the tensor's address there.
        sha256: digest of mean and components.
    """

    at: str
    run: str
    identity: str | None
    tensor: str
    address: str
    sha256: str


@dataclass(frozen=True)
class Unextractable:
    """A tensor that a selector matched but that cannot be extracted."""

    address: str
    reason: str


@dataclass(frozen=True)
class RunInputs:
    """The samples of a run.

    Attributes:
        digest: digest of the samples.
        count: number of samples, including those without values.
        notes: messages for the user about the samples.
        truncated: number of samples cut to fit the model, known once all have been read.
    """

    digest: str
    count: int
    notes: tuple[str, ...] = ()
    truncated: int = 0


@dataclass(frozen=True)
class RunPlan:
    """The plan as recorded.

    Attributes:
        bytes: bytes to store.
        exact: whether that is their number, not an upper bound.
        sizes: the shards in order, as numbers of consecutive shards with the same number of
            samples: `((3, 64), (1, 10))` for three shards of 64 samples and one of 10.
    """

    bytes: int
    exact: bool
    sizes: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, size: int, exact: bool, ranges: Iterable[tuple[int, int]]) -> "RunPlan":
        """Return the plan of shards with these ranges of samples, each from the end of the last."""
        sizes = groupby(stop - start for start, stop in ranges)
        return cls(size, exact, tuple((len([*equal]), samples) for samples, equal in sizes))

    @property
    def samples(self) -> int:
        """The number of samples in all shards."""
        return sum(count * size for count, size in self.sizes)

    @cached_property
    def shards(self) -> tuple[tuple[int, int], ...]:
        """The range of samples of each shard."""
        each = chain.from_iterable(repeat(size, count) for count, size in self.sizes)
        return tuple(pairwise(accumulate(each, initial=0)))


@dataclass(frozen=True)
class Actual:
    """The content of a finished run.

    Attributes:
        samples, shards: the committed numbers. With checkpoints, samples count once for each.
        bytes: size of the shards' files, over all sinks.
        missing: number of samples without values.
        values: what the checks found in each tensor's values, by key.
    """

    samples: int
    shards: int
    bytes: int
    missing: int = 0
    values: Mapping[str, ValueChecks] = field(default_factory=dict)

    @classmethod
    def of(cls, entries: Collection[Entry], values: Mapping[str, ValueChecks]) -> "Actual":
        """Sum up the entries of all shards.

        Args:
            values: the checks of each tensor's values over all shards, by key.
        """
        return cls(
            samples=sum(entry.stop - entry.start for entry in entries),
            shards=len(entries),
            bytes=sum(file.size for entry in entries for file in entry.stored),
            missing=sum(len(entry.missing) for entry in entries),
            values=values,
        )


@dataclass(frozen=True)
class Manifest:
    """A run's description of itself. Model, inputs, tensors and plan are set once planned.

    Attributes:
        schema: version of these fields.
        status: the state of the run.
        job_given: the overrides as typed.
        job_resolved: the whole configuration. Its `sinks` determine how the shards are read.
        model_name: the chosen entry of the `model` group.
        model: the adapter's description, `weights` (SHA-256) and `definition` (SHA-256 of what the
            model computes; null if unknown).
        inputs, tensors, unextractable, plan, actual: see their types. `actual` is null until
            finished.
        statistics: the statistics over all samples, whose tensors have no value per sample.
        components: the principal components of other runs that transforms use.
        checkpoints: the sets of weights given to the model in turn: an axis of every tensor. Empty
            if the run has no such axis.
        excluded: checkpoints that could not be used.
        training: what the steps of the checkpoints count, "epoch" or "step", in a run that is
            recorded while its model is trained. Each checkpoint is added once all of its shards are
            committed, and no file holds its weights. Null for every other run.
        origins: the files that the configuration names, except the checkpoints.
        digests: the algorithm by which the run's process digests values and files. Each digest
            names its own: those of parts that are joined may differ.
        files: files of the run directory that the journal does not record.
        environment: environment variables that may change bits. Every process that resumes the run
            adopts them.
        settings: all else that could change bits (threads, flags, compile mode, batch rules).
        seeds: seeds of the random generators.
        versions: versions of the packages involved.
        plugins: the distributions whose plugins computed values. Their versions are in `versions`.
        samples_schema: version of the rows in `samples.jsonl`.
        values_version: version of the values that extractkit computes (`VALUES_VERSION`); 0 for
            runs older than that counter.
        identity: SHA-256 over everything that decides the values; null if unknown.
        git: state of the working directory; null outside a checkout.
        part: the part of the job that this run is, such as "2/4"; null for the whole job.
    """

    volatile: Volatile
    schema: int = SCHEMA
    status: Status = Status.STARTED
    job_given: tuple[str, ...] = ()
    job_resolved: Mapping[str, object] = field(default_factory=dict)
    model_name: str = "model"
    model: Mapping[str, object] = field(default_factory=dict)
    inputs: RunInputs | None = None
    tensors: tuple[RunTensor, ...] = ()
    statistics: tuple[RunStatistics, ...] = ()
    components: tuple[RunComponents, ...] = ()
    unextractable: tuple[Unextractable, ...] = ()
    plan: RunPlan | None = None
    actual: Actual | None = None
    checkpoints: tuple[Checkpoint, ...] = ()
    excluded: tuple[ExcludedCheckpoint, ...] = ()
    training: str | None = None
    origins: tuple[Origin, ...] = ()
    digests: Algorithm = PREFERRED
    files: tuple[StoredFile, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    plugins: tuple[str, ...] = ()
    samples_schema: int = ROWS_SCHEMA
    values_version: int = VALUES_VERSION
    identity: str | None = None
    git: GitState | None = None
    part: str | None = None

    def tensors_in(self, shard: Shard) -> tuple[RunTensor, ...]:
        """Return the tensors whose values a shard holds."""
        return tuple(one for one in self.tensors if one.stored.is_in(shard))

    def examined_in(self, shard: Shard) -> tuple[str, ...]:
        """Return the keys of the tensors whose values were checked as a shard was stored.

        Tensors with statistics are included, although their values are not stored.
        """
        keys = [one.key for one in self.tensors_in(shard)]
        if not shard.constant:
            keys += [one.key for one in self.statistics]
        return tuple(keys)

    @property
    def checked_values(self) -> Mapping[str, ValueChecks]:
        """Findings in the values of tensors; not in further results that are often all the same.

        Counters of casts may always be 0, and completeness 1.
        """
        found = self.actual.values if self.actual else {}
        usual = {*self._results(OVERFLOW), *self._results(COMPLETENESS)}
        return {key: one for key, one in found.items() if key not in usual}

    @property
    def overflowing(self) -> tuple[str, ...]:
        """Keys of the tensors with elements beyond the range of the type of one of their casts."""
        found = self.actual.values if self.actual else {}
        counters = self._results(OVERFLOW)
        beyond = [key for key in counters if key in found and found[key].maximum]
        return tuple(dict.fromkeys(key.rpartition("@")[0] for key in beyond))

    @property
    def gaps(self) -> Mapping[str, float]:
        """The largest difference of completeness from 1, for each tensor of attributions."""
        found = self.actual.values if self.actual else {}
        return {
            key.rpartition("@")[0]: _farthest_from_1(found[key])
            for key in self._results(COMPLETENESS)
            if key in found
        }

    def _results(self, name: str) -> list[str]:
        """Return the keys of the further results of this name."""
        return [one.key for one in self.tensors if one.result == name]

    @property
    def samples(self) -> int:
        """Number of samples; 0 before it is known."""
        return self.inputs.count if self.inputs else 0

    @property
    def records_files(self) -> bool:
        """Whether files outside the journal are recorded. Schema 1 did not record them.

        Later schemas record at least the samples' rows, together with the plan.
        """
        return bool(self.files) or self.plan is None

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        """All shards of the finished run: by outer axes, the constants before the ranges.

        Raises:
            RunDirectoryError: `part` does not name a valid part.
        """
        if self.part is None:
            return self.planned_shards
        part = Part.parse(self.part)
        if part is None:
            raise RunDirectoryError(f"{MANIFEST} has part={self.part!r}, and there is no such part")
        return part.of(self.planned_shards)

    @property
    def sample_shards(self) -> tuple[Shard, ...]:
        """The shards with samples."""
        return tuple(shard for shard in self.shards if len(shard))

    @cached_property
    def planned_shards(self) -> tuple[Shard, ...]:
        """The shards of all parts of the job together."""
        return over_axes(self._extents, self.outer_axes)

    def shards_at(self, position: int) -> tuple[Shard, ...]:
        """Return the shards of one checkpoint, which need not be recorded yet."""
        return tuple(replace(one, outer=(Position(AXIS, position),)) for one in self._extents)

    @property
    def _extents(self) -> list[Shard]:
        """The shards at each position of the outer axes."""
        ranges = [Shard(start, stop) for start, stop in self.plan.shards] if self.plan else []
        constants = [CONSTANTS_SHARD] if self.tensors_in(CONSTANTS_SHARD) else []
        return constants + [shard for shard in ranges if len(shard)]

    @property
    def outer_axes(self) -> tuple[OuterAxis, ...]:
        """The leading axes of every tensor that are not samples, the slowest first."""
        if not self.checkpoints and self.training is None:
            return ()
        labels = tuple(one.label for one in self.checkpoints)
        return (OuterAxis(AXIS, labels, tuple(one.step for one in self.checkpoints)),)

    @property
    def sinks(self) -> Mapping[str, object]:
        """The configuration of the sinks that wrote the run, by name. The first one is read.

        Raises:
            RunDirectoryError: no sink is recorded.
        """
        configured = self.job_resolved.get("sinks")
        if not isinstance(configured, Mapping) or not configured:
            raise RunDirectoryError(f"{MANIFEST} names no sink under job_resolved.sinks")
        return configured


def write(directory: Path, manifest: Manifest) -> None:
    """Write, or replace, the manifest of a run.

    Raises:
        JobError: it could not be written.
    """
    _RECORD.write(directory / MANIFEST, manifest)


def read(directory: Path) -> Manifest:
    """Read the manifest of a run.

    Raises:
        RunDirectoryError: there is none, it is damaged, a newer extractkit wrote it, or its plan
            does not fit its samples.
    """
    try:
        found = _RECORD.read(directory / MANIFEST)
    except FileNotFoundError as error:
        raise RunDirectoryError(_absent(directory)) from error
    _check_plan(found, directory / MANIFEST)
    return found


def _farthest_from_1(found: ValueChecks) -> float:
    if not found.finite or found.minimum is None or found.maximum is None:
        return math.inf
    return max(1 - found.minimum, found.maximum - 1)


def _absent(directory: Path) -> str:
    """Return why a directory has no manifest, and what to do."""
    if os.path.exists(directory / SWEEP):  # noqa: PTH110 - a name that is too long does not exist
        return (
            f"{directory} is a sweep, not one run. Give one of its runs; those are listed by: "
            f"{command('show', directory)}"
        )
    if os.path.isdir(directory / PARTS):  # noqa: PTH112
        return (
            f"{directory} is not a run yet: it holds parts of one. Join them: "
            f"{command('join', directory)}"
        )
    return no_run(directory, (MANIFEST, SWEEP))


def _check_plan(manifest: Manifest, path: Path) -> None:
    """Check that the planned shards hold all samples."""
    count = manifest.samples
    if not 0 <= count <= MOST_SAMPLES:
        raise RunDirectoryError(f"{path} records {count} samples, more than a run can hold")
    if manifest.plan is None:
        return
    for number, (shards, size) in enumerate(manifest.plan.sizes):
        if shards < 1 or size < 1:
            raise RunDirectoryError(
                f"{path}: plan.sizes[{number}] is [{shards}, {size}]. It must be a number of "
                f"shards and the number of samples in each, at least one of both"
            )
    if manifest.plan.samples != count:
        raise RunDirectoryError(
            f"{path}: the shards of plan.sizes hold {manifest.plan.samples} of {count} samples"
        )
    if (shards := sum(number for number, _ in manifest.plan.sizes)) > MOST_SHARDS:
        raise RunDirectoryError(f"{path} records {shards} shards, more than a run can hold")


_RECORD = ChecksummedRecord(
    Manifest, "manifest", SCHEMA, "run the job again", MANIFEST_UPGRADES, checksum_since=2
)
