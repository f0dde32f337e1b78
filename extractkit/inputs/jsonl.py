"""The text in one line of JSON lines."""

import json
from pathlib import Path

from extractkit.advice import override
from extractkit.errors import InputError, choices, nearest
from extractkit.inputs.checks import check_text

_KINDS = {type(None): "null", bool: "true or false", list: "a list", dict: "an object"}
_WANTED = (
    "Files that end in .jsonl, .ndjson or .json hold one object a line, "
    'as in {"text": "…"}; plain text wants another ending'
)


def object_of(line: str, path: Path, number: int) -> dict[str, object]:
    """The object that a line holds.

    Args:
        path, number: where the line is, for messages.

    Raises:
        InputError: it is no JSON object.
    """
    at = f"inputs.path={str(path)!r}, line {number}"
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{at} is no JSON: {error}. {_WANTED}") from error
    if not isinstance(record, dict):
        raise InputError(f"{at} is JSON, but {_kind(record)}, no object. {_WANTED}")
    return record


def text_of(line: str, column: str, path: Path, number: int) -> str:
    """The text in this column of the object that the line holds.

    Args:
        path, number: where the line stands, for messages.

    Raises:
        InputError: the line is no JSON object, or the column is absent or no text.
    """
    at = f"inputs.path={str(path)!r}, line {number}"
    record = object_of(line, path, number)
    if column not in record:
        raise InputError(f"{at} has no {column!r}. {choices(column, record)}{_try(column, record)}")
    text = record[column]
    if not isinstance(text, str):
        raise InputError(
            f"{at}: inputs.column={column!r} is {_kind(text)}, no text.{_try(column, record)}"
        )
    check_text(text, f"{at}: {column!r}")
    return text


def _try(column: str, record: dict[str, object]) -> str:
    texts = [name for name, value in record.items() if isinstance(value, str)]
    return f" Try {override('inputs.column', nearest(column, texts)[0])}" if texts else ""


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "a text" if isinstance(value, str) else "a number")
