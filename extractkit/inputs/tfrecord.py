"""`tf.train.Example` records from TFRecord files."""

import shlex
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from extractkit.core.keys import DecidesValues
from extractkit.errors import InputError
from extractkit.inputs import Identity, Sample, Scanning, Signature, Visit
from extractkit.inputs.checks import check_limit, describe
from extractkit.inputs.conversion import bytes_data
from extractkit.inputs.example_features import Feature, parse_features, stored_values
from extractkit.inputs.file_access import PathLike, Stamp, find_files, printable, short_names
from extractkit.inputs.labels import check_available, in_row, label_name
from extractkit.inputs.records import Chain, RecordSource, Scan

# The framing of a record: its length and the length's checksum before the data, and the data's
# checksum after it.
_BEFORE, _AROUND = 12, 16

_GZIP = b"\x1f\x8b\x08"
_READ_AT_ONCE = 16


@dataclass(frozen=True)
class TFRecord(Scanning):
    """Records of TFRecord files: examples, or bytes for a model that takes a string.

    The records stay in their files.

    Attributes:
        path: A file, a glob (sorted) or several of them, not compressed. Required.
        features: The name of the feature for each of the model's inputs, or a mapping of `feature`
            (the input's name), `shape` (the input's), `dtype` (what numbers become, or what bytes
            hold) and `encoded: true` (a picture). If None, the inputs' names.
        limit: The number of records to use. If None, all.
        whole: Whether a record is used as bytes, for the model's one string input. If None, only
            where there are no `features` and the first record is not an example, or the model
            parses examples and the first has no feature of the input's name.
        labels: The name of the feature with each example's label, as targets of gradients take it.
            If None, there is none.

    Raises:
        InputError: `limit` is not a whole number of at least 1, `whole` not true, false or null.
    """

    path: DecidesValues[PathLike | Sequence[PathLike] | None]
    features: DecidesValues[Mapping[str, Mapping[str, object] | str | None] | None] = None
    limit: DecidesValues[int | None] = None
    whole: DecidesValues[bool | None] = None
    labels: DecidesValues[str | None] = None

    def __post_init__(self) -> None:
        check_limit(self.limit)
        label_name(self.labels)
        if not isinstance(self.whole, bool | None):
            raise InputError(f"inputs.whole={self.whole!r} is not true, false or null")
        if self.whole and self.features is not None:
            raise InputError("inputs.whole=true takes no features. Leave inputs.features out")

    def scan(self, signature: Signature, visit: Visit | None) -> RecordSource:
        """Read every record once, verify its checksums and check its features against the model.

        Raises:
            InputError: A file is missing, compressed or damaged, or no record fits the model.
            MissingExtraError: A feature is a picture, and Pillow is not installed.
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
        whole = self._whole(paths, signature)
        labels = None if signature.label is None else label_name(self.labels)
        reading = RecordReading(features, signature if whole else None, labels)
        at = f"inputs.path={str(paths[0])!r}" if len(paths) == 1 else "inputs.path"
        scan = Scan(signature, at, visit)
        files: list[RecordFile] = []
        for path, name in zip(paths, short_names(paths), strict=True):
            left = None if self.limit is None else self.limit - len(scan)
            if left == 0:
                break

            def add(number: int, record: bytes, path: Path = path, name: str = name) -> None:
                scan.add(
                    partial(reading.sample, number, record, path, name),
                    partial(_identity, name, path, number),
                )

            files.append(RecordFile(path, name, *_found(path, left, add), reading))
        pixels = [one.pixels for one in features if one.pixels is not None]
        notes = tuple(one.note for one in pixels if one.note is not None)
        if whole:
            notes = ("each record is one sample, given whole; its features: inputs.whole=false",)
        return scan.source(Chain(files), notes)

    def _whole(self, paths: Sequence[Path], signature: Signature) -> bool:
        """Return whether records are used as bytes, by the first one if it is not configured."""
        if self.whole is not None or self.features is not None or signature.string is None:
            return bool(self.whole)
        first: list[bytes] = []
        for path in paths:
            if not first:
                _found(path, 1, lambda number, record: first.append(record))
        if not first:
            return False
        try:
            features = _example(first[0], "").features.feature
        except InputError:
            return True
        return signature.string.parsed and signature.string.name not in features


def _found(
    path: Path, limit: int | None, visit: Callable[[int, bytes], None]
) -> tuple[Stamp, "array[int]"]:
    """Find the records of a file, the first `limit` of them (None: all).

    Args:
        visit: Called for each record with its number and its content.

    Returns:
        The state of the file, and its `RecordFile.offsets`.

    Raises:
        InputError: It is compressed or cut short, or a checksum in it is wrong.
        JobError: It changes while it is read.
    """
    import tensorflow as tf

    at = f"inputs.path={str(path)!r}"
    stamp = Stamp.of(path)
    records = tf.data.TFRecordDataset(str(path)).take(-1 if limit is None else limit)
    offsets = array("q", [0])
    with stamp.unchanged(path):
        try:
            # Verifying one record at a time would take longer than reading them.
            for batch in records.batch(_READ_AT_ONCE).as_numpy_iterator():
                for record in batch:
                    visit(len(offsets) - 1, record)
                    offsets.append(offsets[-1] + len(record) + _AROUND)
        except tf.errors.DataLossError as error:
            raise InputError(f"{at} {_why_unreadable(path, str(error))}") from error
    # TensorFlow ignores trailing bytes that are shorter than a record's header.
    rest = stamp.size - offsets[-1]
    if rest and len(offsets) - 1 != limit:
        raise InputError(f"{at} {_why_unreadable(path, f'{rest} bytes follow the last record')}")
    return stamp, offsets


def _identity(name: str, path: Path, number: int) -> Identity:
    return Identity(f"{name}:{number}", printable(Path(path.name)))


@dataclass(frozen=True, eq=False)
class RecordReading:
    """The conversion of a record to a sample.

    Attributes:
        features: The features to read.
        whole: The signature of a model that takes whole records. If None, features are read.
        labels: The feature of the labels. If None, they are not read.
    """

    features: tuple[Feature, ...]
    whole: Signature | None = None
    labels: str | None = None

    def sample(self, number: int, record: bytes, path: Path, name: str) -> Sample:
        """Return the record of this number as a sample.

        Raises:
            InputError: It is not a `tf.train.Example`, or lacks a feature.
        """
        own = _identity(name, path, number)
        at = f"inputs.path={str(path)!r}, record {number}"
        held: Mapping[str, Any] = {}
        if self.whole is None or self.labels is not None:
            held = _example(record, at).features.feature
        label = None
        if self.labels is not None:
            check_available(self.labels, held, at)
            label = stored_values(held[self.labels])
        extra = in_row(self.labels, label)
        if self.whole is not None:
            data = bytes_data(record, self.whole)
            return Sample(number, own.id, own.source, data, extra, label)
        values = {feature.input: feature.values(held, at) for feature in self.features}
        return Sample(number, own.id, own.source, values, extra, label)


@dataclass(frozen=True, eq=False)
class RecordFile:
    """The records of one file, at 8 bytes of memory per record.

    Attributes:
        path: The file's path.
        name: The prefix of its samples' ids.
        stamp: The state of the file when its records were found.
        offsets: int64 (records + 1), the first byte of each record, and the end of the last.
        reading: The conversion of records.
    """

    path: Path
    name: str
    stamp: Stamp
    offsets: "array[int]"
    reading: RecordReading

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def record(self, index: int) -> Sample:
        """Return the record of this number, from 0; the id is FILE:RECORD.

        Raises:
            InputError: It is not a `tf.train.Example`, or lacks a feature.
            JobError: The file has changed since it was opened.
        """
        with self.stamp.unchanged(self.path), self.path.open("rb") as file:
            file.seek(self.offsets[index] + _BEFORE)
            record = file.read(self.offsets[index + 1] - self.offsets[index] - _AROUND)
        return self.reading.sample(index, record, self.path, self.name)

    def identify(self, index: int) -> Identity:
        """Return the identity of this record's sample."""
        return _identity(self.name, self.path, index)


def _why_unreadable(path: Path, reason: str) -> str:
    """Return why TensorFlow finds no records in a file."""
    with path.open("rb") as file:
        head = file.read(len(_GZIP))
    if head == _GZIP:
        return (
            f"is compressed, and records are read at random. Decompress it: "
            f"gunzip < {shlex.quote(str(path))} > NEW"
        )
    # TensorFlow appends the operation in which it happened.
    reason = reason.partition(" [Op:")[0].partition("\n")[0].strip()
    return (
        f"is not a TFRecord file, or it is cut short or damaged: {reason}. Copy or write it again"
    )


def _example(data: bytes, at: str) -> Any:
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    try:
        return tf.train.Example.FromString(data)
    except DecodeError as error:
        raise InputError(f"{at} is not a tf.train.Example: {error}") from error
