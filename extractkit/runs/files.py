"""Files as a run records them: name, size, SHA-256; and how the record is held against the disk."""

import hashlib
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from extractkit.errors import RunDirectoryError

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file: its path within the run directory, SHA-256 and size in bytes."""

    name: str
    sha256: str
    size: int

    @classmethod
    def of(cls, name: str, content: bytes) -> "StoredFile":
        """The record of a file with this content."""
        return cls(name, hashlib.sha256(content).hexdigest(), len(content))

    @classmethod
    def on_disk(cls, directory: Path, name: str) -> "StoredFile":
        """The record of a file as it lies on the disk."""
        sha256, size = _digest(directory / name, None)
        return cls(name, sha256, size)

    def check(self, directory: Path, *, growing: bool = False) -> None:
        """Hold the record against the disk.

        Args:
            growing: whether the file may have become longer since, as a log does.

        Raises:
            RunDirectoryError: the file is missing, is no regular file (a link, say), has a name
                that leads out of the directory, or its content is another.
        """
        path = directory / self.name
        if self.size < 0:
            raise RunDirectoryError(f"{directory} records {self.size} bytes of {self.name!r}")
        if Path(self.name).is_absolute() or ".." in Path(self.name).parts:
            raise RunDirectoryError(f"{directory} records the file {self.name!r}, outside of it")
        try:
            status = path.lstat()
        except (OSError, ValueError) as error:  # the latter: no name that a file could have
            raise RunDirectoryError(f"{path} is missing from its run") from error
        if not stat.S_ISREG(status.st_mode):
            raise RunDirectoryError(f"{path} is no regular file: it may lead out of its run")
        if status.st_size != self.size and not (growing and status.st_size > self.size):
            raise RunDirectoryError(
                f"{path} is damaged: it holds {status.st_size} bytes, {self.size} were written"
            )
        if _digest(path, self.size)[0] != self.sha256:
            raise RunDirectoryError(f"{path} is damaged: its SHA-256 is not the recorded one")


def content_of(path: Path) -> bytes:
    """All bytes of a file of a run.

    Raises:
        FileNotFoundError: it is not there.
        RunDirectoryError: it is no regular file, whose reading might never end; or cannot be read.
    """
    with _opened(path) as file:
        return file.read()


def lines_of(path: Path) -> Iterator[bytes]:
    """The lines of a file of a run, with their newlines, one in memory at a time.

    Raises:
        FileNotFoundError, RunDirectoryError: as of `content_of`.
    """
    with _opened(path) as file:
        yield from file


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise RunDirectoryError(f"{path} is no regular file: it may lead out of its run")
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise
    except NotADirectoryError as error:
        raise FileNotFoundError(path) from error
    except OSError as error:
        raise RunDirectoryError(f"{path} cannot be read: {error.strerror}") from error


def _digest(path: Path, size: int | None) -> tuple[str, int]:
    """SHA-256 of the first `size` bytes (None: of all), and how many those were."""
    sha = hashlib.sha256()
    done = 0
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK if size is None else min(_BLOCK, size - done)):
                sha.update(block)
                done += len(block)
    except OSError as error:
        raise RunDirectoryError(f"{path} cannot be read: {error.strerror}") from error
    return sha.hexdigest(), done
