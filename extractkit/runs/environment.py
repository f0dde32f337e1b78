"""The environment of a run: package versions, git revision, machine and times. Imports no package.

All that depends on it, such as times and the differences that a self-check measured, may differ
between two runs of one job. The manifest holds such fields under `volatile`.
"""

import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path

from extractkit.runs.files import StoredFile

VALUES_VERSION = 10
"""Version of the values that this code stores for a job. Raise it with every change after which
any job may store other bytes (a corrected value, another batch rule, another shard layout). Runs
of other versions are not resumed, reused or joined. The release number does not matter."""

VALUE_PACKAGES = (
    *("tensorflow", "keras", "keras-hub", "tf-keras", "ai-edge-litert"),
    *("numpy", "h5py", "tokenizers", "tensorflow-text", "sentencepiece", "pillow"),
    "transformers",
)
"""Third-party packages whose version may change what a run holds."""

PACKAGES = (
    *("extractkit", *VALUE_PACKAGES),
    *("hydra-core", "omegaconf", "safetensors", "protobuf", "pyarrow"),
)
"""Packages whose version a run records."""

_GIT_SECONDS = 10


@dataclass(frozen=True)
class GitState:
    """The commit that was checked out, and whether files differed from it."""

    revision: str
    dirty: bool


def package_versions(names: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Return the versions of Python and of each named package that is installed."""
    return {"python": platform.python_version(), **_installed(names)}


def extractkit_release() -> str | None:
    """Return the release of this code, or None if it is not installed."""
    return _version("extractkit", tuple(sys.path))


def _installed(names: Iterable[str]) -> dict[str, str]:
    found = {name: _version(name, tuple(sys.path)) for name in names}
    return {name: version for name, version in found.items() if version is not None}


@cache
def _version(name: str, search_path: tuple[str, ...]) -> str | None:
    """Return a package's version, or None if the search path has no such package.

    Each look-up parses the package's metadata, so the result is cached. A process keeps the
    packages that it imported, even if others are installed later.
    """
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def module_versions(modules: Iterable[str]) -> dict[str, str]:
    """Return the version of each installed package that provides one of these modules."""
    wanted = [name.partition(".")[0] for name in modules]
    if not wanted:
        return {}
    packages = metadata.packages_distributions()
    return _installed(
        dict.fromkeys(package for name in wanted for package in packages.get(name, ()))
    )


def git_state(directory: Path | None = None) -> GitState | None:
    """Return the state of the git checkout around `directory` (default: the working directory).

    Returns None without git, a checkout or a commit, or if git takes more than ten seconds.
    """
    # Recording a run must neither wait for another git's lock nor take it.
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        finished = subprocess.run(
            ["git", "status", "--porcelain=v2", "--branch", "--no-ahead-behind"],
            cwd=directory,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    lines = finished.stdout.splitlines()
    revision = next(line for line in lines if line.startswith("# branch.oid ")).split()[2]
    if revision == "(initial)":
        return None
    return GitState(revision, dirty=any(not line.startswith("#") for line in lines))


def host() -> dict[str, object]:
    """Describe the machine: name, system, architecture, processors and memory in bytes."""
    return {
        "name": platform.node(),
        "system": platform.platform(),
        "machine": platform.machine(),
        "processor": _processor(),
        "processors": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
    }


def _processor() -> str:
    """Return the processor's model name. Kernels are chosen by what the processor supports."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def now() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class SelfCheck:
    """The result of the self-check for one set of weights.

    The own call of a model depends on its weights alone, so along other outer axes than that of
    checkpoints there is nothing else to compare.

    Attributes:
        checkpoint: label of the weights; None if the model has one set of weights.
        loaded_by: the function that loaded the model for comparison ("keras.models.load_model").
        outputs: addresses of the compared outputs.
        samples: number of samples compared, from the first batch.
        largest_difference: the largest absolute difference between two numbers.
        relative_difference: the largest such difference relative to its output's largest number.
        tolerance: how far numbers may differ.
        not_applicable: why nothing was compared; None if the outputs were.
    """

    checkpoint: str | None = None
    loaded_by: str | None = None
    outputs: tuple[str, ...] = ()
    samples: int = 0
    largest_difference: float = 0.0
    relative_difference: float = 0.0
    tolerance: str | None = None
    not_applicable: str | None = None


@dataclass(frozen=True)
class SharingMeasurement:
    """The measurement of which samples may share a batch.

    Attributes:
        samples: the largest number of different samples in one batch.
        lengths: the longest padded length of each free axis.
        tensor: key of the tensor whose values came nearest to the tolerance, or beyond it. None if
            nothing was compared.
        difference: the difference between its values alone and in a batch, relative to them.
        tolerance: the largest such difference that counts as rounding.
        reason: why no more samples share a batch; None if nothing forbids it.
    """

    samples: int = 0
    lengths: Mapping[str, int] = field(default_factory=dict)
    tensor: str | None = None
    difference: float = 0.0
    tolerance: float = 0.0
    reason: str | None = None


def joined_checks(parts: Iterable[Sequence[SelfCheck]]) -> tuple[SelfCheck, ...]:
    """Merge the checks of a run's parts: for each set of weights, keep the largest difference.

    A check that was made takes precedence over one that was not applicable.
    """
    found: dict[str | None, SelfCheck] = {}
    for one in (one for checks in parts for one in checks):
        known = found.get(one.checkpoint)
        if known is None or _weight(one) > _weight(known):
            found[one.checkpoint] = one
    return tuple(found.values())


def _weight(one: SelfCheck) -> tuple[bool, float]:
    return one.not_applicable is None, one.largest_difference


@dataclass(frozen=True)
class Resumed:
    """A later process that resumed the run: when it started, and on which machine."""

    started: str
    host: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Volatile:
    """The fields that differ between runs of one job.

    Attributes:
        started, finished: times in UTC, ISO 8601.
        host: the machine.
        working_directory: the directory that relative paths of the configuration refer to.
        timings: seconds spent in each stage, by the last process.
        resumed: the processes that resumed the run.
        log: the run's log as it was when the run ended; lines may have been added since.
        workers: the machines on which workers computed shards, each once.
        self_check: the result of comparing the model's outputs with its own call, for each set of
            weights checked. Empty if the check was turned off or has not been made yet.
        sharing: how far samples change each other's values in a batch, which decided
            `settings.sharing`. None if it was decided without running the model.
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
    sharing: SharingMeasurement | None = None
