"""Rates of reading a run back, relative to h5py (or NumPy) on one contiguous file.

The values come from nowhere, and both are in the system's page cache. Digests of the shards are
compared before the clock starts, as they are once for each opened run.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

import extractkit
from benchmarks.scale_stages import FIXED, RAGGED, planned
from extractkit.core.shards import Shard
from extractkit.core.values import Dense, Ragged, Values
from extractkit.runs.manifest import RunInputs, RunPlan
from extractkit.runs.recorder import Recorder
from extractkit.runs.shards import ShardValues
from extractkit.sinks import Sink
from extractkit.sinks.hdf5 import Hdf5Sink
from extractkit.sinks.npz import NpzSink
from tests.runs.examples import TARGETS, run_tensor

SAMPLES, SHARD, WIDTH, TOKENS = 2048, 256, 384, 34
"""Samples of a run and of a shard, features of a token, and the mean number of tokens."""

SOME = 200
"""Slices, or samples, that are read in a random order."""

SLICE, ROUNDS = 32, 7

TENSORS = (
    run_tensor(FIXED, "float32", ("sample", None, None), (TOKENS, WIDTH), "Dense"),
    run_tensor(RAGGED, "float32", ("sample", "token", None), (None, WIDTH), "Encoder"),
)


def main() -> None:
    """Print a table of both formats."""
    draw = np.random.default_rng(0)
    lengths = draw.integers(1, 2 * TOKENS, SAMPLES)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    dense = draw.random((SAMPLES, TOKENS, WIDTH), np.float32)
    values = draw.random((int(offsets[-1]), WIDTH), np.float32)
    with tempfile.TemporaryDirectory() as name:
        whole = Path(name) / "whole.h5"
        with h5py.File(whole, "w") as file:
            file["dense"], file["values"], file["offsets"] = dense, values, offsets
        sinks: Mapping[str, Sink] = {"hdf5": Hdf5Sink(index=False), "npz": NpzSink()}
        for kind, sink in sinks.items():
            path = Path(name) / kind
            stored(path, kind, sink, dense, values, offsets)
            run = extractkit.open(path)
            assert isinstance(run, extractkit.Run)
            with h5py.File(whole) as file:
                compare(kind, run, file, draw)


def stored(
    path: Path,
    kind: str,
    sink: Sink,
    dense: npt.NDArray[np.float32],
    values: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.int64],
) -> None:
    """Write a run with these values."""
    path.mkdir()
    shards = [Shard(at, at + SHARD) for at in range(0, SAMPLES, SHARD)]
    plan = RunPlan.of(dense.nbytes + values.nbytes, True, tuple((s.start, s.stop) for s in shards))
    manifest = replace(
        planned(1),
        tensors=TENSORS,
        plan=plan,
        inputs=RunInputs("f00d", SAMPLES),
        job_resolved={"sinks": {kind: {"_target_": TARGETS[kind]}}},
    )
    recorder = Recorder.start(path, manifest, {kind: sink})
    recorder.add_samples({"index": at, "id": str(at)} for at in range(SAMPLES))
    recorder.freeze(manifest)
    for shard in shards:
        own = offsets[shard.start : shard.stop + 1]
        parts: dict[str, Values] = {
            FIXED: Dense(dense[shard.start : shard.stop]),
            RAGGED: Ragged(values[own[0] : own[-1]], own - own[0]),
        }
        recorder.commit(ShardValues(shard, parts))
    recorder.finish()


def compare(kind: str, run: extractkit.Run, file: Any, draw: np.random.Generator) -> None:
    """Print the rate of each way to read, and its ratio to that of h5py."""
    fixed, ragged = run[FIXED], run[RAGGED]
    dense, values, offsets = file["dense"], file["values"], file["offsets"][:]
    starts = draw.integers(0, SAMPLES - SLICE, SOME)
    order = draw.permutation(SAMPLES)
    batches = [np.sort(part) for part in np.split(order, SAMPLES // SLICE)]

    def own(at: int) -> Any:
        return values[offsets[at] : offsets[at + 1]]

    def in_batches() -> Iterator[Any]:
        return (dense[batch.tolist()] for batch in batches)

    ways: Mapping[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "dense: whole": (lambda: np.asarray(fixed), lambda: dense[...]),
        f"dense: slices of {SLICE}": (
            lambda: [fixed[a : a + SLICE] for a in starts],
            lambda: [dense[a : a + SLICE] for a in starts],
        ),
        "dense: samples, shuffled": (
            lambda: [fixed.sample(at) for at in order],
            lambda: [dense[at] for at in order],
        ),
        f"dense: batches of {SLICE}, shuffled": (
            lambda: [fixed[batch] for batch in batches],
            lambda: list(in_batches()),
        ),
        "ragged: whole, shard by shard": (
            lambda: [part.values for _, part in ragged.by_shard()],
            lambda: values[...],
        ),
        "ragged: samples, in order": (
            lambda: list(ragged),
            lambda: [own(at) for at in range(SAMPLES)],
        ),
        "ragged: samples, shuffled": (
            lambda: [ragged.sample(at) for at in order],
            lambda: [own(at) for at in order],
        ),
    }
    for name, (ours, theirs) in ways.items():
        ours()
        theirs()
        ratios = []
        rates = []
        for _ in range(ROUNDS):
            seconds, size = timed(ours)
            others, other_size = timed(theirs)
            assert size == other_size
            ratios.append(others / seconds)
            rates.append(size / seconds / 1e9)
        print(f"  {kind:<5} {name:<32} {median(rates):6.2f} GB/s, {median(ratios):5.2f} of h5py")


def timed(read: Callable[[], Any]) -> tuple[float, int]:
    """Return the seconds that a function takes, and the bytes that it returns."""
    began = perf_counter()
    found = read()
    seconds = perf_counter() - began
    return seconds, sum(one.nbytes for one in (found if isinstance(found, list) else [found]))
