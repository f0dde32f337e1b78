"""What the user typed himself: that, and not a file's word, decides which code may run."""

from collections.abc import Iterator, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from extractkit.component import IMPORTS
from extractkit.config.leaves import leaves
from extractkit.config.nested import opened
from extractkit.trust import CUSTOM_OBJECTS, Trust

_TARGET = "_target_"
_IMPORTS = f"model.{IMPORTS}"


def trust_of(arguments: Sequence[str], trusted: Sequence[str] = ()) -> Trust:
    """The trust that a command line, or the overrides given to the library, express.

    Args:
        arguments: overrides, and options, as they were typed; of a sweep every value counts.
        trusted: modules named by `--trust`.

    Raises:
        ConfigError: one of `trusted` is no dotted name.
    """
    settings = dict.fromkeys(pair for override in _read(arguments) for pair in _settings(override))
    return Trust(
        modules=tuple(trusted),
        targets=frozenset(str(value) for key, value in settings if _names_target(key)),
        settings=frozenset(f"{key}={value}" for key, value in settings),
    )


def _read(arguments: Sequence[str]) -> Iterator[Override]:
    """The overrides that can be read; what cannot is told when Hydra reads them."""
    parser = OverridesParser.create()
    for argument in opened(arguments):
        try:
            yield parser.parse_override(argument)
        except HydraException:
            continue


def _settings(override: Override) -> Iterator[tuple[str, str]]:
    """Each key with its value as a text."""
    if override.is_delete():
        return
    values = _swept(override) if override.is_sweep_override() else [override.value()]
    for value in values:
        for place, leaf in leaves(value, override.key_or_group):
            yield ".".join(place), str(leaf)


def _swept(override: Override) -> list[object]:
    try:
        return [Override._convert_value(value) for value in override.sweep_iterator()]
    except HydraException:
        return []  # what a sweeper draws, or finds in a group, is not what the user typed


def _names_target(key: str) -> bool:
    *above, last = key.split(".")
    return last == _TARGET or CUSTOM_OBJECTS in above[-1:] or key.startswith(_IMPORTS)
