"""Samples that are whole files."""

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from extractkit.core.keys import DecidesValues
from extractkit.core.picks import LABELS
from extractkit.core.values import Array
from extractkit.errors import InputError
from extractkit.inputs import Identity, Sample, Scanning, Signature, Unreadable, Visit
from extractkit.inputs.checks import FAULT, Faults, check_limit, check_range, describe
from extractkit.inputs.conversion import bytes_data
from extractkit.inputs.file_access import (
    PathLike,
    Stamp,
    find_files,
    find_inside,
    printable,
    short_names,
)
from extractkit.inputs.labels import label_of


@dataclass(frozen=True)
class SampleFile:
    """The file of a sample.

    Attributes:
        path: The file's path.
        id: The sample's id.
        stamp: The state of the file when it was found.
        label: The name of its class, or None.
        number: The number of its class among the sorted names of all classes, or None.
    """

    path: Path
    id: str
    stamp: Stamp
    label: str | None = None
    number: int | None = None

    @classmethod
    def below(cls, folder: Path, path: Path) -> "SampleFile":
        """Return a file in a folder, labelled by the first part of its path, the class's folder."""
        label = printable(Path(path.parts[0])) if len(path.parts) > 1 else None
        return cls(folder / path, printable(path), Stamp.of(folder / path), label)

    @property
    def at(self) -> str:
        """Its name in messages."""
        return f"inputs.path={str(self.path)!r}"

    @property
    def identity(self) -> Identity:
        """The identity of its sample."""
        extra: dict[str, object] = {"file": printable(self.path)}
        if self.label is not None:
            extra["label"] = self.label
        return Identity(self.id, printable(Path(self.path.name)), extra)

    def read(self) -> bytes:
        """Return the whole file.

        Raises:
            InputError: It cannot be read.
            JobError: It has changed since it was found.
        """
        with self.stamp.unchanged(self.path):
            try:
                return self.path.read_bytes()
            except OSError as error:
                raise InputError(f"{self.at} cannot be read: {error.strerror}") from error


class FileSamples:
    """A source whose samples are files. Subclasses define how the content of one is read.

    Attributes:
        files: The files, in order.
        digests: The SHA-256 of each file that was read, 32 bytes.
        signature: The model's inputs.
    """

    files: tuple[SampleFile, ...]
    digests: tuple[bytes, ...]
    signature: Signature

    def label(self, file: SampleFile) -> Array | None:
        """Return the number of a file's class as its label, or None if no label is needed.

        Raises:
            InputError: It has no class, or its number is not of the form that a target takes.
        """
        spec = self.signature.label
        return None if spec is None else label_of(file.number, spec, file.at)

    def sample(self, index: int, content: bytes) -> Sample:
        """Return the sample of this number, given the content of its file."""
        raise NotImplementedError

    @property
    def file_digests(self) -> Mapping[Path, str]:
        """See `HashesFiles`."""
        pairs = zip(self.files, self.digests, strict=True)
        return {file.path.absolute(): digest.hex() for file, digest in pairs if digest}

    def __len__(self) -> int:
        return len(self.files)

    def read(self, start: int, stop: int) -> list[Sample]:
        """Return the samples start … stop-1. Their ids are the paths below the given folder.

        Raises:
            InputError: A file cannot be read as a sample.
            JobError: A file has changed since it was bound.
            IndexError: There are no such samples.
        """
        check_range(start, stop, len(self))
        return [self.sample(index, self.files[index].read()) for index in range(start, stop)]

    def identify(self, index: int) -> Identity:
        """Return the identity of the sample of this number."""
        return self.files[index].identity


def find_sample_files(
    given: PathLike | Sequence[PathLike], suffixes: Sequence[str], limit: int | None
) -> tuple[tuple[SampleFile, ...], int]:
    """Return the files of a folder and its subfolders, or of names and globs, up to `limit`.

    Args:
        suffixes: The endings to look for in a folder. The first is used for suggestions. If empty,
            all files.

    Returns:
        The files, and the number of other files in the folder.

    Raises:
        InputError: There is none, or one may not be read.
    """
    if isinstance(given, str | Path) and (folder := Path(given).expanduser()).is_dir():
        found, others = find_inside(folder, suffixes, f"inputs.path={str(given)!r}")
        files = [SampleFile.below(folder, path) for path in found[:limit]]
        # The limit does not change the classes.
        named = sorted({printable(Path(path.parts[0])) for path in found if len(path.parts) > 1})
        numbers = {name: number for number, name in enumerate(named)}
        return tuple(
            file if file.label is None else replace(file, number=numbers[file.label])
            for file in files
        ), others
    paths = find_files(given, suffixes[0] if suffixes else "")
    pairs = list(zip(paths, short_names(paths), strict=True))[:limit]
    return tuple(SampleFile(path, name, Stamp.of(path)) for path, name in pairs), 0


