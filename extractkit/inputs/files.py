"""Finding the files that `inputs.path` names, and noticing when one changes under a running job."""

import glob
import os
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from extractkit.advice import override
from extractkit.errors import InputError, JobError, choices

PathLike = str | os.PathLike[str]

_GLOB_SIGNS = frozenset("*?[")
_MEND = "Put it back as it was and resume the run, or start a new one"


@dataclass(frozen=True)
class Stamp:
    """What gives a changed file away without reading it: its size in bytes, its time in ns."""

    size: int
    modified: int

    @classmethod
    def of(cls, path: Path) -> "Stamp":
        """The file as it is now."""
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns)

    def check(self, path: Path) -> None:
        """Refuse a file that is no longer what it was.

        Raises:
            JobError: its size or time differs, or it is gone.
        """
        try:
            now = Stamp.of(path)
        except OSError as error:
            raise JobError(f"{path} cannot be read any more: {error.strerror}. {_MEND}") from error
        if now != self:
            was = f"{self.size} bytes" if now.size != self.size else "another modification time"
            raise JobError(f"{path} changed while the job ran (it had {was}). {_MEND}")


def find_file(given: PathLike, suffix: str, key: str = "inputs.path") -> Path:
    """The one file of this name, `~` expanded.

    Args:
        suffix: ending of the files to suggest.
        key: the configuration key, for messages.

    Raises:
        InputError: it does not exist, is a directory or may not be read.
    """
    path = Path(given).expanduser()
    at = f"{key}={str(given)!r}"
    if path.is_dir():
        names = [name for name in _names(path) if name.endswith(suffix)]
        inside = f" {choices('', names)}" if names else ""
        file = path / (names[0] if names else f"FILE{suffix}")
        raise InputError(f"{at} is a directory.{inside} Give a file: {override(key, file)}")
    if not path.exists():
        raise _missing(at, path)
    if not path.is_file():
        raise InputError(
            f"{at} is not a regular file, and inputs are read at random. Save its content to a file"
        )
    if not os.access(path, os.R_OK):
        mend = shlex.join(["chmod", "u+r", str(path)])
        raise InputError(f"{at} may not be read by this user. If it is yours: {mend}")
    return path


def find_files(given: PathLike | Sequence[PathLike], suffix: str) -> list[Path]:
    """The files of one or several names or globs, in the order given; a glob's matches are sorted.

    A file named more than once is read once.

    Raises:
        InputError: something that is no name, a file that `find_file` refuses, or a glob that
            matches no file.
    """
    entries = [given] if isinstance(given, str | os.PathLike) else given
    if not isinstance(entries, list | tuple) or not all(
        isinstance(entry, str | os.PathLike) for entry in entries
    ):
        raise InputError(f"inputs.path={given!r} names no files. Give a name, a glob, or a list")
    if not entries:
        raise InputError("inputs.path=[] names no file. Give one: inputs.path=FILE")
    found: dict[Path, Path] = {}
    for entry in entries:
        for path in _expand(entry, suffix):
            found.setdefault(_absolute(path), path)
    return list(found.values())


def find_inside(folder: Path, suffixes: Sequence[str], at: str) -> tuple[list[Path], int]:
    """The files below a folder with one of these endings, in any case, sorted; hidden ones are not.

    Without endings these are all files.

    Returns their paths from the folder on, and how many other files there are.

    Raises:
        InputError: there is none, or one may not be read.
    """
    # `Path.rglob` does not look into folders that are links.
    below = map(Path, sorted(glob.glob("**", root_dir=folder, recursive=True)))  # noqa: PTH207
    files = [path for path in below if (folder / path).is_file()]
    found = [path for path in files if not suffixes or path.suffix.lower() in suffixes]
    if not found:
        ending = f" that ends in {', '.join(suffixes)}" if suffixes else ""
        raise InputError(f"{at} holds no file{ending}. {choices('', _names(folder))}")
    for path in found:
        find_file(folder / path, path.suffix)
    return found, len(files) - len(found)


def printable(path: Path) -> str:
    """The path as it can be written down: a file name may be no UTF-8 at all."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def short_names(paths: Sequence[Path]) -> list[str]:
    """The files' names, each with as many parent folders as it takes to tell them apart."""
    absolute = [_absolute(path) for path in paths]
    depth = max((len(path.parts) for path in absolute), default=0)
    names: dict[Path, str] = {}
    for length in range(1, depth + 1):
        tails = {path: path.parts[-length:] for path in absolute if path not in names}
        # Names already settled do not occur among these: they differ from them in a shorter tail.
        counts = Counter(tails.values())
        names |= {p: printable(Path(*tail)) for p, tail in tails.items() if counts[tail] == 1}
    return [names[path] for path in absolute]


def _absolute(path: Path) -> Path:
    # `Path.resolve` would follow a link, and the sample's id would name a file not asked for.
    return Path(os.path.abspath(path))  # noqa: PTH100


def _expand(given: PathLike, suffix: str) -> list[Path]:
    path = Path(given).expanduser()
    # A file whose own name holds such a sign is that file, not a pattern.
    if path.exists() or _GLOB_SIGNS.isdisjoint(str(path)):
        return [find_file(given, suffix)]
    # `Path.glob` knows no absolute patterns, and matches hidden files, which a shell does not.
    matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207
    files = [Path(match) for match in matches if Path(match).is_file()]
    if not files:
        raise _missing(f"inputs.path={str(given)!r}", path, verb="matches no file")
    return [find_file(file, suffix) for file in files]


def _missing(at: str, path: Path, verb: str = "does not exist") -> InputError:
    """Name what stands beside the first part of the path that is not there."""
    while not path.parent.is_dir():
        path = path.parent
    return InputError(
        f"{at} {verb}: no {path.name!r} in {str(path.parent)!r}. "
        f"{choices(path.name, _names(path.parent))}"
    )


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError:
        # Suggestions only: a folder that may not be listed has none to offer.
        return []
