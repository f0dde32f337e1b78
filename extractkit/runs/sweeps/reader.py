"""Reading a sweep: a table, its runs, one labelled array. Needs no TensorFlow."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from extractkit.advice import command
from extractkit.core.component import require
from extractkit.core.notebook import Shown
from extractkit.core.spec import SAMPLE, unique_dims
from extractkit.errors import (
    ConfigError,
    RunDirectoryError,
    SelectionError,
    UnknownTensorError,
    choices,
    counted,
)
from extractkit.runs import MANIFEST
from extractkit.runs.directory import path_of
from extractkit.runs.reader import Run, open_run
from extractkit.runs.samples import MISSING
from extractkit.runs.sweeps import (
    JobStatus,
    SweepJob,
    SweepRecord,
    as_typed,
    is_of,
    is_sweep,
    next_steps,
    read,
)
from extractkit.runs.views import TensorView
from extractkit.sinks import Sink


class Sweep(Shown):
    """The runs of several jobs, by the swept values.

    Attributes:
        path: the directory of the sweep.
        record: the record of the sweep.
        runs: the finished runs by their jobs' numbers, each opened on access.
    """

    def __init__(self, path: Path, record: SweepRecord, trust: Sequence[str] = ()) -> None:
        self.path = path
        self.record = record
        self.runs = _Runs(path, record.jobs, trust)

    @property
    def jobs(self) -> tuple[SweepJob, ...]:
        """The jobs by number, including those that failed or have not started."""
        return self.record.jobs

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The keys with more than one value, in the order of the overrides."""
        return self.record.keys

    @property
    def table(self) -> list[dict[str, object]]:
        """A row for each job, for `pandas.DataFrame(sweep.table)`.

        `job`, a column for each swept key, then `status`, `run` (its directory), `samples`,
        `tensors`, `bytes`, `seconds` (all of it), `load`, `compile`, `survey`, `extract` (seconds
        of each stage) and `error`. Unknown entries are None.
        """
        return [self._row(job) for job in self.jobs]

    def run(self, values: Mapping[str, object] | None = None, /, **more: object) -> Run:
        """Return the one run with these values: `sweep.run({"model.checkpoint": "a"}, model="b")`.

        Raises:
            SelectionError: no finished run has them, or several do.
        """
        wanted = {**(values or {}), **more}
        for key in wanted:
            if key not in self.keys:
                raise SelectionError(
                    f"{key} is not swept in {self.path}. {choices(key, self.keys)}"
                )
        given = ", ".join(f"{key}={as_typed(value)}" for key, value in wanted.items())
        given = given or "no values"
        found = [
            job
            for job in self.jobs
            if all(_same(job.values.get(key), value) for key, value in wanted.items())
        ]
        if not found:
            *_, key = wanted
            offered = [as_typed(job.values.get(key)) for job in self.jobs]
            raise SelectionError(
                f"no job of {self.path} has {given}. Of {key}: "
                f"{choices(as_typed(wanted[key]), offered)}"
            )
        if len(found) > 1:
            open_keys = [key for key in self.keys if key not in wanted]
            numbers = ", ".join(str(job.number) for job in found[:3])
            more_of_them = ", …" if len(found) > 3 else ""
            hint = (
                f"Give also: {', '.join(open_keys)}"
                if open_keys
                else "Choose one: sweep.runs[NUMBER]"
            )
            raise SelectionError(
                f"{given} matches {len(found)} jobs of {self.path}: {numbers}{more_of_them}. {hint}"
            )
        return self.runs[found[0].number]

    def to_xarray(self, address: str, fill: object = None) -> Any:
        """Return one tensor of all runs as an `xarray.DataArray`, with a dim for each swept key.

        Its dims are the swept keys, with their values as coordinates (lists as texts), then the
        tensor's own. The samples' ids are a coordinate. If a sample is missing in any run,
        `missing` (bool, swept keys and sample) marks it. Named axes other than the samples' are
        padded to the longest of all runs. All values are read.

        Args:
            address: the tensor's name in the runs.
            fill: the value beyond a sample's end, and for jobs without a finished run. None: NaN,
                or 0 for numbers without NaN, in which case no job may be missing.

        Raises:
            MissingExtraError: xarray is not installed.
            UnknownTensorError: a run has no such tensor.
            RunDirectoryError: no run is finished; the runs' tensors differ in samples, dims, fixed
                sizes or type; two jobs have the same values; or a job is missing.
        """
        return labelled(self.path, self.jobs, self.keys, self.runs, address, fill)

    def __len__(self) -> int:
        return len(self.jobs)

    def __repr__(self) -> str:
        swept = ", ".join(self.keys) or "nothing"
        size = f"{len(self.runs)} of {counted(len(self), 'run')} finished"
        return f"<Sweep {self.path}: {self.record.status}, {size}, over {swept}>"

    def _row(self, job: SweepJob) -> dict[str, object]:
        stages = ("load", "compile", "survey", "extract")
        return {
            "job": job.number,
            **{key: job.values.get(key) for key in self.keys},
            "status": str(job.status),
            "run": str(job.directory(self.path)),
            "samples": job.samples,
            "tensors": job.tensors,
            "bytes": job.bytes,
            "seconds": job.seconds,
            **{stage: job.timings.get(stage) for stage in stages},
            "error": job.error,
        }


