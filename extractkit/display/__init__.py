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
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment

from extractkit.core.catalog import Kind
from extractkit.core.requests import request_text
from extractkit.core.spec import SAMPLE, TEXT, Dim, TensorSpec, file_dtype
from extractkit.runs.directory import human_bytes

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


def shape_text(spec: TensorSpec) -> str:
    """Return a shape with names of free axes and sizes of fixed axes: `sample × token × 384`."""
    if spec.dims is None:
        return "any shape"
    return " × ".join(map(_axis, spec.dims)) or "scalar"


def content_text(spec: TensorSpec, request: Mapping[str, object]) -> str:
    """Return the shape of what is stored of a tensor, and what it is if it is not the value.

    Args:
        request: what is asked for beside the value, as plain data; empty for values.
    """
    shape = shape_text(spec)
    return f"{shape}, {safe(request_text(request))}" if request else shape


def size_text(spec: TensorSpec) -> str:
    """Return bytes in files for each element of the free axes: `1.5 kB/token`, `576 kB`."""
    try:
        size = 0 if spec.dtype == TEXT else file_dtype(spec.dtype).itemsize
    except TypeError:
        return ""
    if not spec.known or not size:
        return ""
    varying: Counter[str] = Counter()
    for dim in (factor for axis in spec.axes for factor in axis.factors or (axis,)):
        if dim.size is not None:
            size *= dim.size
        else:
            varying[dim.length] += 1
    samples = varying.pop(SAMPLE, 0)
    factors = [_power(dim, count) for dim, count in varying.items()] or ["sample"] * min(samples, 1)
    return "/".join([human_bytes(size), *factors])


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


def _axis(dim: Dim) -> str:
    if dim.size is not None:
        return f"{dim.size}"
    return safe(dim.title or dim.length)


def _power(dim: str, count: int) -> str:
    return safe(dim) if count == 1 else f"{safe(dim)}^{count}"


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
        console.print(Printable(renderable))
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
    """Write a result. If the reader has gone (`| head`), drop it and all further output."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        drop_output()


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
