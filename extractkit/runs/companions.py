"""Files that belong to a model's file: it names them, or shares its name with them.

A loader that is given one of them reads the others, so what decides by files (origins, a
model that is taken over from the job before) has to look at all of them.
"""

import json
import re
from collections.abc import Iterator
from io import SEEK_END
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

_MEMBER = re.compile(r"(.*)\.(?:index|meta|data-\d{5}-of-\d{5})", re.DOTALL)
_SAVED_MODELS = ("saved_model.pb", "saved_model.pbtxt")
_OF_A_SAVED_MODEL = (
    *("saved_model.pb*", "fingerprint.pb", "keras_metadata.pb"),
    *("variables/**/*", "assets/**/*", "assets.extra/**/*"),
)
TABLE_END = bytes.fromhex("57fb808b247547db")
"""The last bytes of a table of TensorFlow: an index, or a checkpoint before there were any."""

_STATE = "checkpoint"
_BEGINNING = 65536
_LATEST = re.compile(r'^model_checkpoint_path: "(.*)"', re.MULTILINE)


def prefix_of(member: str) -> str | None:
    """Return the prefix that a file of a checkpoint belongs to, told by its name."""
    found = _MEMBER.fullmatch(member)
    return found[1] if found else None


def files_with_companions(file: Path) -> tuple[list[Path], Path]:
    """Return a file and those that belong to it, in order, and the directory that has them all."""
    try:
        others = {one for one in _others(file) if one.is_file()}
    except OSError:  # it cannot be read, which is refused where its content is wanted
        others = set()
    return sorted({file, *others}), file.parent


def _others(file: Path) -> Iterator[Path]:
    if file.name in _SAVED_MODELS:
        for pattern in _OF_A_SAVED_MODEL:
            yield from file.parent.glob(pattern)
    elif file.suffix == ".json":
        yield from (file.parent / name for name in _named(file))
    elif file.name == _STATE:
        with file.open(encoding="utf-8", errors="replace") as opened:
            latest = _LATEST.search(opened.read(_BEGINNING))  # other programs name large files so
        if latest and "/" not in latest[1]:
            yield from _members(file.parent / latest[1])
    elif prefix := prefix_of(file.name):
        yield from _members(file.parent / prefix)
    elif (graph := file.with_name(f"{file.name}.meta")).is_file() and _ends_a_table(file):
        yield graph  # of the format before index and data, which was one file


def _ends_a_table(file: Path) -> bool:
    with file.open("rb") as opened:
        if opened.seek(0, SEEK_END) < len(TABLE_END):
            return False
        opened.seek(-len(TABLE_END), SEEK_END)
        return opened.read() == TABLE_END


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