class _Runs(Mapping[int, Run]):
    """The finished runs of a sweep by job, each opened on first access."""

    def __init__(self, path: Path, jobs: Sequence[SweepJob], trust: Sequence[str]) -> None:
        self._path = path
        self._trust = trust
        self._jobs = {job.number: job for job in jobs}
        self._opened: dict[int, Run] = {}

    def __getitem__(self, number: int) -> Run:
        job = self._jobs.get(number)
        if job is None:
            # A plain KeyError, as Mapping's own methods expect.
            raise KeyError(number)
        if job.status is not JobStatus.FINISHED:
            reason = f": {job.error}" if job.error else ""
            raise RunDirectoryError(
                f"job {number} of {self._path} has no finished run (status: {job.status}){reason}. "
                f"{next_steps(self._path, self._jobs.values())}"
            )
        if number not in self._opened:
            self._opened[number] = self._open(job)
        return self._opened[number]

    def _open(self, job: SweepJob) -> Run:
        directory = job.directory(self._path)
        if not _has_run(directory):
            raise RunDirectoryError(
                f"job {job.number} of {self._path} has lost its run: {directory} is gone. Run the "
                f"job again: {command('resume', self._path)}"
            )
        run = open_run(directory, trust=self._trust)
        if not is_of(run.manifest, job):
            raise RunDirectoryError(
                f"{directory} holds the run of another job ({shlex.join(run.manifest.job_given)}) "
                f"than job {job.number} of {self._path} ({shlex.join(job.overrides)}). Move it "
                f"away, and run the job again: {command('resume', self._path)}"
            )
        return run

    def __contains__(self, number: object) -> bool:
        return number in list(self)

    def __iter__(self) -> Iterator[int]:
        finished = (job for job in self._jobs.values() if job.status is JobStatus.FINISHED)
        return (job.number for job in finished if _has_run(job.directory(self._path)))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _has_run(run: Path) -> bool:
    return (run / MANIFEST).exists()


def open_path(
    path: str | Path,
    sink: Sink | None = None,
    *,
    check: bool = True,
    trust: Sequence[str] = (),
) -> Run | Sweep:
    """Open the directory of a run or of a sweep. Reads records only, values on access.

    Args:
        path: the directory.
        sink: the sink that reads a run's values; None: the first sink of its configuration.
        check: compare the digest of each shard's file with the journal before the first read, so
            that damaged values raise an error.
        trust: modules whose callables a run's configuration may name, for sinks that neither come
            with extractkit nor are registered.

    Returns:
        `Run` for a run, `Sweep` for a sweep.

    Raises:
        ConfigError: `sink` or `check` is given for a sweep.
        RunDirectoryError: it is neither, is damaged, or is a finished run that lacks shards.
    """
    directory = path_of(path, "path")
    if not is_sweep(directory):
        return open_run(directory, sink, check=check, trust=trust)
    if sink is not None or not check:
        raise ConfigError(
            f"sink= and check= are for a single run, and {directory} is a sweep. Open one of its "
            f"runs: extractkit.open({str(directory / '0')!r}, …)"
        )
    return open_sweep(directory, trust=trust)


def open_sweep(path: str | Path, *, trust: Sequence[str] = ()) -> Sweep:
    """Open the directory of a sweep. Reads the index; runs are opened on access.

    Args:
        path: the directory of the sweep.
        trust: as for `extractkit.open`, for every run.

    Raises:
        RunDirectoryError: it is not a sweep, or is damaged.
    """
    directory = path_of(path, "path")
    return Sweep(directory, read(directory), trust)


Position = tuple[int, ...]
"""Position of a job: the number of its value along each swept key."""


@dataclass(frozen=True)
class _Axis:
    """A swept key and its values, in the order of the jobs."""

    key: str
    labels: tuple[object, ...]


