"""Widgets for notebooks: attention over tokens, and the tree of tensors.

A widget's code is one file beside this one, which is part of the widget and loads nothing. Values
of a sample are read when the sample is chosen, so that a run may be of any size.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from extractkit.core.catalog import Catalog
from extractkit.core.component import require
from extractkit.display import safe
from extractkit.errors import UnknownTensorError, UserError
from extractkit.notebooks.plots import Plots, attention_section, is_whole, notes_of
from extractkit.reports import Figure
from extractkit.reports.charts import styles
from extractkit.runs.overview import Overview, shape_text, size_text
from extractkit.runs.reader import Run

_HERE = Path(__file__).parent


def widgets(value: Any) -> "RunWidgets | TensorWidgets":
    """Return the widgets of a run or of a catalog.

    Raises:
        MissingExtraError: anywidget or Altair is not installed.
    """
    require("anywidget", "run.widget")
    require("altair", "run.widget")
    return RunWidgets(value) if isinstance(value, Run) else TensorWidgets(value)


class TensorWidgets:
    """Widgets of what lists tensors: `catalog.widget.tensors()`."""

    def __init__(self, value: Run | Catalog) -> None:
        self._value = value

    def tensors(self) -> Any:
        """Return the tree of tensors, to search and to choose from.

        The widget's `chosen` holds the keys, or addresses, that are chosen.
        """
        return _kinds()["tensors"](rows=_rows(self._value))

    def __repr__(self) -> str:
        names = ", ".join(name for name in dir(self) if not name.startswith("_"))
        return f"<Widgets of {self._value!r}: {names}>"


class RunWidgets(TensorWidgets):
    """Widgets of a run: `run.widget.attention()`."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._run = run

    def attention(
        self, sample: int = 0, layer: int = 0, head: int | None = None, *, tokens: int = 48
    ) -> Any:
        """Return attention over the tokens of a sample, with all layers and heads to choose from.

        The widget's `sample`, `layer` and `head` can be read and set. In `head`, 0 is the mean of
        all heads, if there are several, and `n + 1` is head n.

        Args:
            sample: the index of the sample that is shown first.
            layer: the number of the map in the widget's list.
            head: the number of the head; None: the mean of all.
            tokens: the most tokens, the first of a sample.

        Raises:
            UnknownTensorError: the run has no attention maps, or no such layer or head; the sample
                has no values.
            IndexError: there is no such sample.
            ConfigError: `tokens` is not 1 or more.
            RunDirectoryError: its values are damaged.
        """
        plots = Plots(self._run)
        first = _maps(plots, sample, tokens)
        made = _kinds()["attention"](count=self._run.manifest.samples, **first)
        mean = int(made.shape[1] > 1)  # its place is before the heads
        for name, given, count in (
            ("layer", layer, made.shape[0]),
            ("head", 0 if head is None else head, made.shape[1] - mean),
        ):
            if not is_whole(given) or not 0 <= given < count:
                raise UnknownTensorError(f"{name}={given!r}: there are {count}, from 0 on")
        made.layer = int(layer)
        made.head = 0 if head is None else int(head) + mean

        def load(change: Mapping[str, Any]) -> None:
            try:
                found = _maps(plots, change["new"], tokens)
            except (UserError, IndexError) as error:
                found = {"maps": b"", "title": safe(str(error))}
            with made.hold_sync():
                for name, value in found.items():
                    setattr(made, name, value)

        made.observe(load, names="sample")
        return made


def _maps(plots: Plots, sample: int, tokens: int) -> dict[str, Any]:
    """Return what the widget shows of a sample: the maps of a report, of all layers and heads."""
    section = attention_section(plots, sample, tokens)
    figures = {one.name: one for one in section.blocks if isinstance(one, Figure)}
    figure = figures["attention-map"]
    pickers = {one.name: one.options for one in section.pickers}
    values = np.asarray(figure.cubes[0].values, "<f4")
    if values.ndim == 3:
        values = values[:, np.newaxis]
    return {
        "sample": int(sample),
        "title": safe(" · ".join([pickers["sample"][0], *notes_of(section)])),
        "layers": [safe(one) for one in pickers["layer"]],
        "heads": [safe(one) for one in pickers.get("head", ("head 0",))],
        "down": [safe(one) for one in figure.cubes[0].labels[0]],
        "across": [safe(one) for one in figure.cubes[0].labels[1]],
        "shape": list(values.shape),
        "maps": np.ascontiguousarray(values).tobytes(),
    }


def _rows(value: Run | Catalog) -> list[list[str]]:
    """Return key, shape, type, size and remark of each tensor."""
    if isinstance(value, Run):
        found = Overview.of(value.path, value.manifest).tensors
        return [[row.key, safe(row.shape), row.spec.dtype, row.size, ""] for row in found]
    return [
        [
            one.address,
            safe(shape_text(one.spec)),
            one.spec.dtype,
            size_text(one.spec),
            "" if one.reason is None else safe(f"cannot be extracted: {one.reason}"),
        ]
        for one in value.records
    ]


@cache
def _kinds() -> Mapping[str, Any]:
    """Return the classes of widgets, which need anywidget."""
    base = require("anywidget", "run.widget").AnyWidget
    traits = require("traitlets", "run.widget")
    colours = {name: style["range"]["heatmap"] for name, style in styles().items()}  # type: ignore[index]

    class AttentionWidget(base):  # type: ignore[valid-type, misc]
        """Attention over the tokens of a sample."""

        _esm = _HERE / "attention.js"
        count = traits.Int(0).tag(sync=True)
        sample = traits.Int(0).tag(sync=True)
        layer = traits.Int(0).tag(sync=True)
        head = traits.Int(0).tag(sync=True)
        title = traits.Unicode("").tag(sync=True)
        layers = traits.List(traits.Unicode()).tag(sync=True)
        heads = traits.List(traits.Unicode()).tag(sync=True)
        down = traits.List(traits.Unicode()).tag(sync=True)
        across = traits.List(traits.Unicode()).tag(sync=True)
        shape = traits.List(traits.Int()).tag(sync=True)
        maps = traits.Bytes(b"").tag(sync=True)
        ramps = traits.Dict(colours).tag(sync=True)

    class TensorTree(base):  # type: ignore[valid-type, misc]
        """The tree of tensors."""

        _esm = _HERE / "tensors.js"
        rows = traits.List().tag(sync=True)
        chosen = traits.List(traits.Unicode()).tag(sync=True)

    return {"attention": AttentionWidget, "tensors": TensorTree}
