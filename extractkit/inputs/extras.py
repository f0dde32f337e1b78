"""Packages that only some sources need."""

import importlib
from typing import Any

from extractkit.errors import MissingExtraError


def require(module: str, extra: str, at: str) -> Any:
    """Import a module of an optional package.

    Args:
        extra: extractkit's extra that installs it.
        at: the config key that needs it, for the message.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{at} needs {module.partition('.')[0]}, which is not installed. "
            f"Install it: python -m pip install 'extractkit[{extra}]'"
        ) from error
