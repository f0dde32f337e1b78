"""The manifest: everything that a run says of itself, as one frozen value and one JSON file.

Whatever may differ between two runs of the same job (times, machine) stands under `volatile`; the
rest identifies what was done.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from extractkit.errors import RunDirectoryError
from extractkit.job import Component
from extractkit.plan import CONSTANTS_SHARD, Shard
from extractkit.runs.environment import GitState
from extractkit.runs.schema import decode, document
from extractkit.runs.write import write_durably
from extractkit.sinks.protocol import StoredTensor
from extractkit.tensors import TensorRecord

MANIFEST = "manifest.json"
"""Name of the file in the run directory."""

SCHEMA = 1
"""Version of the manifest's fields; to be raised with every change of them."""


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
    """Digest of the samples, their number, and what the user should know of them."""

    fingerprint: str
    count: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunPlan:
    """What was planned: bytes to store (exact, or an upper bound) and the shards' ranges."""

    bytes: int
    exact: bool
    shards: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Volatile:
    """What differs from run to run of one job: times in UTC, ISO 8601, and timings in seconds."""

    started: str
    finished: str | None = None
    host: Mapping[str, object] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """A run's description of itself. Model, inputs, tensors and plan are known from the plan on.

    Attributes:
        schema: version of these fields.
        status: how far the run has come.
        job_given: the overrides as they were typed.
        job_resolved: the whole configuration; its `sinks` tell how the shards are read.
        model: what the model says of itself, and `weights` (SHA-256).
        inputs, tensors, skipped, plan: see their types.
        actual: what was really stored (`bytes`, `samples`, `shards`, …); None until finished.
        settings: what could change bits (threads, flags, compile mode, batch rules), frozen.
        seeds: of the random generators.
        versions: of the packages involved.
        git: of the working directory; None outside of a checkout.
    """

    volatile: Volatile
    schema: int = SCHEMA
    status: Status = Status.STARTED
    job_given: tuple[str, ...] = ()
    job_resolved: Mapping[str, object] = field(default_factory=dict)
    model: Mapping[str, object] = field(default_factory=dict)
    inputs: RunInputs | None = None
    tensors: tuple[RunTensor, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    plan: RunPlan | None = None
    actual: Mapping[str, object] | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    git: GitState | None = None

    @property
    def samples(self) -> int:
        """Number of samples; 0 before it is known."""
        return self.inputs.count if self.inputs else 0

    @property
    def shards(self) -> tuple[Shard, ...]:
        """Every shard that a finished run has, the constants first where there are any."""
        ranges = tuple(Shard(start, stop) for start, stop in self.plan.shards) if self.plan else ()
        constant = any(tensor.stored.constant for tensor in self.tensors)
        return (CONSTANTS_SHARD, *(shard for shard in ranges if len(shard)))[not constant :]

    @property
    def sinks(self) -> dict[str, Component]:
        """The sinks that wrote the run, by name; the first one is what is read.

        Raises:
            RunDirectoryError: the configuration names none.
        """
        configured = self.job_resolved.get("sinks")
        sinks: dict[str, Component] = {}
        for name, entry in configured.items() if isinstance(configured, Mapping) else ():
            arguments = dict(entry) if isinstance(entry, Mapping) else {}
            target = str(arguments.pop("_target_", ""))
            sinks[str(name)] = Component(f"sinks.{name}", target, arguments)
        if not sinks:
            raise RunDirectoryError(f"{MANIFEST} names no sink under job_resolved.sinks")
        return sinks


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write(directory: Path, manifest: Manifest) -> None:
    """Write, or replace, the manifest of a run.

    Raises:
        JobError: it could not be written.
    """
    write_durably(directory / MANIFEST, document(manifest))


def read(directory: Path) -> Manifest:
    """The manifest of a run.

    Raises:
        RunDirectoryError: there is none, it is damaged, or a newer extractkit wrote it.
    """
    path = directory / MANIFEST
    try:
        data = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RunDirectoryError(
            f"{directory} is no run directory: it holds no {MANIFEST}"
        ) from error
    except ValueError as error:
        raise RunDirectoryError(f"{path} is damaged: {error}") from error
    # The version decides what the other fields mean, so it is looked at before any of them.
    version = data.get("schema") if isinstance(data, dict) else None
    if type(version) is not int or version < 1:
        raise RunDirectoryError(f"{path} is no manifest: it has no schema version")
    if version > SCHEMA:
        raise RunDirectoryError(
            f"{path} has schema version {version}; this extractkit reads up to {SCHEMA}. "
            f"Update it: pip install -U extractkit"
        )
    return decode(Manifest, data, str(path))
