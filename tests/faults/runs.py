"""The run that faults are brought upon, and what has to be true of it in the end."""

import gc
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from extractkit.core.job import Job
from extractkit.core.selectors import parse_selector
from extractkit.engine import Listener, Silent
from extractkit.engine.execute import execute, resume
from extractkit.errors import ExtractkitError
from extractkit.runs import JOURNAL, LOG, MANIFEST, manifest
from extractkit.runs.checking.files import damage
from tests.engine.carrying_examples import carrying
from tests.engine.checkpoint_examples import files, over
from tests.engine.examples import EVERYTHING, TEXTS, job
from tests.faults.children import Action, recorded

HYDRA_FILES: Mapping[str, str] = {
    "config.yaml": "model: reference\n",
    "overrides.yaml": "- model=reference\n",
}
SINKS = ("hdf5", "npz")
_SAMPLES_A_SHARD = 8

_EVERY_STATISTIC = (
    *("moments", "histogram", "quantiles", "covariance", "pca", "coactivation", "sparsity"),
    *({"top": {"k": 3, "smallest": True}}, "similarity"),
)
_TOKENS = {"path": ["embedding:output", "attention:output"], "statistics": _EVERY_STATISTIC}
_MEANS = {
    "path": ["pool:output", ":output"],
    "statistics": [{"histogram": {"edges": [-1, 0, 1]}}, {"similarity": {"batch": 4}}],
}


def _counted(job: Job, *selectors: Mapping[str, object]) -> Job:
    """The job with statistics too."""
    more = (parse_selector(f"counted{at}", one) for at, one in enumerate(selectors))
    return replace(job, selectors=(*job.selectors, *more))


def several_shards() -> Job:
    """Twenty texts in three shards, constants and statistics, through both sinks."""
    values = job(EVERYTHING, sinks=SINKS, shard_size=_SAMPLES_A_SHARD)
    return _counted(values, _TOKENS, _MEANS)


def begin(directory: Path, listener: Listener | None = None) -> None:
    """Run the job."""
    execute(several_shards(), directory, hydra_files=HYDRA_FILES, listener=listener or Silent())


def resume_run(directory: Path, listener: Listener | None = None) -> None:
    """What a user does with an unfinished run: resume it or, where none has begun, run again."""
    if (directory / MANIFEST).exists():
        resume(several_shards(), directory, listener=listener or Silent())
    else:
        begin(directory, listener)


def several_checkpoints(directory: Path) -> Job:
    """Twelve texts in two shards, and constants, with each of two checkpoints.

    Args:
        directory: of the run, above which two folders up the checkpoints lie.
    """
    weights = directory.parents[1] / "weights"
    paths = [str(path) for path in sorted(weights.glob("*"))] or files(weights, range(2))
    settings = {"sinks": SINKS, "shard_size": _SAMPLES_A_SHARD}
    return _counted(over(paths, EVERYTHING, inputs=TEXTS[:12], **settings), _TOKENS, _MEANS)


def begin_over_checkpoints(directory: Path) -> None:
    """Run that job."""
    of = several_checkpoints(directory)
    execute(of, directory, hydra_files=HYDRA_FILES, listener=Silent())


def resume_run_over_checkpoints(directory: Path) -> None:
    """Go on with it, or run it again."""
    if (directory / MANIFEST).exists():
        resume(several_checkpoints(directory), directory, listener=Silent())
    else:
        begin_over_checkpoints(directory)


def carrying_state() -> Job:
    """A job of a model that carries its state, with statistics."""
    return _counted(carrying(), _MEANS)


def begin_carrying(directory: Path) -> None:
    """Run that job."""
    execute(carrying_state(), directory, hydra_files=HYDRA_FILES, listener=Silent())


def resume_run_carrying(directory: Path) -> None:
    """Go on with it, or run it again."""
    if (directory / MANIFEST).exists():
        resume(carrying_state(), directory, listener=Silent())
    else:
        begin_carrying(directory)


def content(directory: Path) -> dict[str, object]:
    """All that a run holds by its files' names, but for what differs from run to run of one job.

    That is the log, the manifest's `volatile`, and the journal's timings and order.
    """
    found: dict[str, object] = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if path.is_dir():
            found[name] = "directory"
        elif name == MANIFEST:
            found[name] = _without(path.read_text("utf-8"), "volatile", "checksum")
        elif name == JOURNAL:
            lines = path.read_text("utf-8").splitlines()
            entries = [_without(line, "timings", "checksum") for line in lines]
            found[name] = sorted(entries, key=lambda entry: str(entry["shard"]))
        elif name != LOG:
            found[name] = path.read_bytes()
    return found


class Undisturbed:
    """An undisturbed run, which stays in `scratch`.

    Attributes:
        directory: of it.
        calls: every change that it made to its directory and beside.
    """

    def __init__(self, scratch: Path, action: Action = begin) -> None:
        action(scratch / "warm" / "run")  # in this process: its children need import nothing
        gc.freeze()  # nor copy what a collection would look at
        self.directory = scratch / "undisturbed" / "run"
        self.directory.parent.mkdir()
        self.calls = recorded(action, self.directory)
        self._content = content(self.directory)

    def wrong_with(self, directory: Path) -> list[str]:
        """Everything in which a run that should be finished is not as this one."""
        found = content(directory) if directory.exists() else {}
        wrong = [f"{name} is left over" for name in sorted(found.keys() - self._content.keys())]
        for name, expected in self._content.items():
            if name not in found:
                wrong.append(f"{name} is missing")
            elif found[name] != expected:
                wrong.append(f"{name} is another")
        try:
            ended = manifest.read(directory)
        except ExtractkitError as error:
            return [*wrong, str(error)]
        return wrong + damage(directory, ended)


def _without(text: str, *names: str) -> dict[str, object]:
    record: dict[str, object] = json.loads(text)
    return {name: value for name, value in record.items() if name not in names}
