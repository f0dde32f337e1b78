"""Charts that sections share, and their style on light and on dark ground."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from extractkit.core.component import require
from extractkit.reports import Chart, Figure

VALUES = "values"
"""The name of a chart's data."""

_PICTURE = 200
"""The longer side of a picture, where there is room for it."""

_LABEL = "slice(datum.label, indexof(datum.label, ' ') + 1)"
"""The label behind the number that keeps equal labels apart."""

_MARKUP = re.compile(r"<(?=/?script|!--)", re.IGNORECASE)
"""Beginnings of what changes how a browser reads the rest of a script."""

_JOINER = "\u2060"
"""A character that no font draws, and at which no line breaks."""

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'DejaVu Sans', sans-serif"
_LIGHT = {
    "ink": "#1f2328",
    "soft": "#656d76",
    "line": "#d8dee4",
    "marks": ["#4456c7", "#c2571a", "#1a7f5a", "#a3336f", "#7a6a00", "#3b7dab"],
    "ramp": ["#f6f7fb", "#cfd6f1", "#98a6e3", "#5f70d3", "#3342a5", "#1b2569"],
    "both": ["#a5370f", "#e09a72", "#f6f4f2", "#8f9fe0", "#3342a5"],
}
_DARK = {
    "ink": "#e6e9ef",
    "soft": "#9aa4b2",
    "line": "#353c47",
    "marks": ["#8f9ffa", "#f0985c", "#5cc79b", "#e883b8", "#d6c34a", "#7dbbe8"],
    "ramp": ["#1b2029", "#2b3566", "#4456b8", "#7585ee", "#aab6ff", "#e6eaff"],
    "both": ["#f0985c", "#9c5a33", "#20252e", "#5568cf", "#aab6ff"],
}


def altair() -> Any:
    """Return Altair.

    Raises:
        MissingExtraError: it is not installed.
    """
    return require("altair", "report")


def with_values(figure: Figure, options: Sequence[int] = (), title: Sequence[str] = ()) -> Chart:
    """Return the chart of a figure with the values of some options of its pickers in it.

    Its style is that of the active theme of Altair. `alt.theme.enable("extractkit")` is that of
    reports. Altair writes texts into the script of an HTML file as they are, so an invisible
    character follows the "<" of those that would end the script: see `harmless`.

    Args:
        options: the number of the option of each picker; the first by default.
        title: lines above the chart, of which the first is the title.
    """
    alt = altair()
    _register()
    plain = figure.chart.to_dict(validate=False, context={"top_level": False})  # without a theme
    # Data without a name, so that charts combine.
    data = alt.InlineData(values=harmless(figure.rows(options)))
    chart = alt.Chart.from_dict(harmless(plain)).properties(data=data)
    axis = chart.encoding.x["axis"]
    if axis is not None and isinstance(chart.width, alt.Step) and axis["labelAngle"]:
        axis["labelOverlap"] = False  # at an angle, each label has room in its step
    if not title:
        return chart
    first, *rest = harmless(list(title))
    return chart.properties(title=alt.TitleParams(first, subtitle=rest, anchor="start"))


def harmless(data: Any) -> Any:
    """Return plain data that look the same, and cannot end or begin a script in an HTML file."""
    if isinstance(data, str):
        return _MARKUP.sub(f"<{_JOINER}", data)
    if isinstance(data, Mapping):
        return {harmless(name): harmless(value) for name, value in data.items()}
    return [harmless(one) for one in data] if isinstance(data, list) else data


@cache
def _register() -> None:
    """Register the style of reports as a theme of Altair, which takes it once."""
    theme = altair().theme
    config = {**styles()["light"], "background": "white"}

    @theme.register("extractkit", enable=False)  # type: ignore[untyped-decorator]
    def extractkit() -> Mapping[str, object]:
        return {"config": config}


def styles() -> Mapping[str, Mapping[str, object]]:
    """Return the configuration of charts on light and on dark ground."""
    return {"light": _style(_LIGHT), "dark": _style(_DARK)}


