"""The manifest."""

import json
import re
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import datetime
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractkit.core.digests import Digest
from extractkit.core.shards import CONSTANTS_SHARD
from extractkit.core.value_checks import ValueChecks
from extractkit.errors import RunDirectoryError
from extractkit.runs import journal
from extractkit.runs import manifest as manifests
from extractkit.runs.environment import GitState, Volatile, now
from extractkit.runs.files import Origin, StoredFile
from extractkit.runs.manifest import Actual, Manifest, RunPlan, RunTensor, Status, Unextractable
from extractkit.runs.manifest_upgrades import MANIFEST_UPGRADES
from extractkit.runs.upgrades import LINE_UPGRADES
from tests.runs.examples import SHARDS, TENSORS, manifest

FULL = manifest(
    status=Status.FINISHED,
    model={"weights": "aa", "parameters": 12},
    unextractable=(Unextractable("rnn/cell:op/MatMul", "made inside a loop"),),
    actual=Actual(
        8, 4, 10, 1, {"pooler:output": ValueChecks(nan=1, samples=1, first={"3": (1, 0)})}
    ),
    origins=(Origin("model.path", "/a.keras", "bb", 3),),
    files=(StoredFile("samples.jsonl", Digest("sha256:" + "c" * 64), 4),),
    environment={"XLA_FLAGS": ""},
    identity="dd",
    settings={"threads": 2},
    seeds={"runtime": 0},
    versions={"numpy": "2.4"},
    git=GitState("c0ffee", True),
)


def edit(directory: Path, *without: str, **changes: object) -> None:
    """Change fields, and correct the checksum of the file."""
    path = directory / "manifest.json"
    data = {**json.loads(path.read_text()), **changes}
    kept = {key: data[key] for key in data if key not in (*without, "checksum")}
    path.write_bytes(manifests.with_checksum(kept))


@pytest.mark.parametrize(
    "given", [FULL, Manifest(volatile=Volatile(started=now()))], ids=["full", "early"]
)
def test_a_manifest_comes_back_as_it_was(given: Manifest, tmp_path: Path) -> None:
    manifests.write(tmp_path, given)
    assert manifests.read(tmp_path) == given


def test_tensors_that_a_cast_cut_off_are_found_by_its_counters() -> None:
    def tensor(key: str, result: str = "") -> RunTensor:
        stored = replace(TENSORS[0].stored, key=key)
        return replace(TENSORS[0], stored=stored, result=result)

    some, none = ValueChecks(maximum=3), ValueChecks(maximum=0)
    keys = ("a", "a@overflow", "b", "b@overflow", "c@overflow", "d@overflow", "d@overflow2")
    counters = ("a@overflow", "b@overflow", "d@overflow", "d@overflow2")
    tensors = tuple(tensor(key, "overflow" if key in counters else "") for key in keys)
    values = {key: none if key in ("a", "b@overflow", "d@overflow") else some for key in keys}
    assert FULL.actual is not None
    found = replace(FULL, tensors=tensors, actual=replace(FULL.actual, values=values))
    # `c@overflow` is what a selector of the name `overflow` stores; `d` has statistics alone.
    assert found.overflowing == ("a", "d")
    assert replace(found, actual=None).overflowing == ()


def test_the_second_counter_of_an_older_run_counts_too() -> None:
    keys = ("a:b", "a:b@overflow", "a:b@overflow2", "a:b@top2")
    record = {"address": "a:b"}
    tensors = [{"stored": {"key": key}, "record": record, "selectors": []} for key in keys]
    upgraded = MANIFEST_UPGRADES[9]({"tensors": tensors})
    assert [one["result"] for one in upgraded["tensors"]] == ["", "overflow", "overflow", "top2"]


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
    assert set(data["volatile"]) == {item.name for item in fields(Volatile)}
    del data["volatile"]
    assert "2026-11-22" not in json.dumps(data)


def test_the_version_is_looked_at_before_the_fields(tmp_path: Path) -> None:
    manifests.write(tmp_path, FULL)
    edit(tmp_path, schema=manifests.SCHEMA + 1, colour="red")
    with pytest.raises(RunDirectoryError) as caught:
        manifests.read(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'manifest.json'} was written by a newer extractkit: its schema of the "
        f"manifest has version {manifests.SCHEMA + 1}, and this extractkit reads versions 1 to "
        f"{manifests.SCHEMA}. Update it: pip install -U extractkit"
    )


