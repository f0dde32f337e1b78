"""Upgrades of records of older schemas to the current one: lines of the journal, rows, sweeps.

`manifest_upgrades` has those of manifests. Each upgrade takes the fields of one version, as plain
data, and returns those of the next. A value of an unexpected type is passed through, so that
decoding the result reports it. Files are not changed: a run that is resumed is written anew in the
current schema.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from extractkit.advice import FEATURES, present_key, with_present_keys
from extractkit.errors import RunDirectoryError

Upgrade = Callable[[Mapping[str, Any]], dict[str, Any]]
"""Turns the fields of one schema version into those of the next."""


def check_version(at: str, noun: str, version: int, current: int) -> None:
    """Check that a record is not newer than this code.

    Args:
        at: names the record in the message.
        noun: the kind of record ("manifest").
        current: the newest version that this code reads, besides all older ones.

    Raises:
        RunDirectoryError: the record is newer.
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
    """Upgrade a record from one version to the current one.

    Raises:
        RunDirectoryError: it holds a field that its version does not have.
    """
    raised = dict(fields)
    for older in sorted(upgrades):
        if older >= version:
            raised = upgrades[older](raised)
    return raised


# ---- lines of the journal


FIRST_RECORDED = 5
"""The first version that lines of the journal record."""


def implied_version(record: Mapping[str, Any]) -> int:
    """Infer the version of a journal line that does not record it.

    Each version kept all fields of the previous ones and added one.
    """
    if "state" in record:
        return 4
    if "checkpoint" in record:
        return 3
    return 2 if "skipped" in record else 1


