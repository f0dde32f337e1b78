"""What an exception of somebody else's library says, as part of one message of ours."""

import re
from typing import Any

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LONGEST = 300
# Where a graph failed, which it tells before what went wrong.
_PLACE = re.compile(
    r"^Graph execution error|^Detected at node|^File |^Node: |^\d+ root error|^<stack traces"
)


def told(error: BaseException) -> str:
    """The type of the exception and the first line of it that says something."""
    lines = [line.strip() for line in _COLOUR.sub("", str(error)).splitlines() if line.strip()]
    lines = [line for line in lines if not _PLACE.search(line)] or lines
    # AutoGraph puts the whole way there first.
    if lines and lines[0] == "in user code:":
        lines = lines[-1:]
    # Keras puts the layer first and what went wrong in it behind.
    if len(lines) > 1 and lines[0].startswith("Exception encountered when calling"):
        lines.pop(0)
    name = type(error).__name__
    return f"{name}: {lines[0][:_LONGEST]}" if lines else name


def told_by_graph(error: Any) -> str:
    """What TensorFlow says went wrong in a graph: the first line that does not tell where."""
    lines = [line.strip() for line in str(error.message).splitlines() if line.strip()]
    said = [line for line in lines if not _PLACE.search(line)]
    return (said or lines or [type(error).__name__])[0][:_LONGEST]
