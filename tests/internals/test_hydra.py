"""Hydra's private names, each on its own."""

import pytest

from tests.internals.names import check, unlisted

_LOADING = "config/hydra_internals.py, to check configurations before Hydra acts on them"
_MODE = "config/hydra_internals.py, to compose a job once"
_OVERRIDES = "config/hydra_internals.py, to read overrides"
_SWEEPS = "config/hydra_internals.py, to list the jobs of a sweep before they run"
_STATE = "config/hydra_internals.py, to compose within another application of Hydra"

NAMES = {
    "hydra._internal.hydra:ConfigLoaderImpl": _LOADING,
    "hydra._internal.hydra:Hydra.get_mode": _MODE,
    "hydra._internal.config_loader_impl:ConfigLoaderImpl": _LOADING,
    **{
        f"hydra._internal.config_loader_impl:ConfigLoaderImpl.{method}": _LOADING
        for method in (
            "_load_configuration_impl",
            "_process_config_searchpath",
            "_compose_config_from_defaults_list",
        )
    },
    "hydra._internal.config_loader_impl:create_defaults_list": _LOADING,
    "hydra._internal.defaults_list:create_defaults_list": _LOADING,
    "hydra._internal.defaults_list:DefaultsList": _LOADING,
    "hydra._internal.defaults_list:Overrides": _LOADING,
    "hydra._internal.config_repository:CachingConfigRepository": _LOADING,
    "hydra.core.default_element:ResultDefault.config_path": _LOADING,
    "hydra.core.default_element:ResultDefault.package": _LOADING,
    "hydra._internal.config_repository:ConfigRepository.load_config": _LOADING,
    "hydra._internal.config_repository:ConfigRepository._find_object_source": _LOADING,
    "hydra.core.config_search_path:ConfigSearchPath": _LOADING,
    "hydra._internal.core_plugins.basic_launcher:BasicLauncher": _LOADING,
    "hydra._internal.core_plugins.basic_sweeper:BasicSweeper.split_arguments": _SWEEPS,
    "hydra._internal.utils:get_args_parser": _SWEEPS,
    "hydra.core.override_parser.overrides_parser:OverridesParser.create": _OVERRIDES,
    "hydra.core.override_parser.overrides_parser:OverridesParser.parse_override": _OVERRIDES,
    "hydra.core.override_parser.overrides_parser:OverridesParser.parse_overrides": _OVERRIDES,
    "hydra.core.override_parser.types:Override._convert_value": _OVERRIDES,
    "hydra.version:VersionBase.instance": _STATE,
    "hydra.core.global_hydra:GlobalHydra.instance": _STATE,
    "hydra.core.config_store:ConfigStore.instance": _LOADING,
    "hydra.core.config_store:ConfigNode": _LOADING,
    "store:repo": _LOADING,
    "version:version_base": _STATE,
    "application:hydra": _STATE,
}


@pytest.fixture(scope="module")
def objects() -> dict[str, object]:
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.version import VersionBase

    return {
        "store": ConfigStore.instance(),
        "version": VersionBase.instance(),
        "application": GlobalHydra.instance(),
    }


@pytest.mark.parametrize("name", NAMES)
def test_hydra_has(name: str, objects: dict[str, object]) -> None:
    check("hydra-core", name, NAMES[name], objects)


def test_every_name_that_is_used_is_checked() -> None:
    assert not unlisted("extractkit/config/hydra_internals.py", NAMES)
