"""One process at a time works on a run.

The lock is the kernel's (flock) on a file in the run directory. The kernel gives it back when its
owner ends, however that happens, so a dead owner never stands in the way.
"""

import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from extractkit.errors import RunDirectoryError
from extractkit.runs.opened import opened

LOCK = ".lock"
"""Name of the file; it stays behind only where its owner was killed."""


_LOOKS, _BETWEEN_LOOKS = 3, 0.02


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock of a run directory, which must exist.

    A file of that name that has other names is nobody's lock (a copy by hard links, say): another
    one takes its place, and what it holds stays as it is.

    Raises:
        RunDirectoryError: another process holds it, the directory cannot be written, or something
            else has the lock's name.
    """
    path = directory / LOCK
    descriptor = _acquired(path)
    try:
        with suppress(OSError):  # a full disk: then the message to others lacks the owner's name
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps({"pid": os.getpid(), "host": platform.node()}).encode())
        yield
    finally:
        # What is done under the lock is done; closing gives it back even where it fails.
        with suppress(OSError):
            path.unlink()
        with suppress(OSError):
            os.close(descriptor)


def owner(directory: Path) -> str | None:
    """Who works on a run now, as a message names it; None: nobody."""
    try:
        descriptor = opened(directory / LOCK)
    except (OSError, RunDirectoryError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _owner(descriptor)
    except OSError:
        return None  # a file system without locks: whoever writes is told so
    finally:
        os.close(descriptor)
    return None


def _acquired(path: Path) -> int:
    looks = _LOOKS
    while True:
        try:
            descriptor = opened(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise RunDirectoryError(
                f"{path} cannot be written: {error.strerror}. A run is worked on by one process at "
                f"a time, which says so there"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            at_work = _owner(descriptor)
            os.close(descriptor)
            if looks := looks - 1:
                time.sleep(_BETWEEN_LOOKS)  # whoever asks for the owner holds it for an instant
                continue
            raise RunDirectoryError(
                f"{path.parent} is being worked on by {at_work}. Wait for it to end, or stop it"
            ) from None
        except OSError as error:
            os.close(descriptor)
            raise RunDirectoryError(
                f"{path} cannot be locked: {error.strerror}. Put runs on a file system with locks"
            ) from error
        # A former owner may have removed the file between our opening and locking it.
        with suppress(FileNotFoundError):
            found = os.fstat(descriptor)
            if os.path.samestat(found, path.lstat()):
                if found.st_nlink == 1:
                    return descriptor
                path.unlink()
        os.close(descriptor)


def _owner(descriptor: int) -> str:
    try:
        said = json.loads(os.pread(descriptor, 1000, 0))
        return f"process {int(said['pid'])} on {str(said['host'])!r}"
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return "another process"
