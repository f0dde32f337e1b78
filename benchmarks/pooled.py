"""Means and statistics of all layers of a BERT against the bare pruned forward pass.

Each is a job on the same texts in the same process, in turn. The bare job stores the mean of the
last layer alone, for which TensorFlow computes all layers. The clock runs from the frozen plan to
the finished run: without loading and self-check, with the first call of the program.
"""

import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import extractkit
from extractkit.engine import Silent
from tests.corpus import stdlib_docstrings

TEXTS = 512
ROUNDS = 5
LAYERS = {"regex": "^transformer_layer_[0-9]+:output"}
LAST = {"regex": "^transformer_layer_5:output"}
JOBS = {
    "bare": {**LAST, "do": [{"mean": "token"}]},
    "pooled": {**LAYERS, "do": [{"mean": "token"}]},
    "moments": {**LAYERS, "statistics": ["moments"]},
    "top": {**LAYERS, "statistics": [{"top": {"k": 10}}]},
    "covariance": {**LAYERS, "statistics": ["covariance"]},
}


class _Clock(Silent):
    """Notes when the plan is frozen and when the run is complete."""

    def planned(self, *plan: object) -> None:
        self.began = perf_counter()

    def finished(self, summary: object) -> None:
        self.done = perf_counter()


def main() -> None:
    """Print the rate of each job as a share of the bare one's, round by round."""
    texts = stdlib_docstrings(TEXTS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for job in JOBS:  # compiled outside the clock
            _seconds(job, texts[:32], folder / f"first-{job}")
        ratios: dict[str, list[float]] = {job: [] for job in JOBS}
        for round_ in range(ROUNDS):
            seconds = {job: _seconds(job, texts, folder / f"{job}-{round_}") for job in JOBS}
            for job, spent in seconds.items():
                ratios[job].append(seconds["bare"] / spent)
            shares = ", ".join(
                f"{job} {seconds['bare'] / spent:.2f}" for job, spent in seconds.items()
            )
            print(f"  round {round_ + 1}: bare {TEXTS / seconds['bare']:.1f} texts/s; {shares}")
    for job, each in ratios.items():
        print(f"  {job}: median {median(each):.2f}, {min(each):.2f} to {max(each):.2f}")


def _seconds(job: str, texts: list[str], run_dir: Path) -> float:
    clock = _Clock()
    extractkit.extract(
        ["model=bert"],
        inputs=texts,
        selectors={"s": JOBS[job]},
        runtime={"self_check": False},
        run_dir=run_dir,
        listener=clock,
    )
    return clock.done - clock.began
