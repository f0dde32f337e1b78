"""Statistics with options of every kind, and rows to apply them to."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from extractkit.core.spec import SAMPLES, Dim
from extractkit.core.statistics import Array, Arrays, Block, Merging, Statistic
from extractkit.core.statistics.registry import Asked
from extractkit.core.transforms import Axis, Operand
from extractkit.core.values import Ragged

ASKED: Mapping[str, Any] = {
    "moments": [None, {"per": "all"}],
    "histogram": [
        None,
        {"bins": 2, "per": "all"},
        {"bins": 4, "range": [-2, 2]},
        {"edges": [-1, 0, 3], "per": "all"},
    ],
    "quantiles": [{"q": [0.0, 0.3, 1.0]}, {"q": [0.5], "per": "feature"}],
    "covariance": [None],
    "pca": [{"components": 2}],
    "top": [{"k": 3}, {"k": 2, "smallest": True}],
    "coactivation": [None],
    "sparsity": [None],
}
WIDTH = 3
TOKENS = Operand("float32", (Axis(SAMPLES), Axis(Dim.along("token")), Axis(Dim(size=WIDTH))), "a:b")


def statistics() -> list[Any]:
    return [
        pytest.param(Asked.parse([{name: options} if options else name], "s").single[0])
        for name, several in ASKED.items()
        for options in several
    ]


def block(rows: list[Array], start: int) -> Block:
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in rows])]).astype(np.int64)
    values = np.concatenate([*rows, np.zeros((0, WIDTH), np.float32)])
    return Block(Ragged(values, offsets), np.arange(start, start + len(rows)), WIDTH)


def over(statistic: Statistic, rows: list[Array], cuts: list[int]) -> Arrays:
    """The results over shards that end at these samples."""
    merging = Merging(statistic)
    ends = [0, *sorted({min(cut, len(rows)) for cut in cuts}), len(rows)]
    for start, stop in pairwise(ends):
        merging.add(statistic.of(block(rows[start:stop], start)))
    return merging.finish()


def many(seed: int) -> list[Array]:
    draw = np.random.default_rng(seed)
    return [draw.normal(size=(n, WIDTH)) for n in draw.integers(1, 30, 40)]


def one(options: object) -> Statistic:
    return Asked.parse([options], "s").single[0]


def operand(dtype: str, *dims: Dim) -> Operand:
    return Operand(dtype, tuple(map(Axis, (SAMPLES, *dims))), "a:b")
