"""Runs: names of the files in a run directory, and hints where runs are if a path holds none."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from extractkit.errors import choices

if TYPE_CHECKING:
    from extractkit.core.shards import Shard  # with NumPy, which names of files do not need

MANIFEST = "manifest.json"
JOURNAL = "journal.jsonl"
SAMPLES = "samples.jsonl"
SHARDS = "shards"
LOG = "extractkit.log"
HYDRA = ".hydra"

RO_CRATE = "ro-crate-metadata.json"
"""Name of the file that describes a run to archives, if it was asked for."""

COMPONENTS = "components.npz"
"""Name of the file with the principal components of other runs onto which a run projects."""

LOCK = ".lock"
"""Name of the lock file. It is left behind only if its owner was killed."""

PARTS = "parts"
"""Name of the folder that holds the parts of a job until they are joined."""

SWEEP = "sweep.json"
"""Name of the index file in the directory of a sweep."""

RUN_KEY = "run_dir"
"""The configuration key that names the directory."""
ELSEWHERE = f"Choose another directory: {RUN_KEY}=…"


def shard_file(shard: "Shard", suffix: str) -> str:
    """Return the path of a shard's file within the run directory."""
    return f"{SHARDS}/{shard.key}{suffix}"


# Hydra puts a run into a folder for the date and one for the time.
_DEPTH = 2


def no_run(path: Path, marks: Collection[str]) -> str:
    """Return why there is no run at a path, and the nearest runs and sweeps.

    Args:
        path: a path with none of the marker files.
        marks: names of the files that mark a run or a sweep, that of a run first.
    """
    if os.path.isdir(path):  # noqa: PTH112 - a name that is too long does not exist
        inside = [str(found) for found in _marked(path, marks, _DEPTH)]
        hint = f". In it: {choices('', inside)}" if inside else ""
        return f"{path} is not a run directory: it holds no {next(iter(marks))}{hint}"
    if os.path.exists(path):  # noqa: PTH110
        own = _is_marked(path.parent, marks)
        hint = f". Give its directory: {path.parent}" if own else ""
        return f"{path} is a file, and a run is a directory{hint}"
    above = next((one for one in path.parents if os.path.isdir(one)), Path())  # noqa: PTH112
    missing = above / path.relative_to(above).parts[0]
    beside = [str(one) for one in _marked(above, marks, 1)] or list(map(str, _folders(above)))
    where = "the working directory" if above == Path() else str(above)
    return f"{path} does not exist. In {where}: {choices(str(missing), beside)}"


def _marked(folder: Path, marks: Collection[str], depth: int) -> Iterator[Path]:
    """Yield the runs and sweeps inside a folder, without looking inside them."""
    for one in _folders(folder):
        if _is_marked(one, marks):
            yield one
        elif depth > 1:
            yield from _marked(one, marks, depth - 1)


def _is_marked(folder: Path, marks: Collection[str]) -> bool:
    return any(os.path.exists(folder / mark) for mark in marks)  # noqa: PTH110


def _folders(folder: Path) -> list[Path]:
    """List the directories in a folder, or none if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            names = [one.name for one in entries if one.is_dir() and one.name[0] != "."]
    except OSError:
        return []
    return [folder / name for name in sorted(names)]
