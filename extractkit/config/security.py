"""Refusal of configuration that would run foreign code, before Hydra acts on it.

Configuration is checked as written. An interpolation may become a mapping with a `_target_` later,
so it is refused where such a mapping would be called. The check comes first because Hydra
instantiates callbacks and sets up loggers before it calls the application.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial

from omegaconf import DictConfig, ListConfig, OmegaConf

from extractkit.config.hydra_internals import (
    BASIC_LAUNCHER,
    Checks,
    checked_loading,
    stored_nodes,
)
from extractkit.config.overrides import leaves, name
from extractkit.core.component import import_from_here
from extractkit.core.trust import Trust
from extractkit.errors import ConfigError

_OWN_CALLBACKS = (
    "extractkit.config.app.KeepOff",
    "hydra.experimental.callbacks.LogJobReturnCallback",
)
# What sends data away, or writes it elsewhere: only for those who ask for it by name.
_TRACKERS = {
    "mlflow": "extractkit.config.trackers.LogToMLflow",
    "wandb": "extractkit.config.trackers.LogToWandB",
}
_LOGGING = (
    "logging.FileHandler",
    "logging.Formatter",
    "logging.NullHandler",
    "logging.StreamHandler",
    "colorlog.ColoredFormatter",  # of hydra-colorlog
)
_LOG_FILE = "${hydra.runtime.output_dir}/${hydra.job.name}.log"
_STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
# Keys under which `logging.config` looks for callables.
_CALLED = ("()", "class", "factory", "queue", "listener")
# Launchers that do not send jobs to other machines, where they may cost money or reach data.
_LAUNCHERS = (
    BASIC_LAUNCHER,
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
    "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher",
)
_LAUNCHER = "hydra.launcher"
_CHOICE = "hydra/launcher"
_CALLBACKS = "hydra.callbacks"
_TRACKER = "hydra/callbacks"
_TARGET = "_target_"
_INTERPOLATION = "${"

_Keys = tuple[str, ...]


def check_hydra(node: DictConfig, trust: Trust) -> None:
    """Refuse a configuration that would run foreign code when Hydra uses it.

    Args:
        node: the composed `hydra` node.
        trust: the user's trust and typed settings.

    Raises:
        ConfigError: the configuration would run foreign code.
    """
    written = OmegaConf.to_container(node, resolve=False, enum_to_str=True)
    assert isinstance(written, dict)
    for section in ("hydra_logging", "job_logging"):
        if isinstance(written[section], Mapping) and written[section].get("root") is None:
            del written[section]  # Hydra does not use it
    for keys, value in leaves(written):
        rule = _RULES.get(keys[0], _no_target)
        if isinstance(value, str) and not rule(keys, value):
            _check_typed(".".join(("hydra", *keys)), value, trust)
    for keys, value in _odd_keys(written["launcher"], "launcher"):
        _check_typed(".".join(("hydra", *keys)), str(value), trust)


def check_search_path(entries: object, trust: Trust) -> None:
    """Refuse packages in Hydra's search path, because Hydra would import them.

    Raises:
        ConfigError: a package was not typed and is not trusted.
    """
    if not isinstance(entries, Sequence | ListConfig) or isinstance(entries, str):
        return  # Hydra reports what is wrong with it
    for index, entry in enumerate(entries):
        scheme, found, location = str(entry).partition("://")
        if found and scheme != "file" and not trust.vouches(location.replace("/", ".")):
            _check_typed(f"hydra.searchpath.{index}", str(entry), trust)


def launcher_needs_trust(trust: Trust) -> bool:
    """Return whether a typed launcher setting would need `--trust` in a file."""
    for setting in trust.settings:
        key, _, value = setting.partition("=")
        if key == _CHOICE and not set(_targets(value)) <= set(_LAUNCHERS):
            return True
        if key.startswith(f"{_LAUNCHER}.") and not _NUMBER.fullmatch(value):
            return True
    return False


_NUMBER = re.compile(r"[-+0-9.e]+|True|False|None")


def _targets(launcher: str) -> Iterator[str]:
    """Return the targets of the installed launcher of this name, if there is one."""
    node = stored_nodes("launcher").get(f"{launcher}.yaml")
    if node is not None:
        yield str(node.get(_TARGET))


def _chosen(at: str, value: str, trust: Trust) -> bool:
    """Return whether it is the launcher, or a tracker, that the user chose by name."""
    typed = [setting.partition("=") for setting in trust.settings]
    names = [name for key, _, name in typed if key == _CHOICE]
    if at == f"{_LAUNCHER}.{_TARGET}":
        return any(value in _targets(name) for name in names)
    return (
        value in _tracking(trust) and re.fullmatch(rf"{_CALLBACKS}\.\w+\.{_TARGET}", at) is not None
    )


def callbacks_need_trust(trust: Trust) -> bool:
    """Return whether a typed tracker, or a setting of one, would need `--trust` in a file."""
    keys = [setting.partition("=")[0] for setting in trust.settings]
    return bool(_tracking(trust)) or any(key.startswith(f"{_CALLBACKS}.") for key in keys)


def _tracking(trust: Trust) -> list[str]:
    """Return the callbacks for trackers that the user chose by name, alone or in a list."""
    typed = [setting.partition("=") for setting in trust.settings]
    names = {name for key, _, name in typed if key.partition(".")[0] == _TRACKER}
    return [target for name, target in _TRACKERS.items() if name in names]


def _check_typed(at: str, value: str, trust: Trust) -> None:
    target = at.endswith(f".{_TARGET}")
    if target and trust.vouches(value):
        import_from_here()
    elif not (
        f"{at}={value}" in trust.settings or trust.names_key(at) or _chosen(at, value, trust)
    ):
        # The code of installed packages is trusted, but not the possible cost of a launcher.
        target = target and (_TARGET, value) not in set(_offered())
        module = value.rpartition(".")[0] or value
        section = ".".join(at.split(".")[: 3 if at.startswith("hydra.job.") else 2])
        raise ConfigError(
            f"{at}={value!r} is refused: a file sets it, not the command line, and Hydra "
            f"could run foreign code with it. If you trust it, type it, or: "
            f"--trust {module if target else section}"
        )


def _odd_keys(value: object, *keys: str) -> Iterator[tuple[_Keys, object]]:
    """Yield keys that would be more than a name in a queue's script, each with its value."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            if not re.fullmatch(r"[\w-]+", str(key)):
                yield (*keys, str(key)), entry
            yield from _odd_keys(entry, *keys, str(key))
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _odd_keys(entry, *keys, str(index))


