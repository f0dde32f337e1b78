"""Which committed shards are really there: the names that an entry may give."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from extractkit.core.digests import Digest
from extractkit.core.shards import CONSTANTS_SHARD, Shard
from extractkit.errors import RunDirectoryError
from extractkit.runs import journal
from extractkit.runs.files import StoredFile
from extractkit.runs.journal import Entry
from extractkit.runs.shards import check_names, intact_entries
from tests.runs.examples import SHARDS, finished_run, manifest


def entry(name: str, shard: Shard = SHARDS[0], sink: str = "hdf5", key: str | None = None) -> Entry:
    file = StoredFile(name, Digest("sha256:" + "a" * 64), 1)
    return Entry(
        key or shard.key, shard.start, shard.stop, {sink: file}, Digest("sha256:" + "b" * 64)
    )


@pytest.mark.parametrize("suffix", [".h5", ".npz", ".tar.gz"])
def test_a_shards_file_has_its_name_and_any_suffix(suffix: str, tmp_path: Path) -> None:
    for shard in (CONSTANTS_SHARD, *SHARDS):
        check_names(tmp_path, entry(f"shards/{shard.key}{suffix}", shard), {"hdf5"})


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../000000000-000000004.h5",
        "shards/../../000000000-000000004.h5",
        "shards/000000000-000000004.h5/../../../a.h5",
        "shards/000000000-000000005.h5",
        "shards/000000000-000000004",
        "shards/000000000-000000004.",
        "shards/000000000-000000004.h5\n",
        "shards/000000000-000000004./h5",
        "shards/000000000-000000004.h5.tmp~",
        "",
    ],
)
def test_any_other_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"names the file .*, not 'shards/000000000-0000"):
        check_names(tmp_path, entry(name), {"hdf5"})


def test_an_entry_of_other_sinks_or_another_range_is_refused(tmp_path: Path) -> None:
    name = f"shards/{SHARDS[0].key}.h5"
    for given, sinks in (
        (entry(name, sink="npz"), {"hdf5"}),
        (entry(name), {"hdf5", "npz"}),
        (replace(entry(name), files={}), {"hdf5"}),
        (entry(name, key=SHARDS[1].key), {"hdf5"}),
    ):
        with pytest.raises(
            RunDirectoryError, match=r"files of .* for samples 0 … 4, but .* wrote the"
        ):
            check_names(tmp_path, given, sinks)


def test_a_shard_that_is_not_planned_is_left_out(
    run_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    finished_run(run_path)
    extra = Shard(8, 9)
    journal.append(run_path / "journal.jsonl", entry(f"shards/{extra.key}.h5", extra))
    found = intact_entries(run_path, manifest(), ["hdf5"])
    assert set(found) == {CONSTANTS_SHARD, *SHARDS}
    assert "lists shard '000000008-000000009', which is not planned" in caplog.text


def test_before_there_is_a_plan_nothing_is_committed(run_path: Path) -> None:
    run_path.mkdir()
    assert intact_entries(run_path, manifest(plan=None, tensors=()), ["hdf5"]) == {}


def test_of_a_shard_stored_twice_the_later_entry_is_held_against_the_disk(run_path: Path) -> None:
    finished_run(run_path)
    first = journal.read(run_path / "journal.jsonl").by_shard()[SHARDS[0]]
    wrong = replace(
        first, files={"hdf5": replace(first.files["hdf5"], digest=Digest("sha256:" + "0" * 64))}
    )
    journal.append(run_path / "journal.jsonl", wrong)
    assert SHARDS[0] not in intact_entries(run_path, manifest(), ["hdf5"])
    journal.append(run_path / "journal.jsonl", first)
    found = intact_entries(run_path, manifest(), ["hdf5"])[SHARDS[0]]
    assert found == replace(first, stats={}, timings={})


def test_a_pipe_in_the_place_of_the_journal_holds_nobody_up(run_path: Path) -> None:
    finished_run(run_path)
    (run_path / "journal.jsonl").unlink()
    os.mkfifo(run_path / "journal.jsonl")
    with pytest.raises(RunDirectoryError, match=r"journal\.jsonl is not a regular file"):
        intact_entries(run_path, manifest(), {"hdf5"})


@pytest.mark.parametrize("line", [b'{"torn', b"damaged\n{}\n"], ids=["torn", "damaged"])
def test_another_name_of_the_journal_keeps_what_it_holds(line: bytes, run_path: Path) -> None:
    finished_run(run_path)
    path = run_path / "journal.jsonl"
    path.write_bytes(path.read_bytes() + line)
    (run_path.parent / "copy").hardlink_to(path)
    before = path.read_bytes()
    assert len(intact_entries(run_path, manifest(), {"hdf5"})) == 1 + len(SHARDS)
    assert path.read_bytes() != before
    assert (run_path.parent / "copy").read_bytes() == before


def test_a_link_in_the_place_of_the_shards_is_refused(run_path: Path) -> None:
    finished_run(run_path)
    (run_path / "shards").rename(run_path.parent / "elsewhere")
    (run_path / "shards").symlink_to(run_path.parent / "elsewhere")
    with pytest.raises(RunDirectoryError) as caught:
        intact_entries(run_path, manifest(), {"hdf5"})
    assert str(caught.value) == (
        f"{run_path / 'shards'} is not a directory but a link: it may lead out of its run. Put the "
        f"directory itself in its place"
    )
