"""A run's identity, and the manifest that describes a job before samples are read.

Two jobs with the same identity store the same bytes, so a finished run of one can be used for the
other.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, TypeVar

from extractkit.core.catalog import Layout
from extractkit.core.checkpoints import KEY as CHECKPOINTS
from extractkit.core.checkpoints import Checkpoint
from extractkit.core.component import Component
from extractkit.core.job import OPENVINO, Job
from extractkit.core.plan import Constant, OverSamples, PlannedTensor
from extractkit.core.spec import TensorSpec
from extractkit.engine.compilers import COMPILE
from extractkit.engine.prepare import Prepared
from extractkit.inputs import HashesFiles
from extractkit.models.process import environment
from extractkit.runs import components
from extractkit.runs.environment import (
    PACKAGES,
    VALUE_PACKAGES,
    VALUES_VERSION,
    module_versions,
    package_versions,
)
from extractkit.runs.files import origins
from extractkit.runs.manifest import (
    SHARING,
    Manifest,
    RunInputs,
    RunStatistics,
    RunTensor,
    Unextractable,
)
from extractkit.runs.same_job import MACHINE_SETTINGS, tensors_key
from extractkit.runs.schema import digest, plain
from extractkit.sinks import StoredTensor


def identity(prepared: Prepared, described: Manifest) -> str | None:
    """Return the SHA-256 of everything that decides the run's bytes.

    Args:
        described: the manifest with everything in it that is known before samples are read.

    Returns:
        The digest in hexadecimal; None if it cannot be known what the model computes.
    """
    if described.model.get("definition") is None:
        return None
    key = {
        "model": {name: described.model[name] for name in ("weights", "definition")},
        "inputs": described.inputs and [described.inputs.digest, described.inputs.count],
        "components": _components(prepared.job, described),
        "tensors": tensors_key(_as_listed(described.tensors, prepared)),
        "transforms": [
            plain((tensor.key, tensor.pipeline.decisive, _plain_layout(tensor.layout)))
            for tensor in prepared.tensors
        ],
        **_statistics(prepared, described),
        **_components_of_runs(prepared),
        "runtime": {
            **prepared.job.runtime.identifying(),
            COMPILE: prepared.opened.compilation.compile,
        },
        "settings": {
            name: plain(value)
            for name, value in described.settings.items()
            if name not in MACHINE_SETTINGS
        },
        "environment": dict(described.environment),
        "processor": described.volatile.host.get("processor"),
        "values_version": described.values_version,
        "versions": {
            name: version
            for name, version in described.versions.items()
            if name in (*VALUE_PACKAGES, *described.plugins)
        },
    }
    return digest(key)


def _statistics(prepared: Prepared, described: Manifest) -> dict[str, Any]:
    if not described.statistics:
        return {}
    return {"statistics": tensors_key(_as_listed(described.statistics, prepared))}


def _components_of_runs(prepared: Prepared) -> dict[str, Any]:
    found = {
        tensor.key: [one.sha256 for one in tensor.bound.components.values()]
        for tensor in prepared.tensors
        if tensor.bound is not None and tensor.bound.components
    }
    return {"projections": found} if found else {}


_T = TypeVar("_T", RunTensor, RunStatistics)


def _as_listed(tensors: Iterable[_T], prepared: Prepared) -> list[_T]:
    """Return tensors with the model's own records. What was measured of them is in the layouts."""
    catalog = prepared.opened.model.catalog
    return [replace(one, record=catalog[one.record.address]) for one in tensors]


def _plain_layout(layout: Layout | None) -> dict[str, object] | None:
    if layout is None:
        return None
    spec = TensorSpec("", layout.dims).undescribed
    return {
        "axis": layout.axis,
        "split": layout.split,
        "dims": spec.labels,
        "shape": spec.shape,
        "whole": layout.whole,
    }


def weights_of(checkpoints: Sequence[Checkpoint]) -> str:
    """Return the SHA-256 over the contents and labels of checkpoints, in order."""
    return digest([[one.label, one.step, one.sha256] for one in checkpoints])


