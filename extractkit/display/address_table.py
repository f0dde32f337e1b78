"""A table about tensors in which no address is broken, however narrow the terminal is."""

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

_GAP = "  "
_LEAST = 30
"""The least width of the last column, whose cells are wrapped, unless they are shorter."""


class AddressTable:
    """A table whose first column holds addresses, to be copied and searched for.

    If the columns do not fit beside each other, each address gets a line of its own, above the
    other cells. If these do not fit either, columns that say the least are omitted, and named.

    Args:
        headings: of the columns, that of the addresses first.
        dispensable: the headings of columns that may be omitted, that of the first to go first.

    Attributes:
        headings: of all columns.
        rows: the cells of each row.
    """

    def __init__(self, *headings: str, dispensable: Sequence[str] = ()) -> None:
        self.headings = headings
        self._heading = tuple(Text(one, style="bold") for one in headings)
        self._dispensable = dispensable
        self.rows: list[tuple[Text, ...]] = []

    def add_row(self, *cells: Text | str) -> None:
        """Add a row. If it has fewer cells than the table, the last one may be of any length."""
        self.rows.append(tuple(Text(one) if isinstance(one, str) else one for one in cells))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        every = list(range(len(self.headings)))
        if self._width(every) <= options.max_width:
            widths = self._widths(every)
            for row in (self._heading, *self.rows):
                yield from _lines(row, widths, console, options.max_width)
            return
        shown, omitted = every[1:], list[str]()
        for name in self._dispensable:
            if len(_GAP) + self._width(shown) <= options.max_width:
                break
            shown.remove(self.headings.index(name))
            omitted.append(name)
        widths = [0, *self._widths(shown)]
        for row in (self._heading, *self.rows):
            if row[0].plain:
                yield Text.assemble(row[0], no_wrap=True, overflow="ignore")
            whole = len(row) == len(self._heading)
            if cells := tuple(row[at] for at in shown) if whole else row[1:]:
                yield from _lines((Text(), *cells), widths, console, options.max_width)
        if omitted:
            names = ", ".join(name for name in self.headings if name in omitted)
            yield Text(f"For more columns ({names}), use a wider terminal or --json", style="dim")

    def _widths(self, shown: Sequence[int]) -> list[int]:
        """Return the widths of columns. The last cell of a shorter row does not count."""
        counted = [
            row if len(row) == len(self.headings) else row[:-1]
            for row in (self._heading, *self.rows)
        ]
        return [max(cell_len(row[at].plain) for row in counted if at < len(row)) for at in shown]

    def _width(self, shown: Sequence[int]) -> int:
        """Return the least width of columns side by side."""
        *widths, last = self._widths(shown)
        return sum(widths) + len(_GAP) * len(widths) + min(last, _LEAST)


def _lines(
    cells: Sequence[Text], widths: Sequence[int], console: Console, most: int
) -> Iterator[Text]:
    """Yield cells, padded to columns. The last one is wrapped within its column."""
    line = Text(no_wrap=True, overflow="ignore")
    for cell, width in zip(cells[:-1], widths, strict=False):
        line.append_text(cell)
        line.append(" " * (width - cell_len(cell.plain)) + _GAP)
    start = cell_len(line.plain)
    for part in cells[-1].wrap(console, max(most - start, _LEAST), overflow="fold"):
        yield line.append_text(part)
        line = Text(" " * start, no_wrap=True, overflow="ignore")
