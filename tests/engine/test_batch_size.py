"""`runtime.batch_size=auto`: chosen by rate and memory, then frozen. No clock is read here."""

import os
import resource
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from extractkit.core.job import Job, Runtime
from extractkit.core.values import Array
from extractkit.engine import Silent, prepare
from extractkit.engine.execute import execute, resume
from extractkit.engine.prepare import MEASURED_SAMPLES, fastest_batch
from extractkit.errors import ConfigError, JobError
from extractkit.models.process import free_memory, peak_memory, resident_memory
from extractkit.runs.manifest import Status
from extractkit.runs.reader import open_run
from extractkit.testing.reference import ReferenceModel
from tests.engine.examples import executed, job, shard_files

Tried = Callable[[int], tuple[float, int]]
PLENTY = 1 << 40
TEXTS = tuple("abcdefgh"[: 1 + at % 8] for at in range(MEASURED_SAMPLES + 4))


def model(fastest: int, bytes_each: int = 1, fails: int = PLENTY) -> Tried:
    """A model whose rate doubles with the batch up to some size."""

    def tried(size: int) -> tuple[float, int]:
        if size >= fails:
            raise JobError("no memory on the device")
        return max(1, size / fastest), size * bytes_each

    return tried


@pytest.mark.parametrize(
    ("fastest", "options", "memory", "most", "size"),
    [
        (32, {}, PLENTY, 1024, 32),
        (1, {}, PLENTY, 1024, 1),
        (4096, {}, PLENTY, 1024, 1024),
        (4096, {}, PLENTY, 100, 64),
        (4096, {"bytes_each": 10}, 650, 1024, 64),
        (4096, {"bytes_each": 10}, 5, 1024, 1),
        (4096, {"fails": 64}, PLENTY, 1024, 16),
        (4096, {"fails": 2}, PLENTY, 1024, 1),
    ],
)
def test_the_smallest_batch_of_the_best_rate_that_fits_is_taken(
    fastest: int, options: Mapping[str, int], memory: int, most: int, size: int
) -> None:
    assert fastest_batch(model(fastest, **options), memory, most) == size


def test_no_batch_is_run_that_is_expected_not_to_fit() -> None:
    seen = []

    def tried(size: int) -> tuple[float, int]:
        seen.append(size)
        return 1, 10 * size

    assert fastest_batch(tried, 700, 1024) == 64
    assert seen == [1, 2, 4, 8, 16, 32, 64]


def test_a_model_that_fails_on_one_sample_fails() -> None:
    with pytest.raises(JobError, match="on the device"):
        fastest_batch(model(8, fails=1), PLENTY, 1024)


def test_the_limit_of_a_process_counts_as_its_memory() -> None:
    """In a child, as the limit cannot be raised again."""
    reader, writer = os.pipe()
    if not (child := os.fork()):
        try:
            size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + (200 << 20), resource.RLIM_INFINITY))
            before = resident_memory()

            def tried(samples: int) -> tuple[float, int]:
                np.ones(samples << 20, np.uint8).sum()
                return 1, peak_memory() - before

            os.write(writer, str(fastest_batch(tried, free_memory() // 2, 1024)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        chosen = int(answer.read())
    os.waitpid(child, 0)
    assert 16 <= chosen <= 64


def wanted(model: ReferenceModel | None = None, **runtime: object) -> Job:
    return job(
        {"path": "pool:output"},
        model=model or ReferenceModel(),
        inputs=TEXTS,
        **{"batch_size": "auto", "shard_size": 52, **runtime},
    )


@pytest.fixture
def five(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Chooses batches of five samples, and keeps the most that each measurement would take."""
    asked: list[int] = []
    monkeypatch.setattr(
        prepare, "fastest_batch", lambda tried, memory, most: asked.append(most) or 5
    )
    return asked


class Short(ReferenceModel):
    """Runs out of memory at a text of eight characters if the last of `calls` is 0."""

    calls: ClassVar[list[int]] = []

    def forward(self, tokens: Array) -> dict[str, Array]:
        if len(tokens) == 8 and self.calls and not self.calls.pop():
            raise MemoryError
        return super().forward(tokens)


@pytest.fixture(autouse=True)
def enough() -> Iterator[None]:
    yield
    Short.calls.clear()


def test_the_size_is_recorded_and_part_of_the_identity(tmp_path: Path, five: list[int]) -> None:
    run = executed(tmp_path / "auto", wanted())
    assert five == [len(TEXTS) // 8]
    assert run.manifest.settings["batch_size"] == 5
    given, other = (executed(tmp_path / str(n), wanted(batch_size=n)) for n in (5, 6))
    assert run.manifest.identity == given.manifest.identity != other.manifest.identity
    assert shard_files(tmp_path / "auto") == shard_files(tmp_path / "5")
    few = job({"path": "pool:output"}, inputs=TEXTS[:9], batch_size="auto")
    assert executed(tmp_path / "few", few).manifest.settings["batch_size"] == 32
    executed(tmp_path / "tokens", wanted(batch_tokens=24))
    assert five[1:] == [3]


def test_a_job_without_memory_ends_and_is_resumed_with_its_size(
    tmp_path: Path, five: list[int]
) -> None:
    whole = executed(tmp_path / "whole", wanted(Short()))
    # The measurements before, two shards, and then no more memory.
    Short.calls[:] = [0, *[1] * 30]
    with pytest.raises(JobError) as caught:
        execute(wanted(Short()), tmp_path / "run", hydra_files={}, listener=Silent())
    assert str(caught.value) == (
        "memory does not suffice for a batch of 4 samples, in shard 000000156-000000208. "
        "Committed shards are intact. Free memory and resume the run, which keeps its batches, or "
        "start a new one with a smaller runtime.batch_size"
    )
    stopped = open_run(tmp_path / "run")
    assert stopped.status is Status.FAILED
    asked = len(five)
    resume(wanted(Short()), tmp_path / "run", listener=Silent())
    assert len(five) == asked
    assert shard_files(tmp_path / "run") == shard_files(tmp_path / "whole")
    assert open_run(tmp_path / "run").manifest.identity == whole.manifest.identity


def test_a_repeated_run_takes_the_recorded_size(tmp_path: Path, five: list[int]) -> None:
    executed(tmp_path / "run", wanted())
    five.clear()
    again = {"hydra_files": {}, "listener": Silent(), "repeats": tmp_path / "run"}
    execute(wanted(), tmp_path / "again", **again)  # type: ignore[arg-type]
    assert five == []
    assert open_run(tmp_path / "again").manifest.settings["batch_size"] == 5


def test_what_cannot_be_a_size_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        Runtime.parse({"batch_size": "all"})
    assert str(caught.value) == (
        "runtime.batch_size='all' is not a whole number of 1 or more or 'auto'"
    )
    with pytest.raises(ConfigError) as caught:
        Runtime.parse({"batch_size": "auto", "part": "1/2"})
    assert str(caught.value) == (
        "runtime.part=1/2 and runtime.batch_size=auto do not go together: each part might measure "
        "another size. Give a number: runtime.batch_size=32"
    )
