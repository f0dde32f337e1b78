"""What an exception of somebody else's library says, as part of one message of ours."""

import re

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LONGEST = 300


def told(error: BaseException) -> str:
    """The type of the exception and the first line of it that says something."""
    lines = [line.strip() for line in _COLOUR.sub("", str(error)).splitlines() if line.strip()]
    # Keras puts the layer first and what went wrong in it behind.
    if len(lines) > 1 and lines[0].startswith("Exception encountered when calling"):
        lines.pop(0)
    name = type(error).__name__
    return f"{name}: {lines[0][:_LONGEST]}" if lines else name
