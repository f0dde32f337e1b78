"""Plain Python values for groups of the configuration.

They are checked and recorded as if they had been typed, but trusted no more than a file: a program
may have read them from one. Beside overrides, they are turned into overrides for Hydra to compose.
For a live model without overrides they are composed here, without Hydra.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import yaml  # type: ignore[import-untyped]

from extractkit.advice import hydra_quoted, is_another_type
from extractkit.config import ROOT, config_directory, new_run_directory, options
from extractkit.config.convert import Composition, job_of
from extractkit.core.component import Component
from extractkit.core.trust import Trust
from extractkit.errors import ConfigError, choices

_NAME = re.compile(r"[A-Za-z_][\w-]*")
_PLAIN_KEY = re.compile(r"\w[\w.*-]*")
_POSITION = re.compile(r"0|[1-9][0-9]*", re.ASCII)
_READY = "_target_"


def from_values(overrides: Sequence[str], groups: Mapping[str, object]) -> list[str]:
    """Return the overrides for plain values.

    Args:
        overrides: the other overrides, as on the command line.
        groups: the value of each group: an entry's name, a list of names, or a mapping. None: the
            group is left to the overrides.

    Raises:
        ConfigError: a value has no form in YAML, or is given as an override as well.
    """
    made = [one for group, value in groups.items() for one in _overrides(group, value)]
    if not overrides:
        return made
    from extractkit.config.overrides import values_of

    twice = values_of(made).keys() & values_of(overrides).keys()
    if twice:
        key = min(twice)
        raise ConfigError(
            f"{key} is given twice: as an override and as {key.partition('.')[0]}=. Leave one of "
            f"the two out"
        )
    return made


def compose_values(
    groups: Mapping[str, object], live: Mapping[str, Component], trusted: Sequence[str] = ()
) -> Composition:
    """Compose the job of a live model from plain values.

    Args:
        groups: as for `from_values`.
        live: the model, and the inputs if they are live as well.
        trusted: modules whose callables the values may name.

    Raises:
        ConfigError: the values do not describe a job, or name code that is not trusted.
    """
    given = from_values((), groups)
    chosen = {group: value for group, value in _defaults().items() if group not in live}
    entries = {
        group: _entries(group, groups.get(group), default) for group, default in chosen.items()
    }
    job = job_of(entries, given, "model", live, Trust(tuple(trusted)))
    return Composition(job, new_run_directory(), hydra_files={})


def _defaults() -> dict[str, object]:
    """Return the default choice of each group."""
    listed = _read(ROOT)["defaults"]
    chosen = {group: name for one in listed if one != "_self_" for group, name in one.items()}
    return {group: chosen[group] for group in ("inputs", "selectors", "sinks", "runtime")}


def _entries(group: str, value: object, default: object) -> dict[str, object]:
    """Return a group as plain data: the files that are chosen, and the values over them."""
    if not isinstance(value, Mapping):
        return _chosen(group, default if value is None else value)
    values: dict[str, Any] = {str(name): _plain(entry) for name, entry in value.items()}
    if group != "sinks":
        return {**_chosen(group, default), **values}
    made: dict[str, object] = {}
    added: dict[str, object] = {}
    for name, entry in values.items():
        if isinstance(entry, Mapping) and _READY in entry:
            added[name] = entry
        else:
            made |= {
                one: {**settings, **(entry or {})} for one, settings in _chosen(group, name).items()
            }
    return {**made, **added}


def _chosen(group: str, names: Any) -> dict[str, Any]:
    """Return what the files of these names hold together.

    Raises:
        ConfigError: there is no file of a name.
    """
    found: dict[str, Any] = {}
    for name in [names] if isinstance(names, str) else names:
        if name not in options(group):
            raise ConfigError(f"{group}={name} does not exist. {choices(name, options(group))}")
        found |= _read(f"{group}/{name}")
    return found


def _read(name: str) -> dict[str, Any]:
    text = (config_directory() / f"{name}.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


def _plain(value: object) -> object:
    """Return a value as YAML has it. `from_values` has refused what has no form there."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(entry) for entry in value]
    return value


def _overrides(group: str, value: object) -> Iterator[str]:
    if value is None:
        return
    if isinstance(value, str):
        yield f"{group}={_name(group, value)}"
    elif isinstance(value, Mapping):
        yield from _of_mapping(group, value)
    elif isinstance(value, Sequence) and group != "runtime":
        yield f"{group}=[{','.join(_name(group, one) for one in value)}]"
    else:
        names = "a name or" if group == "runtime" else "a name, a list of names or"
        raise ConfigError(f"{group}={value!r} is {type(value).__name__}, not {names} a mapping")


def _of_mapping(group: str, entries: Mapping[object, object]) -> Iterator[str]:
    names = [_name(group, name) for name in entries]
    if group == "sinks":
        ready = [
            name
            for name, entry in zip(names, entries.values(), strict=True)
            if not (isinstance(entry, Mapping) and _READY in entry)
        ]
        yield f"sinks=[{','.join(ready)}]"
    for name, entry in zip(names, entries.values(), strict=True):
        key = f"{group}.{name}"
        if group == "runtime":
            yield f"{key}={_text(entry, key)}"
        elif group == "selectors" or name not in ready:
            yield f"+{key}={_text(entry, key)}"
        elif isinstance(entry, Mapping):
            for setting, one in entry.items():
                within = f"{key}.{_name(key, setting)}"
                yield f"{within}={_text(one, within)}"
        elif entry is not None:
            raise ConfigError(
                f"{key}={entry!r} is {type(entry).__name__}, not a mapping of settings"
            )


def _name(group: str, name: object) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(f"{group}: {name!r} is not a name of letters, digits, '_' and '-'")
    return name


def _text(value: object, at: str) -> str:
    """Return a value in Hydra's grammar.

    Raises:
        ConfigError: YAML has no such value.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        # OmegaConf would resolve "${…}".
        return hydra_quoted(re.sub(r"(\\*)\$\{", r"\1\1\\${", value))
    if isinstance(value, Mapping):
        inside = [f"{_key(key, at)}:{_text(one, f'{at}.{key}')}" for key, one in value.items()]
        return f"{{{','.join(inside)}}}"
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        items = [_text(one, f"{at}[{number}]") for number, one in enumerate(value)]
        return f"[{','.join(items)}]"
    raise ConfigError(
        f"{at}={value!r} is {type(value).__name__}. Give a string, a number, a truth value, None, "
        f"a list or a mapping"
    )


def _key(key: object, at: str) -> str:
    if isinstance(key, bool) or not isinstance(key, str | int):
        raise ConfigError(f"{at}: key {key!r} is {type(key).__name__}, not a string")
    text = str(key)
    if not _PLAIN_KEY.fullmatch(text):
        raise ConfigError(f"{at}: key {text!r} has other characters than letters and digits")
    # Hydra's grammar has no quotes for keys. A whole number may be the position of an axis.
    if is_another_type(text) and not _POSITION.fullmatch(text):
        raise ConfigError(
            f"{at}: key {text!r} would be read as a truth value, null or a number. Rename it, or "
            f"write the mapping in a YAML file, with the key in quotes (--config-dir)"
        )
    return text
