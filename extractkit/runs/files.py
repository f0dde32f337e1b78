"""Files that a run records: its own, and those that the configuration names, with digests.

A loader that is given one file may read others beside it (a checkpoint's shards, for example), so
everything that is decided by files covers these too.
"""

import errno
import glob
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import SEEK_END
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, BinaryIO

from extractkit.core.component import Component
from extractkit.core.digests import Algorithm, Digest
from extractkit.errors import InputError, RunDirectoryError
from extractkit.store.local import check_directory, opened

LARGEST = 1 << 30
"""Most bytes of a file that is read whole. A manifest of a million shards takes a tenth of it."""

LONGEST_LINE = 1 << 28
"""Most bytes of one line of the journal or of the samples' rows."""

_BLOCK = 1 << 20
_MEND = "Restore it, or run the job again"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file: its path within the run directory, its digest and its size in bytes."""

    name: str
    digest: Digest
    size: int

    @classmethod
    def of(cls, name: str, *content: bytes | memoryview, by: Algorithm) -> "StoredFile":
        """Return the record of a file with this content, which may be divided into buffers."""
        return cls(name, by.of(*content), sum(map(len, content)))

    @classmethod
    def on_disk(cls, directory: Path, name: str, *, by: Algorithm) -> "StoredFile":
        """Return the record of a file on disk.

        Raises:
            RunDirectoryError: the file is missing, is not a regular file or cannot be read.
        """
        try:
            with reading(directory / name) as file:
                digest, size = _digest(file, by, None)
        except FileNotFoundError as error:
            raise RunDirectoryError(f"{directory / name} is missing from its run") from error
        return cls(name, digest, size)

    def check(self, directory: Path, *, growing: bool = False) -> None:
        """Check the record against the file on disk.

        Args:
            growing: accept a file that has become longer since, as a log does.

        Raises:
            RunDirectoryError: the file is missing, is not a regular file (a link, for example),
                has a name that leads out of the directory, or differs from the record.
        """
        with self._opened(directory, growing=growing) as file:
            digest, _ = _digest(file, self.digest.algorithm, self.size)
        self._compare(directory, digest)

    def whole(self, directory: Path) -> bool:
        """Return True if the file is there and as recorded."""
        try:
            self.check(directory)
        except RunDirectoryError:
            return False
        return True

    def content(self, directory: Path) -> bytes:
        """Read the file once, and return its content if it is the recorded one.

        Raises:
            RunDirectoryError: see `check`.
        """
        with self._opened(directory) as file:
            content = file.read()
        self._compare(directory, self.digest.algorithm.of(content))
        return content

    @contextmanager
    def _opened(self, directory: Path, *, growing: bool = False) -> Iterator[BinaryIO]:
        """Open the file if its name and size are as recorded."""
        path = directory / self.name
        if self.size < 0:
            raise RunDirectoryError(f"{directory} records {self.size} bytes of {self.name!r}")
        if Path(self.name).is_absolute() or ".." in Path(self.name).parts:
            raise RunDirectoryError(f"{directory} records the file {self.name!r}, outside it")
        for parent in Path(self.name).parents[:-1]:
            check_directory(directory / parent)
        try:
            with reading(path) as file:
                size = os.fstat(file.fileno()).st_size
                if size != self.size and not (growing and size > self.size):
                    raise RunDirectoryError(
                        f"{path} is damaged: it holds {size} bytes, {self.size} were written"
                    )
                yield file
        except FileNotFoundError as error:
            raise RunDirectoryError(f"{path} is missing from its run") from error

    def _compare(self, directory: Path, digest: Digest) -> None:
        if digest != self.digest:
            raise RunDirectoryError(
                f"{directory / self.name} is damaged: its digest is not the recorded one"
            )


def content_of(path: Path) -> bytes:
    """Return the content of a file of a run.

    Raises:
        FileNotFoundError: there is no such file.
        RunDirectoryError: it is not a regular file (reading might never end), is larger than any
            file that is read whole, or cannot be read.
    """
    with reading(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > LARGEST:
            raise RunDirectoryError(
                f"{path} is damaged: it holds {size:,} bytes, more than the {LARGEST:,} that such "
                f"a file can hold. {_MEND}"
            )
        return file.read()


def lines_of(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file of a run, with their newlines, one in memory at a time.

    Raises:
        FileNotFoundError, RunDirectoryError: see `content_of`.
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
    """Open a file of a run for reading.

    Raises:
        FileNotFoundError: there is no such file.
        RunDirectoryError: it is not a regular file (reading might never end), or cannot be read.
    """
    try:
        descriptor = opened(path)
    except (NotADirectoryError, ValueError) as error:  # ValueError: not a valid file name
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


def _digest(file: BinaryIO, by: Algorithm, size: int | None) -> tuple[Digest, int]:
    """Return the digest of the first `size` bytes (None: all) and the number of bytes read."""
    hashing = by.begin()
    done = 0
    while block := file.read(_BLOCK if size is None else min(_BLOCK, size - done)):
        hashing.update(block)
        done += len(block)
    return hashing.digest, done


_MEMBER = re.compile(r"(.*)\.(?:index|meta|data-\d{5}-of-\d{5})", re.DOTALL)
_SAVED_MODELS = ("saved_model.pb", "saved_model.pbtxt")
_OF_A_SAVED_MODEL = (
    *("saved_model.pb*", "fingerprint.pb", "keras_metadata.pb"),
    *("variables/**/*", "assets/**/*", "assets.extra/**/*"),
)
TABLE_END = bytes.fromhex("57fb808b247547db")
"""The last bytes of a TensorFlow table file: a checkpoint index, or a whole V1 checkpoint."""

_STATE = "checkpoint"
_BEGINNING = 65536
_LATEST = re.compile(r'^model_checkpoint_path: "(.*)"', re.MULTILINE)


def prefix_of(member: str) -> str | None:
    """Return the checkpoint prefix that a file belongs to by its name, or None."""
    found = _MEMBER.fullmatch(member)
    return found[1] if found else None


def files_with_companions(file: Path) -> tuple[list[Path], Path]:
    """Return a file and its companions in order, and the directory that holds them all."""
    try:
        others = {one for one in _others(file) if one.is_file()}
    except OSError:  # unreadable files are refused where their content is needed
        others = set()
    return sorted({file, *others}), file.parent


def _others(file: Path) -> Iterator[Path]:
    if file.name in _SAVED_MODELS:
        for pattern in _OF_A_SAVED_MODEL:
            yield from file.parent.glob(pattern)
    elif file.suffix == ".json":
        yield from (file.parent / name for name in _named(file))
    elif file.name == _STATE:
        with file.open(encoding="utf-8", errors="replace") as opened:
            latest = _LATEST.search(opened.read(_BEGINNING))  # large files may have this name too
        if latest and "/" not in latest[1]:
            yield from _members(file.parent / latest[1])
    elif prefix := prefix_of(file.name):
        yield from _members(file.parent / prefix)
    elif (graph := file.with_name(f"{file.name}.meta")).is_file() and _ends_a_table(file):
        yield graph  # of the V1 format, which had no index and data files


def _ends_a_table(file: Path) -> bool:
    with file.open("rb") as opened:
        if opened.seek(0, SEEK_END) < len(TABLE_END):
            return False
        opened.seek(-len(TABLE_END), SEEK_END)
        return opened.read() == TABLE_END


def _members(prefix: Path) -> Iterator[Path]:
    for one in prefix.parent.iterdir():
        if prefix_of(one.name) == prefix.name:
            yield one


def _named(file: Path) -> list[str]:
    """Return the shards that an index of TensorFlow.js or safetensors names in its own folder."""
    if not file.stat().st_size:
        return []
    with file.open("rb") as opened, mmap(opened.fileno(), 0, access=ACCESS_READ) as mapped:
        if all(mapped.find(key) < 0 for key in (b'"weightsManifest"', b'"weight_map"')):
            return []  # another JSON file (of samples, for example), of any size
    try:
        content: Any = json.loads(file.read_bytes())
        if "weightsManifest" in content:
            names = [name for group in content["weightsManifest"] for name in group["paths"]]
        else:
            names = list(content.get("weight_map", {}).values())
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        return []  # another file, or a damaged one that its reader refuses
    return [name for name in names if isinstance(name, str) and Path(name).name == name]


_NAMES = frozenset({"path", "checkpoint", "filepath", "weights"})
"""Arguments that name files, as a text, a list or a mapping. No other text counts as a path."""

_RELOCATED = _NAMES | {"checkpoints"}
"""`_NAMES`, and the arguments whose files a manifest records one by one."""


@dataclass(frozen=True)
class Origin:
    """The files that one argument of the configuration names.

    Attributes:
        key: the config key ("model.path").
        path: its value as an absolute path: a file (its companions included), a directory, a
            pattern or a checkpoint's prefix.
        sha256: SHA-256 of the file; of several files, over their names, sizes and contents.
        bytes: total size.
    """

    key: str
    path: str
    sha256: str
    bytes: int


def origins(
    components: Iterable[Component], known: Mapping[Path, str] | None = None
) -> tuple[Origin, ...]:
    """Return the files that arguments of these components name, with digests of their content.

    Args:
        known: the SHA-256 of files that have been read already, by absolute path.

    Raises:
        InputError: a file cannot be read.
    """
    found = []
    for component in components:
        for key, text in _texts(component.at, component.arguments):
            if (one := origin(key, text, known)) is not None:
                found.append(one)
    return tuple(found)


def files_of(component: Component) -> Iterator[Path]:
    """Yield the files that arguments of a component name."""
    for _, text in _texts(component.at, component.arguments):
        yield from _files(text)[0]


def origin(key: str, text: str, known: Mapping[Path, str] | None = None) -> Origin | None:
    """Return the files that a text names, with a digest of their content, or None if none exist.

    Args:
        known: see `origins`.

    Raises:
        InputError: a file cannot be read.
    """
    files, parent = _files(text)
    if not files:
        return None
    path = str(Path(text).expanduser().absolute())
    try:
        if len(files) == 1 and str(files[0].absolute()) == path:
            return Origin(key, path, _sha256(files[0], known), files[0].stat().st_size)
        sha = hashlib.sha256()
        total = 0
        for file in files:
            name, size = file.relative_to(parent).as_posix(), file.stat().st_size
            sha.update(f"{name}\0{size}\0{_sha256(file, known)}\n".encode())
            total += size
    except OSError as error:
        raise InputError(f"{key}={text!r} cannot be read: {error.strerror}") from error
    return Origin(key, path, sha.hexdigest(), total)


def names_files(text: str) -> bool:
    """Return True if a text names existing files."""
    return bool(_files(text)[0])


def relocated(entries: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """Return a configuration with its relative paths resolved against a directory.

    Only paths that name existing files there are changed.
    """

    def resolved(name: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: resolved(str(key), entry) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return [resolved(name, entry) for entry in value]
        return located(value) if name in _RELOCATED else value

    def located(value: Any) -> Any:
        if not isinstance(value, str) or Path(value).expanduser().is_absolute():
            return value
        absolute = str(directory / value)
        return absolute if _files(absolute)[0] else value

    def selecting(value: Any) -> Any:
        """Resolve the runs of projections. A selector's path is a glob over addresses, never a
        file."""
        if isinstance(value, list | tuple):
            return [selecting(entry) for entry in value]
        if not isinstance(value, Mapping):
            return value
        found = {key: selecting(entry) for key, entry in value.items()}
        of_run = found.get("project")
        if isinstance(of_run, Mapping) and "run" in of_run:
            found["project"] = {**of_run, "run": located(of_run["run"])}
        return found

    return {
        key: selecting(entry) if key == "selectors" else resolved(key, entry)
        for key, entry in entries.items()
    }


def _texts(at: str, value: object) -> Iterator[tuple[str, str]]:
    """Yield the texts of arguments that name files, each with its config key."""
    if isinstance(value, Component):
        yield from _texts(at, value.arguments)
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _texts(f"{at}.{key}", entry)
    elif isinstance(value, list | tuple):
        for index, entry in enumerate(value):
            yield from _texts(f"{at}.{index}", entry)
    elif isinstance(value, str) and not _NAMES.isdisjoint(at.split(".")):
        yield at, value


def _files(text: str) -> tuple[list[Path], Path]:
    """Return the files that a text names, in order, and the directory their names start from."""
    try:
        path = Path(text).expanduser()
        if not text:
            return [], path.parent
        if path.is_file():
            return files_with_companions(path)
        # A model inside an archive: `FILE.task/INNER.tflite`.
        if (archive := next((one for one in path.parents if one.is_file()), None)) is not None:
            return [archive], archive.parent
        if path.is_dir():
            return sorted(p for p in path.rglob("*") if p.is_file()), path
        # A pattern; or the prefix of a checkpoint, which is not itself a file.
        patterns = (str(path), f"{glob.escape(str(path))}.*")
        named = [one for pattern in patterns for one in glob.glob(pattern, recursive=True)]  # noqa: PTH207 - absolute patterns
    except (OSError, ValueError):
        return [], Path()  # too long for a name, or with a zero byte
    files = sorted({p for p in map(Path, named) if p.is_file()})
    # Names start from the nearest common directory, wherever that is.
    return files, Path(os.path.commonpath([p.parent for p in files])) if files else Path()


def _sha256(path: Path, known: Mapping[Path, str] | None) -> str:
    if known is not None and (found := known.get(path.absolute())) is not None:
        return found
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
