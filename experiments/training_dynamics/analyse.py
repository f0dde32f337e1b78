"""How the layers of a model come to be what they are.

    python -m experiments.training_dynamics.analyse RUNS LABELS FOLDER

reads every run in RUNS, one a training, writes `result.json` and `result.png` into FOLDER, and
prints the page's tables.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import extractkit
from experiments.result import FIGURE, write
from experiments.similarity import rank_correlation
from experiments.training_dynamics.dynamics import Training, training
from experiments.training_dynamics.figure import draw


def of_layer(found: Sequence[Training], name: str) -> dict[str, object]:
    """A layer's numbers over all trainings; lists have one for each training or checkpoint."""
    own = [one.layers[name] for one in found]
    steps = found[0].steps
    return {
        "cka_all_pairs": np.mean([layer.alike for layer in own], axis=0),
        "start_like_end": np.mean([layer.alike[0, -1] for layer in own]),
        "settled_at_step": [steps[layer.settled()] for layer in own],
        "moved_from_first": np.mean([layer.moved for layer in own], axis=0),
        "moved_from_previous": np.mean([layer.step_sizes for layer in own], axis=0),
        "variance_in_plane": np.mean([layer.shown.sum() for layer in own]),
        # Over checkpoints: does the loss fall as the layer becomes what it will be?
        "loss_with_likeness": [
            rank_correlation(one.loss, one.layers[name].alike[-1]) for one in found
        ],
    }


def main(runs: Path, labels: Path, folder: Path) -> None:
    """Write the result, draw it, print its tables."""
    opened = [extractkit.open(path.parent) for path in sorted(runs.glob("*/manifest.json"))]
    found = [training(run, np.load(labels)) for run in opened]
    layers = {name: of_layer(found, name) for name in found[0].layers}
    loss, accuracy = (
        np.mean([getattr(one, measure) for one in found], axis=0)
        for measure in ("loss", "accuracy")
    )
    steps = found[0].steps
    write(folder, opened, {"steps": steps, "loss": loss, "accuracy": accuracy, "layers": layers})
    draw(found, folder / FIGURE)
    print("| step |", " | ".join(str(step) for step in steps), "|")
    for title, values in (("loss", loss), ("accuracy", accuracy)):
        print(f"| {title} |", " | ".join(f"{value:.2f}" for value in values), "|")
    print()
    for name, own in layers.items():
        settled = np.array(own["settled_at_step"])
        largest = int(np.nanargmax(np.array(own["moved_from_previous"], float)[1:])) + 1
        cells = [
            f"{own['start_like_end']:.2f}",
            f"{int(np.median(settled))} ({settled.min()}–{settled.max()})",
            f"{np.array(own['moved_from_first'])[-1]:.1f}",
            f"{np.array(own['moved_from_previous'])[largest]:.2f} (to {steps[largest]})",
            f"{own['variance_in_plane']:.2f}",
            f"{np.median(np.array(own['loss_with_likeness'])):.2f}",
        ]
        print(f"| {name} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