def _style(colours: Mapping[str, Any]) -> Mapping[str, object]:
    text = {"labelColor": colours["soft"], "titleColor": colours["soft"]}
    small = {"labelFontSize": 11, "titleFontSize": 11, "titleFontWeight": "normal"}
    return {
        "background": "transparent",
        "font": _FONT,
        "view": {"stroke": None},
        "axis": {
            **text,
            **small,
            "domainColor": colours["line"],
            "tickColor": colours["line"],
            "gridColor": colours["line"],
            "gridOpacity": 0.6,
            "labelLimit": 140,
            "labelPadding": 6,
            "titlePadding": 10,
        },
        "legend": {**text, **small, "gradientLength": 120, "gradientThickness": 8},
        "title": {"color": colours["ink"], "fontSize": 13, "fontWeight": 600, "anchor": "start"},
        "range": {
            "category": colours["marks"],
            "heatmap": colours["ramp"],
            # Of points, which the lightest colours would hide.
            "ramp": colours["ramp"][2:],
            "diverging": colours["both"],
        },
        "bar": {"fill": colours["marks"][0]},
        "line": {"stroke": colours["marks"][0]},
        "circle": {"fill": colours["marks"][0]},
        "point": {"fill": colours["marks"][0], "filled": True},
        "text": {"fill": colours["ink"]},
    }


def heatmap(
    across: str,
    down: str,
    title: str,
    *,
    names: Mapping[str, str] | None = None,
    above: bool = True,
    signed: bool = False,
    zero: bool = True,
    step: int = 20,
) -> Chart:
    """Return a chart of cells whose colours are values.

    Args:
        across, down: the fields with the labels along both axes.
        title: what the values are.
        names: the titles of axes that are not those of the fields.
        above: write the labels across above the cells, at an angle, as texts need.
        signed: colour negative and positive values apart, with zero in between.
        zero: begin the colours at zero; otherwise at the smallest value.
        step: the side of a cell in pixels, where there is room for it.
    """
    alt, known = altair(), names or {}
    angle = {"labelAngle": -55, "labelAlign": "left"} if above else {"labelAngle": 0}
    overlap = {"labelOverlap": "greedy", "labelExpr": _LABEL, "ticks": False, "domain": False}
    angle |= {} if above else {"labelSeparation": 4}
    axis = alt.Axis(orient="top", **overlap, **angle)
    side = alt.Axis(**overlap)
    if signed:
        scale = alt.Scale(domainMid=0, range="diverging", interpolate="lab")
    else:
        scale = alt.Scale(range="heatmap", **({"domainMin": 0} if zero else {"zero": False}))
    return (
        alt.Chart(alt.NamedData(name=VALUES))
        .mark_rect()
        .encode(
            x=alt.X(f"{across}:O", sort=None, title=known.get(across, across), axis=axis),
            y=alt.Y(f"{down}:O", sort=None, title=known.get(down, down), axis=side),
            color=alt.Color("value:Q", title=title, scale=scale),
            tooltip=[
                alt.Tooltip(f"{down}:O", title=known.get(down, down)),
                alt.Tooltip(f"{across}:O", title=known.get(across, across)),
                alt.Tooltip("value:Q", title=title, format=".3~g"),
            ],
        )
        .properties(width=alt.Step(step), height=alt.Step(step))
    )


