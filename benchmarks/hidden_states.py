"""All hidden states of a BERT to disk: extractkit against the loop that people write by hand.

Both read the same texts, run the same weights and leave an HDF5 file, in one process, in turn.
Start-up is left out on both sides: loading the model and compiling, which the loop does in a call
that is not timed. The clock of extractkit runs from the first sample read to the finished run.
"""

import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import extractkit
from benchmarks import handwritten
from extractkit.engine import Silent
from tests.corpus import stdlib_docstrings

TEXTS = 512
ROUNDS = 5


def main() -> None:
    """Print samples per second of both, round by round, and the ratios."""
    texts = stdlib_docstrings(TEXTS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = _extract(texts[:32], folder / "first")[1]  # the process warms up on neither's clock
        by_hand = handwritten.load(path)
        ratios = []
        for round_ in range(ROUNDS):
            ours, _ = _extract(texts, folder / f"run-{round_}")
            theirs = handwritten.hidden_states(by_hand, texts, folder / "by-hand.h5")
            ratios.append(theirs / ours)
            print(
                f"  round {round_ + 1}: extractkit {TEXTS / ours:6.1f} samples/s, "
                f"by hand {TEXTS / theirs:6.1f} samples/s, ratio {theirs / ours:.2f}"
            )
    print(f"  ratio: median {median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}")


class _Clock(Silent):
    """Notes when the samples have been surveyed and when the run is complete."""

    def planned(self, *plan: object) -> None:
        self.surveyed = perf_counter()

    def finished(self, summary: object) -> None:
        self.done = perf_counter()


def _extract(texts: list[str], run_dir: Path) -> tuple[float, Path]:
    """Seconds from the first sample read to the finished run, and the model's folder."""
    clock = _Clock()
    run = extractkit.extract(
        ["model=bert", "+selectors.hidden.regex='^transformer_layer_[0-9]+:output'"],
        inputs=texts,
        run_dir=run_dir,
        listener=clock,
    )
    seconds = run.manifest.volatile.timings["survey"] + clock.done - clock.surveyed
    return seconds, Path(str(run.manifest.model["path"]))