def _line_2(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Drop counts of non-finite values, which did not distinguish NaN from infinities."""
    files = fields.get("files")
    if isinstance(files, Mapping):
        files = {sink: _sized(file) for sink, file in files.items()}
    return {**fields, "files": files, "stats": {}, "skipped": {}}


def _line_3(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Add the checkpoint."""
    return {**with_full_stats(fields, "stats"), "checkpoint": None}


def _line_4(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Add the carried state."""
    return {**fields, "state": None}


def _line_5(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the fields. Earlier lines lacked the version, and had a state only if one is carried."""
    return dict(fields)


def _line_6(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the field of missing samples, which was `skipped`."""
    return dict(renamed(fields, 5, {"skipped": "missing"}))


def _line_7(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Add the file with the partial results of statistics."""
    return {**with_fields(fields, 6, {"statistics": None})}


def _line_8(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Name the algorithm of digests, which was SHA-256."""
    raised = dict(by_sha256(fields, "values"))
    raised |= {
        name: with_algorithm(raised[name], 7) for name in ("state", "statistics") if name in raised
    }
    files = raised.get("files")
    if isinstance(files, Mapping):
        raised["files"] = {sink: with_algorithm(file, 7) for sink, file in files.items()}
    return raised


LINE_UPGRADES: Mapping[int, Upgrade] = {
    1: _line_2,
    2: _line_3,
    3: _line_4,
    4: _line_5,
    5: _line_6,
    6: _line_7,
    7: _line_8,
}
"""The upgrade from each version to the next."""


def _sized(file: Any) -> Any:
    if not isinstance(file, Mapping) or "bytes" not in file:
        return file
    others = {key: value for key, value in file.items() if key != "bytes"}
    return with_fields(others, 1, {"size": file["bytes"]})


# ---- rows of samples


def _row_2(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the reason of a missing sample, which was `skipped`.

    A label `missing` belongs to the source, so it is renamed to `missing_`, as in new runs.
    """
    names = {"skipped": "missing", "missing": "missing_"}
    return {names.get(key, key): value for key, value in fields.items()}


ROW_UPGRADES: Mapping[int, Upgrade] = {1: _row_2}
"""The upgrade from each version to the next."""


# ---- sweeps and their jobs


def _sweep_2(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Use the present keys: `model.input_axes`, and `inputs.features` by input."""
    return {
        **fields,
        "overrides": with_present_keys(fields.get("overrides")),
        "jobs": each(fields.get("jobs"), _swept_job),
    }


def _job_2(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Use the present keys, as in the sweep's index."""
    return {**fields, "job": _swept_job(fields.get("job"))}


def _sweep_3(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the status of jobs that were not started."""
    return {**fields, "jobs": each(fields.get("jobs"), _with_job_status)}


def _job_3(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the status, as in the sweep's index."""
    return {**fields, "job": _with_job_status(fields.get("job"))}


SWEEP_UPGRADES: Mapping[int, Upgrade] = {1: _sweep_2, 2: _sweep_3}
JOB_UPGRADES: Mapping[int, Upgrade] = {1: _job_2, 2: _job_3}
"""The upgrades of sweeps and jobs, by the version that they upgrade."""


def _with_job_status(job: Any) -> Any:
    if isinstance(job, Mapping) and job.get("status") == "skipped":
        return {**job, "status": "not started"}
    return job


def _swept_job(job: Any) -> Any:
    if not isinstance(job, Mapping):
        return job
    overrides, values = job.get("overrides"), job.get("values")
    current = with_present_keys(overrides)
    if current != overrides and isinstance(values, Mapping):
        values = {present_key(key): value for key, value in values.items()}
        if FEATURES in values:
            values[FEATURES] = by_input(values[FEATURES])
    return {**job, "overrides": current, "values": values}


# ---- shared


def with_full_stats(fields: Any, name: str) -> Any:
    """Drop statistics that lack the number of elements.

    The first commits of schema 2 wrote such statistics.
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


def each(entries: Any, change: Callable[[Any], Any]) -> Any:
    """Change each entry of a list. Anything but a list is returned unchanged."""
    return [change(entry) for entry in entries] if isinstance(entries, list) else entries


def with_fields(fields: Any, version: int, added: Mapping[str, Any]) -> Any:
    """Add fields that a version lacks. Anything but a mapping is returned unchanged.

    Raises:
        RunDirectoryError: one of the fields exists already, so the record is not of that version.
    """
    if not isinstance(fields, Mapping):
        return fields
    check_absent(fields, version, added)
    return {**fields, **added}


def renamed(fields: Any, version: int, names: Mapping[str, str]) -> Any:
    """Return fields under their new names. Anything but a mapping is returned unchanged.

    Raises:
        RunDirectoryError: They hold one of the new names, so they are not of that version.
    """
    if not isinstance(fields, Mapping):
        return fields
    check_absent(fields, version, names.values())
    return {names.get(key, key): value for key, value in fields.items()}


def check_absent(fields: Mapping[str, Any], version: int, names: Iterable[str]) -> None:
    """Check that a record has none of these fields, which its version does not have.

    Raises:
        RunDirectoryError: it has one.
    """
    for name in names:
        if name in fields:
            raise RunDirectoryError(
                f"it holds {name!r}, which schema version {version} does not have"
            )


def with_algorithm(file: Any, version: int) -> Any:
    """Name the algorithm in the digest of a file. Anything but a mapping is returned unchanged."""
    return by_sha256(renamed(file, version, {"sha256": "digest"}), "digest")


def by_sha256(fields: Any, name: str) -> Any:
    """Name SHA-256 in a digest among fields. Anything but a text is returned unchanged."""
    digest = fields.get(name) if isinstance(fields, Mapping) else None
    return {**fields, name: f"sha256:{digest}"} if isinstance(digest, str) else fields


def by_input(features: Any) -> Any:
    """Return the features of TFRecord files by input instead of by feature."""
    if not isinstance(features, Mapping):
        return features
    turned: dict[str, Any] = {}
    for name, entry in features.items():
        settings = dict(entry) if isinstance(entry, Mapping) else {}
        target = settings.pop("input", None) or name
        turned[target] = {"feature": name, **settings}
    return turned