def labelled(
    path: Path,
    jobs: Sequence[SweepJob],
    keys: Sequence[str],
    runs: Mapping[int, Run],
    address: str,
    fill: object,
) -> Any:
    """Build the array of `Sweep.to_xarray`.

    Args:
        path: the directory of the sweep, for messages.
        runs: the finished runs, by job. Runs without the tensor count as missing.
    """
    xarray = require("xarray", "to_xarray")
    if not runs:
        raise RunDirectoryError(f"no run of {path} is finished. {next_steps(path, jobs)}")
    axes = [_axis(key, jobs) for key in keys]
    positions = _positions(path, jobs, axes)
    views = {number: run[address] for number, run in runs.items() if address in run}
    if not views:
        offered = dict.fromkeys(key for run in runs.values() for key in run)
        raise UnknownTensorError(
            f"{address!r} is not a tensor of any run of {path}. {choices(address, offered)}"
        )
    _check_alike(path, views, runs)
    first = next(iter(views.values()))
    value = first.blank if fill is None else fill
    sizes = tuple(max(lengths) for lengths in zip(*(v.shape for v in views.values()), strict=True))
    swept = tuple(len(axis.labels) for axis in axes)
    filled = {positions[number] for number in views}
    if fill is None and first.dtype.kind not in "fc" and len(views) < int(np.prod(swept)):
        missing = next(position for position in np.ndindex(swept) if position not in filled)
        values = ", ".join(f"{a.key}={a.labels[n]}" for a, n in zip(axes, missing, strict=True))
        raise RunDirectoryError(
            f"{path} has no finished run of {values}, and {first.dtype} has no NaN to mark its "
            f"values as missing. Give a fill value: to_xarray({address!r}, fill=0). "
            f"{next_steps(path, jobs)}"
        )
    array = np.full((*swept, *sizes), value, first.dtype)
    for number, view in views.items():
        target: tuple[int | slice, ...] = (*positions[number], *map(slice, view.shape))
        array[target] = view.padded(value)
    coordinates: dict[str, Any] = {axis.key: _coordinate(axis) for axis in axes}
    dims = (*keys, *unique_dims(first.dims, sizes, {}))
    some = runs[next(iter(views))]
    outer = some.manifest.outer_axes
    coordinates |= {axis.name: axis.coordinates for axis in outer if axis.name in dims}
    if SAMPLE in dims:
        coordinates[SAMPLE] = _ids(some)
        marks = _missing(runs, positions, swept, len(coordinates[SAMPLE]))
        if marks.any():
            coordinates[MISSING] = ((*keys, SAMPLE), marks)
    attributes = {"address": first.record.address, "name": first.record.name}
    return xarray.DataArray(array, coordinates, dims, name=first.key, attrs=attributes)


def _axis(key: str, jobs: Sequence[SweepJob]) -> _Axis:
    labels = {repr(job.values.get(key)): job.values.get(key) for job in jobs}
    return _Axis(key, tuple(labels.values()))


def _coordinate(axis: _Axis) -> tuple[str, Any]:
    """Return values that xarray can look up: numbers of one type, or otherwise texts."""
    kinds = {type(label) for label in axis.labels}
    if kinds in ({int}, {float}, {bool}, {int, float}):
        return axis.key, np.array(axis.labels)
    return axis.key, np.array([as_typed(label) for label in axis.labels], dtype=object)


def _positions(path: Path, jobs: Sequence[SweepJob], axes: Sequence[_Axis]) -> dict[int, Position]:
    """Return each job's position.

    Raises:
        RunDirectoryError: two jobs have the same position.
    """
    found: dict[Position, int] = {}
    for job in jobs:
        position = tuple(
            list(map(repr, axis.labels)).index(repr(job.values.get(axis.key))) for axis in axes
        )
        if position in found:
            raise RunDirectoryError(
                f"jobs {found[position]} and {job.number} of {path} have the same values, so one "
                f"array cannot hold both. Take them one by one: sweep.runs[NUMBER]"
            )
        found[position] = job.number
    return {number: position for position, number in found.items()}


def _check_alike(path: Path, views: Mapping[int, TensorView], runs: Mapping[int, Run]) -> None:
    """Check that the tensor has the same form in all runs, for the same samples.

    Raises:
        RunDirectoryError: two runs differ.
    """
    (first, one), *rest = views.items()
    form = _form(one, runs[first])
    for number, other in rest:
        for (what, a), b in zip(form.items(), _form(other, runs[number]).values(), strict=True):
            if a == b:
                continue
            differ = f"its {what} are {_short(a)} in job {first} and {_short(b)} in job {number}"
            raise RunDirectoryError(
                f"{one.key!r} of {path} does not fit one array: {differ}. Take the runs one by "
                f"one: sweep.runs[NUMBER]"
            )


def _form(view: TensorView, run: Run) -> dict[str, list[object]]:
    """Return what has to be the same in all runs."""
    spec = view.spec.undescribed  # a run of an older extractkit may lack names of axes
    return {
        "dims": list(spec.titles),
        "types": [str(view.dtype)],
        # Along these axes, all samples have the same length.
        "fixed sizes": [dim.size for dim in spec.axes if dim.size is not None],
        "samples": _ids(run) if SAMPLE in view.dims else [],
        **{f"{axis.name}s": list(axis.coordinates) for axis in run.manifest.outer_axes},
    }


def _ids(run: Run) -> list[object]:
    return [str(row["id"]) for row in run.samples]


def _short(values: list[object]) -> str:
    """Format a short list whole, and a long one as its length."""
    return str(values) if len(values) <= 6 else f"{len(values)} ({values[0]!r}, …)"


def _missing(
    runs: Mapping[int, Run], positions: Mapping[int, Position], swept: Position, samples: int
) -> npt.NDArray[np.bool]:
    marks = np.zeros((*swept, samples), bool)
    for number, run in runs.items():
        for index in run.missing:
            marks[(*positions[number], index)] = True
    return marks


def _same(recorded: object, wanted: object) -> bool:
    """Return True if values are equal, or equal as typed in an override (`[a,b]`)."""
    return recorded == wanted or (isinstance(wanted, str) and as_typed(recorded) == wanted)
