"""Records of older schemas, raised to the current one; those of newer ones, refused.

Each upgrade takes the fields of one version, as plain data, and returns those of the next. It
leaves what is not of the type that it expects, so that decoding the result names it. Files stay as
they are: a run that is resumed is written anew with the fields of the current version.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from extractkit.errors import RunDirectoryError

Upgrade = Callable[[Mapping[str, Any]], dict[str, Any]]
"""Makes of the fields of one version of a schema those of the next."""


def check_version(at: str, noun: str, version: int, current: int) -> None:
    """Make sure that a record is not newer than this code.

    Args:
        at: names the record in the message.
        noun: what kind of record it is ("manifest").
        current: the newest version that is read; all older ones are.

    Raises:
        RunDirectoryError: it is newer.
    """
    if version > current:
        known = "version 1" if current == 1 else f"versions 1 to {current}"
        raise RunDirectoryError(
            f"{at} was written by a newer extractkit: its schema of the {noun} has version "
            f"{version}, and this extractkit reads {known}. Update it: pip install -U extractkit"
        )


def upgraded(
    fields: Mapping[str, Any], version: int, upgrades: Mapping[int, Upgrade]
) -> dict[str, Any]:
    """Return a record of one version with the fields of the current one.

    Raises:
        RunDirectoryError: it holds a field that its version does not have.
    """
    raised = dict(fields)
    for older in sorted(upgrades):
        if older >= version:
            raised = upgrades[older](raised)
    return raised


# ---- manifests


def _manifest_2(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Runs could not be resumed, and no value was checked or said to be missing."""
    counted = fields.get("actual")
    cut_off = counted.get("truncated", 0) if isinstance(counted, Mapping) else 0
    if isinstance(counted, Mapping):
        known = {key: value for key, value in counted.items() if key != "truncated"}
        counted = _with(known, 1, {"skipped": 0, "values": {}})
    model = fields.get("model")
    added: dict[str, Any] = {"origins": [], "files": [], "environment": {}, "identity": None}
    return {
        **_with(fields, 1, {**added, "model_name": _chosen_model(fields.get("job_given"))}),
        "actual": counted,
        "model": {"definition": None, **model} if isinstance(model, Mapping) and model else model,
        "inputs": _with(fields.get("inputs"), 1, {"truncated": cut_off}),
        "tensors": _each(fields.get("tensors"), _with_scope_names),
        "volatile": _with(
            fields.get("volatile"), 1, {"working_directory": None, "resumed": [], "log": None}
        ),
    }


def _manifest_3(fields: Mapping[str, Any]) -> dict[str, Any]:
    """There were no checkpoints, parts or workers."""
    return {
        **_with(fields, 2, {"checkpoints": [], "skipped_checkpoints": []}),
        "actual": _with_full_stats(fields.get("actual"), "values"),
    }


