"""Upgrades of records of older schemas to the current one.

Each upgrade takes the fields of one version, as plain data, and returns those of the next. A value
of an unexpected type is passed through, so that decoding the result reports it. Files are not
changed: a run that is resumed is written anew in the current schema.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from extractkit.advice import (
    FEATURES,
    chosen_model,
    present_key,
    with_part,
    with_present_keys,
)
from extractkit.core.transforms.pipeline import TRANSFORM_KEYS, written
from extractkit.errors import ConfigError, RunDirectoryError

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


# ---- manifests


def _manifest_2(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Add fields for resuming, checked values and missing samples, which version 1 lacked."""
    counted = fields.get("actual")
    cut_off = counted.get("truncated", 0) if isinstance(counted, Mapping) else 0
    if isinstance(counted, Mapping):
        known = {key: value for key, value in counted.items() if key != "truncated"}
        counted = _with(known, 1, {"skipped": 0, "values": {}})
    model = fields.get("model")
    added: dict[str, Any] = {"origins": [], "files": [], "environment": {}, "identity": None}
    return {
        **_with(fields, 1, {**added, "model_name": chosen_model(fields.get("job_given"))}),
        "actual": counted,
        "model": {"definition": None, **model} if isinstance(model, Mapping) and model else model,
        "inputs": _with(fields.get("inputs"), 1, {"truncated": cut_off}),
        "tensors": _each(fields.get("tensors"), _with_scope_names),
        "volatile": _with(
            fields.get("volatile"), 1, {"working_directory": None, "resumed": [], "log": None}
        ),
    }


