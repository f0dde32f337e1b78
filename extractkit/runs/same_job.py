"""The same job again: found among finished runs, compared with a record, repeated by a command."""

import logging
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from extractkit.advice import command, hydra_override
from extractkit.core.job import SETTINGS, Runtime
from extractkit.core.transforms.projection import decisive
from extractkit.errors import ConfigError, RunDirectoryError, counted
from extractkit.runs import HYDRA, MANIFEST, RUN_KEY, SAMPLES, SWEEP
from extractkit.runs import manifest as manifests
from extractkit.runs.checking.files import damage, lasting_damage
from extractkit.runs.environment import VALUE_PACKAGES, VALUES_VERSION, package_versions
from extractkit.runs.files import content_of
from extractkit.runs.manifest import Manifest, RunStatistics, RunTensor, Status
from extractkit.runs.schema import digest, plain

_log = logging.getLogger(__name__)

_FEW = 3

_NEW = "keep_texts"
"""The key of `runtime` that older runs of the current schema do not record."""

MACHINE_SETTINGS = frozenset({"cpus"})
"""Settings of the machine, which change no bits because the thread count is fixed."""


def differences(recorded: Manifest, now: Manifest) -> list[str]:
    """List how a run's job and environment differ from the record.

    Each entry names one thing, its recorded value and the value found now.
    """
    return [*job_differences(recorded, now), *surrounding_differences(recorded, now)]


def job_differences(recorded: Manifest, now: Manifest) -> list[str]:
    """List how a run's weights, inputs and tensors differ from the record."""
    return _unequal(
        {
            **_checkpoints(recorded, now),
            "the model's weights": (recorded.model.get("weights"), now.model.get("weights")),
            "the inputs": (_samples(recorded), _samples(now)),
            "the tensors": (_stored_keys(recorded), _stored_keys(now)),
            "the statistics": (_statistics(recorded), _statistics(now)),
            "the components of other runs": (_components(recorded), _components(now)),
            "the seed": (plain(recorded.seeds), plain(now.seeds)),
        }
    )


def _statistics(manifest: Manifest) -> list[Any]:
    return [
        plain((one.key, decisive(one.transforms), one.statistics)) for one in manifest.statistics
    ]


def _components(manifest: Manifest) -> list[Any]:
    return [[one.at, one.tensor, one.sha256] for one in manifest.components]


def surrounding_differences(recorded: Manifest, now: Manifest) -> list[str]:
    """List differences that may change the last bits of values, or what the model computes."""
    pairs: dict[str, tuple[Any, Any]] = {
        "what the model computes": (recorded.model.get("definition"), now.model.get("definition")),
        "the tensors' records": (_records(recorded), _records(now)),
    }
    for name in sorted({*recorded.environment, *now.environment}):
        pairs[f"the variable {name}"] = (
            recorded.environment.get(name),
            now.environment.get(name),
        )
    for name in sorted({*recorded.settings, *now.settings} - MACHINE_SETTINGS):
        recorded_value = plain(recorded.settings.get(name))
        pairs[f"the setting {name!r}"] = (recorded_value, plain(now.settings.get(name)))
    return [
        *_unequal(pairs),
        *version_differences(recorded, now.values_version, now.versions),
    ]


def version_differences(
    recorded: Manifest, values_version: int, versions: Mapping[str, str]
) -> list[str]:
    """List how the code that computes and stores values differs from the record."""
    pairs: dict[str, tuple[Any, Any]] = {
        "extractkit's values version": (recorded.values_version, values_version)
    }
    for name in (*VALUE_PACKAGES, *recorded.plugins):
        pairs[f"the version of {name}"] = (recorded.versions.get(name), versions.get(name))
    return _unequal(pairs)


def part_differences(one: Manifest, other: Manifest) -> list[str]:
    """List how two parts differ in anything that decides bytes and that parts of a job share."""
    groups = ["selectors", "sinks", "runtime"]
    if one.identity is None or other.identity is None:  # what the model computes is unknown
        groups += ["model", "inputs"]
    pairs: dict[str, tuple[Any, Any]] = {
        f"the configuration of {group}": (
            digest(_configured(one, group)),
            digest(_configured(other, group)),
        )
        for group in groups
    }
    pairs["the plan"] = (digest(one.plan), digest(other.plan))
    pairs["the seeds"] = (digest(one.seeds), digest(other.seeds))
    pairs[SAMPLES] = (_file(one, SAMPLES), _file(other, SAMPLES))
    pairs["the processor"] = (
        one.volatile.host.get("processor"),
        other.volatile.host.get("processor"),
    )
    pairs["the identity"] = (one.identity, other.identity)
    return [*differences(one, other), *_unequal(pairs)]


