"""Recording a run."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

import extractkit
from extractkit.core.digests import PREFERRED, digest
from extractkit.core.shards import CONSTANTS_SHARD
from extractkit.core.value_checks import ValueChecks
from extractkit.errors import ConfigError, JobError, RunDirectoryError
from extractkit.runs import journal
from extractkit.runs import manifest as manifests
from extractkit.runs.checking.files import damage
from extractkit.runs.checking.verification import verify
from extractkit.runs.files import StoredFile
from extractkit.runs.manifest import Actual, Manifest, Status
from extractkit.runs.recorder import Recorder
from extractkit.runs.samples import Samples
from extractkit.runs.shards import ShardValues
from extractkit.sinks.hdf5 import Hdf5Sink
from tests.runs.examples import (
    HIDDEN,
    KERNEL,
    LENGTHS,
    SHARDS,
    TARGETS,
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
        assert file.digest == PREFERRED.of(content)
        assert file.size == len(content)
        assert entry.values == digest(shard_values(example.samples, shard).items(), PREFERRED)
        assert entry.timings == {"compute": 0.5}


def test_the_manifest_tells_plan_and_outcome(run_path: Path) -> None:
    recorder, _ = record(run_path)
    assert manifests.read(run_path).status is Status.STARTED
    recorder.finish({"total": 1.5})
    found = manifests.read(run_path)
    size = sum(path.stat().st_size for path in (run_path / "shards").iterdir())
    assert found.status is Status.FINISHED
    assert found.actual == Actual(samples=8, shards=4, bytes=size)
    assert found.volatile.finished is not None
    assert found.volatile.timings["total"] == 1.5
    assert set(found.volatile.timings) == {"total", "finish"}
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


def test_a_run_without_a_file_over_all_shards_is_whole(run_path: Path) -> None:
    undisturbed, _ = record(run_path)
    settings = {"_target_": TARGETS["hdf5"], "index": False}
    recorded = replace(undisturbed.manifest, job_resolved={"sinks": {"hdf5": settings}})
    recorder = Recorder.start(run_path, recorded, {"hdf5": Hdf5Sink(index=False)})
    ended = recorder.finish()
    assert not (run_path / "tensors.h5").exists()
    assert ended.status is Status.FINISHED
    assert damage(run_path, ended) == []
    assert not verify(run_path).failed
    np.testing.assert_array_equal(
        np.asarray(extractkit.open(run_path)[KERNEL]), np.arange(6.0).reshape(2, 3)
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
    recorder = started(run_path, manifest())
    recorder.add_samples([{"index": 0}])
    recorder.fail()
    assert {path.name for path in run_path.iterdir()} == {"manifest.json", "shards"}


def started(path: Path, given: Manifest) -> Recorder:
    """A recorder of a run about which nothing is recorded yet."""
    path.mkdir(parents=True)
    return Recorder.start(path, given, {"hdf5": Hdf5Sink()})


def test_the_plan_is_frozen_once_the_samples_are_known(run_path: Path) -> None:
    recorder = started(run_path, manifest(plan=None))
    recorder.add_samples([{"index": 0, "id": "a"}])
    recorder.freeze(manifest())
    found = manifests.read(run_path)
    assert found.plan == manifest().plan
    assert found.status is Status.STARTED
    assert found.files == (StoredFile.of("samples.jsonl", b'{"id":"a","index":0}\n', by=PREFERRED),)
    assert list(Samples(run_path / "samples.jsonl")) == [{"index": 0, "id": "a"}]


def test_a_run_without_samples_has_an_empty_file_of_them(run_path: Path) -> None:
    started(run_path, manifest()).freeze(manifest())
    assert (run_path / "samples.jsonl").read_bytes() == b""
    assert manifests.read(run_path).files == (StoredFile.of("samples.jsonl", b"", by=PREFERRED),)


def test_a_shard_that_does_not_fit_on_the_disk_is_not_committed(
    run_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, example = record(run_path, shards=SHARDS[:1])

    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(JobError, match="is full"):
        recorder.commit(ShardValues(SHARDS[1], shard_values(example.samples, SHARDS[1])))
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


def resumed(path: Path) -> Recorder:
    """A recorder that resumes a run."""
    return Recorder.start(path, manifests.read(path), {"hdf5": Hdf5Sink()})


def test_going_on_changes_nothing_before_it_is_said(run_path: Path) -> None:
    finished_run(run_path)
    before = (run_path / "manifest.json").read_bytes()
    recorder = resumed(run_path)
    assert set(recorder.committed) == {CONSTANTS_SHARD, *SHARDS}
    assert (run_path / "manifest.json").read_bytes() == before
    recorder.reopen()
    found = manifests.read(run_path)
    assert (found.status, found.actual) == (Status.STARTED, None)


def test_a_run_resumed_ends_as_one_that_was_not(tmp_path: Path) -> None:
    finished_run(tmp_path / "whole")
    first, example = record(tmp_path / "run", shards=SHARDS[:1])
    first.fail(Status.INTERRUPTED)
    recorder = resumed(tmp_path / "run")
    assert set(recorder.committed) == {CONSTANTS_SHARD, SHARDS[0]}
    for shard in reversed(SHARDS[1:]):
        recorder.commit(ShardValues(shard, shard_values(example.samples, shard)))
    recorder.finish()
    paths = [path for path in (tmp_path / "whole").rglob("*") if path.is_file()]
    for path in paths:
        if path.name not in ("manifest.json", "journal.jsonl"):
            own = tmp_path / "run" / path.relative_to(tmp_path / "whole")
            assert own.read_bytes() == path.read_bytes()
    one, other = (manifests.read(tmp_path / name) for name in ("whole", "run"))
    assert replace(one, volatile=other.volatile) == other


@pytest.mark.parametrize("harm", ["missing", "shorter", "changed", "link"])
def test_a_shard_that_is_damaged_is_to_be_stored_again(
    harm: str, run_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    example = finished_run(run_path)
    path = run_path / "shards" / f"{SHARDS[1].key}.h5"
    whole = path.read_bytes()
    if harm == "link":
        path.rename(path.with_name("moved"))
        path.symlink_to("moved")
    elif harm == "missing":
        path.unlink()
    else:
        path.write_bytes(whole[:-1] + (b"" if harm == "shorter" else bytes([whole[-1] ^ 1])))
    recorder = resumed(run_path)
    assert set(recorder.committed) == {CONSTANTS_SHARD, SHARDS[0], SHARDS[2]}
    assert "its planned samples are stored again" in caplog.text
    recorder.commit(ShardValues(SHARDS[1], shard_values(example.samples, SHARDS[1])))
    recorder.finish()
    assert path.read_bytes() == whole
    assert not path.is_symlink()
    assert damage(run_path, manifests.read(run_path)) == []


def test_a_line_that_was_being_written_is_cut_off(run_path: Path) -> None:
    finished_run(run_path)
    path = run_path / "journal.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    recorder = resumed(run_path)
    assert set(recorder.committed) == {CONSTANTS_SHARD, *SHARDS[:-1]}
    assert path.read_bytes() == b"".join(whole.splitlines(keepends=True)[:-1])


def test_a_damaged_line_of_the_journal_is_taken_out(run_path: Path) -> None:
    finished_run(run_path)
    path = run_path / "journal.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"stop":4', b'"stop":3'))
    with pytest.raises(RunDirectoryError, match=rf"line 2 is damaged .* resume {run_path}$"):
        journal.read(path)
    recorder = resumed(run_path)
    assert set(recorder.committed) == {CONSTANTS_SHARD, *SHARDS} - {SHARDS[0]}
    assert set(journal.read(path).by_shard()) == set(recorder.committed)


def test_sinks_that_would_overwrite_each_other_are_refused(run_path: Path) -> None:
    sinks = {"a": Hdf5Sink(), "b": Hdf5Sink("gzip")}
    with pytest.raises(ConfigError, match=r"sinks.a and sinks.b both write \*.h5"):
        Recorder.start(run_path, manifest(), sinks)
    assert not run_path.exists()


def test_what_was_found_in_values_is_kept_and_reported_of_the_whole_run(run_path: Path) -> None:
    recorder, example = record(run_path, shards=())
    found = [
        ValueChecks(nan=1, samples=1, first={"3": (1, 0)}, minimum=0.5, maximum=1.0, examined=4),
        ValueChecks(examined=1),
        ValueChecks(inf=2, samples=1, first={"5": (0, 2)}, minimum=-2.0, maximum=0.0, examined=3),
    ]
    # Out of order: what is reported of the run does not depend on it.
    for shard, stats in reversed(list(zip(SHARDS, found, strict=True))):
        missing = {4: "no good"} if shard == SHARDS[1] else {}
        values = shard_values(example.samples, shard)
        recorder.commit(ShardValues(shard, values, stats={HIDDEN: stats}, missing=missing))
    recorder.finish()
    line = json.loads((run_path / "journal.jsonl").read_text().splitlines()[-2])
    assert line["missing"] == {"4": "no good"}
    actual = manifests.read(run_path).actual
    assert actual is not None
    assert actual.missing == 1
    assert actual.values == {
        HIDDEN: ValueChecks(1, 2, 2, {"3": (1, 0), "5": (0, 2)}, -2.0, 1.0, None, 8)
    }


def test_the_log_is_recorded_as_it_was_at_the_end(run_path: Path) -> None:
    recorder, _ = record(run_path)
    (run_path / "extractkit.log").write_bytes(b"one\n")
    recorder.finish()
    found = manifests.read(run_path)
    assert found.volatile.log == StoredFile.of("extractkit.log", b"one\n", by=PREFERRED)
    (run_path / "extractkit.log").write_bytes(b"one\ntwo\n")
    assert damage(run_path, found) == []


def test_shards_are_not_written_through_a_link(run_path: Path, tmp_path: Path) -> None:
    run_path.mkdir()
    (tmp_path / "outside").mkdir()
    (run_path / "shards").symlink_to(tmp_path / "outside")
    with pytest.raises(
        RunDirectoryError, match="shards is not a directory but a link: it may lead"
    ):
        Recorder.start(run_path, manifest(), {"hdf5": Hdf5Sink()})
    assert not any((tmp_path / "outside").iterdir())


def test_rows_that_were_never_published_are_given_up(run_path: Path) -> None:
    recorder = started(run_path, manifest())
    recorder.add_samples([{"index": 0}])
    recorder.abandon()
    recorder.abandon()
    assert [path.name for path in run_path.iterdir()] == ["shards"]
