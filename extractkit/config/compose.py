"""Composing a job without a command line, and what both ways make of a composed configuration."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from extractkit.component import Component
from extractkit.config.convert import to_job
from extractkit.config.directory import ROOT, config_directory
from extractkit.config.guard import guarded
from extractkit.config.messages import translated
from extractkit.config.nested import as_typed, opened
from extractkit.config.typed import trust_of
from extractkit.errors import ConfigError
from extractkit.job import Job
from extractkit.trust import NOBODY, Trust

VERSION_BASE = "1.3"
PROGRAM = "extractkit"


@dataclass(frozen=True)
class Composition:
    """A job, where it goes, and what was composed for it.

    Attributes:
        job: the job.
        directory: the run directory that was asked for, absolute.
        hydra_files: text of each file of `.hydra/`, by name.
    """

    job: Job
    directory: Path
    hydra_files: Mapping[str, str]


def compose(
    overrides: Sequence[str],
    live: Mapping[str, Component] | None = None,
    trusted: Sequence[str] = (),
) -> Composition:
    """Compose a job as the command line would; Hydra's global state is left as it was.

    Args:
        overrides: as on the command line; what they name themselves is trusted.
        live: components that stand in for the groups of their names ("model", "inputs"), which
            then are not to be chosen.
        trusted: modules whose callables a file may name too.

    Raises:
        ConfigError: the overrides do not compose, or not to a job, or a file names code that is
            not trusted.
    """
    for group in live or {}:
        _check_no_settings(group, overrides)
    left_out = [f"~{group}" for group in live or {}]
    trust = trust_of(overrides, trusted)
    with _own_hydra(), guarded(trust), translated(overrides):
        with hydra.initialize_config_dir(
            str(config_directory()), job_name=PROGRAM, version_base=VERSION_BASE
        ):
            cfg = hydra.compose(ROOT, [*opened(overrides), *left_out], return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        directory = Path(cfg.hydra.run.dir).absolute()
        with open_dict(cfg):
            del cfg["hydra"]
        return composition(cfg, directory, live, trust)


def _check_no_settings(group: str, overrides: Sequence[str]) -> None:
    """Check that nothing configures what is given as an object.

    Raises:
        ConfigError: an override does.
    """
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if key == group or key.startswith(f"{group}."):
            value = override.partition("=")[2]
            wrapped = f"extractkit.models.live.live_model(model, state={value!r})"
            instead = f" Of a Keras model: model={wrapped}" if key == "model.state" else ""
            raise ConfigError(
                f"{override!r}: {group} is given as an object, which takes no settings from the "
                f"configuration. Leave one of the two out.{instead}"
            )


def composition(
    cfg: DictConfig,
    directory: Path,
    live: Mapping[str, Component] | None = None,
    trust: Trust = NOBODY,
) -> Composition:
    """What a composed configuration asks for; its `hydra` node has been moved to HydraConfig.

    Raises:
        ConfigError: as `to_job`.
    """
    # Declared as the dataclass that it is modelled on, it is a node {"hydra": …}.
    whole = cast(DictConfig, HydraConfig.instance().cfg)
    with read_write(whole.hydra):
        whole.hydra.runtime.output_dir = str(directory)
    # Unresolved: an override may itself hold an interpolation, and stays as it was typed.
    overrides = OmegaConf.to_container(whole.hydra.overrides.task, resolve=False)
    assert isinstance(overrides, list)
    given = [as_typed(str(override)) for override in overrides]
    typed = [override for override in given if override.removeprefix("~") not in (live or {})]
    model_name = str(whole.hydra.runtime.choices.get("model") or "model")
    return Composition(
        job=to_job(cfg, typed, model_name, live, trust, _options(whole.hydra)),
        directory=directory,
        hydra_files={
            "config.yaml": OmegaConf.to_yaml(cfg),
            "hydra.yaml": OmegaConf.to_yaml(whole),
            "overrides.yaml": OmegaConf.to_yaml(given),
        },
    )


def _options(hydra_config: DictConfig) -> list[str]:
    """What was typed to say where configuration lies."""
    sources = hydra_config.runtime.config_sources
    folders = [str(one.path) for one in sources if one.provider == "command-line"]
    searched = [str(one) for one in hydra_config.overrides.hydra if "searchpath" in str(one)]
    return [*(word for folder in folders for word in ("--config-dir", folder)), *searched]


@contextmanager
def _own_hydra() -> Iterator[None]:
    """Lend Hydra's singletons to one composition, inside another Hydra application if need be."""
    application, config = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    version = VersionBase.instance().version_base
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = application
        HydraConfig.instance().cfg = config
        VersionBase.instance().version_base = version