FOLDER = "folder"
"""The value of `inputs.labels` for the classes of files in folders."""


def check_folder(labels: object) -> None:
    """Check `inputs.labels` for files.

    Raises:
        InputError: It is neither null nor "folder".
    """
    if labels is not None and labels != FOLDER:
        raise InputError(
            f"{LABELS}={labels!r}: the label of a file is the number of its class, which its "
            f"folder is named after: {LABELS}={FOLDER}"
        )


@dataclass(frozen=True)
class Files(Scanning):
    """Whole files, without decoding or truncation. An empty file is a sample, too.

    Files are read when their sample is read.

    Attributes:
        path: A folder, searched recursively without hidden files (its subfolders become labels), or
            a file, a glob (sorted) or several. Required.
        limit: The number of files to use. If None, all.
        labels: folder, if a file's label, as targets of gradients take it, is the number of its
            subfolder of `path` among the sorted names of all with files. If None, there is none.

    Raises:
        InputError: `limit` is not a whole number of at least 1, or `labels` not "folder".
    """

    path: DecidesValues[PathLike | Sequence[PathLike] | None]
    limit: DecidesValues[int | None] = None
    labels: DecidesValues[str | None] = None

    def __post_init__(self) -> None:
        check_limit(self.limit)
        check_folder(self.labels)

    def scan(self, signature: Signature, visit: Visit | None) -> "FileSource":
        """Find the files, and read each once.

        Raises:
            InputError: The model takes no string, there is no file, or none can be read.
        """
        if signature.string is None and not signature.takes_text:
            raise InputError(
                f"inputs=files gives the bytes of a file, and model {signature.model!r} takes "
                f"{describe(signature)}. Decoded pictures: inputs=images; numbers: inputs=arrays"
            )
        if self.path is None:
            raise InputError("inputs.path is missing. Give a folder of files: inputs.path=DIR")
        files, _ = find_sample_files(self.path, (), self.limit)
        source = FileSource(files, signature, "", ())
        digest, faults = hashlib.sha256(), Faults()
        digests: list[bytes] = []
        for index, file in enumerate(files):
            digest.update(f"{file.id}\0{file.label}\0".encode())
            if signature.label is not None:
                digest.update(f"{file.number}\0".encode())
            digests.append(b"")
            try:
                content = file.read()
                digests[index] = hashlib.sha256(content).digest()
                sample = source.sample(index, content)
            except InputError as error:
                faults.add(error)
                digest.update(FAULT)
                if visit is not None:
                    visit(Unreadable(index, file.identity, error))
                continue
            digest.update(digests[index])
            if visit is not None:
                visit(sample)
        faults.check(len(files))
        return FileSource(files, signature, digest.hexdigest(), tuple(digests))


@dataclass(frozen=True, eq=False)
class FileSource(FileSamples):
    """Files, read whole.

    Attributes:
        files: The files, in order.
        signature: The model's inputs.
        digest: The SHA-256 over the files' names, labels and contents.
        digests: The SHA-256 of each file, 32 bytes; empty for one that cannot be read.
        notes: Always empty.
    """

    files: tuple[SampleFile, ...]
    signature: Signature
    digest: str
    digests: tuple[bytes, ...]
    notes: tuple[str, ...] = ()

    def data(self, file: SampleFile, content: bytes) -> str | Mapping[str, Array]:
        """Return the content of a file as a sample's data.

        Raises:
            InputError: It is not a text, and the model has a tokenizer.
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

    def sample(self, index: int, content: bytes) -> Sample:
        """Return the content of the file of this number as a sample."""
        file = self.files[index]
        own = file.identity
        extra = {**own.extra, "bytes": len(content)}
        data, label = self.data(file, content), self.label(file)
        return Sample(index, own.id, own.source, data, extra, label)
