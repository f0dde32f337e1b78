"""Verbs on jobs: run, tensors, plan. Each is a Hydra application."""

import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import partial
from typing import TYPE_CHECKING

from extractkit.commands.arguments import SWEEP, complete_without_verb
from extractkit.commands.extraction import extract
from extractkit.display.output import write_json, write_rendered

if TYPE_CHECKING:
    from rich.console import RenderableType

    from extractkit.config.convert import Composition
    from extractkit.engine.opening import Listing


TENSORS_SCHEMA = 1
PLAN_SCHEMA = 2
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
    from extractkit.runs.layout import check_unused
    from extractkit.runs.parts import place

    check_unused(place(composed.directory, composed.job.runtime.part))
    found = preview(composed.job, composed.directory, exact=exact)
    return found.to_json, partial(plan_overview, found)
