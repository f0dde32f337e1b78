"""The callable that Hydra runs for each job, in this process or in one that a launcher starts."""

import os
import platform
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write

from extractkit.config.compose import composition
from extractkit.config.overrides import as_typed, values_of
from extractkit.config.plain_data import Composition
from extractkit.core.trust import Trust
from extractkit.engine.model_cache import kept
from extractkit.errors import ConfigError, ExtractkitError, JobError
from extractkit.runs import manifest as manifests
from extractkit.runs.environment import now
from extractkit.runs.sweeps import JobStatus, SweepJob, leads_out
from extractkit.runs.sweeps.writing import ActiveSweep

JobFunction = Callable[[Composition], Path | None]
"""Runs a job and returns its run directory, or None if it leaves none."""

Report = Callable[[Exception], int]
"""Called with a failure; returns its exit code."""

Ran = Callable[[Path], None]
"""Called with each run directory, in the process that launched the jobs."""


@dataclass
class Application:
    """The application, which launchers pickle together with its attributes.

    Attributes:
        function, report, ran, trust: see `launch`.
        scratch: the directory for Hydra's own directories; see `config.app`.
        asked: the directory that the user requested; None if Hydra uses it.
        sweep: the sweep in which jobs write their records; None for a single job.
        failures: the exit codes of jobs in this process.
        seen: the numbers of its jobs.
        process: machine and number of the process that launches the jobs.
    """

    function: JobFunction
    report: Report
    ran: Ran
    trust: Trust
    scratch: Path
    asked: Path | None = None
    sweep: ActiveSweep | None = None
    failures: list[int] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)
    process: tuple[str, int] = field(default_factory=lambda: (platform.node(), os.getpid()))

    def __call__(self, cfg: DictConfig) -> str | None:
        """Run the job of a composed configuration. Errors are reported, not raised.

        Returns:
            The run directory of a single job, for callbacks of Hydra; None if it left none.
        """
        config = _hydra()
        directory = self._directory(config)
        swept = config.mode == RunMode.MULTIRUN
        with kept() if swept else nullcontext():
            if swept and self.sweep is not None:
                self._swept(cfg, self._begun(config, directory), directory, self.sweep)
                return None
            try:
                made = self._done(cfg, directory)
            except Exception as error:  # noqa: BLE001 - other jobs continue after any error
                self._failed(error, directory)
                return None
            self._report_directory(made)
            return None if made is None else str(made)

    @property
    def _at_home(self) -> bool:
        return self.process == (platform.node(), os.getpid())

    def _done(self, cfg: DictConfig, directory: Path) -> Path | None:
        try:
            composed = composition(cfg, directory, trust=self.trust)
            if self.sweep is not None and (part := composed.job.runtime.part) is not None:
                raise ConfigError(
                    f"runtime.part={part} in a sweep: each job has a directory of its own, so "
                    f"that its parts would never meet. Run the parts as jobs of their own, with "
                    f"one run_dir"
                )
            return self.function(composed)
        except SystemExit as stop:
            # Raised by a model's own code, for example. It would end the whole sweep.
            raise JobError(f"the job called sys.exit({stop.code!r})") from stop

    def _begun(self, config: DictConfig, directory: Path) -> SweepJob:
        """Return the record of a job that is about to begin."""
        assert self.sweep is not None
        # Not resolved: an override may contain an interpolation, and is recorded as typed.
        written = OmegaConf.to_container(config.overrides.task, resolve=False)
        assert isinstance(written, list)
        overrides = tuple(as_typed(str(override)) for override in written)
        number = int(config.job.num)
        run = Path(os.path.relpath(directory, self.sweep.directory)).as_posix()
        return SweepJob(
            number=number,
            overrides=overrides,
            values=values_of(overrides),
            # If it leads out of the sweep, there will be no run, so the name does not matter.
            run=str(number) if leads_out(run) else run,
            attempt=self.sweep.attempt,
            status=JobStatus.STARTED,
            started=now(),
        )

    def _swept(self, cfg: DictConfig, job: SweepJob, directory: Path, sweep: ActiveSweep) -> None:
        if self._at_home:
            self.seen.add(job.number)
        began = time.perf_counter()

        def ended(**changes: object) -> SweepJob:
            seconds = time.perf_counter() - began
            return replace(job, finished=now(), seconds=seconds, **changes)  # type: ignore[arg-type]

        try:
            before = sweep.recorded(job.number)
            if (failed := sweep.blocking_failure()) is not None:
                if before is None or before.status is not JobStatus.FINISHED:
                    message = f"not begun, since job {failed.number} has failed"
                    sweep.write(replace(job, status=JobStatus.NOT_STARTED, error=message))
                self._remove(directory)
                return
            sweep.write(job)
            self._check_inside(directory, sweep)
            made = self._done(cfg, directory)
            sweep.write(_finished(ended(), before, made, sweep))
        except Exception as error:  # noqa: BLE001 - other jobs continue after any error
            code = self._failed(error, directory)
            message = str(error) if isinstance(error, ExtractkitError) else _sort_of(error)
            with suppress(JobError):  # a disk error, which is reported already
                sweep.write(ended(status=JobStatus.FAILED, exit_code=code, error=message))
        except BaseException:
            with suppress(JobError):
                sweep.write(ended(status=JobStatus.INTERRUPTED))
            raise
        else:
            self._report_directory(made)

    def _check_inside(self, directory: Path, sweep: ActiveSweep) -> None:
        """Check that a run is inside its sweep, and that no link leads out of a resumed one.

        Raises:
            ConfigError: it is outside.
        """
        run = Path(os.path.relpath(directory, sweep.directory)).as_posix()
        if leads_out(run) or run == ".":
            raise ConfigError(
                f"hydra.sweep.subdir leads to {directory}, which is not inside of "
                f"run_dir={sweep.directory}. Choose another: hydra.sweep.subdir=…"
            )
        there = sweep.directory.resolve()
        if sweep.resumes and not directory.resolve().is_relative_to(there):
            raise ConfigError(
                f"{directory} is a link that leads out of the sweep, to {directory.resolve()}. "
                f"Move that run into its place"
            )

    def _directory(self, config: DictConfig) -> Path:
        """Return the requested run directory of the job that Hydra is running."""
        output = Path(config.runtime.output_dir)
        if self.asked is None:
            return output
        with read_write(config):
            (config.run if config.mode == RunMode.RUN else config.sweep).dir = str(self.asked)
        return Path(os.path.normpath(self.asked / os.path.relpath(output, self.scratch)))

    def _report_directory(self, made: Path | None) -> None:
        # Elsewhere it would not be read, or too late: the launching process reports it.
        if made is not None and self._at_home:
            self.ran(made)

    def _failed(self, error: Exception, directory: Path) -> int:
        code = self.report(error)
        self._remove(directory)
        if self._at_home:
            self.failures.append(code)
        return code

    def _remove(self, directory: Path) -> None:
        if self.asked is None:
            with suppress(OSError):  # Hydra made it; a directory with files stays
                directory.rmdir()


def _finished(
    job: SweepJob, before: SweepJob | None, made: Path | None, sweep: ActiveSweep
) -> SweepJob:
    """Return the record of a finished job."""
    if made is None:
        return replace(job, status=JobStatus.FINISHED)
    run = manifests.read(made)
    if made != sweep.directory / job.run:
        job = replace(job, reused=str(made))
    ended = job.holding(run)
    if before is None or before.status is not JobStatus.FINISHED:
        return ended
    # The record of a run that was complete already does not change.
    untouched = before.timings == ended.timings and before.overrides == ended.overrides
    return replace(before, attempt=job.attempt) if untouched else ended


def _sort_of(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _hydra() -> DictConfig:
    return cast(DictConfig, HydraConfig.get())  # typed as the dataclass of its schema
