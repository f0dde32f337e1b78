"""Renderables as text for a stream, so that printing them is one write."""

import io
import os
import shutil
from typing import TextIO

from rich.console import Console, RenderableType

_UNLIMITED = 10_000
"""Width where no terminal gives one: lines in a file or a pipe are not to be broken."""


def render(renderable: RenderableType, stream: TextIO) -> str:
    """The renderable as `stream` is to show it: coloured and folded for a terminal alone."""
    terminal = stream.isatty()
    told = "COLUMNS" in os.environ
    console = Console(
        file=io.StringIO(),
        force_terminal=terminal,
        width=shutil.get_terminal_size().columns if terminal or told else _UNLIMITED,
        no_color=None if terminal else True,
        highlight=False,
    )
    with console.capture() as capture:
        console.print(renderable)
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())