def test_every_older_version_is_upgraded() -> None:
    assert sorted(MANIFEST_UPGRADES) == list(range(1, manifests.SCHEMA))
    assert sorted(LINE_UPGRADES) == list(range(1, journal.SCHEMA))


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


@pytest.mark.parametrize("field", ["status", "volatile", "git", "identity"])
def test_a_missing_field_is_refused(field: str, tmp_path: Path) -> None:
    manifests.write(tmp_path, FULL)
    edit(tmp_path, field)
    with pytest.raises(RunDirectoryError, match=rf"manifest\.json lacks '{field}'$"):
        manifests.read(tmp_path)


def test_any_byte_changed_is_damage(tmp_path: Path) -> None:
    manifests.write(tmp_path, FULL)
    path = tmp_path / "manifest.json"
    whole = path.read_bytes()
    assert whole.startswith(b"{")
    for position in range(0, len(whole), 61):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(RunDirectoryError, match=r"manifest\.json"):
            manifests.read(tmp_path)


@pytest.mark.parametrize(
    "spelling",
    [lambda whole: whole + b"\n", lambda whole: whole.replace(b"\n ", b"\n  ", 1)],
    ids=["newline", "indent"],
)
def test_another_spelling_of_the_same_is_damage(
    spelling: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    manifests.write(tmp_path, FULL)
    path = tmp_path / "manifest.json"
    path.write_bytes(spelling(path.read_bytes()))
    with pytest.raises(RunDirectoryError, match=r"its checksum does not match\. Restore"):
        manifests.read(tmp_path)


def test_a_name_that_is_no_utf8_comes_back(tmp_path: Path) -> None:
    given = replace(FULL, job_given=("inputs.path=\udcff.txt",))
    manifests.write(tmp_path, given)
    assert manifests.read(tmp_path) == given


def test_an_unknown_status_is_refused(tmp_path: Path) -> None:
    manifests.write(tmp_path, FULL)
    edit(tmp_path, status="finnished")
    with pytest.raises(RunDirectoryError, match=r"status is 'finnished'. Available: .*'finished'"):
        manifests.read(tmp_path)


DEEP = b'{"schema":2,"a":' + b"[" * 900 + b"]" * 900 + b"}"


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe\xfa", b"[1]", DEEP, b"[" * 99999, b'{"schema":2,"a":NaN}'],
)
def test_a_damaged_file_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(RunDirectoryError, match=re.escape(str(tmp_path / "manifest.json"))):
        manifests.read(tmp_path)


def test_a_directory_without_a_manifest_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(
        RunDirectoryError, match=r"is not a run directory: it holds no manifest.json"
    ):
        manifests.read(tmp_path)


def test_the_shards_of_a_run_include_its_constants() -> None:
    assert manifest().shards == (CONSTANTS_SHARD, *SHARDS)
    assert manifest(tensors=TENSORS[:2]).shards == SHARDS


def test_sinks_come_from_the_configuration_in_its_order() -> None:
    assert list(manifest(sinks=("npz", "hdf5")).sinks) == ["npz", "hdf5"]
    resolved = {"sinks": {"hdf5": {"_target_": "a.b", "compression": "lzf"}}}
    assert manifest(job_resolved=resolved).sinks == resolved["sinks"]
    for none in ({}, {"sinks": {}}, {"sinks": "hdf5"}):
        with pytest.raises(RunDirectoryError, match="names no sink"):
            _ = manifest(job_resolved=none).sinks


def test_now_is_utc() -> None:
    assert str(datetime.fromisoformat(now()).utcoffset()) == "0:00:00"


@given(st.lists(st.integers(1, 4), max_size=12))
def test_a_plan_records_the_range_of_each_shard(sizes: list[int]) -> None:
    ranges = tuple(pairwise(accumulate(sizes, initial=0)))
    plan = RunPlan.of(1, True, ranges)
    assert plan.shards == ranges
    assert plan.samples == sum(sizes)


def test_a_plan_of_many_shards_is_short() -> None:
    ranges = [(at, at + 64) for at in range(0, 64 * 1000, 64)]
    assert RunPlan.of(1, True, [*ranges, (64000, 64003)]).sizes == ((1000, 64), (1, 3))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([], r"the shards of plan\.sizes hold 0 of 8 samples"),
        ([[1, 4]], r"the shards of plan\.sizes hold 4 of 8 samples"),
        ([[2, 4], [1, 1]], r"the shards of plan\.sizes hold 9 of 8 samples"),
        ([[2, 4], [3, 0]], r"plan\.sizes\[1\] is \[3, 0\]\. It must be a number of shards and the"),
        ([[0, 4], [1, 8]], r"plan\.sizes\[0\] is \[0, 4\]"),
        ([[-1, 4], [3, 4]], r"plan\.sizes\[0\] is \[-1, 4\]"),
        ([[-1, -8]], r"plan\.sizes\[0\] is \[-1, -8\]"),
        ([[10**18, 1]], r"the shards of plan\.sizes hold 10{18} of 8 samples"),
    ],
)
def test_a_plan_holds_every_sample(sizes: list[list[int]], message: str, tmp_path: Path) -> None:
    manifests.write(tmp_path, FULL)
    edit(tmp_path, plan={"bytes": 1, "exact": True, "sizes": sizes})
    with pytest.raises(RunDirectoryError, match=rf"manifest\.json: {message}"):
        manifests.read(tmp_path)


