"""A run directory in use: checked before a run is written to it, made, locked, and logged to.

The lock is an flock on a file in the run directory. The kernel releases it when its owner ends,
however that happens, so a dead process never blocks a run.
"""

import fcntl
import json
import logging
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import TextIOWrapper
from os import PathLike
from pathlib import Path

from extractkit.advice import command
from extractkit.errors import ConfigError, DiskSpaceError, RunDirectoryError, counted
from extractkit.runs import ELSEWHERE, HYDRA, LOCK, LOG, MANIFEST, PARTS, RUN_KEY
from extractkit.runs import manifest as manifests
from extractkit.runs.manifest import Status
from extractkit.store.local import TEMPORARY, make_durable, opened, opened_to_append, writing


def path_of(given: object, at: str) -> Path:
    """Return the path that an argument of a function gives.

    Args:
        at: the name of the argument, for messages.

    Raises:
        ConfigError: it is neither a text nor a path.
    """
    if not isinstance(given, str | PathLike):
        raise ConfigError(f"{at}={given!r} is not a path. Give a text or a pathlib.Path")
    return Path(given)


def run_path(given: object) -> Path:
    """Return the run directory that an argument `run` gives: absolute, without `..`.

    Raises:
        ConfigError: it is neither a text nor a path.
    """
    return Path(os.path.abspath(path_of(given, "run")))  # noqa: PTH100 - links stay as they are


@dataclass(frozen=True)
class Mark:
    """How files of one kind are recognised.

    Attributes:
        what: the kind, with its article.
        text: bytes that such a file has near its beginning, and no other.
    """

    what: str
    text: bytes


_HEAD = 4096


@contextmanager
def new_directory(directory: Path, check: Callable[[Path], None]) -> Iterator[None]:
    """Create a directory and hold its lock while the context lasts.

    Directories made for it are removed again if they end up empty.

    Args:
        check: refuses a directory that is in use.

    Raises:
        RunDirectoryError: `check` refused the directory, another process holds its lock, or it
            cannot be made.
        JobError: the disk refuses.
    """
    check(directory)
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    try:
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunDirectoryError(
                f"{RUN_KEY}={directory} cannot be made: {error.strerror}. {ELSEWHERE}"
            ) from error
        for path in reversed(made):
            make_durable(path)  # the new names too, so that a power failure does not lose the run
        with locked(directory):
            check(directory)  # another process may have started and ended meanwhile
            yield
    finally:
        for path in made:
            with suppress(OSError):  # a directory that is not empty stays
                path.rmdir()


def check_writable(path: Path) -> None:
    """Check that a directory exists at `path` or can be made there. Changes nothing.

    Raises:
        RunDirectoryError: `path` is a file or is not writable.
    """
    if path.exists() and not path.is_dir():
        raise RunDirectoryError(f"{RUN_KEY}={path} is a file. {ELSEWHERE}")
    parent = existing_parent(path)
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise RunDirectoryError(
            f"{RUN_KEY}={path} cannot be made: {parent} is not a writable directory. {ELSEWHERE}"
        )


def check_unused(path: Path) -> None:
    """Check that a new run may be written to `path`. Changes nothing.

    Raises:
        RunDirectoryError: `path` holds a run or other files, is not a directory or not writable.
    """
    check_writable(path)
    if not path.exists() or unused(path):
        return
    at, other = f"{RUN_KEY}={path}", ELSEWHERE
    if (path / MANIFEST).exists():
        raise RunDirectoryError(f"{at} {_described(path)}. {other}")
    if (path / PARTS).is_dir():
        raise RunDirectoryError(
            f"{at} holds parts of a run. Join them: {command('join', path)}. {other}"
        )
    names = sorted(entry.name for entry in path.iterdir())
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    raise RunDirectoryError(f"{at} is not empty (it holds {shown}). {other}")


def unused(path: Path) -> bool:
    """Return True for an empty directory, or one whose process died before its run began."""
    names = {entry.name for entry in path.iterdir()}
    rest = {name for name in names if name not in (LOCK, HYDRA) and not name.endswith(TEMPORARY)}
    return not names or (LOCK in names and not rest)


