"""The files that a job was given, by content: what `verify` holds against the disk much later."""

import glob
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extractkit.component import Component
from extractkit.errors import InputError
from extractkit.runs.companions import files_with_companions

_NAMES = frozenset({"path", "checkpoint", "filepath", "weights"})
"""Arguments that name files, as a text, a list or a mapping: no other text is looked for."""

_RELOCATED = _NAMES | {"checkpoints"}
"""Those, and the ones whose files a manifest records one by one."""


@dataclass(frozen=True)
class Origin:
    """The files that one argument of the configuration names.

    Attributes:
        key: the config key ("model.path").
        path: what it says, made absolute: a file, which stands for those that belong to it too; a
            directory, a pattern, a checkpoint's prefix.
        sha256: over the file; where there are several, over their names, sizes and contents.
        bytes: of all of them.
    """

    key: str
    path: str
    sha256: str
    bytes: int


def origins(components: Iterable[Component]) -> tuple[Origin, ...]:
    """The files that arguments of these components name, read whole.

    Raises:
        InputError: one of them cannot be read.
    """
    found = []
    for component in components:
        for key, text in _texts(component.at, component.arguments):
            if (one := origin(key, text)) is not None:
                found.append(one)
    return tuple(found)


def files_of(component: Component) -> Iterator[Path]:
    """The files that arguments of a component name."""
    for _, text in _texts(component.at, component.arguments):
        yield from _files(text)[0]


def origin(key: str, text: str) -> Origin | None:
    """What the files that a text names hold now; None where there are none.

    Raises:
        InputError: one of them cannot be read.
    """
    files, parent = _files(text)
    if not files:
        return None
    path = str(Path(text).expanduser().absolute())
    try:
        if len(files) == 1 and str(files[0].absolute()) == path:
            return Origin(key, path, _sha256(files[0]), files[0].stat().st_size)
        sha = hashlib.sha256()
        total = 0
        for file in files:
            name, size = file.relative_to(parent).as_posix(), file.stat().st_size
            sha.update(f"{name}\0{size}\0{_sha256(file)}\n".encode())
            total += size
    except OSError as error:
        raise InputError(f"{key}={text!r} cannot be read: {error.strerror}") from error
    return Origin(key, path, sha.hexdigest(), total)


def is_there(text: str) -> bool:
    """Whether a text names any file."""
    return bool(_files(text)[0])


def relocated(entries: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """A configuration as plain data whose relative paths are told from a directory.

    Only those that name files there are changed.
    """

    def told(name: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: told(str(key), entry) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return [told(name, entry) for entry in value]
        if (
            not isinstance(value, str)
            or name not in _RELOCATED
            or Path(value).expanduser().is_absolute()
        ):
            return value
        there = str(directory / value)
        return there if _files(there)[0] else value

    # A selector's path is a glob over addresses, whatever files there are.
    return {
        key: entry if key == "selectors" else told(key, entry) for key, entry in entries.items()
    }


def _texts(at: str, value: object) -> Iterator[tuple[str, str]]:
    """The texts of arguments that name files, each with its config key."""
    if isinstance(value, Component):
        yield from _texts(at, value.arguments)
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _texts(f"{at}.{key}", entry)
    elif isinstance(value, list | tuple):
        for index, entry in enumerate(value):
            yield from _texts(f"{at}.{index}", entry)
    elif isinstance(value, str) and not _NAMES.isdisjoint(at.split(".")):
        yield at, value


def _files(text: str) -> tuple[list[Path], Path]:
    """The files that a text names, in order, and the directory that their names are told from."""
    try:
        path = Path(text).expanduser()
        if not text:
            return [], path.parent
        if path.is_file():
            return files_with_companions(path)
        # A model inside an archive: `FILE.task/INNER.tflite`.
        if (archive := next((one for one in path.parents if one.is_file()), None)) is not None:
            return [archive], archive.parent
        if path.is_dir():
            return sorted(p for p in path.rglob("*") if p.is_file()), path
        # A pattern; or a checkpoint's prefix, which is no file itself.
        patterns = (str(path), f"{glob.escape(str(path))}.*")
        named = [one for pattern in patterns for one in glob.glob(pattern, recursive=True)]  # noqa: PTH207 - absolute patterns
    except (OSError, ValueError):
        return [], Path()  # too long for a name, or with a zero byte
    files = sorted({p for p in map(Path, named) if p.is_file()})
    # Their names are told from where they have one directory in common, wherever that lies.
    return files, Path(os.path.commonpath([p.parent for p in files])) if files else Path()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
