"""Verbs on jobs: run, tensors, plan. Each is a Hydra application."""

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from extractkit.advice import command, override
from extractkit.commands.arguments import SWEEP, TRUST, complete_without_verb
from extractkit.display.output import write_json, write_rendered
from extractkit.errors import BadSampleError, FinalError, SampleError, UserError
from extractkit.runs.layout import RUN_KEY
from extractkit.runs.manifest import MANIFEST

if TYPE_CHECKING:
    from rich.console import RenderableType

    from extractkit.config.compose import Composition
    from extractkit.core.job import Job
    from extractkit.engine.opening import Listing


TENSORS_SCHEMA = 1
PLAN_SCHEMA = 2
"""Versions of the `--json` documents of `tensors` and `plan`; raised with every change."""

_Answer = tuple[Callable[[], dict[str, object]], Callable[[], "RenderableType"]]
"""Result of a verb that runs nothing: as JSON, or for people."""

Report = Callable[[Exception], int]

_BAD_SAMPLES = "runtime.bad_samples"


def run(
    arguments: Sequence[str], report: Report, trusted: Sequence[str], *, fail_fast: bool = False
) -> list[int]:
    """Run a job or a sweep, and print its directory as the last line on standard output.

    Args:
        arguments: Hydra's, overrides first.
        report: told of each job's failure when it happens, gives the exit code for it.
        trusted: modules named by `--trust`.
        fail_fast: whether no job of a sweep is to begin once one has failed.

    Returns:
        The exit codes of the jobs that failed.

    Raises:
        UserError: a mistake in the arguments.
    """
    from extractkit.commands.sweeps import ended, write_run
    from extractkit.config.app import launch

    complete_without_verb()
    return launch(
        *(arguments, extract, report),
        dry=False,
        trusted=trusted,
        ran=write_run,
        swept=ended,
        fail_fast=fail_fast,
    )


def tensors(
    arguments: Sequence[str], report: Report, trusted: Sequence[str], *, as_json: bool
) -> list[int]:
    """List the tensors of a model; arguments as of `run`."""
    schema = TENSORS_SCHEMA if as_json else None
    return _look(arguments, _tensors, report, trusted, schema)


def plan(
    arguments: Sequence[str], report: Report, trusted: Sequence[str], *, as_json: bool, exact: bool
) -> list[int]:
    """Print what a job would store; arguments as of `run`."""
    schema = PLAN_SCHEMA if as_json else None
    return _look(arguments, partial(_plan, exact=exact), report, trusted, schema)


def extract(composed: "Composition") -> Path:
    """Run one job and return its run directory."""
    from extractkit.display.progress import listening
    from extractkit.engine.execute import execute
    from extractkit.engine.process import return_large_buffers
    from extractkit.runs.parts import place

    return_large_buffers()
    made_in = place(composed.directory, composed.job.runtime.part)
    with (
        redirect_stdout(sys.stderr),
        resumable(made_in, _trust_needed(composed.job)),
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

    A sample on which the model fails would stop it again, and a run keeps its settings: what helps
    then is another run.

    Args:
        trusted: what `--trust` then has to name: the run's own word is a file's.
        overrides: of where it runs.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, UserError | FinalError) and (directory / MANIFEST).exists():
            trust = [word for one in trusted for word in (TRUST, one)]
            with suppress(OSError):  # a terminal that has closed
                if isinstance(error, BadSampleError):
                    sys.stderr.write(
                        f"resume would fail in the same way. To leave such samples out, in "
                        f"another directory: {_without_bad_samples(directory, trust)}\n"
                    )
                elif not isinstance(error, SampleError):
                    again = command("resume", directory, *overrides, *trust)
                    sys.stderr.write(f"Go on with the run: {again}\n")
        raise


def _without_bad_samples(directory: Path, trust: Sequence[str]) -> str:
    """Return the command that runs the job again without the samples on which its model fails.

    Raises:
        RunDirectoryError: the manifest cannot be read.
    """
    from extractkit.runs import manifest as manifests

    recorded = manifests.read(directory)
    # A part stands two folders deep in the directory that the job names.
    whole = directory if recorded.part is None else directory.parents[1]
    numbered = (whole.with_name(f"{whole.name}-{number}") for number in count(2))
    other = next(one for one in numbered if not one.exists())
    given = [one for one in recorded.job_given if _key(one) != _BAD_SAMPLES]
    words = [*given, f"{_BAD_SAMPLES}=skip", *trust]
    line = f"extractkit {shlex.join(words)} {override(RUN_KEY, other)}"
    started_in = recorded.volatile.working_directory
    if started_in is None or Path(started_in) == Path.cwd():
        return line
    return f"cd {shlex.quote(started_in)} && {line}"


def _key(given: str) -> str:
    return given.lstrip("+~").partition("=")[0]


def _trust_needed(job: "Job") -> list[str]:
    from extractkit.core.trust import RAY_ADDRESS

    components = (job.model, job.inputs, *job.sinks.values())
    named = [name for one in components for name in one.trust_needed()]
    if job.runtime.ray_address is not None:
        named.append(RAY_ADDRESS)
    return list(dict.fromkeys(named))


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
        # A model's own code may print; that is no part of the result.
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
        )  # jobs are told apart by their order
        return report(error)

    complete_without_verb()
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
    from extractkit.engine.opening import list_tensors

    found = list_tensors(composed.job)
    return partial(_shown, found), partial(listing, found.catalog, found.matches)


def _shown(found: "Listing") -> dict[str, object]:
    """Return what selectors match, or everything without one, as JSON has it."""
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
    from extractkit.runs.layout import check_unused
    from extractkit.runs.parts import place

    check_unused(place(composed.directory, composed.job.runtime.part))
    found = preview(composed.job, composed.directory, exact=exact)
    return found.to_json, partial(plan_overview, found)
