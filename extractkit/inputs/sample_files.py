"""Files that are a sample each: found by name or in a folder, read whole."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from extractkit.errors import InputError
from extractkit.inputs.checks import check_range
from extractkit.inputs.files import (
    PathLike,
    Stamp,
    find_files,
    find_inside,
    printable,
    short_names,
)
from extractkit.inputs.protocol import Identity, Sample


@dataclass(frozen=True)
class SampleFile:
    """The file of a sample.

    Attributes:
        path: of the file.
        id: of its sample.
        stamp: the file as it was when it was found.
        label: what its class is called; None where nothing tells.
    """

    path: Path
    id: str
    stamp: Stamp
    label: str | None = None

    @classmethod
    def below(cls, folder: Path, path: Path) -> "SampleFile":
        """A file of a folder, with the first part of its path, a class's folder, as its label."""
        label = printable(Path(path.parts[0])) if len(path.parts) > 1 else None
        return cls(folder / path, printable(path), Stamp.of(folder / path), label)

    @property
    def at(self) -> str:
        """How messages name it."""
        return f"inputs.path={str(self.path)!r}"

    @property
    def identity(self) -> Identity:
        """Who its sample is."""
        extra: dict[str, object] = {"file": printable(self.path)}
        if self.label is not None:
            extra["label"] = self.label
        return Identity(self.id, printable(Path(self.path.name)), extra)

    def read(self) -> bytes:
        """The whole file.

        Raises:
            InputError: it cannot be read.
            JobError: it has changed since it was found.
        """
        self.stamp.check(self.path)
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise InputError(f"{self.at} cannot be read: {error.strerror}") from error


class FileSamples:
    """A source whose samples are files; a subclass says what is read from one."""

    files: tuple[SampleFile, ...]

    def sample(self, index: int) -> Sample:
        """Return the sample of this number."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.files)

    def read(self, start: int, stop: int) -> list[Sample]:
        """Return samples start … stop-1; their ids are the paths below the folder that was given.

        Raises:
            InputError: A file cannot be read as a sample.
            JobError: A file has changed since it was bound.
            IndexError: There are no such samples.
        """
        check_range(start, stop, len(self))
        return [self.sample(index) for index in range(start, stop)]

    def identify(self, index: int) -> Identity:
        """Who the sample of this number is."""
        return self.files[index].identity


def find_sample_files(
    given: PathLike | Sequence[PathLike], suffixes: Sequence[str], limit: int | None
) -> tuple[tuple[SampleFile, ...], int]:
    """The files of a folder and all below it, or of names and globs; the first `limit`.

    Args:
        suffixes: endings of those that are looked for in a folder, the first one for suggestions;
            none: all files.

    Returns:
        The files, and how many others the folder holds.

    Raises:
        InputError: there is none, or one may not be read.
    """
    if isinstance(given, str | Path) and (folder := Path(given).expanduser()).is_dir():
        found, others = find_inside(folder, suffixes, f"inputs.path={str(given)!r}")
        return tuple(SampleFile.below(folder, path) for path in found[:limit]), others
    paths = find_files(given, suffixes[0] if suffixes else "")
    pairs = list(zip(paths, short_names(paths), strict=True))[:limit]
    return tuple(SampleFile(path, name, Stamp.of(path)) for path, name in pairs), 0
