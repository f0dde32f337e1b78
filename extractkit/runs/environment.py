"""Where a run took place: versions, the code's revision and the machine. Imports none of them."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

VALUES_VERSION = 1
"""Version of what this code stores for a job. Raise it with every change after which any job may
store other bytes (a mended value, another batch rule, another layout of a shard): runs of other
versions are not resumed, reused or joined. The release number does not matter for that."""

VALUE_PACKAGES = (
    *("tensorflow", "keras", "keras-hub", "tf-keras", "ai-edge-litert"),
    *("numpy", "h5py", "tokenizers", "tensorflow-text", "sentencepiece", "pillow"),
    "transformers",
)
"""Packages of others whose version may change what a run holds."""

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
    """Version of Python and of each of these packages that is installed."""
    return {"python": platform.python_version(), **_installed(names)}


def extractkit_release() -> str | None:
    """Return the release of this code; None where it is not installed."""
    return _version("extractkit", tuple(sys.path))


def _installed(names: Iterable[str]) -> dict[str, str]:
    found = {name: _version(name, tuple(sys.path)) for name in names}
    return {name: version for name, version in found.items() if version is not None}


@cache
def _version(name: str, search_path: tuple[str, ...]) -> str | None:
    """Return a package's version, None where the search path has no such package.

    Each look-up parses the package's whole description, so it is done once: a process that has
    imported a package keeps what it imported, whatever is installed later.
    """
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def module_versions(modules: Iterable[str]) -> dict[str, str]:
    """Version of each installed package that has one of these modules."""
    wanted = [name.partition(".")[0] for name in modules]
    if not wanted:
        return {}
    packages = metadata.packages_distributions()
    return _installed(
        dict.fromkeys(package for name in wanted for package in packages.get(name, ()))
    )


def git_state(directory: Path | None = None) -> GitState | None:
    """State of the git checkout around `directory` (None: the working directory).

    None where there is no git, no checkout or no commit, or where git takes more than ten seconds.
    """
    revision = _git("rev-parse", "--verify", "HEAD", directory=directory)
    changes = _git("status", "--porcelain", directory=directory)
    if revision is None or changes is None:
        return None
    return GitState(revision.strip(), bool(changes.strip()))


def _git(*arguments: str, directory: Path | None) -> str | None:
    # Recording a run must not wait for another git's lock, nor take it.
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
    """The machine: name, system, architecture, kind of processor and how many of them may be used,
    memory in bytes."""
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
    """Its maker's name for it: kernels are chosen by what it can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