def check_place(
    path: Path, run: Path, at: str, *, folder: bool = False, mark: Mark | None = None
) -> None:
    """Check that what is made of a run can be written at a path. Changes nothing.

    Args:
        at: the argument that names the path, for messages.
        folder: whether it is a directory, which may exist.
        mark: that of files which may be replaced; None: no file may.

    Raises:
        ConfigError: it cannot, or it would be inside the run.
    """
    if run.resolve() in (path.resolve(), *path.resolve().parents):
        raise ConfigError(
            f"{at}={str(path)!r} is inside the run, whose files do not change. Choose a place "
            f"beside it: {at}={str(run.parent / (path.name or at))!r}"
        )
    if not path.parent.is_dir():
        raise ConfigError(f"{at}={str(path)!r}: {path.parent} is not a directory. Make it first")
    if folder:
        if path.exists() and not path.is_dir():
            raise ConfigError(f"{at}={str(path)!r} is a file. Choose another name")
        return
    if path.is_dir():
        raise ConfigError(f"{at}={str(path)!r} is a directory. Choose another name")
    if path.is_symlink() or path.exists():
        _check_replaceable(path, at, mark)


def _check_replaceable(path: Path, at: str, mark: Mark | None) -> None:
    if path.is_symlink() or not path.is_file():
        what = "a link" if path.is_symlink() else "not a regular file"
        raise ConfigError(f"{at}={str(path)!r} is {what}. Choose another name")
    if mark is not None:
        with suppress(OSError), path.open("rb") as file:
            if mark.text in file.read(_HEAD):
                return
    other = "" if mark is None else f" and is not {mark.what}, which alone is replaced"
    raise ConfigError(f"{at}={str(path)!r} exists{other}. Choose another name, or remove it first")


def existing_parent(path: Path) -> Path:
    """Return `path` if it exists, else its nearest parent that does."""
    path = path.absolute()
    return next(candidate for candidate in (path, *path.parents) if candidate.exists())


def _described(path: Path) -> str:
    try:
        found = manifests.read(path)
    except RunDirectoryError as error:
        return f"holds a run that cannot be read ({error}). Delete it if you do not need it"
    date = found.volatile.started.replace("T", " ")[:16]
    size = f"{counted(found.samples, 'sample')}, {counted(len(found.tensors), 'tensor')}"
    if found.status is Status.FINISHED:
        return (
            f"holds a finished run of {date} UTC ({size}). Look at it: {command('show', path)}. "
            f"Delete it if you do not need it"
        )
    if (at_work := owner(path)) is not None:
        return f"is being worked on by {at_work}. Wait for it to end"
    return (
        f"holds an unfinished run of {date} UTC (status: {found.status}; {size}). "
        f"Resume it: {command('resume', path)}. Delete it if you do not need it"
    )


