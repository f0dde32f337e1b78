"""Verbs on jobs: run, tensors, plan. Each is a Hydra application.

A job that stops early is followed by the command that completes its run.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from extractkit.advice import command
from extractkit.commands.arguments import SWEEP
from extractkit.commands.verbs import TRUST
from extractkit.display import write, write_json, write_rendered
from extractkit.errors import (
    BadSampleError,
    FinalError,
    RunDirectoryError,
    SampleError,
    UserError,
)
from extractkit.runs import MANIFEST

if TYPE_CHECKING:
    from rich.console import RenderableType

    from extractkit.config.plain_data import Composition
    from extractkit.core.job import Job
    from extractkit.core.trust import Trust
    from extractkit.engine.loading import Listing
    from extractkit.runs.sweeps import SweepRecord


TENSORS_SCHEMA = 1
PLAN_SCHEMA = 6
"""Versions of the `--json` documents of `tensors` and `plan`. Raise them with every change."""

_Answer = tuple[Callable[[], dict[str, object]], Callable[[], "RenderableType"]]
"""Result of a verb that runs nothing: as JSON, or for people."""

Report = Callable[[Exception], int]


def run(
    arguments: Sequence[str], report: Report, trusted: Sequence[str], *, fail_fast: bool = False
) -> list[int]:
    """Run a job or a sweep, and print its directory as the last line on standard output.

    Args:
        arguments: the arguments for Hydra, overrides first.
        report: receives each job's failure when it happens, and returns its exit code.
        trusted: modules named by `--trust`.
        fail_fast: start no further job of a sweep once one has failed.

    Returns:
        The exit codes of the jobs that failed.

    Raises:
        UserError: a mistake in the arguments.
    """
    from extractkit.config.app import launch

    return launch(
        *(arguments, extract, report),
        dry=False,
        trusted=trusted,
        ran=write_path,
        swept=ended,
        fail_fast=fail_fast,
    )


def tensors(
    arguments: Sequence[str], report: Report, trusted: Sequence[str], *, as_json: bool
) -> list[int]:
    """List the tensors of a model. Arguments are those of `run`."""
    schema = TENSORS_SCHEMA if as_json else None
    return _look(arguments, _tensors, report, trusted, schema)


def plan(
    arguments: Sequence[str], report: Report, trusted: Sequence[str], *, as_json: bool, exact: bool
) -> list[int]:
    """Print what a job would store. Arguments are those of `run`."""
    schema = PLAN_SCHEMA if as_json else None
    return _look(arguments, partial(_plan, exact=exact), report, trusted, schema)


def _look(
    arguments: Sequence[str],
    answer: Callable[["Composition"], _Answer],
    report: Report,
    trusted: Sequence[str],
    schema: int | None,
) -> list[int]:
    """Print the result of each job; as JSON, one array for all jobs of a sweep.

    Args:
        schema: version of the documents to print as JSON; None: print for people.
    """
    from extractkit.config.app import launch
    from extractkit.display.progress import waiting

    documents: list[object] = []

    def look(composed: "Composition") -> None:
        # A model's own code may print, which is not part of the result.
        with redirect_stdout(sys.stderr), waiting(sys.stderr, "loading the model"):
            document, rendered = answer(composed)
            if schema is not None:
                documents.append({"schema": schema, **document()})
                return
            text = rendered()
        write_rendered(text)

    def fail(error: Exception) -> int:
        documents.append(
            {"schema": schema, "error": str(error)}
        )  # jobs are identified by their order
        return report(error)

    failures = launch(arguments, look, fail, dry=True, trusted=trusted)
    if schema is not None and (
        len(documents) > 1 or any(argument in SWEEP for argument in arguments)
    ):
        write_json(documents)
    elif schema is not None and documents and not failures:
        write_json(documents[0])
    return failures


def _tensors(composed: "Composition") -> _Answer:
    from extractkit.display.tensors import listing
    from extractkit.engine.loading import list_tensors

    found = list_tensors(composed.job)
    return partial(_shown, found), partial(listing, found.catalog, found.matches)


def _shown(found: "Listing") -> dict[str, object]:
    """Return the tensors that selectors match, or all without selectors, for JSON."""
    matched = {record.address for records in found.matches.values() for record in records}
    return {
        "tensors": [
            record.to_json()
            for record in found.catalog.records
            if not found.matches or record.address in matched
        ]
    }


def _plan(composed: "Composition", *, exact: bool) -> _Answer:
    from extractkit.display.tensors import plan_overview
    from extractkit.engine.preview import preview
    from extractkit.runs.directory import check_unused
    from extractkit.runs.parts import part_directory

    check_unused(part_directory(composed.directory, composed.job.runtime.part))
    found = preview(composed.job, composed.directory, exact=exact)
    return found.to_json, partial(plan_overview, found)


_SKIPPING = "runtime.bad_samples=skip"


def extract(composed: "Composition") -> Path:
    """Run one job and return its run directory."""
    from extractkit.display.progress import listening
    from extractkit.engine.execute import execute
    from extractkit.models.process import return_large_buffers
    from extractkit.runs.parts import part_directory

    return_large_buffers()
    made_in = part_directory(composed.directory, composed.job.runtime.part)
    with (
        redirect_stdout(sys.stderr),
        resumable(made_in, trust_needed(composed.job)),
        listening(sys.stderr) as listener,
    ):
        return execute(
            composed.job, composed.directory, hydra_files=composed.hydra_files, listener=listener
        )


@contextmanager
def resumable(
    directory: Path, trusted: Sequence[str], overrides: Sequence[str] = ()
) -> Iterator[None]:
    """If the job stops early within the context, print how to complete the run, if possible.

    A sample on which the model fails would stop it again, and a run keeps its settings, so another
    run is needed.

    Args:
        trusted: the modules for `--trust`, since a run is trusted no more than a file.
        overrides: settings of where it runs.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, UserError | FinalError) and (directory / MANIFEST).exists():
            trust = [word for one in trusted for word in (TRUST.flag, one)]
            with suppress(
                OSError, RunDirectoryError
            ):  # a terminal that has closed, a damaged manifest
                if isinstance(error, BadSampleError):
                    sys.stderr.write(
                        f"resume would fail in the same way. To leave such samples out, in "
                        f"another directory: {_without_bad_samples(directory, trust)}\n"
                    )
                elif not isinstance(error, SampleError):
                    again = command("resume", directory, *overrides, *trust)
                    sys.stderr.write(f"Resume the run: {again}\n")
        raise


