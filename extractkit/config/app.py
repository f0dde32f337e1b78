"""The Hydra application: single jobs, sweeps, launchers and Hydra's other features.

Hydra makes a directory for every job and sweep before it calls the application. A mistake would
leave empty directories, and a dry verb must leave nothing. So Hydra gets a scratch directory, and
the job gets the requested one. The exception is a sweep that stores something: launchers on other
machines need its real directory.
"""

import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from extractkit.advice import hydra_quoted
from extractkit.config import ROOT, config_directory
from extractkit.config.compose import PROGRAM, VERSION_BASE, planned_jobs
from extractkit.config.hydra_internals import command_line
from extractkit.config.job_runner import Application, JobFunction, Ran, Report
from extractkit.config.messages import translated
from extractkit.config.overrides import trust_of, with_added_keys
from extractkit.config.security import guarded
from extractkit.core.trust import Trust
from extractkit.engine.model_cache import forget
from extractkit.errors import ConfigError, ExtractkitError, JobError
from extractkit.runs.environment import now
from extractkit.runs.sweeps import JobStatus, SweepRecord, is_sweep
from extractkit.runs.sweeps.writing import end, new_sweep, resumed_sweep

Swept = Callable[[Path, SweepRecord, Trust], None]
"""Called when a sweep has ended, with its directory, its index and the user's trust."""

_RERUN = "--experimental-rerun"


def launch(
    arguments: Sequence[str],
    function: JobFunction,
    report: Report,
    *,
    dry: bool,
    trusted: Sequence[str] = (),
    ran: Ran | None = None,
    swept: Swept | None = None,
    fail_fast: bool = False,
    resumed: Path | None = None,
) -> list[int]:
    """Run a function for every job that the arguments describe, as a Hydra application.

    Args:
        arguments: those of the command line, including Hydra's own options.
        function: called with each job, and returns its run directory. It and the following
            arguments must be picklable unless `dry`, because launchers may send them to other
            processes.
        report: receives each job's failure when it happens, and returns its exit code. The other
            jobs continue.
        dry: whether the jobs store nothing.
        trusted: modules whose callables a file may name.
        ran: receives each run directory in this process; those of jobs elsewhere once all are done.
        swept: receives the index of a sweep that stored something, once it is written.
        fail_fast: start no further job of a sweep once one has failed.
        resumed: the directory of the sweep to resume. The arguments then come from its record, and
            are trusted no more than a file.

    Returns:
        The exit codes of the failures, including those of jobs in other processes.

    Raises:
        ConfigError: the arguments do not compose to jobs, or a file names code that is not trusted.
        RunDirectoryError: the directory of a new sweep is taken, or the sweep to resume is damaged
            or held by another process.
    """
    _refuse_pickles(arguments)
    trust = trust_of(arguments if resumed is None else (), trusted)
    with _scratch() as scratch, guarded(trust):
        application = Application(function, report, ran or _unheard, trust, Path(scratch))
        launching = Launching(application, arguments, dry, fail_fast)
        main = hydra.main(str(config_directory()), ROOT, VERSION_BASE)(application)
        with (
            launching.registered(),
            _command_line(with_added_keys(arguments)),
            translated(arguments),
        ):
            try:
                with launching.sweep(resumed):
                    main()
            except Refused as refused:
                raise refused.error from refused.error.__cause__
            except SystemExit as stop:
                # Hydra has printed its help, or reported a mistake.
                raise SystemExit(2 if stop.code else 0) from None
            finally:
                forget()
                launching.tidy()
                launching.report(swept)
        return application.failures


def _unheard(_: Path) -> None:
    """Do nothing."""


class Refused(BaseException):
    """Ends Hydra from a callback, in which Hydra turns other exceptions into warnings."""

    def __init__(self, error: ExtractkitError) -> None:
        super().__init__(str(error))
        self.error = error


def _refuse_pickles(arguments: Sequence[str]) -> None:
    for argument in arguments:
        option = argument.partition("=")[0]
        # Hydra takes abbreviations.
        if len(option) > 2 and _RERUN.startswith(option):
            raise ConfigError(
                f"{option} is refused: it would unpickle a file, which can run any code. "
                f"To repeat a run: extractkit rerun RUN"
            )


@contextmanager
def _scratch() -> Iterator[str]:
    """Yield a scratch directory for Hydra's files.

    Raises:
        JobError: it cannot be created.
    """
    try:
        made = tempfile.TemporaryDirectory(prefix=f"{PROGRAM}-")
    except OSError as error:
        raise JobError(
            f"no temporary directory can be made: {error.strerror}. Name one with room: TMPDIR=DIR"
        ) from error
    with made as scratch:
        yield scratch


