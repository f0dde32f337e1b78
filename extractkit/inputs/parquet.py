"""Numbers and texts from the columns of Parquet files. Needs the extra with pyarrow."""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from extractkit.core.component import require
from extractkit.core.keys import DecidesValues
from extractkit.core.values import Array
from extractkit.errors import InputError
from extractkit.inputs import Identity, InputSpec, Sample, Scanning, Signature, Visit
from extractkit.inputs.checks import check_limit, describe
from extractkit.inputs.columns import TEXT_COLUMN, input_fields, reads_text, text_field
from extractkit.inputs.conversion import INDICES, VALUES, positions_of, row_of, string_data
from extractkit.inputs.file_access import PathLike, Stamp, find_files, printable, short_names
from extractkit.inputs.labels import check_available, in_row, label_name
from extractkit.inputs.records import Chain, RecordSource, bind_records, shaped


@dataclass(frozen=True, eq=False)
class ParquetColumn:
    """A column of a row group.

    Attributes:
        column: Its Arrow array.
        name: Its name, for messages.
    """

    column: Any
    name: str

    @classmethod
    def of(cls, chunked: Any, name: str, at: str) -> "ParquetColumn":
        """Combine the chunks of a column.

        Raises:
            InputError: It holds neither numbers nor texts, nor lists of them.
        """
        types = _arrow("pyarrow.types")
        column = chunked.combine_chunks()
        # An extension type, such as a tensor of fixed shape, is stored as a list.
        while isinstance(column.type, _arrow("pyarrow").BaseExtensionType):
            column = column.storage
        if types.is_dictionary(column.type):
            column = column.dictionary_decode()
        leaf = column.type
        while _is_list(leaf):
            leaf = leaf.value_type
        if types.is_struct(column.type) and {INDICES, VALUES} <= {field.name for field in leaf}:
            return cls(column, name)
        if not (_is_number(leaf) or _is_text(leaf)):
            raise InputError(
                f"{at}: column {name!r} is {column.type}; numbers, texts, lists of them and "
                f"structs of {INDICES} and {VALUES} are read"
            )
        return cls(column, name)

    def string(self, row: int, at: str) -> str | bytes:
        """Return the text in this row, or bytes if the column is binary.

        Raises:
            InputError: There is no text.
        """
        try:
            value = self.column[row].as_py()
        except UnicodeDecodeError as error:
            raise InputError(f"{at}: column {self.name!r} is not UTF-8: {error}") from error
        if not isinstance(value, str | bytes):
            raise InputError(
                f"{at}: column {self.name!r} is {self.column.type} and holds {value!r:.60}, not a "
                "text"
            )
        return value

    def row(self, row: int, spec: InputSpec, at: str) -> Array:
        """Return the value of an input in this row. Positions and values become a row.

        Raises:
            InputError: The value is missing, or cannot be converted to a row.
        """
        if not _arrow("pyarrow.types").is_struct(self.column.type):
            return self.values(row, at)
        own = f"{at}: column {self.name!r}"
        value = self.column[row].as_py()
        if value is None:
            raise self._nothing(at)
        given = positions_of({key: part for key, part in value.items() if part is not None})
        if given is None or len(spec.shape) != 1:
            raise InputError(f"{own} holds {value!r:.60}, which is not a row of {spec.name!r}")
        return row_of(given, spec, own)

    def values(self, row: int, at: str) -> Array:
        """Return the number, text or list in this row. Nested lists become axes.

        Raises:
            InputError: The value is missing, or nested lists differ in length.
        """
        if not _is_list(self.column.type):
            values = self._array(self.column.slice(row, 1), at)
            return values.reshape(())
        values = self.column[row].values
        if values is None:
            raise self._nothing(at)
        shape = [len(values)]
        while _is_list(values.type):
            if values.null_count:
                raise self._nothing(at)
            lengths = set(_arrow("pyarrow.compute").list_value_length(values).to_pylist())
            if len(lengths) > 1:
                raise InputError(
                    f"{at}: column {self.name!r} has lists of different lengths in one cell: "
                    f"{min(lengths)} and {max(lengths)}"
                )
            shape.append(lengths.pop() if lengths else 0)
            values = values.flatten()
        return self._array(values, at).reshape(shape)

    def _array(self, values: Any, at: str) -> Array:
        if values.null_count:
            raise self._nothing(at)
        return np.asarray(values.to_numpy(zero_copy_only=False))

    def _nothing(self, at: str) -> InputError:
        return InputError(
            f"{at}: column {self.name!r} holds a null. Fill it in or leave the row out"
        )


