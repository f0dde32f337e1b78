"""Whole files, a sample each: bytes for a model that takes a string, text for a tokenizer."""

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from extractkit.errors import InputError
from extractkit.inputs.checks import check_limit, describe
from extractkit.inputs.faults import FAULT, Faults
from extractkit.inputs.files import PathLike
from extractkit.inputs.protocol import Sample, Signature
from extractkit.inputs.sample_files import FileSamples, SampleFile, find_sample_files
from extractkit.inputs.strings import bytes_data
from extractkit.values import Array


@dataclass(frozen=True)
class Files:
    """Files as they are: nothing in them is decoded, cut or skipped. An empty one is a sample too.

    They stay on the disk and are read when their sample is.

    Attributes:
        path: a folder, looked through with all below it (hidden files left out); or a file, a glob
            (sorted) or several.
        limit: the first so many files; None: all.

    Raises:
        InputError: `limit` is no whole number of 1 or more.
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
        """The content of a file as the model takes it.

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
