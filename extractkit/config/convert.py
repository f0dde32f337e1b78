"""Plain data to a job: a composed configuration, or the one that a manifest records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from extractkit import advice
from extractkit.config import GROUPS, options
from extractkit.core.component import Component
from extractkit.core.job import Job, Runtime, moved
from extractkit.core.selectors import parse_selector
from extractkit.core.trust import NO_TRUST, RAY_ADDRESS, Trust
from extractkit.errors import ConfigError, RunDirectoryError, choices
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
) -> Job:
    """Return the job that plain configuration data describes, such as a manifest's.

    Args:
        entries: the whole configuration, by group.
        given_overrides: the overrides as typed.
        model_name: the chosen entry of the `model` group.
        live: components that replace the groups of their names, for objects in memory.
        trust: the user's trust. Other callables that a file names are not imported.
        options: the command line's options for the location of configuration files, for messages.

    Raises:
        ConfigError: a key does not exist, at any level; a value does not fit; a `_target_` or a Ray
            cluster is not trusted; or a `_target_` cannot be called with these arguments.
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
    manifest: Manifest,
    trusted: Sequence[str] = (),
    live: Mapping[str, Component] | None = None,
    where: Mapping[str, object] | None = None,
) -> Job:
    """Return the job of a run. A manifest is trusted no more than any other file.

    Args:
        trusted: modules named by `--trust`.
        live: components that replace the groups of their names ("model", "inputs"). Objects that
            were in memory have to be given again.
        where: settings of `runtime` (`Effect.PLACE`) that replace the recorded ones. The user
            typed them, so they are trusted. The recorded configuration is unchanged.

    Raises:
        ConfigError: the configuration names a callable that is not trusted, or does not fit.
        RunDirectoryError: the model or the inputs were in memory and are not given.
    """
    if lost := in_memory(manifest, live or {}):
        arguments = ", ".join(f"{group}=…" for group in lost)
        raise RunDirectoryError(
            f"{' and '.join(lost)} of the run stood in memory, and no manifest can hold them. Give "
            f"them again in Python: extractkit.resume, rerun and verify take {arguments}"
        )
    entries: Mapping[str, object] = manifest.job_resolved
    if manifest.volatile.working_directory is not None:
        entries = relocated(entries, Path(manifest.volatile.working_directory))
    if not where:
        return job_of(entries, manifest.job_given, manifest.model_name, live, Trust(tuple(trusted)))
    runtime = entries.get("runtime")
    settled = moved(runtime if isinstance(runtime, Mapping) else {}, where)
    typed = frozenset(f"runtime.{key}={value}" for key, value in where.items())
    trust = Trust(tuple(trusted), settings=typed)
    now = {**entries, "runtime": settled}
    job = job_of(now, manifest.job_given, manifest.model_name, live, trust)
    return replace(job, resolved=entries)


def relative_to(directory: str | None, composed: Composition, trust: Trust) -> Composition:
    """Resolve the paths of a composed job against the original working directory.

    Args:
        directory: the original working directory; None if it is unknown.
        trust: the user's trust.

    Raises:
        ConfigError: as `convert.job_of`.
    """
    if directory is None or Path(directory) == Path.cwd():
        return composed
    job = composed.job
    entries = relocated(job.resolved, Path(directory))
    return replace(composed, job=job_of(entries, job.given, job.model_name, trust=trust))
