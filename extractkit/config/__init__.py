"""From YAML and overrides to a job. Only this room knows Hydra and OmegaConf.

The functions here find the configuration files and list what can be chosen. They do not need Hydra.
"""

from datetime import datetime
from pathlib import Path

from extractkit.errors import ConfigError

ROOT = "config"
"""Name of the primary configuration file."""

GROUPS = ("model", "inputs", "selectors", "sinks", "runtime", "experiment")
"""Folders to choose from, in the order in which a user meets them."""


def config_directory() -> Path:
    """The folder of `config.yaml`: the copy in the installed package, or else the checkout's.

    Raises:
        ConfigError: neither is there.
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
    """A run directory named after the time, as config.yaml has it for a job."""
    return Path("outputs", f"{datetime.now():%Y-%m-%d}", f"{datetime.now():%H-%M-%S}").absolute()


def options(group: str) -> list[str]:
    """What the files that come with extractkit offer in a group."""
    return sorted(path.stem for path in (config_directory() / group).glob("*.yaml"))
