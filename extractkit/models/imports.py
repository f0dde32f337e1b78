"""Modules that are imported before a model is loaded, for the operations and classes in them."""

import importlib
import sys
from collections.abc import Sequence

from extractkit.component import import_from_here
from extractkit.errors import ConfigError
from extractkit.models.foreign import told
from extractkit.models.tensorflow_process import quiet_start


def import_modules(names: Sequence[str]) -> None:
    """Import what `model.imports` names.

    Raises:
        ConfigError: A module is not installed, or fails.
    """
    if all(name in sys.modules for name in names):
        return
    import_from_here()
    with quiet_start():
        for name in names:
            _import(name)


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"model.imports={name} cannot be imported: it needs the module {error.name!r}, "
                f"which is not installed. Install the package that has it"
            ) from error
        raise ConfigError(
            f"model.imports={name} is not installed: there is no module {error.name!r}. Install "
            f"the package that has it, or put its folder on PYTHONPATH"
        ) from error
    except Exception as error:  # such as a library that was built for another TensorFlow
        raise ConfigError(f"model.imports={name} cannot be imported: {told(error)}") from error