def _manifest_3(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Add checkpoints and complete statistics. The first commits of version 2 lacked them."""
    return {
        **_with(fields, 2, {"checkpoints": [], "skipped_checkpoints": []}),
        "actual": _with_full_stats(fields.get("actual"), "values"),
    }


def _manifest_4(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Add self-checks. The first commits of version 3 lacked parts and workers too."""
    volatile = _with(fields.get("volatile"), 3, {"self_check": []})
    if isinstance(volatile, Mapping):
        volatile = {"workers": [], **volatile}
    return {"part": None, **fields, "volatile": volatile}


def _manifest_5(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the manifest. Only lines of the journal changed: they may name a state."""
    return dict(fields)


def _manifest_6(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Add the values version, which older schemas did not count.

    Stored bytes changed more than once under one schema: when samples that may share a batch were
    measured (3), when rows of a fixed batch became samples (4), when ragged inputs of signatures
    were paired with functions in another way (5). A manifest does not show on which side of these
    changes it was written. Its values version is therefore 0, which no extractkit computes.
    """
    return {**_with(fields, 5, {"values_version": 0})}


def _manifest_7(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Rename keys of the configuration, and the fields for what a run lacks.

    The keys `runtime.part` and `model.input_axes` were `runtime.shards` and `model.inputs`, and
    `inputs.features` was by feature. Unextractable tensors, missing samples and excluded
    checkpoints shared the field `skipped`.
    """
    named = {"skipped": "unextractable", "skipped_checkpoints": "excluded"}
    raised = dict(_renamed(_with(fields, 6, {"samples_schema": 1}), 6, named))
    if "actual" in fields:
        raised["actual"] = _renamed(fields["actual"], 6, {"skipped": "missing"})
    if "job_given" in fields:
        raised["job_given"] = with_present_keys(_each(fields["job_given"], with_part))
    resolved = fields.get("job_resolved")
    if isinstance(resolved, Mapping):
        runtime = resolved.get("runtime")
        if isinstance(runtime, Mapping) and "shards" in runtime:
            others = {key: value for key, value in runtime.items() if key != "shards"}
            runtime = _with(others, 6, {"part": runtime["shards"]})
            resolved = {**resolved, "runtime": runtime}
        model: Any = resolved.get("model")
        if _targets(model, "extractkit.models.") and "inputs" in model:
            resolved = {**resolved, "model": _renamed(model, 6, {"inputs": "input_axes"})}
        source: Any = resolved.get("inputs")
        if _targets(source, "extractkit.inputs.tfrecord.") and "features" in source:
            features = _by_input(source["features"])
            resolved = {**resolved, "inputs": {**source, "features": features}}
        raised["job_resolved"] = resolved
    return raised


def _manifest_8(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Add the version of the samples' rows, which schema 7 had raised to 2."""
    return {"samples_schema": 2, **fields}


def _manifest_9(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Add statistics."""
    return {**_with(fields, 8, {"statistics": []})}


def _manifest_10(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Add the transforms of each tensor, from the selectors, and empty values for newer fields.

    The digest of the samples, `inputs.digest`, was `inputs.fingerprint`.
    """
    selectors: Any = fields.get("job_resolved")
    selectors = selectors.get("selectors") if isinstance(selectors, Mapping) else None
    tensors = fields.get("tensors")
    keys = {_key_of(tensor) for tensor in tensors} if isinstance(tensors, list) else set()

    def with_transforms(tensor: Any) -> Any:
        own = {"transforms": _transforms(tensor, selectors), "result": _result(tensor, keys)}
        return _with(tensor, 9, own)

    added: dict[str, Any] = {"plugins": [], "components": []}
    return {
        **_with(fields, 9, added),
        "inputs": _renamed(fields.get("inputs"), 9, {"fingerprint": "digest"}),
        "tensors": _each(tensors, with_transforms),
        "volatile": _with(fields.get("volatile"), 9, {"sharing": None}),
    }


def _manifest_11(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Add the targets of gradients. The last commits of schema 10 recorded them already."""

    def with_target(tensor: Any) -> Any:
        return {"gradient": None, **tensor} if isinstance(tensor, Mapping) else tensor

    targets = {key: _each(fields.get(key), with_target) for key in ("tensors", "statistics")}
    return {**fields, **targets}


def _manifest_12(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Add the steps of a training. No run was recorded while its model was trained."""
    return {**_with(fields, 11, {"training": None})}


def _manifest_13(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Record requests of any kind, in place of the targets of gradients."""

    def with_request(tensor: Any) -> Any:
        if not isinstance(tensor, Mapping):
            return tensor
        _check_absent(tensor, 12, ["request"])
        others = {key: value for key, value in tensor.items() if key != "gradient"}
        target = tensor.get("gradient")
        return {**others, "request": {} if target is None else {"gradient": target}}

    requests = {key: _each(fields.get(key), with_request) for key in ("tensors", "statistics")}
    return {**fields, **requests}


def _manifest_14(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Name the algorithm of digests, which was SHA-256, and count shards of the same size.

    `plan.sizes` was `plan.shards`, the range of samples of each shard.
    """
    raised = dict(_with(fields, 13, {"digests": "sha256"}))
    if "files" in raised:
        raised["files"] = _each(raised["files"], lambda file: _with_algorithm(file, 13))
    if "plan" in raised:
        raised["plan"] = _with_sizes(raised["plan"])
    volatile = raised.get("volatile")
    if isinstance(volatile, Mapping) and "log" in volatile:
        raised["volatile"] = {**volatile, "log": _with_algorithm(volatile["log"], 13)}
    return raised


def _with_algorithm(file: Any, version: int) -> Any:
    """Name the algorithm in the digest of a file. Anything but a mapping is returned unchanged."""
    return _by_sha256(_renamed(file, version, {"sha256": "digest"}), "digest")


def _by_sha256(fields: Any, name: str) -> Any:
    digest = fields.get(name) if isinstance(fields, Mapping) else None
    return {**fields, name: f"sha256:{digest}"} if isinstance(digest, str) else fields


def _with_sizes(plan: Any) -> Any:
    """Return a plan with the sizes of its shards.

    Raises:
        RunDirectoryError: a shard does not begin where the one before ends.
    """
    plan = _renamed(plan, 13, {"shards": "sizes"})
    if not isinstance(plan, Mapping) or not isinstance(plan.get("sizes"), list):
        return plan
    sizes: list[list[int]] = []
    end = 0
    for number, one in enumerate(plan["sizes"]):
        if type(one) is not list or [*map(type, one)] != [int, int]:
            raise RunDirectoryError(f"plan.shards[{number}] is {one!r}, which is not a range")
        start, stop = one
        if start != end:
            raise RunDirectoryError(
                f"plan.shards[{number}] is [{start}, {stop}]. It must begin at {end}"
            )
        if sizes and sizes[-1][1] == stop - start:
            sizes[-1][0] += 1
        else:
            sizes.append([1, stop - start])
        end = stop
    return {**plan, "sizes": sizes}


def _key_of(tensor: Any) -> str | None:
    stored = tensor.get("stored") if isinstance(tensor, Mapping) else None
    key = stored.get("key") if isinstance(stored, Mapping) else None
    return key if isinstance(key, str) else None


def _transforms(tensor: Any, selectors: Any) -> list[Any] | None:
    """Return the transforms of the selectors that match a tensor; None if unknown.

    All of them store it in the same way.
    """
    names: Any = tensor.get("selectors") if isinstance(tensor, Mapping) else None
    try:
        selector = selectors[names[0]]
        return list(written({key: selector.get(key) for key in TRANSFORM_KEYS}, names[0]))
    except (ConfigError, LookupError, TypeError, AttributeError):
        return None


def _result(tensor: Any, keys: Collection[str | None]) -> str:
    """Return the name of a further result from its tensor's key; an empty text for a main result.

    Keys are `address@selector@result`, without `@selector` where an address has one tensor. The
    second result of one name has `result2` in its key.
    """
    record = tensor.get("record") if isinstance(tensor, Mapping) else None
    address = record.get("address") if isinstance(record, Mapping) else None
    key = _key_of(tensor) or ""
    rest = key.removeprefix(str(address)).split("@")[1:]
    result = "@".join(rest if address in keys else rest[1:])
    name = result.rstrip("0123456789")
    return name if key.removesuffix(result) + name in keys else result


MANIFEST_UPGRADES: Mapping[int, Upgrade] = {
    1: _manifest_2,
    2: _manifest_3,
    3: _manifest_4,
    4: _manifest_5,
    5: _manifest_6,
    6: _manifest_7,
    7: _manifest_8,
    8: _manifest_9,
    9: _manifest_10,
    10: _manifest_11,
    11: _manifest_12,
    12: _manifest_13,
    13: _manifest_14,
}
"""The upgrade from each version to the next."""


def _targets(component: Any, package: str) -> bool:
    """Return whether a configured component is one of these.

    A component of the user's own may have an argument of any name.
    """
    target = component.get("_target_") if isinstance(component, Mapping) else None
    return isinstance(target, str) and target.startswith(package)


def _by_input(features: Any) -> Any:
    """Return the features of TFRecord files by input instead of by feature."""
    if not isinstance(features, Mapping):
        return features
    turned: dict[str, Any] = {}
    for name, entry in features.items():
        settings = dict(entry) if isinstance(entry, Mapping) else {}
        target = settings.pop("input", None) or name
        turned[target] = {"feature": name, **settings}
    return turned


def _with_scope_names(tensor: Any) -> Any:
    """Give a tensor's layers names. The first commits of schema 1 recorded none."""
    record = tensor.get("record") if isinstance(tensor, Mapping) else None
    if not isinstance(record, Mapping):
        return tensor

    def named(scope: Any) -> Any:
        return {**scope, "name": scope.get("name", "")} if isinstance(scope, Mapping) else scope

    return {**tensor, "record": {**record, "scopes": _each(record.get("scopes"), named)}}


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
    return {**_with_full_stats(fields, "stats"), "checkpoint": None}


def _line_4(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Add the carried state."""
    return {**fields, "state": None}


def _line_5(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the fields. Earlier lines lacked the version, and had a state only if one is carried."""
    return dict(fields)


def _line_6(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the field of missing samples, which was `skipped`."""
    return dict(_renamed(fields, 5, {"skipped": "missing"}))


def _line_7(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Add the file with the partial results of statistics."""
    return {**_with(fields, 6, {"statistics": None})}


def _line_8(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Name the algorithm of digests, which was SHA-256."""
    raised = dict(_by_sha256(fields, "values"))
    raised |= {
        name: _with_algorithm(raised[name], 7) for name in ("state", "statistics") if name in raised
    }
    files = raised.get("files")
    if isinstance(files, Mapping):
        raised["files"] = {sink: _with_algorithm(file, 7) for sink, file in files.items()}
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
    return _with(others, 1, {"size": file["bytes"]})


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
        "jobs": _each(fields.get("jobs"), _swept_job),
    }


def _job_2(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Use the present keys, as in the sweep's index."""
    return {**fields, "job": _swept_job(fields.get("job"))}


def _sweep_3(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the status of jobs that were not started."""
    return {**fields, "jobs": _each(fields.get("jobs"), _with_job_status)}


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
            values[FEATURES] = _by_input(values[FEATURES])
    return {**job, "overrides": current, "values": values}


# ---- shared


def _with_full_stats(fields: Any, name: str) -> Any:
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


def _each(entries: Any, change: Callable[[Any], Any]) -> Any:
    return [change(entry) for entry in entries] if isinstance(entries, list) else entries


def _with(fields: Any, version: int, added: Mapping[str, Any]) -> Any:
    """Add fields that a version lacks. Anything but a mapping is returned unchanged.

    Raises:
        RunDirectoryError: one of the fields exists already, so the record is not of that version.
    """
    if not isinstance(fields, Mapping):
        return fields
    _check_absent(fields, version, added)
    return {**fields, **added}


def _renamed(fields: Any, version: int, names: Mapping[str, str]) -> Any:
    """Return fields under their new names. Anything but a mapping is returned unchanged.

    Raises:
        RunDirectoryError: They hold one of the new names, so they are not of that version.
    """
    if not isinstance(fields, Mapping):
        return fields
    _check_absent(fields, version, names.values())
    return {names.get(key, key): value for key, value in fields.items()}


def _check_absent(fields: Mapping[str, Any], version: int, names: Iterable[str]) -> None:
    for name in names:
        if name in fields:
            raise RunDirectoryError(
                f"it holds {name!r}, which schema version {version} does not have"
            )
