"""Hydra overrides as users type them: parse them, quote them, and decide what they trust."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence

from hydra.errors import HydraException

from extractkit.advice import hydra_quoted
from extractkit.config.hydra_internals import Override, converted, parse_override
from extractkit.core.component import IMPORTS
from extractkit.core.job import settings_that
from extractkit.core.keys import Effect
from extractkit.core.trust import CUSTOM_OBJECTS, Trust
from extractkit.errors import ConfigError
from extractkit.runs.schema import plain


def leaves(value: object, *keys: str) -> Iterator[tuple[tuple[str, ...], object]]:
    """Yield each value that is neither a mapping nor a list, with its keys and indices.

    Args:
        value: plain data with unresolved interpolations.
        keys: the keys that lead to `value`.
    """
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from leaves(entry, *keys, str(key))
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from leaves(entry, *keys, str(index))
    else:
        yield keys, value


def name(keys: tuple[str, ...]) -> str:
    """Return the last key, without indices of lists."""
    return next((key for key in reversed(keys) if not key.isdigit()), "")


def values_of(overrides: Sequence[str]) -> dict[str, object]:
    """Return the value of each override by its key, without plus or tilde.

    The value of a deleted key is None. Overrides that cannot be parsed are omitted: Hydra reports
    them when it composes.
    """
    found: dict[str, object] = {}
    for text in overrides:
        try:
            override = parse_override(text)
            found[_key(override)] = None if override.is_delete() else plain(override.value())
        except (HydraException, TypeError):
            continue
    return found


def _key(override: Override) -> str:
    package = f"@{override.package}" if override.package else ""
    return f"{override.key_or_group}{package}"


# `model.factory.units=3` names a key that only the factory knows, so Hydra would ask for a plus.
# Whether the key exists is checked when the model is loaded.
_INSIDE = re.compile(
    r"(model\.(factory|input_axes|constants|custom_objects)|inputs\.(dataset|columns|features))\.[^=]+="
)


def with_added_keys(arguments: Sequence[str]) -> list[str]:
    """Mark overrides of nested arguments as adding their key, so that Hydra accepts them."""
    return [f"++{one}" if _INSIDE.match(one) else one for one in arguments]


def as_typed(override: str) -> str:
    """Undo `with_added_keys` for one override."""
    bare = override.removeprefix("++")
    return bare if _INSIDE.match(bare) else override


def as_given(override: str) -> str:
    """Quote an override for a shell."""
    return shlex.quote(override)


def as_text(override: str) -> str | None:
    """Quote `key=value` for Hydra and a shell so that the value is one string.

    Returns:
        None if no quoting of the value helps, because the key is at fault.
    """
    key, equals, value = override.partition("=")
    return _typed(f"{key}={hydra_quoted(value)}", value) if equals else None


def as_list(override: str) -> str | None:
    """Quote `key=[a,b]` so that each item is one string; None if the value is not a list."""
    key, _, value = override.partition("=")
    if not (value.startswith("[") and value.endswith("]")):
        return None
    items = [item.strip() for item in value[1:-1].split(",")]
    return _typed(f"{key}=[{','.join(hydra_quoted(item) for item in items)}]", items)


def as_mapping(override: str) -> str | None:
    """Quote `key={a:0: b}`, colons in names escaped; None if the value is not a mapping."""
    key, _, value = override.partition("=")
    if not (value.startswith("{") and value.endswith("}")):
        return None
    escaped = _COLON_IN_NAME.sub(r"\\:", value)
    typed = f"{key}={escaped}"
    return shlex.quote(typed) if isinstance(_read(typed), dict) else None


# The colon behind a name is followed by a space, a list, a mapping or a quoted text.
_COLON_IN_NAME = re.compile(r"""(?<!\\):(?![\s\[{"'])""")


def _typed(override: str, meaning: object) -> str | None:
    """Quote an override for a shell if Hydra parses the intended value from it."""
    return shlex.quote(override) if _read(override) == meaning else None


def _read(override: str) -> object:
    """Return the value that Hydra parses from an override; None if it refuses the override."""
    try:
        return parse_override(override).value()
    except HydraException:
        return None


_KEYS = tuple(f"runtime.{key}" for key in settings_that(Effect.WHERE))


def where_it_runs(verb: str, overrides: Sequence[str]) -> dict[str, object]:
    """Return the settings of `runtime` that a resume or rerun may change, by key.

    Args:
        verb: the command, for messages.
        overrides: as on the command line.

    Raises:
        ConfigError: an override changes something else, or cannot be parsed.
    """
    found: dict[str, object] = {}
    for text in overrides:
        try:
            one = parse_override(text)
        except HydraException:
            one = None
        if one is None or one.key_or_group not in _KEYS or one.is_delete():
            raise ConfigError(
                f"{verb}: {text!r} cannot be given: the run keeps its settings. Only where it "
                f"runs may be given: {', '.join(_KEYS)}"
            )
        if one.is_sweep_override():
            raise ConfigError(f"{verb}: {text!r} gives several values. Give one")
        found[one.key_or_group.removeprefix("runtime.")] = converted(one.value())
    return found


_TARGET = "_target_"
_IMPORTS = f"model.{IMPORTS}"


def trust_of(arguments: Sequence[str], trusted: Sequence[str] = ()) -> Trust:
    """Return the trust that a command line, or overrides given to the library, express.

    Args:
        arguments: overrides and options as typed. Every value of a sweep counts.
        trusted: modules named by `--trust`.

    Raises:
        ConfigError: one of `trusted` is not a dotted name.
    """
    settings = dict.fromkeys(
        pair for override in _parsed(arguments) for pair in _settings(override)
    )
    return Trust(
        modules=tuple(trusted),
        targets=frozenset(str(value) for key, value in settings if _names_target(key)),
        settings=frozenset(f"{key}={value}" for key, value in settings),
    )


def _parsed(arguments: Sequence[str]) -> Iterator[Override]:
    """Yield the overrides that can be parsed; Hydra reports the others later."""
    for argument in with_added_keys(arguments):
        try:
            yield parse_override(argument)
        except HydraException:
            continue


def _settings(override: Override) -> Iterator[tuple[str, str]]:
    """Yield each key of an override with its value as a string."""
    if override.is_delete():
        return
    values = _swept(override) if override.is_sweep_override() else [override.value()]
    for value in values:
        for keys, leaf in leaves(value, override.key_or_group):
            yield ".".join(keys), str(leaf)


def _swept(override: Override) -> list[object]:
    try:
        return [converted(value) for value in override.sweep_iterator()]
    except HydraException:
        return []  # values that a sweeper draws, or finds in a group, were not typed


def _names_target(key: str) -> bool:
    *above, last = key.split(".")
    return last == _TARGET or CUSTOM_OBJECTS in above[-1:] or key.startswith(_IMPORTS)
