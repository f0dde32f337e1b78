"""Where a recorded run is gone on with or repeated: the settings that may be changed then."""

from collections.abc import Sequence
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from extractkit.errors import ConfigError
from extractkit.job import WHERE_IT_RUNS

_KEYS = tuple(f"runtime.{key}" for key in WHERE_IT_RUNS if key != "shards")


def where_it_runs(verb: str, overrides: Sequence[str]) -> dict[str, object]:
    """The settings of `runtime` that these overrides give, by key.

    Args:
        verb: what is done with the run, for messages.
        overrides: as on the command line.

    Raises:
        ConfigError: one changes something else, or is no override.
    """
    parser = OverridesParser.create()
    found: dict[str, object] = {}
    for text in overrides:
        try:
            one = parser.parse_override(text)
        except HydraException:
            one = None
        if one is None or one.key_or_group not in _KEYS or one.is_delete():
            raise ConfigError(
                f"{verb}: {text!r} cannot be given: the run keeps its settings. What may be given "
                f"is where it runs: {', '.join(_KEYS)}"
            )
        if one.is_sweep_override():
            raise ConfigError(f"{verb}: {text!r} gives several values. Give one")
        found[one.key_or_group.removeprefix("runtime.")] = Override._convert_value(
            cast(Any, one.value())
        )
    return found
