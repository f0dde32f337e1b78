"""The manifest."""

import json
import re
from datetime import datetime
from pathlib import Path

import pytest

from extractkit.errors import RunDirectoryError
from extractkit.plan import CONSTANTS_SHARD
from extractkit.runs import manifest as manifests
from extractkit.runs.environment import GitState
from extractkit.runs.manifest import Manifest, Skipped, Status, Volatile
from tests.runs.examples import SHARDS, TENSORS, manifest

FULL = manifest(
    status=Status.FINISHED,
    model={"weights": "aa", "parameters": 12},
    skipped=(Skipped("rnn/cell:op/MatMul", "made inside a loop"),),
    actual={"bytes": 10},
    settings={"threads": 2},
    seeds={"runtime": 0},
    versions={"numpy": "2.4"},
    git=GitState("c0ffee", True),
)


def edit(directory: Path, **changes: object) -> None:
    path = directory / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    "given", [FULL, Manifest(volatile=Volatile(started=manifests.now()))], ids=["full", "early"]
)
def test_a_manifest_comes_back_as_it_was(given: Manifest, tmp_path: Path) -> None:
    manifests.write(tmp_path, given)
    assert manifests.read(tmp_path) == given


def test_equal_manifests_are_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        manifests.write(tmp_path / name, FULL)
    manifests.write(tmp_path / "b", manifests.read(tmp_path / "a"))
    first, second = ((tmp_path / name / "manifest.json").read_bytes() for name in ("a", "b"))
    assert first == second


def test_a_record_keeps_its_scopes_so_that_selectors_work_on_a_run(tmp_path: Path) -> None:
    manifests.write(tmp_path, FULL)
    assert manifests.read(tmp_path).tensors[1].record.scopes == TENSORS[1].record.scopes


def test_times_machine_and_timings_stand_under_volatile_alone(tmp_path: Path) -> None:
    manifests.write(tmp_path, FULL)
    data = json.loads((tmp_path / "manifest.json").read_text())
    assert set(data["volatile"]) == {"started", "finished", "host", "timings"}
    del data["volatile"]
    assert "2026-11-22" not in json.dumps(data)


def test_the_version_is_looked_at_before_the_fields(tmp_path: Path) -> None:
    manifests.write(tmp_path, FULL)
    edit(tmp_path, schema=2, colour="red")
    with pytest.raises(RunDirectoryError, match=r"has schema version 2; .* up to 1. Update it"):
        manifests.read(tmp_path)


@pytest.mark.parametrize("version", [None, True, 0, "1"])
def test_a_version_that_is_none_is_refused(version: object, tmp_path: Path) -> None:
    manifests.write(tmp_path, FULL)
    edit(tmp_path, schema=version)
    with pytest.raises(RunDirectoryError, match="no schema version"):
        manifests.read(tmp_path)


def test_an_unknown_field_is_refused(tmp_path: Path) -> None:
    manifests.write(tmp_path, FULL)
    edit(tmp_path, modle={})
    with pytest.raises(
        RunDirectoryError, match=r"manifest.json holds 'modle', .* Nearest: 'model'"
    ):
        manifests.read(tmp_path)


def test_an_unknown_status_is_refused(tmp_path: Path) -> None:
    manifests.write(tmp_path, FULL)
    edit(tmp_path, status="finnished")
    with pytest.raises(RunDirectoryError, match=r"status is 'finnished'. Available: .*'finished'"):
        manifests.read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\xfa", b"[1]"])
def test_a_damaged_file_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(RunDirectoryError, match=re.escape(str(tmp_path / "manifest.json"))):
        manifests.read(tmp_path)


def test_a_directory_without_a_manifest_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"is no run directory: it holds no manifest.json"):
        manifests.read(tmp_path)


def test_the_shards_of_a_run_include_its_constants() -> None:
    assert manifest().shards == (CONSTANTS_SHARD, *SHARDS)
    assert manifest(tensors=TENSORS[:2]).shards == SHARDS


def test_sinks_come_from_the_configuration_in_its_order() -> None:
    assert list(manifest(sinks=("npz", "hdf5")).sinks) == ["npz", "hdf5"]
    resolved = {"sinks": {"hdf5": {"_target_": "a.b", "compression": "lzf"}}}
    (sink,) = manifest(job_resolved=resolved).sinks.values()
    assert (sink.at, sink.target, sink.arguments) == ("sinks.hdf5", "a.b", {"compression": "lzf"})
    with pytest.raises(RunDirectoryError, match="names no sink"):
        _ = manifest(job_resolved={}).sinks


def test_now_is_utc() -> None:
    assert str(datetime.fromisoformat(manifests.now()).utcoffset()) == "0:00:00"
