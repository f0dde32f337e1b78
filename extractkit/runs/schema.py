"""Frozen dataclasses as JSON, and back. The classes are the schema, and it is closed.

Reading refuses a field that is unknown, missing or of another type, and names it: a record that
this version does not fully understand must not be half believed.
"""

import hashlib
import json
import math
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import lru_cache
from pathlib import PurePath
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from extractkit.errors import RunDirectoryError, choices

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
