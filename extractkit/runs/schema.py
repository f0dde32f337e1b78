"""Frozen dataclasses as JSON and back, versioned and checksummed.

Reading refuses a field that is unknown, missing or of another type, and names it: a record that
this version does not fully understand must not be half believed.
"""

import hashlib
import json
import math
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from extractkit.errors import RunDirectoryError, choices
from extractkit.runs.files import content_of
from extractkit.runs.upgrades import Upgrade, check_version, upgraded
from extractkit.store.local import write_durably

T = TypeVar("T")


def plain(value: object) -> Any:
    """A value as JSON knows it.

    JSON has no word for NaN and the infinities: they become the texts "nan", "inf" and "-inf".

    Raises:
        TypeError: something that has no such form.
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
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    raise TypeError(f"{value!r} cannot be recorded as JSON")


def canonical(value: object) -> str:
    """One line of JSON that is the same for equal values."""
    return canonical_json(plain(value))


def canonical_json(data: object) -> str:
    """The same of what is plain data already.

    Raises:
        ValueError: it holds NaN or an infinity, which plain data does not.
    """
    return json.dumps(
        data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def digest(value: object) -> str:
    """SHA-256 of that line, in hexadecimal."""
    return hashlib.sha256(canonical(value).encode(errors="surrogatepass")).hexdigest()


def document(value: object) -> bytes:
    """JSON for people: indented, in the order of the fields, ending in a newline."""
    text = json.dumps(plain(value), indent=1, ensure_ascii=False)
    # A file's name need not be UTF-8: Python has it as text all the same.
    return f"{text}\n".encode(errors="surrogatepass")


def decode(expected: type[T], data: object, at: str) -> T:
    """`data`, parsed from JSON, as an instance of a dataclass; `at` names it in messages.

    Raises:
        RunDirectoryError: a field is unknown, missing or of another type.
    """
    result: T = _decode(expected, data, at)
    return result


def parse(expected: type[T], content: bytes, at: str) -> T:
    """A file of JSON as an instance of a dataclass; `at` names it in messages.

    Raises:
        RunDirectoryError: it is no JSON, or as of `decode`.
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
        # Of `int | float` a whole number stays one.
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
    return _checked(expected, data, at)


def _decode_fields(expected: Any, data: dict[str, Any], at: str) -> Any:
    hints = _hints(expected)
    for key in data:
        if key not in hints:
            raise RunDirectoryError(
                f"{at} holds {key!r}, which does not exist. {choices(key, hints)}"
            )
    for key in hints:
        if key not in data:
            raise RunDirectoryError(f"{at} lacks {key!r}")
    # Most fields are of a plain type and as they should be: no place in a message is made up then.
    return expected(
        **{
            key: value if type(value := data[key]) is hint else _decode(hint, value, f"{at}.{key}")
            for key, hint in hints.items()
        }
    )


def _decode_tuple(entries: tuple[Any, ...], data: list[Any], at: str) -> tuple[Any, ...]:
    if entries[-1] is Ellipsis:
        entries = (entries[0],) * len(data)
    if len(entries) != len(data):
        raise RunDirectoryError(f"{at} has {len(data)} entries in place of {len(entries)}")
    pairs = enumerate(zip(entries, data, strict=True))
    return tuple(_decode(entry, item, f"{at}[{index}]") for index, (entry, item) in pairs)


def _checked(expected: Any, data: Any, at: str) -> Any:
    if type(data) is not expected:  # a bool is no int here
        names = {dict: "an object", list: "a list", str: "a text"}
        wanted = names.get(expected, f"of type {expected.__name__}")
        raise RunDirectoryError(f"{at} is {data!r}, which is not {wanted}")
    return data


@lru_cache
def _hints(expected: Any) -> dict[str, Any]:
    return {item.name: get_type_hints(expected)[item.name] for item in fields(expected)}


_CHECKSUM = "checksum"


@dataclass(frozen=True)
class SealedRecord(Generic[T]):
    """How one kind of record lies on the disk.

    Attributes:
        kind: the frozen dataclass; it has a field `schema`, the version of its fields.
        noun: what messages call it ("manifest").
        schema: the version that is written.
        again: what is left to do where the file is lost ("run the job again").
        upgrades: by every older version, what makes the next of it.
        sealed_since: the first version whose files have a checksum.
    """

    kind: type[T]
    noun: str
    schema: int
    again: str
    upgrades: Mapping[int, Upgrade] = field(default_factory=dict)
    sealed_since: int = 1

    def write(self, path: Path, record: T) -> None:
        """Write, or replace, the file.

        Raises:
            JobError: it could not be written.
        """
        write_durably(path, sealed(plain(record)))

    def read(self, path: Path) -> T:
        """The record in a file.

        Raises:
            FileNotFoundError: there is none.
            RunDirectoryError: it is damaged, or a newer extractkit wrote it.
        """
        try:
            content = content_of(path)
            data = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise self._damaged(path, error) from error
        # The version decides what the other fields mean, so it is looked at before any of them.
        version = data.get("schema") if isinstance(data, dict) else None
        if type(version) is not int or version < 1:
            raise RunDirectoryError(f"{path} is no {self.noun}: it has no schema version")
        check_version(str(path), self.noun, version, self.schema)
        # The checksum is over the fields as they were written, so it comes before any upgrade.
        self._check_content(path, version, data, content)
        try:
            data = upgraded(data, version, self.upgrades)
        except RunDirectoryError as error:
            raise self._damaged(path, error) from error
        return decode(self.kind, {**data, "schema": self.schema}, str(path))

    def _check_content(
        self, path: Path, version: int, data: dict[str, object], content: bytes
    ) -> None:
        """Take the checksum out of the fields, and make sure that the file is as it was written.

        Raises:
            RunDirectoryError: it is damaged.
        """
        has_checksum = version >= self.sealed_since
        if has_checksum:
            data.pop(_CHECKSUM, None)
        try:
            whole = content == (sealed(data) if has_checksum else document(data))
        except RecursionError:
            whole = False
        if not whole:
            checked = (
                "its checksum does not hold" if has_checksum else "it is not as it was written"
            )
            raise self._damaged(path, checked)

    def _damaged(self, path: Path, reason: object) -> RunDirectoryError:
        return RunDirectoryError(f"{path} is damaged: {reason}. Restore it, or {self.again}")


def sealed(data: Mapping[str, object]) -> bytes:
    """The file that holds these fields: its last one is a checksum over the others."""
    return document({**data, _CHECKSUM: digest(data)})
