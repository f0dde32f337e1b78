"""A TensorFlow Lite file on disk."""

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from extractkit.models.litert.bundle import unpacked

Content = mmap.mmap | bytes
"""The bytes of a file; readers index and slice them."""


@dataclass(frozen=True)
class TFLiteFile:
    """One TensorFlow Lite model on disk.

    Attributes:
        path: The file, or the archive that it is in.
        member: Its path inside the archive; None if it is a file of its own.
    """

    path: Path
    member: str | None = None

    @property
    def at(self) -> str:
        """The file as messages name it."""
        where = self.path if self.member is None else self.path / self.member
        return f"model.path={str(where)!r}"

    def to_json(self) -> dict[str, str | None]:
        """Return the fields as a child process is given them."""
        return {"path": str(self.path), "member": self.member}

    @contextmanager
    def opened(self) -> Iterator[Content]:
        """Map the content into memory. Values read from it must be copied before it closes."""
        if self.member is not None:
            yield self._unpacked
            return
        with (
            self.path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            yield content

    def read(self) -> bytes:
        """Return the whole content."""
        return self.path.read_bytes() if self.member is None else self._unpacked

    def model(self) -> Path | bytes:
        """Return what LiteRT opens: a path, which it maps into memory, or the content itself."""
        return self.path if self.member is None else self._unpacked

    @cached_property
    def _unpacked(self) -> bytes:
        """The content of a member, which is never written to disk."""
        assert self.member is not None
        return unpacked(self.path, self.member, self.at)
