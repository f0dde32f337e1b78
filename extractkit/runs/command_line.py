"""The command line of a run's job, for advice to repeat it."""

import os
import shlex
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from extractkit.advice import hydra_override
from extractkit.errors import RunDirectoryError
from extractkit.runs import HYDRA, RUN_KEY, SWEEP
from extractkit.runs.files import content_of
from extractkit.runs.manifest import Manifest

_PART = "runtime.part"
_ROOT = "config"  # of every job without --config-name


def repeated(directory: Path, recorded: Manifest, made: Path, changed: Sequence[str] = ()) -> str:
    """Return the shell command that runs the job of a run again.

    The command finds the same configuration: it contains the recorded options for the location of
    configuration files, and changes to the directory in which the job was started.

    Args:
        directory: The run directory.
        recorded: The manifest of the run.
        made: The directory to write to.
        changed: Overrides in place of those with the same keys, and other words.
    """
    keys = {_PART, *map(_key, changed)}
    given = [one for one in recorded.job_given if _key(one) not in keys]
    into = hydra_override(RUN_KEY, os.path.abspath(made))  # noqa: PTH100 - links stay
    line = f"extractkit {shlex.join([*_options(directory), *given, *changed, into])}"
    started_in = recorded.volatile.working_directory
    if started_in is None or Path(started_in) == Path.cwd():
        return line
    return f"cd {shlex.quote(started_in)} && {line}"


def unused_beside(directory: Path) -> Path:
    """Return an unused path beside a run, or beside the sweep that it is in."""
    sweep = next((one for one in directory.parents if (one / SWEEP).exists()), None)
    if sweep is None:
        base, first = directory, 2
    else:
        inside = "-".join(directory.relative_to(sweep).parts)
        base, first = sweep.with_name(f"{sweep.name}-{inside}"), 1
    named = (base if one == 1 else base.with_name(f"{base.name}-{one}") for one in count(first))
    return next(one for one in named if not one.exists())


def _key(given: str) -> str:
    return given.lstrip("+~").partition("=")[0]


def _options(directory: Path) -> list[str]:
    """Return the options by which Hydra found the configuration; none if its record is lost."""
    try:
        recorded = yaml.safe_load(content_of(directory / HYDRA / "hydra.yaml"))
        return list(_of(recorded["hydra"]))
    except (OSError, RunDirectoryError, yaml.YAMLError, LookupError, TypeError, ValueError):
        return []


def _of(hydra: Any) -> Iterator[str]:
    for source in hydra["runtime"]["config_sources"]:
        if source["provider"] == "command-line":
            yield from ("--config-dir", str(source["path"]))
    if (name := hydra["job"]["config_name"]) != _ROOT:
        yield from ("--config-name", str(name))
    yield from (str(one) for one in hydra["overrides"]["hydra"] if "searchpath" in str(one))
