"""The environment of a run: package versions, git revision and machine. Imports no package."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

VALUES_VERSION = 6
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
    revision = _git("rev-parse", "--verify", "HEAD", directory=directory)
    changes = _git("status", "--porcelain", directory=directory)
    if revision is None or changes is None:
        return None
    return GitState(revision.strip(), bool(changes.strip()))


def _git(*arguments: str, directory: Path | None) -> str | None:
    # Recording a run must neither wait for another git's lock nor take it.
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        finished = subprocess.run(
            ["git", *arguments],
            cwd=directory,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return finished.stdout


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
