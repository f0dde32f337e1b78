"""Texts, or rows with texts and numbers, from lines of text files and JSON lines."""

import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from extractkit.advice import override
from extractkit.core.keys import DecidesValues
from extractkit.core.spec import TEXT
from extractkit.errors import InputError, choices, nearest
from extractkit.inputs import Identity, Sample, Scanning, Signature, Unreadable, Visit
from extractkit.inputs.checks import (
    FAULT,
    Faults,
    check_limit,
    check_range,
    check_takes_text,
    check_text,
)
from extractkit.inputs.columns import TEXT_COLUMN, reads_text
from extractkit.inputs.dataset import Elements
from extractkit.inputs.file_access import (
    Lines,
    PathLike,
    digests_of,
    find_files,
    find_lines,
    short_names,
)
from extractkit.inputs.labels import label_name
from extractkit.inputs.records import Chain, RecordSource, Scan

_KINDS = {type(None): "null", bool: "true or false", list: "a list", dict: "an object"}
_WANTED = (
    "Files that end in .jsonl, .ndjson or .json hold one object a line, "
    'as in {"text": "…"}; plain text needs another ending'
)


def object_of(line: str, path: Path, number: int) -> dict[str, object]:
    """Parse a line as a JSON object.

    Args:
        path, number: The location of the line, for messages.

    Raises:
        InputError: It is not a JSON object.
    """
    at = f"inputs.path={str(path)!r}, line {number}"
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{at} is not JSON: {error}. {_WANTED}") from error
    if not isinstance(record, dict):
        raise InputError(f"{at} is JSON, but {_kind(record)}, not an object. {_WANTED}")
    return record


def text_of(line: str, column: str, path: Path, number: int) -> str:
    """Return the text in this column of a line's JSON object.

    Args:
        path, number: The location of the line, for messages.

    Raises:
        InputError: The line is not a JSON object, or the column is missing or not a text.
    """
    at = f"inputs.path={str(path)!r}, line {number}"
    record = object_of(line, path, number)
    if column not in record:
        raise InputError(f"{at} has no {column!r}. {choices(column, record)}{_try(column, record)}")
    text = record[column]
    if not isinstance(text, str):
        raise InputError(
            f"{at}: inputs.column={column!r} is {_kind(text)}, not a text.{_try(column, record)}"
        )
    check_text(text, f"{at}: {column!r}")
    return text


def _try(column: str, record: dict[str, object]) -> str:
    texts = [name for name, value in record.items() if isinstance(value, str)]
    return f" Try {override('inputs.column', nearest(column, texts)[0])}" if texts else ""


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "a text" if isinstance(value, str) else "a number")


@dataclass(frozen=True, eq=False)
class JsonRows:
    """The rows of one file.

    Attributes:
        name: The prefix of its samples' ids.
        lines: Their offsets.
        elements: The conversion of rows to samples.
    """

    name: str
    lines: Lines
    elements: Elements

    def __len__(self) -> int:
        return len(self.lines)

    def record(self, index: int) -> Sample:
        """Return the row of this number, from 0; the id is FILE:LINE.

        Raises:
            InputError: It is not UTF-8 or not a JSON object, or lacks a value.
            JobError: The file has changed since its lines were found.
        """
        ((number, line),) = self.lines.read(index, index + 1)
        return _row(self.elements, index, line, self.lines.path, self.name, number)

    def identify(self, index: int) -> Identity:
        """Return the identity of this row's sample."""
        return _line_identity(self.name, self.lines.path, self.lines.number(index))


def _row(
    elements: Elements, index: int, line: str | InputError, path: Path, name: str, number: int
) -> Sample:
    """Return the row of a line as a sample; raise the error in its place."""
    if isinstance(line, InputError):
        raise line
    at = f"inputs.path={str(path)!r}, line {number}"
    sample = elements.sample(index, object_of(line, path, number), at)
    own = _line_identity(name, path, number)
    return replace(sample, id=own.id, source=own.source)


def _line_identity(name: str, path: Path, number: int) -> Identity:
    return Identity(f"{name}:{number}", path.name)


def bind_json_rows(
    paths: Sequence[Path],
    columns: Mapping[str, str] | None,
    signature: Signature,
    limit: int | None,
    visit: Visit | None,
    *,
    column: str = TEXT_COLUMN,
    labels: str | None = None,
) -> RecordSource:
    """Find the rows of files and check each against the model's inputs. Blank lines are ignored.

    Args:
        columns: The name of the value for each of the model's inputs. If None, the inputs' names,
            or one text for a model that takes texts.
        limit: The number of rows to use. If None, all.
        visit: Receives every sample.
        column: The name of this text.
        labels: The name of the label. If None, there is none.

    Raises:
        InputError: There is no row, or none can be read and fits the model.
    """
    if columns is None and not signature.takes_text:
        columns = {spec.name: spec.name for spec in signature.specs}
    elements = Elements(signature, columns, column, "", labels)
    scan = Scan(
        signature, f"inputs.path={str(paths[0])!r}" if len(paths) == 1 else "inputs.path", visit
    )
    files = []
    for path, name in zip(paths, short_names(paths), strict=True):
        left = None if limit is None else limit - len(scan)
        if left == 0:
            break

        def add(number: int, line: str | InputError, path: Path = path, name: str = name) -> None:
            scan.add(
                partial(_row, elements, len(scan), line, path, name, number),
                partial(_line_identity, name, path, number),
            )

        files.append(JsonRows(name, find_lines(path, left, add), elements))
    return scan.source(Chain(files), file_digests=digests_of(file.lines for file in files))