def _components(job: Job, described: Manifest) -> list[Any]:
    """Return model, inputs and sinks as plain data, with files replaced by their digests."""
    contents = {origin.key: origin.sha256 for origin in described.origins}
    if described.checkpoints:
        contents[CHECKPOINTS] = weights_of(described.checkpoints)
    # Sinks in order, because the reader uses the first.
    components = (job.model, job.inputs, *job.sinks.values())
    return [[component.at, _plain(component.at, component, contents)] for component in components]


def _plain(at: str, value: object, contents: Mapping[str, str]) -> Any:
    if at in contents:
        return contents[at]
    if isinstance(value, Component):
        arguments = _plain(at, value.identifying(), contents)
        imports = {"imports": list(value.imports)} if value.imports else {}
        return {"target": value.target, "partial": value.partial, "arguments": arguments, **imports}
    if isinstance(value, Mapping):
        return {str(key): _plain(f"{at}.{key}", entry, contents) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(f"{at}.{index}", entry, contents) for index, entry in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    # The content of an object in memory is covered by weights, definition or input digest.
    return type(value).__name__


def described(manifest: Manifest, prepared: Prepared) -> Manifest:
    """Return the manifest with everything that is known before samples are read."""
    job, opened = prepared.job, prepared.opened
    model, source, runtime = opened.model, opened.source, job.runtime
    checkpoints = tuple(opened.axis.checkpoints) if opened.axis is not None else ()
    imported = module_versions(job.model.imports)
    asked = [used for one in prepared.tensors for used in (one.pipeline, one.asked)]
    plugins = sorted({name for one in asked for name in one.plugins})
    measured = prepared.shared.measured or manifest.volatile.sharing
    recorded = [_recorded(tensor) for tensor in prepared.tensors]
    known = replace(
        manifest,
        volatile=replace(manifest.volatile, sharing=measured),
        model={
            # An adapter may record more as it loads further weights, but a manifest must not
            # change.
            **deepcopy(dict(model.describe())),
            "weights": model.weights_digest() if opened.axis is None else weights_of(checkpoints),
            "definition": model.definition_digest(),
        },
        checkpoints=checkpoints,
        excluded=tuple(opened.axis.excluded) if opened.axis is not None else (),
        inputs=RunInputs(source.digest, len(source), source.notes) if len(source) else None,
        tensors=tuple(one for one in recorded if isinstance(one, RunTensor)),
        statistics=tuple(one for one in recorded if isinstance(one, RunStatistics)),
        components=components.recorded(components.used(prepared.tensors)),
        unextractable=tuple(Unextractable(r.address, r.reason or "") for r in opened.unextractable),
        origins=origins(
            [job.model, job.inputs],
            {
                file: digest
                for one in (model, source)
                if isinstance(one, HashesFiles)
                for file, digest in one.file_digests.items()
            },
        ),
        environment=environment(runtime.threads),
        seeds={"runtime": runtime.seed},
        versions={**package_versions((*PACKAGES, *plugins)), **imported},
        plugins=tuple(plugins),
        values_version=VALUES_VERSION,
        settings={
            **opened.settings,
            # Their operations decide values, as TensorFlow's do.
            **({"imports": [*job.model.imports, imported]} if job.model.imports else {}),
            **runtime.computing(),
            **_compiler(opened.compilation.compile),
            SHARING: str(prepared.shared.sharing),
        },
    )
    # Which weights a training will have is unknown until it ends.
    return replace(known, identity=None if known.training else identity(prepared, known))


def _compiler(taken: str) -> dict[str, object]:
    """Return the compiler that was taken, which `auto` does not name, and its version."""
    if taken != OPENVINO:
        return {COMPILE: taken}
    return {COMPILE: taken, "compiler": f"{OPENVINO} {package_versions([OPENVINO])[OPENVINO]}"}


def _recorded(tensor: PlannedTensor) -> RunTensor | RunStatistics:
    """Return the record of what is stored of a tensor."""
    key, spec, written = tensor.key, tensor.spec, tensor.pipeline.written
    request = tensor.request.written
    match tensor.stored:
        case OverSamples(asked):
            of = (key, tensor.record, tensor.selectors, written)
            return RunStatistics(*of, asked.written, asked.names, spec, request)
        case stored:
            constant = isinstance(stored, Constant)
            kept = StoredTensor(key, spec, constant)
            how = (tensor.selectors, written, tensor.result, request)
            return RunTensor(kept, tensor.record, *how)
