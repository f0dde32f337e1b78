"""The manifest: everything that a run says of itself, as one frozen value and one JSON file.

Whatever may differ between two runs of the same job (times, machine) stands under `volatile`; the
rest identifies what was done.
"""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from extractkit.advice import command
from extractkit.core.catalog import TensorRecord
from extractkit.core.checkpoints import Checkpoint, SkippedCheckpoint
from extractkit.core.plan import CONSTANTS_SHARD, Part, Shard
from extractkit.core.value_checks import ValueStats
from extractkit.errors import RunDirectoryError
from extractkit.runs.environment import VALUES_VERSION, GitState
from extractkit.runs.files import Origin, StoredFile
from extractkit.runs.journal import Entry
from extractkit.runs.neighbours import no_run
from extractkit.runs.schema import SealedRecord
from extractkit.runs.schema import sealed as sealed  # a manifest's content, for whoever edits one
from extractkit.runs.upgrades import MANIFEST_UPGRADES
from extractkit.sinks.protocol import StoredTensor


@dataclass(frozen=True)
class SelfCheck:
    """The check for one set of weights.

    Attributes:
        checkpoint: label of the weights; None: the model has one set of weights.
        loaded_by: what loaded the model for comparison ("keras.models.load_model").
        outputs: addresses of the outputs that were compared.
        samples: how many samples of the first batch they are for.
        largest_difference: the largest absolute difference of two numbers.
        relative_difference: the largest such difference in units of its output's largest number.
        tolerance: how far numbers may be apart.
        not_applicable: why nothing was compared; None: the outputs were.
    """

    checkpoint: str | None = None
    loaded_by: str | None = None
    outputs: tuple[str, ...] = ()
    samples: int = 0
    largest_difference: float = 0.0
    relative_difference: float = 0.0
    tolerance: str | None = None
    not_applicable: str | None = None


def joined(parts: Iterable[Sequence[SelfCheck]]) -> tuple[SelfCheck, ...]:
    """The checks of a run from those of its parts: of each set of weights the one that differs
    most, and any that was made in place of one that was not."""
    found: dict[str | None, SelfCheck] = {}
    for one in (one for checks in parts for one in checks):
        other = found.get(one.checkpoint)
        if other is None or _weight(one) > _weight(other):
            found[one.checkpoint] = one
    return tuple(found.values())


def _weight(one: SelfCheck) -> tuple[bool, float]:
    return one.not_applicable is None, one.largest_difference


MANIFEST = "manifest.json"
"""Name of the file in the run directory."""

SWEEP = "sweep.json"
"""Name of the file that a directory of several jobs' runs holds instead."""

PARTS = "parts"
"""Name of the folder in which the parts of a job stand until they are joined to a run."""

SCHEMA = 7
"""Version of the manifest's fields; to be raised with every change of them."""

MOST_SAMPLES = 1 << 40
"""More than a run can hold; numbers beyond would not fit into memory, however they were meant."""


class Status(StrEnum):
    """How far a run has come."""

    STARTED = "started"
    FINISHED = "finished"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class RunTensor:
    """One tensor of a run: how it is stored, the model's record of it, and who asked for it."""

    stored: StoredTensor
    record: TensorRecord
    selectors: tuple[str, ...]

    @property
    def key(self) -> str:
        """Its name in the run."""
        return self.stored.key


@dataclass(frozen=True)
class Skipped:
    """A tensor that a selector matched but that cannot be extracted."""

    address: str
    reason: str


@dataclass(frozen=True)
class RunInputs:
    """The samples of a run.

    Attributes:
        fingerprint: digest of the samples.
        count: their number, those without values included.
        notes: what the user should know of them.
        truncated: how many were cut off to fit the model; known once all have been read.
    """

    fingerprint: str
    count: int
    notes: tuple[str, ...] = ()
    truncated: int = 0


