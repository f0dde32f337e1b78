"""Composing for the command line: single jobs, sweeps, launchers and everything else of Hydra's.

Hydra makes a directory for every job, and for a sweep another, before the application is asked. A
mistake would leave them behind empty, and a dry verb is to leave nothing at all. So Hydra is given
a scratch directory, and the job the one that the user asked for. The exception is a sweep that
stores something: launchers on other machines need its real directory.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write

from extractkit.config.compose import PROGRAM, VERSION_BASE, Composition, composition
from extractkit.config.directory import ROOT, config_directory
from extractkit.config.guard import guarded
from extractkit.config.messages import translated
from extractkit.config.nested import opened
from extractkit.config.quoting import quoted
from extractkit.config.typed import trust_of
from extractkit.errors import ConfigError, ExtractkitError, JobError
from extractkit.trust import Trust

JobFunction = Callable[[Composition], None]
Report = Callable[[Exception], int]

_SWEEP_RECORD = "multirun.yaml"
_RERUN = "--experimental-rerun"


def launch(
    arguments: Sequence[str],
    function: JobFunction,
    report: Report,
    *,
    dry: bool,
    trusted: Sequence[str] = (),
) -> list[int]:
    """Run a function for every job that the arguments describe, as a Hydra application.

    Args:
        arguments: of the command line, Hydra's own options included.
        function: called with each job; picklable unless `dry`, for launchers may send it away.
        report: called with each job's failure when it happens, and gives the exit code for it;
            the other jobs go on.
        dry: whether the jobs store nothing.
        trusted: modules whose callables a file may name too.

    Returns:
        The failures' exit codes, those of jobs in other processes excepted.

    Raises:
        ConfigError: the arguments do not compose to jobs, or a file names code that is not
            trusted.
        ExtractkitError: the first failure of a job in another process.
    """
    _refuse_pickles(arguments)
    trust = trust_of(arguments, trusted)
    with _scratch() as scratch, guarded(trust):
        application = _Application(function, report, dry, Path(scratch), trust)
        main = hydra.main(str(config_directory()), ROOT, VERSION_BASE)(application)
        with application.current(), _command_line(opened(arguments)), translated(arguments):
            try:
                main()
            except SystemExit as stop:
                # Hydra has shown its help, or has explained a mistake.
                raise SystemExit(2 if stop.code else 0) from None
            finally:
                application.tidy()
        return application.failures


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
    """A directory for what Hydra wants to make.

    Raises:
        JobError: the system has no room for one.
    """
    try:
        made = tempfile.TemporaryDirectory(prefix=f"{PROGRAM}-")
    except OSError as error:
        raise JobError(
            f"no temporary directory can be made: {error.strerror}. Name one with room: TMPDIR=DIR"
        ) from error
    with made as scratch:
        yield scratch


class _Application:
    """What Hydra calls for each job, and what its callback asks before the first one."""

    def __init__(
        self, function: JobFunction, report: Report, dry: bool, scratch: Path, trust: Trust
    ) -> None:
        self.failures: list[int] = []
        self._function = function
        self._report = report
        self._dry = dry
        self._scratch = scratch
        self._trust = trust
        self._process = os.getpid()
        self._asked: Path | None = None
        self._absent: list[Path] = []

    def __call__(self, cfg: DictConfig) -> None:
        directory = self._directory()
        try:
            self._function(composition(cfg, directory, trust=self._trust))
        except SystemExit as stop:
            # Raised by a model's own code, say; it would end the whole sweep.
            self._failed(JobError(f"the job called sys.exit({stop.code!r})"), directory)
        except Exception as error:  # noqa: BLE001 - reported whatever it is; other jobs go on
            self._failed(error, directory)

    def run_starts(self, config: DictConfig) -> None:
        """Let Hydra make the scratch directory in place of the single job's."""
        self._asked = _resolved(config, "hydra.run.dir")
        self._will_make(self._asked)
        with read_write(config.hydra):
            config.hydra.run.dir = str(self._scratch)

    def sweep_starts(self, config: DictConfig) -> None:
        """Do the same for a dry sweep, which also stays on this machine."""
        asked = _resolved(config, "hydra.sweep.dir")
        self._will_make(asked)
        if not self._dry:
            return
        self._asked = asked
        with read_write(config.hydra):
            config.hydra.sweep.dir = str(self._scratch)
            config.hydra.launcher = ConfigStore.instance().load("hydra/launcher/basic.yaml").node
            # Jobs are composed anew, from the overrides.
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted(str(self._scratch))}")

    def tidy(self) -> None:
        """Remove the directories made for a run, or for a sweep of which no job left anything."""
        if not self._absent:
            return
        with suppress(OSError):  # what is not empty stays
            if [path.name for path in self._absent[0].iterdir()] == [_SWEEP_RECORD]:
                (self._absent[0] / _SWEEP_RECORD).unlink()
        for directory in self._absent:
            with suppress(OSError):
                directory.rmdir()

    @contextmanager
    def current(self) -> Iterator[None]:
        """Be the application that the callback speaks to."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def _will_make(self, directory: Path) -> None:
        """Remember what is not there yet, deepest first."""
        if not self._dry:
            self._absent = [path for path in (directory, *directory.parents) if not path.exists()]

    def _directory(self) -> Path:
        """The directory that the user asked for, for the job that Hydra is running."""
        config = cast(DictConfig, HydraConfig.get())  # declared as the dataclass of its schema
        output = Path(config.runtime.output_dir)
        if self._asked is None:
            return output
        with read_write(config):
            (config.run if config.mode == RunMode.RUN else config.sweep).dir = str(self._asked)
        return Path(os.path.normpath(self._asked / os.path.relpath(output, self._scratch)))

    def _failed(self, error: Exception, directory: Path) -> None:
        code = self._report(error)
        if self._asked is None:
            with suppress(OSError):  # Hydra made it; what is not empty stays
                directory.rmdir()
        if os.getpid() == self._process:
            self.failures.append(code)
        elif isinstance(error, ExtractkitError):
            raise error
        else:
            raise JobError(f"{type(error).__name__}: {error}")


_current: ContextVar[_Application] = ContextVar("application")


class KeepOff(Callback):
    """Hydra's callback (`hydra.callbacks` in config.yaml) by which it is kept off directories."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """A single job is about to start."""
        if application := _current.get(None):
            application.run_starts(config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """A sweep is about to start."""
        if application := _current.get(None):
            application.sweep_starts(config)


def _resolved(config: DictConfig, key: str) -> Path:
    """A directory of Hydra's, absolute, before it has been made."""
    instance = HydraConfig.instance()
    before = instance.cfg
    instance.set_config(config)  # for ${hydra:…}
    try:
        return Path(str(OmegaConf.select(config, key))).absolute()
    finally:
        instance.cfg = before


@contextmanager
def _command_line(arguments: Sequence[str]) -> Iterator[None]:
    """Be a program that was called with these arguments and wants its exceptions untouched."""
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