def picture(across: str, down: str, size: int, *, signed: bool) -> Chart:
    """Return a chart of pixels, without axes.

    Args:
        across, down: the fields with the numbers of columns and rows.
        size: the number of pixels along the longer side.
        signed: colour negative and positive values apart, with zero in between.
    """
    alt = altair()
    chart = heatmap(across, down, "value", signed=signed, step=max(3, min(26, _PICTURE // size)))
    no_axis = {"x": alt.X(f"{across}:O", sort=None, axis=None)}
    return chart.encode(**no_axis, y=alt.Y(f"{down}:O", sort=None, axis=None))


def bars(across: str, title: str, *, name: str | None = None, step: int = 14) -> Chart:
    """Return a chart of a bar for each label.

    Args:
        across: the field with the labels.
        title: what the heights are.
        name: the title of the axis, if not that of the field.
        step: the width of a bar with its gap in pixels, where there is room for it.
    """
    alt = altair()
    axis = alt.Axis(labelExpr=_LABEL, ticks=False, labelAngle=-55, labelOverlap="greedy")
    return (
        alt.Chart(alt.NamedData(name=VALUES))
        .mark_bar()
        .encode(
            x=alt.X(f"{across}:O", sort=None, title=name or across, axis=axis),
            y=alt.Y("value:Q", title=title, axis=alt.Axis(tickCount=4)),
            tooltip=[
                alt.Tooltip(f"{across}:O", title=name or across),
                alt.Tooltip("value:Q", title=title, format=".4~g"),
            ],
        )
        .properties(width=alt.Step(step), height=180)
    )


def profile(across: str, title: str, by: str, classes: Sequence[str]) -> Chart:
    """Return a chart of a point for each label, at a number above zero on a logarithmic scale.

    Args:
        across: the field with the labels.
        title: what the heights are.
        by: the field with the class that colours a point.
        classes: all classes, in the order of the colours.
    """
    alt = altair()
    axis = alt.Axis(labelExpr=_LABEL, ticks=False, labelAngle=-55, labelOverlap="greedy")
    scale = alt.Scale(type="log")
    up = alt.Axis(format=".2~e", tickCount=5, labelOverlap="greedy")
    return (
        alt.Chart(alt.NamedData(name=VALUES))
        .mark_circle(size=64, opacity=0.9)
        .encode(
            x=alt.X(f"{across}:O", sort=None, title=None, axis=axis),
            y=alt.Y("value:Q", title=title, scale=scale, axis=up),
            color=alt.Color(
                f"{by}:N",
                scale=alt.Scale(domain=list(classes)),
                legend=alt.Legend(title=None, orient="top", labelLimit=200),
            ),
            tooltip=[
                alt.Tooltip(f"{across}:O"),
                alt.Tooltip(f"{by}:N"),
                alt.Tooltip("value:Q", title=title, format=".3~g"),
            ],
        )
        .properties(width=alt.Step(44), height=260)
    )


def lines(across: str, by: str, *, title: str = "value") -> Chart:
    """Return a chart of a line for each label in one field, over the labels in another."""
    alt = altair()
    axis = alt.Axis(labelExpr=_LABEL, labelAngle=-55, labelOverlap="greedy")
    name = alt.Legend(labelExpr=_LABEL, title=None, orient="top")
    return (
        alt.Chart(alt.NamedData(name=VALUES))
        .mark_line(point=True)
        .encode(
            x=alt.X(f"{across}:O", sort=None, title=across, axis=axis),
            y=alt.Y("value:Q", title=title),
            color=alt.Color(f"{by}:N", sort=None, legend=name),
            tooltip=[
                alt.Tooltip(f"{by}:N"),
                alt.Tooltip(f"{across}:O"),
                alt.Tooltip("value:Q", title=title, format=".4~g"),
            ],
        )
        .properties(width=alt.Step(30), height=220)
    )


def by_setting(across: str, by: str, *, coloured: bool) -> Chart:
    """Return a chart of a point for each row, over the text in one field.

    Args:
        across: the field with the texts below the points.
        by: the field with what distinguishes rows of one text.
        coloured: whether rows that are alike in that field have a colour, and a line.
    """
    alt = altair()
    legend = alt.Legend(title=None, orient="top", columns=2, labelLimit=320)
    colour = [alt.Color(f"{by}:N", sort=None, legend=legend)] if coloured else []
    return (
        alt.Chart(alt.NamedData(name=VALUES))
        .mark_line(point={"size": 60})
        .encode(
            *colour,
            x=alt.X(f"{across}:O", sort=None, title=None, axis=alt.Axis(labelAngle=-40)),
            y=alt.Y("value:Q", title="value", scale=alt.Scale(zero=False)),
            tooltip=[
                alt.Tooltip("job:O"),
                alt.Tooltip(f"{across}:N"),
                alt.Tooltip(f"{by}:N"),
                alt.Tooltip("value:Q", format=".4~g"),
            ],
        )
        .properties(width=alt.Step(70), height=240)
    )


def points(across: str, up: str, colour: str | None, *, nominal: bool) -> Chart:
    """Return a chart of a point for each row, at two numbers.

    Args:
        across, up: the fields with the numbers.
        colour: what the field `class` or `number` is, which colours points; None: nothing does.
        nominal: whether it is a class.
    """
    alt = altair()
    by = "class:N" if nominal else "number:Q"
    coloured = [] if colour is None else [alt.Color(by, title=colour)]
    known = [] if colour is None else [alt.Tooltip(by, title=colour)]
    grid = alt.Axis(tickCount=5)
    return (
        alt.Chart(alt.NamedData(name=VALUES))
        .mark_circle(size=44, opacity=0.75)
        .encode(
            *coloured,
            x=alt.X(f"{across}:Q", title=across, axis=grid),
            y=alt.Y(f"{up}:Q", title=up, axis=grid),
            tooltip=[
                alt.Tooltip("sample:O"),
                *known,
                alt.Tooltip(f"{across}:Q", format=".3~g"),
                alt.Tooltip(f"{up}:Q", format=".3~g"),
            ],
        )
        .properties(width=640, height=380)
    )
