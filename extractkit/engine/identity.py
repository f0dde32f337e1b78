"""What decides every bit of a run, and one digest over it: the run's identity.

Two jobs of one identity store the same bytes, so a finished run of the one is a run of the other.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from extractkit.checkpoints import KEY as CHECKPOINTS
from extractkit.checkpoints import Checkpoint
from extractkit.component import Component
from extractkit.engine.prepare import Prepared
from extractkit.job import Job
from extractkit.runs.agreement import MACHINE_SETTINGS, tensors_key
from extractkit.runs.environment import VALUE_PACKAGES
from extractkit.runs.manifest import Manifest
from extractkit.runs.schema import digest, plain

_RUNTIME = (
    *("batch_size", "batch_tokens", "shard_size", "compile", "device", "seed", "deterministic"),
    *("bad_samples", "non_finite"),
)
"""Settings of the runtime that decide values; where a run is looked for, say, is none."""


def identity(prepared: Prepared, described: Manifest) -> str | None:
    """SHA-256 of everything that decides the run's bytes.

    Args:
        described: the manifest with everything in it that is known before samples are read.

    Returns:
        The digest in hexadecimal; None where nobody can tell what the model computes.
    """
    if described.model.get("definition") is None:
        return None
    key = {
        "model": {name: described.model[name] for name in ("weights", "definition")},
        "inputs": described.inputs and [described.inputs.fingerprint, described.inputs.count],
        "components": _components(prepared.job, described),
        "tensors": tensors_key(described.tensors),
        "transforms": [
            plain((tensor.key, tensor.transform.cast, tensor.axes, tensor.layout))
            for tensor in prepared.tensors
        ],
        "runtime": {name: getattr(prepared.job.runtime, name) for name in _RUNTIME},
        "settings": {
            name: plain(value)
            for name, value in described.settings.items()
            if name not in MACHINE_SETTINGS
        },
        "environment": dict(described.environment),
        "processor": described.volatile.host.get("processor"),
        "values_version": described.values_version,
        "versions": {
            name: version for name, version in described.versions.items() if name in VALUE_PACKAGES
        },
    }
    return digest(key)


def weights_of(checkpoints: Sequence[Checkpoint]) -> str:
    """SHA-256 over what checkpoints hold and what they are called, in order."""
    return digest([[one.label, one.step, one.sha256] for one in checkpoints])


def _components(job: Job, described: Manifest) -> list[Any]:
    """How model and inputs are built and values stored; files stand there by their content."""
    contents = {origin.key: origin.sha256 for origin in described.origins}
    if described.checkpoints:
        contents[CHECKPOINTS] = weights_of(described.checkpoints)
    # Sinks in their order: the first is what is read.
    components = (job.model, job.inputs, *job.sinks.values())
    return [[component.at, _plain(component.at, component, contents)] for component in components]


def _plain(at: str, value: object, contents: Mapping[str, str]) -> Any:
    if at in contents:
        return contents[at]
    if isinstance(value, Component):
        arguments = _plain(at, value.arguments, contents)
        imports = {"imports": list(value.imports)} if value.imports else {}
        return {"target": value.target, "partial": value.partial, "arguments": arguments, **imports}
    if isinstance(value, Mapping):
        return {str(key): _plain(f"{at}.{key}", entry, contents) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(f"{at}.{index}", entry, contents) for index, entry in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    # An object in memory: its digest of content is weights, definition or fingerprint.
    return type(value).__name__
