"""A run's manifest, from what has been loaded; and whether a later process still finds the same."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

from extractkit.advice import command
from extractkit.engine.identity import identity, weights_of
from extractkit.engine.prepare import Prepared
from extractkit.engine.process import environment
from extractkit.engine.sharing import KEY as SHARING
from extractkit.errors import RunDirectoryError
from extractkit.plan import PlannedTensor
from extractkit.runs.agreement import differences, job_differences, version_differences
from extractkit.runs.damage import damage, lasting_damage
from extractkit.runs.environment import VALUES_VERSION, module_versions, package_versions
from extractkit.runs.manifest import Manifest, RunInputs, RunTensor, Skipped, Status
from extractkit.runs.origins import origins
from extractkit.sinks.protocol import StoredTensor


def described(manifest: Manifest, prepared: Prepared) -> Manifest:
    """The manifest with everything that is known before samples are read."""
    job, opened = prepared.job, prepared.opened
    model, source, runtime = opened.model, opened.source, job.runtime
    checkpoints = tuple(opened.axis.checkpoints) if opened.axis is not None else ()
    imported = module_versions(job.model.imports)
    known = replace(
        manifest,
        model={
            # What an adapter records may grow as it loads further weights; a manifest stays.
            **deepcopy(dict(model.describe())),
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
        seeds={"runtime": runtime.seed},
        versions={**package_versions(), **imported},
        values_version=VALUES_VERSION,
        settings={
            **opened.settings,
            # Their operations decide values, as TensorFlow's do.
            **({"imports": [*job.model.imports, imported]} if job.model.imports else {}),
            "compile": runtime.compile,
            "device": runtime.device,
            "deterministic": runtime.deterministic,
            "batch_size": runtime.batch_size,
            "batch_tokens": runtime.batch_tokens,
            SHARING: str(prepared.shared.sharing),
        },
    )
    return replace(known, identity=identity(prepared, known))


def check_versions(directory: Path, recorded: Manifest) -> None:
    """Make sure that this code and its libraries may resume a run, before anything is loaded.

    Raises:
        RunDirectoryError: a value has to be computed, and would be one of other versions than those
            of the shards that are committed.
    """
    if recorded.plan is None:  # nothing is committed, and all is recorded anew
        return
    found = version_differences(recorded, VALUES_VERSION, package_versions())
    if found and not _holds_all_values(directory, recorded):
        raise RunDirectoryError(
            f"{directory} cannot be resumed: its values would not be those of one job. "
            f"{'; '.join(found)}. Install the recorded versions, or compute every sample anew: "
            f"{command('rerun', directory)}. What is committed stays readable: "
            f"{command('show', directory)}"
        )


def _holds_all_values(directory: Path, recorded: Manifest) -> bool:
    """Whether a run is finished, and lacks no more than what no computing can mend."""
    return recorded.status is Status.FINISHED and set(damage(directory, recorded)) <= set(
        lasting_damage(directory, recorded)
    )


def check_same(recorded: Manifest, now: Manifest, given: str) -> None:
    """Make sure that a run can be resumed: the same values would come out.

    Args:
        given: the run directory, for the message.

    Raises:
        RunDirectoryError: something differs; all of it is named.
    """
    if found := differences(recorded, now):
        raise RunDirectoryError(
            f"{given} cannot be resumed: its values would not be those of one job. "
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


def _stored(tensor: PlannedTensor) -> StoredTensor:
    return StoredTensor(
        key=tensor.key,
        dtype=tensor.dtype,
        dims=tensor.dims or (),
        shape=tensor.sample_shape,
        constant=tensor.constant,
    )
