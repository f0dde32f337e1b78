"""Sorting texts as people do: numbers inside them by their value."""

import re

_NUMBERED = re.compile(r"([^0-9]*)([0-9]*)")


def natural(text: str) -> list[tuple[str, int, str]]:
    """A sort key: `layer_2` comes before `layer_10`."""
    return [(letters, int(digits or 0), digits) for letters, digits in _NUMBERED.findall(text)]
