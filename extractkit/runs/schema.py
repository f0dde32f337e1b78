"""Frozen dataclasses as JSON and back, versioned and checksummed.

Reading refuses a field that is unknown, missing or of another type, and names it: a record that
this version does not fully understand must not be used in part.
"""

import hashlib
import json
import math
import types
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, is_dataclass
from enum import Enum
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from extractkit.core.digests import Algorithm, Digest
from extractkit.core.spec import PER_SAMPLE, SAMPLE, TensorSpec
from extractkit.errors import RunDirectoryError, choices
from extractkit.runs.files import content_of
from extractkit.runs.upgrades import Upgrade, check_version, upgraded
from extractkit.store.local import write_durably

T = TypeVar("T")


def plain(value: object) -> Any:
    """Convert a value to the types of JSON.

    JSON cannot express NaN and infinities. They become the texts "nan", "inf" and "-inf".

    Raises:
        TypeError: the value has no such form.
    """
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, PurePath):
        return str(value)
    if is_dataclass(value):
        return _plain_fields(value)
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    raise TypeError(f"{value!r} cannot be recorded as JSON")


def _plain_fields(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in fields(value):
        own = getattr(value, item.name)
        if isinstance(own, TensorSpec):  # its fields are those of the record that holds it
            found |= own.to_json()
            if item.metadata == PER_SAMPLE:
                found["shape"] = list(own.sample_shape)
        else:
            found[item.name] = plain(own)
    return found


def canonical(value: object) -> str:
    """Serialise a value as one line of JSON, equal for equal values."""
    return canonical_json(plain(value))


def canonical_json(data: object) -> str:
    """Serialise plain data as `canonical` does.

    Raises:
        ValueError: the data holds NaN or an infinity.
    """
    return json.dumps(
        data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def digest(value: object) -> str:
    """Return the SHA-256 of the canonical line, in hexadecimal."""
    return _digest(canonical(value))


def _digest(line: str) -> str:
    return hashlib.sha256(line.encode(errors="surrogatepass")).hexdigest()


def document(value: object) -> bytes:
    """Serialise a value as JSON for people: indented, fields in order, with a final newline."""
    return _document(plain(value))


def _document(data: object) -> bytes:
    text = json.dumps(data, indent=1, ensure_ascii=False)
    # File names need not be UTF-8. Python represents such names with surrogates.
    return f"{text}\n".encode(errors="surrogatepass")


def decode(expected: type[T], data: object, at: str) -> T:
    """Build an instance of a dataclass from parsed JSON. `at` names the data in messages.

    Raises:
        RunDirectoryError: a field is unknown, missing or of another type.
    """
    result: T = _decode(expected, data, at)
    return result


def parse(expected: type[T], content: bytes, at: str) -> T:
    """Build an instance of a dataclass from a JSON file. `at` names the file in messages.

    Raises:
        RunDirectoryError: the content is not JSON, or a field is refused by `decode`.
    """
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RunDirectoryError(f"{at} is damaged: {error}") from error
    return decode(expected, data, at)


def _decode(expected: Any, data: Any, at: str) -> Any:
    origin = get_origin(expected)
    if expected is object:
        return data
    if origin in (Union, types.UnionType):
        options = get_args(expected)
        if data is None and type(None) in options:
            return None
        # With `int | float`, a whole number stays an integer.
        others = [option for option in options if option is not type(None)]
        if type(data) in others:
            return data
        return _decode(others[-1], data, at)
    if is_dataclass(expected):
        return _decode_fields(expected, _checked(dict, data, at), at)
    if origin is tuple:
        return _decode_tuple(get_args(expected), _checked(list, data, at), at)
    if origin is Mapping:
        entry = get_args(expected)[1]
        return {k: _decode(entry, v, f"{at}.{k}") for k, v in _checked(dict, data, at).items()}
    if issubclass(expected, Enum):
        if data not in [member.value for member in expected]:
            listed = choices(str(data), [str(member.value) for member in expected])
            raise RunDirectoryError(f"{at} is {data!r}. {listed}")
        return expected(data)
    if expected is float and type(data) is int:
        return float(data)
    if expected is Digest:
        return _decode_digest(_checked(str, data, at), at)
    return _checked(expected, data, at)


def _decode_digest(text: str, at: str) -> Digest:
    if (found := Digest.parse(text)) is not None:
        return found
    algorithm, colon, _ = text.partition(":")
    if colon and algorithm not in list(Algorithm):
        raise RunDirectoryError(
            f"{at} is {text!r}, a digest by an unknown algorithm, {algorithm!r}. "
            f"{choices(algorithm, map(str, Algorithm))}"
        )
    raise RunDirectoryError(
        f"{at} is {text!r}, which is not a digest: the name of its algorithm, a colon and 64 "
        f"hexadecimal digits"
    )


def _decode_fields(expected: Any, data: dict[str, Any], at: str) -> Any:
    hints = _hints(expected)
    if (item := _field_of_spec(expected)) is not None:
        data = _with_spec(item, data, at)
    for key in data:
        if key not in hints:
            raise RunDirectoryError(
                f"{at} holds {key!r}, which does not exist. {choices(key, hints)}"
            )
    for key in hints:
        if key not in data:
            raise RunDirectoryError(f"{at} lacks {key!r}")
    # Most fields have a plain type and are correct, so their address is not built.
    return expected(
        **{
            key: value if type(value := data[key]) is hint else _decode(hint, value, f"{at}.{key}")
            for key, hint in hints.items()
        }
    )


def _with_spec(item: Field[Any], data: dict[str, Any], at: str) -> dict[str, Any]:
    """Return the fields of a record with those of a spec combined; unchanged if it lacks any."""
    if not _OF_SPECS.issubset(data):
        raise RunDirectoryError(f"{at} lacks {min(_OF_SPECS.difference(data))!r}")
    rest = {key: value for key, value in data.items() if key not in _OF_SPECS}
    dtype: str = _decode(str, data["dtype"], f"{at}.dtype")
    dims = _decode(tuple[str | None, ...] | None, data["dims"], f"{at}.dims")
    shape = _decode(tuple[int | None, ...] | None, data["shape"], f"{at}.shape")
    if item.metadata == PER_SAMPLE and dims and dims[0] == SAMPLE and shape is not None:
        shape = (None, *shape)
    if dims is not None and (shape is None or len(dims) != len(shape)):
        raise RunDirectoryError(f"{at}.dims has {len(dims)} axes, other than {at}.shape")
    return {**rest, item.name: TensorSpec.of(dtype, dims, shape)}


_OF_SPECS = frozenset({"dtype", "dims", "shape"})


def _decode_tuple(entries: tuple[Any, ...], data: list[Any], at: str) -> tuple[Any, ...]:
    if entries[-1] is Ellipsis:
        if (wanted := _plain_entries(entries[0])) and all(
            type(item) is list and tuple(map(type, item)) == wanted for item in data
        ):
            return tuple(map(tuple, data))  # the ranges of many shards, all correct
        entries = (entries[0],) * len(data)
    if len(entries) != len(data):
        raise RunDirectoryError(f"{at} has {len(data)} entries in place of {len(entries)}")
    pairs = enumerate(zip(entries, data, strict=True))
    return tuple(_decode(entry, item, f"{at}[{index}]") for index, (entry, item) in pairs)


@lru_cache
def _plain_entries(expected: Any) -> tuple[Any, ...]:
    """Return the types in a tuple type of fixed length if JSON has all of them; else nothing."""
    entries = get_args(expected) if get_origin(expected) is tuple else ()
    return entries if all(entry in (int, str, bool) for entry in entries) else ()


def _checked(expected: Any, data: Any, at: str) -> Any:
    if type(data) is not expected:  # a bool is not an int here
        names = {dict: "an object", list: "a list", str: "a text"}
        wanted = names.get(expected, f"of type {expected.__name__}")
        raise RunDirectoryError(f"{at} is {data!r}, which is not {wanted}")
    return data


@lru_cache
def _field_of_spec(expected: Any) -> Field[Any] | None:
    return next((one for one in fields(expected) if _hints(expected)[one.name] is TensorSpec), None)


@lru_cache
def _hints(expected: Any) -> dict[str, Any]:
    return {item.name: get_type_hints(expected)[item.name] for item in fields(expected)}


_CHECKSUM = "checksum"


@dataclass(frozen=True)
class ChecksummedRecord(Generic[T]):
    """The file format of one kind of record: how it is written and read.

    Attributes:
        kind: the frozen dataclass. It has a field `schema`, the version of its fields.
        noun: its name in messages ("manifest").
        schema: the version that is written.
        again: the advice if the file is lost ("run the job again").
        upgrades: the function that raises each older version to the next.
        checksum_since: the first version whose files have a checksum.
    """

    kind: type[T]
    noun: str
    schema: int
    again: str
    upgrades: Mapping[int, Upgrade] = field(default_factory=dict)
    checksum_since: int = 1

    def write(self, path: Path, record: T) -> None:
        """Write, or replace, the file.

        Raises:
            JobError: it could not be written.
        """
        write_durably(path, with_checksum(plain(record)))

    def read(self, path: Path) -> T:
        """Read the record in a file.

        Raises:
            FileNotFoundError: there is no such file.
            RunDirectoryError: the file is damaged, or a newer extractkit wrote it.
        """
        try:
            content = content_of(path)
            data = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise self._damaged(path, error) from error
        # The version decides what the other fields mean, so it is checked before any of them.
        version = data.get("schema") if isinstance(data, dict) else None
        if type(version) is not int or version < 1:
            raise RunDirectoryError(f"{path} is not a {self.noun}: it has no schema version")
        check_version(str(path), self.noun, version, self.schema)
        # The checksum covers the fields as written, so it is checked before any upgrade.
        self._check_content(path, version, data, content)
        try:
            data = upgraded(data, version, self.upgrades)
        except RunDirectoryError as error:
            raise self._damaged(path, error) from error
        return decode(self.kind, {**data, "schema": self.schema}, str(path))

    def _check_content(
        self, path: Path, version: int, data: dict[str, object], content: bytes
    ) -> None:
        """Take the checksum out of the fields, and check that the file is as written.

        Raises:
            RunDirectoryError: the file is damaged.
        """
        has_checksum = version >= self.checksum_since
        if has_checksum:
            data.pop(_CHECKSUM, None)
        try:
            whole = content == (with_checksum(data) if has_checksum else document(data))
        except (RecursionError, ValueError):  # nested too deeply, or it holds NaN
            whole = False
        if not whole:
            checked = (
                "its checksum does not match" if has_checksum else "it is not as it was written"
            )
            raise self._damaged(path, checked)

    def _damaged(self, path: Path, reason: object) -> RunDirectoryError:
        return RunDirectoryError(f"{path} is damaged: {reason}. Restore it, or {self.again}")


def with_checksum(data: Mapping[str, object]) -> bytes:
    """Serialise fields as a file whose last field is a checksum over the others.

    Args:
        data: plain data, as `plain` returns it.

    Raises:
        ValueError: the data holds NaN or an infinity.
    """
    return _document({**data, _CHECKSUM: _digest(canonical_json(data))})
