"""Tensors of a run as an xarray Dataset, with named axes and the samples' ids."""

import importlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from extractkit.errors import MissingExtraError
from extractkit.runs.views import TensorView
from extractkit.tensors import SAMPLE


def to_dataset(views: Iterable[TensorView], ids: Sequence[str]) -> Any:
    """An `xarray.Dataset` with one variable, read whole and padded, for each view.

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
    return xarray.Dataset(variables, coords={SAMPLE: list(ids)} if SAMPLE in sizes else {})


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
