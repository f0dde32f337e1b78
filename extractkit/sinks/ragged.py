"""What the parts of a ragged tensor that was read have to say of each other."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from extractkit.errors import RunDirectoryError
from extractkit.values import OFFSETS, SHAPES

# Of a sample without elements, nothing else bounds the size of an axis.
_LARGEST_AXIS = 2**31


Layout = tuple[Any, Sequence[int]]
"""Dtype and shape of an array."""


def check_layout(path: Path, key: str, offsets: Layout, shapes: Layout | None) -> None:
    """Refuse offsets and shapes that are no lists of whole numbers, before they are read.

    Args:
        path: the shard's file.
        key: the tensor's.
        offsets: of the stored offsets.
        shapes: of the stored shapes, if there are any.

    Raises:
        RunDirectoryError: they have other types or numbers of axes, or none of them has offsets.
    """
    for part, layout, rank in ((OFFSETS, offsets, 1), (SHAPES, shapes, 2)):
        if layout is not None and (layout[0].kind not in "iu" or len(layout[1]) != rank):
            raise damaged(path, key, f"its {part} are no whole numbers along {rank} axes")
    if not offsets[1][0] or (shapes is not None and shapes[1][0] != offsets[1][0] - 1):
        raise damaged(path, key, f"its {OFFSETS} are too few, or too many")


def check_ragged(
    path: Path,
    key: str,
    rows: int,
    offsets: npt.NDArray[np.int64],
    shapes: npt.NDArray[np.int64] | None,
) -> None:
    """Refuse samples that overlap, or that lie outside of the tensor's rows.

    Args:
        path: the shard's file.
        key: the tensor's.
        rows: how many rows of values are stored.
        offsets: of some samples, and the end of the last of them.
        shapes: of those samples, where more than the first axis varies.

    Raises:
        RunDirectoryError: there are some, or shapes that do not fit the offsets.
    """
    lengths = np.diff(offsets)
    if offsets[0] < 0 or offsets[-1] > rows or (lengths < 0).any():
        raise damaged(path, key, f"its {OFFSETS} do not lie in order within its {rows} rows")
    if shapes is None:
        return
    if (shapes < 0).any() or (shapes > _LARGEST_AXIS).any():
        raise damaged(path, key, f"its {SHAPES} are impossible")
    # As floats: a product of whole numbers would wrap around.
    if not np.array_equal(np.prod(shapes.astype(float), axis=1), lengths.astype(float)):
        raise damaged(path, key, f"its {SHAPES} do not fit its {OFFSETS}")


def count(shape: Sequence[int]) -> int:
    """Elements of an array of this shape, however many."""
    return math.prod(int(size) for size in shape)


def damaged(path: Path, key: str, why: str) -> RunDirectoryError:
    """The error for a tensor that cannot be what a sink has written."""
    return RunDirectoryError(f"{path}: tensor {key!r} is damaged: {why}")
