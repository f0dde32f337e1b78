"""The files in `conf/`: their keys, defaults and comments, as the code declares them.

Beside them is a JSON schema of the configuration.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent, wrap

from config_schema import document

from extractkit.config import SCHEMA, config_directory
from extractkit.core.component import Component
from extractkit.core.job import SETTINGS
from extractkit.core.keys import Key

DECLARED_GROUPS = ("model", "inputs", "sinks", "runtime")
"""The groups with declared keys. Files of other groups hold values for declared keys."""

SCHEMA_FILE = config_directory() / SCHEMA
"""The schema that editors use."""

_WIDTH, _BESIDE = 100, 120
_TARGET = re.compile(r"(?m)^( *)_target_: (\S+)\n")


@dataclass(frozen=True)
class Entry:
    """A file of a group.

    Attributes:
        path: The file.
        head: Its first lines, unchanged: the introductory comment and the target.
        indent: The spaces before its keys.
        keys: The declared keys.
        target: The `_target_` whose arguments they are; None for other values.
    """

    path: Path
    head: str
    indent: str
    keys: tuple[Key, ...]
    target: str | None = None

    @property
    def name(self) -> str:
        """Its name in the group."""
        return self.path.stem

    @property
    def intro(self) -> str:
        """The comment at its head, as text."""
        lines = (line for line in self.head.splitlines() if line.startswith("#"))
        return "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines)

    def text(self) -> str:
        """Return the expected file: its head, and a line with a comment for each key."""
        return self.head + indent("".join(map(_line, self.keys)), self.indent)


def entries(group: str) -> list[Entry]:
    """Return the files of a group in alphabetical order."""
    return [_entry(path) for path in sorted((config_directory() / group).glob("*.yaml"))]


def _entry(path: Path) -> Entry:
    text = path.read_text("utf-8")
    group = path.parent.name
    if group == "runtime":
        return Entry(path, "", "", SETTINGS)
    target = _TARGET.search(text)
    if target is None:  # values for keys that are declared elsewhere
        head = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
        return Entry(path, head, "", ())
    return Entry(
        path, text[: target.end()], target[1], Component(group, target[2]).keys(), target[2]
    )


def _line(key: Key) -> str:
    line = f"{key.name}: {key.written}"
    if len(beside := f"{line} # {key.description}\n") <= _BESIDE:
        return beside
    above = wrap(key.description, _WIDTH - len("# "), break_on_hyphens=False)
    return "".join(f"# {one}\n" for one in above) + f"{line}\n"


def schema_text() -> str:
    """Return the JSON schema of the configuration."""
    components = {group: entries(group) for group in ("model", "inputs", "sinks")}
    return json.dumps(document(components), indent=1, ensure_ascii=False) + "\n"


def write() -> None:
    """Write all files from the declarations."""
    SCHEMA_FILE.write_text(schema_text(), "utf-8")
    for group in DECLARED_GROUPS:
        for entry in entries(group):
            entry.path.write_text(entry.text(), "utf-8")


if __name__ == "__main__":
    write()
