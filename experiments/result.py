"""What an experiment found: its numbers, which runs they come from, its figure."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

import extractkit

RESULT = "result.json"
FIGURE = "result.png"

_FLAT_LIST = re.compile(r"\[[^][{}]+\]")  # in one line, not in one for each number
_DOTS = 85  # an inch
_DIGITS = 4  # more would differ from one processor to the next


def write(folder: Path, runs: Sequence[extractkit.Run], numbers: Mapping[str, object]) -> None:
    """Write `result.json`: the numbers, to four digits, and the runs' ids and versions.

    Raises:
        ValueError: the runs were made with different versions.
    """
    versions, *others = (dict(run.manifest.versions) for run in runs)
    if any(other != versions for other in others):
        raise ValueError(f"{runs[0].path} and the others were made with different versions")
    result = {
        "runs": [_origin(run) for run in runs],
        "versions": versions,
        **{key: _plain(value) for key, value in numbers.items()},
    }
    text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
    text = _FLAT_LIST.sub(lambda found: " ".join(found[0].split()), text)
    (folder / RESULT).write_text(f"{text}\n", encoding="utf-8")


def save(figure: Figure, path: Path) -> None:
    """Save a figure as a small PNG."""
    figure.dpi = _DOTS
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    picture.quantize(dither=Image.Dither.NONE).save(path, optimize=True)


def _origin(run: extractkit.Run) -> dict[str, object]:
    found = run.manifest
    return {
        "identity": found.identity,
        "weights": found.model.get("weights"),
        "inputs": found.inputs.digest if found.inputs else None,
        "samples": found.samples,
        "checkpoints": len(found.checkpoints),
    }


def _plain(value: object) -> object:
    """As JSON has it; null where there is no number."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(one) for one in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.{_DIGITS}g}") if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
