"""Finding a finished run by its identity."""

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from extractkit.errors import ConfigError, RunDirectoryError
from extractkit.runs import manifest as manifests
from extractkit.runs.damage import damage
from extractkit.runs.manifest import MANIFEST, Status

_log = logging.getLogger(__name__)


def find_finished(root: Path, identity: str, note: Callable[[str], None]) -> Path | None:
    """A finished run of this identity at or below `root`, nothing of which is damaged.

    Where there are several, the one whose path comes first.

    Args:
        note: told of a run of this identity that is damaged.

    Raises:
        ConfigError: `root` is no directory.
    """
    if not os.path.isdir(root):  # noqa: PTH112 - a name that is too long is none, too
        raise ConfigError(
            f"runtime.reuse_from={str(root)!r} is no directory. Give one that holds runs, such as "
            f"outputs, or null"
        )
    for directory in _runs(root.absolute()):
        try:
            found = manifests.read(directory)
        except RunDirectoryError as error:
            _log.info("not reused: %s", error)
            continue
        whole = found.status is Status.FINISHED and found.part is None
        if found.identity != identity or not whole:
            continue
        if broken := next(iter(damage(directory, found)), None):
            note(f"not reused: {broken}")
            continue
        return directory
    return None


def _runs(root: Path) -> Iterator[Path]:
    """The run directories at or below a directory; none is looked for inside another."""
    for parent, directories, files in os.walk(root):
        directories.sort()
        if MANIFEST in files:
            directories.clear()
            yield Path(parent)
