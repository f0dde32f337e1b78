"""The figure of the experiment on attention patterns."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from experiments.attention_patterns.patterns import MEASURES
from experiments.result import save

_SHARES = {
    "cls": "#8c6bb1",
    "sep": "#1f6f8b",
    "self": "#e0b13a",
    "before": "#d1603d",
    "after": "#7aa95c",
}


def draw(heads: Mapping[str, np.ndarray], path: Path) -> None:
    """A map of layers and heads for each measure, and the shares of attention by layer."""
    figure = Figure(figsize=(14, 7), layout="constrained")
    axes = figure.subplots(2, 4)
    # Where attention goes above, from no share to all of it; the shape of it below.
    for axis, name in zip(axes.flat, MEASURES, strict=False):
        _map(figure, axis, heads[name], MEASURES[name], 1.0 if name in _SHARES else None)
    _shares(axes.flat[-1], {name: heads[name].mean(axis=1) for name in _SHARES})
    for axis in axes[:, 0]:
        axis.set_ylabel("layer")
    save(figure, path)


def _map(figure: Figure, axis: Any, values: np.ndarray, title: str, top: float | None) -> None:
    # Most shares are small: more colours for these.
    scale = PowerNorm(0.5, 0.0, top) if top else None
    image = axis.imshow(values, cmap="viridis", aspect="auto", norm=scale)
    figure.colorbar(image, ax=axis, pad=0.02)
    axis.set_title(title, fontsize="medium")
    axis.set_xticks(range(values.shape[1]))
    axis.set_yticks(range(values.shape[0]))
    axis.set_xlabel("head")


def _shares(axis: Any, layers: Mapping[str, np.ndarray]) -> None:
    count = len(layers["cls"])
    below = np.zeros(count)
    for name, colour in _SHARES.items():
        axis.bar(range(count), layers[name], bottom=below, color=colour, label=MEASURES[name])
        below += layers[name]
    axis.bar(range(count), 1 - below, bottom=below, color="0.88", label="all others")
    axis.set_title("attention of a layer's heads", fontsize="medium")
    axis.set_xlabel("layer")
    axis.set_xticks(range(count))
    axis.set_ylim(0, 1.5)  # room for the legend
    axis.set_yticks(np.linspace(0, 1, 6))
    axis.legend(loc="upper center", ncols=2, frameon=False, fontsize="x-small",
                handlelength=1)  # fmt: skip
