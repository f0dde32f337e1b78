"""A small run over checkpoints of every kind of tensor, made without any model, and its values."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from extractkit.core.catalog import Kind, TensorRecord
from extractkit.core.checkpoints import AXIS, Checkpoint
from extractkit.core.shards import CONSTANTS_SHARD, Position, Shard
from extractkit.core.spec import TensorSpec
from extractkit.core.values import Array, Assembly, Dense, Values
from extractkit.runs.environment import Volatile
from extractkit.runs.manifest import Manifest, RunInputs, RunPlan, RunTensor
from extractkit.runs.reader import Run, open_run
from extractkit.runs.recorder import Recorder
from extractkit.runs.shards import ShardValues
from extractkit.sinks import StoredTensor
from tests.runs.examples import SINKS, TARGETS

SHARDS = (Shard(0, 2), Shard(2, 3), Shard(3, 5))
LENGTHS = (2, 0, 3, 1, 2)
"""Of the five samples, in tokens."""

LABELS = ("start", "middle", "end")

DIMS: Mapping[str, tuple[str | None, ...]] = {
    "dense:out": ("sample", None),
    "count:out": ("sample",),
    "flag:out": ("sample", None),
    "word:out": ("sample",),
    "hidden:out": ("sample", "token", None),
    "map:out": ("sample", "token", "token"),
    "ids:out": ("sample", "token"),
    "found:out": ("sample", "f(token)", None),
    "kernel": (None, None),
    "rate": (),
}
SHAPES: Mapping[str, tuple[int | None, ...]] = {
    "dense:out": (3,),
    "count:out": (),
    "flag:out": (2,),
    "word:out": (),
    "hidden:out": (None, 2),
    "map:out": (None, None),
    "ids:out": (None,),
    "found:out": (None, 2),
    "kernel": (2, 3),
    "rate": (),
}
CONSTANT = ("kernel", "rate")
DTYPES = {
    "count:out": "int64",
    "flag:out": "bool",
    "word:out": "string",
    "map:out": "float16",
    "ids:out": "int32",
    "found:out": "float64",
    "rate": "float64",
}
"""All others are float32."""

Series = list[list[Array]]
"""By checkpoint, by sample."""


def of_checkpoint(shard: Shard, at: int) -> Shard:
    """Return the shard of the same samples at one checkpoint."""
    return replace(shard, outer=(Position(AXIS, at),))


@dataclass(frozen=True)
class Trajectories:
    """A finished run and what it should hold.

    Attributes:
        samples: of each tensor that has samples, by checkpoint and sample.
        constants: of the others, by checkpoint.
    """

    path: Path
    samples: Mapping[str, Series]
    constants: Mapping[str, list[Array]]

    def open(self) -> Run:
        return open_run(self.path)

    def padded(self, key: str, fill: object = None) -> Array:
        """The whole tensor, padded by an oracle of its own."""
        if key in self.constants:
            return np.stack(self.constants[key])
        every = [value for own in self.samples[key] for value in own]
        dtype = every[0].dtype
        if fill is None:
            fill = {"f": np.nan, "O": b""}.get(dtype.kind, 0)
        sizes = np.max([value.shape for value in every], axis=0, initial=0).astype(int)
        whole = np.full((len(LABELS), len(LENGTHS), *sizes), fill, dtype)
        for at, own in enumerate(self.samples[key]):
            for number, value in enumerate(own):
                for index in np.ndindex(value.shape):
                    whole[(at, number, *index)] = value[index]
        return whole


def checkpoints(steps: bool) -> tuple[Checkpoint, ...]:
    return tuple(
        Checkpoint(label, 10 * at if steps else None, f"/c/{label}.h5", "f00d", 10)
        for at, label in enumerate(LABELS)
    )


def _values(draw: np.random.Generator, at: int, number: int) -> dict[str, Array]:
    n = LENGTHS[number]
    found = max(0, n - at)  # of what the model computes, the length may be another each time
    texts = np.empty((), object)
    texts[()] = f"w{at}-{number}".encode()
    return {
        "dense:out": draw.random(3).astype("float32"),
        "count:out": np.asarray(draw.integers(-9, 9)),
        "flag:out": draw.random(2) < 0.5,
        "word:out": texts,
        "hidden:out": draw.random((n, 2)).astype("float32"),
        "map:out": draw.random((n, n)).astype("float16"),
        "ids:out": draw.integers(0, 99, n).astype("int32"),
        "found:out": draw.random((found, 2)),
    }


def made(path: Path, sink: str = "hdf5", *, steps: bool = False, seed: int = 0) -> Trajectories:
    """The run, finished."""
    draw = np.random.default_rng(seed)
    axis = range(len(LABELS))
    by_sample = [[_values(draw, at, n) for n in range(len(LENGTHS))] for at in axis]
    samples = {key: [[one[key] for one in own] for own in by_sample] for key in by_sample[0][0]}
    constants: dict[str, list[Array]] = {
        "kernel": [draw.random((2, 3)).astype("float32") for _ in axis],
        "rate": [np.asarray(draw.random()) for _ in axis],
    }
    recorder = started(path, sink, steps=steps, samples=samples, constants=constants)
    for at in axis:
        own = {key: Dense(constants[key][at]) for key in CONSTANT}
        recorder.commit(ShardValues(of_checkpoint(CONSTANTS_SHARD, at), own))
        for shard in SHARDS:
            recorder.commit(ShardValues(of_checkpoint(shard, at), part(samples, shard, at)))
    recorder.finish()
    return Trajectories(path, samples, constants)


def started(
    path: Path,
    sink: str,
    *,
    steps: bool,
    samples: Mapping[str, Series],
    constants: Mapping[str, list[Array]],
) -> Recorder:
    """The run with its plan, nothing committed."""
    planned = Manifest(
        volatile=Volatile(started="2026-11-22T15:04:05+00:00"),
        job_resolved={"sinks": {sink: {"_target_": TARGETS[sink]}}},
        inputs=RunInputs("f00d", len(LENGTHS)),
        tensors=tuple(_tensor(key) for key in (*samples, *constants)),
        plan=RunPlan.of(1000, True, tuple((shard.start, shard.stop) for shard in SHARDS)),
        checkpoints=checkpoints(steps),
    )
    path.mkdir(parents=True)
    recorder = Recorder.start(path, planned, {sink: SINKS[sink]})
    recorder.add_samples({"index": n, "id": f"s{n}"} for n in range(len(LENGTHS)))
    recorder.freeze(recorder.manifest)
    return recorder


def _tensor(key: str) -> RunTensor:
    dtype = DTYPES.get(
        key, {"map:out": "float16", "found:out": "float64", "rate": "float64"}.get(key, "float32")
    )
    constant = key in CONSTANT
    shape = SHAPES[key] if constant else (None, *SHAPES[key])
    record = TensorRecord(key, Kind.OP, TensorSpec.of(dtype, DIMS[key], shape), name=f"model/{key}")
    return RunTensor(StoredTensor(key, record.spec, constant), record, ("mine",))


def part(samples: Mapping[str, Series], shard: Shard, at: int) -> dict[str, Values]:
    """What a shard of one checkpoint stores."""
    values: dict[str, Values] = {}
    for key, series in samples.items():
        own = series[at][shard.start : shard.stop]
        dtype: Any = _tensor(key).stored.spec.dtype
        room = Assembly(SHAPES[key], dtype, [value.shape for value in own], len(own))
        for position, value in enumerate(own):
            room.put([position], value[np.newaxis])
        values[key] = room.finish()
    return values
