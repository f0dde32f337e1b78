"""`python -m benchmarks.scale_stages STAGE DIRECTORY SHARDS [--fsync]`: one stage of a run's life.

Prints its seconds, and the most memory that the process had in bytes, as JSON. The values come
from nowhere: no model, no samples, all else is the code that jobs run.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import perf_counter, process_time

import numpy as np

import extractkit
from extractkit.core.shards import Part, Shard, plan_shards
from extractkit.core.value_checks import EXAMINATION
from extractkit.core.values import Dense, Ragged, Values
from extractkit.runs import JOURNAL, SAMPLES, SHARDS, journal
from extractkit.runs import manifest as manifests
from extractkit.runs.checking.files import damage
from extractkit.runs.checking.verification import verify
from extractkit.runs.environment import Volatile, now
from extractkit.runs.manifest import Manifest, RunInputs, RunPlan
from extractkit.runs.parts import join as join_parts
from extractkit.runs.parts import part_directory
from extractkit.runs.recorder import Recorder
from extractkit.runs.shards import ShardValues
from extractkit.sinks import StoredShard
from extractkit.sinks.hdf5 import Hdf5Sink
from tests.runs.examples import TARGETS, run_tensor

A_SHARD = 2
"""Samples of a shard."""

FIXED, RAGGED = "pooler:output", "encoder:output"
TENSORS = (
    run_tensor(FIXED, "float32", ("sample", None), (4,), "Dense"),
    run_tensor(RAGGED, "float32", ("sample", "token"), (None,), "Encoder"),
)


class Clock:
    """Measures what is inside of `with clock.running():`, one time or several.

    Attributes:
        seconds: that passed.
        busy: of these, what the process spent computing, whatever else the machine was doing.
    """

    seconds = 0.0
    busy = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        began, begun = perf_counter(), process_time()
        yield
        self.seconds += perf_counter() - began
        self.busy += process_time() - begun


def planned(shards: int) -> Manifest:
    """The manifest of a run with so many shards."""
    per_sample = np.full(shards * A_SHARD, 24, np.int64)
    ranges = tuple((one.start, one.stop) for one in plan_shards(per_sample, A_SHARD))
    return Manifest(
        volatile=Volatile(started=now()),
        job_given=("model=none",),
        job_resolved={"sinks": {"hdf5": {"_target_": TARGETS["hdf5"], "index": False}}},
        inputs=RunInputs("f00d", shards * A_SHARD),
        tensors=TENSORS,
        plan=RunPlan.of(int(per_sample.sum()), True, ranges),
    )


def started(directory: Path) -> Recorder:
    """What goes on with a run."""
    return Recorder.start(directory, manifests.read(directory), {"hdf5": Hdf5Sink(index=False)})


def commit(recorder: Recorder, shards: tuple[Shard, ...], clock: Clock) -> None:
    """Commit shards as a job does that tells of its progress after each."""
    offsets = np.array([0, 1, 3], np.int64)
    for shard in shards:
        numbers = np.arange(shard.start * 4, shard.stop * 4, dtype="float32")
        values: dict[str, Values] = {
            FIXED: Dense(numbers.reshape(A_SHARD, 4)),
            RAGGED: Ragged(numbers[:3], offsets),
        }
        stats = {key: EXAMINATION.of((value, shard.start)) for key, value in values.items()}
        with clock.running():
            before = recorder.bytes
            recorder.commit(ShardValues(shard, values, stats, compute_seconds=0.1))
            assert recorder.bytes > before


def plan(directory: Path, shards: int, clock: Clock) -> None:
    directory.mkdir()
    recorder = Recorder.start(directory, planned(1), {"hdf5": Hdf5Sink(index=False)})
    rows = ({"index": i, "id": str(i), "length": 1 + i % 2} for i in range(shards * A_SHARD))
    recorder.add_samples(rows)
    with clock.running():
        recorder.freeze(planned(shards))


def commit_half(directory: Path, shards: int, clock: Clock) -> None:
    recorder = started(directory)
    commit(recorder, recorder.manifest.shards[: shards // 2], clock)


def resume(directory: Path, shards: int, clock: Clock) -> None:
    with clock.running():
        recorder = started(directory)
        missing = [one for one in recorder.manifest.shards if one not in recorder.committed]
    assert len(missing) == shards - shards // 2


def commit_rest(directory: Path, shards: int, clock: Clock) -> None:
    recorder = started(directory)
    left = tuple(one for one in recorder.manifest.shards if one not in recorder.committed)
    commit(recorder, left, clock)


def finish(directory: Path, shards: int, clock: Clock) -> None:
    recorder = started(directory)
    with clock.running():
        recorder.finish({"extract": 1.0})


def look(directory: Path, shards: int, clock: Clock) -> None:
    with clock.running():
        damaged = damage(directory, manifests.read(directory))
    assert not damaged


def opened(directory: Path) -> extractkit.Run:
    run = extractkit.open(directory)
    assert isinstance(run, extractkit.Run)
    return run


def open_run(directory: Path, shards: int, clock: Clock) -> None:
    with clock.running():
        assert len(extractkit.open(directory)) == len(TENSORS)


def part(directory: Path, shards: int, clock: Clock) -> None:
    view = opened(directory)[FIXED]
    middle = shards * A_SHARD // 2
    with clock.running():
        found = view[middle : middle + 10]
    assert found[0, 0] == middle * 4


def sample(directory: Path, shards: int, clock: Clock) -> None:
    view = opened(directory)[RAGGED]
    with clock.running():
        view.sample(shards)


def array(directory: Path, shards: int, clock: Clock) -> None:
    view = opened(directory)[FIXED]
    with clock.running():
        assert np.asarray(view).sum(dtype=np.float64) > 0


def ragged_array(directory: Path, shards: int, clock: Clock) -> None:
    view = opened(directory)[RAGGED]
    with clock.running():
        assert np.isnan(np.asarray(view)).sum() == shards


def check(directory: Path, shards: int, clock: Clock) -> None:
    with clock.running():
        assert not verify(directory).failed


def index(directory: Path, shards: int, clock: Clock) -> None:
    stored = [
        StoredShard(one, directory / "shards" / f"{one.key}.h5")
        for one in manifests.read(directory).shards
    ]
    with clock.running():
        ((name, content),) = (
            Hdf5Sink(index=True)
            .finish(directory, [tensor.stored for tensor in TENSORS], stored)
            .items()
        )
    (directory.parent / "index.h5").write_bytes(content)
    assert name == "tensors.h5"


def split(directory: Path, shards: int, clock: Clock) -> None:
    """Make two parts of a finished run, as two jobs would have made them."""
    whole = manifests.read(directory)
    entries = journal.read(directory / JOURNAL).by_shard()
    for part in Part(1, 2).siblings:
        at = part_directory(joined(directory), part)
        (at / SHARDS).mkdir(parents=True)
        of_part = replace(whole, part=str(part))
        own = [entries[shard] for shard in of_part.shards]
        for file in [file for entry in own for file in entry.files.values()]:
            os.link(directory / file.name, at / file.name)
        os.link(directory / SAMPLES, at / SAMPLES)
        journal.rewrite(at / JOURNAL, own)
        manifests.write(at, of_part)


def join(directory: Path, shards: int, clock: Clock) -> None:
    with clock.running():
        join_parts(joined(directory))
    assert len(manifests.read(joined(directory)).shards) == shards


def joined(directory: Path) -> Path:
    """Where the parts of a run stand that is split."""
    return directory.with_name(f"{directory.name}-joined")


PREPARING = "split"
STAGES: dict[str, Callable[[Path, int, Clock], None]] = {
    "plan": plan,
    "commit, first half": commit_half,
    "damage, of half": look,
    "resume, of half": resume,
    "commit, second half": commit_rest,
    "finish": finish,
    "open": open_run,
    "10 samples": part,
    "one ragged sample": sample,
    "a whole tensor": array,
    "a whole ragged one": ragged_array,
    "damage": look,
    "verify": check,
    "tensors.h5": index,
    PREPARING: split,
    "join, of 2 parts": join,
}


def peak() -> int:
    """The most resident bytes that this process has had; not, as `getrusage` has it, its parent."""
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line
    )
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    if "--fsync" not in sys.argv:
        os.fsync = lambda descriptor: None  # type: ignore[assignment]
    clock = Clock()
    STAGES[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]), clock)
    print(json.dumps({"seconds": clock.seconds, "busy": clock.busy, "peak": peak()}))
