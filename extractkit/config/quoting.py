"""Hydra's override grammar: how to write a value that it does not take as it stands."""

import re
import shlex

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from extractkit.advice import hydra_quoted


def as_given(override: str) -> str:
    """An override that Hydra reads as it is, as it has to be typed into a shell."""
    return shlex.quote(override)


def as_text(override: str) -> str | None:
    """`key=value` as it has to be typed into a shell so that the value is one text.

    None where no quoting of the value helps, because the key is at fault.
    """
    key, equals, value = override.partition("=")
    return _typed(f"{key}={hydra_quoted(value)}", value) if equals else None


def as_list(override: str) -> str | None:
    """The same for a value `[a,b]`, each item quoted; None where it has no such form."""
    key, _, value = override.partition("=")
    if not (value.startswith("[") and value.endswith("]")):
        return None
    items = [item.strip() for item in value[1:-1].split(",")]
    return _typed(f"{key}=[{','.join(hydra_quoted(item) for item in items)}]", items)


def as_mapping(override: str) -> str | None:
    """The same for a value `{a:0: b}`, the colons in its names escaped; None for others."""
    key, _, value = override.partition("=")
    if not (value.startswith("{") and value.endswith("}")):
        return None
    escaped = _COLON_IN_NAME.sub(r"\\:", value)
    typed = f"{key}={escaped}"
    return shlex.quote(typed) if isinstance(_read(typed), dict) else None


# The colon behind a name is followed by a space, a list, a mapping or a quoted text.
_COLON_IN_NAME = re.compile(r"""(?<!\\):(?![\s\[{"'])""")


def _typed(override: str, meaning: object) -> str | None:
    """The override quoted for a shell, if Hydra reads from it what is meant."""
    return shlex.quote(override) if _read(override) == meaning else None


def _read(override: str) -> object:
    """The value that Hydra reads from an override; None where it refuses it."""
    try:
        return OverridesParser.create().parse_override(override).value()
    except HydraException:
        return None
