"""Means and statistics of all layers of a BERT against the bare pruned forward pass.

Each is a job on the same texts in the same process, in turn. The bare job stores the mean of the
last layer alone, for which TensorFlow computes all layers. The clock runs from the frozen plan to
the finished run: without loading and self-check, with the first call of the program.
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import extractkit
from extractkit.engine import Silent
from tests.corpus import stdlib_docstrings

TEXTS = 512
ROUNDS = 5
LAYERS = {"regex": "^transformer_layer_[0-9]+:output"}
LAST = {"regex": "^transformer_layer_5:output"}
Jobs = Mapping[str, Mapping[str, object]]
"""Selectors by the names of jobs."""

JOBS: Jobs = {
    "bare": {**LAST, "do": [{"mean": "token"}]},
    "pooled": {**LAYERS, "do": [{"mean": "token"}]},
    "moments": {**LAYERS, "statistics": ["moments"]},
    "top": {**LAYERS, "statistics": [{"top": {"k": 10}}]},
    "covariance": {**LAYERS, "statistics": ["covariance"]},
}


class _Clock(Silent):
    """Notes when the plan is frozen and the run complete: seconds, and those of all CPUs."""

    def planned(self, *plan: object) -> None:
        self.began = (perf_counter(), process_time())

    def finished(self, summary: object) -> None:
        self.done = (perf_counter(), process_time())


def main() -> None:
    """Print the rate of each job as a share of the bare one's, and the same of CPU time."""
    compare(JOBS)


def compare(
    jobs: Jobs, model: object = None, inputs: Sequence[Any] = ()
) -> dict[str, list[tuple[float, float]]]:
    """Print the rate of each job as a share of the first one's, and the same of CPU time.

    Other programs change the rate more than the CPU time. Every other round is in reverse order.

    Args:
        model, inputs: the MiniLM and texts unless given.

    Returns:
        The shares of the rate and of the CPU time in each round, by job.
    """
    samples = inputs or stdlib_docstrings(TEXTS)
    first = next(iter(jobs))

    def spent_on(job: str, samples: Sequence[Any], run_dir: Path) -> tuple[float, float]:
        return _spent(jobs[job], model, samples, run_dir)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for job in jobs:  # compiled outside the clock
            spent_on(job, samples[:32], folder / f"first-{job}")
        ratios: dict[str, list[tuple[float, float]]] = {job: [] for job in jobs}
        for round_ in range(ROUNDS):
            order = list(jobs)[:: 1 if round_ % 2 == 0 else -1]
            spent = {job: spent_on(job, samples, folder / f"{job}-{round_}") for job in order}
            seconds, cpu = spent[first]
            for job in jobs:
                ratios[job].append((seconds / spent[job][0], cpu / spent[job][1]))
            shares = ", ".join(f"{job} {ratios[job][-1][0]:.2f}" for job in jobs)
            rate, load = len(samples) / seconds, os.getloadavg()[0]
            print(f"  round {round_ + 1}: {first} {rate:.1f} samples/s; {shares}; load {load:.1f}")
    for job, each in ratios.items():
        rates, cpus = zip(*each, strict=True)
        print(
            f"  {job}: rate {median(rates):.2f} ({min(rates):.2f} to {max(rates):.2f}), "
            f"CPU time {median(cpus):.2f} ({min(cpus):.2f} to {max(cpus):.2f})"
        )
    return ratios


def _spent(
    selector: Mapping[str, object], model: object, samples: Sequence[Any], run_dir: Path
) -> tuple[float, float]:
    clock = _Clock()
    extractkit.extract(
        ["model=bert"] if model is None else [],
        model=model,
        inputs=samples,
        selectors={"s": selector},
        runtime={"self_check": False},
        run_dir=run_dir,
        listener=clock,
    )
    return clock.done[0] - clock.began[0], clock.done[1] - clock.began[1]
