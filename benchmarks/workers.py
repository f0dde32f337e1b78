"""What the engine itself costs: a model that sleeps a fixed time a batch, on 1 to 8 workers.

Sleeping takes no processor, so the machine has room for all workers, and what is lost against n
times the pace of one is lost by handing out, serialising, forcing out, checking and committing.
Workers wait for each other before the first batch: until then they start, and that is told apart.
"""

import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from extractkit.core.component import Component
from extractkit.core.job import Job, Runtime
from extractkit.core.selectors import parse_selector
from extractkit.core.values import Array
from extractkit.engine import Silent
from extractkit.engine.execute import execute
from extractkit.models import Compilation, Fetch, Program
from extractkit.testing.reference import ReferenceModel

SECONDS_A_BATCH = 0.1
BATCHES_A_SHARD = 4
SHARDS = 96
BATCH = 8
TEXT = "a text of some length, as they come"
WORKERS = (1, 2, 4, 8)
ENGINES = ("processes", "ray")


@dataclass(frozen=True)
class Sleeping(ReferenceModel):
    """Sleeps over each batch; the first batch waits until `workers` processes have come to theirs.

    Attributes:
        place: a directory, in which each of them leaves a file.
        driver: the process that made it, which does not wait.
    """

    place: str = ""
    workers: int = 1
    driver: int = 0

    def program(self, fetches: list[Fetch], compilation: Compilation) -> Program:  # type: ignore[override]
        """As its elder's, and slower."""
        run = super().program(fetches, compilation)
        calls = 0

        def sleeping(features: Mapping[str, Array], lengths: Mapping[str, Array]) -> list[Array]:
            nonlocal calls
            calls += 1
            if calls == 1 or os.getpid() == self.driver:
                return list(run(features, lengths))  # a trial, before the worker is ready
            if calls == 2:
                self._wait()
            end = time.monotonic() + SECONDS_A_BATCH
            values = list(run(features, lengths))
            time.sleep(max(0.0, end - time.monotonic()))
            return values

        return sleeping

    def _wait(self) -> None:
        place = Path(self.place)
        (place / str(os.getpid())).touch()
        while len(list(place.iterdir())) < self.workers:
            time.sleep(0.002)


class _Clock(Silent):
    """Notes when the plan is made."""

    def planned(self, *plan: object) -> None:
        self.planned_at = time.time()


def main() -> None:
    """Print, for each engine and number of workers, seconds and parallel efficiency."""
    ideal = SHARDS * BATCHES_A_SHARD * SECONDS_A_BATCH
    print(f"  {SHARDS} shards, {ideal:.1f} s of sleep; efficiency = T(1) / (n T(n)), and of sleep")
    for engine in ENGINES:
        alone = 0.0
        for workers in WORKERS:
            start, seconds = _timed(engine, workers)
            alone = alone or seconds
            print(
                f"  {engine:<9} {workers} workers: {seconds:6.2f} s, efficiency "
                f"{alone / workers / seconds:.3f} ({ideal / workers / seconds:.3f} of sleep); "
                f"{start:5.2f} s until all are ready",
                flush=True,
            )


def _timed(engine: str, workers: int) -> tuple[float, float]:
    """Seconds until all workers are ready, and from then until the last shard is committed."""
    with tempfile.TemporaryDirectory() as name:
        place, run = Path(name) / "place", Path(name) / "run"
        place.mkdir()
        clock = _Clock()
        execute(_job(engine, workers, place), run, hydra_files={}, listener=clock)
        ready = max(path.stat().st_mtime for path in place.iterdir())
        return ready - clock.planned_at, (run / "journal.jsonl").stat().st_mtime - ready


def _job(engine: str, workers: int, place: Path) -> Job:
    model = Sleeping(place=str(place), workers=workers, driver=os.getpid())
    texts = [TEXT] * (SHARDS * BATCHES_A_SHARD * BATCH)
    runtime = {"batch_size": BATCH, "shard_size": BATCHES_A_SHARD * BATCH}
    return Job(
        model=Component("model", "extractkit.api.given", {"live": model}),
        inputs=Component("inputs", "extractkit.inputs.in_memory.LiveTexts", {"texts": texts}),
        selectors=(parse_selector("layers", {"kind": "layer_output"}),),
        sinks={"hdf5": Component("sinks.hdf5", "extractkit.sinks.hdf5.Hdf5Sink")},
        runtime=Runtime.parse({**runtime, "engine": engine, "workers": workers}),
        model_name="sleeping",
        resolved={"sinks": {"hdf5": {"_target_": "extractkit.sinks.hdf5.Hdf5Sink"}}},
    )
