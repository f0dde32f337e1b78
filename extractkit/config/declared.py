"""The files in `conf/`: their keys, defaults and comments, as the code declares them."""

from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

from extractkit.config import config_directory
from extractkit.core.job import SETTINGS
from extractkit.core.keys import Key

_WIDTH, _BESIDE = 100, 120


@dataclass(frozen=True)
class Entry:
    """A file of a group.

    Attributes:
        group, name: Its folder and its name without the ending.
        intro: The comment at its head, without the signs.
        head: The lines above the keys, as they are.
        keys: The declared keys.
    """

    group: str
    name: str
    intro: str
    head: str
    keys: tuple[Key, ...]

    @property
    def path(self) -> Path:
        """The file."""
        return config_directory() / self.group / f"{self.name}.yaml"

    def text(self) -> str:
        """Return the file as it should be: its head, and a line with a comment for each key."""
        return self.head + "".join(_line(key) for key in self.keys)


def entries(group: str) -> list[Entry]:
    """Return the files of a group in alphabetical order."""
    return [_entry(path) for path in sorted((config_directory() / group).glob("*.yaml"))]


def _entry(path: Path) -> Entry:
    return Entry(path.parent.name, path.stem, "", "", SETTINGS)


def _line(key: Key) -> str:
    line = f"{key.name}: {key.written}"
    if len(beside := f"{line} # {key.description}\n") <= _BESIDE:
        return beside
    above = wrap(key.description, _WIDTH - len("# "))
    return "".join(f"# {one}\n" for one in above) + f"{line}\n"


def write() -> None:
    """Write all files from the declarations."""
    for group in ("runtime",):
        for entry in entries(group):
            entry.path.write_text(entry.text(), "utf-8")


if __name__ == "__main__":
    write()
