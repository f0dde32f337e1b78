"""Messages of protocol buffers, recognised by their fields without a schema."""

from pathlib import Path
from typing import NamedTuple

_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
# Enough to distinguish one message from another.
_MOST_FIELDS = 64
_HEAD = 4096


class _Field(NamedTuple):
    """One field of a message: its number, its type, and the start of its content."""

    number: int
    kind: int
    content: bytes


# Recognised by their first fields, so that a truncated file is recognised, too.
_CERTAIN = ("GraphDef", "SavedModel", "MetaGraphDef")


def message_kind(file: Path) -> tuple[str | None, bool]:
    """Return the kind of message in a file and whether it is complete, or None if unknown."""
    try:
        fields, whole = _fields(file)
    except OSError:
        return None, False
    kind = _kind(fields)
    return (kind if whole or kind in _CERTAIN else None), whole


def _kind(fields: list[_Field]) -> str | None:
    numbers = {(field.number, field.kind) for field in fields}
    first = next((field for field in fields if field.number == 1), None)
    if first is None:
        return "GraphDef" if numbers == {(4, _BYTES)} else None
    if first.kind == _VARINT:
        if numbers <= {(1, _VARINT), (2, _BYTES)} and _graph_after(fields, 2):
            return "SavedModel"
        if any(number >= 200 and kind == _BYTES for number, kind in numbers):
            return "Core ML"
        if (7, _BYTES) in numbers or (8, _BYTES) in numbers:
            return "ONNX"
        return None
    if first.kind != _BYTES:
        return None
    if _is_node(first.content):
        return "GraphDef"
    return "MetaGraphDef" if _graph_after(fields, 2, meta=True) else None


def embedded(content: bytes, number: int) -> list[bytes]:
    """Return the contents of all texts and messages in the field with this number, in order."""
    fields = _begin(content, len(content))
    return [field.content for field in fields if (field.number, field.kind) == (number, _BYTES)]


def _graph_after(fields: list[_Field], number: int, *, meta: bool = False) -> bool:
    """Return whether the field with this number begins like a MetaGraphDef or a GraphDef."""
    content = next((f.content for f in fields if f.number == number and f.kind == _BYTES), None)
    if content is None:
        return False
    inner = _begin(content)
    if meta:
        return any(field.number == 1 and _is_node(field.content) for field in inner)
    return any(field.number in (1, 2) and field.kind == _BYTES for field in inner)


def _is_node(content: bytes) -> bool:
    """Return whether a message begins with texts in its first two fields, like a NodeDef."""
    begin = _begin(content)
    return (
        len(begin) >= 2
        and [field.number for field in begin[:2]] == [1, 2]
        and all(field.kind == _BYTES and _is_name(field.content) for field in begin[:2])
    )


def _is_name(content: bytes) -> bool:
    return bool(content) and all(32 < byte < 127 for byte in content)


def _begin(content: bytes, most: int = _MOST_FIELDS) -> list[_Field]:
    """Return the fields of a message that may be truncated."""
    found: list[_Field] = []
    position = 0
    while position < len(content) and len(found) < most:
        try:
            tag, position = _varint(content, position)
            number, kind = tag >> 3, tag & 7
            if kind == _VARINT:
                _, position = _varint(content, position)
                found.append(_Field(number, kind, b""))
                continue
            if kind == _BYTES:
                size, position = _varint(content, position)
            elif kind in (_FIXED_32, _FIXED_64):
                size = 4 if kind == _FIXED_32 else 8
            else:
                break
        except ValueError:
            break
        found.append(_Field(number, kind, content[position : position + size]))
        position += size
    return found


def _fields(file: Path) -> tuple[list[_Field], bool]:
    """Return the first fields of the message in a file, and whether they are complete.

    In other data, the fields end at the first invalid byte. In a truncated message, the last field
    is incomplete.
    """
    whole = file.stat().st_size
    found: list[_Field] = []
    with file.open("rb") as opened:
        position = 0
        while position < whole and len(found) < _MOST_FIELDS:
            opened.seek(position)
            head = opened.read(20)
            try:
                (number, kind), offset, size = _tag(head)
            except ValueError:
                return found, False
            opened.seek(position + offset)
            found.append(_Field(number, kind, opened.read(min(size, _HEAD))))
            position += offset + size
    return found, position <= whole


def _tag(head: bytes) -> tuple[tuple[int, int], int, int]:
    """Return a field's number and type, and the start and size of its content.

    Raises:
        ValueError: It is not a field.
    """
    tag, offset = _varint(head, 0)
    number, kind = tag >> 3, tag & 7
    if not 0 < number < 1 << 29:
        raise ValueError(number)
    size = 0
    if kind == _VARINT:
        _, offset = _varint(head, offset)
    elif kind == _BYTES:
        size, offset = _varint(head, offset)
    elif kind in (_FIXED_32, _FIXED_64):
        size = 4 if kind == _FIXED_32 else 8
    else:
        raise ValueError(kind)
    return (number, kind), offset, size


def _varint(content: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(content) and shift < 64:
        byte = content[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError(position)
