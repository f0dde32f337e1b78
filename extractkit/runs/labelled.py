"""Tensors of a run as an xarray Dataset, with named axes and the samples' ids."""

import importlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from extractkit.checkpoints import AXIS, Checkpoint
from extractkit.errors import MissingExtraError
from extractkit.runs.views import TensorView
from extractkit.tensors import SAMPLE

SKIPPED = "skipped"
"""The coordinate that tells samples without values from others, of which NaN is the value."""


def to_dataset(
    views: Iterable[TensorView],
    ids: Sequence[str],
    skipped: Collection[int] = (),
    checkpoints: Sequence[Checkpoint] = (),
) -> Any:
    """An `xarray.Dataset` with one variable, read whole and padded, for each view.

    Args:
        ids: of all samples: the coordinate `sample`.
        skipped: numbers of those without values: the coordinate `skipped`, bool (sample,), true for
            them. Where there are none, there is no such coordinate.
        checkpoints: their steps, or labels where they have none: the coordinate `checkpoint`.

    Raises:
        MissingExtraError: xarray is not installed.
    """
    try:
        xarray = importlib.import_module("xarray")
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "to_xarray needs xarray. Install it: pip install 'extractkit[xarray]'"
        ) from error
    sizes: dict[str, int] = {}
    variables = {}
    for view in views:
        dims = unique_dims(view.dims, view.shape, sizes)
        attributes = {"address": view.record.address, "name": view.record.name}
        variables[view.key] = (dims, np.asarray(view), attributes)
    coordinates: dict[str, Any] = {}
    if SAMPLE in sizes:
        coordinates[SAMPLE] = list(ids)
        if skipped:
            marks = [number in skipped for number in range(len(ids))]
            coordinates[SKIPPED] = (SAMPLE, np.array(marks, bool))
    if checkpoints and AXIS in sizes:
        coordinates[AXIS] = steps_or_labels(checkpoints)
    return xarray.Dataset(variables, coords=coordinates)


def steps_or_labels(checkpoints: Sequence[Checkpoint]) -> list[int] | list[str]:
    """What stands along the axis of checkpoints: their steps, if all of them have one."""
    steps = [one.step for one in checkpoints if one.step is not None]
    return steps if len(steps) == len(checkpoints) else [one.label for one in checkpoints]


def unique_dims(
    dims: Sequence[str | None], shape: Sequence[int], sizes: dict[str, int]
) -> tuple[str, ...]:
    """Names for the axes of one variable, no two alike; `sizes` remembers those of all variables.

    A name means one length in a Dataset. So the second "token" of an attention map becomes
    "token_1", and so does a "token" that was sliced to another length. Unnamed axes are "axis".
    """
    names: list[str] = []
    for dim, size in zip(dims, shape, strict=True):
        name = next(
            candidate
            for candidate in _candidates(dim or "axis")
            if candidate not in names and sizes.get(candidate, size) == size
        )
        sizes[name] = size
        names.append(name)
    return tuple(names)


def _candidates(name: str) -> Iterator[str]:
    yield name
    number = 0
    while True:
        number += 1
        yield f"{name}_{number}"
