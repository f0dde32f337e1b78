"""Runs to compare: made of given values, without any model."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from extractkit.core.catalog import Kind, TensorRecord
from extractkit.core.shards import CONSTANTS_SHARD, Shard
from extractkit.core.spec import TensorSpec
from extractkit.core.values import Array, Assembly, Dense, Values
from extractkit.runs.environment import Volatile
from extractkit.runs.manifest import Manifest, RunInputs, RunPlan, RunTensor
from extractkit.runs.reader import Run, open_run
from extractkit.runs.recorder import Recorder
from extractkit.runs.shards import ShardValues
from extractkit.sinks import StoredTensor
from extractkit.sinks.hdf5 import Hdf5Sink

Samples = Sequence[Array]
"""Each sample's own value of one tensor; a constant is one array."""


def made_run(
    path: Path,
    tensors: Mapping[str, Samples | Array],
    *,
    ids: Sequence[str] | None = None,
    shards: Sequence[int] = (),
    missing: Mapping[int, str] | None = None,
    finish: bool = True,
    configured: Mapping[str, object] | None = None,
    do: Mapping[str, tuple[str, Sequence[object] | None]] | None = None,
    **recorded: object,
) -> Run:
    """A run that holds these tensors.

    Args:
        ids: of the samples; None: "s0", "s1", …
        shards: where one ends and the next begins.
        missing: samples without values, and why.
        configured: the configuration of the model.
        do: of some tensors, the model's type and the transforms; None: these are unknown.
        recorded: more fields of the manifest.
    """
    count = max((len(v) for v in tensors.values() if not isinstance(v, np.ndarray)), default=0)
    names = [f"s{number}" for number in range(count)] if ids is None else ids
    stored = {key: _stored(key, value) for key, value in tensors.items()}
    bounds = [0, *shards, count]
    ranges = [Shard(*pair) for pair in pairwise(bounds)] if count else []
    planned = Manifest(
        volatile=Volatile(started="2026-11-22T15:04:05+00:00"),
        job_resolved={
            "model": configured,
            "sinks": {"hdf5": {"_target_": "extractkit.sinks.hdf5.Hdf5Sink"}},
        },
        inputs=RunInputs("f00d", count) if count else None,
        tensors=tuple(_tensor(one, (do or {}).get(one.key)) for one in stored.values()),
        plan=RunPlan.of(1000, True, tuple((one.start, one.stop) for one in ranges)),
        **recorded,  # type: ignore[arg-type]
    )
    path.mkdir()
    recorder = Recorder.start(path, planned, {"hdf5": Hdf5Sink()})
    recorder.add_samples({"index": n, "id": name} for n, name in enumerate(names))
    recorder.freeze(recorder.manifest)
    constants = {key: Dense(v) for key, v in tensors.items() if isinstance(v, np.ndarray)}
    if constants:
        recorder.commit(ShardValues(CONSTANTS_SHARD, constants))
    for shard in ranges:
        own = {n: why for n, why in (missing or {}).items() if shard.start <= n < shard.stop}
        recorder.commit(ShardValues(shard, _part(stored, tensors, shard), missing=own))
    if finish:
        recorder.finish()
    else:
        recorder.fail()
    return open_run(path)


def _stored(key: str, value: Samples | Array) -> StoredTensor:
    if isinstance(value, np.ndarray):
        dtype = _dtype(value)
        return StoredTensor(
            key, TensorSpec.of(dtype, (None,) * value.ndim, value.shape), constant=True
        )
    shapes = {one.shape for one in value}
    first = value[0].shape
    shape = tuple(
        size if len({one[axis] for one in shapes}) == 1 else None for axis, size in enumerate(first)
    )
    dims = ("sample", *(None if size is not None else "token" for size in shape))
    return StoredTensor(key, TensorSpec.of(_dtype(value[0]), dims, (None, *shape)), constant=False)


def _dtype(value: Array) -> str:
    return "string" if value.dtype.kind == "O" else value.dtype.name


def _tensor(one: StoredTensor, do: tuple[str, Sequence[object] | None] | None) -> RunTensor:
    dtype, transforms = (one.spec.dtype, ()) if do is None else do
    record = TensorRecord(one.key, Kind.OP, replace(one.spec, dtype=dtype))
    known = None if transforms is None else tuple(transforms)
    return RunTensor(one, record, ("mine",), transforms=known)


def _part(
    stored: Mapping[str, StoredTensor], tensors: Mapping[str, Samples | Array], shard: Shard
) -> dict[str, Values]:
    values: dict[str, Values] = {}
    for key, one in stored.items():
        if one.constant:
            continue
        own = list(tensors[key])[shard.start : shard.stop]
        assembly = Assembly(
            one.spec.sample_shape, one.spec.dtype, [value.shape for value in own], len(own)
        )
        for position, value in enumerate(own):
            assembly.put([position], value[np.newaxis])
        values[key] = assembly.finish()
    return values
