"""A run's manifest, from what has been loaded; and whether a later process still finds the same."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from extractkit.engine.identity import MACHINE_SETTINGS, identity, tensors_key, weights_of
from extractkit.engine.prepare import Prepared
from extractkit.engine.process import environment
from extractkit.errors import RunDirectoryError
from extractkit.plan import PlannedTensor
from extractkit.runs.environment import VALUE_PACKAGES, package_versions
from extractkit.runs.manifest import Manifest, RunInputs, RunTensor, Skipped
from extractkit.runs.origins import origins
from extractkit.runs.schema import digest, plain
from extractkit.sinks.protocol import StoredTensor

_FEW = 3


def described(manifest: Manifest, prepared: Prepared) -> Manifest:
    """The manifest with everything that is known before samples are read."""
    job, opened = prepared.job, prepared.opened
    model, source, runtime = opened.model, opened.source, job.runtime
    checkpoints = tuple(opened.axis.checkpoints) if opened.axis is not None else ()
    known = replace(
        manifest,
        model={
            **model.describe(),
            "weights": weights_of(checkpoints) if checkpoints else model.weights_digest(),
            "definition": model.definition_digest(),
        },
        checkpoints=checkpoints,
        skipped_checkpoints=tuple(opened.axis.skipped) if opened.axis is not None else (),
        inputs=RunInputs(source.fingerprint, len(source), source.notes) if len(source) else None,
        tensors=tuple(
            RunTensor(_stored(tensor), model.catalog[tensor.address], tensor.selectors)
            for tensor in prepared.tensors
        ),
        skipped=tuple(Skipped(r.address, r.reason or "") for r in opened.skipped),
        origins=origins([job.model, job.inputs]),
        environment=environment(runtime.threads),
        versions=package_versions(),
        settings={
            **opened.settings,
            "compile": runtime.compile,
            "device": runtime.device,
            "deterministic": runtime.deterministic,
            "batch_size": runtime.batch_size,
            "batch_tokens": runtime.batch_tokens,
        },
    )
    return replace(known, identity=identity(prepared, known))


def differences(recorded: Manifest, now: Manifest) -> list[str]:
    """What of a run's job and of its surroundings is not as it was recorded.

    Each entry names one thing, what was recorded and what is found now.
    """
    return [*job_differences(recorded, now), *surrounding_differences(recorded, now)]


def job_differences(recorded: Manifest, now: Manifest) -> list[str]:
    """What of a run's weights, inputs and tensors is not as it was recorded."""
    return _unequal(
        {
            **_checkpoints(recorded, now),
            "the model's weights": (recorded.model.get("weights"), now.model.get("weights")),
            "the inputs": (_samples(recorded), _samples(now)),
            "the tensors": (_stored_keys(recorded), _stored_keys(now)),
        }
    )


def surrounding_differences(recorded: Manifest, now: Manifest) -> list[str]:
    """What else may change the last bits of values, or what a model of these weights computes."""
    pairs: dict[str, tuple[Any, Any]] = {
        "what the model computes": (recorded.model.get("definition"), now.model.get("definition")),
        "the tensors' records": (
            digest(tensors_key(recorded.tensors)),
            digest(tensors_key(now.tensors)),
        ),
    }
    for name in sorted({*recorded.environment, *now.environment}):
        pairs[f"the variable {name}"] = (
            recorded.environment.get(name),
            now.environment.get(name),
        )
    for name in sorted({*recorded.settings, *now.settings} - MACHINE_SETTINGS):
        recorded_value = plain(recorded.settings.get(name))
        pairs[f"the setting {name!r}"] = (recorded_value, plain(now.settings.get(name)))
    for name in VALUE_PACKAGES:
        pairs[f"the version of {name}"] = (recorded.versions.get(name), now.versions.get(name))
    return _unequal(pairs)


def check_same(recorded: Manifest, now: Manifest, given: str) -> None:
    """Make sure that a run can be gone on with: the same values would come out.

    Args:
        given: the run directory, for the message.

    Raises:
        RunDirectoryError: something differs; all of it is named.
    """
    if found := differences(recorded, now):
        raise RunDirectoryError(
            f"{given} cannot be gone on with: its values would not be those of one job. "
            f"{'; '.join(found)}. Put back what was there, or run the job anew"
        )


def check_repeats(recorded: Manifest, now: Manifest) -> None:
    """Make sure that a job is that of another run, whatever the machine and its libraries.

    Raises:
        RunDirectoryError: weights, inputs or tensors differ; all of it is named.
    """
    if found := job_differences(recorded, now):
        raise RunDirectoryError(
            f"the run cannot be repeated: {'; '.join(found)}. Put back what was there, or run the "
            f"job anew: extractkit {' '.join(recorded.job_given)}"
        )


def _unequal(pairs: Mapping[str, tuple[Any, Any]]) -> list[str]:
    return [
        f"{what}: {_short(before)} was recorded, {_short(after)} is found"
        for what, (before, after) in pairs.items()
        if before != after
    ]


def _checkpoints(recorded: Manifest, now: Manifest) -> dict[str, tuple[object, object]]:
    """The checkpoints that are not the recorded ones, by label, the first few of them."""
    before, after = ({one.label: one.sha256 for one in m.checkpoints} for m in (recorded, now))
    other = [label for label in {**before, **after} if before.get(label) != after.get(label)]
    return {
        f"checkpoint {label!r}": (before.get(label, "none"), after.get(label, "none"))
        for label in other[:_FEW]
    }


def _stored_keys(manifest: Manifest) -> str:
    keys = [tensor.key for tensor in manifest.tensors]
    return f"{len(keys)} tensors {digest(keys)[:12]}"


def _samples(manifest: Manifest) -> str:
    if manifest.inputs is None:
        return "none"
    return f"{manifest.inputs.count} samples {manifest.inputs.fingerprint}"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _stored(tensor: PlannedTensor) -> StoredTensor:
    return StoredTensor(
        key=tensor.key,
        dtype=tensor.dtype,
        dims=tensor.dims or (),
        shape=tensor.sample_shape,
        constant=tensor.constant,
    )