def _no_target(keys: _Keys, value: str) -> bool:
    """Accept any key but `_target_`, so nothing else is called."""
    return name(keys) != _TARGET


def _callback(keys: _Keys, value: str) -> bool:
    """Accept only callbacks that stay in the process, and no text for one, such as an address."""
    return name(keys) == _TARGET and value in _OWN_CALLBACKS


def _plugin(keys: _Keys, value: str) -> bool:
    """Accept only values that launchers and sweepers have themselves.

    Other texts may be shell commands or names of callables. Overrides that a sweeper gives to each
    job are accepted, because the composed job is checked.
    """
    if keys[:2] == ("sweeper", "params") and len(keys) > 2:
        return name(keys) != _TARGET and _INTERPOLATION not in value
    if keys == ("launcher", _TARGET):
        return value in _LAUNCHERS
    return (name(keys), value) in set(_offered())


def _logging(keys: _Keys, value: str) -> bool:
    """Accept only handlers and formatters that write to the terminal or to Hydra's own log."""
    if name(keys) == "filename":
        return value == _LOG_FILE
    if "." in keys or _INTERPOLATION in value:  # "." sets attributes
        return False
    if name(keys) in _CALLED:
        return value in _LOGGING
    return value in _STREAMS or not value.startswith(("ext://", "cfg://"))


def _job(keys: _Keys, value: str) -> bool:
    """Accept only environment variables that are copied, and no name that leads elsewhere."""
    if keys[1] == "env_set":
        return os.environ.get(keys[-1]) == value
    return keys[1] != "name" or _file_name(keys, value)


def _file_name(keys: _Keys, value: str) -> bool:
    """Accept only names of files without a directory."""
    return not any(part in value for part in ("/", "..", _INTERPOLATION))


_RULES = {
    "callbacks": _callback,
    "hydra_logging": _logging,
    "job_logging": _logging,
    "launcher": _plugin,
    "sweeper": _plugin,
    "job": _job,
    "output_subdir": _file_name,
}


def _offered() -> Iterator[tuple[str, str]]:
    """Yield key and text of everything in the configurations of Hydra and installed plugins."""
    for node in stored_nodes().values():
        written = OmegaConf.to_container(node, resolve=False, enum_to_str=True)
        for keys, value in leaves(written):
            if isinstance(value, str):
                yield name(keys), value


def guarded(trust: Trust) -> AbstractContextManager[None]:
    """Let Hydra compose only configurations without foreign code, or trusted ones.

    Loading raises a ConfigError if something under `hydra` would run foreign code.
    """
    return checked_loading(
        Checks(
            composed=partial(check_hydra, trust=trust),
            search_path=partial(check_search_path, trust=trust),
            absent=_absent,
        )
    )


def _absent(error: KeyError) -> ConfigError:
    return ConfigError(f"hydra.job.env_copy: {error} is not in the environment")