def _manifest_4(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Jobs did not check themselves; the first commits of schema 3 knew no parts and workers."""
    volatile = _with(fields.get("volatile"), 3, {"self_check": []})
    if isinstance(volatile, Mapping):
        volatile = {"workers": [], **volatile}
    return {"part": None, **fields, "volatile": volatile}


def _manifest_5(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest is the same; lines of the journal may name a state."""
    return dict(fields)


def _manifest_6(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Changes of stored bytes were not counted.

    While schemas 1 to 5 were written they changed more than once under one schema: when samples
    that may share a batch were measured (3), when rows of a fixed batch became samples (4), when
    ragged inputs of signatures were paired with functions in another way (5). A manifest does not
    tell before or after which of these changes it was written. So its values version is 0, which no
    extractkit computes.
    """
    return {**_with(fields, 5, {"values_version": 0})}


def _manifest_7(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The key `runtime.part` was `runtime.shards`."""
    raised = dict(fields)
    if "job_given" in fields:
        raised["job_given"] = _each(fields["job_given"], _with_part)
    resolved = fields.get("job_resolved")
    if isinstance(resolved, Mapping):
        runtime = resolved.get("runtime")
        if isinstance(runtime, Mapping) and "shards" in runtime:
            others = {key: value for key, value in runtime.items() if key != "shards"}
            runtime = _with(others, 6, {"part": runtime["shards"]})
            raised["job_resolved"] = {**resolved, "runtime": runtime}
    return raised


MANIFEST_UPGRADES: Mapping[int, Upgrade] = {
    1: _manifest_2,
    2: _manifest_3,
    3: _manifest_4,
    4: _manifest_5,
    5: _manifest_6,
    6: _manifest_7,
}
"""By the version that they raise to the next."""


def _with_part(override: Any) -> Any:
    """An override of `runtime.shards` as one of `runtime.part`; others as they are."""
    if not isinstance(override, str):
        return override
    return re.sub(r"^([+~]*)runtime\.shards(?==|$)", r"\1runtime.part", override)


def _chosen_model(given: Any) -> Any:
    """The entry of the `model` group: schema 1 recorded it among the overrides alone."""
    chosen = "model"
    for one in given if isinstance(given, list) else ():
        if isinstance(one, str) and one.startswith("model="):
            chosen = one.removeprefix("model=")
    return chosen


def _with_scope_names(tensor: Any) -> Any:
    """A tensor whose layers have names: the first commits of schema 1 recorded none."""
    record = tensor.get("record") if isinstance(tensor, Mapping) else None
    if not isinstance(record, Mapping):
        return tensor

    def named(scope: Any) -> Any:
        return {**scope, "name": scope.get("name", "")} if isinstance(scope, Mapping) else scope

    return {**tensor, "record": {**record, "scopes": _each(record.get("scopes"), named)}}


# ---- lines of the journal


FIRST_TOLD = 5
"""The first version that lines of the journal tell."""


def implied_version(record: Mapping[str, Any]) -> int:
    """The version of a line of the journal that does not tell it.

    Each version added a field, and had all that the ones before it had.
    """
    if "state" in record:
        return 4
    if "checkpoint" in record:
        return 3
    return 2 if "skipped" in record else 1


def _line_2(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Counts of values that are not finite did not tell which are NaN: they are dropped."""
    files = fields.get("files")
    if isinstance(files, Mapping):
        files = {sink: _sized(file) for sink, file in files.items()}
    return {**fields, "files": files, "stats": {}, "skipped": {}}


def _line_3(fields: Mapping[str, Any]) -> dict[str, Any]:
    """There were no checkpoints."""
    return {**_with_full_stats(fields, "stats"), "checkpoint": None}


def _line_4(fields: Mapping[str, Any]) -> dict[str, Any]:
    """No state was carried."""
    return {**fields, "state": None}


def _line_5(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Lines did not tell their version, and named a state only where one is carried."""
    return dict(fields)


LINE_UPGRADES: Mapping[int, Upgrade] = {1: _line_2, 2: _line_3, 3: _line_4, 4: _line_5}
"""By the version that they raise to the next."""


def _sized(file: Any) -> Any:
    if not isinstance(file, Mapping) or "bytes" not in file:
        return file
    others = {key: value for key, value in file.items() if key != "bytes"}
    return _with(others, 1, {"size": file["bytes"]})


# ---- both


def _with_full_stats(fields: Any, name: str) -> Any:
    """Fields without statistics that do not say of how many elements they are.

    The first commits of schema 2 wrote such.
    """
    found = fields.get(name) if isinstance(fields, Mapping) else None
    if not isinstance(found, Mapping):
        return fields
    full = {
        key: stats
        for key, stats in found.items()
        if not isinstance(stats, Mapping) or "elements" in stats
    }
    return {**fields, name: full}


def _each(entries: Any, change: Callable[[Any], Any]) -> Any:
    return [change(entry) for entry in entries] if isinstance(entries, list) else entries


def _with(fields: Any, version: int, added: Mapping[str, Any]) -> Any:
    """Fields with others that their version does not have; what is not a mapping stays as it is.

    Raises:
        RunDirectoryError: they hold one of them, so they are not of that version.
    """
    if not isinstance(fields, Mapping):
        return fields
    for name in added:
        if name in fields:
            raise RunDirectoryError(f"it holds {name!r}, which schema version {version} has not")
    return {**fields, **added}
