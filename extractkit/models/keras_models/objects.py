"""Code that a saved Keras model asks for: custom objects by dotted path, and what is refused."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from extractkit.advice import override
from extractkit.component import Component
from extractkit.errors import ConfigError, ModelError
from extractkit.models.foreign import told
from extractkit.models.keras_models.saved import SavedKeras, serialized_objects

_AT = "model.custom_objects"
_UNKNOWN = re.compile(r"(?:Could not locate (?:class|function)|Unknown [\w ]+:) '([^']+)'")
_REFUSED = re.compile("arbitrary code execution|safe_mode=False")
_MODULES = ("builtins", "keras", "tf_keras")


def import_objects(custom_objects: Mapping[str, object]) -> dict[str, Any]:
    """The classes and functions that `model.custom_objects` names, by the names in the file.

    Raises:
        ConfigError: one that cannot be imported.
    """
    imported = {}
    for name, given in custom_objects.items():
        # From a configuration they come as components, which know whether a file names them.
        named = Component(_AT, given) if isinstance(given, str) else given
        if not isinstance(named, Component):
            raise ConfigError(
                f"{_AT}.{name}={given!r} is no dotted path, as in package.module.{name}"
            )
        try:
            imported[name] = named.function()
        except ConfigError as error:
            raise ConfigError(
                f"{_AT}.{name}={named.target!r} cannot be imported: "
                f"{str(error.__cause__ or error).removesuffix('.')}. "
                f"Give the dotted path of a class or function, as in package.module.{name}"
            ) from error
    return imported


def refuse_code(saved: SavedKeras) -> None:
    """Refuse Python code in a file before a reader sees it that would run it.

    tf-keras runs what a Lambda layer of an HDF5 file holds.

    Raises:
        ModelError: there is some.
    """
    if held := _lambdas(saved):
        raise ModelError(_holds_code(saved, held))


def refuse_imports(
    saved: SavedKeras, custom_objects: Mapping[str, Any], registered: Callable[[str], Any]
) -> None:
    """Refuse classes of other modules than Keras's own, which tf-keras would import.

    Args:
        custom_objects: those that are known by name.
        registered: the class that a program has registered under a name, or None.

    Raises:
        ModelError: there are some.
    """
    for node in serialized_objects(saved.config):
        names = [str(node["class_name"]), str(node.get("registered_name"))]
        known = any(name in custom_objects or registered(name) for name in names)
        module = str(node.get("module") or _MODULES[0])
        if not known and module.split(".")[0] not in _MODULES:
            raise ModelError(needs(saved, names[0]))


def why_not(saved: SavedKeras, error: Exception) -> str:
    """Why Keras did not load a file: its own words, where they cannot be bettered."""
    if _REFUSED.search(str(error)):
        return _holds_code(saved, _lambdas(saved) or ["something in it"])
    if unknown := _UNKNOWN.search(str(error)):
        return needs(saved, unknown[1])
    return f"{saved.at} cannot be loaded by Keras: {told(error)}{or_graph(saved)}"


def needs(saved: SavedKeras, name: str) -> str:
    """Say that a file needs a class that Keras does not know."""
    plain = name.rpartition(">")[2]
    return (
        f"{saved.at} needs {name!r}, which Keras does not know by itself. Say where it is: "
        f"{_AT}.{plain}=package.module.{plain}{or_graph(saved)}"
    )


def or_graph(saved: SavedKeras) -> str:
    """Say how a folder is read without Keras; empty for a file."""
    if not saved.is_folder:
        return ""
    return (
        f". Or read its graph, which needs no Python: model=saved_model "
        f"{override('model.path', str(saved.path))}"
    )


def _lambdas(saved: SavedKeras) -> list[str]:
    """Layers that hold compiled Python, which is not a function's name."""
    return [
        f"layer {node['config'].get('name')!r}"
        for node in serialized_objects(saved.config)
        if node["class_name"] == "Lambda"
        and isinstance(node.get("config"), dict)
        and not isinstance(node["config"].get("function"), str)
    ]


def _holds_code(saved: SavedKeras, held: list[str]) -> str:
    return (
        f"{saved.at} is refused: {', '.join(held)} holds Python code, which loading the file would "
        f"run. If you trust it: model.safe_mode=false{or_graph(saved)}"
    )
