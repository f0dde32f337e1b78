"""Reports: one HTML page about a run, two runs or a sweep, and its charts as files.

Each module holds a family of sections. It chooses tensors by their axes, requests and statistics,
never by names of models, and returns plain data: `Section`. `page.py` writes the sections.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from extractkit.core.values import Array
from extractkit.runs.overview import Fact

Chart = Any
"""A chart of Altair, which has no types without the extra `report`."""


@dataclass(frozen=True)
class Picker:
    """A choice that a reader of the page makes for the figures of a section.

    Attributes:
        name: the name of what is chosen, such as `sample`.
        options: a label for each option.
    """

    name: str
    options: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Cube:
    """The values that a figure draws for one option of its first picker.

    Attributes:
        values: float16 or float32. The first axes are along the options of the other pickers. The
            rest are the figure's own.
        labels: a label for each position along each of the figure's own axes.
        texts: further fields of the rows, with a text for each position along the first own axis.
    """

    values: Array
    labels: tuple[tuple[str, ...], ...]
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Figure:
    """A chart, with the values of each choice that a reader can make.

    Attributes:
        name: a name that is unique in the report: its anchor, and the stem of its files.
        title: what it shows.
        chart: a chart whose data are called `values`: rows with the fields `axes` and `fields`.
        pickers: the names of the pickers that it follows, in the order of the axes of `cubes`.
        axes: the fields with the labels along its own axes. Those are `NUMBER LABEL`.
        cubes: the values for each option of the first picker; one if it follows none.
        clicks: the picker that a click on a mark sets to the label in a field, by field.
        caption: how to read it.
        fields: the fields of the rows with numbers. Several are the last axis of the values.
    """

    name: str
    title: str
    chart: Chart
    pickers: tuple[str, ...]
    axes: tuple[str, ...]
    cubes: tuple[Cube, ...]
    clicks: Mapping[str, str] = field(default_factory=dict)
    caption: str = ""
    fields: tuple[str, ...] = ("value",)

    def rows(self, options: Sequence[int] = ()) -> list[dict[str, object]]:
        """Return the data of the chart for some options of its pickers; the first by default."""
        chosen = [*options, *[0] * (len(self.pickers) - len(options))]
        cube = self.cubes[chosen[0] if chosen else 0]
        values = cube.values[tuple(chosen[1:])]
        numbers = values if len(self.fields) > 1 else values[..., np.newaxis]
        found = []
        for at in np.ndindex(numbers.shape[:-1]):
            labels = zip(self.axes, cube.labels, at, strict=True)
            row: dict[str, object] = {axis: f"{n} {known[n]}" for axis, known, n in labels}
            row |= {name: texts[at[0]] for name, texts in cube.texts.items()}
            each = zip(self.fields, map(float, numbers[at]), strict=True)
            row |= {name: one if np.isfinite(one) else None for name, one in each}
            found.append(row)
        return found


@dataclass(frozen=True)
class Facts:
    """Lines with a label and a text."""

    facts: tuple[Fact, ...]


@dataclass(frozen=True)
class Code:
    """A text as it is, such as a configuration.

    Attributes:
        title: what it is.
        text: the text.
        folded: whether a reader has to open it.
    """

    title: str
    text: str
    folded: bool = True


@dataclass(frozen=True)
class Note:
    """A remark, such as how much is not shown."""

    text: str
    warns: bool = False


@dataclass(frozen=True)
class Listing:
    """A table that can be searched, with details below the row that is chosen.

    Attributes:
        columns: the heading of each column.
        numeric: the columns that hold numbers.
        rows: a text for each column.
        details: lines about each row, by label.
        tree: whether the first column holds addresses, whose paths group the rows.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    details: tuple[Mapping[str, str], ...] = ()
    numeric: tuple[int, ...] = ()
    tree: bool = False


Block = Facts | Code | Note | Listing | Figure


@dataclass(frozen=True, eq=False)
class Section:
    """A part of the page.

    Attributes:
        anchor: its place, in the address of the page.
        title: its title.
        lead: a sentence on what it shows.
        blocks: its content, in order.
        pickers: the choices that its figures follow.
    """

    anchor: str
    title: str
    lead: str
    blocks: tuple[Block, ...]
    pickers: tuple[Picker, ...] = ()


@dataclass(frozen=True)
class Header:
    """What a page begins with.

    Attributes:
        name: the name of the run, the sweep or the two runs.
        status: its state, in a few words.
        tone: `good`, `bad`, or `warn` for neither.
        job: what was typed.
        numbers: labels with numbers as text.
    """

    name: str
    status: str
    tone: str
    job: str
    numbers: tuple[tuple[str, str], ...]
