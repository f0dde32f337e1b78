"""What is done with a run takes work in proportion to its shards, not to their square.

Work is counted in calls of functions: seconds would tell of the machine.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import extractkit
from extractkit.core.value_checks import EXAMINATION
from extractkit.core.values import Dense
from extractkit.errors import RunDirectoryError
from extractkit.runs import journal
from extractkit.runs import manifest as manifests
from extractkit.runs.checking.files import damage
from extractkit.runs.checking.verification import verify
from extractkit.runs.manifest import RunInputs, RunPlan
from extractkit.runs.recorder import Recorder
from extractkit.runs.shards import ShardValues
from extractkit.sinks.npz import NpzSink
from tests.runs.examples import POOLED, TENSORS, manifest

FEW, MANY = 60, 240
POOLER = tuple(tensor for tensor in TENSORS if tensor.key == POOLED)


def begun(directory: Path, shards: int, committed: int) -> Recorder:
    """A run of so many shards of one sample, that has some of them."""
    directory.mkdir()
    plan = RunPlan(0, True, ((shards, 1),))
    inputs = RunInputs("f00d", shards)
    planned = manifest(["npz"], tensors=POOLER, inputs=inputs, plan=plan)
    recorder = Recorder.start(directory, planned, {"npz": NpzSink()})
    recorder.add_samples({"index": at, "id": str(at), "length": 1} for at in range(shards))
    recorder.freeze(planned)
    commit(recorder, 0, committed)
    return recorder


def commit(recorder: Recorder, start: int, stop: int) -> None:
    """Commit shards, and tell of the progress after each, as a job does."""
    reported = []
    for shard in recorder.manifest.shards[start:stop]:
        value = Dense(np.full((1, 4), shard.start + 0.5))
        stats = {POOLED: EXAMINATION.of((value, shard.start))}
        recorder.commit(ShardValues(shard, {POOLED: value}, stats=stats))
        reported.append(recorder.bytes)
    assert reported == sorted(set(reported))


def committing(directory: Path, shards: int) -> Callable[[], object]:
    recorder = begun(directory, shards, 0)
    return lambda: commit(recorder, 0, shards)


def going_on(directory: Path, shards: int) -> Callable[[], object]:
    begun(directory, shards, shards)
    recorded = manifests.read(directory)

    def start() -> None:
        recorder = Recorder.start(directory, recorded, {"npz": NpzSink()})
        assert len(recorder.committed) == shards

    return start


def finishing(directory: Path, shards: int) -> Callable[[], object]:
    return begun(directory, shards, shards).finish


def reading(directory: Path, shards: int) -> Callable[[], object]:
    begun(directory, shards, shards).finish()

    def read() -> None:
        assert np.asarray(extractkit.open(directory)[POOLED])[-1, 0] == shards - 0.5

    return read


def verifying(directory: Path, shards: int) -> Callable[[], object]:
    begun(directory, shards, shards).finish()

    def check() -> None:
        assert not verify(directory).failed

    return check


def calls(work: Callable[[], object]) -> int:
    """How many functions are called by it."""
    count = 0

    def counting(*event: object) -> None:
        nonlocal count
        count += 1

    before = sys.getprofile()
    sys.setprofile(counting)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize("work", [committing, going_on, finishing, reading, verifying])
def test_four_times_the_shards_are_four_times_the_work(
    work: Callable[[Path, int], Callable[[], object]], tmp_path: Path
) -> None:
    work(tmp_path / "first", 2)()  # what is imported or cached on first use is not counted
    few = calls(work(tmp_path / "few", FEW))
    many = calls(work(tmp_path / "many", MANY))
    assert many < 1.1 * few * MANY / FEW


def test_opening_parses_no_entry_and_a_sample_that_of_its_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(tmp_path / "run", FEW, FEW).finish()
    parsed, own = [], journal.entry_of

    def counting(line: bytes, at: str, *, brief: bool = False) -> journal.Entry | None:
        parsed.append(at)
        return own(line, at, brief=brief)

    monkeypatch.setattr(journal, "entry_of", counting)
    run = extractkit.open(tmp_path / "run")
    assert isinstance(run, extractkit.Run)
    view = run[POOLED]
    assert (len(view), view.shape, parsed) == (FEW, (FEW, 4), [])
    assert view.sample(7)[0] == view[7, 0] == 7.5
    assert len(parsed) == 1


def test_a_journal_that_changed_since_the_run_was_opened_is_refused(tmp_path: Path) -> None:
    begun(tmp_path / "run", 2, 2).finish()
    run = extractkit.open(tmp_path / "run")
    path = tmp_path / "run/journal.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[::-1])[1:])
    with pytest.raises(RunDirectoryError) as caught:
        np.asarray(run[POOLED])
    assert str(caught.value) == (
        f"{path} has changed since the run was opened. Open it again: "
        f"extractkit.open({str(tmp_path / 'run')!r})"
    )


@pytest.mark.parametrize("shards", [FEW, MANY])
def test_the_directory_of_shards_is_listed_once(
    shards: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = begun(tmp_path / "run", shards, 0)
    for shard in recorder.manifest.shards:
        (tmp_path / f"run/shards/{shard.key}.npz").touch()
    listed = []
    for name in ("listdir", "scandir"):
        own = getattr(os, name)
        monkeypatch.setattr(os, name, lambda path, own=own: listed.append(path) or own(path))
    assert len(damage(tmp_path / "run", recorder.manifest)) == shards
    assert len(listed) == 1


def test_a_run_that_is_resumed_ends_with_the_same_sums(tmp_path: Path) -> None:
    undisturbed = begun(tmp_path / "undisturbed", FEW, FEW).finish()
    stopped = begun(tmp_path / "stopped", FEW, FEW // 3)
    bytes_before = stopped.bytes
    again = Recorder.start(stopped.directory, stopped.manifest, {"npz": NpzSink()})
    assert again.bytes == bytes_before
    commit(again, FEW // 3, FEW)
    ended = again.finish()
    assert ended.actual == undisturbed.actual
    assert ended.actual is not None
    assert ended.actual.values[POOLED].maximum == FEW - 0.5
    assert replace(ended, volatile=undisturbed.volatile) == undisturbed