PACKAGED = Path(__file__).with_name("sample.txt")
JSON_LINES = (".jsonl", ".ndjson", ".json")

_TABLES = {".csv": "", ".tsv": ", parse_options=csv.ParseOptions(delimiter='\\t')"}
"""File endings of tables, with the options of pyarrow's reader for them."""

_ANY_COLUMN = "text"


@dataclass(frozen=True)
class Texts(Scanning):
    """Texts from UTF-8 files.

    Blank lines are ignored. The texts stay in their files: memory grows by 8 bytes per line.

    Attributes:
        path: A file, a glob (sorted) or several of them. If None, extractkit's sample texts.
        limit: The number of samples to use. If None, all. Later lines are not read.
        column: The name of the text in JSON lines (files named .jsonl, .ndjson or .json).
        columns: The name of the value for each of the model's inputs in JSON lines. If None, one
            text for a model that takes texts, otherwise a value per input, by the input's name.
        labels: The name of each sample's label in JSON lines, as targets of gradients take it. If
            None, there is none.

    Raises:
        InputError: `limit` is not a whole number of at least 1.
    """

    path: DecidesValues[PathLike | Sequence[PathLike] | None] = None
    limit: DecidesValues[int | None] = None
    column: DecidesValues[str] = _ANY_COLUMN
    columns: DecidesValues[Mapping[str, str] | None] = None
    labels: DecidesValues[str | None] = None

    def __post_init__(self) -> None:
        check_limit(self.limit)
        label_name(self.labels)
        if not isinstance(self.column, str):
            raise InputError(f"inputs.column={self.column!r} is not the name of a column")

    def scan(self, signature: Signature, visit: Visit | None) -> "TextSource | RecordSource":
        """Find every line, and read each once.

        Raises:
            InputError: The model takes no text, a file is missing, or there is no valid text: all
                lines are blank, not UTF-8, or invalid JSON.
        """
        paths = find_files(PACKAGED if self.path is None else self.path, ".txt")
        _refuse_tables(paths)
        reads_text(self.columns, self.column, signature)
        if self._reads_rows(signature, paths):
            return bind_json_rows(
                *(paths, self.columns, signature, self.limit, visit),
                column=self.column,
                labels=label_name(self.labels),
            )
        # Random samples cannot be strings.
        strings = any(spec.dtype == TEXT for spec in signature.specs)
        other = "JSON lines: inputs.path=FILE.jsonl" if strings else "inputs=random"
        remedy = f"Try {other}, or inputs=arrays inputs.path=FILE.npz"
        check_takes_text(signature, "inputs=texts", remedy)
        self._check_column(paths)
        files: list[TextFile] = []
        scan = _TextScan(visit)
        for path, name in zip(paths, short_names(paths), strict=True):
            left = None if self.limit is None else self.limit - scan.found
            if left == 0:
                break
            column = self.column if _holds_json(path) else None
            files.append(scan.file(path, name, column, left))
        scan.faults.check(scan.found)
        if not scan.found:
            named = ", ".join(repr(str(path)) for path in paths)
            raise InputError(
                f"inputs.path={named} holds no text: all lines are blank. "
                f"Give a file with one sample per line"
            )
        return TextSource(tuple(files), scan.digest.hexdigest())

    def _reads_rows(self, signature: Signature, paths: Sequence[Path]) -> bool:
        """Return whether a sample is a row of JSON with a value for each of the model's inputs.

        Raises:
            InputError: Columns are configured for plain text.
        """
        given = {"columns": self.columns, "labels": self.labels}
        named = [key for key, value in given.items() if value is not None]
        if signature.takes_text and not named:
            return False
        plain = [path for path in paths if not _holds_json(path)]
        if plain and named:
            raise InputError(
                f"inputs.{named[0]} means nothing in {str(plain[0])!r}, which is read as plain "
                f"text, one sample per line. Columns are for {', '.join(JSON_LINES)}"
            )
        return not plain

    def _check_column(self, paths: Sequence[Path]) -> None:
        """Refuse a column for plain text, such as a table read as lines."""
        if self.column != _ANY_COLUMN and not any(map(_holds_json, paths)):
            raise InputError(
                f"inputs.column={self.column!r} means nothing in {str(paths[0])!r}, which is read "
                f"as plain text, one sample per line. Columns are for {', '.join(JSON_LINES)}"
            )


