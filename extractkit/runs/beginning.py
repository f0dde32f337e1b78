"""How a run begins, before the model is loaded, and how it is taken back after a user's mistake."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from extractkit.errors import RunDirectoryError
from extractkit.runs import manifest
from extractkit.runs.directory import HYDRA, JOURNAL, LOG, SAMPLES, SHARDS, check_unused
from extractkit.runs.manifest import MANIFEST, Manifest
from extractkit.runs.write import write_durably, writing


def begin(directory: Path, started: Manifest, hydra_files: Mapping[str, str]) -> tuple[Path, ...]:
    """Make the directory, with what Hydra composed and a manifest that says "started".

    Returns the directories that were not there before, the innermost first.

    Raises:
        RunDirectoryError: something is there already, or the directory cannot be made.
        JobError: the disk refuses.
    """
    check_unused(directory)
    made = tuple(path for path in (directory, *directory.parents) if not path.exists())
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunDirectoryError(
            f"hydra.run.dir={directory} cannot be made: {error.strerror}. "
            f"Choose another directory: hydra.run.dir=…"
        ) from error
    manifest.write(directory, started)
    if hydra_files:
        with writing(directory):
            (directory / HYDRA).mkdir(exist_ok=True)
    for name, text in hydra_files.items():
        write_durably(directory / HYDRA / name, text.encode())
    return made


def take_back(directory: Path, made: Iterable[Path]) -> None:
    """Remove what `begin` and the plan wrote, and the directories that were `made` for it.

    Nothing is removed once a shard has been committed.
    """
    if (directory / JOURNAL).exists():
        return
    for name in (HYDRA, SHARDS):
        shutil.rmtree(directory / name, ignore_errors=True)
    for name in (LOG, SAMPLES, MANIFEST):
        (directory / name).unlink(missing_ok=True)
    for path in made:
        if any(path.iterdir()):
            break
        path.rmdir()
