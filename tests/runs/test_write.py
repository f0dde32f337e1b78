"""Durable writing."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from extractkit.errors import JobError, RunDirectoryError
from extractkit.store.local import (
    DurableFile,
    append_line,
    cut,
    make_directory,
    make_durable,
    write_durably,
)


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
    replace = os.replace

    def fsync(descriptor: int) -> None:
        steps.append("sync " + Path(f"/proc/self/fd/{descriptor}").readlink().name)

    def rename(source: Path, target: Path) -> None:
        steps.append(f"rename {source.name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename)
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


def test_a_file_that_cannot_be_renamed_is_closed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[int] = []
    close = os.close

    def watched(descriptor: int) -> None:
        closed.append(descriptor)
        close(descriptor)

    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "close", watched)
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(JobError, match="a could not be written: Input/output error"):
        write_durably(tmp_path / "a", b"x")
    assert len(closed) == 1
    assert list(tmp_path.iterdir()) == []


def test_what_a_system_call_leaves_over_is_written_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    write_durably(tmp_path / "a", b"0123456789")
    append_line(tmp_path / "b", "0123456789")
    assert (tmp_path / "a").read_bytes() == b"0123456789"
    assert (tmp_path / "b").read_bytes() == b"0123456789\n"


def test_a_line_may_hold_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    append_line(tmp_path / "a", "\udcff")
    assert (tmp_path / "a").read_bytes() == "\udcff\n".encode(errors="surrogatepass")


def test_a_link_is_not_written_through(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine\n")
    (tmp_path / "line").symlink_to(outside)
    (tmp_path / "file.tmp").symlink_to(outside)
    with pytest.raises(RunDirectoryError, match="line is not a regular file"):
        append_line(tmp_path / "line", "x")
    with pytest.raises(RunDirectoryError, match="line is not a regular file"):
        cut(tmp_path / "line", 0)
    (tmp_path / "other.tmp").hardlink_to(outside)
    for name in ("file", "other"):
        write_durably(tmp_path / name, b"x")
        assert (tmp_path / name).read_bytes() == b"x"
        assert not (tmp_path / name).is_symlink()
    assert outside.read_bytes() == b"mine\n"


def append(path: Path) -> None:
    append_line(path, "added")


def shorten(path: Path) -> None:
    cut(path, 2_500_000)


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        (append, lambda content: content + b"added\n"),
        (shorten, lambda content: content[:2_500_000]),
    ],
)
def test_other_names_of_a_file_that_is_changed_keep_what_they_hold(
    change: Callable[[Path], None], kept: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    content = b"%d of many\n" % 1 * 300_000  # 3 MB, in several blocks
    (tmp_path / "run").mkdir()
    (tmp_path / "outside").write_bytes(content)
    (tmp_path / "run" / "a").hardlink_to(tmp_path / "outside")
    change(tmp_path / "run" / "a")
    assert (tmp_path / "outside").read_bytes() == content
    assert (tmp_path / "run" / "a").read_bytes() == kept(content)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["a"]


def test_a_file_with_other_names_that_cannot_be_written_anew_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"first\n")
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    fail_with(errno.ENOSPC, monkeypatch)
    with pytest.raises(JobError, match="a could not be written: the disk"):
        append_line(tmp_path / "a", "lost")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    assert (tmp_path / "a").samefile(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == b"first\n"


@pytest.mark.parametrize("change", [append, shorten, make_durable])
def test_a_pipe_in_the_place_of_a_file_holds_nobody_up(
    change: Callable[[Path], None], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "a")
    with pytest.raises(RunDirectoryError, match="a is not a regular file"):
        change(tmp_path / "a")


def test_what_follows_a_size_is_cut_off_durably(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"kept\nlost")
    cut(tmp_path / "a", 5)
    assert (tmp_path / "a").read_bytes() == b"kept\n"
    fail_with(errno.EIO, monkeypatch)
    with pytest.raises(JobError, match="Input/output error"):
        cut(tmp_path / "a", 0)


def test_what_another_library_wrote_is_forced_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"x")
    make_durable(tmp_path / "a")
    fail_with(errno.ENOSPC, monkeypatch)
    with pytest.raises(JobError, match="is full"):
        make_durable(tmp_path / "a")


def test_a_directory_is_made_once(tmp_path: Path) -> None:
    make_directory(tmp_path / "a")
    (tmp_path / "a" / "b").touch()
    make_directory(tmp_path / "a")
    assert (tmp_path / "a" / "b").exists()
    with pytest.raises(JobError, match="c/d could not be written: No such file or directory"):
        make_directory(tmp_path / "c" / "d")


def test_a_link_is_no_directory_to_write_into(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(JobError, match="link could not be written: File exists"):
        make_directory(tmp_path / "link")
