"""How often a job does what takes time, counted in calls and bytes: no clock is read.

A count that rises makes jobs slower on any machine. One that falls can be lowered here.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import blake3
import keras
import numpy as np
import pytest
import tensorflow as tf
from hydra._internal.config_loader_impl import ConfigLoaderImpl

from extractkit.cli import execute
from extractkit.inputs.in_memory import LiveRows
from extractkit.models.in_memory import live_model
from extractkit.models.keras_models import model as keras_model
from tests.engine.examples import executed, job

SAMPLES, WIDTH, BATCH, SHARD = 256, 1024, 32, 64

LARGE = 1 << 12
"""Bytes from which an array counts as a copy of values: those of a sample of one tensor."""

ALLOCATING = ("ascontiguousarray", "concatenate", "empty", "full", "stack", "zeros")

ONCE = ("graphs", "shapes")
PER_BYTE = ("bytes copied", "bytes hashed", "bytes written")
EXPECTED: Mapping[str, Mapping[str, float]] = {
    "dense": {
        "bytes copied": 1.0,
        "bytes hashed": 2.0,
        "bytes written": 1.0,
        "samples read": 2.0,
        "calls": 1.0,
        "graphs": 7,
        "shapes": 3,
    },
    "ragged": {
        "bytes copied": 1.0,
        "bytes hashed": 2.0,
        "bytes written": 1.0,
        "samples read": 2.0,
        "calls": 1.0,
        "graphs": 8,
        "shapes": 10,
    },
    "command": {
        "compositions": 1,
        "graphs": 6,
        "models loaded": 2,
        "files hashed": 2,
        "traces": 1,
    },
}
"""Bytes for each stored byte, samples read for each sample and calls of graphs for each batch, as a
job grows. Once for each job: graphs that are built, shapes that graphs are called with, models
loaded (the second for the self-check), traces of the model, files hashed (the model's and the
samples'), and compositions of the configuration."""


class Rows(Sequence[Any]):
    """Samples that count how often they are read."""

    def __init__(self, rows: Sequence[Any], counts: Counter[str]) -> None:
        self._rows, self._counts = rows, counts

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        self._counts["samples read"] += 1
        return self._rows[index]


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts of calls of libraries, and of the bytes that they were given or returned."""
    found: Counter[str] = Counter()
    write, graph = os.write, tf.Graph.__init__
    concrete = type(tf.function(lambda: tf.constant(0)).get_concrete_function())
    call, compose = concrete.__call__, ConfigLoaderImpl.load_configuration
    shapes = set()

    class Hash:
        kind: Any

        def __init__(self, data: Any = b"", **options: Any) -> None:
            self._own = self.kind(**options)
            self.update(data)

        def update(self, data: Any) -> None:
            found["bytes hashed"] += memoryview(data).nbytes
            self._own.update(data)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._own, name)

    def allocating(name: str) -> None:
        own = getattr(np, name)

        def counting(*args: Any, **options: Any) -> Any:
            array = own(*args, **options)
            new = isinstance(array, np.ndarray) and not any(array is one for one in args)
            if new and array.nbytes >= LARGE:
                found["bytes copied"] += array.nbytes
            return array

        monkeypatch.setattr(np, name, counting)

    def counting_write(descriptor: int, data: Any) -> int:
        written = write(descriptor, data)
        found["bytes written"] += written
        return written

    def counting_graph(self: Any, *args: Any, **options: Any) -> None:
        found["graphs"] += 1
        graph(self, *args, **options)

    def counting_call(self: Any, *args: Any, **options: Any) -> Any:
        given = tuple(tuple(np.shape(one)) for one in tf.nest.flatten((args, options)))
        found["calls"] += 1
        shapes.add((id(self), given))
        found["shapes"] = len(shapes)
        return call(self, *args, **options)

    def counting_compose(self: Any, *args: Any, **options: Any) -> Any:
        found["compositions"] += 1
        return compose(self, *args, **options)

    load, trace, file_digest = keras.models.load_model, keras_model.trace, hashlib.file_digest

    def counting_trace(*args: Any, **options: Any) -> Any:
        found["traces"] += 1
        return trace(*args, **options)

    def counting_digest(file: Any, *args: Any, **options: Any) -> Any:
        found["files hashed"] += 1
        return file_digest(file, *args, **options)

    def counting_load(*args: Any, **options: Any) -> Any:
        found["models loaded"] += 1
        return load(*args, **options)

    for module, name in ((hashlib, "sha256"), (blake3, "blake3")):
        counting = type("Counting", (Hash,), {"kind": staticmethod(getattr(module, name))})
        monkeypatch.setattr(module, name, counting)
    monkeypatch.setattr(os, "write", counting_write)
    monkeypatch.setattr(tf.Graph, "__init__", counting_graph)
    monkeypatch.setattr(concrete, "__call__", counting_call)
    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", counting_compose)
    monkeypatch.setattr(keras.models, "load_model", counting_load)
    monkeypatch.setattr(keras_model, "trace", counting_trace)
    monkeypatch.setattr(hashlib, "file_digest", counting_digest)
    for name in ALLOCATING:
        allocating(name)
    return found


def network(*shape: int | None) -> Any:
    inputs = keras.Input(shape)
    layers = [keras.layers.Dense(WIDTH, name=name) for name in ("first", "second")]
    return keras.Model(inputs, [layer(inputs) for layer in layers], name="net")


def rows(kind: str, count: int) -> list[Any]:
    draw = np.random.default_rng(0)
    if kind == "dense":
        return list(draw.normal(size=(count, 8)).astype("float32"))
    return [draw.normal(size=(1 + at % 3, 8)).astype("float32") for at in range(count)]


def check(kind: str, found: Mapping[str, float]) -> None:
    expected = EXPECTED[kind]
    risen = [
        f"{name} rose from {most} to {found[name]}"
        for name, most in expected.items()
        if found[name] > most
    ]
    assert not risen, f"{kind}: {', '.join(risen)}"


@pytest.mark.parametrize("kind", ["dense", "ragged"])
def test_a_job(kind: str, tmp_path: Path, counts: Counter[str]) -> None:
    model = live_model(network(*((8,) if kind == "dense" else (None, 8))), name="net")
    seen, stored = [], []
    for times in (1, 2):
        samples = rows(kind, SAMPLES * times)
        wanted = job(
            {"regex": "^(first|second):output$"},
            model=model,
            inputs=LiveRows(Rows(samples, counts)),
            batch_size=BATCH,
            shard_size=SHARD,
        )
        counts.clear()
        executed(tmp_path / str(times), wanted)
        seen.append(Counter(counts))
        stored.append(2 * WIDTH * 4 * sum(len(np.atleast_2d(one)) for one in samples))
    once, twice = seen
    more = {name: twice[name] - once[name] for name in once}
    found = {name: round(more[name] / (stored[1] - stored[0]), 1) for name in PER_BYTE}
    found |= {
        "samples read": more["samples read"] / SAMPLES,
        "calls": more["calls"] * BATCH / SAMPLES,
    }
    check(kind, found | {name: once[name] for name in ONCE})


def test_a_command(tmp_path: Path, counts: Counter[str]) -> None:
    network(8).save(tmp_path / "net.keras")
    np.save(tmp_path / "x.npy", np.stack(rows("dense", 8)))
    counts.clear()
    execute(
        [
            *("model=keras", f"model.path={tmp_path / 'net.keras'}", "inputs=arrays"),
            *(f"inputs.path={tmp_path / 'x.npy'}", f"run_dir={tmp_path / 'run'}"),
            "selectors=outputs",
        ]
    )
    check("command", counts)
