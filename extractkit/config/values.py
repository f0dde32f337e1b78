"""The overrides of one job as plain data: what it was given by key."""

from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from extractkit.runs.schema import plain


def values_of(overrides: Sequence[str]) -> dict[str, object]:
    """The value of each override, by its key without plus or tilde.

    None stands for a key that is deleted. What cannot be read is left out: composing tells.
    """
    parser = OverridesParser.create()
    found: dict[str, object] = {}
    for text in overrides:
        try:
            override = parser.parse_override(text)
            found[_key(override)] = None if override.is_delete() else plain(override.value())
        except (HydraException, TypeError):
            continue
    return found


def _key(override: Override) -> str:
    package = f"@{override.package}" if override.package else ""
    return f"{override.key_or_group}{package}"
