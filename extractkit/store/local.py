"""A run's files on a local disk: the one way in which they are opened and written.

A run may come from anywhere. What is opened is looked at through its descriptor, so that nothing
can be put in its place in between.

A file is written under another name, forced out of the caches and then renamed, so that a name in a
run directory never stands for half a file, whatever is killed or unplugged meanwhile.

Every change goes through a function of `os` that is called as `os.…`, here or in `opened.py`; the
tests of what a run promises put their own in that place.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from extractkit.errors import JobError, RunDirectoryError

_SAFELY = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
# A link; a pipe or a socket that nobody serves; a directory that is to be written.
_OTHER_KINDS = (errno.ELOOP, errno.ENXIO, errno.EISDIR)


def opened(path: Path, flags: int = os.O_RDONLY, *, or_directory: bool = False) -> int:
    """A descriptor of a regular file.

    Args:
        flags: of `os.open`, beside those that keep it from blocking.
        or_directory: whether it may be a directory.

    Raises:
        RunDirectoryError: it is something else.
        OSError: it cannot be opened.
        ValueError: no file can have such a name.
    """
    try:
        descriptor = os.open(path, flags | _SAFELY, 0o666)
    except OSError as error:
        if error.errno in _OTHER_KINDS:
            raise _other_kind(path) from error
        raise
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode) and not (or_directory and stat.S_ISDIR(mode)):
        os.close(descriptor)
        raise _other_kind(path)
    return descriptor


def check_directory(path: Path) -> None:
    """Make sure that a directory within a run, where it is there, is one of the run's own.

    Raises:
        RunDirectoryError: it is a link, or no directory.
    """
    try:
        mode = path.lstat().st_mode
    except (OSError, ValueError):
        return
    if not stat.S_ISDIR(mode):
        raise RunDirectoryError(
            f"{path} is no directory but a {'link' if stat.S_ISLNK(mode) else 'file'}: it may lead "
            f"out of its run. Put the directory itself in its place"
        )


def _other_kind(path: Path) -> RunDirectoryError:
    return RunDirectoryError(f"{path} is no regular file: it may lead out of its run")


TEMPORARY = ".tmp"
"""Ending of a file that is still being written."""

_BUFFER = 1 << 20


class DurableFile:
    """A file that has its name only once it is whole, and then survives a crash of the machine.

    Every method raises JobError where the system refuses; a former file of that name stays as it
    is until `publish` replaces it.
    """

    def __init__(self, path: Path, temporary: Path | None = None) -> None:
        """Begin to write `path`, under the name `temporary` (None: its own with an ending)."""
        self._path = path
        self._temporary = temporary or path.with_name(path.name + TEMPORARY)
        self._pending = bytearray()
        with writing(path):
            # Made anew: another name of the same file may lie outside of the run.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._temporary)  # noqa: PTH108
            self._descriptor: int | None = opened(
                self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL
            )

    def write(self, data: bytes) -> None:
        """Add bytes at the end."""
        self._pending += data
        if len(self._pending) >= _BUFFER:
            self._flush()

    def seal(self) -> None:
        """Force the file out of the caches under its temporary name."""
        self._flush()
        assert self._descriptor is not None
        with writing(self._path):
            os.fsync(self._descriptor)
            self._close()

    def publish(self) -> None:
        """Give the file its name."""
        self.seal()
        publish(self._temporary, self._path)

    def discard(self) -> None:
        """Remove what was written; for after a failure, so it never fails itself."""
        self._pending = bytearray()  # not cleared: a failed write may still hold a view of it
        with contextlib.suppress(OSError):
            self._close()
        with contextlib.suppress(OSError):
            os.unlink(self._temporary)  # noqa: PTH108

    def _flush(self) -> None:
        assert self._descriptor is not None
        with writing(self._path):
            _write(self._descriptor, self._pending)
        self._pending.clear()

    def _close(self) -> None:
        """Once only: the number may stand for another thread's file right afterwards."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


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


def temporary_of(path: Path, writer: str) -> Path:
    """The name under which one of several writers holds a file that it may not name itself."""
    return path.with_name(f"{path.name}.{writer}{TEMPORARY}")


