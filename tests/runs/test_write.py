"""Durable writing."""

import errno
import os
from pathlib import Path

import pytest

from extractkit.errors import JobError
from extractkit.runs.write import DurableFile, append_line, write_durably


def fail_with(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the disk refuse what it is asked to keep."""

    def fsync(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fsync)


def test_a_file_is_written_whole_and_no_temporary_stays(tmp_path: Path) -> None:
    write_durably(tmp_path / "a", b"old")
    write_durably(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_file_and_directory_are_forced_to_the_disk_in_this_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    replace = Path.replace

    def fsync(descriptor: int) -> None:
        steps.append("sync " + Path(f"/proc/self/fd/{descriptor}").readlink().name)

    def rename(self: Path, target: Path) -> Path:
        steps.append(f"rename {self.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", rename)
    write_durably(tmp_path / "a", b"x")
    assert steps == ["sync a.tmp", "rename a.tmp", f"sync {tmp_path.name}"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_a_job_error_and_leaves_the_former_file(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_durably(tmp_path / "a", b"old")
    fail_with(code, monkeypatch)
    with pytest.raises(JobError, match=r"a could not be written: the disk.* is full.*intact"):
        write_durably(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_another_refusal_is_named(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"a could not be written: No such file or directory"):
        write_durably(tmp_path / "missing" / "a", b"x")


def test_lines_are_appended(tmp_path: Path) -> None:
    append_line(tmp_path / "a", "é")
    append_line(tmp_path / "a", "b")
    assert (tmp_path / "a").read_text() == "é\nb\n"


def test_a_line_that_could_not_be_kept_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append_line(tmp_path / "a", "kept")
    fail_with(errno.ENOSPC, monkeypatch)
    with pytest.raises(JobError, match="is full"):
        append_line(tmp_path / "a", "lost")
    assert (tmp_path / "a").read_text() == "kept\n"


def test_a_file_given_up_leaves_nothing(tmp_path: Path) -> None:
    file = DurableFile(tmp_path / "a")
    file.write(b"x")
    file.discard()
    file.discard()
    assert list(tmp_path.iterdir()) == []
