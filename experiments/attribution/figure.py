"""The figure of the experiment on attribution."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from experiments.attribution.deletion import SHARES
from experiments.result import save

COLOURS = {
    "gradient": "black",
    "gradient × input": "#1f6f8b",
    "integrated gradient": "#d1603d",
    "SmoothGrad": "#e0b13a",
    "Grad-CAM": "#7aa95c",
    "random": "0.6",
}


# Few colours, since the file has 256 of them.
_SIGNED, _POSITIVE, _GREY = (
    colormaps[name].resampled(count)
    for name, count in (("RdBu_r", 31), ("viridis", 32), ("gray", 64))
)


def draw(
    pictures: np.ndarray,
    labels: list[str],
    maps: Mapping[str, np.ndarray],
    curves: Mapping[str, np.ndarray],
    path: Path,
) -> None:
    """Draw some pictures with their attributions, and the mean deletion curve of each method."""
    figure = Figure(figsize=(14, 6), layout="constrained")
    left, right = np.ravel(figure.subfigures(1, 2, width_ratios=[3, 2]))
    axes = left.subplots(len(pictures), 1 + len(maps), squeeze=False)
    for row, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        axes[row, 0].imshow(picture[..., 0], cmap=_GREY)
        axes[row, 0].set_ylabel(label, fontsize="medium")
        for axis, (name, values) in zip(axes[row, 1:], maps.items(), strict=True):
            top = np.quantile(np.abs(values[row]), 0.99)
            signed = values[row].min() < 0
            axis.imshow(values[row], cmap=_SIGNED if signed else _POSITIVE,
                        vmin=-top if signed else 0, vmax=top)  # fmt: skip
            if row == 0:
                axis.set_title(name, fontsize="medium")
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    axis = right.subplots()
    for name, colour in COLOURS.items():
        style = ":" if name == "random" else "-"
        axis.plot(SHARES, curves[name].mean(axis=0), style, color=colour, label=name)
    axis.set_xlabel("share of pixels removed, the most important first")
    axis.set_ylabel("probability left")
    axis.legend(frameon=False)
    save(figure, path)
