"""A disk on which nothing is sure but what was forced out, as POSIX has it.

Data of a file are sure once the file was synced, a name once its directory was; what has not been
may be there, or not, or partly, in any combination.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Union

from tests.faults.calls import Call

Tree = dict[str, bytes | None]
"""What is found after the power came back: content by path; None for a directory."""


@dataclass(eq=False)
class File:
    """A file's content as last synced (None: never), and as the system shows it."""

    synced: bytes | None = None
    current: bytes = b""


@dataclass(eq=False)
class Directory:
    """Names as last synced, as the system shows them, and the changes since the former."""

    synced: dict[str, "Node"] = field(default_factory=dict)
    current: dict[str, "Node"] = field(default_factory=dict)
    changes: list["Change"] = field(default_factory=list)

    def change(self, change: "Change") -> None:
        """Add or remove names, not durably."""
        change.apply(self.current)
        self.changes.append(change)

    def sync(self) -> None:
        """Make all names durable."""
        self.synced, self.changes = dict(self.current), []


Node = Union[File, Directory]  # noqa: UP007 - the classes name each other


@dataclass(frozen=True, eq=False)
class Change:
    """One change of names in a directory, which happens as a whole or not at all."""

    added: str | None
    removed: str | None
    node: Node | None

    def apply(self, names: dict[str, Node]) -> None:
        """Change these names."""
        if self.removed is not None:
            names.pop(self.removed, None)
        if self.added is not None and self.node is not None:
            names[self.added] = self.node


Names = Callable[[list[Change]], Iterable[Change]]
"""Which of a directory's changes since its last sync survive."""

Data = Callable[[File], bytes]
"""What of a file's content survives."""


class Disk:
    """Calls are made on it one after another; at any time the power may fail.

    The watched directory itself is sure.
    """

    def __init__(self) -> None:
        self._root = Directory()

    def make(self, call: Call) -> None:
        """Make one call, which does not fail."""
        parent, name = self._place(call.path)
        node = parent.current.get(name)
        match call.name:
            case "open":
                if node is None and call.value & os.O_CREAT:
                    parent.change(Change(name, None, File()))
                elif isinstance(node, File) and call.value & os.O_TRUNC:
                    node.current = b""
            case "write":
                assert isinstance(node, File)
                node.current += call.value
            case "ftruncate":
                assert isinstance(node, File)
                node.current = node.current[: call.value]
            case "fsync" if isinstance(node, File):
                node.synced = node.current = call.value  # the log was not written by calls we see
            case "fsync":
                assert isinstance(node, Directory)
                node.sync()
            case "mkdir":
                parent.change(Change(name, None, Directory()))
            case "unlink" | "rmdir":
                parent.change(Change(None, name, None))
            case "replace" | "rename":
                assert PurePath(call.value).parent == PurePath(call.path).parent
                parent.change(Change(PurePath(call.value).name, name, node))

    def after_power_loss(self, names: Names, data: Data) -> Tree:
        """What is found when the power is back."""
        tree: Tree = {}
        _collect(self._root, PurePath(), names, data, tree)
        return tree

    def _place(self, path: str) -> tuple[Directory, str]:
        """The directory that holds the last name of a path, and that name."""
        if path == ".":
            return Directory(current={"": self._root}), ""
        directory = self._root
        *above, name = PurePath(path).parts
        for part in above:
            inner = directory.current[part]
            assert isinstance(inner, Directory)
            directory = inner
        return directory, name


def lay_out(tree: Tree, place: Path) -> None:
    """Make a tree in an empty directory."""
    for name, content in tree.items():
        if content is None:
            (place / name).mkdir()
        else:
            (place / name).write_bytes(content)


def _collect(directory: Directory, at: PurePath, names: Names, data: Data, tree: Tree) -> None:
    found = dict(directory.synced)
    for change in names(directory.changes):
        change.apply(found)
    for name, node in sorted(found.items()):
        path = at / name
        if isinstance(node, File):
            tree[str(path)] = data(node)
        else:
            tree[str(path)] = None
            _collect(node, path, names, data, tree)
