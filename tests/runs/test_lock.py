"""One process at a time works on a run."""

import errno
import fcntl
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from extractkit.errors import RunDirectoryError
from extractkit.runs import LOCK
from extractkit.runs.directory import locked, owner

OWNER = """
import sys
from pathlib import Path
from extractkit.runs.directory import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@contextmanager
def other_process(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock until its input ends or it is killed."""
    command = [sys.executable, "-c", OWNER, str(directory)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        try:
            yield process
        finally:
            process.kill()


def test_the_lock_is_there_while_it_is_held_and_gone_afterwards(tmp_path: Path) -> None:
    with locked(tmp_path):
        said = json.loads((tmp_path / LOCK).read_bytes())
        assert said == {"pid": os.getpid(), "host": platform.node()}
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_another_process_is_kept_out_and_reported_who_is_at_work(tmp_path: Path) -> None:
    with other_process(tmp_path) as owner:
        with pytest.raises(RunDirectoryError) as caught, locked(tmp_path):
            pass
        assert str(caught.value) == (
            f"{tmp_path} is being worked on by process {owner.pid} on {platform.node()!r}. "
            f"Wait for it to end, or stop it"
        )
        owner.communicate()
    with locked(tmp_path):
        pass


def test_a_second_lock_of_one_process_is_refused_too(tmp_path: Path) -> None:
    with locked(tmp_path):
        with (
            pytest.raises(
                RunDirectoryError, match=f"process {os.getpid()} on .*, which is this process"
            ),
            locked(tmp_path),
        ):
            pass
        assert (tmp_path / LOCK).exists()


def test_a_killed_owner_does_not_stand_in_the_way(tmp_path: Path) -> None:
    with other_process(tmp_path) as owner:
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        assert json.loads((tmp_path / LOCK).read_bytes())["pid"] == owner.pid
        with locked(tmp_path):
            assert json.loads((tmp_path / LOCK).read_bytes())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_removed_between_opening_and_locking_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock
    removed = []

    def former_owner_ends(descriptor: int, operation: int) -> None:
        flock(descriptor, operation)
        if not removed:
            removed.append((tmp_path / LOCK).unlink())

    monkeypatch.setattr(fcntl, "flock", former_owner_ends)
    with locked(tmp_path):
        monkeypatch.undo()
        assert (tmp_path / LOCK).exists()
        with pytest.raises(RunDirectoryError, match="is being worked on"), locked(tmp_path):
            pass


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": "x", "host": 1}', b"[" * 1000])
def test_an_owner_that_does_not_name_itself_is_another_process(
    content: bytes, tmp_path: Path
) -> None:
    with locked(tmp_path):
        (tmp_path / LOCK).write_bytes(content)
        with pytest.raises(RunDirectoryError, match="by another process"), locked(tmp_path):
            pass


def test_a_link_in_its_place_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("mine")
    (tmp_path / LOCK).symlink_to(tmp_path / "outside")
    with pytest.raises(RunDirectoryError, match=r"\.lock is not a regular file"), locked(tmp_path):
        pass
    assert (tmp_path / "outside").read_text() == "mine"


def test_a_file_with_another_name_is_nobodys_lock_and_keeps_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "outside").write_text("mine")
    (tmp_path / "run" / LOCK).hardlink_to(tmp_path / "outside")
    with locked(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / LOCK).read_bytes())["pid"] == os.getpid()
        with pytest.raises(RunDirectoryError, match="is being worked on"):
            locked(tmp_path / "run").__enter__()
    assert (tmp_path / "outside").read_text() == "mine"
    assert list((tmp_path / "run").iterdir()) == []


def test_a_pipe_in_its_place_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / LOCK)
    assert owner(tmp_path) is None
    with pytest.raises(RunDirectoryError, match=r"\.lock is not a regular file"), locked(tmp_path):
        pass


def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(RunDirectoryError, match="cannot be locked: No locks available"):
        locked(tmp_path).__enter__()


def test_a_full_disk_keeps_nobody_from_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("extractkit.runs.directory.os.write", refuse)
    with locked(tmp_path):
        monkeypatch.undo()
        with pytest.raises(RunDirectoryError, match="by another process"), locked(tmp_path):
            pass
