"""Interfaces of Hydra that its documentation does not promise: the only file that uses them.

Known to work with Hydra 1.3.8 and 1.4.0rc3. `tests/internals/test_hydra.py` checks each name on
its own, so that a release without one fails with what it lacks.
"""

import pickle
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass
from operator import is_
from typing import Any, cast

import hydra._internal.config_loader_impl as _loading
import hydra._internal.hydra as _application
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.defaults_list import DefaultsList, Overrides, create_defaults_list
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigNode, ConfigStore
from hydra.core.default_element import ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from extractkit.config import config_directory

__all__ = [
    "BASIC_LAUNCHER",
    "BASIC_SWEEPER",
    "Checks",
    "Override",
    "checked_loading",
    "command_line",
    "converted",
    "own_state",
    "parse_override",
    "stored_nodes",
    "swept_jobs",
]

BASIC_LAUNCHER = f"{BasicLauncher.__module__}.{BasicLauncher.__qualname__}"
"""The `_target_` of Hydra's own launcher."""

BASIC_SWEEPER = f"{BasicSweeper.__module__}.{BasicSweeper.__qualname__}"
"""The `_target_` of Hydra's own sweeper."""


# ---------------------------------------------------------------------------- overrides


def parse_override(text: str) -> Override:
    """Parse one override of a command line.

    Uses `OverridesParser` and the `Override` that it returns. Hydra documents the grammar, but no
    function that reads it.

    Raises:
        HydraException: The text is not an override.
    """
    return OverridesParser.create().parse_override(text)


def converted(value: object) -> object:
    """Convert a parsed value to plain Python: quoted strings to text, and so on within lists.

    Uses `Override._convert_value`, which `Override.value()` calls for values that are not swept.
    Hydra has no public equivalent for the single values of a sweep.
    """
    return Override._convert_value(cast(Any, value))


