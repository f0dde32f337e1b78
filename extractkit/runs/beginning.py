"""How a run begins, before the model is loaded, and how it is taken back after a user's mistake."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from extractkit.errors import RunDirectoryError, UserError
from extractkit.runs import manifest
from extractkit.runs.directory import (
    HYDRA,
    JOURNAL,
    LOG,
    RUN_KEY,
    SAMPLES,
    SHARDS,
    check_unused,
    fresh,
)
from extractkit.runs.files import StoredFile, content_of
from extractkit.runs.lock import LOCK
from extractkit.runs.manifest import MANIFEST, Manifest
from extractkit.runs.write import make_directory, make_durable, write_durably


class Superfluous(Exception):  # noqa: N818 - nothing went wrong
    """Raised inside `begun` where a finished run, `run`, already holds what the job would store."""

    def __init__(self, run: Path) -> None:
        super().__init__(f"{run} is a finished run of the same identity")
        self.run = run


@contextmanager
def begun(directory: Path, started: Manifest, hydra_files: Mapping[str, str]) -> Iterator[Manifest]:
    """A new run, this process's own while the context lasts.

    What Hydra composed is written first, then a manifest that says "started": from there on there
    is a run, which can be resumed. A user's mistake inside the context takes everything back.

    Raises:
        RunDirectoryError: something is there already, another process is at work there, or the
            directory cannot be made.
        JobError: the disk refuses.
    """
    with fresh(directory, RUN_KEY, check_unused):
        try:
            yield _begin(directory, started, hydra_files)
        except (UserError, Superfluous):
            _take_back(directory)
            raise


def hydra_files(directory: Path, recorded: Manifest, note: Callable[[str], None]) -> dict[str, str]:
    """The text of what Hydra composed for a run, by file name, as far as it is there.

    Nothing needs these files: what they say stands in the manifest, resolved.

    Args:
        note: told of each file that is missing or damaged.
    """
    found = {}
    for file in recorded.files:
        folder, _, name = file.name.rpartition("/")
        if folder != HYDRA or "/" in name:
            continue
        try:
            file.check(directory)
            found[name] = content_of(directory / file.name).decode("utf-8")
        except (RunDirectoryError, FileNotFoundError, UnicodeDecodeError) as error:
            note(f"left out, as nothing needs it: {error}")
    return found


def _begin(directory: Path, started: Manifest, hydra_files: Mapping[str, str]) -> Manifest:
    # After a power failure it tells what we have left from somebody else's files.
    make_durable(directory / LOCK)
    files = []
    try:
        if hydra_files:
            make_directory(directory / HYDRA)
        for name, text in hydra_files.items():
            write_durably(directory / HYDRA / name, text.encode())
            files.append(StoredFile.of(f"{HYDRA}/{name}", text.encode()))
        started = replace(started, files=tuple(files))
        manifest.write(directory, started)
    except BaseException:
        _take_back(directory)  # a directory that holds no run and yet is not empty is no use
        raise
    return started


def _take_back(directory: Path) -> None:
    """Remove what a run has written; nothing once a shard has been committed."""
    if (directory / JOURNAL).exists():
        return
    # While there is a manifest there is a whole run; what is left without may be begun anew.
    shutil.rmtree(directory / SHARDS, ignore_errors=True)
    for name in (LOG, SAMPLES, MANIFEST):
        (directory / name).unlink(missing_ok=True)
    shutil.rmtree(directory / HYDRA, ignore_errors=True)
