"""The composed configuration as a `Job`: the one place that refuses what does not exist."""

from collections.abc import Mapping, Sequence

from omegaconf import DictConfig, OmegaConf

from extractkit.config.directory import GROUPS, options
from extractkit.config.messages import not_chosen, translated
from extractkit.errors import ConfigError, choices
from extractkit.job import Component, Job, Runtime
from extractkit.selectors import parse_selector

# An experiment is spread over the other groups and leaves no key of its own.
_KEYS = tuple(group for group in GROUPS if group != "experiment")


def to_job(
    cfg: DictConfig,
    given_overrides: Sequence[str],
    model_name: str,
    live: Mapping[str, Component] | None = None,
) -> Job:
    """The job that a composed configuration describes.

    Args:
        cfg: composed, without Hydra's own node.
        given_overrides: as they were typed.
        model_name: the chosen entry of the `model` group.
        live: components that stand in for the groups of their names, for objects in memory.

    Raises:
        ConfigError: a key that does not exist, at any level; a value that is missing or does not
            fit; a `_target_` that cannot be called with these arguments.
    """
    entries = _plain(cfg)
    live = live or {}
    for key in entries:
        if key not in _KEYS:
            raise ConfigError(f"{key} does not exist. {choices(key, _KEYS)}")
    job = Job(
        model=live.get("model") or _component("model", entries),
        inputs=live.get("inputs") or _component("inputs", entries),
        selectors=tuple(
            parse_selector(name, mapping) for name, mapping in _group("selectors", entries).items()
        ),
        sinks=_sinks(_group("sinks", entries)),
        runtime=Runtime.parse(_group("runtime", entries)),
        model_name=model_name,
        given=tuple(given_overrides),
        resolved=entries,
    )
    for component in (job.model, job.inputs, *job.sinks.values()):
        component.check()
    return job


def _plain(cfg: DictConfig) -> dict[str, object]:
    """The configuration as plain data, interpolations resolved."""
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


def _component(name: str, entries: Mapping[str, object]) -> Component:
    if entries.get(name) is None:
        raise ConfigError(not_chosen(name))
    return Component.parse(name, entries[name])


def _sinks(entries: Mapping[str, object]) -> dict[str, Component]:
    if not entries:
        raise ConfigError(not_chosen("sinks"))
    return {name: Component.parse(f"sinks.{name}", entry) for name, entry in entries.items()}
