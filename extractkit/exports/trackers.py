"""Experiment trackers: a finished run as plain data, and its hand-over to MLflow and to W&B.

Both trackers get the same: the configuration, numbers by step, a description and files. What a
tracker may ask on the network is off unless its own settings say otherwise.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Protocol

from extractkit.core.component import require
from extractkit.errors import ConfigError, choices
from extractkit.exports.numbers import of_drift, of_statistics, statistics_at, steps
from extractkit.exports.tensorboard import described
from extractkit.reports.page import report
from extractkit.runs import MANIFEST
from extractkit.runs.manifest import Manifest
from extractkit.runs.reader import Run, open_run

REPORT = "report.html"
PROJECT = "extractkit"
"""The experiment of MLflow, and the project of W&B, unless another is asked for."""


@dataclass(frozen=True)
class Tracked:
    """A finished run as trackers take it.

    Attributes:
        name: the name of its directory.
        key: 16 letters and digits that no other run has. A run that is handed over
            again has the same.
        parameters: the resolved configuration, a text for each key.
        numbers: metrics by name at each step, in the order of the steps.
        tags: facts about the run by name: its directory, its identity.
        description: what `extractkit show` prints, in Markdown.
        files: what is stored beside.
        started, finished: times in seconds.
    """

    name: str
    key: str
    parameters: Mapping[str, str]
    numbers: Mapping[int, Mapping[str, float]]
    tags: Mapping[str, str]
    description: str
    files: Sequence[Path]
    started: float
    finished: float


class Tracker(Protocol):
    """What takes runs.

    Attributes:
        name: its name in `hydra/callbacks`.
        title: its name in a text.
    """

    name: ClassVar[str]
    title: ClassVar[str]

    def check(self) -> None:
        """Check that its package is installed, and its settings.

        Raises:
            MissingExtraError: it is not.
            ConfigError: a setting has no such value.
        """
        ...

    def log(self, run: Tracked, sweep: Path | None) -> None:
        """Store a run, once.

        Args:
            sweep: the directory of the sweep that the run belongs to.

        Raises:
            Exception: the package may raise any.
        """
        ...


def tracked(
    directory: Path, scratch: Path, *, with_report: bool = True, trust: Sequence[str] = ()
) -> Tracked:
    """Return a finished run as plain data.

    Args:
        directory: the run directory.
        scratch: where its report is written.
        with_report: whether a report is among the files.
        trust: modules whose callables the run's configuration may name.

    Raises:
        RunDirectoryError: there is no run, or it is damaged.
        MissingExtraError: a package that the report needs is not installed.
    """
    run = open_run(directory, trust=trust)
    recorded, times = run.manifest, run.manifest.volatile
    files = [directory / MANIFEST]
    if with_report:
        files.append(report(directory, scratch / REPORT, trust=trust))
    tags = {"extractkit.run": str(directory), "extractkit.identity": recorded.identity or ""}
    return Tracked(
        directory.name,
        _key(directory, times.started),
        dict(_parameters(recorded.job_resolved)),
        numbers(run),
        {name: text for name, text in tags.items() if text},
        described(run),
        files,
        datetime.fromisoformat(times.started).timestamp(),
        datetime.fromisoformat(times.finished or times.started).timestamp(),
    )


def _key(*parts: object) -> str:
    text = "\0".join(map(str, parts))
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=8).hexdigest()


def numbers(run: Run) -> Mapping[int, Mapping[str, float]]:
    """Return the metrics of a run by step: statistics, drift, and at the last step its totals.

    No value of a tensor is read.
    """
    found = {
        step: {**_of_statistics(run, at), **_of_drift(run, at)}
        for at, step in enumerate(steps(run))
    }
    last = max(found)
    found[last] |= _totals(run.manifest)
    return dict(sorted(found.items()))


def _of_statistics(run: Run, position: int) -> dict[str, float]:
    return {
        f"statistics/{key} {name}": number
        for key, one in statistics_at(run, position).items()
        for name, number in of_statistics(one)
    }


def _of_drift(run: Run, position: int) -> dict[str, float]:
    return {f"drift/{key} {name}": number for key, name, number in of_drift(run, position)}


def _totals(recorded: Manifest) -> dict[str, float]:
    """Return sizes and times of the whole run, and what the checks of its values found."""
    found = {
        "run/tensors": float(len(recorded.tensors)),
        "run/samples": float(recorded.samples),
    }
    if (actual := recorded.actual) is not None:
        sizes = {name: getattr(actual, name) for name in ("missing", "shards", "bytes")}
        found |= {f"run/{name}": float(size) for name, size in sizes.items()}
    timings = recorded.volatile.timings
    found |= {f"run/{stage} seconds": float(seconds) for stage, seconds in timings.items()}
    for key, checks in actual.values.items() if actual else ():
        found[f"values/{key} not finite"] = float(checks.nan + checks.inf)
        for name, extreme in (("min", checks.minimum), ("max", checks.maximum)):
            if extreme is not None:
                found[f"values/{key} {name}"] = float(extreme)
    return found


def _parameters(value: object, at: str = "") -> Iterator[tuple[str, str]]:
    """Yield each key of the configuration with its value as text; lists are JSON."""
    if isinstance(value, Mapping) and (value or not at):
        for key, entry in value.items():
            yield from _parameters(entry, f"{at}.{key}" if at else str(key))
    else:
        yield at, value if isinstance(value, str) else json.dumps(value, default=str)


class MLflow:
    """MLflow: a run for each run, below one for its sweep.

    Attributes:
        tracking_uri: the server or store; None: that of `MLFLOW_TRACKING_URI`, or `mlflow.db` here.
        experiment: the name of the experiment, which is made if needed.
    """

    name: ClassVar[str] = "mlflow"
    title: ClassVar[str] = "MLflow"

    def __init__(self, tracking_uri: str | None = None, experiment: str | None = None) -> None:
        self._tracking_uri = tracking_uri
        self._experiment = experiment or PROJECT

    def check(self) -> None:
        """Check that MLflow is installed, with what its local store needs."""
        _mlflow("mlflow")
        for name in ("sqlalchemy", "alembic"):
            require(name, "hydra/callbacks=mlflow")

    def log(self, run: Tracked, sweep: Path | None) -> None:
        """Store a run that is not there yet. What an earlier attempt left of it is deleted."""
        client = _mlflow("mlflow").MlflowClient(tracking_uri=self._tracking_uri)
        known = client.get_experiment_by_name(self._experiment)
        at = known.experiment_id if known else client.create_experiment(self._experiment)
        tags = {_KEY: run.key, **run.tags}
        if sweep is not None:
            tags["mlflow.parentRunId"] = _parent(client, at, sweep, run)
        for earlier in _with_key(client, at, run.key):
            if earlier.info.status == "FINISHED":
                return
            client.delete_run(earlier.info.run_id)
        tags["mlflow.note.content"] = run.description[:_MOST_OF_TAG]
        began = int(run.started * 1000)
        made = client.create_run(at, start_time=began, tags=_tags(tags), run_name=run.name)
        number = made.info.run_id
        try:
            _fill(client, number, run)
        except BaseException:
            with suppress(Exception):  # the first failure is the one to report
                client.set_terminated(number, "FAILED")
            raise
        client.set_terminated(number, "FINISHED", int(run.finished * 1000))


_KEY = "extractkit.key"
_MOST_OF_TAG = 5_000
_MOST_OF_PARAMETER = 500
_MOST_OF_NAME = 250
_METRICS, _PARAMETERS = 1000, 100
"""MLflow's bounds: of texts in every release of its stores, and of how much a request holds."""
_UNFIT = re.compile(r"[^A-Za-z0-9_. :/-]")


