"""Small jobs on the reference model, and what they should store."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extractkit.advice import listing
from extractkit.core.component import Component
from extractkit.core.digests import Algorithm
from extractkit.core.job import Job, Runtime
from extractkit.core.plan import PlannedTensor
from extractkit.core.selectors import parse_selector
from extractkit.engine import Listener, Silent, Summary
from extractkit.engine import execute as execution
from extractkit.engine.execute import execute
from extractkit.inputs import Source
from extractkit.inputs.in_memory import LiveTexts
from extractkit.models import Model
from extractkit.runs.manifest import Manifest
from extractkit.runs.reader import Run, open_run
from extractkit.testing.reference import ReferenceModel

MODEL = ReferenceModel()
ALPHABET = "abcdefghijklmnopqrstuvwxyz"
TEXTS = tuple(ALPHABET[:n] * times for n, times in [(1, 1), (26, 2), (3, 1), (7, 3)] * 5)
"""Twenty texts of 1, 52, 3 and 21 characters: as many tokens to the reference model."""

SINKS = {"hdf5": "extractkit.sinks.hdf5.Hdf5Sink", "npz": "extractkit.sinks.npz.NpzSink"}
EVERYTHING: Mapping[str, object] = {"path": "*"}


class Collected(Silent):
    """Keeps what it is reported."""

    def __init__(self) -> None:
        self.samples = self.bytes = self.expected = 0
        self.notes: list[str] = []
        self.stages: list[str] = []
        self.summaries: list[Summary] = []

    def stage(self, name: str) -> None:
        self.stages.append(name)

    def planned(self, tensors: Sequence[PlannedTensor], samples: int, total: int) -> None:
        self.expected = samples

    def advanced(self, samples: int, stored: int) -> None:
        self.samples += samples
        self.bytes += stored

    def note(self, message: str) -> None:
        self.notes.append(message)

    def finished(self, summary: Summary) -> None:
        self.summaries.append(summary)


def source(texts: Sequence[str] = TEXTS, model: Model = MODEL) -> Source:
    return LiveTexts(texts).bind(model.signature)


def tokens(text: str) -> np.ndarray:
    """A text as the reference model reads it."""
    return np.array([ord(char) % 50 for char in text[: MODEL.longest]], np.int32)


def job(
    *selectors: Mapping[str, object],
    model: object = MODEL,
    inputs: object = TEXTS,
    sinks: Sequence[str] = ("npz",),
    **runtime: object,
) -> Job:
    """A job with selectors `s0`, `s1` …; texts or a source may be given as inputs."""
    live = inputs if hasattr(inputs, "bind") else LiveTexts(inputs)  # type: ignore[arg-type]
    return Job(
        model=Component("model", "extractkit.api.given", {"live": model}),
        inputs=Component("inputs", "extractkit.api.given", {"live": live}),
        selectors=tuple(parse_selector(f"s{i}", mapping) for i, mapping in enumerate(selectors)),
        sinks={name: Component(f"sinks.{name}", SINKS[name]) for name in sinks},
        runtime=Runtime.parse(runtime),
        model_name="reference",
        listing=listing("reference"),
        resolved={"sinks": {name: {"_target_": SINKS[name]} for name in sinks}},
    )


def executed(directory: Path, job: Job, listener: Listener | None = None) -> Run:
    """Run the job and open what it left."""
    execute(job, directory, hydra_files={}, listener=listener or Silent())
    return open_run(directory)


def with_sha256(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have runs start with the digests that runs had before schema 14."""
    start = execution.started_now

    def started(*given: Any) -> Manifest:
        return replace(start(*given), digests=Algorithm.SHA256)

    monkeypatch.setattr(execution, "started_now", started)


def shard_files(directory: Path) -> dict[str, bytes]:
    """Content of every shard's file, by name."""
    return {path.name: path.read_bytes() for path in sorted((directory / "shards").iterdir())}