def _configured(manifest: Manifest, group: str) -> Any:
    entries = manifest.job_resolved.get(group)
    if group != "runtime" or not isinstance(entries, Mapping):
        return entries
    free = {key.name for key in SETTINGS if not key.effect.decides_bytes}
    found = {key: value for key, value in entries.items() if key not in free}
    # A run from before there was the key had what is its default.
    return {_NEW: Runtime.keep_texts, **found}


def _file(manifest: Manifest, name: str) -> str | None:
    return next((file.digest for file in manifest.files if file.name == name), None)


def tensors_key(tensors: Iterable[RunTensor | RunStatistics]) -> list[Any]:
    """Return, as plain data, what decides how tensors and statistics are stored.

    Omits the layers' own names, which Keras numbers by what was built before in the process.
    Addresses name the same layers in every process. Omits names of axes that describe them, and the
    transforms of tensors, which follow from the selectors and are part of the identity by
    themselves.
    """
    return [_tensor_key(tensor) for tensor in tensors]


def _tensor_key(tensor: RunTensor | RunStatistics) -> dict[str, Any]:
    scopes = tuple(replace(scope, name="") for scope in tensor.record.scopes)
    spec = tensor.record.spec.undescribed
    record = replace(tensor.record, name="", scopes=scopes, spec=spec)
    if isinstance(tensor, RunStatistics):
        transforms = decisive(tensor.transforms)
        own = replace(tensor, record=record, transforms=transforms, spec=tensor.spec.undescribed)
        return _with_request(plain(own))
    stored = replace(tensor.stored, spec=tensor.stored.spec.undescribed)
    key = plain(replace(tensor, record=record, stored=stored))
    del key["transforms"], key["result"]
    return _with_request(key)


def _with_request(key: Mapping[str, Any]) -> dict[str, Any]:
    """Return a key with the entries of the request in its place, as older runs have it."""
    others = {name: value for name, value in key.items() if name != "request"}
    return {**others, **key["request"]}


def _records(manifest: Manifest) -> str:
    return digest(tensors_key([*manifest.tensors, *manifest.statistics]))


def _unequal(pairs: Mapping[str, tuple[Any, Any]]) -> list[str]:
    return [
        f"{what}: {_short(before)} was recorded, {_short(after)} is found"
        for what, (before, after) in pairs.items()
        if before != after
    ]


def _checkpoints(recorded: Manifest, now: Manifest) -> dict[str, tuple[object, object]]:
    """Return the first few checkpoints that differ from the record, by label."""
    before, after = ({one.label: one.sha256 for one in m.checkpoints} for m in (recorded, now))
    other = [label for label in {**before, **after} if before.get(label) != after.get(label)]
    return {
        f"checkpoint {label!r}": (before.get(label, "none"), after.get(label, "none"))
        for label in other[:_FEW]
    }


def _stored_keys(manifest: Manifest) -> str:
    keys = [tensor.key for tensor in manifest.tensors]
    return f"{counted(len(keys), 'tensor')} {digest(keys)[:12]}"


def _samples(manifest: Manifest) -> str:
    if manifest.inputs is None:
        return "none"
    return f"{counted(manifest.inputs.count, 'sample')} {manifest.inputs.digest}"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def check_versions(directory: Path, recorded: Manifest) -> None:
    """Make sure that this code and its libraries may resume a run, before anything is loaded.

    Raises:
        RunDirectoryError: values would have to be computed with versions that differ from those of
            the committed shards.
    """
    if recorded.plan is None:  # nothing is committed, so everything is recorded again
        return
    versions = package_versions((*VALUE_PACKAGES, *recorded.plugins))
    found = version_differences(recorded, VALUES_VERSION, versions)
    if found and not _holds_all_values(directory, recorded):
        raise RunDirectoryError(
            f"{directory} cannot be resumed: its values would not be those of one job. "
            f"{'; '.join(found)}. Install the recorded versions, or compute every sample anew: "
            f"{command('rerun', directory)}. What is committed stays readable: "
            f"{command('show', directory)}"
        )


def _holds_all_values(directory: Path, recorded: Manifest) -> bool:
    """Return whether a run is finished, and recomputing could not restore what it lacks."""
    return recorded.status is Status.FINISHED and set(damage(directory, recorded)) <= set(
        lasting_damage(directory, recorded)
    )


def check_configuration(directory: Path, recorded: Manifest, now: Mapping[str, object]) -> None:
    """Check that a run is continued with selectors, sinks and runtime settings as recorded.

    Args:
        now: the configuration given now, by group.

    Raises:
        RunDirectoryError: a group differs in what decides bytes.
    """
    given = replace(recorded, job_resolved=now)
    pairs = {
        group: (_configured(recorded, group), _configured(given, group))
        for group in ("selectors", "sinks", "runtime")
    }
    if found := _unequal({group: (plain(one), plain(two)) for group, (one, two) in pairs.items()}):
        raise RunDirectoryError(
            f"{directory} cannot be resumed with other settings: {'; '.join(found)}. Give the "
            f"recorded ones, or choose another directory: {RUN_KEY}=…"
        )


