"""Recording a run."""

import errno
import hashlib
import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from extractkit.errors import ConfigError, JobError, RunDirectoryError
from extractkit.plan import CONSTANTS_SHARD
from extractkit.runs import journal
from extractkit.runs import manifest as manifests
from extractkit.runs.manifest import Status
from extractkit.runs.recorder import Recorder
from extractkit.runs.samples import Samples
from extractkit.sinks.hdf5 import Hdf5Sink
from extractkit.values import digest
from tests.runs.examples import (
    HIDDEN,
    KERNEL,
    LENGTHS,
    SHARDS,
    finished_run,
    manifest,
    record,
    shard_values,
)


def test_a_finished_run_has_these_files(run_path: Path) -> None:
    finished_run(run_path, sinks=("hdf5", "npz"))
    found = {path.relative_to(run_path).as_posix() for path in run_path.rglob("*")}
    shards = [CONSTANTS_SHARD, *SHARDS]
    assert found == {
        *("manifest.json", "journal.jsonl", "samples.jsonl", "tensors.h5", "shards"),
        *(f"shards/{shard.key}{suffix}" for shard in shards for suffix in (".h5", ".npz")),
    }


def test_the_journal_holds_digests_of_files_and_of_values(run_path: Path) -> None:
    example = finished_run(run_path)
    entries = journal.read(run_path / "journal.jsonl").entries
    assert [entry.shard for entry in entries][:2] == ["constants", "000000000-000000004"]
    for entry, shard in zip(entries[1:], SHARDS, strict=True):
        file = entry.files["hdf5"]
        content = (run_path / file.name).read_bytes()
        assert file.sha256 == hashlib.sha256(content).hexdigest()
        assert file.bytes == len(content)
        assert entry.values == digest(shard_values(example.samples, shard).items())
        assert entry.timings == {"run": 0.5}


def test_the_manifest_tells_plan_and_outcome(run_path: Path) -> None:
    recorder, _ = record(run_path)
    assert manifests.read(run_path).status is Status.STARTED
    recorder.finish({"truncated": 2}, {"total": 1.5})
    found = manifests.read(run_path)
    size = sum(path.stat().st_size for path in (run_path / "shards").iterdir())
    assert found.status is Status.FINISHED
    assert found.actual == {"samples": 8, "shards": 4, "bytes": size, "truncated": 2}
    assert found.volatile.finished is not None
    assert found.volatile.timings == {"total": 1.5}
    assert found == recorder.manifest


def test_two_runs_of_the_same_values_are_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        finished_run(tmp_path / name)
    for path in (tmp_path / "a").rglob("*"):
        if path.is_file() and path.name != "manifest.json":
            assert (
                path.read_bytes()
                == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()
            )


def test_the_index_holds_no_time_of_day(run_path: Path) -> None:
    finished_run(run_path)
    times: dict[str, int] = {}
    with h5py.File(run_path / "tensors.h5") as file:
        file.visititems(
            lambda name, node: times.update({name: h5py.h5g.get_objinfo(node.id).mtime})
        )
    assert times
    assert set(times.values()) == {0}


def test_plain_h5py_reads_the_run_as_one_file(run_path: Path) -> None:
    example = finished_run(run_path)
    with h5py.File(run_path / "tensors.h5") as file:
        expected = np.concatenate(example.samples[HIDDEN])
        np.testing.assert_array_equal(file[HIDDEN]["values"][:], expected)
        assert file[HIDDEN]["offsets"][:].tolist() == [0, *np.cumsum(LENGTHS)]
        np.testing.assert_array_equal(file[KERNEL][:], example.kernel)


def test_a_failed_run_keeps_what_was_committed(run_path: Path) -> None:
    recorder, _ = record(run_path, shards=SHARDS[:1])
    recorder.fail(Status.INTERRUPTED, {"total": 1.0})
    assert manifests.read(run_path).status is Status.INTERRUPTED
    assert len(journal.read(run_path / "journal.jsonl").entries) == 2
    assert len(Samples(run_path / "samples.jsonl")) == len(LENGTHS)


def test_a_run_that_fails_before_all_samples_are_known_has_none(run_path: Path) -> None:
    recorder = Recorder.start(run_path, manifest(), {"hdf5": Hdf5Sink()})
    recorder.add_samples([{"index": 0}])
    recorder.fail()
    assert {path.name for path in run_path.iterdir()} == {"manifest.json", "shards"}


def test_the_plan_is_revised_once_the_samples_are_known(run_path: Path) -> None:
    recorder = Recorder.start(run_path, manifest(plan=None), {"hdf5": Hdf5Sink()})
    recorder.add_samples([{"index": 0}])
    recorder.revise(manifest())
    assert manifests.read(run_path).plan == manifest().plan
    assert list(Samples(run_path / "samples.jsonl")) == [{"index": 0}]


def test_a_shard_that_does_not_fit_on_the_disk_is_not_committed(
    run_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, example = record(run_path, shards=SHARDS[:1])

    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(JobError, match="is full"):
        recorder.commit(SHARDS[1], shard_values(example.samples, SHARDS[1]))
    recorder.fail()
    assert len(journal.read(run_path / "journal.jsonl").entries) == 2
    assert len(list((run_path / "shards").iterdir())) == 2
    assert manifests.read(run_path).status is Status.STARTED


def test_a_run_with_a_shard_missing_is_not_finished(run_path: Path) -> None:
    recorder, _ = record(run_path, shards=SHARDS[1:])
    with pytest.raises(
        JobError, match=r"1 shards were never committed, first '000000000-000000004'"
    ):
        recorder.finish()


def test_a_directory_with_committed_shards_is_not_started_again(run_path: Path) -> None:
    finished_run(run_path)
    before = (run_path / "manifest.json").read_bytes()
    with pytest.raises(RunDirectoryError, match="holds committed shards"):
        Recorder.start(run_path, manifest(), {"hdf5": Hdf5Sink()})
    assert (run_path / "manifest.json").read_bytes() == before


def test_sinks_that_would_overwrite_each_other_are_refused(run_path: Path) -> None:
    sinks = {"a": Hdf5Sink(), "b": Hdf5Sink("gzip")}
    with pytest.raises(ConfigError, match=r"sinks.a and sinks.b both write \*.h5"):
        Recorder.start(run_path, manifest(), sinks)
    assert not run_path.exists()


def test_statistics_may_hold_nan(run_path: Path) -> None:
    recorder, example = record(run_path, shards=())
    values = shard_values(example.samples, SHARDS[0])
    recorder.commit(SHARDS[0], values, stats={HIDDEN: {"min": np.float32("nan"), "nan": 3}})
    recorder.fail()
    line = json.loads((run_path / "journal.jsonl").read_text().splitlines()[-1])
    assert line["stats"] == {HIDDEN: {"min": "nan", "nan": 3}}
