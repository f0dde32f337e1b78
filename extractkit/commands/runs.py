"""Verbs on runs: show, resume, join, rerun, verify, diff. None is a Hydra application."""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from extractkit.commands import sweeps
from extractkit.commands.arguments import RunOptions
from extractkit.config import RUN_DIR, with_run_dir
from extractkit.display.output import write, write_json, write_rendered
from extractkit.errors import ConfigError, RunDirectoryError

if TYPE_CHECKING:
    from extractkit.runs.drift import Drift
    from extractkit.runs.manifest import Manifest

Report = Callable[[Exception], int]

_RUN_DIR = f"{RUN_DIR}="


def show(arguments: Sequence[str]) -> bool:
    """Show a run or a sweep.

    All verbs here except `resume` return whether the check or action succeeded.

    Raises:
        UserError: a mistake in the arguments, or there is no run.
    """
    from extractkit.display.run import overview
    from extractkit.runs import JOURNAL, journal, manifest
    from extractkit.runs.drift import read_drift
    from extractkit.runs.schema import plain
    from extractkit.runs.sweeps import is_sweep

    given = RunOptions("show").read(arguments)
    directory = Path(given.run)
    if is_sweep(directory) and given.figure is None:
        sweeps.show(directory, as_json=given.json)
        return True
    found = manifest.read(directory)
    drift = read_drift(directory, found.files)
    if given.figure is not None:
        _draw(found, drift, directory, given.figure)
    if given.json:
        write_json({**plain(found), "drift": plain(drift)})
    else:
        unfinished = found.status is not manifest.Status.FINISHED
        committed = (
            len(journal.read(directory / JOURNAL, brief=True).by_shard()) if unfinished else None
        )
        write_rendered(overview(directory, found, committed, drift))
    return True


def _draw(found: "Manifest", drift: "Drift | None", directory: Path, figure: Path) -> None:
    from extractkit.display.run import draw

    if drift is None:
        what = "is not finished" if found.checkpoints else "has no checkpoints"
        raise RunDirectoryError(
            f"{directory} {what}, so there is nothing to draw. A figure shows how tensors move "
            f"over checkpoints. Give the job several: model.checkpoints='FOLDER/*.h5'"
        )
    draw(drift, figure, tuple(one.step for one in found.checkpoints))


def resume(arguments: Sequence[str], report: Report) -> list[int]:
    """Resume a run or a sweep, and print its directory as the last line on standard output.

    Args:
        report: receives the failure of each job of a sweep, and returns its exit code.

    Returns:
        The exit codes of the jobs of a sweep that failed.
    """
    from extractkit.api import resume
    from extractkit.commands.jobs import resumable
    from extractkit.display.progress import listening
    from extractkit.runs.sweeps import is_sweep

    given = RunOptions("resume").read(arguments)
    directory = _directory(given.run)
    if is_sweep(directory):
        if given.overrides:
            raise ConfigError(
                f"resume: {given.overrides[0]!r} cannot be given for a sweep. Give it for one of "
                f"its runs"
            )
        return sweeps.resume(directory, given.trust, report)
    with (
        redirect_stdout(sys.stderr),
        resumable(directory, given.trust, given.overrides),
        listening(sys.stderr) as listener,
    ):
        resume(directory, overrides=given.overrides, trust=given.trust, listener=listener)
    write(f"{directory}\n")
    return []


def join(arguments: Sequence[str]) -> bool:
    """Join the parts of a job, and print the run directory as the last line on standard output."""
    from extractkit.core.trust import Trust
    from extractkit.display.output import printable
    from extractkit.display.progress import waiting
    from extractkit.runs.parts import join
    from extractkit.runs.reader import sink_of

    given = RunOptions("join").read(arguments)
    directory = _directory(given.run)

    def note(message: str) -> None:
        sys.stderr.write(printable(f"{message}\n"))

    reader = partial(sink_of, trust=Trust(tuple(given.trust)))
    with waiting(sys.stderr, "joining the parts"):
        join(directory, reader=reader, note=note)
    write(f"{directory}\n")
    return True


def rerun(arguments: Sequence[str]) -> bool:
    """Repeat a run from its manifest, and print the new directory as the last line."""
    from extractkit.api import rerun
    from extractkit.commands.jobs import resumable
    from extractkit.config import new_run_directory
    from extractkit.display.progress import listening

    given = RunOptions("rerun").read(arguments)
    into = new_run_directory()
    overrides = []
    for one in with_run_dir(given.overrides, swept=False):
        if one.startswith(_RUN_DIR):
            into = _directory(one.removeprefix(_RUN_DIR))
        elif "=" in one:
            overrides.append(one)
        else:
            raise ConfigError(
                f"rerun: {one!r} is not a run directory to write to. A run is repeated as it is; "
                f"what may be given is run_dir=DIR, and where it runs: runtime.engine=…"
            )
    directory = _directory(given.run)
    with (
        redirect_stdout(sys.stderr),
        resumable(into, given.trust, overrides),
        listening(sys.stderr) as listener,
    ):
        made = rerun(directory, into, overrides=overrides, trust=given.trust, listener=listener)
    write(f"{made.path}\n")
    return True


def verify(arguments: Sequence[str]) -> bool:
    """Verify a run against its own records and, if requested, against its model."""
    from extractkit.display.checks import verify_overview
    from extractkit.display.progress import waiting

    given = RunOptions("verify").read(arguments)
    # A model's own code may print, which is not part of the result.
    with redirect_stdout(sys.stderr), waiting(sys.stderr, f"checking {given.run}"):
        if given.recompute:
            from extractkit import api

            found = api.verify(
                given.run, recompute=given.recompute, seed=given.seed, trust=given.trust
            )
        else:
            from extractkit.core.trust import Trust
            from extractkit.runs.checking import verify
            from extractkit.runs.reader import sink_of

            trust = Trust(tuple(given.trust))
            found = verify(Path(given.run), reader=partial(sink_of, trust=trust))
    if given.json:
        write_json(found.to_json())
    else:
        write_rendered(verify_overview(found))
    return not found.failed


def diff(arguments: Sequence[str]) -> bool:
    """Compare two runs tensor by tensor and sample by sample. A is the reference."""
    from extractkit.config.mapping import read_mapping
    from extractkit.display.checks import diff_overview
    from extractkit.display.progress import waiting
    from extractkit.runs.comparing import diff

    given = RunOptions("diff").read(arguments)
    mapping = None if given.map is None else read_mapping(given.map)
    with waiting(sys.stderr, f"comparing {given.a} and {given.b}"):
        found = diff(
            given.a,
            given.b,
            trust=given.trust,
            mapping=mapping,
            rtol=given.rtol,
            atol=given.atol,
            only=given.only or None,
        )
    if given.json:
        write_json(found.to_json())
    else:
        write_rendered(diff_overview(found))
    return not found.beyond


def _directory(text: str) -> Path:
    """Return a run directory for printing: absolute, without `..`."""
    return Path(os.path.abspath(text))  # noqa: PTH100 - links stay as they are
