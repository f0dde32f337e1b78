"""A job from plain data: a composed or recorded configuration, or Python values.

Python values are checked and recorded as if they had been typed, but trusted no more than a file: a
program may have read them from one. Beside overrides, they are turned into overrides for Hydra to
compose. For a live model without overrides they are composed here, without Hydra.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml  # type: ignore[import-untyped]

from extractkit import advice
from extractkit.advice import hydra_quoted, is_another_type
from extractkit.config import GROUPS, ROOT, config_directory, new_run_directory, options
from extractkit.core.component import Component
from extractkit.core.job import Job, Runtime, moved
from extractkit.core.selectors import parse_selector
from extractkit.core.trust import NO_TRUST, RAY_ADDRESS, Trust
from extractkit.errors import ConfigError, RunDirectoryError, choices
from extractkit.runs.components import Offer, frozen, reading_runs
from extractkit.runs.files import relocated
from extractkit.runs.manifest import Manifest

# An experiment is merged into the other groups and has no key of its own.
_KEYS = tuple(group for group in GROUPS if group != "experiment")
# The Python code that lists the tensors of a model in memory.
_IN_PYTHON = "list(extractkit.catalog(model=model))"


@dataclass(frozen=True)
class Composition:
    """A job, its run directory, and the configuration files that were composed for it.

    Attributes:
        job: the job.
        directory: the requested run directory, absolute.
        hydra_files: text of each file of `.hydra/`, by name.
    """

    job: Job
    directory: Path
    hydra_files: Mapping[str, str]


def job_of(
    entries: Mapping[str, object],
    given_overrides: Sequence[str],
    model_name: str,
    live: Mapping[str, Component] | None = None,
    trust: Trust = NO_TRUST,
    options: Sequence[str] = (),
    components: Offer | None = None,
) -> Job:
    """Return the job that plain configuration data describes, such as a manifest's.

    Args:
        entries: the whole configuration, by group.
        given_overrides: the overrides as typed.
        model_name: the chosen entry of the `model` group.
        live: components that replace the groups of their names, for objects in memory.
        trust: the user's trust. Other callables that a file names are not imported.
        options: the command line's options for the location of configuration files, for messages.
        components: what projections onto the principal components of other runs get; None: what
            these runs hold now.

    Raises:
        ConfigError: a key does not exist, at any level; a value does not fit; a `_target_` or a Ray
            cluster is not trusted; a `_target_` cannot be called with these arguments; or a run
            does not have principal components.
    """
    live = live or {}
    for key in entries:
        if key not in _KEYS:
            raise ConfigError(f"{key} does not exist. {choices(key, _KEYS)}")
    runtime = Runtime.parse(_group("runtime", entries))
    if runtime.ray_address is not None:
        trust.check_setting(RAY_ADDRESS, runtime.ray_address)
    model = live.get("model") or _component("model", entries, trust)
    selectors = _group("selectors", entries)
    if "model" in live:
        listing = _IN_PYTHON
    else:
        words = [*options, *(word for module in trust.modules for word in ("--trust", module))]
        listing = advice.listing(model_name, given_overrides, words, selectors)
    offer = components or reading_runs()
    job = Job(
        model=model,
        inputs=live.get("inputs") or _component("inputs", entries, trust),
        selectors=tuple(
            replace(selector, pipeline=selector.pipeline.given(offer))
            for selector in map(parse_selector, selectors, selectors.values())
        ),
        sinks=_sinks(_group("sinks", entries), trust),
        runtime=runtime,
        model_name=model_name,
        given=tuple(given_overrides),
        resolved=entries,
        listing=listing,
    )
    for component in (job.model, job.inputs, *job.sinks.values()):
        component.check()
    return job


def _group(name: str, entries: Mapping[str, object]) -> dict[str, object]:
    value = entries.get(name) or {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name}={value!r} is not a mapping. {choices('', options(name))}")
    return {str(key): entry for key, entry in value.items()}


def _component(name: str, entries: Mapping[str, object], trust: Trust) -> Component:
    if entries.get(name) is None:
        raise ConfigError(not_chosen(name))
    return Component.parse(name, entries[name], trust)


def _sinks(entries: Mapping[str, object], trust: Trust) -> dict[str, Component]:
    if not entries:
        raise ConfigError(not_chosen("sinks"))
    return {name: Component.parse(f"sinks.{name}", entry, trust) for name, entry in entries.items()}


def not_chosen(group: str, available: Sequence[str] = ()) -> str:
    """Return the message for a group without the required choice."""
    offered = sorted(available) or options(group)
    # An option that works without changes is the better example.
    example = _READY if _READY in offered else next(iter(offered), "…")
    return (
        f"{group} is not chosen. Available: {', '.join(map(repr, offered)) or 'none'}. "
        f"Choose one: extractkit {group}={example}"
    )


_READY = "bert"


def in_memory(manifest: Manifest, live: Mapping[str, Component]) -> list[str]:
    """Return which of "model" and "inputs" were in memory for a run and are not given now."""
    groups = ("model", "inputs")
    return [one for one in groups if one not in manifest.job_resolved and one not in live]


def recorded_job(
    directory: Path,
    manifest: Manifest,
    trusted: Sequence[str] = (),
    live: Mapping[str, Component] | None = None,
    where: Mapping[str, object] | None = None,
) -> Job:
    """Return the job of a run. A manifest is trusted no more than any other file.

    Args:
        directory: the run directory, which holds the components that are frozen with the run.
        manifest: its manifest.
        trusted: modules named by `--trust`.
        live: components that replace the groups of their names ("model", "inputs"). Objects that
            were in memory have to be given again.
        where: settings of `runtime` (`Effect.WHERE`) that replace the recorded ones. The user
            typed them, so they are trusted. The recorded configuration is unchanged.

    Raises:
        ConfigError: the configuration names a callable that is not trusted, or does not fit.
        RunDirectoryError: the run was recorded by a training; or the model or the inputs were in
            memory and are not given; or the
            components onto which the run projects are damaged.
    """
    if manifest.training is not None:
        raise RunDirectoryError(
            f"{directory} was recorded while its model was trained, and the weights of its steps "
            f"existed only then. To continue it, resume the training with "
            f"extractkit.Callback(…, run_dir={str(directory)!r})"
        )
    if lost := in_memory(manifest, live or {}):
        arguments = ", ".join(f"{group}=…" for group in lost)
        raise RunDirectoryError(
            f"{' and '.join(lost)} of the run existed only in memory, and no manifest can hold "
            f"them. Give them again in Python: extractkit.resume, rerun and verify take {arguments}"
        )
    entries: Mapping[str, object] = manifest.job_resolved
    if manifest.volatile.working_directory is not None:
        entries = relocated(entries, Path(manifest.volatile.working_directory))
    components = None if manifest.plan is None else frozen(directory, manifest)
    of_run = (manifest.job_given, manifest.model_name, live)
    if not where:
        return job_of(entries, *of_run, Trust(tuple(trusted)), components=components)
    runtime = entries.get("runtime")
    settled = moved(runtime if isinstance(runtime, Mapping) else {}, where)
    typed = frozenset(f"runtime.{key}={value}" for key, value in where.items())
    trust = Trust(tuple(trusted), settings=typed)
    now = {**entries, "runtime": settled}
    job = job_of(now, *of_run, trust, components=components)
    return replace(job, resolved=entries)


def relative_to(directory: str | None, composed: Composition, trust: Trust) -> Composition:
    """Resolve the paths of a composed job against the original working directory.

    Args:
        directory: the original working directory; None if it is unknown.
        trust: the user's trust.

    Raises:
        ConfigError: as `job_of`.
    """
    if directory is None or Path(directory) == Path.cwd():
        return composed
    job = composed.job
    entries = relocated(job.resolved, Path(directory))
    return replace(composed, job=job_of(entries, job.given, job.model_name, trust=trust))


_NAME = re.compile(r"[A-Za-z_][\w-]*")
_PLAIN_KEY = re.compile(r"\w[\w.*-]*")
_POSITION = re.compile(r"0|[1-9][0-9]*", re.ASCII)
_TARGET = "_target_"


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
        if isinstance(entry, Mapping) and _TARGET in entry:
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
        return {_plain_key(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(entry) for entry in value]
    return value


def _plain_key(key: object) -> object:
    """Return a key as Hydra reads it: "1" is the number of an axis."""
    return int(key) if isinstance(key, str) and _POSITION.fullmatch(key) else key


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
            if not (isinstance(entry, Mapping) and _TARGET in entry)
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