@dataclass(frozen=True, eq=False)
class TextFile:
    """The texts of one file.

    Attributes:
        name: The prefix of its samples' ids.
        column: The name of the text in a JSON line. If None, the line is the text.
        lines: The offsets of the lines.
    """

    name: str
    column: str | None
    lines: Lines

    def __len__(self) -> int:
        return len(self.lines)

    def identify(self, index: int) -> Identity:
        """Return the identity of sample `index` of this file."""
        return _line_identity(self.name, self.lines.path, self.lines.number(index))

    def read(self, start: int, stop: int) -> Iterator[tuple[str, str]]:
        """Yield the id and text of samples start … stop-1 of this file.

        Raises:
            InputError: One is not UTF-8, or not a text in JSON lines.
        """
        for number, line in self.lines.read(start, stop):
            column = self.column
            text = line if column is None else text_of(line, column, self.lines.path, number)
            yield f"{self.name}:{number}", text


class _TextScan:
    """One pass over texts: their digest, ids included, and invalid ones.

    Args:
        visit: Receives every sample.
    """

    def __init__(self, visit: Visit | None) -> None:
        self._visit = visit
        self.digest = hashlib.sha256()
        self.faults = Faults()
        self.found = 0

    def file(self, path: Path, name: str, column: str | None, limit: int | None) -> TextFile:
        """Find the first `limit` texts of a file, or all."""

        def add(number: int, line: str | InputError) -> None:
            try:
                if isinstance(line, InputError):
                    raise line
                text = line if column is None else text_of(line, column, path, number)
            except InputError as error:
                self.faults.add(error)
                self.digest.update(f"{name}:{number}\0".encode() + FAULT)
                if self._visit is not None:
                    own = _line_identity(name, path, number)
                    self._visit(Unreadable(self.found, own, error))
            else:
                encoded = text.encode()
                self.digest.update(f"{name}:{number}\0{len(encoded)}\0".encode())
                self.digest.update(encoded)
                if self._visit is not None:
                    self._visit(Sample(self.found, f"{name}:{number}", path.name, text))
            self.found += 1

        return TextFile(name, column, find_lines(path, limit, add))


@dataclass(frozen=True, eq=False)
class TextSource:
    """The texts of several files, one after another.

    Attributes:
        files: The files, in order.
        digest: The SHA-256 over every sample's id and text.
    """

    files: tuple[TextFile, ...]
    digest: str

    def __len__(self) -> int:
        return sum(len(file) for file in self.files)

    @property
    def notes(self) -> tuple[str, ...]:
        """Files without texts, and the numbers of ignored blank lines in the others."""
        empty = [f"{file.name} holds no text" for file in self.files if not len(file)]
        counts = [(file.name, len(file.lines.blanks)) for file in self.files if len(file)]
        blank = [
            f"{name}: ignored {count} blank line{'s' if count > 1 else ''}"
            for name, count in counts
            if count
        ]
        return (*empty, *blank)

    @property
    def file_digests(self) -> Mapping[Path, str]:
        """See `HashesFiles`."""
        return digests_of(file.lines for file in self.files)

    def read(self, start: int, stop: int) -> list[Sample]:
        """Return the samples start … stop-1; their ids are FILE:LINE.

        Raises:
            InputError: A line is not UTF-8, or invalid JSON.
            JobError: The file has changed since it was bound.
            IndexError: The range is outside the source.
        """
        check_range(start, stop, len(self))
        samples: list[Sample] = []
        before = 0
        for file in self.files:
            first, last = max(start - before, 0), min(stop - before, len(file))
            if first < last:
                samples += [
                    Sample(before + index, name, file.lines.path.name, text)
                    for index, (name, text) in enumerate(file.read(first, last), start=first)
                ]
            before += len(file)
        return samples

    def identify(self, index: int) -> Identity:
        """Return the identity of the sample of this number.

        Raises:
            IndexError: The sample does not exist.
        """
        for file in self.files:
            if index < len(file):
                return file.identify(index)
            index -= len(file)
        raise IndexError("there are not that many samples")


def _refuse_tables(paths: Sequence[Path]) -> None:
    """Refuse tables, whose header and columns would all be read as texts.

    Raises:
        InputError: A file is a table by its name.
    """
    for path in paths:
        options = _TABLES.get(path.suffix.lower())
        if options is None:
            continue
        made = path.with_suffix(".parquet")
        convert = (
            f"from pyarrow import csv, parquet; "
            f"parquet.write_table(csv.read_csv({str(path)!r}{options}), {str(made)!r})"
        )
        raise InputError(
            f"inputs.path={str(path)!r} is a table, and inputs=texts reads lines, header and other "
            f"columns included. Convert it: python -c {shlex.quote(convert)}, and read that: "
            f"inputs=parquet {override('inputs.path', made)}. If each line is one text, end the "
            f"file's name in .txt"
        )


def _holds_json(path: Path) -> bool:
    return path.suffix.lower() in JSON_LINES