def _arrow(module: str) -> Any:
    return require(module, "inputs=parquet")


def _is_list(kind: Any) -> bool:
    types = _arrow("pyarrow.types")
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _is_number(kind: Any) -> bool:
    types = _arrow("pyarrow.types")
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def _is_text(kind: Any) -> bool:
    types = _arrow("pyarrow.types")
    known = (
        types.is_string,
        types.is_large_string,
        types.is_string_view,
        types.is_binary,
        types.is_large_binary,
        types.is_binary_view,
        types.is_fixed_size_binary,
    )
    return any(test(kind) for test in known)


# The current row group, and its neighbour, which a batch may also need.
_GROUPS_IN_MEMORY = 2

# Besides Arrow's own: damaged names, lengths and offsets.
_UNREADABLE = (OSError, ValueError, KeyError, IndexError, OverflowError)


@dataclass(frozen=True)
class Parquet(Scanning):
    """Rows of Parquet files: numbers, lists of them, and texts.

    They stay in their files. A row group, the smallest unit that Parquet can read, is decoded as a
    whole, with only the wanted columns. Two row groups are kept in memory.

    Attributes:
        path: A file, a glob (sorted) or several. Required.
        columns: The name of the column for each of the model's inputs. If None, the inputs' names,
            or the only column for the only input.
        column: The name of the column with the text, for a model that takes text and without
            `columns`.
        limit: The number of rows to use. If None, all.
        labels: The name of the column with each row's label, as targets of gradients take it. If
            None, there is none.

    Raises:
        InputError: `limit` is not a whole number of at least 1.
    """

    path: DecidesValues[PathLike | Sequence[PathLike] | None]
    columns: DecidesValues[Mapping[str, str] | None] = None
    column: DecidesValues[str] = TEXT_COLUMN
    limit: DecidesValues[int | None] = None
    labels: DecidesValues[str | None] = None

    def __post_init__(self) -> None:
        check_limit(self.limit)
        label_name(self.labels)

    def scan(self, signature: Signature, visit: Visit | None) -> RecordSource:
        """Read the columns once and check every row against the model's inputs.

        Raises:
            InputError: A file is missing or damaged, or no row can be read and fits the model.
            MissingExtraError: pyarrow is not installed.
        """
        if self.path is None:
            raise InputError(
                f"inputs.path is missing. Model {signature.model!r} takes {describe(signature)}. "
                f"Give Parquet files: inputs.path=FILE.parquet"
            )
        _arrow("pyarrow.parquet")
        groups = RowGroups()
        paths = find_files(self.path, ".parquet")
        tables = [
            self._open(path, name, groups, signature)
            for path, name in zip(paths, short_names(paths), strict=True)
        ]
        at = f"inputs.path={str(paths[0])!r}" if len(paths) == 1 else "inputs.path"
        return bind_records(Chain(tables), signature, at=at, visit=visit, limit=self.limit)

    def _open(self, path: Path, name: str, groups: "RowGroups", signature: Signature) -> "Table":
        stamp = Stamp.of(path)
        at = f"inputs.path={str(path)!r}"
        with _opened(path, at) as file:
            available = list(file.schema_arrow.names)
            ends = accumulate(
                file.metadata.row_group(group).num_rows
                for group in range(file.metadata.num_row_groups)
            )
            labels = label_name(self.labels)
            if labels is not None:
                check_available(labels, available, at)
            fields: Mapping[str, str]
            if text := reads_text(self.columns, self.column, signature):
                others = [one for one in available if one != labels]
                fields = {"": text_field(self.column, others, signature, at)}
            else:
                fields = input_fields(self.columns, signature, available, at, labels)
            wanted = None if signature.label is None else labels
            return Table(path, name, stamp, tuple(ends), fields, text, signature, groups, wanted)


