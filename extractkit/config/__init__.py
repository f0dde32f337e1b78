"""Composition of a job from YAML and overrides. Only this package uses Hydra and OmegaConf.

The functions here find the configuration files and list what can be chosen. They do not need Hydra.
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from extractkit.errors import ConfigError

ROOT = "config"
"""Name of the primary configuration file."""

GROUPS = ("model", "inputs", "selectors", "sinks", "runtime", "experiment")
"""Folders of options, in the order of the help."""


def config_directory() -> Path:
    """Return the folder of `config.yaml`: the installed package's copy, or else the checkout's.

    Raises:
        ConfigError: neither exists.
    """
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "conf", package.parent / "conf"):
        if (candidate / f"{ROOT}.yaml").is_file():
            return candidate
    raise ConfigError(
        f"the configuration files are missing: neither {package / 'conf'} nor "
        f"{package.parent / 'conf'} holds {ROOT}.yaml. Install extractkit again"
    )


def new_run_directory() -> Path:
    """Return a run directory named after the time, as in config.yaml."""
    return Path("outputs", f"{datetime.now():%Y-%m-%d}", f"{datetime.now():%H-%M-%S}").absolute()


def with_run_dir(arguments: Sequence[str], *, swept: bool) -> list[str]:
    """Return the arguments with `run_dir=DIR` replaced by Hydra's own key.

    Only typed arguments are replaced. Configuration files use Hydra's own keys.

    Args:
        arguments: Arguments of the command line, or overrides.
        swept: Whether they describe a sweep, whose directory is another key.

    Raises:
        ConfigError: The directory is given twice, or is empty.
    """
    given = [one for one in arguments if one.startswith(_DIRECTORIES)]
    if not any(one.startswith(_RUN_DIR) for one in given):
        return list(arguments)
    if len(given) > 1:
        raise ConfigError(f"the run directory is given twice: {' and '.join(given)}. Give one")
    if given == [_RUN_DIR]:
        raise ConfigError("run_dir is empty. Give a directory: run_dir=runs/first")
    key = SWEEP_DIR if swept else RUN_DIR
    return [
        f"{key}={one.removeprefix(_RUN_DIR)}" if one.startswith(_RUN_DIR) else one
        for one in arguments
    ]


def with_plain_run_dir(override: str) -> str:
    """Return an override of one of Hydra's directories with `run_dir` as its key."""
    key, equals, value = override.partition("=")
    return f"{_RUN_DIR}{value}" if equals and key in (RUN_DIR, SWEEP_DIR) else override


RUN_DIR, SWEEP_DIR = "hydra.run.dir", "hydra.sweep.dir"
"""Hydra's keys that `run_dir` replaces."""

_RUN_DIR = "run_dir="
_DIRECTORIES = (_RUN_DIR, f"{RUN_DIR}=", f"{SWEEP_DIR}=")


def options(group: str) -> list[str]:
    """Return the names of extractkit's own configuration files in a group."""
    return sorted(path.stem for path in (config_directory() / group).glob("*.yaml"))