def _without_bad_samples(directory: Path, trust: Sequence[str]) -> str:
    """Return the command that runs the job again without the samples on which its model fails.

    Raises:
        RunDirectoryError: the manifest cannot be read.
    """
    from extractkit.runs import manifest as manifests
    from extractkit.runs.same_job import repeated, unused_beside

    recorded = manifests.read(directory)
    # A part is two folders below the directory that the job names.
    whole = directory if recorded.part is None else directory.parents[1]
    changed = [_SKIPPING, *trust]
    if recorded.part is not None:
        changed.append(f"runtime.part={recorded.part}")
    return repeated(directory, recorded, unused_beside(whole), changed)


def trust_needed(job: "Job") -> list[str]:
    """Return what `--trust` has to name for a resume of the run of a job."""
    from extractkit.core.trust import RAY_ADDRESS

    components = (job.model, job.inputs, *job.sinks.values())
    named = [name for one in components for name in one.trust_needed()]
    if job.runtime.ray_address is not None:
        named.append(RAY_ADDRESS)
    return list(dict.fromkeys(named))


def write_path(path: Path) -> None:
    """Print the path of what was made: absolute, without `..`."""
    write(f"{os.path.abspath(path)}\n")  # noqa: PTH100 - links stay as they are


def ended(directory: Path, record: "SweepRecord", trust: "Trust") -> None:
    """Print how a sweep ended, and its directory as the last line on standard output."""
    from extractkit.display import printable
    from extractkit.display.run import sweep_summary
    from extractkit.runs.manifest import Status
    from extractkit.runs.sweeps import next_steps

    sys.stderr.write(printable(sweep_summary(directory, record)))
    if record.status is not Status.FINISHED:
        options = [word for one in sweep_trust_needed(trust) for word in (TRUST.flag, one)]
        sys.stderr.write(printable(f"{next_steps(directory, record.jobs, options)}\n"))
    if record.status is not Status.INTERRUPTED:
        write_path(directory)


def sweep_trust_needed(trust: "Trust") -> list[str]:
    """Return the modules for `--trust` to resume the sweep, whose records are not trusted."""
    from extractkit.config.security import callbacks_need_trust, launcher_needs_trust
    from extractkit.core.trust import RAY_ADDRESS, SAFE_MODE, meant_for_files, module_of

    named = [*trust.modules, *(module_of(t) for t in trust.targets if not meant_for_files(t))]
    keys = sorted(setting.partition("=")[0] for setting in trust.settings)
    named += [key for key in keys if key == RAY_ADDRESS or key.rpartition(".")[2] == SAFE_MODE]
    if launcher_needs_trust(trust):
        named.append("hydra.launcher")
    if callbacks_need_trust(trust):
        named.append("hydra.callbacks")
    return list(dict.fromkeys(named))