def check_same(recorded: Manifest, now: Manifest, given: str) -> None:
    """Check that a resumed run would compute the same values.

    Args:
        given: the run directory, for the message.

    Raises:
        RunDirectoryError: something differs; the message lists everything.
    """
    if found := differences(recorded, now):
        raise RunDirectoryError(
            f"{given} cannot be resumed: its values would not be those of one job. "
            f"{'; '.join(found)}. Put back what was there, or run the job anew"
        )


def check_repeats(run: Path, recorded: Manifest, now: Manifest) -> None:
    """Check that a job repeats another run. Machine and libraries may differ.

    Args:
        run: the directory of the other run, for the message.
        recorded: its manifest.

    Raises:
        RunDirectoryError: weights, inputs or tensors differ; the message lists everything.
    """
    if found := job_differences(recorded, now):
        raise RunDirectoryError(
            f"the run cannot be repeated: {'; '.join(found)}. Put back what was there, or run the "
            f"job anew: {repeated(run, recorded, unused_beside(run))}"
        )


def find_finished(root: Path, identity: str, note: Callable[[str], None]) -> Path | None:
    """Return an undamaged finished run of this identity at or below `root`, or None.

    Of several, the one whose path sorts first is returned.

    Args:
        note: receives a message for each damaged run of this identity.

    Raises:
        ConfigError: `root` is not a directory.
    """
    if not os.path.isdir(root):  # noqa: PTH112 - accepts a name that is too long to exist
        raise ConfigError(
            f"runtime.reuse_from={str(root)!r} is not a directory. Give one that holds runs, such "
            f"as outputs, or null"
        )
    for directory in _runs(root.absolute()):
        try:
            found = manifests.read(directory)
        except RunDirectoryError as error:
            _log.info("not reused: %s", error)
            continue
        whole = found.status is Status.FINISHED and found.part is None
        if found.identity != identity or not whole:
            continue
        if broken := next(iter(damage(directory, found)), None):
            note(f"not reused: {broken}")
            continue
        return directory
    return None


def _runs(root: Path) -> Iterator[Path]:
    """Yield the run directories at or below a directory, without looking inside them."""
    for parent, directories, files in os.walk(root):
        directories.sort()
        if MANIFEST in files:
            directories.clear()
            yield Path(parent)


_PART = "runtime.part"
_ROOT = "config"  # of every job without --config-name


def repeated(directory: Path, recorded: Manifest, made: Path, changed: Sequence[str] = ()) -> str:
    """Return the shell command that runs the job of a run again.

    The command finds the same configuration: it contains the recorded options for the location of
    configuration files, and changes to the directory in which the job was started.

    Args:
        directory: The run directory.
        recorded: The manifest of the run.
        made: The directory to write to.
        changed: Overrides in place of those with the same keys, and other words.
    """
    keys = {_PART, *map(_key, changed)}
    given = [one for one in recorded.job_given if _key(one) not in keys]
    into = hydra_override(RUN_KEY, os.path.abspath(made))  # noqa: PTH100 - links stay
    line = f"extractkit {shlex.join([*_options(directory), *given, *changed, into])}"
    started_in = recorded.volatile.working_directory
    if started_in is None or Path(started_in) == Path.cwd():
        return line
    return f"cd {shlex.quote(started_in)} && {line}"


def unused_beside(directory: Path) -> Path:
    """Return an unused path beside a run, or beside the sweep that it is in."""
    sweep = next((one for one in directory.parents if (one / SWEEP).exists()), None)
    if sweep is None:
        base, first = directory, 2
    else:
        inside = "-".join(directory.relative_to(sweep).parts)
        base, first = sweep.with_name(f"{sweep.name}-{inside}"), 1
    named = (base if one == 1 else base.with_name(f"{base.name}-{one}") for one in count(first))
    return next(one for one in named if not one.exists())


def _key(given: str) -> str:
    return given.lstrip("+~").partition("=")[0]


def _options(directory: Path) -> list[str]:
    """Return the options by which Hydra found the configuration; none if its record is lost."""
    try:
        recorded = yaml.safe_load(content_of(directory / HYDRA / "hydra.yaml"))
        return list(_of(recorded["hydra"]))
    except (
        *(OSError, RunDirectoryError, yaml.YAMLError, RecursionError),
        *(LookupError, TypeError, ValueError),
    ):
        return []


def _of(hydra: Any) -> Iterator[str]:
    for source in hydra["runtime"]["config_sources"]:
        if source["provider"] == "command-line":
            yield from ("--config-dir", str(source["path"]))
    if (name := hydra["job"]["config_name"]) != _ROOT:
        yield from ("--config-name", str(name))
    yield from (str(one) for one in hydra["overrides"]["hydra"] if "searchpath" in str(one))
