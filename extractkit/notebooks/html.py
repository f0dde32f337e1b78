"""HTML that notebooks show: elements made of texts, and of what terminals show.

Texts are never read as markup: elements are a tree until they are written.
"""

import base64
import struct
import zlib
from collections.abc import Iterator, Sequence
from xml.etree.ElementTree import Element, tostring

import numpy as np
import numpy.typing as npt
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from extractkit.display import printable, safe
from extractkit.display.address_table import AddressTable

STYLE = """
.extractkit { color: inherit; max-width: 1100px;
  font: 13px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
.extractkit h4 { font-size: 14px; font-weight: 400; margin: 0 0 6px; }
.extractkit .soft { opacity: .72; font-weight: 400; }
.extractkit .scroll { overflow: auto; max-height: 420px; margin: 6px 0; }
.extractkit table { border-collapse: collapse; margin: 0; font-size: 12.5px; }
.extractkit th, .extractkit td { text-align: left !important; vertical-align: top;
  padding: 2px 16px 2px 0; border: 0; background: none; color: inherit; white-space: nowrap; }
.extractkit td.long { white-space: normal; overflow-wrap: anywhere; min-width: 16em; }
.extractkit thead th { font-weight: 600; opacity: .72;
  border-bottom: 1px solid color-mix(in srgb, currentColor 25%, transparent); }
.extractkit tbody tr { background: none !important; }
.extractkit details { margin: 0; }
.extractkit details > :not(summary) { margin-left: 18px; }
.extractkit summary { cursor: pointer; }
.extractkit .leaf { margin-left: 18px; display: flex; flex-wrap: wrap; gap: 0 14px; }
.extractkit .bars { font-family: "DejaVu Sans Mono", Menlo, Consolas, monospace; line-height: 1; }
.extractkit .name { font-weight: 600; }
.extractkit .warns { border-left: 3px solid #c2571a; padding-left: 8px; margin: 4px 0; }
.extractkit .good { border-left: 3px solid #1a7f5a; padding-left: 8px; margin: 4px 0; }
.extractkit .bad { border-left: 3px solid #c0392b; padding-left: 8px; margin: 4px 0; }
.extractkit pre { margin: 4px 0; white-space: pre-wrap; color: inherit; background: none; }
.extractkit img { image-rendering: pixelated; border-radius: 3px; display: block; margin: 6px 0;
  background: #fff; }
"""
"""The style of all elements. Colours are those of the notebook's own text, light or dark.

Notebooks have stronger rules for tables: numbers to the right, and stripes.
"""

_KINDS = {"green": "good", "red": "bad", "yellow": "warns"}
"""Classes of the styles that terminals show as colours."""

_LONG = 48
"""Characters of a cell that stays on one line."""

Pixels = npt.NDArray[np.uint8]


def element(tag: str, *children: str | Element, **attributes: str) -> Element:
    """Return an element with texts and elements in it.

    Args:
        attributes: its attributes; `class_` is the attribute `class`.
    """
    made = Element(tag, {name.rstrip("_"): text for name, text in attributes.items()})
    last: Element | None = None
    for child in children:
        if isinstance(child, Element):
            made.append(child)
            last = child
        elif last is None:
            made.text = f"{made.text or ''}{printable(child)}"
        else:
            last.tail = f"{last.tail or ''}{printable(child)}"
    return made


def name(text: str) -> Element:
    """Return a name, whose direction of writing ends with it."""
    return element("bdi", text, class_="name")


def written(*children: str | Element) -> str:
    """Return elements as HTML, with its style."""
    whole = element("div", element("style", STYLE), *children, class_="extractkit")
    return tostring(whole, encoding="unicode", method="html")


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str | Element]], bars: Sequence[int] = ()
) -> Element:
    """Return a table that scrolls.

    Args:
        bars: the numbers of the columns with bars made of characters.
    """
    head = element("thead", element("tr", *(element("th", one, scope="col") for one in columns)))
    body = element("tbody")
    for row in rows:
        line = element("tr")
        for at, cell in enumerate(row):
            inner = cell if isinstance(cell, Element) else element("bdi", cell)
            kind = "bars" if at in bars else "long" if len(inner.text or "") > _LONG else "short"
            line.append(element("td", inner, class_=kind))
        body.append(line)
    parts = [head, body] if columns else [body]
    return element("div", element("table", *parts), class_="scroll")


def folded(title: str | Element, *children: str | Element, opened: bool = False) -> Element:
    """Return content below a title that opens and closes it."""
    state = {"open": "open"} if opened else {}
    return element("details", element("summary", title), *children, **state)


def of_terminal(shown: RenderableType) -> Iterator[Element]:
    """Yield what terminals show as elements: tables, trees, groups and lines of text.

    Raises:
        TypeError: it is something else, which would be lost.
    """
    match shown:
        case Group():
            for one in shown.renderables:
                yield from of_terminal(one)
        case Table():
            columns = [str(column.header) for column in shown.columns]
            cells = [[_cell(cell) for cell in column.cells] for column in shown.columns]
            rows = [*zip(*cells, strict=True)]
            if rows:
                yield table(columns if any(columns) else (), rows)
        case AddressTable():
            if shown.rows:
                yield table(shown.headings, [[cell.plain for cell in row] for row in shown.rows])
        case Tree():
            yield _branch(shown, opened=True)
        case Text():
            kind = _KINDS.get(str(shown.style))
            if shown.plain:
                yield element("div", shown.plain, **({"class_": kind} if kind else {}))
        case str():
            if shown:
                yield element("div", shown)
        case _:
            raise TypeError(f"{type(shown).__name__} has no form in notebooks")


def _cell(shown: RenderableType) -> str:
    return shown.plain if isinstance(shown, Text) else str(shown)


def _branch(tree: Tree, *, opened: bool = False) -> Element:
    label = _label(tree.label)
    if not tree.children:
        return element("div", label, class_="leaf")
    return folded(label, *map(_branch, tree.children), opened=opened)


def _label(shown: RenderableType) -> Element:
    """Return a label, in which what was appended in another style is soft."""
    if not isinstance(shown, Text):
        return element("bdi", str(shown))
    parts: list[str | Element] = []
    at = 0
    for span in sorted(shown.spans):
        soft = element("span", shown.plain[span.start : span.end], class_="soft")
        parts += [shown.plain[at : span.start], soft]
        at = span.end
    return element("bdi", *parts, shown.plain[at:])


def picture(pixels: Pixels, what: str, width: int) -> Element:
    """Return a picture.

    Args:
        pixels: (height, width, 3).
        what: what it shows, for those who cannot see it.
        width: its width on the page.
    """
    content = base64.b64encode(_png(pixels)).decode("ascii")
    source = f"data:image/png;base64,{content}"
    return element("img", src=source, alt=safe(what), width=str(width))


def _png(pixels: Pixels) -> bytes:
    """Return a PNG file of 8-bit colours."""
    height, width, _ = pixels.shape
    lines = np.zeros((height, 1 + 3 * width), np.uint8)  # each begins with its filter: none
    lines[:, 1:] = pixels.reshape(height, -1)
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines.tobytes())),
        (b"IEND", b""),
    )
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
