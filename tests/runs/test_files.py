"""The record of a file, held against the disk."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from extractkit.core.digests import Algorithm, Digest
from extractkit.errors import RunDirectoryError
from extractkit.runs import manifest as manifests
from extractkit.runs.files import StoredFile
from extractkit.runs.reader import open_run
from tests.runs.examples import KERNEL, finished_run

CONTENT = b"0123456789"
FILE = StoredFile("a", Digest(f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"), 10)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file, whole."""
    (tmp_path / "a").write_bytes(CONTENT)
    return tmp_path / "a"


def test_a_record_is_that_of_the_content(path: Path) -> None:
    assert StoredFile.of("a", CONTENT, by=Algorithm.SHA256) == FILE
    assert StoredFile.on_disk(path.parent, "a", by=Algorithm.SHA256) == FILE
    FILE.check(path.parent)


def test_a_file_of_several_blocks_is_read_whole(path: Path) -> None:
    content = bytes(range(251)) * 20_000  # 5 MB
    path.write_bytes(content)
    file = StoredFile.on_disk(path.parent, "a", by=Algorithm.SHA256)
    assert file == StoredFile.of("a", content, by=Algorithm.SHA256)
    path.write_bytes(content + b"more")
    file.check(path.parent, growing=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a is damaged: it holds 0 bytes, 10 were written"),
        (CONTENT[:-1], "a is damaged: it holds 9 bytes, 10 were written"),
        (CONTENT + b"x", "a is damaged: it holds 11 bytes, 10 were written"),
        (b"0123456788", "a is damaged: its digest is not the recorded one"),
    ],
    ids=["empty", "shorter", "longer", "changed"],
)
def test_another_content_is_damage(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    with pytest.raises(RunDirectoryError, match=f"{message}$"):
        FILE.check(path.parent)


def test_a_growing_file_may_be_longer_but_keeps_its_beginning(path: Path) -> None:
    FILE.check(path.parent, growing=True)
    path.write_bytes(CONTENT + b"x")
    FILE.check(path.parent, growing=True)
    path.write_bytes(b"1" + CONTENT)
    with pytest.raises(RunDirectoryError, match="digest"):
        FILE.check(path.parent, growing=True)
    path.write_bytes(CONTENT[:9])
    with pytest.raises(RunDirectoryError, match="holds 9 bytes"):
        FILE.check(path.parent, growing=True)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"a is missing from its run$"):
        FILE.check(tmp_path)
    with pytest.raises(RunDirectoryError, match=r"a is missing from its run$"):
        StoredFile.on_disk(tmp_path, "a", by=Algorithm.SHA256)


@pytest.mark.parametrize("name", ["a\0b", "a\udcff\ud800", "x" * 300])
def test_a_name_that_no_file_can_have_is_missing(name: str, tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"is missing from its run$"):
        StoredFile(name, FILE.digest, 10).check(tmp_path)


def test_what_is_no_regular_file_is_not_read(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))
    with pytest.raises(RunDirectoryError, match="a is not a regular file: it may lead out"):
        FILE.check(path.parent)
    path.unlink()
    os.mkfifo(path)  # reading it would wait for ever
    with pytest.raises(RunDirectoryError, match="a is not a regular file"):
        FILE.check(path.parent)
    path.unlink()
    path.mkdir()
    with pytest.raises(RunDirectoryError, match="a is not a regular file"):
        FILE.check(path.parent)


def test_a_name_that_leads_out_of_the_run_is_refused(path: Path) -> None:
    inside = path.parent / "run"
    inside.mkdir()
    for name in ("../a", str(path), "b/../../a"):
        with pytest.raises(RunDirectoryError, match=r"run records the file '.*a', outside it"):
            StoredFile(name, FILE.digest, 10).check(inside)


@pytest.mark.parametrize("name", ["manifest.json", "journal.jsonl"])
def test_a_pipe_in_the_place_of_a_file_is_no_run(name: str, run_path: Path) -> None:
    finished_run(run_path)
    (run_path / name).unlink()
    os.mkfifo(run_path / name)
    with pytest.raises(RunDirectoryError, match=rf"{name} is not a regular file"):
        open_run(run_path)


@pytest.mark.parametrize("check", [True, False])
def test_a_pipe_in_the_place_of_a_shard_holds_nobody_up(check: bool, run_path: Path) -> None:
    finished_run(run_path)
    (run_path / "shards" / "constants.h5").unlink()
    os.mkfifo(run_path / "shards" / "constants.h5")
    with pytest.raises(RunDirectoryError, match=r"constants\.h5 is not a regular file"):
        np.asarray(open_run(run_path, check=check)[KERNEL])


def test_a_pipe_in_the_place_of_a_temporary_file_holds_nobody_up(run_path: Path) -> None:
    finished_run(run_path)
    os.mkfifo(run_path / "manifest.json.tmp")
    before = manifests.read(run_path)
    manifests.write(run_path, before)
    assert manifests.read(run_path) == before
    assert not (run_path / "manifest.json.tmp").exists()


@pytest.mark.parametrize("growing", [False, True])
def test_a_size_below_nothing_is_no_record(growing: bool, path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"records -5 bytes of 'a'$"):
        StoredFile("a", FILE.digest, -5).check(path.parent, growing=growing)
