"""Files that belong to a model's file: it names them, or shares its name with them.

Whoever gives the one is read the others, so what decides by files (origins, a model that is taken
over from the job before) has to look at all of them.
"""

import json
import re
from collections.abc import Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

_MEMBER = re.compile(r"(.*)\.(?:index|meta|data-\d{5}-of-\d{5})", re.DOTALL)
_SAVED_MODELS = ("saved_model.pb", "saved_model.pbtxt")
_STATE = "checkpoint"
_BEGINNING = 65536
_LATEST = re.compile(r'^model_checkpoint_path: "(.*)"', re.MULTILINE)


def prefix_of(member: str) -> str | None:
    """Return the prefix that a file of a checkpoint belongs to, told by its name."""
    found = _MEMBER.fullmatch(member)
    return found[1] if found else None


def whole(file: Path) -> tuple[list[Path], Path]:
    """A file and those that belong to it, in order, and the directory that has all of them."""
    if file.name in _SAVED_MODELS:
        inside = sorted(one for one in file.parent.rglob("*") if one.is_file())
        return inside, file.parent
    found = sorted({file, *(one for one in _others(file) if one.is_file())})
    return found, file.parent


def _others(file: Path) -> Iterator[Path]:
    if file.suffix == ".json":
        yield from (file.parent / name for name in _named(file))
    elif file.name == _STATE:
        with file.open(encoding="utf-8", errors="replace") as opened:
            latest = _LATEST.search(opened.read(_BEGINNING))  # other programs name large files so
        if latest and "/" not in latest[1]:
            yield from _members(file.parent / latest[1])
    elif prefix := prefix_of(file.name):
        yield from _members(file.parent / prefix)
    else:  # of the format before index and data: a file beside its graph
        yield file.with_name(f"{file.name}.meta")


def _members(prefix: Path) -> Iterator[Path]:
    for one in prefix.parent.iterdir():
        if prefix_of(one.name) == prefix.name:
            yield one


def _named(file: Path) -> list[str]:
    """Shards of TensorFlow.js and of safetensors, named by their index; names beside it alone."""
    if not file.stat().st_size:
        return []
    with file.open("rb") as opened, mmap(opened.fileno(), 0, access=ACCESS_READ) as mapped:
        if all(mapped.find(key) < 0 for key in (b'"weightsManifest"', b'"weight_map"')):
            return []  # of samples, say, and of any size
    try:
        content: Any = json.loads(file.read_bytes())
        if "weightsManifest" in content:
            names = [name for group in content["weightsManifest"] for name in group["paths"]]
        else:
            names = list(content.get("weight_map", {}).values())
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        return []  # another file, or a damaged one, which its reader refuses
    return [name for name in names if isinstance(name, str) and Path(name).name == name]
