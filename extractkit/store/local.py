"""A run's files on a local disk, and the only path by which they are opened and written.

A run may come from anywhere. An opened file is checked through its descriptor, so that it cannot be
replaced in between.

A file is written under another name, forced to disk and then renamed, so that a name in a run
directory never refers to a partial file, even after a crash or power failure.

Every change goes through a function of `os` that is called as `os.…`. Tests of the promises of a
run replace these functions.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from extractkit.errors import JobError, RunDirectoryError

_SAFELY = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
# A link; a pipe or a socket without a reader; a directory opened for writing.
_OTHER_KINDS = (errno.ELOOP, errno.ENXIO, errno.EISDIR)


def opened(path: Path, flags: int = os.O_RDONLY, *, or_directory: bool = False) -> int:
    """Open a regular file and return its descriptor.

    Args:
        flags: flags of `os.open`, in addition to those that keep it from blocking.
        or_directory: whether it may be a directory.

    Raises:
        RunDirectoryError: it is something else.
        OSError: it cannot be opened.
        ValueError: it is not a possible file name.
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
    """Check that a directory within a run, if it exists, is not a link.

    Raises:
        RunDirectoryError: it is a link, or not a directory.
    """
    try:
        mode = path.lstat().st_mode
    except (OSError, ValueError):
        return
    if not stat.S_ISDIR(mode):
        raise RunDirectoryError(
            f"{path} is not a directory but a {'link' if stat.S_ISLNK(mode) else 'file'}: it may "
            f"lead out of its run. Put the directory itself in its place"
        )


def _other_kind(path: Path) -> RunDirectoryError:
    return RunDirectoryError(f"{path} is not a regular file: it may lead out of its run")


TEMPORARY = ".tmp"
"""Ending of a file that is still being written."""

_BUFFER = 1 << 20


class DurableFile:
    """A file that gets its name only once it is complete, and then survives a crash of the machine.

    Every method raises JobError if the system refuses. A previous file of that name stays as it is
    until `publish` replaces it.
    """

    def __init__(self, path: Path, temporary: Path | None = None) -> None:
        """Begin to write `path`, under the name `temporary` (default: its own with an ending)."""
        self._path = path
        self._temporary = temporary or path.with_name(path.name + TEMPORARY)
        self._pending = bytearray()
        with writing(path):
            # Made anew, because a hard link to the same file may be outside the run.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._temporary)  # noqa: PTH108
            self._descriptor: int | None = opened(
                self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL
            )

    def write(self, data: bytes | memoryview) -> None:
        """Add bytes at the end. Only small ones are copied, to be written together."""
        if len(data) < _BUFFER:
            self._pending += data
            if len(self._pending) >= _BUFFER:
                self._flush()
            return
        self._flush()
        assert self._descriptor is not None
        with writing(self._path):
            _write(self._descriptor, data)

    def force(self) -> None:
        """Force the file to disk under its temporary name."""
        self._flush()
        assert self._descriptor is not None
        with writing(self._path):
            os.fsync(self._descriptor)
            self._close()

    def publish(self) -> None:
        """Give the file its name."""
        self.force()
        publish(self._temporary, self._path)

    def discard(self) -> None:
        """Remove what was written. It is called after a failure, so it never fails itself."""
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
        """Close once only, because another thread may get the same descriptor right afterwards."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def write_durably(path: Path, *content: bytes | memoryview) -> None:
    """Write a whole file. Once this returns, it survives a crash of the machine.

    Args:
        content: its bytes, which may be divided into buffers.

    Raises:
        JobError: the system refused. Nothing is left behind.
    """
    file = DurableFile(path)
    try:
        for buffer in content:
            file.write(buffer)
        file.publish()
    except BaseException:
        file.discard()
        raise


def temporary_of(path: Path, writer: str) -> Path:
    """Return the temporary name that one of several writers uses for a file."""
    return path.with_name(f"{path.name}.{writer}{TEMPORARY}")


def write_apart(path: Path, *content: bytes | memoryview, writer: str) -> None:
    """Write a whole file durably under a temporary name, for another process to `publish`.

    Args:
        path: its final name. Until then it is `temporary_of(path, writer)`.
        content: its bytes, which may be divided into buffers.

    Raises:
        JobError: the system refused. Nothing is left behind.
    """
    file = DurableFile(path, temporary_of(path, writer))
    try:
        for buffer in content:
            file.write(buffer)
        file.force()
    except BaseException:
        file.discard()
        raise


def publish(temporary: Path, path: Path) -> None:
    """Give a file on disk its final name, durably.

    Raises:
        JobError: the system refused, or there is no such file.
    """
    with writing(path):
        os.replace(temporary, path)  # noqa: PTH105 - see the module's docstring
        _sync_directory(path.parent)


def move(source: Path, target: Path) -> None:
    """Move a file to another directory, durably once `make_durable` was called for that.

    Raises:
        JobError: the system refused.
    """
    with writing(target):
        os.replace(source, target)  # noqa: PTH105


def remove(path: Path) -> None:
    """Remove a file if it exists. The removal may not survive a crash of the machine.

    Raises:
        JobError: the system refused.
    """
    with writing(path), contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108


def append_line(path: Path, line: str) -> None:
    """Append one line to a file, durably.

    Raises:
        JobError: the system refused. A part of the line that was written is removed.
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
    """Open a file for appending, making it if needed, and return its descriptor.

    Raises:
        OSError, JobError: the system refused.
        RunDirectoryError: something else has the file's name.
    """
    return _opened_alone(path, os.O_CREAT | os.O_APPEND)


def cut(path: Path, size: int) -> None:
    """Cut a file to its first `size` bytes, durably.

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
    """Force a file or directory that other code has made to disk.

    Raises:
        JobError: the system refused.
        RunDirectoryError: it is neither a file nor a directory.
    """
    with writing(path):
        descriptor = opened(path, or_directory=True)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        _sync_directory(path.parent)


def make_directory(path: Path) -> None:
    """Make a directory durably, unless it exists.

    Raises:
        JobError: the system refused, or a link has its name.
    """
    if path.is_dir() and not path.is_symlink():
        return
    with writing(path):
        os.mkdir(path)  # noqa: PTH102
        _sync_directory(path.parent)


def cache_folder() -> Path | None:
    """Return extractkit's folder in the user's cache, which may not exist; None without a home."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        above = Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return None
    return above / "extractkit"


def remove_oldest(folder: Path, pattern: str, most: int) -> None:
    """Remove the least recently changed files beyond the number that is kept."""
    kept = sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime_ns)
    for path in kept[:-most]:
        path.unlink(missing_ok=True)


def private_cache(name: str) -> Path | None:
    """Return a folder of the user's cache, made if needed; None if others may write to it.

    Args:
        name: the name of the folder.
    """
    own = cache_folder()
    if own is None:
        return None
    for folder in (own, own / name):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = folder.lstat()
        except OSError:
            return None
        others_write = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or others_write:
            return None
    return folder


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of a system call into a JobError.

    Raises:
        JobError: a system call failed.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise JobError(
                f"{path} could not be written: the disk, or your quota on it, is full. "
                f"Committed shards are intact. Free some space and resume the run"
            ) from error
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise JobError(f"{path} could not be written: {reason}") from error


def _opened_alone(path: Path, flags: int) -> int:
    """Open a file to be changed in place, and return its descriptor.

    If it has several names (hard links, as some copies make), it is first written anew under this
    one, because the others may be outside the run and must not change.
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


def _write(descriptor: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of `data`, since a system call may write less than it was given."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _sync_directory(path: Path) -> None:
    """Make a rename durable by syncing the directory that holds the name."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
