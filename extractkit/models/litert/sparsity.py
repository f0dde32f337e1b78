"""Sparse weights of TFLite files, made dense. NumPy only."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from extractkit.values import Array

_DENSE = 0
_Numbers = npt.NDArray[np.int64]


def densify(values: Array, shape: Sequence[int], sparsity: Mapping[str, Any]) -> Array:
    """The dense array of which `values` holds what is stored.

    A level of storage is an axis, or the inside of a block of one; each is dense, or lists the
    places that are there, as rows of a CSR matrix do (sparse tensors in TFLite's schema).

    Args:
        values: (n,), in the order of storage.
        shape: of the dense array.
        sparsity: as LiteRT tells it: `traversal_order`, `dim_metadata`, `block_map` if in blocks.

    Raises:
        ValueError: the parts do not fit each other.
    """
    levels = [int(level) for level in sparsity["traversal_order"]]
    blocked = [int(axis) for axis in sparsity.get("block_map", ())]
    places = np.zeros(1, np.int64)  # where in the level each stored entry stands
    coordinates: dict[int, _Numbers] = {}
    sizes: dict[int, int] = {}
    for level, storage in zip(levels, sparsity["dim_metadata"], strict=True):
        parents, places, here = _expanded(places, storage)
        coordinates = {other: column[parents] for other, column in coordinates.items()}
        coordinates[level] = here
        sizes[level] = int(storage.get("dense_size", 0))
    for block, axis in enumerate(blocked, start=len(shape)):
        coordinates[axis] = coordinates[axis] * sizes[block] + coordinates[block]
    flat = np.ravel_multi_index([coordinates[axis] for axis in range(len(shape))], tuple(shape))
    dense = np.zeros(shape, values.dtype)
    dense.reshape(-1)[flat] = values.reshape(-1)[places]
    return dense


def _expanded(places: _Numbers, storage: Mapping[str, Any]) -> tuple[_Numbers, _Numbers, _Numbers]:
    """The entries of one level: which entry of the level above, which place, which coordinate."""
    if storage["format"] == _DENSE:
        size = int(storage["dense_size"])
        parents = np.repeat(np.arange(len(places)), size)
        here = np.tile(np.arange(size), len(places))
        return parents, places[parents] * size + here, here
    segments = np.asarray(storage["array_segments"], np.int64)
    begins, counts = segments[places], np.diff(segments)[places]
    parents = np.repeat(np.arange(len(places)), counts)
    within = np.arange(len(parents)) - np.repeat(np.cumsum(counts) - counts, counts)
    found = begins[parents] + within
    return parents, found, np.asarray(storage["array_indices"], np.int64)[found]
