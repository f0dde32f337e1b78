"""A TensorFlow Lite file on disk."""

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

Content = mmap.mmap | bytes
"""The bytes of a file; readers index and slice them."""


@dataclass(frozen=True)
class TFLiteFile:
    """One TensorFlow Lite model on disk.

    Attributes:
        path: The file.
    """

    path: Path

    @property
    def at(self) -> str:
        """The file as messages name it."""
        return f"model.path={str(self.path)!r}"

    def to_json(self) -> dict[str, str]:
        """Return the fields as a child process is given them."""
        return {"path": str(self.path)}

    @contextmanager
    def opened(self) -> Iterator[Content]:
        """Map the content into memory. Values read from it must be copied before it closes."""
        with (
            self.path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            yield content

    def read(self) -> bytes:
        """Return the whole content."""
        return self.path.read_bytes()

    def model(self) -> Path | bytes:
        """Return what LiteRT opens: a path, which it maps into memory, or the content itself."""
        return self.path
