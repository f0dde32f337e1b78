"""The figure of the experiment on alleles."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from experiments.alleles.differences import Alleles
from experiments.alleles.groups import Grouping
from experiments.alleles.loci import OTHER
from experiments.alleles.peptides import CLASSES
from experiments.result import save

_COLOURS = {"mhcI": "#1f6f8b", "mhcII": "#d1603d"}
_TITLES = {"mhcI": "class I", "mhcII": "class II"}
_MATRICES = {
    "weights": "weights: distance ÷ norm",
    "LSTM": "LSTM's output: 1 − CKA",
    "affinity": "affinity: 1 − correlation",
}


def draw(found: Alleles, groups: Mapping[str, Mapping[str, Grouping]], path: Path) -> None:
    """Draw distances as matrices above, and results below."""
    figure = Figure(figsize=(13, 8.6), layout="constrained")
    axes = figure.subplots(2, 3, height_ratios=(1.15, 1))
    for axis, (name, title) in zip(axes[0], _MATRICES.items(), strict=True):
        _matrix(figure, axis, found, found.far[name], title)
    _moved(axes[1, 0], found)
    _intervals(axes[1, 1], groups, "ratio", "within a locus ÷ between loci")
    _intervals(axes[1, 2], groups, "nearest", "share whose nearest is of the same locus")
    axes[1, 1].axvline(1, color="0.8", zorder=0)
    axes[1, 2].set_yticklabels([])
    save(figure, path)


def _matrix(figure: Figure, axis: Any, found: Alleles, far: np.ndarray, title: str) -> None:
    top = np.quantile(far, 0.995)
    # Few colours: noise of many would be a large file.
    colours = colormaps["magma_r"].resampled(12)
    image = axis.imshow(far, cmap=colours, vmin=0, vmax=top, interpolation="nearest")
    figure.colorbar(image, ax=axis, shrink=0.75, pad=0.02)
    axis.set_title(title, fontsize="medium")
    blocks = list(_blocks(found))
    edges = [start - 0.5 for start, _, _ in blocks[1:]]
    axis.hlines(edges, -0.5, len(far) - 0.5, color="white", linewidth=0.5)
    axis.vlines(edges, -0.5, len(far) - 0.5, color="white", linewidth=0.5)
    axis.set_xticks([])
    wide = [one for one in blocks if one[1] - one[0] >= len(far) / 36 and one[2] != OTHER]
    axis.set_yticks(
        [(start + stop - 1) / 2 for start, stop, _ in wide], [name for *_, name in wide]
    )
    axis.tick_params(axis="y", labelsize="x-small", length=0)


def _blocks(found: Alleles) -> Iterator[tuple[int, int, str]]:
    """Where each locus begins and ends."""
    keys = list(zip(found.kind, found.locus, strict=True))
    starts = [0, *(at for at in range(1, len(keys)) if keys[at] != keys[at - 1])]
    for start, stop in zip(starts, [*starts[1:], len(keys)], strict=True):
        yield start, stop, str(keys[start][1])


def _moved(axis: Any, found: Alleles) -> None:
    for kind in CLASSES:
        for tuned, face in ((False, _COLOURS[kind]), (True, "none")):
            own = (found.kind == kind) & (found.moved > 0) & (found.tuned == tuned)
            label = _TITLES[kind] + (", tuned from another" if tuned else "")
            axis.scatter(
                found.measurements[own], found.moved[own], s=16, alpha=0.75, linewidths=0.8,
                facecolors=face, edgecolors=_COLOURS[kind], label=label,
            )  # fmt: skip
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_ylim(bottom=0.03)  # room for the legend
    axis.set_xlabel("measurements to train on")
    axis.set_title("distance of the weights from the root's", fontsize="medium")
    axis.legend(frameon=False, fontsize="small", loc="lower right")


def _intervals(
    axis: Any, groups: Mapping[str, Mapping[str, Grouping]], measure: str, title: str
) -> None:
    """What was found as dots, the middle 95 % of permutations as bars."""
    for row, own in enumerate(groups.values()):
        for kind, shift in zip(CLASSES, (-0.15, 0.15), strict=True):
            low, high = getattr(own[kind], f"{measure}_chance")
            colour = _COLOURS[kind]
            axis.plot([low, high], [row + shift] * 2, color=colour, linewidth=7, alpha=0.25,
                      solid_capstyle="butt")  # fmt: skip
            axis.plot(getattr(own[kind], measure), row + shift, "o", color=colour)
    axis.set_yticks(range(len(groups)), list(groups))
    axis.invert_yaxis()
    axis.set_title(f"{title}\n(bars: labels shuffled)", fontsize="medium")
