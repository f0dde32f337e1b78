"""What a command prints: results to standard output, one document or a rendering."""

import json
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType


def write(text: str) -> None:
    """Write a result. Where nobody reads any more (`| head`), it and what follows is dropped."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        drop_output()


def drop_output() -> None:
    """Let standard output lead nowhere, so that nothing written to it can fail."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, sys.stdout.fileno())
    os.close(sink)


def write_rendered(renderable: "RenderableType") -> None:
    """Write a result for people."""
    from extractkit.display.console import render

    write(render(renderable, sys.stdout))


def write_json(document: object) -> None:
    """Write a result for programs."""
    write(f"{json.dumps(document, indent=1)}\n")
