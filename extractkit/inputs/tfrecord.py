"""`tf.train.Example` records from TFRecord files."""

import shlex
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from extractkit.advice import hydra_value, nested_override
from extractkit.core.keys import DecidesValues
from extractkit.core.spec import TEXT
from extractkit.core.values import Array
from extractkit.errors import InputError, choices, counted
from extractkit.inputs import Identity, InputSpec, Sample, Scanning, Signature, Visit
from extractkit.inputs.checks import (
    check_direction,
    check_limit,
    check_names,
    describe,
    keeps_meaning,
)
from extractkit.inputs.conversion import bytes_data
from extractkit.inputs.file_access import PathLike, Stamp, find_files, printable, short_names
from extractkit.inputs.pictures import Pixels
from extractkit.inputs.records import Chain, RecordSource, Scan, shaped

_LISTS = {"float_list": np.float32, "int64_list": np.int64, "bytes_list": object}
_WHOLE = ". Or give the model each record whole: inputs.whole=true"
_SETTINGS = ("feature", "dtype", "shape", "encoded")


@dataclass(frozen=True)
class Feature:
    """One feature of an example, and its input.

    Attributes:
        name: its name.
        input: the name of the model's input.
        spec: the spec of that input.
        dtype: the dtype of numbers stored as little-endian bytes, or the dtype to convert stored
            numbers to. None: as stored.
        shape: the shape of the values; None: the input's.
        pixels: the decoding of a picture stored as the bytes of its file; None: not a picture.
        settings: the settings of the features of all inputs, for messages.
        whole: whether the model also accepts whole records.
    """

    name: str
    input: str
    spec: InputSpec
    dtype: str | None = None
    shape: tuple[int | None, ...] | None = None
    pixels: Pixels | None = None
    settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    whole: bool = False

    def values(self, held: Mapping[str, Any], at: str) -> Array:
        """Return the feature's values in one example.

        Args:
            held: The example's features by name, as protocol buffers.

        Raises:
            InputError: The example lacks the feature, or it has another type.
        """
        kind = held[self.name].WhichOneof("kind") if self.name in held else None
        if kind is None and self.name in held:
            raise InputError(
                f"{at}, feature {self.name!r} is empty: it has no list of values. Fill it in, or "
                f"leave the record out"
            )
        if kind is None:
            raise InputError(
                f"{at} has no feature {self.name!r} for input {self.input!r}. "
                f"{choices(self.name, held)} Name it: {self._advised(feature='NAME')}"
                f"{_WHOLE if self.whole else ''}"
            )
        stored = getattr(held[self.name], kind).value
        at = f"{at}, feature {self.name!r}"
        if self.pixels is not None:
            return self.pixels.decode(_single(stored, kind, at), at).values
        if kind == "bytes_list" and self.spec.dtype != TEXT:
            values = self._raw(_single(stored, kind, at), at)
        else:
            values = np.array(list(stored), _LISTS[kind])
            if self.dtype is None and self._needs_dtype(values):
                raise InputError(
                    f"{at} is {values.dtype}, and input {self.input!r} is {self.spec.dtype}. This "
                    f"is not converted automatically. If you mean it: "
                    f"{self._advised(dtype=self.spec.dtype)}"
                )
            if self.dtype is not None and kind != "bytes_list":
                values = values.astype(self.dtype)
        return shaped(values, self.spec.shape if self.shape is None else self.shape)

    def _needs_dtype(self, values: Array) -> bool:
        numbers = self.spec.dtype != TEXT and self.spec.quantized is None
        return numbers and not keeps_meaning(values.dtype, self.spec)

    def _raw(self, data: bytes, at: str) -> Array:
        if self.dtype is None:
            raise InputError(
                f"{at} holds bytes, and input {self.input!r} is {self.spec.dtype}. Specify what "
                f"they are: {self._advised(dtype='uint8')} (numbers of any type), "
                f"{self._advised(encoded=True)} (a picture)"
            )
        dtype = np.dtype(self.dtype).newbyteorder("<")
        if len(data) % dtype.itemsize:
            raise InputError(
                f"{at} holds {counted(len(data), 'byte')}, which is not a multiple of "
                f"the size of {self.dtype}"
            )
        return np.frombuffer(data, dtype)

    def _advised(self, **more: object) -> str:
        """Return the override of all features, with more settings for this one."""
        own = {**self.settings.get(self.input, {}), **more}
        return _override({**self.settings, self.input: own})


def parse_features(
    given: Mapping[str, Mapping[str, object] | str | None] | None, signature: Signature
) -> tuple[Feature, ...]:
    """Return the features of `inputs.features`, one for each of the model's inputs.

    Raises:
        InputError: A setting does not exist or does not fit, or an input has no feature.
    """
    specs = {spec.name: spec for spec in signature.specs}
    if given is None:
        bare: dict[str, Mapping[str, object]] = {name: {} for name in specs}
        whole = signature.string is not None
        return tuple(
            Feature(name, name, spec, settings=bare, whole=whole) for name, spec in specs.items()
        )
    if not isinstance(given, Mapping):
        raise InputError(
            f"inputs.features={given!r} is not a mapping: inputs.features={{INPUT: FEATURE}}"
        )
    _check_direction(given, signature)
    settings = {str(name): _settings(str(name), entry) for name, entry in given.items()}
    check_names(list(settings), signature, "inputs.features")
    return tuple(
        _feature(name, specs[name], entry, signature, settings) for name, entry in settings.items()
    )