def write_apart(path: Path, data: bytes, writer: str) -> None:
    """Write a whole file durably, for somebody else to `publish` under its name.

    Args:
        path: what it will be called; until then it is `temporary_of(path, writer)`.

    Raises:
        JobError: the system refused; nothing is left behind.
    """
    file = DurableFile(path, temporary_of(path, writer))
    try:
        file.write(data)
        file.seal()
    except BaseException:
        file.discard()
        raise


def publish(temporary: Path, path: Path) -> None:
    """Give a file that has been forced out its name, durably.

    Raises:
        JobError: the system refused; also where there is no such file.
    """
    with writing(path):
        os.replace(temporary, path)  # noqa: PTH105 - see the module's docstring
        _sync_directory(path.parent)


def move(source: Path, target: Path) -> None:
    """Bring a file to another directory; durable once `make_durable` was called for that.

    Raises:
        JobError: the system refused.
    """
    with writing(target):
        os.replace(source, target)  # noqa: PTH105


def remove(path: Path) -> None:
    """Take a file away that may be there. That need not survive a crash of the machine.

    Raises:
        JobError: the system refused.
    """
    with writing(path), contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108


def append_line(path: Path, line: str) -> None:
    """Add one line to a file, durably.

    Raises:
        JobError: the system refused; what was written of the line is taken back.
        RunDirectoryError: something else has the file's name.
    """
    created = not path.exists()
    with writing(path):
        descriptor = opened_to_append(path)
        try:
            before = os.lseek(descriptor, 0, os.SEEK_END)
            try:
                _write(descriptor, f"{line}\n".encode(errors="surrogatepass"))
                os.fsync(descriptor)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, before)
                raise
        finally:
            os.close(descriptor)
        if created:
            _sync_directory(path.parent)


def opened_to_append(path: Path) -> int:
    """A descriptor that adds at the end of a file, which is made where there is none.

    Raises:
        OSError, JobError: the system refused.
        RunDirectoryError: something else has the file's name.
    """
    return _opened_alone(path, os.O_CREAT | os.O_APPEND)


def cut(path: Path, size: int) -> None:
    """Take away what follows the first `size` bytes of a file, durably.

    Raises:
        JobError: the system refused.
        RunDirectoryError: something else has the file's name.
    """
    with writing(path):
        descriptor = _opened_alone(path, 0)
        try:
            os.ftruncate(descriptor, size)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_durable(path: Path) -> None:
    """Force a file, or a directory, that something else has made out of the caches.

    Raises:
        JobError: the system refused.
        RunDirectoryError: it is neither.
    """
    with writing(path):
        descriptor = opened(path, or_directory=True)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        _sync_directory(path.parent)


def make_directory(path: Path) -> None:
    """Make a directory durably, unless it is there.

    Raises:
        JobError: the system refused; also where a link leads to one.
    """
    if path.is_dir() and not path.is_symlink():
        return
    with writing(path):
        os.mkdir(path)  # noqa: PTH102
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
                f"What was committed before is intact; free some space and go on"
            ) from error
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise JobError(f"{path} could not be written: {reason}") from error


def _opened_alone(path: Path, flags: int) -> int:
    """A descriptor by which a file is changed in place.

    Where it has other names, from a copy by hard links say, it is written anew under this one
    first: what the others name may lie outside of the run, and stays as it is.
    """
    while True:
        descriptor = opened(path, os.O_RDWR | flags)
        try:
            names = os.fstat(descriptor).st_nlink
            if names > 1:
                _write_anew(path, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        if names == 1:
            return descriptor
        os.close(descriptor)


def _write_anew(path: Path, descriptor: int) -> None:
    file = DurableFile(path)
    try:
        done = 0
        while block := os.pread(descriptor, _BUFFER, done):
            file.write(block)
            done += len(block)
        file.publish()
    except BaseException:
        file.discard()
        raise


def _write(descriptor: int, data: bytes | bytearray) -> None:
    """All of `data`: a system call may write less than it was given."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _sync_directory(path: Path) -> None:
    """A rename is durable once the directory that holds the name is."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
