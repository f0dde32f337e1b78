"""The run directory: what its files are called, and whether a directory may become one."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from extractkit.advice import command
from extractkit.errors import RunDirectoryError
from extractkit.plan import Shard
from extractkit.runs import manifest as manifests
from extractkit.runs.lock import LOCK, locked, owner
from extractkit.runs.manifest import MANIFEST as MANIFEST  # one of the names below
from extractkit.runs.manifest import PARTS, Status
from extractkit.runs.write import TEMPORARY, make_durable

JOURNAL = "journal.jsonl"
SAMPLES = "samples.jsonl"
SHARDS = "shards"
LOG = "extractkit.log"
HYDRA = ".hydra"

RUN_KEY = "hydra.run.dir"
"""The configuration key that names the directory."""


def shard_file(shard: Shard, suffix: str) -> str:
    """The one name that the file of a shard has, within the run directory."""
    return f"{SHARDS}/{shard.key}{suffix}"


@contextmanager
def fresh(directory: Path, key: str, check: Callable[[Path], None]) -> Iterator[None]:
    """A directory for something new, this process's own while the context lasts.

    What was made for it goes away again where nothing stays in it.

    Args:
        key: the configuration key that names it, for messages.
        check: refuses one that is in use.

    Raises:
        RunDirectoryError: what `check` refuses; another process is at work there, or the directory
            cannot be made.
        JobError: the disk refuses.
    """
    check(directory)
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    try:
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunDirectoryError(
                f"{key}={directory} cannot be made: {error.strerror}. {elsewhere(key)}"
            ) from error
        for path in reversed(made):
            make_durable(path)  # their names too: a power failure must not take the run with them
        with locked(directory):
            check(directory)  # another process may have begun and ended meanwhile
            yield
    finally:
        for path in made:
            with suppress(OSError):  # what is not empty stays: a run does
                path.rmdir()


def elsewhere(key: str) -> str:
    """What to do about a directory that cannot be used."""
    return f"Choose another directory: {key}=…"


def check_writable(path: Path, key: str) -> None:
    """Make sure that a directory may be made at `path`, or is there; touches nothing.

    Raises:
        RunDirectoryError: it is a file or is not writable.
    """
    if path.exists() and not path.is_dir():
        raise RunDirectoryError(f"{key}={path} is a file. {elsewhere(key)}")
    parent = existing_parent(path)
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise RunDirectoryError(
            f"{key}={path} cannot be made: {parent} is no writable directory. {elsewhere(key)}"
        )


def check_unused(path: Path) -> None:
    """Make sure that a new run may be written to `path`; touches nothing.

    Raises:
        RunDirectoryError: it holds a run or anything else, is no directory or is not writable.
    """
    check_writable(path, RUN_KEY)
    if not path.exists() or never_begun(path):
        return
    at, other = f"{RUN_KEY}={path}", elsewhere(RUN_KEY)
    if (path / MANIFEST).exists():
        raise RunDirectoryError(f"{at} {_described(path)}. {other}")
    if (path / PARTS).is_dir():
        raise RunDirectoryError(
            f"{at} holds parts of a run. Join them: {command('finalize', path)}. {other}"
        )
    names = sorted(entry.name for entry in path.iterdir())
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    raise RunDirectoryError(f"{at} is not empty (it holds {shown}). {other}")


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
            f"holds a finished run of {date} UTC ({size}). Look at it: {command('show', path)}. "
            f"Delete it if you do not need it"
        )
    if (at_work := owner(path)) is not None:
        return f"is being worked on by {at_work}. Wait for it to end"
    return (
        f"holds an unfinished run of {date} UTC (status: {found.status}; {size}). "
        f"Go on with it: {command('resume', path)}. Delete it if you do not need it"
    )
