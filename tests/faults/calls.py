"""The system calls by which a process changes one directory: watched, and what happens at one.

The functions of `os` itself are replaced, so that every module's calls are seen. That lasts as long
as the process does: it is for children that end soon. What Python's own `open` does (the log) is
not seen, nor what HDF5 does (in memory alone).
"""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BY_PATH = ("open", "mkdir", "unlink", "rmdir")
_BY_TWO_PATHS = ("replace", "rename")
_BY_DESCRIPTOR = ("write", "fsync", "ftruncate", "close")


@dataclass(frozen=True)
class Call:
    """One call that is about to be made.

    Attributes:
        number: its place among the calls of the process, from 0.
        name: the function of `os`.
        path: of the file or directory, relative to the watched one.
        value: the new path of a `replace`, the data of a `write`, the size of an `ftruncate`, the
            flags of an `open`; of an `fsync`, what the file holds, None being a directory.
    """

    number: int
    name: str
    path: str
    value: Any = None

    @property
    def takes_room(self) -> bool:
        """Whether a full disk may refuse it."""
        creates = self.name == "open" and bool(self.value & os.O_CREAT)
        return creates or self.name in ("write", "fsync", "mkdir", "replace", "rename")

    def __str__(self) -> str:
        return f"call {self.number}, {self.name} {self.path}"


Around = Callable[[Call, Callable[..., Any]], Any]
"""Is given a call and what makes it, a `write` also of other data; returns the call's result."""


def watch(root: Path, around: Around) -> None:
    """Have every change at or below `root` made through `around`, for the rest of the process."""
    watching = _Watching(root.resolve(), around)
    for name in _BY_PATH:
        setattr(os, name, watching.by_path(name, getattr(os, name)))
    for name in _BY_TWO_PATHS:
        setattr(os, name, watching.by_two_paths(name, getattr(os, name)))
    for name in _BY_DESCRIPTOR:
        setattr(os, name, watching.by_descriptor(name, getattr(os, name)))


def noting(calls: list[Call]) -> Around:
    """Note every call that does not fail."""

    def around(call: Call, make: Callable[..., Any]) -> Any:
        result = make()
        calls.append(call)
        return result

    return around


def killed(number: int, when: str) -> Around:
    """Die "before" or "after" the call of this number, or "within": half of a `write` is done."""

    def around(call: Call, make: Callable[..., Any]) -> Any:
        if call.number != number:
            return make()
        if when == "within":
            make(_half(call.value))
        elif when == "after":
            make()
        return os.kill(os.getpid(), signal.SIGKILL)

    return around


def failing(number: int, error: int) -> Around:
    """Have the call of this number fail; those after it succeed."""

    def around(call: Call, make: Callable[..., Any]) -> Any:
        if call.number == number:
            raise _refused(call, make, error)
        return make()

    return around


def full(number: int, error: int) -> Around:
    """Have the disk full from this call on; of a `write`, half still finds room."""

    def around(call: Call, make: Callable[..., Any]) -> Any:
        if call.number == number and call.name == "write":
            return make(_half(call.value))
        if call.number >= number and call.takes_room:
            raise _refused(call, make, error)
        return make()

    return around


def _refused(call: Call, make: Callable[..., Any], error: int) -> OSError:
    if call.name == "close":
        make()  # the descriptor is gone, whatever its closing says
    return OSError(error, os.strerror(error), call.path)


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]


class _Watching:
    def __init__(self, root: Path, around: Around) -> None:
        self._root = root
        self._around = around
        self._count = 0
        self._paths: dict[int, str] = {}

    def by_path(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def replaced(path: Any, *arguments: Any, **options: Any) -> Any:
            inside = self._inside(path, options.get("dir_fd"))
            if inside is None:
                return real(path, *arguments, **options)
            value = arguments[0] if name == "open" else None
            result = self._call(name, inside, value, lambda: real(path, *arguments, **options))
            if name == "open":
                self._paths[result] = inside
            return result

        return replaced

    def by_two_paths(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def replaced(source: Any, target: Any, **options: Any) -> Any:
            inside = self._inside(source, options.get("src_dir_fd"))
            if inside is None:
                return real(source, target, **options)
            to = self._inside(target, options.get("dst_dir_fd"))
            return self._call(name, inside, to, lambda: real(source, target, **options))

        return replaced

    def by_descriptor(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def replaced(descriptor: int, *arguments: Any) -> Any:
            inside = self._paths.get(descriptor)
            if inside is None:
                return real(descriptor, *arguments)
            value = arguments[0] if arguments else None
            if name == "write":
                value = bytes(value)
            elif name == "fsync":
                path = self._root / inside
                value = path.read_bytes() if path.is_file() else None
            elif name == "close":
                del self._paths[descriptor]

            def make(other: object = value) -> Any:
                return real(descriptor, other) if arguments else real(descriptor)

            return self._call(name, inside, value, make)

        return replaced

    def _call(self, name: str, path: str, value: Any, make: Callable[..., Any]) -> Any:
        call = Call(self._count, name, path, value)
        self._count += 1
        return self._around(call, make)

    def _inside(self, path: Any, descriptor: int | None) -> str | None:
        """The path relative to what is watched; None where it is elsewhere."""
        if descriptor in self._paths:
            return str(Path(self._paths[descriptor]) / os.fsdecode(path))
        if isinstance(path, int) or descriptor is not None:
            return None
        whole = Path.cwd() / os.fsdecode(path)
        return str(whole.relative_to(self._root)) if whole.is_relative_to(self._root) else None
