"""Verbs on runs and sweeps: show, report, resume, join, rerun, verify, diff, similarity."""

import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from extractkit.advice import command
from extractkit.commands.arguments import RunOptions
from extractkit.commands.jobs import ended, write_path
from extractkit.commands.verbs import COMPARING
from extractkit.config import RUN_DIR, with_run_dir
from extractkit.display import write_json, write_rendered
from extractkit.errors import ConfigError, RunDirectoryError

if TYPE_CHECKING:
    from argparse import Namespace

    from extractkit.config.plain_data import Composition
    from extractkit.runs.comparing.result import Comparison
    from extractkit.runs.drift import Drift
    from extractkit.runs.manifest import Manifest
    from extractkit.runs.sweeps import SweepRecord

Report = Callable[[Exception], int]

_RUN_DIR = f"{RUN_DIR}="


def show(arguments: Sequence[str]) -> bool:
    """Show a run or a sweep.

    All verbs here except `resume` return whether the check or action succeeded.

    Raises:
        UserError: a mistake in the arguments, or there is no run.
    """
    from extractkit.display.run import run_overview
    from extractkit.runs import manifest, overview
    from extractkit.runs.drift import read_drift
    from extractkit.runs.schema import plain
    from extractkit.runs.sweeps import is_sweep

    given = RunOptions("show").read(arguments)
    directory = Path(given.run)
    if given.tensor is not None:
        if given.figure is not None:
            raise ConfigError("show: --tensor and --figure exclude each other. Give one of them")
        show_tensor(directory, given.tensor, as_json=given.json)
        return True
    if is_sweep(directory) and given.figure is None:
        show_sweep(directory, as_json=given.json)
        return True
    if given.figure is not None or given.json:
        found = manifest.read(directory)
        drift = read_drift(directory, found.files)
        if given.figure is not None:
            _draw(found, drift, directory, given.figure)
        if given.json:
            write_json({**plain(found), "drift": plain(drift)})
            return True
    write_rendered(run_overview(overview.read(directory)))
    return True


def show_tensor(directory: Path, key: str, *, as_json: bool) -> None:
    """Show the statistics of one tensor of a run.

    Raises:
        UserError: there is no run, it is a sweep, or the tensor has no statistics.
    """
    from extractkit.display.tensors import statistics_of_tensor
    from extractkit.runs import manifest
    from extractkit.runs.schema import plain
    from extractkit.runs.statistics import read_statistics
    from extractkit.runs.sweeps import is_sweep

    if is_sweep(directory):
        raise RunDirectoryError(f"{directory} is a sweep. --tensor is for one of its runs")
    recorded = manifest.read(directory)
    found = read_statistics(directory, recorded)[key]
    if as_json:
        write_json(
            {
                name: {result: plain(array.tolist()) for result, array in results.items()}
                for name, results in found.items()
            }
        )
    else:
        of = next((one for one in recorded.statistics if one.key == key), None)
        write_rendered(statistics_of_tensor(key, found, of))


def report(arguments: Sequence[str]) -> bool:
    """Write a report about a run, a sweep or two runs, and print its file as the last line."""
    from extractkit.display.progress import waiting
    from extractkit.reports.page import report

    given = RunOptions("report").read(arguments)
    if given.other is None:
        for option in COMPARING:
            if getattr(given, option.flag.strip("-")) not in (option.default, []):
                raise ConfigError(
                    f"report: {option.flag} is for two runs, and only {given.run} is given. Name "
                    f"the other: {command('report', given.run, 'OTHER', *option.typed.split())}"
                )
    with waiting(sys.stderr, f"writing a report about {given.run}"):
        subject = given.run if given.other is None else _compared(given, given.run, given.other)
        chosen = {"figures": given.figures, "umap": given.umap, "trust": given.trust}
        path = report(subject, given.output, **chosen)
    write_path(path)
    return True


def _draw(found: "Manifest", drift: "Drift | None", directory: Path, figure: Path) -> None:
    from extractkit.display.run import draw
    from extractkit.runs.directory import check_place

    if drift is None:
        what = "is not finished" if found.checkpoints else "has no checkpoints"
        raise RunDirectoryError(
            f"{directory} {what}, so there is nothing to draw. A figure shows how tensors move "
            f"over checkpoints. Give the job several: model.checkpoints='FOLDER/*.h5'"
        )
    check_place(figure, directory, "--figure")
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
        return resume_sweep(directory, given.trust, report)
    with (
        redirect_stdout(sys.stderr),
        resumable(directory, given.trust, given.overrides),
        listening(sys.stderr) as listener,
    ):
        resume(directory, overrides=given.overrides, trust=given.trust, listener=listener)
    write_path(directory)
    return []


