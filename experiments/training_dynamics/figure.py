"""The figure of the experiment on training dynamics."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from experiments.result import save
from experiments.similarity import planar
from experiments.training_dynamics.dynamics import SETTLED, Training


def draw(found: Sequence[Training], path: Path) -> None:
    """Checkpoints against each other; loss and likeness over the steps; paths in a plane."""
    first = found[0]
    names = list(first.layers)
    colours = dict(zip(names, colormaps["viridis"](np.linspace(0, 0.9, len(names))), strict=True))
    figure = Figure(figsize=(15, 10), layout="constrained")
    above, middle, below = figure.subfigures(3, 1)  # type: ignore[misc]
    scale = LogNorm(min(one.loss.min() for one in found), max(one.loss.max() for one in found))
    rows = [part.subplots(1, len(names)) for part in (above, below)]
    for name, matrix, plane in zip(names, *rows, strict=True):
        image = matrix.imshow(
            np.mean([one.layers[name].alike for one in found], axis=0), vmin=0, vmax=1,
            cmap="magma", origin="lower",
        )  # fmt: skip
        matrix.set_title(f"{name}: CKA of steps", fontsize="medium")
        _steps(matrix, first, both=True)
        layer = first.layers[name]
        dots = _path(plane, layer.plane, first.loss, scale)
        plane.set_title(f"{name}: {layer.shown.sum():.0%} of its variance", fontsize="medium")
    above.colorbar(image, ax=rows[0], shrink=0.8, pad=0.01)
    below.colorbar(dots, ax=rows[1], shrink=0.8, pad=0.01, label="loss")
    _middle(middle.subplots(1, 4), found, colours, scale)
    save(figure, path)


def _middle(axes: Any, found: Sequence[Training], colours: dict[str, Any], scale: LogNorm) -> None:
    first = found[0]
    places = np.arange(len(first.steps))
    for one in found:
        axes[0].plot(places, one.loss, color="#d1603d", alpha=0.6, linewidth=1)
        axes[0].plot(places, one.accuracy, color="#1f6f8b", alpha=0.6, linewidth=1)
    axes[0].set_title("loss (red) and accuracy (blue)", fontsize="medium")
    for name, colour in colours.items():
        likeness = np.array([one.layers[name].alike[-1] for one in found])
        axes[1].fill_between(places, *np.quantile(likeness, [0, 1], axis=0), color=colour,
                             alpha=0.15, linewidth=0)  # fmt: skip
        axes[1].plot(places, np.median(likeness, axis=0), color=colour, label=name)
        axes[2].plot(np.median(likeness, axis=0), np.median([one.loss for one in found], axis=0),
                     ".-", color=colour)  # fmt: skip
    axes[1].axhline(SETTLED, color="0.7", linewidth=0.8, linestyle="--")
    axes[1].set_title("CKA with the last step", fontsize="medium")
    axes[1].legend(frameon=False, fontsize="small", loc="lower right")
    axes[2].set_yscale("log")
    axes[2].set_xlabel("CKA with the last step")
    axes[2].set_title("loss", fontsize="medium")
    for axis in axes[:2]:
        _steps(axis, first)
    # Logits mean the same in every training, so all of them fit into one plane.
    points, shown = planar(np.concatenate([one.logits for one in found]))
    for one, own in zip(found, np.split(points, len(found)), strict=True):
        _path(axes[3], own, one.loss, scale)
    title = f"logits of {len(found)} trainings: {shown.sum():.0%}"
    axes[3].set_title(title, fontsize="medium")


def _steps(axis: Any, one: Training, both: bool = False) -> None:
    every = range(0, len(one.steps), 3)
    labels = [str(one.steps[at]) for at in every]
    axis.set_xticks(every, labels, rotation=90, fontsize="small")
    axis.set_xlabel("step")
    if both:
        axis.set_yticks(every, labels, fontsize="small")


def _path(axis: Any, points: np.ndarray, loss: np.ndarray, scale: LogNorm) -> Any:
    axis.plot(*points.T, color="0.7", linewidth=0.8, zorder=1)
    axis.plot(*points[0], "x", color="black", zorder=3)
    axis.set_xticks([])
    axis.set_yticks([])
    return axis.scatter(*points.T, c=loss, norm=scale, cmap="plasma", s=18, zorder=2)
