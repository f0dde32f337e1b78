"""Which samples of a shard share a batch: planned from lengths alone, before anything is read.

Kernels are prepared, and kept, for every shape of batch that a process sees. So padded lengths are
rounded up and batches come in a few sizes: many times fewer shapes for a little more padding.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from extractkit.plan import Lengths

_LENGTH_STEP = 8
"""Padded lengths are multiples of this, up to the longest that the model takes."""

_SIZE_STEP = 8
"""Batches hold a multiple of this many samples, or a power of two below it."""

_CALL_COST = 128
"""What one more call of the model costs, in elements of padding: small batches are not free."""


@dataclass(frozen=True)
class BatchRules:
    """How the samples of a shard are put into batches.

    Attributes:
        batch_size: most samples in a batch.
        batch_tokens: most elements along the free axes of a batch, padding included; None: any.
        padded: whether samples of different lengths may share a batch (the model masks padding).
        in_order: whether batches follow the order of the samples, each of `batch_size`.
    """

    batch_size: int
    batch_tokens: int | None
    padded: bool
    in_order: bool = False

    @property
    def length_step(self) -> int:
        """What padded lengths are a multiple of."""
        return _LENGTH_STEP if self.padded else 1


def plan_batches(shard: Lengths, rules: BatchRules) -> list[list[int]]:
    """Positions in the shard, batch by batch.

    Where lengths differ, samples are sorted by padded length (ties in order) and cut where that
    costs least padding: by dynamic programming over them, each call counted as well.
    """
    if not shard.axes or rules.in_order:
        ends = range(0, shard.samples, rules.batch_size)
        return [list(range(a, min(a + rules.batch_size, shard.samples))) for a in ends]
    step = rules.length_step
    lengths = -(-np.stack(list(shard.axes.values())) // step) * step
    order = np.lexsort(lengths[::-1])
    return [order[a:b].tolist() for a, b in _cuts(lengths[:, order], rules)]


def _cuts(lengths: npt.NDArray[np.int64], rules: BatchRules) -> list[tuple[int, int]]:
    """Where to cut sorted samples, int64 (axes, samples), into batches."""
    count = lengths.shape[1]
    cost = np.zeros(count + 1)
    begins = np.zeros(count + 1, np.int64)
    for end in range(1, count + 1):
        first = max(0, end - rules.batch_size)
        # Candidates from the largest batch to the sample alone, which always is allowed.
        window = lengths[:, first:end][:, ::-1]
        longest = np.maximum.accumulate(window, axis=1).prod(axis=0)[::-1]
        padded = longest * np.arange(end - first, 0, -1)
        total = cost[first:end] + padded + _CALL_COST
        total[:-1][~_allowed(window, padded, rules)[:-1]] = np.inf
        best = int(total.argmin())
        cost[end], begins[end] = total[best], first + best
    cuts = []
    end = count
    while end:
        cuts.append((int(begins[end]), end))
        end = int(begins[end])
    return cuts[::-1]


def _allowed(
    window: npt.NDArray[np.int64], padded: npt.NDArray[np.int64], rules: BatchRules
) -> npt.NDArray[np.bool_]:
    sizes = np.arange(len(padded), 0, -1)
    allowed: npt.NDArray[np.bool_]
    allowed = (sizes % _SIZE_STEP == 0) | ((sizes < _SIZE_STEP) & (sizes & (sizes - 1) == 0))
    if not rules.padded:
        allowed &= (window == window[:, :1]).all(axis=0)[::-1]
    if rules.batch_tokens is not None:
        allowed &= padded <= rules.batch_tokens
    return allowed