_ATTEMPTS, _BETWEEN_ATTEMPTS = 3, 0.02


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock of a run directory, which must exist.

    If the lock file has further names (hard links, as some copies make), it is replaced by a new
    file, and the content under the other names is left alone.

    Raises:
        RunDirectoryError: another process holds the lock, the directory cannot be written, or
            something else has the lock's name.
    """
    path = directory / LOCK
    descriptor = _acquired(path)
    try:
        with suppress(OSError):  # on a full disk, messages to others lack the owner's name
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps({"pid": os.getpid(), "host": platform.node()}).encode())
        yield
    finally:
        # The work under the lock is done. Closing releases it even if unlinking fails.
        with suppress(OSError):
            path.unlink()
        with suppress(OSError):
            os.close(descriptor)


def owner(directory: Path) -> str | None:
    """Return the process that holds a run's lock, as a message names it, or None."""
    try:
        descriptor = opened(directory / LOCK)
    except (OSError, RunDirectoryError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _owner(descriptor)
    except OSError:
        return None  # a file system without locks, which `locked` refuses
    finally:
        os.close(descriptor)
    return None


def _acquired(path: Path) -> int:
    attempts = _ATTEMPTS
    while True:
        try:
            descriptor = opened(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise RunDirectoryError(
                f"{path} cannot be written: {error.strerror}. This file locks the run, which only "
                f"one process at a time may write"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            at_work = _owner(descriptor)
            os.close(descriptor)
            if attempts := attempts - 1:
                time.sleep(_BETWEEN_ATTEMPTS)  # `owner` holds a shared lock for an instant
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
        content = json.loads(os.pread(descriptor, 1000, 0))
        pid, on = int(content["pid"]), str(content["host"])
        own = ", which is this process" if (pid, on) == (os.getpid(), platform.node()) else ""
        return f"process {pid} on {on!r}{own}"
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return "another process"


_BYTES_PER_TENSOR = 2_000
_BYTES_PER_SHARD = 4_000


def free_bytes(path: Path) -> int:
    """Return the free bytes on the disk of `path` or of its nearest existing parent."""
    return shutil.disk_usage(existing_parent(path)).free


def check_space(path: Path, needed_bytes: int) -> None:
    """Check that the disk of `path`, or of its nearest existing parent, has enough space.

    Raises:
        DiskSpaceError: fewer than `needed_bytes` are free.
    """
    directory, free = existing_parent(path), free_bytes(path)
    if needed_bytes > free:
        raise DiskSpaceError(
            f"The run needs {human_bytes(needed_bytes)}, but {directory} has {human_bytes(free)} "
            f"free. Take fewer samples (inputs.limit=…), store less of each tensor "
            f"(selectors.NAME.reduce, .slice or .cast), or choose another disk (run_dir=…)"
        )


def file_overhead(tensors: int, shards: int) -> int:
    """Estimate the bytes of a run beyond its values: HDF5 structures, journal, manifest, index."""
    return _BYTES_PER_TENSOR * tensors * (shards + 1) + _BYTES_PER_SHARD * (shards + 1)


def human_bytes(count: int) -> str:
    """Format a number of bytes in decimal units: "813 B", "6.5 GB"."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.5 or unit == "TB":
            break
        size /= 1000
    digits = 0 if unit == "B" or size >= 99.5 else 1
    return f"{size:.{digits}f} {unit}"


_FORMAT = "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s"


class _RunHandler(logging.FileHandler):
    """Handler that ignores write errors, so that a failing log does not end a job."""

    _reported = False

    def _open(self) -> TextIOWrapper:
        descriptor = opened_to_append(Path(self.baseFilename))
        return open(descriptor, "a", encoding=self.encoding)  # noqa: PTH123 - a descriptor

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        if not self._reported:
            self._reported = True
            sys.stderr.write(
                f"extractkit: {self.baseFilename} could not be written: {sys.exc_info()[1]}\n"
            )


class _WarningHandler(logging.Handler):
    """Handler that also passes extractkit's own warnings to the caller."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._warn = warn

    def emit(self, record: logging.LogRecord) -> None:
        # Errors end the job and are reported there.
        if record.levelno == logging.WARNING:
            self._warn(record.getMessage())


@contextmanager
def run_log(directory: Path, warn: Callable[[str], None]) -> Iterator[None]:
    """Append records of every logger, and Python's warnings, to the log of the run.

    Args:
        warn: Receives each warning of extractkit's own loggers as well.

    Raises:
        JobError: the log cannot be opened.
        RunDirectoryError: something else has its name.
    """
    with writing(directory / LOG):
        handler = _RunHandler(directory / LOG, encoding="utf-8")
    formatter = logging.Formatter(_FORMAT, datefmt="%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    root, own = logging.getLogger(), logging.getLogger("extractkit")
    level = own.level
    own.setLevel(logging.DEBUG)
    root.addHandler(handler)
    warnings = _WarningHandler(warn)
    own.addHandler(warnings)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        own.removeHandler(warnings)
        root.removeHandler(handler)
        own.setLevel(level)
        handler.close()
