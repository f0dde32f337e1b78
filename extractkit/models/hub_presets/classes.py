"""Which classes keras-hub has, and which of them are made for a backbone."""

from typing import Any

import keras_hub


def tasks() -> dict[str, Any]:
    """Every task by name, whatever its backbone."""
    return {
        name: found
        for name, found in _classes(keras_hub.models, keras_hub.models.Task).items()
        if found is not keras_hub.models.Task
    }


def class_for(package: Any, kind: Any, backbone: Any) -> Any:
    """The class of that kind in a package of keras-hub for this backbone; None: there is none."""
    for found in _classes(package, kind).values():
        if found.backbone_cls is type(backbone):
            return found
    return None


def _classes(package: Any, kind: Any) -> dict[str, Any]:
    return {
        name: found
        for name, found in vars(package).items()
        if isinstance(found, type) and issubclass(found, kind)
    }
