"""Plain data to values: a composed configuration to a `Job`, and the mapping of `diff --map`."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml  # type: ignore[import-untyped]
from omegaconf import DictConfig, OmegaConf

from extractkit import advice
from extractkit.config import GROUPS, options
from extractkit.config.messages import not_chosen, translated
from extractkit.core.component import Component
from extractkit.core.job import Job, Runtime
from extractkit.core.selectors import parse_selector
from extractkit.core.trust import NO_TRUST, RAY_ADDRESS, Trust
from extractkit.errors import ConfigError, choices
from extractkit.runs.comparing.pairing import FileMapping

# An experiment is spread over the other groups and leaves no key of its own.
_KEYS = tuple(group for group in GROUPS if group != "experiment")
# How tensors of a model in memory are listed.
_IN_PYTHON = "list(model.catalog)"
_OF_KERAS = "from extractkit.models.live import live_model; list(live_model(model).catalog)"


def to_job(
    cfg: DictConfig,
    given_overrides: Sequence[str],
    model_name: str,
    live: Mapping[str, Component] | None = None,
    trust: Trust = NO_TRUST,
    options: Sequence[str] = (),
) -> Job:
    """Return the job that a composed configuration describes.

    Args:
        cfg: composed, without Hydra's own node.
        given_overrides, model_name, live, trust, options: as of `job_of`.

    Raises:
        ConfigError: as `job_of`; a value that is missing, or an interpolation that leads nowhere.
    """
    return job_of(_plain(cfg), given_overrides, model_name, live, trust, options)


def job_of(
    entries: Mapping[str, object],
    given_overrides: Sequence[str],
    model_name: str,
    live: Mapping[str, Component] | None = None,
    trust: Trust = NO_TRUST,
    options: Sequence[str] = (),
) -> Job:
    """Return the job that plain configuration data describes, such as a manifest's.

    Args:
        entries: the whole configuration, by group.
        given_overrides: as they were typed.
        model_name: the chosen entry of the `model` group.
        live: components that stand in for the groups of their names, for objects in memory.
        trust: what the user vouches for; nothing else is imported that a file names.
        options: those of the command line by which the configuration is found, for messages.

    Raises:
        ConfigError: a key that does not exist, at any level; a value that does not fit; a
            `_target_` or a Ray cluster that is not trusted; a `_target_` that cannot be called with
            these arguments.
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
        listing = _IN_PYTHON if "live" in model.arguments else _OF_KERAS
    else:
        words = [*options, *(word for module in trust.modules for word in ("--trust", module))]
        listing = advice.listing(model_name, given_overrides, words, selectors)
    job = Job(
        model=model,
        inputs=live.get("inputs") or _component("inputs", entries, trust),
        selectors=tuple(parse_selector(name, mapping) for name, mapping in selectors.items()),
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


def _plain(cfg: DictConfig) -> dict[str, object]:
    """Return the configuration as plain data, interpolations resolved."""
    with translated():
        for key in sorted(OmegaConf.missing_keys(cfg)):
            raise ConfigError(f"{key} is not set. Give it: {key}=…")
        resolved = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


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


def read_mapping(path: str | Path) -> FileMapping:
    """Return the mapping of addresses between two runs, in the file's order.

    The file is one YAML mapping, each entry `ADDRESS: ADDRESS`. Nothing is interpolated: a dollar
    sign is part of an address.

    Raises:
        ConfigError: there is no such file, it is no UTF-8 text or no YAML, or it holds something
            else.
    """
    text = _text(path)
    with translated():
        named = io.StringIO(text)
        named.name = str(path)  # as YAML's errors tell it
        try:
            loaded = OmegaConf.load(named)
        except (OSError, RecursionError) as error:  # a lone number; what holds itself
            raise ConfigError(f"{path} {_NOTHING}") from error
        content = OmegaConf.to_container(loaded, resolve=False)
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"{path} {_NOTHING}")
    for left, right in content.items():
        if not isinstance(left, str) or not isinstance(right, str):
            raise ConfigError(f"{path}: {left!r}: {right!r} is no entry. Write texts: {_FORM}")
    entries = {str(left): str(right) for left, right in content.items()}
    return FileMapping(entries, str(path), _lines(text))


_FORM = '"dense:output": "model/dense/BiasAdd:0"'
_NOTHING = f"holds no mapping. Write one line for each tensor: {_FORM}"


def _text(path: str | Path) -> str:
    """Read a whole file. It may be a pipe, so read it once."""
    with translated():
        try:
            return Path(path).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path} is not UTF-8 text: {error}") from error


def _lines(text: str) -> dict[str, int]:
    """Return the line of each key of a YAML mapping."""
    entries = yaml.compose(text, yaml.SafeLoader).value
    return {key.value: key.start_mark.line + 1 for key, _ in entries}