@dataclass(frozen=True)
class RunPlan:
    """What was planned: bytes to store (exact, or an upper bound) and the shards' ranges."""

    bytes: int
    exact: bool
    shards: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Resumed:
    """A later process that went on with a run: when it began, and on which machine."""

    started: str
    host: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Volatile:
    """What differs from run to run of one job.

    Attributes:
        started, finished: times in UTC, ISO 8601.
        host: the machine.
        working_directory: from where relative paths of the configuration are told.
        timings: seconds spent in each stage, by the last process.
        resumed: the processes that went on after the first one.
        log: the run's own log as it was when the run ended; lines may have been added since.
        workers: the machines on which workers computed shards, each once.
        self_check: what came of holding the model's outputs against its own call, for each set of
            weights that this was done for; empty: it was left out, or has not been done yet.
    """

    started: str
    finished: str | None = None
    host: Mapping[str, object] = field(default_factory=dict)
    working_directory: str | None = None
    timings: Mapping[str, float] = field(default_factory=dict)
    resumed: tuple[Resumed, ...] = ()
    log: StoredFile | None = None
    workers: tuple[Mapping[str, object], ...] = ()
    self_check: tuple[SelfCheck, ...] = ()


@dataclass(frozen=True)
class Actual:
    """What a finished run really holds.

    Attributes:
        samples, shards: how many were committed; with checkpoints, samples count for each of them.
        bytes: size of the shards' files, over all sinks.
        skipped: samples without values.
        values: what the checks found in each tensor's values, by key.
    """

    samples: int
    shards: int
    bytes: int
    skipped: int = 0
    values: Mapping[str, ValueStats] = field(default_factory=dict)

    @classmethod
    def of(cls, entries: Collection[Entry], values: Mapping[str, ValueStats]) -> "Actual":
        """The sums over the entries of all shards.

        Args:
            values: of each tensor, by key, over all shards.
        """
        return cls(
            samples=sum(entry.stop - entry.start for entry in entries),
            shards=len(entries),
            bytes=sum(file.size for entry in entries for file in entry.stored),
            skipped=sum(len(entry.skipped) for entry in entries),
            values=values,
        )


