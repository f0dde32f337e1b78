"""Files as a run records them: name, size, SHA-256; and how the record is held against the disk."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from extractkit.errors import RunDirectoryError
from extractkit.runs.opened import check_directory, opened

LARGEST = 1 << 30
"""Most bytes of a file that is read as a whole: a manifest of a million shards takes a tenth."""

LONGEST_LINE = 1 << 28
"""Most bytes of one line of the journal, or of the samples' rows."""

_BLOCK = 1 << 20
_MEND = "Restore it, or run the job again"


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
        """The record of a file as it lies on the disk.

        Raises:
            RunDirectoryError: it is missing, is no regular file or cannot be read.
        """
        try:
            with reading(directory / name) as file:
                sha256, size = _digest(file, None)
        except FileNotFoundError as error:
            raise RunDirectoryError(f"{directory / name} is missing from its run") from error
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
        for parent in Path(self.name).parents[:-1]:
            check_directory(directory / parent)
        try:
            with reading(path) as file:
                size = os.fstat(file.fileno()).st_size
                if size != self.size and not (growing and size > self.size):
                    raise RunDirectoryError(
                        f"{path} is damaged: it holds {size} bytes, {self.size} were written"
                    )
                sha256, _ = _digest(file, self.size)
        except FileNotFoundError as error:
            raise RunDirectoryError(f"{path} is missing from its run") from error
        if sha256 != self.sha256:
            raise RunDirectoryError(f"{path} is damaged: its SHA-256 is not the recorded one")


def content_of(path: Path) -> bytes:
    """All bytes of a file of a run.

    Raises:
        FileNotFoundError: it is not there.
        RunDirectoryError: it is no regular file, whose reading might never end; larger than any
            that is read at once; or cannot be read.
    """
    with reading(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > LARGEST:
            raise RunDirectoryError(
                f"{path} is damaged: it holds {size:,} bytes, and none of its kind more than "
                f"{LARGEST:,}. {_MEND}"
            )
        return file.read()


def lines_of(path: Path) -> Iterator[bytes]:
    """The lines of a file of a run, with their newlines, one in memory at a time.

    Raises:
        FileNotFoundError, RunDirectoryError: as of `content_of`, of each line.
    """
    with reading(path) as file:
        number = 0
        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            if len(line) > LONGEST_LINE:
                raise RunDirectoryError(
                    f"{path} is damaged: its line {number} holds more than {LONGEST_LINE:,} "
                    f"bytes. {_MEND}"
                )
            yield line


@contextmanager
def reading(path: Path) -> Iterator[BinaryIO]:
    """A file of a run, to be read inside the context and nothing else.

    Raises:
        FileNotFoundError: it is not there.
        RunDirectoryError: it is no regular file, whose reading might never end; or cannot be read.
    """
    try:
        descriptor = opened(path)
    except (NotADirectoryError, ValueError) as error:  # the latter: no name that a file could have
        raise FileNotFoundError(path) from error
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENAMETOOLONG):
            raise FileNotFoundError(path) from error
        raise _unreadable(path, error) from error
    try:
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
            yield file
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> RunDirectoryError:
    return RunDirectoryError(f"{path} cannot be read: {error.strerror}")


def _digest(file: BinaryIO, size: int | None) -> tuple[str, int]:
    """SHA-256 of the first `size` bytes (None: of all), and how many those were."""
    sha = hashlib.sha256()
    done = 0
    while block := file.read(_BLOCK if size is None else min(_BLOCK, size - done)):
        sha.update(block)
        done += len(block)
    return sha.hexdigest(), done
