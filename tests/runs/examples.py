"""A small run to read back, and what it should hold, made without any model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from extractkit.core.catalog import Kind, Scope, TensorRecord
from extractkit.core.shards import CONSTANTS_SHARD, Shard
from extractkit.core.spec import TensorSpec
from extractkit.core.values import Assembly, Dense, Values
from extractkit.runs.environment import Volatile
from extractkit.runs.manifest import Manifest, RunInputs, RunPlan, RunTensor
from extractkit.runs.recorder import Recorder
from extractkit.runs.shards import ShardValues
from extractkit.sinks import Sink, StoredTensor
from extractkit.sinks.hdf5 import Hdf5Sink
from extractkit.sinks.npz import NpzSink

SINKS: Mapping[str, Sink] = {"hdf5": Hdf5Sink(), "npz": NpzSink()}
TARGETS = {"hdf5": "extractkit.sinks.hdf5.Hdf5Sink", "npz": "extractkit.sinks.npz.NpzSink"}

SHARDS = (Shard(0, 4), Shard(4, 5), Shard(5, 8))
LENGTHS = (3, 1, 0, 2, 5, 2, 2, 4)

HIDDEN = "encoder:output"
ATTENTION = "encoder/self_attention:op/Softmax"
POOLED = "pooler:output"
STEPS = "counter:output"
KERNEL = "encoder:kernel"


def run_tensor(
    key: str,
    dtype: str,
    dims: tuple[str | None, ...],
    shape: tuple[int | None, ...],
    layer_type: str,
    constant: bool = False,
) -> RunTensor:
    """A tensor as the manifest describes it."""
    address = key.partition("@")[0]
    path = address.partition(":")[0]
    scopes = (Scope("", "Functional", ("Model",)), Scope(path, layer_type, ("Layer",)))
    sizes = shape if constant else (None, *shape)
    record = TensorRecord(
        address,
        Kind.WEIGHT if constant else Kind.LAYER_OUTPUT,
        TensorSpec.of(dtype, dims, sizes),
        scopes,
        name=address.replace("encoder", "my_encoder"),
        op_type="Softmax" if "Softmax" in address else None,
        depends_on_inputs=not constant,
    )
    return RunTensor(StoredTensor(key, record.spec, constant), record, ("mine",))


TENSORS = (
    run_tensor(HIDDEN, "float32", ("sample", "token", None), (None, 3), "Encoder"),
    run_tensor(
        ATTENTION, "float16", ("sample", None, "token", "token"), (2, None, None), "SelfAttention"
    ),
    run_tensor(POOLED, "float64", ("sample", None), (4,), "Dense"),
    run_tensor(STEPS, "int64", ("sample", "token"), (None,), "Counter"),
    run_tensor(KERNEL, "float32", (None, None), (2, 3), "Encoder", constant=True),
)


def manifest(sinks: Sequence[str] = ("hdf5",), **changes: object) -> Manifest:
    """A manifest as it is when the plan has been made."""
    planned = Manifest(
        volatile=Volatile(started="2026-11-22T15:04:05+00:00"),
        job_given=("model=mine",),
        job_resolved={"sinks": {name: {"_target_": TARGETS[name]} for name in sinks}},
        inputs=RunInputs("f00d", len(LENGTHS)),
        tensors=TENSORS,
        plan=RunPlan.of(1000, True, tuple((shard.start, shard.stop) for shard in SHARDS)),
    )
    return replace(planned, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Example:
    """A run directory, and each sample's value by key and sample."""

    path: Path
    samples: Mapping[str, list[np.ndarray]]
    kernel: np.ndarray

    def padded(self, key: str) -> np.ndarray:
        """The whole tensor, padded by an oracle of its own."""
        values = self.samples[key]
        shape = np.max([value.shape for value in values], axis=0)
        fill = np.nan if values[0].dtype.kind == "f" else 0
        widths = [
            [(0, most - own) for most, own in zip(shape, v.shape, strict=True)] for v in values
        ]
        return np.stack(
            [np.pad(v, w, constant_values=fill) for v, w in zip(values, widths, strict=True)]
        )


def sample_values(seed: int = 0) -> dict[str, list[np.ndarray]]:
    """Random values of every sample of every tensor that depends on the inputs."""
    random = np.random.default_rng(seed)
    return {
        HIDDEN: [random.random((n, 3)).astype("float32") for n in LENGTHS],
        ATTENTION: [random.random((2, n, n)).astype("float16") for n in LENGTHS],
        POOLED: [random.random(4) for _ in LENGTHS],
        STEPS: [random.integers(-9, 9, n) for n in LENGTHS],
    }


def shard_values(samples: Mapping[str, list[np.ndarray]], shard: Shard) -> dict[str, Values]:
    """What one shard stores."""
    stored: dict[str, Values] = {}
    for tensor in TENSORS:
        if tensor.stored.constant:
            continue
        values = samples[tensor.key][shard.start : shard.stop]
        shapes = [value.shape for value in values]
        assembly = Assembly(
            tensor.stored.spec.sample_shape, tensor.stored.spec.dtype, shapes, len(values)
        )
        for position, value in enumerate(values):
            assembly.put([position], value[np.newaxis])
        stored[tensor.key] = assembly.finish()
    return stored


def record(
    path: Path, sinks: Sequence[str] = ("hdf5",), shards: Sequence[Shard] = SHARDS
) -> tuple[Recorder, Example]:
    """A run with these shards committed, not yet finished."""
    samples = sample_values()
    kernel = np.arange(6, dtype="float32").reshape(2, 3)
    path.mkdir(parents=True, exist_ok=True)
    recorder = Recorder.start(path, manifest(sinks), {name: SINKS[name] for name in sinks})
    recorder.add_samples(
        {"index": index, "id": f"text-{index}", "length": length}
        for index, length in enumerate(LENGTHS)
    )
    recorder.freeze(recorder.manifest)
    recorder.commit(ShardValues(CONSTANTS_SHARD, {KERNEL: Dense(kernel)}))
    for shard in shards:
        recorder.commit(ShardValues(shard, shard_values(samples, shard), compute_seconds=0.5))
    return recorder, Example(path, samples, kernel)


def finished_run(path: Path, sinks: Sequence[str] = ("hdf5",)) -> Example:
    """A finished run."""
    recorder, example = record(path, sinks)
    recorder.finish()
    return example