@dataclass(frozen=True)
class Manifest:
    """A run's description of itself. Model, inputs, tensors and plan are known from the plan on.

    Attributes:
        schema: version of these fields.
        status: how far the run has come.
        job_given: the overrides as they were typed.
        job_resolved: the whole configuration; its `sinks` tell how the shards are read.
        model_name: the chosen entry of the `model` group.
        model: what the model says of itself, `weights` (SHA-256) and `definition` (SHA-256 of what
            it computes; null where nobody can tell).
        inputs, tensors, skipped, plan, actual: see their types; `actual` is null until finished.
        checkpoints: the weights that the model was given one after the other: the axis of every
            tensor; empty where a run has no such axis.
        skipped_checkpoints: those that could not be used.
        origins: the files that the configuration names, the checkpoints apart.
        files: those of the run directory that stand outside of the journal.
        environment: variables of the process that may change bits, imposed on all that go on.
        settings: what else could change bits (threads, flags, compile mode, batch rules), frozen.
        seeds: of the random generators.
        versions: of the packages involved.
        values_version: of the values that extractkit computes (`VALUES_VERSION`); 0: before it was
            counted.
        identity: SHA-256 over everything that decides the values; null where nobody can tell.
        git: of the working directory; null outside of a checkout.
        part: which part of a job it is, as in "2/4"; null: all of it.
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
    skipped: tuple[Skipped, ...] = ()
    plan: RunPlan | None = None
    actual: Actual | None = None
    checkpoints: tuple[Checkpoint, ...] = ()
    skipped_checkpoints: tuple[SkippedCheckpoint, ...] = ()
    origins: tuple[Origin, ...] = ()
    files: tuple[StoredFile, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    values_version: int = VALUES_VERSION
    identity: str | None = None
    git: GitState | None = None
    part: str | None = None

    @property
    def samples(self) -> int:
        """Number of samples; 0 before it is known."""
        return self.inputs.count if self.inputs else 0

    @property
    def records_files(self) -> bool:
        """Whether it records the files that stand outside of the journal: schema 1 did not.

        Later schemas record at least the samples' rows, together with the plan.
        """
        return bool(self.files) or self.plan is None

    @property
    def shards(self) -> tuple[Shard, ...]:
        """Every shard that a finished run has: by checkpoint, the constants before the ranges.

        Raises:
            RunDirectoryError: it says to be a part that there cannot be.
        """
        if self.part is None:
            return self.planned_shards
        part = Part.parse(self.part)
        if part is None:
            raise RunDirectoryError(
                f"{MANIFEST} says part={self.part!r}, and there is no such part"
            )
        return part.of(self.planned_shards)

    @property
    def planned_shards(self) -> tuple[Shard, ...]:
        """The shards of all parts of the job together."""
        ranges = [Shard(start, stop) for start, stop in self.plan.shards] if self.plan else []
        constant = any(tensor.stored.constant for tensor in self.tensors)
        one = [CONSTANTS_SHARD] * constant + [shard for shard in ranges if len(shard)]
        if not self.checkpoints:
            return tuple(one)
        axis = range(len(self.checkpoints))
        return tuple(replace(shard, checkpoint=at) for at in axis for shard in one)

    @property
    def sinks(self) -> Mapping[str, object]:
        """The configuration of the sinks that wrote the run, by name; the first one is read.

        Raises:
            RunDirectoryError: there is none.
        """
        configured = self.job_resolved.get("sinks")
        if not isinstance(configured, Mapping) or not configured:
            raise RunDirectoryError(f"{MANIFEST} names no sink under job_resolved.sinks")
        return configured


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write(directory: Path, manifest: Manifest) -> None:
    """Write, or replace, the manifest of a run.

    Raises:
        JobError: it could not be written.
    """
    _RECORD.write(directory / MANIFEST, manifest)


def read(directory: Path) -> Manifest:
    """The manifest of a run.

    Raises:
        RunDirectoryError: there is none, it is damaged, a newer extractkit wrote it, or its plan
            is none for its samples.
    """
    try:
        found = _RECORD.read(directory / MANIFEST)
    except FileNotFoundError as error:
        raise RunDirectoryError(_absent(directory)) from error
    _check_plan(found, directory / MANIFEST)
    return found


def _absent(directory: Path) -> str:
    """Return why a directory has no manifest, and what to do."""
    if os.path.exists(directory / SWEEP):  # noqa: PTH110 - a name that is too long does not exist
        return (
            f"{directory} is a sweep, not one run. Give one of its runs; those are listed by: "
            f"{command('show', directory)}"
        )
    if os.path.isdir(directory / PARTS):  # noqa: PTH112
        return (
            f"{directory} is no run yet: it holds parts of one. Join them: "
            f"{command('finalize', directory)}"
        )
    return no_run(directory, (MANIFEST, SWEEP))


def _check_plan(manifest: Manifest, path: Path) -> None:
    """Make sure that the planned ranges are what shards are made of: all samples, each once."""
    count = manifest.samples
    if not 0 <= count <= MOST_SAMPLES:
        raise RunDirectoryError(f"{path} records {count} samples, and no run has so many")
    if manifest.plan is None:
        return
    end = 0
    for number, (start, stop) in enumerate(manifest.plan.shards):
        if start != end or not start < stop <= count:
            raise RunDirectoryError(
                f"{path}: plan.shards[{number}] is [{start}, {stop}]. It has to begin at {end}, "
                f"hold a sample at least and end at {count} at most"
            )
        end = stop
    if end != count:
        raise RunDirectoryError(f"{path}: plan.shards ends at {end} of {count} samples")


_RECORD = SealedRecord(
    Manifest, "manifest", SCHEMA, "run the job again", MANIFEST_UPGRADES, sealed_since=2
)
