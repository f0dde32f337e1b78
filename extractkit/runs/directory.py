"""The run directory: what its files are called, and whether a directory may become one."""

import os
from pathlib import Path

from extractkit.errors import RunDirectoryError
from extractkit.plan import Shard
from extractkit.runs import manifest as manifests
from extractkit.runs.lock import LOCK, owner
from extractkit.runs.manifest import MANIFEST as MANIFEST  # one of the names below
from extractkit.runs.manifest import PARTS, Status
from extractkit.runs.write import TEMPORARY

JOURNAL = "journal.jsonl"
SAMPLES = "samples.jsonl"
SHARDS = "shards"
LOG = "extractkit.log"
HYDRA = ".hydra"


def shard_file(shard: Shard, suffix: str) -> str:
    """The one name that the file of a shard has, within the run directory."""
    return f"{SHARDS}/{shard.key}{suffix}"


def check_unused(path: Path) -> None:
    """Make sure that a new run may be written to `path`; touches nothing.

    Raises:
        RunDirectoryError: it holds a run or anything else, is no directory or is not writable.
    """
    elsewhere = "Choose another directory: hydra.run.dir=…"
    if path.exists() and not path.is_dir():
        raise RunDirectoryError(f"hydra.run.dir={path} is a file. {elsewhere}")
    parent = existing_parent(path)
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise RunDirectoryError(
            f"hydra.run.dir={path} cannot be made: {parent} is no writable directory. {elsewhere}"
        )
    if not path.exists() or never_begun(path):
        return
    if (path / MANIFEST).exists():
        raise RunDirectoryError(f"hydra.run.dir={path} {_described(path)}. {elsewhere}")
    if (path / PARTS).is_dir():
        raise RunDirectoryError(
            f"hydra.run.dir={path} holds parts of a run. Join them: extractkit finalize {path}. "
            f"{elsewhere}"
        )
    names = sorted(entry.name for entry in path.iterdir())
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    raise RunDirectoryError(f"hydra.run.dir={path} is not empty (it holds {shown}). {elsewhere}")


def never_begun(path: Path) -> bool:
    """Whether a directory is empty, or holds what a process left that died before its run began."""
    names = {entry.name for entry in path.iterdir()}
    rest = {name for name in names if name not in (LOCK, HYDRA) and not name.endswith(TEMPORARY)}
    return not names or (LOCK in names and not rest)


def existing_parent(path: Path) -> Path:
    """`path` itself where it exists, else the nearest directory above it that does."""
    path = path.absolute()
    return next(candidate for candidate in (path, *path.parents) if candidate.exists())


def _described(path: Path) -> str:
    try:
        found = manifests.read(path)
    except RunDirectoryError as error:
        return f"holds a run that cannot be read ({error}). Delete it if you do not need it"
    date = found.volatile.started.replace("T", " ")[:16]
    size = f"{found.samples} samples, {len(found.tensors)} tensors"
    if found.status is Status.FINISHED:
        return (
            f"holds a finished run of {date} UTC ({size}). Look at it: extractkit show {path}. "
            f"Delete it if you do not need it"
        )
    if (at_work := owner(path)) is not None:
        return f"is being worked on by {at_work}. Wait for it to end"
    return (
        f"holds an unfinished run of {date} UTC (status: {found.status}; {size}). "
        f"Go on with it: extractkit resume {path}. Delete it if you do not need it"
    )
