"""Memory does not grow with the number of samples: NumPy reports its arrays to tracemalloc."""

import gc
import time
import tracemalloc
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from extractkit.core.component import Component
from extractkit.core.values import Values
from extractkit.engine import Silent
from extractkit.engine.execute import execute
from extractkit.sinks.npz import NpzSink
from extractkit.testing.reference import ReferenceModel
from tests.engine.examples import job

LENGTH, SHARD, FEW, TIMES = 160, 12, 96, 20


class LateSink(NpzSink):
    """Lets every queue fill before its first shard, so that both runs see their peak there."""

    def __init__(self) -> None:
        self._began = False

    def serialize(self, values: Mapping[str, Values]) -> bytes:
        if not self._began:
            time.sleep(2)
        self._began = True
        return super().serialize(values)


def peak(directory: Path, samples: int) -> int:
    """Most bytes held at once while a job runs that stores 100 kB a sample."""
    wanted = job(
        {"path": "attention:op/Softmax"},
        model=ReferenceModel(longest=LENGTH),
        inputs=["x" * LENGTH] * samples,
        shard_size=SHARD,
        batch_size=1,
    )
    late = {"npz": Component("sinks.npz", "extractkit.api.given", {"live": LateSink()})}
    gc.collect()
    tracemalloc.start()
    try:
        execute(replace(wanted, sinks=late), directory, hydra_files={}, listener=Silent())
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_twenty_times_the_samples_need_no_more_memory(tmp_path: Path) -> None:
    peak(tmp_path / "imports", FEW)
    # On a busy machine, the queues of a short run may not fill at once.
    few = max(peak(tmp_path / f"few {number}", FEW) for number in range(2))
    many = peak(tmp_path / "many", FEW * TIMES)
    # Eight bytes a sample for its length, and for each shard its entry in the journal, and its
    # records in the log, which pytest keeps.
    known = 8 * FEW * TIMES + (4096 + 2048) * FEW * TIMES // SHARD
    assert many < 1.05 * few + known
