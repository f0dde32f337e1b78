"""Exports: a finished run as the files of another tool.

Each module writes one format, and `registry.py` lists them. An exporter reads a run as anyone can,
and never changes it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Protocol

from extractkit.runs.comparing.result import Comparison
from extractkit.runs.reader import Run

Note = Callable[[str], None]
"""Receives a remark for the user, such as how much of a run is not exported."""


class Exporter(Protocol):
    """A format.

    Attributes:
        name: its name in `--to`.
        summary: what it is for, in a few words.
        compares: whether it can show how far the run is from another one.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    compares: ClassVar[bool]

    def check(self, run: Run) -> None:
        """Check that a run can be exported, before anything is written.

        Raises:
            MissingExtraError: a package that writes the format is not installed.
            RunDirectoryError: the run holds nothing that the format can show.
        """
        ...

    def write(
        self, run: Run, directory: Path, note: Note, comparison: Comparison | None = None
    ) -> None:
        """Write the files of a finished run.

        Args:
            directory: an empty directory, which gets its name once everything is written.
            comparison: of another run, the reference, with this one; None: there is none.

        Raises:
            RunDirectoryError: the run is damaged.
            JobError: a file could not be written.
        """
        ...
