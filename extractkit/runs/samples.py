"""`samples.jsonl`: one row for each sample, in order, appended on writing and read at random."""

import json
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from extractkit.core.digests import Algorithm
from extractkit.errors import RunDirectoryError, counted
from extractkit.runs.files import LONGEST_LINE, StoredFile, lines_of, reading
from extractkit.runs.schema import canonical
from extractkit.runs.upgrades import ROW_UPGRADES, check_version, upgraded
from extractkit.store.local import DurableFile

Row = Mapping[str, Any]

SCHEMA = 2
"""Version of the fields that are written. Raise it with every change of them, and add a function to
`upgrades.py`. The manifest records the version of its run's rows, which are never rewritten."""

MISSING = "missing"
"""The field of a row with the reason why the sample has no values; absent if it has some."""

RESERVED = frozenset({MISSING, "skipped"})
"""Fields that a source's own labels must not use."""

_BLOCK = 1 << 20
_NEWLINE = ord("\n")


def why_missing(row: Row) -> str | None:
    """Return why a sample has no values; None if it has some, or if the failure came later."""
    reason = row.get(MISSING)
    return None if reason is None else str(reason)


def position_of(sample: object, count: int, directory: Path) -> int:
    """Return the position of a sample, of which negative ones count from the end.

    Args:
        count: the number of samples in the run.
        directory: the run directory, for messages.

    Raises:
        IndexError: there is no such sample.
        TypeError: it is not a whole number.
    """
    try:
        number = operator.index(sample)  # type: ignore[arg-type]
    except TypeError as error:
        raise TypeError(f"sample={sample!r} is not a whole number") from error
    if not -count <= number < count:
        has = f"{counted(count, 'sample')}, from 0 on" if count else "no samples"
        raise IndexError(f"sample={number}: {directory} has {has}")
    return number % count


class SamplesWriter:
    """Writes rows in turn. The file appears under its name when `publish` is called."""

    def __init__(self, path: Path, by: Algorithm) -> None:
        self._file = DurableFile(path)
        self._name = path.name
        self._hashing = by.begin()
        self.bytes = 0
        self.discard = self._file.discard

    def extend(self, rows: Iterable[Row]) -> None:
        """Add rows, in the order of the samples.

        Raises:
            JobError: the rows could not be written.
        """
        for row in rows:
            line = f"{canonical(row)}\n".encode(errors="surrogatepass")
            self._hashing.update(line)
            self.bytes += len(line)
            self._file.write(line)

    def publish(self) -> StoredFile:
        """Give the file its name, once every row is written.

        Raises:
            JobError: the file could not be written.
        """
        self._file.publish()
        return self.content

    @property
    def content(self) -> StoredFile:
        """The record of the file as it will be with the rows so far."""
        return StoredFile(self._name, self._hashing.digest, self.bytes)


class Samples(Sequence[Row]):
    """The rows of `samples.jsonl`, as a sequence that reads a row on access."""

    def __init__(
        self, path: Path, recorded: StoredFile | None = None, *, schema: int = SCHEMA
    ) -> None:
        """Read from `path`.

        Args:
            recorded: the record of the file, which is checked on first access.
            schema: the version of its rows. Older ones are returned as rows of the current one.

        Raises:
            RunDirectoryError: the rows are of a newer version.
        """
        check_version(str(path), "samples", schema, SCHEMA)
        self._path = path
        self._recorded = recorded
        self._schema = schema

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = position_of(index, len(self), self._path.parent)
        start = int(self._ends[position - 1]) if position else 0
        with reading(self._path) as file:
            file.seek(start)
            return self._parse(file.readline(LONGEST_LINE))

    def __iter__(self) -> Iterator[Row]:
        if len(self):
            yield from map(self._parse, lines_of(self._path))

    def __repr__(self) -> str:
        return f"<{counted(len(self), 'sample')} of {self._path}>"

    @cached_property
    def _ends(self) -> npt.NDArray[np.int64]:
        """The end of each row in the file: all that stays in memory, in eight bytes per row."""
        if self._recorded is not None:
            self._recorded.check(self._path.parent)
        ends = [np.zeros(0, np.int64)]
        before = 0
        try:
            with reading(self._path) as file:
                while block := file.read(_BLOCK):
                    found = np.flatnonzero(np.frombuffer(block, np.uint8) == _NEWLINE)
                    ends.append(found + before + 1)
                    before += len(block)
        except FileNotFoundError as error:
            raise RunDirectoryError(
                f"{self._path} is missing. It is written when all samples have been read"
            ) from error
        return np.concatenate(ends)

    def _parse(self, line: bytes) -> Row:
        try:
            row: Row = json.loads(line)
        except ValueError as error:
            raise RunDirectoryError(f"{self._path} is damaged: {error}") from error
        if not isinstance(row, dict) or "id" not in row or type(row.get("index")) is not int:
            raise RunDirectoryError(f"{self._path} is damaged: a row lacks its id or its index")
        return upgraded(row, self._schema, ROW_UPGRADES)
