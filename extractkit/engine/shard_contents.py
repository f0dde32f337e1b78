"""What is left of the values of a shard: those that files hold, and statistics over its samples."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from extractkit.core.plan import Constant, OverSamples, PerSample, PlannedTensor
from extractkit.core.shards import Shard
from extractkit.core.statistics import Arrays, Block, Partials
from extractkit.core.statistics.registry import Asked, Group
from extractkit.core.values import Values, as_stored, of_samples
from extractkit.models.process import inter_op_threads

_TENSORS_AT_ONCE = 4
"""Tensors whose statistics are computed at once. Each takes memory for a block of rows."""


def stored(tensors: Iterable[PlannedTensor], values: Mapping[str, Values]) -> dict[str, Values]:
    """Return the values that files hold."""
    found: dict[str, Values] = {}
    for tensor in tensors:
        match tensor.stored:
            case PerSample() | Constant():
                found[tensor.key] = as_stored(values[tensor.key], tensor.spec.dtype)
            case OverSamples():
                pass
    return found


def partial_results(
    tensors: Iterable[PlannedTensor],
    values: Mapping[str, Values],
    shard: Shard,
    missing: Mapping[int, str],
    groups: Sequence[Group],
) -> Partials:
    """Return the partial results of statistics over a shard.

    Args:
        missing: the samples without values, by index in the source. They are not counted.
        groups: the groups of tensors with statistics of all of them together.
    """
    gone = [index - shard.start for index in missing]
    present = np.delete(np.arange(len(shard)), gone)
    asked: dict[str, Asked] = {}
    blocks: dict[str, Block] = {}
    for tensor in tensors:
        match tensor.stored:
            case OverSamples(statistics):
                shape = tensor.spec.sample_shape
                width = shape[-1] if shape and shape[-1] is not None else 1
                rows = values[tensor.key]
                if not tensor.per_call:
                    rows = of_samples(rows, present)
                asked[tensor.key] = statistics
                blocks[tensor.key] = Block(rows, shard.start + present, width)
            case PerSample() | Constant():
                pass
    partials = _each(asked, blocks)
    for group in groups if blocks else ():
        together = [blocks[key] for key in group.tensors]
        partials[group.key, group.statistic.name] = group.statistic.of(together)
    return partials


def _each(asked: Mapping[str, Asked], blocks: Mapping[str, Block]) -> dict[tuple[str, str], Arrays]:
    """Return the partial results of the statistics of each tensor, a few tensors at a time."""

    def of(key: str) -> dict[tuple[str, str], Arrays]:
        return {(key, one.name): one.of(blocks[key]) for one in asked[key].single}

    threads = min(len(asked), inter_op_threads(), _TENSORS_AT_ONCE)
    if threads < 2:
        each = list(map(of, asked))
    else:
        with ThreadPoolExecutor(threads, "extractkit-statistics") as pool:
            each = list(pool.map(of, asked))
    return {at: partial for partials in each for at, partial in partials.items()}
