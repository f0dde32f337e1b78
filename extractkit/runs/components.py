"""Principal components of other runs: read there, frozen with the run that uses them, read back."""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from extractkit.core.digests import Algorithm, digest
from extractkit.core.plan import PlannedTensor
from extractkit.core.statistics.components import PCA
from extractkit.core.transforms.projection import Components, FromRun
from extractkit.core.values import Array, Dense
from extractkit.errors import ConfigError, RunDirectoryError, UserError, choices
from extractkit.runs import COMPONENTS
from extractkit.runs import manifest as manifests
from extractkit.runs.manifest import Manifest, RunComponents
from extractkit.runs.statistics import read_statistics
from extractkit.sinks.npz import UNREADABLE, NpzSink

Offer = Callable[[str, FromRun], Sequence[Components]]
"""Returns the components of the run that a projection names, from its key and its run."""

_MEAN, _VECTORS = "mean", "components"


def reading_runs() -> Offer:
    """Return a function that reads components from the runs themselves, each run once."""
    read = cache(_of_run)

    def offered(at: str, source: FromRun) -> Sequence[Components]:
        try:
            return read(Path(source.run).expanduser().absolute())
        except UserError as error:
            raise ConfigError(f"{at}.run={source.run!r} cannot be used: {error}") from error

    return offered


def _of_run(directory: Path) -> tuple[Components, ...]:
    """Read all principal components of a run.

    Raises:
        RunDirectoryError: it is not a finished run of one set of weights, or has none.
    """
    manifest = manifests.read(directory)
    with_pca = [one for one in manifest.statistics if PCA.name in one.names]
    if not with_pca:
        others = [one.key for one in manifest.statistics]
        known = f"It has other statistics of tensors. {choices('', others)} " if others else ""
        raise RunDirectoryError(
            f"{directory} has no principal components. {known}Compute them: statistics: [pca]"
        )
    if manifest.checkpoints:
        raise RunDirectoryError(
            f"{directory} has principal components at each of {len(manifest.checkpoints)} "
            f"checkpoints. Compute them in a run of one: model.checkpoint=…"
        )
    found = read_statistics(directory, manifest)
    return tuple(
        replace(
            _components(
                (one.key, one.record.address, str(directory), manifest.identity),
                *(found[one.key][PCA.name][name] for name in (_MEAN, _VECTORS)),
            ),
            transforms=one.transforms,
            model=_model(manifest),
            request=one.request,
        )
        for one in with_pca
    )


def _model(manifest: Manifest) -> tuple[object, object]:
    return manifest.model.get("weights"), manifest.model.get("definition")


def notes(found: Mapping[str, Sequence[Components]], now: Manifest) -> Iterator[str]:
    """Yield a message for each run whose components come from another model than the job's."""
    others = {
        (at, one.run): one.model
        for at, every in found.items()
        for one in every
        if one.model is not None and one.model != _model(now)
    }
    for (at, run), (weights, _) in others.items():
        what = "other weights" if weights != _model(now)[0] else "a model that computes otherwise"
        yield f"{at} projects onto the principal components of {what}: those of {run}"


def _components(names: tuple[str, str, str, str | None], mean: Array, vectors: Array) -> Components:
    """Return components with their digest, from key, address, run and identity."""
    found = digest([(_MEAN, Dense(mean)), (_VECTORS, Dense(vectors))], Algorithm.SHA256)
    return Components(*names, found.hexadecimal, mean, vectors)


def used(tensors: Iterable[PlannedTensor]) -> dict[str, list[Components]]:
    """Return the components that the transforms of tensors use, by the key of the step."""
    found: dict[str, dict[Components, None]] = {}
    for tensor in tensors:
        for at, one in tensor.bound.components.items() if tensor.bound else ():
            found.setdefault(at, {})[one] = None
    return {at: list(every) for at, every in found.items()}


def recorded(found: Mapping[str, Sequence[Components]]) -> tuple[RunComponents, ...]:
    """Return the records of components in a manifest."""
    return tuple(
        RunComponents(at, one.run, one.identity, one.key, one.address, one.sha256)
        for at, every in found.items()
        for one in every
    )


def serialized(found: Mapping[str, Sequence[Components]]) -> bytes:
    """Serialise components as an `.npz` file, each under its digest."""
    every = {one.sha256: one for each in found.values() for one in each}
    return NpzSink().serialize(
        {
            f"{sha256}.{name}": Dense(array)
            for sha256, one in sorted(every.items())
            for name, array in ((_MEAN, one.mean), (_VECTORS, one.components))
        }
    )


def frozen(directory: Path, manifest: Manifest) -> Offer:
    """Return a function that gives a run the components that are frozen with it.

    If their file is damaged, they are read from the other runs, provided that these are unchanged.

    Raises:
        RunDirectoryError: the components are neither in the run nor in the other runs.
    """
    arrays = _frozen_arrays(directory, manifest) if manifest.components else {}
    offered: dict[str, list[Components]] = {}
    for one in manifest.components:
        names = (one.tensor, one.address, one.run, one.identity)
        offered.setdefault(one.at, []).append(_components(names, *arrays[one.sha256]))
    return lambda at, _: offered.get(at, [])


def _frozen_arrays(directory: Path, manifest: Manifest) -> dict[str, tuple[Array, Array]]:
    """Return mean and components by digest."""
    file = next((file for file in manifest.files if file.name == COMPONENTS), None)
    wanted = {one.sha256: one for one in manifest.components}
    try:
        if file is None:
            raise RunDirectoryError(f"{directory} records no {COMPONENTS}: damaged")
        content = file.content(directory)
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as archive:
                found = {
                    sha256: (archive[f"{sha256}.{_MEAN}"], archive[f"{sha256}.{_VECTORS}"])
                    for sha256 in wanted
                }
        except (*UNREADABLE, KeyError) as error:
            raise RunDirectoryError(f"{directory / COMPONENTS} is damaged: {error}") from error
    except RunDirectoryError as error:
        found = {}
        for sha256, one in wanted.items():
            found[sha256] = _again(Path(one.run), one, error)
    return found


def _again(run: Path, wanted: RunComponents, error: RunDirectoryError) -> tuple[Array, Array]:
    """Read components from their own run again, if they are unchanged there."""
    try:
        for one in _of_run(run):
            if (one.key, one.sha256) == (wanted.tensor, wanted.sha256):
                return one.mean, one.components
    except UserError:
        pass
    raise RunDirectoryError(
        f"{error}. It holds the principal components onto which {wanted.at} projects, and {run} "
        f"does not have them any more. Restore one of them"
    ) from error
