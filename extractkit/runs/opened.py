"""How a run's files are opened: never through a link, and never so that opening or reading blocks.

A run may come from anywhere. What is opened is looked at through its descriptor, so that nothing
can be put in its place in between.
"""

import errno
import os
import stat
from pathlib import Path

from extractkit.errors import RunDirectoryError

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