def swept_jobs(overrides: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the overrides of each job that Hydra's own sweeper makes of these, in its order.

    Uses `BasicSweeper.split_arguments`. Hydra has no public way to list the jobs of a sweep before
    it runs.

    Raises:
        HydraException: The overrides cannot be parsed, or not be swept.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    (together,) = BasicSweeper.split_arguments(parsed, None)
    return [tuple(one) for one in together]


def command_line(arguments: Sequence[str]) -> Namespace:
    """Parse a command line with Hydra's own argument parser.

    Uses `get_args_parser`. `hydra.main` builds the same parser, but does not expose it.
    """
    return get_args_parser().parse_args(list(arguments))


# ---------------------------------------------------------------------------- state


@contextmanager
def own_state() -> Iterator[None]:
    """Let Hydra be initialised anew within the block, and restore its former state on exit.

    Assigns to `GlobalHydra.hydra`, `HydraConfig.cfg` and `VersionBase`. The public `clear` and
    `initialize` keep nothing of an application that is already running.
    """
    application, config = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    version = VersionBase.instance().version_base
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = application
        HydraConfig.instance().cfg = config
        VersionBase.instance().version_base = version


def stored_nodes(*group: str) -> dict[str, Any]:
    """Return the configurations under `hydra` that Hydra and installed plugins registered.

    Uses `ConfigStore.repo`. The public `load` and `list` raise an error for missing names, and read
    one name at a time.

    Args:
        group: Names of nested groups below `hydra`. Without any, all of `hydra`.

    Returns:
        Each registered node by its path below the group ("basic.yaml").
    """
    here: Any = ConfigStore.instance().repo.get("hydra", {})
    for name in group:
        here = here.get(name, {})
    return dict(_nodes(here))


def _nodes(entries: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, entry in entries.items():
        if isinstance(entry, ConfigNode):
            yield f"{path}{name}", entry.node
        else:
            yield from _nodes(entry, f"{path}{name}/")


# ---------------------------------------------------------------------------- loading


@dataclass(frozen=True)
class Checks:
    """Checks of a configuration before Hydra uses it. They travel to the processes of launchers.

    Attributes:
        composed: Called with the composed `hydra` node.
        search_path: Called with each value of `hydra.searchpath`, before Hydra imports a package
            that it names.
        absent: Called with a KeyError that is not OmegaConf's: a variable of `hydra.job.env_copy`
            that is not set. Returns the exception to raise.
    """

    composed: Callable[[DictConfig], None]
    search_path: Callable[[object], None]
    absent: Callable[[KeyError], Exception]


_checks: ContextVar[Checks | None] = ContextVar("checks", default=None)
_lock = threading.Lock()
_inside = 0


@contextmanager
def checked_loading(checks: Checks) -> Iterator[None]:
    """Let Hydra compose only what passes the checks within the block, in this thread.

    Replaces the names `ConfigLoaderImpl` and `Hydra` in `hydra._internal.hydra`, and
    `create_defaults_list` in `hydra._internal.config_loader_impl`: Hydra has no public way to give
    an application another loader, or a loader another list. From Hydra 1.4 on,
    `execution_whitelist` covers a part of the checks (targets and logging), but not the search
    path, the environment, names of files or the commands of launchers.
    """
    global _inside
    token = _checks.set(checks)
    with _lock:
        _inside += 1
        _replace(CheckedLoader, SingleComposition, defaults_list)
    try:
        yield
    finally:
        _checks.reset(token)
        with _lock:
            _inside -= 1
            if not _inside:
                _replace(ConfigLoaderImpl, Hydra, create_defaults_list)


def _replace(
    loader: type[ConfigLoaderImpl],
    application: type[Hydra],
    listing: Callable[..., DefaultsList],
) -> None:
    for name, one in {"ConfigLoaderImpl": loader, "Hydra": application}.items():
        setattr(_application, name, one)
    vars(_loading)["create_defaults_list"] = listing


_read: dict[tuple[str, str], bytes] = {}
"""What was read of the packages' files, by folder and path.

Each is pickled, because Hydra changes what it gets and `deepcopy` takes four times as long.
"""


_merged: dict[tuple[object, ...], tuple[Sequence[Any], bytes]] = {}
"""What the packages' files of a defaults list compose to, with the nodes registered at that time.

Plugins register nodes at any time.
"""

_listed: dict[tuple[object, ...], tuple[Sequence[Any], bytes]] = {}
"""The defaults list of each choice of the packages' files, with the nodes registered then."""


class Repository(ConfigRepository):
    """The files on Hydra's search path. The packages' own are read once in each process.

    Overrides `load_config` and uses `_find_object_source`. Hydra keeps files for one composition
    only, but each job of a sweep is composed anew. Files in other folders may change.
    """

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)

    def __deepcopy__(self, memo: object) -> "Repository":
        """Copy what a composition changes: the list of sources, which it replaces.

        A source holds all configurations that are registered.
        """
        return copy(self)

    def load_config(self, config_path: str) -> ConfigResult | None:
        folder = self._folder(config_path)
        if folder is None:
            return super().load_config(config_path)
        if (folder, config_path) in _read:
            return cast(ConfigResult, pickle.loads(_read[folder, config_path]))
        found = super().load_config(config_path)
        if found is not None and not found.is_schema_source:  # plugins register schemas at any time
            _read[folder, config_path] = pickle.dumps(found)
        return found

    def _folder(self, config_path: str) -> str | None:
        """Return where the packages' file of a path is, or None if another comes first."""
        if _are_of_the_packages(self.sources):
            return _PACKAGES
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        if source is None or (source.scheme(), source.path) not in _of_the_packages():
            return None
        return source.path


_PACKAGES = "the packages' own"


def _of_the_packages() -> list[tuple[str, str]]:
    """Return the scheme and path of each folder with files of the packages, in Hydra's order."""
    return [("pkg", "hydra.conf"), ("file", str(config_directory()))]


def _are_of_the_packages(sources: Sequence[ConfigSource]) -> bool:
    """Return whether Hydra searches the packages' own files alone."""
    searched = [(source.scheme(), source.path) for source in sources]
    return searched == [*_of_the_packages(), ("structured", "")]


def defaults_list(
    repo: CachingConfigRepository,
    config_name: str | None,
    overrides_list: list[Override],
    prepend_hydra: bool,
    skip_missing: bool,
) -> DefaultsList:
    """Return the files that overrides choose, found once for each choice in each process.

    Replaces `create_defaults_list`, which takes most of the time of a composition. Only files
    of the packages themselves are kept, and no choice that depends on the environment, as an
    interpolation may.
    """
    whole = [config_name, prepend_hydra, skip_missing]
    overrides = Overrides(repo=repo, overrides_list=overrides_list)
    settings = set(map(id, overrides.config_overrides))
    chosen = [one.input_line for one in overrides_list if id(one) not in settings]
    if not _are_of_the_packages(repo.get_sources()) or any("${" in str(one) for one in chosen):
        return create_defaults_list(repo, config_name, overrides_list, prepend_hydra, skip_missing)
    choice = *whole, *chosen
    registered = [node for _, node in _nodes(ConfigStore.instance().repo)]
    if choice in _listed:
        before, kept = _listed[choice]
        if _same(before, registered):
            found = cast(DefaultsList, pickle.loads(kept))
            found.config_overrides = found.overrides.config_overrides = overrides.config_overrides
            return found
    found = create_defaults_list(repo, config_name, overrides_list, prepend_hydra, skip_missing)
    read = (one for one in repo.cache.values() if one is not None)
    if not any("${" in str(vars(entry)) for one in read for entry in one.defaults_list or ()):
        found.config_overrides = found.overrides.config_overrides = []
        _listed[choice] = registered, pickle.dumps(found)
        found.config_overrides = found.overrides.config_overrides = overrides.config_overrides
    return found


def _same(one: Sequence[object], other: Sequence[object]) -> bool:
    return len(one) == len(other) and all(map(is_, one, other))


class CheckedLoader(ConfigLoaderImpl):
    """Hydra's loader of configurations, with checks. Launchers send it to other processes.

    Overrides `_load_configuration_impl`, which all public and private ways to compose lead to:
    Hydra 1.4 no longer calls `load_configuration` for an application. A loader that another thread
    makes in the meantime has no checks. Overrides `_compose_config_from_defaults_list`, too, to
    merge the same files once.
    """

    repository: Repository

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self.repository = Repository(config_search_path)
        self._checks = _checks.get()

    def _load_configuration_impl(self, *args: Any, **kwargs: Any) -> DictConfig:
        try:
            composed = super()._load_configuration_impl(*args, **kwargs)
        except KeyError as error:
            if self._checks is None or isinstance(error, OmegaConfBaseException):
                raise
            raise self._checks.absent(error) from error
        if self._checks is not None:
            self._checks.composed(composed.hydra)
        return composed

    def _compose_config_from_defaults_list(self, defaults: list[ResultDefault], repo: Any) -> Any:
        """Merge the files of a defaults list, once in each process where all are the packages' own.

        Overrides are applied to the result.
        """
        if not _are_of_the_packages(repo.get_sources()):
            return super()._compose_config_from_defaults_list(defaults, repo)
        files = tuple((one.config_path, one.package) for one in defaults)
        registered = [node for _, node in _nodes(ConfigStore.instance().repo)]
        if files in _merged:
            before, merged = _merged[files]
            if _same(before, registered):
                return pickle.loads(merged)
        composed = super()._compose_config_from_defaults_list(defaults, repo)
        _merged[files] = registered, pickle.dumps(composed)
        return composed

    def _process_config_searchpath(
        self, config_name: str | None, parsed_overrides: list[Override], repo: Any
    ) -> None:
        if self._checks is not None:
            for entries in _asked(config_name, parsed_overrides, repo):
                self._checks.search_path(entries)
        super()._process_config_searchpath(config_name, parsed_overrides, repo)


class SingleComposition(Hydra):
    """Hydra's application, which composes a job once.

    Overrides `get_mode`, for which Hydra composes the whole configuration a first time.
    """

    def get_mode(self, config_name: str | None, overrides: list[str]) -> Any:
        """Return `hydra.mode`: None where nothing sets it, as in the packages' own files."""
        loader = cast(CheckedLoader, self.config_loader)
        others = [one for one in overrides if not one.startswith(_DIRECTORIES)]
        set_by_override = any("hydra" in one.partition("=")[0] for one in others)
        if _are_of_the_packages(loader.get_sources()) and not set_by_override:
            return None
        return super().get_mode(config_name, overrides)


_DIRECTORIES = ("hydra.run.dir=", "hydra.sweep.dir=")
_SEARCH_PATH = "hydra.searchpath"


def _asked(
    config_name: str | None, parsed_overrides: Sequence[Override], repo: Any
) -> Iterator[object]:
    """Yield the search paths in overrides and the primary configuration."""
    for one in parsed_overrides:
        # Hydra 1.4 takes `hydra[searchpath]` too.
        if one.key_or_group.replace("[", ".").replace("]", "") == _SEARCH_PATH:
            yield one.value()
    primary = repo.load_config(config_path=config_name) if config_name else None
    if primary is not None and OmegaConf.is_dict(primary.config):
        yield OmegaConf.select(primary.config, _SEARCH_PATH)