def join(arguments: Sequence[str]) -> bool:
    """Join the parts of a job, and print the run directory as the last line on standard output."""
    from extractkit.core.trust import Trust
    from extractkit.display import printable
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
    write_path(directory)
    return True


def rerun(arguments: Sequence[str]) -> bool:
    """Repeat a run from its manifest, and print the new directory as the last line."""
    from extractkit.api import rerun
    from extractkit.commands.jobs import resumable
    from extractkit.config import new_run_directory
    from extractkit.config.messages import directory_of
    from extractkit.display.progress import listening

    given = RunOptions("rerun").read(arguments)
    into = new_run_directory()
    overrides = []
    for one in with_run_dir(given.overrides, swept=False):
        if one.startswith(_RUN_DIR):
            into = _directory(directory_of(one))
        elif "=" in one:
            overrides.append(one)
        else:
            raise ConfigError(
                f"rerun: {one!r} is not a run directory to write to. A run is repeated as it is; "
                f"only run_dir=DIR and where it runs may be given: runtime.engine=…"
            )
    directory = _directory(given.run)
    with (
        redirect_stdout(sys.stderr),
        resumable(into, given.trust, overrides),
        listening(sys.stderr) as listener,
    ):
        made = rerun(directory, into, overrides=overrides, trust=given.trust, listener=listener)
    write_path(made.path)
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
                given.run,
                recompute=given.recompute,
                seed=given.seed,
                trust=given.trust,
                key=given.key,
                signature=given.signature,
            )
        else:
            from extractkit.core.trust import Trust
            from extractkit.runs.checking.signature import signature_of
            from extractkit.runs.checking.verification import verify
            from extractkit.runs.reader import sink_of

            trust = Trust(tuple(given.trust))
            found = verify(
                Path(given.run),
                reader=partial(sink_of, trust=trust),
                signed=signature_of(given.key, given.signature),
            )
    if given.json:
        write_json(found.to_json())
    else:
        write_rendered(verify_overview(found))
    return not found.failed


def diff(arguments: Sequence[str]) -> bool:
    """Compare two runs tensor by tensor and sample by sample. A is the reference."""
    from extractkit.display.checks import diff_overview
    from extractkit.display.progress import waiting

    given = RunOptions("diff").read(arguments)
    with waiting(sys.stderr, f"comparing {given.a} and {given.b}"):
        found = _compared(given, given.a, given.b)
    if given.json:
        write_json(found.to_json())
    else:
        write_rendered(diff_overview(found))
    return not found.beyond


def _compared(given: "Namespace", a: str, b: str) -> "Comparison":
    """Compare two runs by the options of `diff`."""
    from extractkit.runs.comparing import diff
    from extractkit.runs.comparing.pairing import FileMapping

    return diff(
        a,
        b,
        trust=given.trust,
        mapping=None if given.map is None else FileMapping.read(given.map),
        rtol=given.rtol,
        atol=given.atol,
        only=given.only or None,
    )


def similarity(arguments: Sequence[str]) -> bool:
    """Compare all tensors of two runs, or of one, with each other by linear CKA."""
    from extractkit.display.checks import similarity_overview
    from extractkit.display.progress import waiting
    from extractkit.runs.comparing.similarity import similarity

    given = RunOptions("similarity").read(arguments)
    same = given.b is not None and Path(given.a).resolve() == Path(given.b).resolve()
    other = None if same else given.b
    compared = given.a if other is None else f"{given.a} and {other}"
    with waiting(sys.stderr, f"comparing {compared}"):
        found = similarity(
            given.a, other, trust=given.trust, only=given.only or None, batch=given.batch
        )
    if given.json:
        write_json(found.to_json())
    else:
        write_rendered(similarity_overview(found))
    return True


def _directory(text: str) -> Path:
    """Return a run directory for printing: absolute, without `..`."""
    return Path(os.path.abspath(text))  # noqa: PTH100 - links stay as they are


_OPTIONS = ("config_dir", "config_path", "config_name")
# Hydra would write through links in a directory that may come from someone else.
_KEPT_OFF = ("hydra.output_subdir=null", "hydra.job_logging.root=null")


def show_sweep(directory: Path, *, as_json: bool) -> None:
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


def resume_sweep(
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
        write_path(directory)
        return []
    return launch(
        list(_arguments(directory, found)),
        partial(_resumed_or_run, trusted=tuple(trusted), working_directory=found.working_directory),
        report,
        dry=False,
        trusted=trusted,
        ran=write_path,
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
            f"{directory} records --config-path={found.config_path}, which is not an absolute "
            f"path. Run the sweep again"
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
    from extractkit.config.plain_data import relative_to
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
