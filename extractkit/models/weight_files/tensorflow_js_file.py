"""Weights of TensorFlow.js: a `model.json`, and shards with concatenated weights.

A group of weights is the bytes of its shards, joined. Numbers are little-endian; texts have their
length before them, in four bytes. Quantised weights are stored as integers or half floats, and are
dequantised as TensorFlow.js does: in double precision, rounded once.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from extractkit.core.spec import TEXT
from extractkit.core.values import Array
from extractkit.errors import ModelError, choices
from extractkit.models.failures import error_summary
from extractkit.models.recognition import refuse_unknown
from extractkit.models.weight_files.weight_file import Entry, Location, WeightFile, damaged

FILE = "model.json"

_FORMAT = "TensorFlow.js"
_DTYPES = {
    "float32": "<f4",
    "float16": "<f2",
    "int32": "<i4",
    "int16": "<i2",
    "int8": "i1",
    "uint16": "<u2",
    "uint8": "u1",
    "bool": "?",
    "complex64": "<c8",
}
_QUANTISED = ("uint8", "uint16", "float16")
_LENGTH_BYTES = 4


@dataclass(frozen=True)
class _Group:
    """Shards that are read as one sequence of bytes."""

    shards: tuple[Path, ...]
    sizes: tuple[int, ...]

    def read(self, start: int, count: int) -> bytes:
        """Return the bytes from `start` on, fewer at the end of the shards."""
        parts = []
        for shard, size in zip(self.shards, self.sizes, strict=True):
            if start < size and count > 0:
                with shard.open("rb") as opened:
                    opened.seek(start)
                    parts.append(opened.read(min(count, size - start)))
                count -= len(parts[-1])
            start = max(0, start - size)
        return b"".join(parts)


@dataclass(frozen=True)
class _Weight:
    """The location and encoding of one weight."""

    group: _Group
    start: int
    size: int
    stored: str
    entry: Entry
    scale: float = 1.0
    least: float = 0.0

    def load(self) -> Array:
        """Read the weight."""
        content = self.group.read(self.start, self.size)
        if self.stored == TEXT:
            return np.array(_texts(content), object).reshape(self.entry.shape)
        values: Array = np.frombuffer(content, _DTYPES[self.stored]).reshape(self.entry.shape)
        if self.stored != self.entry.dtype and self.stored != "float16":
            exact = values.astype(np.float64) * self.scale + self.least
            # Like Math.round of JavaScript: halves are rounded up.
            values = np.floor(exact + 0.5) if self.entry.dtype == "int32" else exact
        return values.astype(self.entry.dtype)


def _begins_as_json(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(64).lstrip().startswith(b"{")


def read_json(file: Path, at: str) -> dict[str, Any]:
    """Return the content of a `model.json`.

    Raises:
        ModelError: It is not JSON, or not of TensorFlow.js.
    """
    try:
        found = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        if not _begins_as_json(file):
            refuse_unknown(str(file), file, f"a {FILE} of TensorFlow.js", at.partition("=")[0])
        raise damaged(f"{at} ({file.name})", error_summary(error)) from error
    if not isinstance(found, dict) or not isinstance(found.get("weightsManifest"), list):
        raise ModelError(f"{at} is not a {FILE} of TensorFlow.js: it has no list weightsManifest")
    return found


def open_tensorflow_js(file: Path, at: str) -> WeightFile:
    """Open the weights of a `model.json`, whose shards are in the same folder.

    Args:
        at: the name for messages.

    Raises:
        ModelError: a shard is missing or has the wrong length, or the list of weights is damaged.
    """
    weights: dict[str, _Weight] = {}
    files = [file]
    for group in read_json(file, at)["weightsManifest"]:
        try:
            names = [str(name) for name in group["paths"]]
            listed = [(str(one["name"]), one) for one in group["weights"]]
        except (KeyError, TypeError) as error:
            raise damaged(
                f"{at} ({file.name})", f"weightsManifest: {error_summary(error)}"
            ) from error
        shards = _shards(file, names, at)
        files += shards.shards
        start = 0
        for name, described in listed:
            if name in weights:
                raise ModelError(f"{at} ({file.name}) lists the weight {name!r} twice")
            weights[name] = _weight(shards, start, name, described, at)
            start += weights[name].size
        _check_length(shards, start, at)
    if not weights:
        raise ModelError(f"{at} ({file.name}) lists no weights")
    return WeightFile(
        str(file),
        _FORMAT,
        tuple(files),
        {name: weight.entry for name, weight in weights.items()},
        {name: _location(name) for name in weights},
        _loader(weights),
    )


def _loader(weights: Mapping[str, _Weight]) -> Callable[[str], Array]:
    return lambda name: weights[name].load()


def _location(name: str) -> Location:
    parts = name.split("/")
    return Location(tuple(parts[:-1]), parts[-1])


def _shards(file: Path, names: Sequence[str], at: str) -> _Group:
    shards = []
    for name in names:
        if Path(name).name != name or name in ("", ".", ".."):
            raise ModelError(
                f"{at} ({file.name}) names {name!r}, which is not the name of a file beside it"
            )
        shard = file.parent / name
        if not shard.is_file():
            beside = [one.name for one in file.parent.iterdir() if one.name != file.name]
            raise ModelError(
                f"{at}: the shard {name!r} is missing beside {file.name}. {choices(name, beside)}"
            )
        shards.append(shard)
    return _Group(tuple(shards), tuple(shard.stat().st_size for shard in shards))


def _weight(group: _Group, start: int, name: str, described: Any, at: str) -> _Weight:
    try:
        shape = tuple(described["shape"])
        dtype, quantised = str(described["dtype"]), described.get("quantization") or {}
        stored = str(quantised.get("dtype", dtype))
        scale, least = float(quantised.get("scale", 1.0)), float(quantised.get("min", 0.0))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(at, f"weight {name!r}: {error_summary(error)}") from error
    if not all(type(size) is int and size >= 0 for size in shape):
        raise damaged(at, f"weight {name!r} has the shape {list(shape)!r}")
    if quantised and (stored not in _QUANTISED or dtype not in ("float32", "int32")):
        raise ModelError(f"{at}: weight {name!r} is {dtype} stored as {stored}, which is not known")
    if stored == TEXT:
        size = _text_bytes(group, start, prod(shape))
    elif stored in _DTYPES:
        size = prod(shape) * np.dtype(_DTYPES[stored]).itemsize
    else:
        raise ModelError(f"{at}: weight {name!r} is of type {stored!r}. {choices(stored, _DTYPES)}")
    return _Weight(group, start, size, stored, Entry(dtype, shape), scale, least)


def _check_length(group: _Group, needed: int, at: str) -> None:
    there = sum(group.sizes)
    if there != needed:
        sizes = ", ".join(
            f"{shard.name!r} {size}" for shard, size in zip(group.shards, group.sizes, strict=True)
        )
        raise ModelError(
            f"{at}: the weights take {needed} bytes, their shards have {there} ({sizes}): one is "
            f"cut off, or of another model. Copy them again"
        )


def _text_bytes(group: _Group, start: int, count: int) -> int:
    """Return the number of bytes of this many texts."""
    position = start
    for _ in range(count):
        head = group.read(position, _LENGTH_BYTES)
        if len(head) < _LENGTH_BYTES:
            break  # the length of the shards is checked for all weights together
        position += _LENGTH_BYTES + int.from_bytes(head, "little")
    return position - start


def _texts(content: bytes) -> list[bytes]:
    found, position = [], 0
    while position < len(content):
        length = int.from_bytes(content[position : position + _LENGTH_BYTES], "little")
        position += _LENGTH_BYTES
        found.append(content[position : position + length])
        position += length
    return found
