"""Files that are a sample each, read whole."""

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from extractkit.core.values import Array
from extractkit.errors import InputError
from extractkit.inputs.checks import FAULT, Faults, check_limit, check_range, describe
from extractkit.inputs.conversion import bytes_data
from extractkit.inputs.files import PathLike, Stamp, find_files, find_inside, printable, short_names
from extractkit.inputs.protocol import Identity, Sample, Signature


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
        """Return the whole file.

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
    """Return the files of a folder and all below it, or of names and globs; the first `limit`.

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


@dataclass(frozen=True)
class Files:
    """Files as they are: nothing in them is decoded, cut or skipped. An empty one is a sample too.

    They stay on the disk and are read when their sample is.

    Attributes:
        path: a folder, looked through with all below it (hidden files left out); or a file, a glob
            (sorted) or several.
        limit: the first so many files; None: all.

    Raises:
        InputError: `limit` is not a whole number of at least 1.
    """

    path: PathLike | Sequence[PathLike] | None
    limit: int | None = None

    def __post_init__(self) -> None:
        check_limit(self.limit)

    def bind(self, signature: Signature) -> "FileSource":
        """Find the files, and read every one once.

        Raises:
            InputError: the model takes no string, there is no file, or none can be read.
        """
        if signature.string is None and not signature.takes_text:
            raise InputError(
                f"inputs=files gives the bytes of a file, and model {signature.model!r} takes "
                f"{describe(signature)}. Decoded pictures: inputs=images; numbers: inputs=arrays"
            )
        if self.path is None:
            raise InputError("inputs.path is missing. Give a folder of files: inputs.path=DIR")
        files, _ = find_sample_files(self.path, (), self.limit)
        source = FileSource(files, signature, "")
        digest, faults = hashlib.sha256(), Faults()
        for file in files:
            digest.update(f"{file.id}\0{file.label}\0".encode())
            try:
                content = file.read()
                source.data(file, content)
            except InputError as error:
                faults.add(error)
                digest.update(FAULT)
                continue
            digest.update(hashlib.sha256(content).digest())
        faults.check(len(files))
        return FileSource(files, signature, digest.hexdigest())


@dataclass(frozen=True, eq=False)
class FileSource(FileSamples):
    """Files, read whole.

    Attributes:
        files: in order.
        signature: what the model takes.
        fingerprint: SHA-256 over the files' names, labels and contents.
        notes: none.
    """

    files: tuple[SampleFile, ...]
    signature: Signature
    fingerprint: str
    notes: tuple[str, ...] = ()

    def data(self, file: SampleFile, content: bytes) -> str | Mapping[str, Array]:
        """Return the content of a file as the model takes it.

        Raises:
            InputError: it is no text, and the model has a tokenizer.
        """
        if self.signature.string is not None:
            return bytes_data(content, self.signature)
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            path = shlex.quote(str(file.path))
            raise InputError(
                f"{file.at} is not UTF-8, and model {self.signature.model!r} has a tokenizer: "
                f"{error}. Convert it: iconv -f ENCODING -t UTF-8 {path} > NEW"
            ) from error

    def sample(self, index: int) -> Sample:
        """Return the file of this number, whole."""
        file = self.files[index]
        own, content = file.identity, file.read()
        extra = {**own.extra, "bytes": len(content)}
        return Sample(index, own.id, own.source, self.data(file, content), extra)
