"""Files of samples: search, detection of changes, lines, and digests of samples.

Only "
" ends a line (with "
" before it or not), not the separators that `str.splitlines` also
honours: those occur inside texts.
"""

import glob
import hashlib
import json
import os
import shlex
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from extractkit.advice import override
from extractkit.core.values import Array
from extractkit.errors import InputError, JobError, choices
from extractkit.inputs import Sample

PathLike = str | os.PathLike[str]

_GLOB_SIGNS = frozenset("*?[")
_MEND = "Restore it and resume the run, or start a new one"


@dataclass(frozen=True)
class _Status:
    """The state of a file.

    Attributes:
        size: Its size in bytes.
        modified: Its modification time in ns.
        changed: The time in ns of its last change of any kind. Unlike `modified`, it cannot be set,
            so it shows that a file was written and its date restored.
        file: Device and number, which differ if another file has replaced it.
        access: Mode, owner, group and number of links. A change of them also changes `changed`.
    """

    size: int
    modified: int
    changed: int
    file: tuple[int, int]
    access: tuple[int, int, int, int]

    @classmethod
    def of(cls, path: Path) -> "_Status":
        now = path.stat()
        return cls(
            *(now.st_size, now.st_mtime_ns, now.st_ctime_ns),
            (now.st_dev, now.st_ino),
            (now.st_mode, now.st_uid, now.st_gid, now.st_nlink),
        )

    def accessed_otherwise(self, now: "_Status") -> bool:
        """Return True if the new state differs by access alone."""
        same = replace(self, changed=now.changed, access=now.access) == now
        return same and now.access != self.access


class Stamp:
    """The state of a file when it was found, to detect changes of its content.

    A change of mode, owner or links does not count, so a job survives `chmod`.
    """

    def __init__(self, status: _Status) -> None:
        self._status = status  # replaced whole, as several threads read it

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stamp) and self._status == other._status

    __hash__ = None  # type: ignore[assignment]  # a check may replace the status

    @property
    def size(self) -> int:
        """The size of the file in bytes."""
        return self._status.size

    @classmethod
    def of(cls, path: Path) -> "Stamp":
        """Return the current stamp of a file."""
        return cls(_Status.of(path))

    @contextmanager
    def unchanged(self, path: Path) -> Iterator[None]:
        """Check before and after the block, which reads the file, that it has not changed.

        Raises:
            JobError: See `check`. It takes precedence over an error of reading.
        """
        self.check(path)
        try:
            yield
        finally:
            self.check(path)

    def check(self, path: Path) -> None:
        """Check that a file has not changed.

        Raises:
            JobError: Its size or a time differs, or it is gone or another file.
        """
        then = self._status
        try:
            now = _Status.of(path)
        except OSError as error:
            raise JobError(f"{path} can no longer be read: {error.strerror}. {_MEND}") from error
        if then.accessed_otherwise(now):
            self._status = now  # so that a later change of the content is noticed
        elif now != then:
            time = "modification time" if now.modified != then.modified else "time of change"
            was = f"{then.size} bytes" if now.size != then.size else f"another {time}"
            raise JobError(f"{path} changed while the job ran (it had {was}). {_MEND}")


def find_file(given: PathLike, suffix: str, key: str = "inputs.path") -> Path:
    """Return the path of a file, with `~` expanded.

    Args:
        suffix: The ending of files to suggest.
        key: The configuration key, for messages.

    Raises:
        InputError: The file does not exist, is a directory or may not be read.
    """
    path = Path(given).expanduser()
    at = f"{key}={str(given)!r}"
    _check_name(path, at)
    if path.is_dir():
        names = [name for name in _names(path) if name.endswith(suffix)]
        inside = f" {choices('', names)}" if names else ""
        file = path / (names[0] if names else f"FILE{suffix}")
        raise InputError(f"{at} is a directory.{inside} Give a file: {override(key, file)}")
    if not path.exists():
        raise _missing(at, path)
    if not path.is_file():
        raise InputError(
            f"{at} is not a regular file, and inputs need random access. Save its content to a file"
        )
    if not os.access(path, os.R_OK):
        mend = shlex.join(["chmod", "u+r", str(path)])
        raise InputError(f"{at} may not be read by this user. If it is yours: {mend}")
    return path


def find_files(given: PathLike | Sequence[PathLike], suffix: str) -> list[Path]:
    """Return the files for names and globs, in their order. A glob's matches are sorted.

    A file named more than once is read once.

    Raises:
        InputError: A value is not a name, `find_file` refuses a file, or a glob matches no file.
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
    """Find the files below a folder with one of these endings, in any case, without hidden files.

    Without endings, all files are returned.

    Returns their sorted paths, relative to the folder, and the number of other files.

    Raises:
        InputError: There is none, or one may not be read.
    """
    # `Path.rglob` does not follow links to folders.
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
    """Return the path as valid text: a file name may not be UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def short_names(paths: Sequence[Path]) -> list[str]:
    """Return the files' names, each with as many parent folders as make it unique."""
    absolute = [_absolute(path) for path in paths]
    depth = max((len(path.parts) for path in absolute), default=0)
    names: dict[Path, str] = {}
    for length in range(1, depth + 1):
        tails = {path: path.parts[-length:] for path in absolute if path not in names}
        # Shorter tails that are already unique cannot end any of the remaining paths.
        counts = Counter(tails.values())
        names |= {p: printable(Path(*tail)) for p, tail in tails.items() if counts[tail] == 1}
    return [names[path] for path in absolute]


def _absolute(path: Path) -> Path:
    # `Path.resolve` would follow a link, and the sample's id would name a file not asked for.
    return Path(os.path.abspath(path))  # noqa: PTH100


