"""TensorFlow Lite files on disk, alone or in archives such as `.task` bundles; LiteRT runs them."""

import io
import mmap
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from extractkit.advice import override
from extractkit.errors import ModelError, choices
from extractkit.models.failures import error_summary, why_not_unpacked

_ENDINGS = (".tflite", ".lite")
_ARCHIVE = b"PK"
_DEEPEST = 3  # archives inside archives
# The limit of a FlatBuffer.
_LARGEST = 2**31 - 1
# Weights hardly compress. Data that compresses better than this is meant to fill memory.
_HIGHEST_RATIO, _RATIO_FROM = 100, 50_000_000

_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, ValueError)


def is_archive(path: Path) -> bool:
    """Return whether a file is an archive by its first bytes."""
    with path.open("rb") as file:
        return file.read(2) == _ARCHIVE


def holds_models(path: Path, at: str) -> bool:
    """Return whether there is a model in an archive.

    Raises:
        ModelError: The archive is damaged.
    """
    return any(True for _ in _models(_opened(path.read_bytes(), at), at))


def member_of(path: Path, inside: str | None, at: str) -> str:
    """Return the path of a model inside an archive.

    Args:
        path: The archive.
        inside: The path that the user gave inside it, or None.
        at: The name for messages.

    Raises:
        ModelError: There is no such model, or several and none is named, or the archive is damaged.
    """
    names = sorted(_models(_opened(path.read_bytes(), at), at))
    if not names:
        raise ModelError(f"{at} is an archive without a model of TensorFlow Lite in it")
    if inside is None and len(names) == 1:
        return names[0]
    if inside in names:
        return inside
    if inside is None:
        raise ModelError(
            f"{at} is an archive of {len(names)} models. {choices('', names)} "
            f"Choose one: {override('model.path', path / names[0])}"
        )
    raise ModelError(
        f"{at}: there is no model {inside!r} in {path.name!r}. {choices(inside, names)}"
    )


def unpacked(path: Path, member: str, at: str) -> bytes:
    """Read one model of an archive into memory.

    Raises:
        ModelError: It does not exist, is damaged or encrypted, or is far larger than its packed
            size.
    """
    content, rest = path.read_bytes(), member
    while True:
        archive = _opened(content, at)
        entry = next((name for name in _nearest(rest) if name in archive.NameToInfo), None)
        if entry is None:
            raise ModelError(f"{at}: there is no {rest!r} in the archive")
        content = _read(archive, archive.getinfo(entry), at)
        if entry == rest:
            return content
        rest = rest[len(entry) + 1 :]


def _nearest(member: str) -> Iterator[str]:
    """Yield the path itself, then its parents, longest first."""
    while member:
        yield member
        member = member.rpartition("/")[0]


def _models(archive: zipfile.ZipFile, at: str, depth: int = 1) -> Iterator[str]:
    """Yield the paths of the models in an archive, and in archives inside it."""
    for entry in archive.infolist():
        if entry.is_dir():
            continue
        if entry.filename.endswith(_ENDINGS):
            yield entry.filename
        elif depth < _DEEPEST and _begins_as_archive(archive, entry, at):
            inner = _opened(_read(archive, entry, at), at)
            yield from (f"{entry.filename}/{name}" for name in _models(inner, at, depth + 1))


def _begins_as_archive(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, at: str) -> bool:
    if entry.flag_bits & 1:
        return False
    try:
        with archive.open(entry) as file:
            return file.read(2) == _ARCHIVE
    except _BROKEN as error:
        raise _broken(f"{at}: {entry.filename!r} in it", "damaged", error) from error


def _opened(content: bytes, at: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(io.BytesIO(content))
    except _BROKEN as error:
        raise _broken(at, "a damaged archive", error) from error


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, at: str) -> bytes:
    name = f"{at}: {entry.filename!r} in it"
    if entry.flag_bits & 1:
        raise ModelError(f"{name} is encrypted. Unpack it with its password, and give the file")
    packed = entry.compress_size
    if entry.file_size > max(_RATIO_FROM, _HIGHEST_RATIO * packed) or entry.file_size > _LARGEST:
        raise ModelError(
            f"{name} would take {entry.file_size:,} bytes, packed {packed:,}: far more than models "
            f"do. If you trust it, unpack it and give the file"
        )
    try:
        with archive.open(entry) as file:
            return file.read()
    except _BROKEN as error:
        raise _broken(name, "damaged", error) from error


def _broken(name: str, what: str, error: Exception) -> ModelError:
    return ModelError(f"{name} {why_not_unpacked(error) or f'is {what}: {error_summary(error)}'}")


Content = mmap.mmap | bytes
"""The bytes of a file; readers index and slice them."""


@dataclass(frozen=True)
class TFLiteFile:
    """One TensorFlow Lite model on disk.

    Attributes:
        path: The file, or the archive that it is in.
        member: Its path inside the archive; None if it is not in one.
    """

    path: Path
    member: str | None = None

    @property
    def at(self) -> str:
        """The file as messages name it."""
        where = self.path if self.member is None else self.path / self.member
        return f"model.path={str(where)!r}"

    def to_json(self) -> dict[str, str | None]:
        """Return the fields as plain data, for a child process."""
        return {"path": str(self.path), "member": self.member}

    @contextmanager
    def opened(self) -> Iterator[Content]:
        """Map the content into memory. Values read from it must be copied before it closes."""
        if self.member is not None:
            yield self._unpacked
            return
        with (
            self.path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            yield content

    def read(self) -> bytes:
        """Return the whole content."""
        return self.path.read_bytes() if self.member is None else self._unpacked

    def model(self) -> Path | bytes:
        """Return the argument for LiteRT: a path, which it maps into memory, or the content."""
        return self.path if self.member is None else self._unpacked

    @cached_property
    def _unpacked(self) -> bytes:
        """Return the content of a member, without writing it to disk."""
        assert self.member is not None
        return unpacked(self.path, self.member, self.at)
