"""One tensor of all runs of a sweep, as one array over the swept keys."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from extractkit.checkpoints import AXIS
from extractkit.errors import MissingExtraError, RunDirectoryError, UnknownTensorError, choices
from extractkit.runs.labelled import SKIPPED, steps_or_labels, unique_dims
from extractkit.runs.reader import Run
from extractkit.runs.sweeps.next_steps import next_steps
from extractkit.runs.sweeps.record import SweepJob, as_typed
from extractkit.runs.views import TensorView
from extractkit.tensors import SAMPLE

Place = tuple[int, ...]
"""Where a job stands: the number of its value along each swept key."""


@dataclass(frozen=True)
class _Axis:
    """A swept key and its values, in the order in which the jobs have them."""

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
    """See `Sweep.to_xarray`.

    Args:
        path: of the sweep, for messages.
        runs: the finished ones, by job; those without the tensor count as missing.
    """
    try:
        xarray = importlib.import_module("xarray")
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "to_xarray needs xarray. Install it: pip install 'extractkit[xarray]'"
        ) from error
    if not runs:
        raise RunDirectoryError(f"no run of {path} is finished. {next_steps(path, jobs)}")
    axes = [_axis(key, jobs) for key in keys]
    places = _places(path, jobs, axes)
    views = {number: run[address] for number, run in runs.items() if address in run}
    if not views:
        offered = dict.fromkeys(key for run in runs.values() for key in run)
        raise UnknownTensorError(
            f"{address!r} is no tensor of any run of {path}. {choices(address, offered)}"
        )
    _check_alike(path, views, runs)
    first = next(iter(views.values()))
    value = first.blank if fill is None else fill
    sizes = tuple(max(lengths) for lengths in zip(*(v.shape for v in views.values()), strict=True))
    swept = tuple(len(axis.labels) for axis in axes)
    taken = {places[number] for number in views}
    if fill is None and first.dtype.kind not in "fc" and len(views) < int(np.prod(swept)):
        missing = next(place for place in np.ndindex(swept) if place not in taken)
        told = ", ".join(f"{a.key}={a.labels[n]}" for a, n in zip(axes, missing, strict=True))
        raise RunDirectoryError(
            f"{path} has no finished run of {told}, and {first.dtype} has no NaN to stand for its "
            f"values. Give one: to_xarray({address!r}, fill=0). {next_steps(path, jobs)}"
        )
    array = np.full((*swept, *sizes), value, first.dtype)
    for number, view in views.items():
        place: tuple[int | slice, ...] = (*places[number], *map(slice, view.shape))
        array[place] = view.padded(value)
    coordinates: dict[str, Any] = {axis.key: _coordinate(axis) for axis in axes}
    dims = (*keys, *unique_dims(first.dims, sizes, {}))
    some = runs[next(iter(views))]
    if AXIS in dims:
        coordinates[AXIS] = steps_or_labels(some.manifest.checkpoints)
    if SAMPLE in dims:
        coordinates[SAMPLE] = _ids(some)
        marks = _skipped(runs, places, swept, len(coordinates[SAMPLE]))
        if marks.any():
            coordinates[SKIPPED] = ((*keys, SAMPLE), marks)
    attributes = {"address": first.record.address, "name": first.record.name}
    return xarray.DataArray(array, coordinates, dims, name=first.key, attrs=attributes)


def _axis(key: str, jobs: Sequence[SweepJob]) -> _Axis:
    labels = {repr(job.values.get(key)): job.values.get(key) for job in jobs}
    return _Axis(key, tuple(labels.values()))


def _coordinate(axis: _Axis) -> tuple[str, Any]:
    """Values that xarray can look up: of one type as they are, others as texts."""
    kinds = {type(label) for label in axis.labels}
    if kinds in ({int}, {float}, {bool}, {int, float}):
        return axis.key, np.array(axis.labels)
    return axis.key, np.array([as_typed(label) for label in axis.labels], dtype=object)


def _places(path: Path, jobs: Sequence[SweepJob], axes: Sequence[_Axis]) -> dict[int, Place]:
    """Each job's place.

    Raises:
        RunDirectoryError: two jobs have the same one.
    """
    found: dict[Place, int] = {}
    for job in jobs:
        place = tuple(
            list(map(repr, axis.labels)).index(repr(job.values.get(axis.key))) for axis in axes
        )
        if place in found:
            raise RunDirectoryError(
                f"jobs {found[place]} and {job.number} of {path} have the same values, so they "
                f"have no place of their own in one array. Take them one by one: sweep.runs[NUMBER]"
            )
        found[place] = job.number
    return {number: place for place, number in found.items()}


def _check_alike(path: Path, views: Mapping[int, TensorView], runs: Mapping[int, Run]) -> None:
    """Make sure that the tensor is of one kind in all runs, for the same samples.

    Raises:
        RunDirectoryError: in two it is not.
    """
    (first, one), *rest = views.items()
    told = _told_of(one, runs[first])
    for number, other in rest:
        for (what, a), b in zip(told.items(), _told_of(other, runs[number]).values(), strict=True):
            if a == b:
                continue
            differ = f"its {what} are {_short(a)} in job {first} and {_short(b)} in job {number}"
            raise RunDirectoryError(
                f"{one.key!r} of {path} is not one array: {differ}. Take the runs one by one: "
                f"sweep.runs[NUMBER]"
            )


def _told_of(view: TensorView, run: Run) -> dict[str, list[object]]:
    """What has to be the same in all runs."""
    axes = zip(view.dims, view.shape, strict=True)
    return {
        "dims": list(view.dims),
        "types": [str(view.dtype)],
        # No sample has its own length along these.
        "fixed sizes": [size for dim, size in axes if dim is None],
        "samples": _ids(run) if SAMPLE in view.dims else [],
        "checkpoints": list(steps_or_labels(run.manifest.checkpoints)),
    }


def _ids(run: Run) -> list[object]:
    return [str(row["id"]) for row in run.samples]


def _short(values: list[object]) -> str:
    """All of a few, the number of many."""
    return str(values) if len(values) <= 6 else f"{len(values)} ({values[0]!r}, …)"


def _skipped(
    runs: Mapping[int, Run], places: Mapping[int, Place], swept: Place, samples: int
) -> npt.NDArray[np.bool]:
    marks = np.zeros((*swept, samples), bool)
    for number, run in runs.items():
        for index in run.skipped:
            marks[(*places[number], index)] = True
    return marks
