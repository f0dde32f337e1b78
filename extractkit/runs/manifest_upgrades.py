"""Upgrades of manifests of older schemas to the current one."""

from collections.abc import Collection, Mapping
from typing import Any

from extractkit.advice import chosen_model, with_part, with_present_keys
from extractkit.core.transforms.pipeline import TRANSFORM_KEYS, written
from extractkit.errors import ConfigError, RunDirectoryError
from extractkit.runs.upgrades import (
    Upgrade,
    by_input,
    check_absent,
    each,
    renamed,
    with_algorithm,
    with_fields,
    with_full_stats,
)


def _manifest_2(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Add fields for resuming, checked values and missing samples, which version 1 lacked."""
    counted = fields.get("actual")
    cut_off = counted.get("truncated", 0) if isinstance(counted, Mapping) else 0
    if isinstance(counted, Mapping):
        known = {key: value for key, value in counted.items() if key != "truncated"}
        counted = with_fields(known, 1, {"skipped": 0, "values": {}})
    model = fields.get("model")
    added: dict[str, Any] = {"origins": [], "files": [], "environment": {}, "identity": None}
    return {
        **with_fields(fields, 1, {**added, "model_name": chosen_model(fields.get("job_given"))}),
        "actual": counted,
        "model": {"definition": None, **model} if isinstance(model, Mapping) and model else model,
        "inputs": with_fields(fields.get("inputs"), 1, {"truncated": cut_off}),
        "tensors": each(fields.get("tensors"), _with_scope_names),
        "volatile": with_fields(
            fields.get("volatile"), 1, {"working_directory": None, "resumed": [], "log": None}
        ),
    }


def _manifest_3(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Add checkpoints and complete statistics. The first commits of version 2 lacked them."""
    return {
        **with_fields(fields, 2, {"checkpoints": [], "skipped_checkpoints": []}),
        "actual": with_full_stats(fields.get("actual"), "values"),
    }


def _manifest_4(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Add self-checks. The first commits of version 3 lacked parts and workers too."""
    volatile = with_fields(fields.get("volatile"), 3, {"self_check": []})
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
    return {**with_fields(fields, 5, {"values_version": 0})}


def _manifest_7(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Rename keys of the configuration, and the fields for what a run lacks.

    The keys `runtime.part` and `model.input_axes` were `runtime.shards` and `model.inputs`, and
    `inputs.features` was by feature. Unextractable tensors, missing samples and excluded
    checkpoints shared the field `skipped`.
    """
    named = {"skipped": "unextractable", "skipped_checkpoints": "excluded"}
    raised = dict(renamed(with_fields(fields, 6, {"samples_schema": 1}), 6, named))
    if "actual" in fields:
        raised["actual"] = renamed(fields["actual"], 6, {"skipped": "missing"})
    if "job_given" in fields:
        raised["job_given"] = with_present_keys(each(fields["job_given"], with_part))
    resolved = fields.get("job_resolved")
    if isinstance(resolved, Mapping):
        runtime = resolved.get("runtime")
        if isinstance(runtime, Mapping) and "shards" in runtime:
            others = {key: value for key, value in runtime.items() if key != "shards"}
            runtime = with_fields(others, 6, {"part": runtime["shards"]})
            resolved = {**resolved, "runtime": runtime}
        model: Any = resolved.get("model")
        if _targets(model, "extractkit.models.") and "inputs" in model:
            resolved = {**resolved, "model": renamed(model, 6, {"inputs": "input_axes"})}
        source: Any = resolved.get("inputs")
        if _targets(source, "extractkit.inputs.tfrecord.") and "features" in source:
            features = by_input(source["features"])
            resolved = {**resolved, "inputs": {**source, "features": features}}
        raised["job_resolved"] = resolved
    return raised


def _manifest_8(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Add the version of the samples' rows, which schema 7 had raised to 2."""
    return {"samples_schema": 2, **fields}


def _manifest_9(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Add statistics."""
    return {**with_fields(fields, 8, {"statistics": []})}


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
        return with_fields(tensor, 9, own)

    added: dict[str, Any] = {"plugins": [], "components": []}
    return {
        **with_fields(fields, 9, added),
        "inputs": renamed(fields.get("inputs"), 9, {"fingerprint": "digest"}),
        "tensors": each(tensors, with_transforms),
        "volatile": with_fields(fields.get("volatile"), 9, {"sharing": None}),
    }


def _manifest_11(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Add the targets of gradients. The last commits of schema 10 recorded them already."""

    def with_target(tensor: Any) -> Any:
        return {"gradient": None, **tensor} if isinstance(tensor, Mapping) else tensor

    targets = {key: each(fields.get(key), with_target) for key in ("tensors", "statistics")}
    return {**fields, **targets}


def _manifest_12(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Add the steps of a training. No run was recorded while its model was trained."""
    return {**with_fields(fields, 11, {"training": None})}


def _manifest_13(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Record requests of any kind, in place of the targets of gradients."""

    def with_request(tensor: Any) -> Any:
        if not isinstance(tensor, Mapping):
            return tensor
        check_absent(tensor, 12, ["request"])
        others = {key: value for key, value in tensor.items() if key != "gradient"}
        target = tensor.get("gradient")
        return {**others, "request": {} if target is None else {"gradient": target}}

    requests = {key: each(fields.get(key), with_request) for key in ("tensors", "statistics")}
    return {**fields, **requests}


def _manifest_14(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Name the algorithm of digests, which was SHA-256, and count shards of the same size.

    `plan.sizes` was `plan.shards`, the range of samples of each shard.
    """
    raised = dict(with_fields(fields, 13, {"digests": "sha256"}))
    if "files" in raised:
        raised["files"] = each(raised["files"], lambda file: with_algorithm(file, 13))
    if "plan" in raised:
        raised["plan"] = _with_sizes(raised["plan"])
    volatile = raised.get("volatile")
    if isinstance(volatile, Mapping) and "log" in volatile:
        raised["volatile"] = {**volatile, "log": with_algorithm(volatile["log"], 13)}
    return raised


def _with_sizes(plan: Any) -> Any:
    """Return a plan with the sizes of its shards.

    Raises:
        RunDirectoryError: a shard does not begin where the one before ends.
    """
    plan = renamed(plan, 13, {"shards": "sizes"})
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


def _targets(component: Any, package: str) -> bool:
    """Return whether a configured component is one of these.

    A component of the user's own may have an argument of any name.
    """
    target = component.get("_target_") if isinstance(component, Mapping) else None
    return isinstance(target, str) and target.startswith(package)


def _with_scope_names(tensor: Any) -> Any:
    """Give a tensor's layers names. The first commits of schema 1 recorded none."""
    record = tensor.get("record") if isinstance(tensor, Mapping) else None
    if not isinstance(record, Mapping):
        return tensor

    def named(scope: Any) -> Any:
        return {**scope, "name": scope.get("name", "")} if isinstance(scope, Mapping) else scope

    return {**tensor, "record": {**record, "scopes": each(record.get("scopes"), named)}}


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