class Launching:
    """Hooks before the first job and after the last, for Hydra's callbacks (`current`)."""

    def __init__(
        self, application: Application, arguments: Sequence[str], dry: bool, fail_fast: bool
    ) -> None:
        self._application = application
        self._arguments = arguments
        self._dry = dry
        self._fail_fast = fail_fast
        self._absent: list[Path] = []
        self._index: SweepRecord | None = None
        self._open = ExitStack()

    def run_starts(self, config: DictConfig) -> None:
        """Give Hydra the scratch directory in place of the job's directory."""
        asked = _resolved(config, "hydra.run.dir")
        self._will_make(asked)
        self._application.asked = asked
        with read_write(config.hydra):
            config.hydra.run.dir = str(self._application.scratch)

    def sweep_starts(self, config: DictConfig) -> None:
        """Begin a sweep. For a dry one, let Hydra make the scratch directory on this machine."""
        asked = _resolved(config, "hydra.sweep.dir")
        made = asked
        if self._dry:
            self._will_make(asked)
            self._application.asked = asked
            made = self._application.scratch
        elif self._application.sweep is None:
            try:
                begins = new_sweep(asked, self._started())
                self._application.sweep = sweep = self._open.enter_context(begins)
                for job in planned_jobs(config):
                    sweep.write(job)
            except ExtractkitError as error:
                raise Refused(error) from error
        with read_write(config.hydra):
            config.hydra.sweep.dir = str(made)
            if self._dry:
                config.hydra.launcher = (
                    ConfigStore.instance().load("hydra/launcher/basic.yaml").node
                )
            # Jobs are composed again from the overrides, and may run in another directory.
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir={hydra_quoted(str(made))}")

    @property
    def swept(self) -> Path | None:
        """The directory of the sweep that stores something, if there is one."""
        return None if self._application.sweep is None else self._application.sweep.directory

    @property
    def trust(self) -> Trust:
        """What the user trusts."""
        return self._application.trust

    def failed(self, error: ExtractkitError) -> None:
        """Report a failure after a job, which stays as it is."""
        self._application.failures.append(self._application.report(error))

    @contextmanager
    def sweep(self, resumed: Path | None) -> Iterator[None]:
        """Run jobs within the context, and write the index of a sweep on exit."""
        if resumed is not None:
            self._application.sweep = self._open.enter_context(resumed_sweep(resumed))
        with self._open:
            try:
                yield
            except BaseException as error:
                # Jobs that a launcher sent away may continue.
                with suppress(ExtractkitError):
                    self._end(isinstance(error, KeyboardInterrupt), all_ended=False)
                if isinstance(error, Exception) and _by_launcher(error):
                    raise JobError(_launcher_failed(error)) from error
                raise
            self._end(interrupted=False, all_ended=True)

    def _end(self, interrupted: bool, *, all_ended: bool) -> None:
        sweep, application = self._application.sweep, self._application
        if sweep is None:
            return
        self._index = end(sweep.directory, interrupted=interrupted, all_ended=all_ended)
        for job in self._index.jobs:
            if job.number in application.seen or job.attempt != sweep.attempt:
                continue
            if job.status is JobStatus.FINISHED:
                application.ran(job.directory(sweep.directory))
            elif job.exit_code is not None:
                application.failures.append(job.exit_code)

    def report(self, swept: Swept | None) -> None:
        """Report how the sweep ended, unless it left nothing."""
        sweep = self._application.sweep
        if swept and sweep and self._index and is_sweep(sweep.directory):
            swept(sweep.directory, self._index, self._application.trust)

    def tidy(self) -> None:
        """Remove the directories made for a run that left nothing."""
        for directory in self._absent:
            with suppress(OSError):
                directory.rmdir()

    @contextmanager
    def registered(self) -> Iterator[None]:
        """Register this object with the callbacks."""
        token = current.set(self)
        try:
            yield
        finally:
            current.reset(token)

    def _started(self) -> SweepRecord:
        """Return the record of a sweep that is about to begin."""
        given = command_line(self._arguments)
        return SweepRecord(
            started=now(),
            overrides=tuple(given.overrides),
            config_dir=given.config_dir and os.path.abspath(given.config_dir),  # noqa: PTH100
            config_path=given.config_path,
            config_name=given.config_name,
            fail_fast=self._fail_fast,
            working_directory=str(Path.cwd()),
        )

    def _will_make(self, directory: Path) -> None:
        """Remember the directories that do not exist yet, deepest first."""
        if not self._dry:
            self._absent = [path for path in (directory, *directory.parents) if not path.exists()]


current: ContextVar[Launching] = ContextVar("launching")
"""What is being launched, if Hydra runs for extractkit."""


class KeepOff(Callback):
    """Hydra callback (`hydra.callbacks` in config.yaml) that stops Hydra making directories."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Prepare a single job."""
        if launching := current.get(None):
            launching.run_starts(config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Prepare a sweep."""
        if launching := current.get(None):
            launching.sweep_starts(config)


def _by_launcher(error: Exception) -> bool:
    """Return whether the launcher itself failed, for example because a job's process died."""
    foreseen = (ExtractkitError, HydraException, OmegaConfBaseException)
    frames = traceback.extract_tb(error.__traceback__)
    inside = any("hydra_plugins" in Path(frame.filename).parts for frame in frames)
    return inside and not isinstance(error, foreseen)


def _launcher_failed(error: Exception) -> str:
    message = " ".join(str(error).split())
    return (
        f"hydra/launcher: {type(error).__name__}: {message}. Jobs that have ended are complete. "
        f"Others may have died, or may still be running"
    )


def _resolved(config: DictConfig, key: str) -> Path:
    """Return the absolute path of a Hydra directory before it exists."""
    instance = HydraConfig.instance()
    before = instance.cfg
    instance.set_config(config)  # for ${hydra:…}
    try:
        return Path(str(OmegaConf.select(config, key))).absolute()
    finally:
        instance.cfg = before


@contextmanager
def _command_line(arguments: Sequence[str]) -> Iterator[None]:
    """Set `sys.argv` to these arguments, and make Hydra raise exceptions unchanged."""
    argv, setting = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [PROGRAM, *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        sys.argv = argv
        os.environ.pop("HYDRA_FULL_ERROR")
        if setting is not None:
            os.environ["HYDRA_FULL_ERROR"] = setting
