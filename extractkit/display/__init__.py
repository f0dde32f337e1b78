"""Output for people: rich renderables, progress, and results on standard output as text or JSON.

Names of tensors, samples and files, and messages about them, may come from other people's models,
runs and configurations. A terminal would obey an escape sequence in them. So all of them pass
through this module, which shows unprintable characters as escapes (`\x1b`).
"""

import io
import json
import os
import shutil
import sys
from collections import Counter
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment

from extractkit.core.catalog import Kind
from extractkit.errors import JobError

_PLURALS = {
    Kind.MODEL_INPUT: ("model input", "model inputs"),
    Kind.MODEL_OUTPUT: ("model output", "model outputs"),
    Kind.LAYER_INPUT: ("input", "inputs"),
    Kind.LAYER_OUTPUT: ("output", "outputs"),
    Kind.STATE: ("state", "states"),
    Kind.OP: ("op", "ops"),
    Kind.WEIGHT: ("weight", "weights"),
    Kind.OPTIMIZER: ("optimizer variable", "optimizer variables"),
    Kind.MOVING_AVERAGE: ("moving average", "moving averages"),
}


def safe(name: str) -> str:
    """Return a name with control characters as escape sequences.

    Markup is harmless in a `rich.text.Text`, which does not parse it.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in name
    )


def counts_text(kinds: Counter[Kind]) -> str:
    """Return counts as text, in the order of `Kind`: `12 ops, 1 input`."""
    return ", ".join(
        f"{kinds[kind]:,} {_PLURALS[kind][kinds[kind] != 1]}" for kind in Kind if kinds[kind]
    )


def duration_text(seconds: float) -> str:
    """Return a duration as text: `0.4 s`, `12 s`, `3:05`, `2:03:05`."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def rate_text(count: int, seconds: float) -> str:
    """Return a rate: `110 samples/s`; an empty string for no samples or no time."""
    if not count or seconds <= 0:
        return ""
    rate = count / seconds
    return f"{rate:,.{1 if rate < 10 else 0}f} samples/s"


_UNLIMITED = 10_000
"""Width in a file or pipe, wide enough that no line is broken."""


def render(renderable: RenderableType, stream: TextIO) -> str:
    """Render for `stream`: colours and folded lines for a terminal only.

    Only these colours reach the terminal as control sequences. Markup in plain text is not
    interpreted.
    """
    terminal = stream.isatty()
    width_is_given = "COLUMNS" in os.environ
    console = Console(
        file=io.StringIO(),
        force_terminal=terminal,
        width=shutil.get_terminal_size().columns if terminal or width_is_given else _UNLIMITED,
        no_color=None if terminal else True,
        highlight=False,
        markup=False,
        emoji=False,
    )
    with console.capture() as capture:
        # Commands that must not be broken may be longer than a line.
        console.print(Printable(renderable), crop=False)
    return "".join(f"{line.rstrip()}\n" for line in capture.get().split("\n")[:-1])


def printable(text: str) -> str:
    """Return a message with control characters as escape sequences.

    Line breaks are kept.
    """
    return "\n".join(map(safe, text.split("\n")))


@dataclass(frozen=True)
class Printable:
    """Renderable without control sequences in its texts."""

    renderable: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self.renderable, options):
            yield Segment(printable(segment.text), segment.style, segment.control)


def write(text: str) -> None:
    """Write a result. If the reader has gone (`| head`), drop it and all further output.

    Raises:
        JobError: the result cannot be written, such as for want of space.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        drop_output()
    except OSError as error:
        drop_output()  # Python would write the rest at its end, and fail again
        raise JobError(f"standard output cannot be written: {error.strerror}") from error


def drop_output() -> None:
    """Redirect standard output to nothing, so that writing cannot fail."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, sys.stdout.fileno())
    os.close(sink)


def write_rendered(renderable: "RenderableType") -> None:
    """Write a result for people."""

    write(render(renderable, sys.stdout))


def write_json(document: object) -> None:
    """Write a result for programs."""
    write(f"{json.dumps(document, indent=1)}\n")
