"""The drift of a run's tensors as a figure, by matplotlib: `extractkit show RUN --figure FILE`."""

import importlib
from pathlib import Path
from typing import Any

from extractkit.display.text import safe
from extractkit.errors import ConfigError, MissingExtraError, choices
from extractkit.runs.drift import Drift, Series, TensorDrift

_ENDINGS = (".pdf", ".png", ".svg")
_MOST_LINES = 12
_MOST_TICKS = 12
_PANELS = (
    ("relative norm of the difference", "relative_norm"),
    ("cosine", "cosine"),
    ("linear CKA", "cka"),
)
_COLUMNS = ("from the first checkpoint", "from the one before")


def draw(drift: Drift, path: Path, steps: tuple[int | None, ...] = ()) -> None:
    """Draw relative norm, cosine and CKA of each tensor, from the first and from the one before.

    Args:
        path: where the figure goes; its ending (.pdf, .png, .svg) tells the format.
        steps: the checkpoints' steps, which then are the horizontal axis.

    Raises:
        ConfigError: an ending of another format, or a place that cannot be written to.
        MissingExtraError: matplotlib is not installed.
    """
    if path.suffix not in _ENDINGS:
        raise ConfigError(
            f"--figure={str(path)!r} does not end like a figure. {choices(path.suffix, _ENDINGS)}"
        )
    figure = _figure(drift, [] if None in steps else [step for step in steps if step is not None])
    try:
        figure.savefig(path)
    except OSError as error:
        raise ConfigError(
            f"--figure={str(path)!r} cannot be written: {error.strerror}. Choose another place"
        ) from error


def _figure(drift: Drift, steps: list[int]) -> Any:
    try:
        # Not pyplot, which would look for a screen and keep every figure.
        figures = importlib.import_module("matplotlib.figure")
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "a figure needs matplotlib. Install it: pip install 'extractkit[plot]'"
        ) from error
    figure = figures.Figure(figsize=(11, 9), layout="constrained")
    axes = figure.subplots(len(_PANELS), len(_COLUMNS), sharex=True, sharey="row")
    at = steps or list(range(len(drift.checkpoints)))
    shown = _most_moved(drift)
    for row, (label, measure) in zip(axes, _PANELS, strict=True):
        row[0].set_ylabel(label)
        for panel, column in zip(row, ("from_first", "from_previous"), strict=True):
            for key, moved in shown.items():
                _line(panel, at, getattr(getattr(moved, column), measure), key)
    for panel, title in zip(axes[0], _COLUMNS, strict=True):
        panel.set_title(title)
    for panel in axes[-1]:
        panel.set_xlabel("step" if steps else "checkpoint")
        if not steps:
            _label(panel, drift.checkpoints)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize="small")
    return figure


def _most_moved(drift: Drift) -> dict[str, TensorDrift]:
    """As many tensors as can be told apart: those that moved most, in the run's order."""

    def far(key: str) -> float:
        known = [one for one in drift.tensors[key].from_first.relative_norm if one is not None]
        return max(known, default=-1.0)

    chosen = set(sorted(drift.tensors, key=far, reverse=True)[:_MOST_LINES])
    return {key: moved for key, moved in drift.tensors.items() if key in chosen}


def _line(panel: Any, at: list[int], series: Series, key: str) -> None:
    values = [float("nan") if value is None else value for value in series]
    mark = "." if len(values) < 60 else None
    # A leading underscore would keep it out of the legend.
    panel.plot(at, values, marker=mark, linewidth=1, label=f" {_plain(key)}")


def _label(panel: Any, labels: tuple[str, ...]) -> None:
    every = -(-len(labels) // _MOST_TICKS)
    places = range(0, len(labels), every)
    panel.set_xticks(list(places), [_plain(labels[place]) for place in places])
    panel.tick_params(axis="x", labelrotation=45, labelsize="small")


def _plain(text: str) -> str:
    # A dollar sign would begin a formula.
    return safe(text).replace("$", r"\$")
