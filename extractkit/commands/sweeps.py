"""Verbs on sweeps: run, show and resume."""

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from extractkit.commands.jobs import ended, write_run
from extractkit.display.output import write, write_json, write_rendered
from extractkit.errors import RunDirectoryError

if TYPE_CHECKING:
    from extractkit.config.convert import Composition
    from extractkit.runs.manifest import Manifest
    from extractkit.runs.sweeps import SweepRecord


_OPTIONS = ("config_dir", "config_path", "config_name")
# Hydra would write through links in a directory that may come from someone else.
_KEPT_OFF = ("hydra.output_subdir=null", "hydra.job_logging.root=null")


def show(directory: Path, *, as_json: bool) -> None:
    """Show a sweep.

    Raises:
        RunDirectoryError: it is damaged.
    """
    from extractkit.display.run import sweep_overview
    from extractkit.runs.schema import plain
    from extractkit.runs.sweeps import read

    found = read(directory)
    if as_json:
        write_json(plain(found))
    else:
        write_rendered(sweep_overview(directory, found))


def resume(
    directory: Path, trusted: Sequence[str], report: Callable[[Exception], int]
) -> list[int]:
    """Resume a sweep: run all jobs except those with a complete, intact run.

    Returns:
        The exit codes of the jobs that failed.

    Raises:
        RunDirectoryError: it is damaged, or another process holds it.
        ConfigError: it no longer composes, or names code that is not trusted.
    """
    from extractkit.config.app import launch
    from extractkit.runs.sweeps import read

    found = read(directory)
    if _is_whole(directory, found):
        sys.stderr.write(f"{directory} is finished, and nothing of it is damaged\n")
        write(f"{directory}\n")
        return []
    return launch(
        list(_arguments(directory, found)),
        partial(_resumed_or_run, trusted=tuple(trusted), working_directory=found.working_directory),
        report,
        dry=False,
        trusted=trusted,
        ran=write_run,
        swept=ended,
        resumed=directory,
    )


def _is_whole(directory: Path, found: "SweepRecord") -> bool:
    from extractkit.engine.execute import is_whole
    from extractkit.runs import manifest
    from extractkit.runs.sweeps import is_of

    if found.status is not manifest.Status.FINISHED:
        return False
    for job in found.jobs:
        run = job.directory(directory)
        try:
            recorded = manifest.read(run)
            if not is_of(recorded, job) or not is_whole(run, recorded):
                return False
        except RunDirectoryError:
            return False
    return True


def _arguments(directory: Path, found: "SweepRecord") -> Iterator[str]:
    """Return the arguments that launch the sweep into its own directory.

    Raises:
        RunDirectoryError: an override is an option, which cannot have been typed there, or the
            configuration comes from a package.
    """
    from extractkit.advice import hydra_quoted

    for override in found.overrides:
        if override.startswith("-"):
            raise RunDirectoryError(f"{directory} records the option {override!r} as an override")
        yield override
    if found.config_path is not None and not Path(found.config_path).is_absolute():
        # Hydra would treat it as a package and import it.
        raise RunDirectoryError(
            f"{directory} records --config-path={found.config_path}, which is no absolute path. "
            f"Run the sweep again"
        )
    yield f"hydra.sweep.dir={hydra_quoted(str(directory))}"
    yield from _KEPT_OFF
    yield "--multirun"
    for name in _OPTIONS:
        if (value := getattr(found, name)) is not None:
            yield f"--{name.replace('_', '-')}={value}"


def _resumed_or_run(
    composed: "Composition", *, trusted: tuple[str, ...], working_directory: str | None
) -> Path:
    """Run or resume one job and return its run directory."""
    from extractkit.api import resume
    from extractkit.commands.jobs import extract, resumable
    from extractkit.config.convert import relative_to
    from extractkit.core.trust import Trust
    from extractkit.display.progress import listening
    from extractkit.runs import MANIFEST, manifest

    directory = composed.directory
    if not (directory / MANIFEST).exists():
        return extract(relative_to(working_directory, composed, Trust(trusted)))
    _check_same(directory, manifest.read(directory), composed)
    with (
        redirect_stdout(sys.stderr),
        resumable(directory, trusted),
        listening(sys.stderr) as listener,
    ):
        resume(directory, trust=trusted, listener=listener)
    return directory


def _check_same(directory: Path, recorded: "Manifest", composed: "Composition") -> None:
    """Check that a run belongs to the job.

    Raises:
        RunDirectoryError: it belongs to another job.
    """
    if recorded.job_given != composed.job.given:
        raise RunDirectoryError(
            f"{directory} holds the run of another job: {shlex.join(recorded.job_given)}. Move it "
            f"away, and resume the sweep again"
        )
