"""Hydra callbacks (`hydra/callbacks=mlflow`) that log finished runs to an experiment tracker.

They run in the process that launches the jobs, after the last one: so a tracker that fails leaves
every run as it is, and jobs on other machines need neither its package nor its credentials.
"""

import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.core.utils import JobStatus as Outcome
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from extractkit.config.app import Launching, Refused, current
from extractkit.core.component import require
from extractkit.errors import ExtractkitError, JobError
from extractkit.exports.trackers import MLflow, Tracker, WandB, tracked
from extractkit.runs import manifest
from extractkit.runs.sweeps import JobStatus, read


class _Log(Callback):
    """Logs finished runs to a tracker."""

    def __init__(self, tracker: Tracker, *, report: bool) -> None:
        self._tracker = tracker
        self._report = report

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check, before a single job, that what is needed is installed."""
        self._check()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check, before a sweep, that what is needed is installed."""
        self._check()

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Log the run of a single job, if it left one."""
        launching, ended = current.get(None), kwargs["job_return"]
        assert isinstance(ended, JobReturn)
        if launching and ended.status is Outcome.COMPLETED and ended.return_value is not None:
            self._log(launching, Path(str(ended.return_value)), None)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Log the finished runs of a sweep."""
        launching = current.get(None)
        if launching is None or (sweep := launching.swept) is None:
            return
        for directory in _finished(sweep):
            self._log(launching, directory, sweep)

    def _check(self) -> None:
        try:
            self._tracker.check()
            if self._report:
                for module in ("altair", "jinja2", "vl_convert"):
                    require(module, "report")
        except ExtractkitError as error:
            raise Refused(error) from error

    def _log(self, launching: Launching, directory: Path, sweep: Path | None) -> None:
        try:
            with tempfile.TemporaryDirectory() as scratch:
                trust = launching.trust.modules
                run = tracked(directory, Path(scratch), with_report=self._report, trust=trust)
                self._tracker.log(run, sweep)
        except ExtractkitError as error:
            launching.failed(error)
        except Exception as error:  # noqa: BLE001 - a tracker may raise anything
            launching.failed(JobError(self._failed(directory, error)))

    def _failed(self, directory: Path, error: Exception) -> str:
        name = self._tracker.name
        reason = " ".join(str(error).split())
        given = manifest.read(directory).job_given
        again = ["extractkit", *given, f"runtime.reuse_from={directory.parent}"]
        return (
            f"hydra/callbacks={name}: {directory} is finished and whole, but was not logged to "
            f"{self._tracker.title}: {type(error).__name__}: {reason}. To log it, repeat the job, "
            f"which computes nothing again: {shlex.join([*again, f'hydra/callbacks={name}'])}"
        )


def _finished(sweep: Path) -> Iterator[Path]:
    for job in read(sweep).jobs:
        if job.status is JobStatus.FINISHED:
            yield job.directory(sweep)


class LogToMLflow(_Log):
    """Hydra callback that logs finished runs to MLflow."""

    def __init__(
        self, tracking_uri: str | None = None, experiment: str | None = None, report: bool = True
    ) -> None:
        super().__init__(MLflow(tracking_uri, experiment), report=report)


class LogToWandB(_Log):
    """Hydra callback that logs finished runs to Weights & Biases."""

    def __init__(
        self,
        project: str | None = None,
        entity: str | None = None,
        folder: str | None = None,
        mode: str | None = None,
        report: bool = True,
    ) -> None:
        super().__init__(WandB(project, entity, folder, mode), report=report)
