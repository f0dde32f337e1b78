"""Hydra composes through one method: a job, a sweep, each job of a sweep in whatever process.

There a configuration is looked at before Hydra acts on it, for Hydra would instantiate callbacks
and set up loggers before the application is asked.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import hydra._internal.hydra as hydra_internals
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from extractkit.config.foreign import check_hydra, check_search_path
from extractkit.errors import ConfigError
from extractkit.trust import Trust

_LOADER = "ConfigLoaderImpl"
_SEARCH_PATH = "hydra.searchpath"


@contextmanager
def guarded(trust: Trust) -> Iterator[None]:
    """Let Hydra compose nothing but what names no foreign code, or only what is trusted.

    There is no public way to give Hydra another loader.
    """
    before = getattr(hydra_internals, _LOADER)
    setattr(hydra_internals, _LOADER, partial(GuardedLoader, trust=trust))
    try:
        yield
    finally:
        setattr(hydra_internals, _LOADER, before)


class GuardedLoader(ConfigLoaderImpl):
    """Hydra's loader of configurations; launchers send it to other processes."""

    def __init__(self, config_search_path: ConfigSearchPath, trust: Trust) -> None:
        super().__init__(config_search_path)
        self._trust = trust

    def load_configuration(self, *args: Any, **kwargs: Any) -> DictConfig:
        """As Hydra's.

        Raises:
            ConfigError: something under `hydra` would run foreign code.
        """
        try:
            composed = super().load_configuration(*args, **kwargs)
        except KeyError as error:
            # Of OmegaConf's KeyErrors Hydra has made its own.
            raise ConfigError(f"hydra.job.env_copy: {error} is not in the environment") from error
        check_hydra(composed.hydra, self._trust)
        return composed

    def _process_config_searchpath(
        self, config_name: str | None, parsed_overrides: list[Override], repo: Any
    ) -> None:
        primary = repo.load_config(config_path=config_name) if config_name else None
        asked = [one.value() for one in parsed_overrides if one.key_or_group == _SEARCH_PATH]
        if primary is not None and OmegaConf.is_dict(primary.config):
            asked.append(OmegaConf.select(primary.config, _SEARCH_PATH))
        for entries in asked:
            check_search_path(entries, self._trust)
        super()._process_config_searchpath(config_name, parsed_overrides, repo)
