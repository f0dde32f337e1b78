"""The lines of a UTF-8 file: found in one pass, read at random afterwards.

Only "\n" ends a line (with "\r" before it or not), not the separators that `str.splitlines` also
honours: those occur inside texts.
"""

import shlex
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from extractkit.errors import InputError
from extractkit.inputs.files import Stamp

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, eq=False)
class Lines:
    """Where the lines of a file stand, at 8 bytes a line, blank or not.

    Attributes:
        path: the file.
        stamp: the file as it was when the lines were found.
        offsets: int64 (lines that are not blank), the byte at which each begins.
        blanks: int64 (blank lines), how many lines that are not blank stand before each.
    """

    path: Path
    stamp: Stamp
    offsets: npt.NDArray[np.int64]
    blanks: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets)

    def number(self, index: int) -> int:
        """The number, from 1, of the line that is this one when blank ones are not counted."""
        return index + 1 + int(np.searchsorted(self.blanks, index, side="right"))

    def read(self, start: int, stop: int) -> Iterator[tuple[int, str]]:
        """The lines start … stop-1, counted without blank ones, each with its number from 1.

        Raises:
            InputError: one of them is not UTF-8.
            JobError: the file has changed.
        """
        self.stamp.check(self.path)
        skipped = np.searchsorted(self.blanks, np.arange(start, stop), side="right")
        with self.path.open("rb") as file:
            for index in range(start, stop):
                file.seek(int(self.offsets[index]))
                number = index + 1 + int(skipped[index - start])
                yield number, _text(file.readline(), self.path, number)


def find_lines(
    path: Path, limit: int | None, visit: Callable[[int, str | InputError], None]
) -> Lines:
    """Find the lines of a file, the first `limit` that are not blank (None: all).

    Args:
        visit: called for each line that is not blank with its number (from 1), and its text or,
            where it is not UTF-8, the error that reading it raises.
    """
    stamp = Stamp.of(path)
    offsets, blanks = array("q"), array("q")
    with path.open("rb") as file:
        position = len(_BOM) if file.read(len(_BOM)) == _BOM else 0
        file.seek(position)
        for number, line in enumerate(file, start=1):
            if len(offsets) == limit:
                break
            text = _text_or_error(line, path, number)
            if isinstance(text, str) and (not text or text.isspace()):
                blanks.append(len(offsets))
            else:
                visit(number, text)
                offsets.append(position)
            position += len(line)
    return Lines(path, stamp, np.asarray(offsets, np.int64), np.asarray(blanks, np.int64))


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
