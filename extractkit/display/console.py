"""What is printed, as text for a stream, so that printing it is one write.

Names of tensors, samples and files, and messages about them, may come from anybody's model, run or
configuration. This is the one place that they pass on their way to a terminal, which would obey an
escape sequence in them: everything that does not print is shown as an escape (`\\x1b`).
"""

import io
import os
import shutil
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment

from extractkit.display.text import safe

_UNLIMITED = 10_000
"""Width where no terminal gives one: lines in a file or a pipe are not to be broken."""


def render(renderable: RenderableType, stream: TextIO) -> str:
    """The renderable as `stream` is to show it: coloured and folded for a terminal alone.

    Nothing but the colours given here reaches the terminal as a control sequence. Markup in a plain
    text is text.
    """
    terminal = stream.isatty()
    told = "COLUMNS" in os.environ
    console = Console(
        file=io.StringIO(),
        force_terminal=terminal,
        width=shutil.get_terminal_size().columns if terminal or told else _UNLIMITED,
        no_color=None if terminal else True,
        highlight=False,
        markup=False,
        emoji=False,
    )
    with console.capture() as capture:
        console.print(Printable(renderable))
    return "".join(f"{line.rstrip()}\n" for line in capture.get().split("\n")[:-1])


def printable(text: str) -> str:
    """A message with everything that a terminal would obey, or not show, as an escape sequence.

    Its lines stay lines.
    """
    return "\n".join(map(safe, text.split("\n")))


@dataclass(frozen=True)
class Printable:
    """A renderable whose own texts hold no control sequences."""

    renderable: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self.renderable, options):
            yield Segment(printable(segment.text), segment.style, segment.control)
