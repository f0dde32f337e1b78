"""Features of TFRecord files, or whole records. The one source that TensorFlow reads."""

import shlex
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from extractkit.errors import InputError
from extractkit.inputs.checks import check_limit, describe
from extractkit.inputs.features import Feature, parse_features
from extractkit.inputs.files import PathLike, Stamp, find_files, printable, short_names
from extractkit.inputs.protocol import Identity, Sample, Signature
from extractkit.inputs.records import Chain, RecordSource, bind_records
from extractkit.inputs.strings import bytes_data

# What stands around the data of a record: its length and that length's checksum before it, the
# data's own checksum behind it.
_BEFORE, _AROUND = 12, 16

_GZIP = b"\x1f\x8b\x08"
_READ_AT_ONCE = 16


@dataclass(frozen=True)
class TFRecord:
    """Records of TFRecord files: examples, or bytes for a model that takes a string.

    They stay in their files.

    Attributes:
        path: a file, a glob (sorted) or several of them; not compressed.
        features: by the name of the feature how it becomes one of the model's inputs, see
            `features.Feature`; None: a feature for each input, by the input's name.
        whole: whether a record is given whole, as its bytes, to the model's one string input; None:
            without `features`, where the first record is no example, or the model parses examples
            and the first has no feature of the input's name.
        limit: the first so many records; None: all.

    Raises:
        InputError: `limit` is no whole number of 1 or more, `whole` not true, false or null.
    """

    path: PathLike | Sequence[PathLike] | None
    features: Mapping[str, Mapping[str, object] | None] | None = None
    limit: int | None = None
    whole: bool | None = None

    def __post_init__(self) -> None:
        check_limit(self.limit)
        if not isinstance(self.whole, bool | None):
            raise InputError(f"inputs.whole={self.whole!r} is not true, false or null")
        if self.whole and self.features is not None:
            raise InputError("inputs.whole=true takes no features. Leave inputs.features out")

    def bind(self, signature: Signature) -> RecordSource:
        """Find every record, verify its checksums and hold its features against the model.

        Raises:
            InputError: a file is missing, compressed or damaged, or no record fits the model.
            MissingExtraError: a feature is a picture, and Pillow is not installed.
        """
        if self.path is None:
            raise InputError(
                f"inputs.path is missing. Model {signature.model!r} takes {describe(signature)}. "
                f"Give TFRecord files: inputs.path=FILE.tfrecord"
            )
        if self.whole and signature.string is None:
            raise InputError(
                f"inputs.whole=true gives each record's bytes to one string input, and model "
                f"{signature.model!r} takes {describe(signature)}. Leave it out: inputs.whole=null"
            )
        features = parse_features(self.features, signature)
        paths = find_files(self.path, ".tfrecord")
        files: list[RecordFile] = []
        left = self.limit
        for path, name in zip(paths, short_names(paths), strict=True):
            if left == 0:
                break
            files.append(RecordFile.find(path, name, features, left))
            left = None if left is None else left - len(files[-1])
        at = f"inputs.path={str(paths[0])!r}" if len(paths) == 1 else "inputs.path"
        notes: tuple[str, ...] = ()
        if self._whole(files, signature):
            files = [replace(file, whole=signature) for file in files]
            notes = ("each record is one sample, given whole; its features: inputs.whole=false",)
        return bind_records(Chain(files), signature, at=at, notes=notes)

    def _whole(self, files: Sequence["RecordFile"], signature: Signature) -> bool:
        if self.whole is not None or self.features is not None or signature.string is None:
            return bool(self.whole)
        first = next((file for file in files if len(file)), None)
        found = None if first is None else first.features_of(0)
        if found is None:
            return first is not None
        return signature.string.parsed and signature.string.name not in found


@dataclass(frozen=True, eq=False)
class RecordFile:
    """The records of one file, at 8 bytes a record.

    Attributes:
        path: the file's.
        name: what its samples' ids begin with.
        stamp: the file as it was when its records were found.
        features: how they are read.
        offsets: int64 (records + 1), the byte at which each begins, and the end of the last.
        whole: what the model takes, where it is given the bytes of each record; None: features.
    """

    path: Path
    name: str
    stamp: Stamp
    features: tuple[Feature, ...]
    offsets: "array[int]"
    whole: Signature | None = None

    @classmethod
    def find(
        cls, path: Path, name: str, features: tuple[Feature, ...], limit: int | None
    ) -> "RecordFile":
        """Find the records of a file, the first `limit` of them (None: all).

        Raises:
            InputError: it is compressed, cut short, or a checksum in it is wrong.
        """
        import tensorflow as tf

        at = f"inputs.path={str(path)!r}"
        stamp = Stamp.of(path)
        records = tf.data.TFRecordDataset(str(path)).take(-1 if limit is None else limit)
        offsets = array("q", [0])
        try:
            # One at a time would take longer than reading them.
            for batch in records.batch(_READ_AT_ONCE).as_numpy_iterator():
                for record in batch:
                    offsets.append(offsets[-1] + len(record) + _AROUND)
        except tf.errors.DataLossError as error:
            raise InputError(f"{at} {_why_not(path, str(error))}") from error
        # Less than the head of a record is the end to TensorFlow.
        rest = stamp.size - offsets[-1]
        if rest and len(offsets) - 1 != limit:
            raise InputError(f"{at} {_why_not(path, f'{rest} bytes stand behind the records')}")
        return cls(path, name, stamp, features, offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def record(self, index: int) -> Sample:
        """The record of this number, from 0; the id is FILE:RECORD.

        Raises:
            InputError: it is no `tf.train.Example`, or lacks a feature.
            JobError: the file has changed since it was opened.
        """
        own, data = self.identify(index), self._data(index)
        if self.whole is not None:
            return Sample(index, own.id, own.source, bytes_data(data, self.whole))
        at = f"inputs.path={str(self.path)!r}, record {index}"
        held = _example(data, at).features.feature
        values = {feature.input: feature.values(held, at) for feature in self.features}
        return Sample(index, own.id, own.source, values)

    def features_of(self, index: int) -> list[str] | None:
        """The names of a record's features; None where it is no `tf.train.Example`."""
        try:
            return list(_example(self._data(index), "").features.feature)
        except InputError:
            return None

    def _data(self, index: int) -> bytes:
        self.stamp.check(self.path)
        with self.path.open("rb") as file:
            file.seek(self.offsets[index] + _BEFORE)
            return file.read(self.offsets[index + 1] - self.offsets[index] - _AROUND)

    def identify(self, index: int) -> Identity:
        """Who the sample of this record is."""
        return Identity(f"{self.name}:{index}", printable(Path(self.path.name)))


def _why_not(path: Path, told: str) -> str:
    """Why TensorFlow finds no records in a file."""
    with path.open("rb") as file:
        head = file.read(len(_GZIP))
    if head == _GZIP:
        return (
            f"is compressed, and records are read at random. Decompress it: "
            f"gunzip < {shlex.quote(str(path))} > NEW"
        )
    # TensorFlow goes on about the operation in which it happened.
    told = told.partition(" [Op:")[0].partition("\n")[0].strip()
    return f"is no TFRecord file, cut short or damaged: {told}. Copy or write it again"


def _example(data: bytes, at: str) -> Any:
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    try:
        return tf.train.Example.FromString(data)
    except DecodeError as error:
        raise InputError(f"{at} is no tf.train.Example: {error}") from error