def test_a_number_of_shards_that_cannot_be_is_refused(tmp_path: Path) -> None:
    manifests.write(tmp_path, FULL)
    inputs = {"digest": "f00d", "count": 1 << 30, "notes": [], "truncated": 0}
    edit(tmp_path, inputs=inputs, plan={"bytes": 1, "exact": True, "sizes": [[1 << 30, 1]]})
    with pytest.raises(
        RunDirectoryError, match=r"records 1073741824 shards, more than a run can hold"
    ):
        manifests.read(tmp_path)


@pytest.mark.parametrize(
    ("digest", "wrong"),
    [
        ("f00d", "which is not a digest: the name of its algorithm, a colon and 64 hexadecimal"),
        ("blake3:" + "0" * 63, "which is not a digest: the name of its algorithm, a colon and"),
        ("md5:" + "0" * 32, "a digest by an unknown algorithm, 'md5'. Available: 'blake3', 'sha2"),
        ("Blake3:" + "0" * 64, "a digest by an unknown algorithm, 'Blake3'. Available: 'blake3'"),
    ],
)
def test_a_digest_names_an_algorithm(digest: str, wrong: str, tmp_path: Path) -> None:
    manifests.write(tmp_path, FULL)
    edit(tmp_path, files=[{"name": "samples.jsonl", "digest": digest, "size": 4}])
    message = re.escape(f"files[0].digest is '{digest}', {wrong}")
    with pytest.raises(RunDirectoryError, match=message):
        manifests.read(tmp_path)


def test_a_run_has_a_known_algorithm(tmp_path: Path) -> None:
    manifests.write(tmp_path, FULL)
    edit(tmp_path, digests="md5")
    with pytest.raises(
        RunDirectoryError, match=r"manifest\.json\.digests is 'md5'\. Available: 'blake3', 'sha256'"
    ):
        manifests.read(tmp_path)


@pytest.mark.parametrize("count", [-1, 10**18])
def test_a_number_of_samples_that_cannot_be_is_refused(count: int, tmp_path: Path) -> None:
    manifests.write(tmp_path, FULL)
    inputs = {"digest": "f00d", "count": count, "notes": [], "truncated": 0}
    edit(tmp_path, inputs=inputs, plan={"bytes": 1, "exact": True, "sizes": [[1, count]]})
    with pytest.raises(
        RunDirectoryError, match=rf"records {count} samples, more than a run can hold"
    ):
        manifests.read(tmp_path)


def test_a_manifest_larger_than_any_is_not_read(tmp_path: Path) -> None:
    manifests.write(tmp_path, FULL)
    with (tmp_path / "manifest.json").open("r+b") as file:
        file.truncate(50 << 30)
    with pytest.raises(RunDirectoryError) as caught:
        manifests.read(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'manifest.json'} is damaged: it holds 53,687,091,200 bytes, more than the "
        f"1,073,741,824 that such a file can hold. Restore it, or run the job again"
    )
