"""Manifests of older versions of the schema, raised to the current one.

Each function takes the fields of one version, as plain data, and returns those of the next. Files
stay as they are: a run that is resumed is written anew with the fields of the current version.
"""

from collections.abc import Mapping
from typing import Any

from extractkit.errors import RunDirectoryError
from extractkit.runs.sealed import Upgrade


def _to_4(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Jobs did not check themselves."""
    version = fields["schema"]
    return {**fields, "volatile": _with(fields.get("volatile"), version, {"self_check": []})}


def _to_5(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest is the same; lines of the journal may name a state."""
    return dict(fields)


def _with(fields: Any, version: int, added: Mapping[str, Any]) -> Any:
    """Fields with others that their version does not have; what is no mapping is left to `decode`.

    Raises:
        RunDirectoryError: they hold one of them, so they are not of that version.
    """
    if not isinstance(fields, Mapping):
        return fields
    for name in added:
        if name in fields:
            raise RunDirectoryError(f"it holds {name!r}, which schema version {version} has not")
    return {**fields, **added}


MANIFEST_UPGRADES: Mapping[int, Upgrade] = {3: _to_4, 4: _to_5}
"""By the version that they raise to the next; versions 1 and 2 were never in use."""