def _check_direction(given: Mapping[str, object], signature: Signature) -> None:
    """Refuse a mapping of features to inputs, the former form with the setting `input`.

    Raises:
        InputError: they are; or the setting names the feature of an input.
    """
    check_direction("inputs.features", "feature", given, signature)
    if not any(isinstance(entry, Mapping) and "input" in entry for entry in given.values()):
        return
    inputs = {spec.name for spec in signature.specs}
    turned: dict[str, dict[str, object]] = {}
    named: dict[str, dict[str, object]] = {}
    for name, entry in given.items():
        settings = dict(_mapping({"feature": entry} if isinstance(entry, str) else entry))
        other = settings.pop("input", None)
        target = str(other or name)
        turned[target] = settings if target == name else {"feature": str(name), **settings}
        named[str(name)] = settings if other in (None, name) else {"feature": other, **settings}
    if inputs.issuperset(turned) and len(turned) == len(given):
        raise InputError(
            f"inputs.features maps inputs to features, and not features to inputs. Write: "
            f"{_override(turned)}"
        )
    if inputs.issuperset(named):
        raise InputError(
            f"inputs.features names the feature of an input by 'feature', not by 'input'. Write: "
            f"{_override(named)}"
        )


def _mapping(entry: object) -> Mapping[str, object]:
    return entry if isinstance(entry, Mapping) else {}


def _override(settings: Mapping[str, Mapping[str, object]]) -> str:
    """Return the override of all features. A feature without other settings is only its name."""
    written = {
        name: hydra_value(entry["feature"] if [*entry] == ["feature"] else entry)
        for name, entry in settings.items()
    }
    return nested_override("inputs.features", written)


def _settings(name: str, entry: object) -> Mapping[str, object]:
    if isinstance(entry, str):
        return {"feature": entry}
    if not isinstance(entry, Mapping | None):
        raise InputError(
            f"inputs.features.{name}={entry!r} is neither the name of a feature nor a mapping. A "
            f"mapping may hold {', '.join(_SETTINGS)}"
        )
    for key in entry or {}:
        if key not in _SETTINGS:
            raise InputError(
                f"inputs.features.{name}.{key} does not exist. {choices(str(key), _SETTINGS)}"
            )
    return {str(key): value for key, value in (entry or {}).items() if value is not None}


def _feature(
    name: str,
    spec: InputSpec,
    entry: Mapping[str, object],
    signature: Signature,
    settings: Mapping[str, Mapping[str, object]],
) -> Feature:
    key = f"inputs.features.{name}"
    encoded, dtype, shape = entry.get("encoded", False), entry.get("dtype"), entry.get("shape")
    if not isinstance(encoded, bool):
        raise InputError(f"{key}.encoded={encoded!r} is not true or false")
    if encoded and (dtype is not None or shape is not None):
        raise InputError(f"{key}.encoded=true: a picture has its own shape and dtype. Remove them")
    return Feature(
        str(entry.get("feature", name)),
        name,
        spec,
        None if dtype is None else _dtype(key, dtype),
        None if shape is None else _shape(key, shape),
        Pixels.of(spec, signature, scalable=False) if encoded else None,
        settings,
    )


def _dtype(key: str, given: object) -> str:
    try:
        dtype = np.dtype(str(given))
    except TypeError as error:
        raise InputError(
            f"{key}.dtype={given!r} is not a type of numbers, such as uint8"
        ) from error
    if dtype.kind not in "fiub":
        raise InputError(f"{key}.dtype={given!r} is not a type of numbers, such as uint8")
    return dtype.name


def _shape(key: str, given: object) -> tuple[int | None, ...]:
    sizes = tuple(given) if isinstance(given, list | tuple) else None
    whole = all(n is None or (type(n) is int and n >= 0) for n in sizes or ())
    if sizes is None or not whole or sizes.count(None) > 1:
        raise InputError(
            f"{key}.shape={given!r} is not a list of lengths, as in [28,28] or [null,8]"
        )
    return sizes


def _single(stored: Any, kind: str, at: str) -> bytes:
    if kind != "bytes_list" or len(stored) != 1:
        raise InputError(
            f"{at} holds {counted(len(stored), 'value')} ({kind}), not the bytes of one array"
        )
    return bytes(stored[0])


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

    Raises:
        InputError: `limit` is not a whole number of at least 1, `whole` not true, false or null.
    """

    path: DecidesValues[PathLike | Sequence[PathLike] | None]
    features: DecidesValues[Mapping[str, Mapping[str, object] | str | None] | None] = None
    limit: DecidesValues[int | None] = None
    whole: DecidesValues[bool | None] = None

    def __post_init__(self) -> None:
        check_limit(self.limit)
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
        reading = RecordReading(features, signature if whole else None)
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
    """

    features: tuple[Feature, ...]
    whole: Signature | None = None

    def sample(self, number: int, record: bytes, path: Path, name: str) -> Sample:
        """Return the record of this number as a sample.

        Raises:
            InputError: It is not a `tf.train.Example`, or lacks a feature.
        """
        own = _identity(name, path, number)
        if self.whole is not None:
            return Sample(number, own.id, own.source, bytes_data(record, self.whole))
        at = f"inputs.path={str(path)!r}, record {number}"
        held = _example(record, at).features.feature
        values = {feature.input: feature.values(held, at) for feature in self.features}
        return Sample(number, own.id, own.source, values)


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
