"""The one way in which a run's files come to be on the disk.

A file is written under another name, forced out of the caches and then renamed, so that a name in a
run directory never stands for half a file, whatever is killed or unplugged meanwhile.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from extractkit.errors import JobError

TEMPORARY = ".tmp"
"""Ending of a file that is still being written."""


class DurableFile:
    """A file that has its name only once it is whole, and then survives a crash of the machine.

    Every method raises JobError where the system refuses; a former file of that name stays as it
    is until `publish` replaces it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(path.name + TEMPORARY)
        with writing(path):
            self._file = self._temporary.open("wb")

    def write(self, data: bytes) -> None:
        """Add bytes at the end."""
        with writing(self._path):
            self._file.write(data)

    def publish(self) -> None:
        """Give the file its name."""
        with writing(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._temporary.replace(self._path)
            _sync_directory(self._path.parent)

    def discard(self) -> None:
        """Remove what was written; for after a failure, so it never fails itself."""
        for step in (self._file.close, self._temporary.unlink):
            with contextlib.suppress(OSError):
                step()


def write_durably(path: Path, data: bytes) -> None:
    """Write a whole file; once this returns, it survives a crash of the machine.

    Raises:
        JobError: the system refused; nothing is left behind.
    """
    file = DurableFile(path)
    try:
        file.write(data)
        file.publish()
    except BaseException:
        file.discard()
        raise


def append_line(path: Path, line: str) -> None:
    """Add one line to a file, durably.

    Raises:
        JobError: the system refused; what was written of the line is taken back.
    """
    created = not path.exists()
    with writing(path), path.open("ab") as file:
        before = file.tell()
        try:
            file.write(f"{line}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(file.fileno(), before)
            raise
    if created:
        with writing(path):
            _sync_directory(path.parent)


def make_durable(path: Path) -> None:
    """Force a file that something else has written out of the caches."""
    with writing(path):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        _sync_directory(path.parent)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say what a failing system call means for the job.

    Raises:
        JobError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise JobError(
                f"{path} could not be written: the disk, or your quota on it, is full. "
                f"What was committed before is intact; free some space and run the job again"
            ) from error
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise JobError(f"{path} could not be written: {reason}") from error


def _sync_directory(path: Path) -> None:
    """A rename is durable once the directory that holds the name is."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