def _mlflow(module: str) -> Any:
    # Otherwise MLflow reports its use to its makers, reports each table that it makes to the
    # terminal, and asks for a server that does not answer for four minutes.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    return require(module, "hydra/callbacks=mlflow")


def _parent(client: Any, experiment: str, sweep: Path, run: Tracked) -> str:
    """Return the run of a sweep itself, which is made for its first job."""
    key = _key(sweep)
    for found in _with_key(client, experiment, key):
        return str(found.info.run_id)
    began = int(run.started * 1000)
    tags = _tags({_KEY: key, "extractkit.sweep": str(sweep)})
    made = client.create_run(experiment, start_time=began, tags=tags, run_name=sweep.name)
    client.set_terminated(made.info.run_id, "FINISHED")
    return str(made.info.run_id)


def _with_key(client: Any, experiment: str, key: str) -> list[Any]:
    return list(client.search_runs([experiment], f"tags.`{_KEY}` = '{key}'"))


def _tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {name: text[:_MOST_OF_TAG] for name, text in tags.items()}


def _fill(client: Any, number: str, run: Tracked) -> None:
    entities = _mlflow("mlflow.entities")
    named = fitting(run.parameters)
    parameters = [
        entities.Param(named[key], text[:_MOST_OF_PARAMETER])
        for key, text in run.parameters.items()
    ]
    named = fitting(name for each in run.numbers.values() for name in each)
    time = int(run.finished * 1000)
    metrics = [
        entities.Metric(named[name], value, time, step)
        for step, each in run.numbers.items()
        for name, value in each.items()
    ]
    for at in range(0, len(parameters), _PARAMETERS):
        client.log_batch(number, params=parameters[at : at + _PARAMETERS])
    for at in range(0, len(metrics), _METRICS):
        client.log_batch(number, metrics=metrics[at : at + _METRICS])
    for file in run.files:
        client.log_artifact(number, str(file))


