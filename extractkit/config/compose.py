"""Compose jobs from overrides with Hydra: one, or each job of a sweep."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict, read_write

from extractkit.config import ROOT, config_directory
from extractkit.config.hydra_internals import BASIC_SWEEPER, own_state, swept_jobs
from extractkit.config.messages import translated
from extractkit.config.overrides import as_typed, leaves, trust_of, values_of, with_added_keys
from extractkit.config.plain_data import Composition, job_of
from extractkit.config.security import guarded
from extractkit.core.component import Component
from extractkit.core.job import Job
from extractkit.core.trust import NO_TRUST, Trust
from extractkit.errors import ConfigError
from extractkit.runs.environment import now
from extractkit.runs.sweeps import JobStatus, SweepJob

VERSION_BASE = "1.3"
PROGRAM = "extractkit"


def compose(
    overrides: Sequence[str],
    live: Mapping[str, Component] | None = None,
    trusted: Sequence[str] = (),
    values: Sequence[str] = (),
) -> Composition:
    """Compose a job as the command line would, without changing Hydra's global state.

    Args:
        overrides: overrides as on the command line. Code that they name is trusted.
        live: components that replace the groups of their names ("model", "inputs"). No override
            may set these groups.
        trusted: modules whose callables a file may name.
        values: further overrides, which are trusted no more than a file.

    Raises:
        ConfigError: the overrides do not compose to a job, or a file names code that is not
            trusted.
    """
    for group in live or {}:
        _check_no_settings(group, overrides)
    deleted = [f"~{group}" for group in live or {}]
    trust = trust_of(overrides, trusted)
    with own_state(), guarded(trust), translated([*overrides, *values]):
        with hydra.initialize_config_dir(
            str(config_directory()), job_name=PROGRAM, version_base=VERSION_BASE
        ):
            cfg = hydra.compose(
                ROOT, [*with_added_keys([*overrides, *values]), *deleted], return_hydra_config=True
            )
        HydraConfig.instance().set_config(cfg)
        directory = Path(cfg.hydra.run.dir).absolute()
        with open_dict(cfg):
            del cfg["hydra"]
        return composition(cfg, directory, live, trust)


def _check_no_settings(group: str, overrides: Sequence[str]) -> None:
    """Check that no override configures a group that is given as an object.

    Raises:
        ConfigError: there is such an override.
    """
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if key == group or key.startswith(f"{group}."):
            value = override.partition("=")[2]
            wrapped = f"extractkit.models.in_memory.live_model(model, state={value!r})"
            instead = f" Of a Keras model: model={wrapped}" if key == "model.state" else ""
            raise ConfigError(
                f"{override!r}: {group} is given as an object, which takes no settings from the "
                f"configuration. Leave one of the two out.{instead}"
            )


def composition(
    cfg: DictConfig,
    directory: Path,
    live: Mapping[str, Component] | None = None,
    trust: Trust = NO_TRUST,
) -> Composition:
    """Return the job of a composed configuration whose `hydra` node was moved to HydraConfig.

    Raises:
        ConfigError: as `plain_data.job_of`.
    """
    # Its type is HydraConf, but it is the node {"hydra": …} that holds one.
    whole = cast(DictConfig, HydraConfig.instance().cfg)
    with read_write(whole.hydra):
        whole.hydra.runtime.output_dir = str(directory)
    # Not resolved: an override may contain an interpolation, and is recorded as typed.
    overrides = OmegaConf.to_container(whole.hydra.overrides.task, resolve=False)
    assert isinstance(overrides, list)
    given = [as_typed(str(override)) for override in overrides]
    typed = [override for override in given if override.removeprefix("~") not in (live or {})]
    model_name = str(whole.hydra.runtime.choices.get("model") or "model")
    return Composition(
        job=_to_job(cfg, typed, model_name, live, trust, _options(whole.hydra)),
        directory=directory,
        hydra_files={
            "config.yaml": OmegaConf.to_yaml(cfg),
            "hydra.yaml": OmegaConf.to_yaml(whole),
            "overrides.yaml": OmegaConf.to_yaml(given),
        },
    )


def _to_job(
    cfg: DictConfig,
    given_overrides: Sequence[str],
    model_name: str,
    live: Mapping[str, Component] | None = None,
    trust: Trust = NO_TRUST,
    options: Sequence[str] = (),
) -> Job:
    """Return the job that a composed configuration describes.

    Args:
        cfg: the composed configuration without Hydra's own node.
        given_overrides, model_name, live, trust, options: see `job_of`.

    Raises:
        ConfigError: see `job_of`; or a value is missing, or an interpolation cannot be resolved.
    """
    return job_of(_plain(cfg), given_overrides, model_name, live, trust, options)


def _plain(cfg: DictConfig) -> dict[str, object]:
    """Return the configuration as plain data, with interpolations resolved."""
    with translated():
        # Unresolved, since a resolver may be slow or give another value each time.
        written = OmegaConf.to_container(cfg, resolve=False)
        for key in sorted(".".join(keys) for keys, value in leaves(written) if value == MISSING):
            raise ConfigError(f"{key} is not set. Give it: {key}=…")
        resolved = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def _options(hydra_config: DictConfig) -> list[str]:
    """Return the command line's options for the location of configuration files."""
    sources = hydra_config.runtime.config_sources
    found = [("--config-dir", str(one.path)) for one in sources if one.provider == "command-line"]
    main = next(str(one.path) for one in sources if one.provider == "main")
    if Path(main) != config_directory():
        found.append(("--config-path", main))
    if hydra_config.job.config_name != ROOT:
        found.append(("--config-name", str(hydra_config.job.config_name)))
    searched = [str(one) for one in hydra_config.overrides.hydra if "searchpath" in str(one)]
    return [*(word for option in found for word in option), *searched]


def planned_jobs(config: DictConfig) -> list[SweepJob]:
    """Return a record for each job of a sweep, by number, with the error "not begun".

    The list is empty if the jobs are not known: for sweepers that decide while they run, and for
    `glob`, which only Hydra expands.
    """
    sweeper = config.hydra.sweeper
    if sweeper.get("_target_") != BASIC_SWEEPER:
        return []
    written = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    assert isinstance(written, list)
    always = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
    try:
        together = swept_jobs([*always, *map(str, written)])
    except HydraException:
        return []  # Hydra reports what is wrong with them
    return [
        _planned(number, tuple(map(as_typed, overrides)))
        for number, overrides in enumerate(together)
    ]


def _planned(number: int, overrides: tuple[str, ...]) -> SweepJob:
    return SweepJob(
        number=number,
        overrides=overrides,
        values=values_of(overrides),
        run=str(number),  # the job records its own directory when it begins
        attempt=1,
        status=JobStatus.NOT_STARTED,
        started=now(),
        error="not begun",
    )
