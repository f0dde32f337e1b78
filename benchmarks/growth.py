"""The cost of jobs as samples, tensors and shards grow, each over two orders of magnitude.

A job extracts layers of a small network of dense layers, and one of the three numbers grows. Its
cost is processor time from the frozen plan to the finished run, the least of a few rounds, since
other programs make it only greater. A cost is linear if a straight line fits it, with the least
relative deviations: the line and the greatest deviation are printed.
"""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Any

import keras
import numpy as np
from matplotlib.figure import Figure

import extractkit
from extractkit.engine import Silent

PICTURE = Path(__file__).parents[1] / "docs/_static/growth.svg"
ROUNDS = 2
UNITS = 64
SAMPLES = (100, 300, 1_000, 3_000, 10_000)
TENSORS = (1, 3, 10, 30, 100, 300)
SHARDS = (1, 3, 10, 30, 100, 300, 1_000)


@dataclass(frozen=True)
class Size:
    """The size of a job."""

    samples: int
    tensors: int
    shards: int


GROWTHS: Mapping[str, Sequence[Size]] = {
    "samples": [Size(count, 10, 10) for count in SAMPLES],
    "tensors": [Size(1_000, count, 10) for count in TENSORS],
    "shards": [Size(1_000, 10, count) for count in SHARDS],
}
"""The sizes of jobs, by what grows."""


class _Clock(Silent):
    """Measures processor time from the frozen plan to the finished run."""

    def planned(self, *plan: object) -> None:
        self._began = process_time()

    def finished(self, summary: object) -> None:
        self.busy = process_time() - self._began


def main() -> None:
    """Print a line for each growth, and draw the picture."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        for what, sizes in GROWTHS.items():
            model = _network(max(size.tensors for size in sizes))
            _busy(model, sizes[0], Path(name) / "first")
            rounds = [
                [_busy(model, size, Path(name) / "run") for size in sizes] for _ in range(ROUNDS)
            ]
            found[what] = [min(each) for each in zip(*rounds, strict=True)]
            print(f"  {what}: {_described(what, found[what])}", flush=True)
    draw(found).savefig(PICTURE, metadata={"Date": None})


def _network(depth: int) -> Any:
    keras.utils.set_random_seed(0)
    x = y = keras.Input((UNITS,))
    for at in range(depth):
        y = keras.layers.Dense(UNITS, activation="tanh", name=f"dense_{at}")(y)
    return keras.Model(x, y, name="deep")


def _described(what: str, seconds: Sequence[float]) -> str:
    counts = [getattr(size, what) for size in GROWTHS[what]]
    line = fitted(counts, seconds)
    apart = np.abs(seconds / np.polyval(line, counts) - 1).max()
    measured = ", ".join(
        f"{count:,}: {busy:.2f} s" for count, busy in zip(counts, seconds, strict=True)
    )
    return (
        f"{measured}; {line[1]:.2f} s and {line[0] * 1e3:.2f} ms for each, "
        f"at most {apart:.0%} off this line"
    )


def _busy(model: Any, size: Size, directory: Path) -> float:
    """Return the processor time of a job. Its shards are of equal size, to one sample."""
    shutil.rmtree(directory, ignore_errors=True)
    clock = _Clock()
    extractkit.extract(
        model=model,
        inputs=np.random.default_rng(0).normal(size=(size.samples, UNITS)).astype(np.float32),
        selectors={"s": {"path": [f"dense_{at}:output" for at in range(size.tensors)]}},
        runtime={"shard_size": -(-size.samples // size.shards), "self_check": False},
        run_dir=directory,
        listener=clock,
    )
    return clock.busy


def fitted(counts: Sequence[int], seconds: Sequence[float]) -> Any:
    """Return slope and offset of the line with the least relative deviations."""
    return np.polyfit(counts, seconds, 1, w=1 / np.asarray(seconds))


def draw(found: Mapping[str, Sequence[float]]) -> Figure:
    """Draw the cost over each number, both axes logarithmic, and the fitted line."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    panels = figure.subplots(1, len(found), sharey=True)
    for axes, (what, seconds) in zip(panels, found.items(), strict=True):
        counts = [getattr(size, what) for size in GROWTHS[what]]
        dense = np.geomspace(counts[0], counts[-1])
        line = np.polyval(fitted(counts, seconds), dense)
        axes.plot(dense, line, color="#999999", linewidth=1, label="a straight line")
        axes.plot(counts, seconds, "o", color="#d55e00", label="measured")
        axes.set(xscale="log", yscale="log", xlabel=what)
        axes.grid(True, which="major", linewidth=0.4, color="0.8")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("processor time of the job, s")
    panels[0].legend(frameon=False)
    return figure