def fitting(names: Iterable[str]) -> dict[str, str]:
    """Return for each name one that MLflow takes. Different names stay different."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in dict.fromkeys(names):
        parts = _UNFIT.sub("_", name).split("/")
        fit = plain = "/".join(part.strip(".") or "_" for part in parts)[: _MOST_OF_NAME - 10]
        again = 2
        while fit in taken:
            fit, again = f"{plain} {again}", again + 1
        taken.add(fit)
        found[name] = fit
    return found


class WandB:
    """Weights & Biases: a run for each run, those of a sweep in one group.

    Attributes:
        project: the name of the project.
        entity: who it belongs to; None: the person who is logged in.
        folder: where its files are; None: `wandb` here.
        mode: `online` to send runs at once; None or `offline`: `wandb sync` sends them.
    """

    name: ClassVar[str] = "wandb"
    title: ClassVar[str] = "Weights & Biases"

    def __init__(
        self,
        project: str | None = None,
        entity: str | None = None,
        folder: str | None = None,
        mode: str | None = None,
    ) -> None:
        self._project = project or PROJECT
        self._entity = entity
        self._folder = folder
        self._mode = _MODES[0] if mode is None else mode

    def check(self) -> None:
        """Check that the package is installed, and that there is such a mode."""
        if self._mode not in _MODES:
            raise ConfigError(
                f"hydra.callbacks.wandb.mode={self._mode!r} is not a mode. "
                f"{choices(str(self._mode), _MODES)}"
            )
        _wandb()

    def log(self, run: Tracked, sweep: Path | None) -> None:
        """Store a run. One that is handed over again replaces itself when it is sent."""
        wandb = _wandb()
        made = wandb.init(
            project=self._project,
            entity=self._entity,
            dir=self._folder,
            id=run.key,
            name=run.name,
            group=None if sweep is None else sweep.name,
            config={**run.parameters, **run.tags},
            notes=run.description,
            mode=self._mode,
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                x_disable_stats=True,
            ),
        )
        failed = True
        try:
            for step, each in run.numbers.items():
                made.log(dict(each), step=step)
            for file in run.files:
                # A file beside its own is copied into the run, and not linked to.
                shutil.copyfile(file, Path(made.dir) / file.name)
            failed = False
        finally:
            made.finish(exit_code=int(failed))


_MODES = ("offline", "online")


def _wandb() -> Any:
    # Its errors would be reported to its makers.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    return require("wandb", "hydra/callbacks=wandb")
