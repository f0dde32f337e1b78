"""Runs of many shards without a model: seconds and memory of every stage of a run's life.

Each stage is a process of its own (`scale_stages.py`), so that its peak of memory is its own too.
Nothing is forced out to the disk: at 1,000 shards it is once, to tell what that costs.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.scale_stages import PREPARING, STAGES

SIZES = (1_000, 10_000, 100_000)
PLOT = Path(__file__).with_name("scale.png")
FORCED = "commit, first half"
ON_A_FIGURE = (
    *("plan", "commit, second half", "resume, of half", "open", "10 samples", "a whole ragged one"),
    *("verify", "join, of 2 parts", "tensors.h5"),
)


@dataclass(frozen=True)
class Measured:
    """What one stage took: seconds that passed, seconds of computing, and bytes at its peak."""

    seconds: float
    busy: float
    peak: int


def main(sizes: Sequence[int] = SIZES) -> None:
    """Print a table of all stages at all sizes, and draw the figure."""
    table: dict[int, dict[str, Measured]] = {}
    with tempfile.TemporaryDirectory() as name:
        for shards in sizes:
            run = Path(name) / str(shards)
            table[shards] = {}
            for stage in STAGES:
                one = _measured(stage, run, shards)
                if stage == PREPARING:
                    continue
                table[shards][stage] = one
                print(
                    f"  {shards:>7,}  {stage:<20} {one.seconds:9.3f} s  computing {one.busy:9.3f} s"
                    f"  {one.peak / 1e6:7.0f} MB",
                    flush=True,
                )
        _measured("plan", forced := Path(name) / "forced", sizes[0])
        one = _measured(FORCED, forced, sizes[0], "--fsync")
        print(f"  {sizes[0]:>7,}  {FORCED}, forced out to the disk: {one.seconds:.3f} s")
    draw(table, PLOT)


def _measured(stage: str, run: Path, shards: int, *options: str) -> Measured:
    program = (sys.executable, "-m", "benchmarks.scale_stages")
    done = subprocess.run(
        [*program, stage, str(run), str(shards), *options], stdout=subprocess.PIPE, check=True
    )
    return Measured(**json.loads(done.stdout))


def draw(table: Mapping[int, Mapping[str, Measured]], path: Path) -> None:
    """Seconds of computing and peak memory over the number of shards, both axes logarithmic."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    sizes = list(table)
    for number, stage in enumerate(ON_A_FIGURE):
        style = {"marker": "osv^DPX*<"[number], "markersize": 5, "linewidth": 1.2}
        left.plot(sizes, [table[n][stage].busy for n in sizes], label=stage, **style)
        right.plot(sizes, [table[n][stage].peak / 1e6 for n in sizes], label=stage, **style)
    left.set_ylabel("seconds of computing")
    right.set_ylabel("peak memory of the process, MB")
    for axes in (left, right):
        axes.set(xscale="log", yscale="log", xlabel="shards")
        axes.grid(True, which="major", linewidth=0.4, color="0.8")
    figure.legend(*left.get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.savefig(path, dpi=90)