@dataclass(frozen=True, eq=False)
class Table:
    """The rows of one file.

    Attributes:
        path: The file's path.
        name: The prefix of its samples' ids.
        stamp: The state of the file when it was opened.
        ends: The number of rows up to the end of each row group.
        fields: The column of each of the model's inputs. A text's key is empty.
        text: Whether a row is a text.
        signature: The model's inputs.
        groups: The cache of decoded row groups, shared by all files.
        labels: The column of the labels. If None, they are not read.
    """

    path: Path
    name: str
    stamp: Stamp
    ends: tuple[int, ...]
    fields: Mapping[str, str]
    text: bool
    signature: Signature
    groups: "RowGroups"
    labels: str | None

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def record(self, index: int) -> Sample:
        """Return the row of this number, from 0; the id is FILE:ROW.

        Raises:
            InputError: It holds no value, or cannot be read.
            JobError: The file has changed since it was opened.
        """
        group = bisect_right(self.ends, index)
        row = index - (self.ends[group - 1] if group else 0)
        with self.stamp.unchanged(self.path):
            named = {*self.fields.values(), *filter(None, [self.labels])}
            cells = self.groups.read(self.path, group, sorted(named))
        at = f"inputs.path={str(self.path)!r}, row {index}"
        own = self.identify(index)
        label = None if self.labels is None else cells[self.labels].values(row, at)
        extra = in_row(self.labels, label)
        if self.text:
            field = self.fields[""]
            found = string_data(
                cells[field].string(row, at), self.signature, f"{at}: column {field!r}"
            )
            return Sample(index, own.id, own.source, found, extra, label)
        data = {
            spec.name: shaped(cells[self.fields[spec.name]].row(row, spec, at), spec.shape)
            for spec in self.signature.specs
        }
        return Sample(index, own.id, own.source, data, extra, label)

    def identify(self, index: int) -> Identity:
        """Return the identity of this row's sample."""
        return Identity(f"{self.name}:{index}", printable(Path(self.path.name)))


class RowGroups:
    """A cache of the row groups that were decoded last."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Path, int], Mapping[str, ParquetColumn] | InputError] = (
            OrderedDict()
        )
        self._lock = Lock()

    def read(self, path: Path, group: int, columns: Sequence[str]) -> Mapping[str, ParquetColumn]:
        """Return these columns of a row group by name.

        Raises:
            InputError: It is damaged, or holds values other than numbers and texts.
        """
        key = (path, group)
        # Held while reading, since another thread usually needs the same group.
        with self._lock:
            if key not in self._kept:
                # The oldest is evicted before the new one is decoded, to bound memory.
                while len(self._kept) >= _GROUPS_IN_MEMORY:
                    self._kept.popitem(last=False)
                self._kept[key] = _decoded_or_error(path, group, columns)
            self._kept.move_to_end(key)
            kept = self._kept[key]
        if isinstance(kept, InputError):
            raise InputError(str(kept)) from kept
        return kept


@contextmanager
def _opened(path: Path, at: str) -> Iterator[Any]:
    """Open a Parquet file, and convert pyarrow's errors to an InputError."""
    arrow = _arrow("pyarrow")
    try:
        with _arrow("pyarrow.parquet").ParquetFile(path) as file:
            yield file
    except (arrow.ArrowException, *_UNREADABLE) as error:
        raise InputError(
            f"{at} cannot be read as Parquet: {error}. Write it as Parquet again"
        ) from error


def _decoded_or_error(
    path: Path, group: int, columns: Sequence[str]
) -> Mapping[str, ParquetColumn] | InputError:
    """Return the decoded columns, or the error, which is cached for the other rows."""
    try:
        return _decoded(path, group, columns)
    except InputError as error:
        return error


def _decoded(path: Path, group: int, columns: Sequence[str]) -> Mapping[str, ParquetColumn]:
    at = f"inputs.path={str(path)!r}"
    with _opened(path, f"{at}, row group {group},") as file:
        table = file.read_row_group(group, columns=list(columns))
        if table.num_rows != file.metadata.row_group(group).num_rows:
            raise ValueError(f"it has {table.num_rows} rows, unlike its metadata")
        return {name: ParquetColumn.of(table.column(name), name, at) for name in columns}