def _expand(given: PathLike, suffix: str) -> list[Path]:
    path = Path(given).expanduser()
    _check_name(path, f"inputs.path={str(given)!r}")
    # A name with such a character may be an existing file, not a pattern.
    if path.exists() or _GLOB_SIGNS.isdisjoint(str(path)):
        return [find_file(given, suffix)]
    # `Path.glob` does not take absolute patterns, and matches hidden files, unlike a shell.
    matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207
    files = [Path(match) for match in matches if Path(match).is_file()]
    if not files:
        raise _missing(f"inputs.path={str(given)!r}", path, verb="matches no file")
    return [find_file(file, suffix) for file in files]


def _check_name(path: Path, at: str) -> None:
    """Refuse a path that cannot be looked up: one that is too long, or in a closed folder.

    Raises:
        InputError: it is such a path.
    """
    try:
        path.exists()
    except OSError as error:
        raise InputError(f"{at} cannot be looked up: {error.strerror}") from error


def _missing(at: str, path: Path, verb: str = "does not exist") -> InputError:
    """Return an error that lists the siblings of the first missing part of the path."""
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
        # Only for suggestions: a folder that may not be listed offers none.
        return []


_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, eq=False)
class Lines:
    """The offsets of a file's lines, at 8 bytes per line.

    Attributes:
        path: The file.
        stamp: The state of the file when the lines were found.
        offsets: int64 (non-blank lines), the first byte of each.
        blanks: int64 (blank lines), the number of non-blank lines before each.
        sha256: The SHA-256 of the file in hexadecimal, or None if it was not read to its end.
    """

    path: Path
    stamp: Stamp
    offsets: npt.NDArray[np.int64]
    blanks: npt.NDArray[np.int64]
    sha256: str | None

    def __len__(self) -> int:
        return len(self.offsets)

    def number(self, index: int) -> int:
        """Return the line number, from 1, of the non-blank line with this index."""
        return index + 1 + int(np.searchsorted(self.blanks, index, side="right"))

    def read(self, start: int, stop: int) -> list[tuple[int, str]]:
        """Return the non-blank lines start … stop-1, each with its line number from 1.

        Raises:
            InputError: One of them is not UTF-8.
            JobError: The file has changed.
        """
        blanks = np.searchsorted(self.blanks, np.arange(start, stop), side="right")
        lines: list[tuple[int, str]] = []
        with self.stamp.unchanged(self.path), self.path.open("rb") as file:
            for index in range(start, stop):
                file.seek(int(self.offsets[index]))
                number = index + 1 + int(blanks[index - start])
                lines.append((number, _text(file.readline(), self.path, number)))
        return lines


def find_lines(
    path: Path, limit: int | None, visit: Callable[[int, str | InputError], None]
) -> Lines:
    """Find the first `limit` non-blank lines of a file, or all.

    Args:
        visit: Called for each non-blank line with its number (from 1) and its text, or the error
            if it is not UTF-8.

    Raises:
        JobError: The file changes while it is read.
    """
    stamp = Stamp.of(path)
    offsets, blanks = array("q"), array("q")
    whole, sha = True, hashlib.sha256()
    with stamp.unchanged(path), path.open("rb") as file:
        position = len(_BOM) if file.read(len(_BOM)) == _BOM else 0
        sha.update(_BOM[:position])
        file.seek(position)
        for number, line in enumerate(file, start=1):
            if len(offsets) == limit:
                whole = False
                break
            sha.update(line)
            text = _text_or_error(line, path, number)
            if isinstance(text, str) and (not text or text.isspace()):
                blanks.append(len(offsets))
            else:
                visit(number, text)
                offsets.append(position)
            position += len(line)
    found = (np.asarray(offsets, np.int64), np.asarray(blanks, np.int64))
    return Lines(path, stamp, *found, sha.hexdigest() if whole else None)


def digests_of(lines: Iterable[Lines]) -> dict[Path, str]:
    """Return the SHA-256 of the files that were read to their ends, by absolute path."""
    return {one.path.absolute(): one.sha256 for one in lines if one.sha256 is not None}


def _text_or_error(line: bytes, path: Path, number: int) -> str | InputError:
    try:
        return _text(line, path, number)
    except InputError as error:
        return error


def _text(line: bytes, path: Path, number: int) -> str:
    try:
        return line.removesuffix(b"\r\n").removesuffix(b"\n").decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"inputs.path={str(path)!r} is not UTF-8: line {number}, byte {error.start + 1} of "
            f"that line is 0x{line[error.start]:02x}. "
            f"Convert it: iconv -f ENCODING -t UTF-8 {shlex.quote(str(path))} > NEW"
        ) from error


def contents(values: Array) -> bytes:
    """Return the bytes of an array: numbers in C order, texts in UTF-8 prefixed by length.

    The buffer of an object array holds memory addresses, which differ between processes.
    """
    if not values.dtype.hasobject:
        return values.tobytes()
    texts = [item if isinstance(item, bytes) else str(item).encode() for item in values.flat]
    return b"".join(len(text).to_bytes(8, "little") + text for text in texts)


def sample_digest(sample: Sample) -> bytes:
    """Return the SHA-256 over a sample's id, its text or arrays, extra values and label."""
    extra = json.dumps(sample.extra, sort_keys=True)
    digest = hashlib.sha256(f"{sample.id}\0{extra}\0".encode())
    if sample.label is not None:
        digest.update(f"label\0{sample.label.dtype.str}\0{sample.label.shape}\0".encode())
        digest.update(contents(sample.label))
    if isinstance(sample.data, str):
        digest.update(sample.data.encode())
        return digest.digest()
    for name, values in sample.data.items():
        digest.update(f"{name}\0{values.dtype.str}\0{values.shape}\0".encode())
        digest.update(contents(values))
    return digest.digest()
