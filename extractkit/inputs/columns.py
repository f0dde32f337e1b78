"""Samples from whole arrays: one column for each of the model's inputs."""

import hashlib
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from extractkit.advice import hydra_text, nested_override
from extractkit.core.picks import LABELS, LabelSpec
from extractkit.core.values import Array
from extractkit.errors import InputError, choices
from extractkit.inputs import Identity, InputSpec, Sample, Signature, Unreadable, Visit
from extractkit.inputs.checks import (
    FAULT,
    DType,
    Faults,
    are_live,
    check_direction,
    check_dtype,
    check_held,
    check_limit,
    check_names,
    check_objects,
    check_range,
    check_shapes,
    describe,
    without,
)
from extractkit.inputs.conversion import CutStringsError, as_taken, converted
from extractkit.inputs.file_access import contents
from extractkit.inputs.labels import check_beside_inputs, in_row, labels_of, without_labels

TEXT_COLUMN = "text"
"""The default of `inputs.column`."""


def reads_text(columns: Mapping[str, str] | None, column: str, signature: Signature) -> bool:
    """Return whether samples are texts: if the model takes texts and `columns` is not given.

    Raises:
        InputError: `column` is given and would have no effect.
    """
    if columns is None and signature.takes_text:
        return True
    if column != TEXT_COLUMN:
        names = [spec.name for spec in signature.specs] or ["INPUT"]
        every = nested_override(
            "inputs.columns",
            {name: hydra_text(name) for name in names} | {names[0]: hydra_text(column)},
        )
        why = "inputs.columns is given" if signature.takes_text else "the model takes no text"
        raise InputError(
            f"inputs.column={column!r} means nothing, as {why}: {signature.model!r} takes "
            f"{describe(signature)}. In its place: {every}"
        )
    return False


def text_field(column: str, available: Sequence[str], signature: Signature, at: str) -> str:
    """Return the column with the text, or the bytes of a model's one string input.

    By default the column with the input's own name, or the only one, is used.

    Raises:
        InputError: The column does not exist.
    """
    if column not in available:
        if column == TEXT_COLUMN and signature.string is not None:
            if signature.string.name in available:
                return signature.string.name
            if len(available) == 1:
                return available[0]
        raise InputError(
            f"{at} has no column {column!r}. {choices(column, available)} "
            f"Give the one with the text, inputs.column=…, or one for each of the model's inputs, "
            f"inputs.columns={{INPUT:COLUMN,…}}"
        )
    return column


def input_fields(
    columns: Mapping[str, str] | None,
    signature: Signature,
    available: Collection[str],
    at: str,
    labels: str | None = None,
) -> dict[str, str]:
    """Return the column of each of the model's inputs, by the input's name.

    By default columns have the inputs' names. For a model with one input, a single column of any
    name is used.

    Args:
        labels: The column of the labels, which no input gets. If None, there is none.

    Raises:
        InputError: An input has no column, a named column does not exist, or an input has the
            column of the labels.
    """
    names = [spec.name for spec in signature.specs]
    fields = {name: name for name in names}
    if columns is not None:
        check_direction("inputs.columns", "column", columns, signature)
        check_names(list(columns), signature, "inputs.columns")
        fields = {name: str(columns[name]) for name in names}
    check_beside_inputs(labels, fields, available)
    available = [one for one in available if one != labels]
    if columns is None and len(names) == len(available) == 1:
        fields = {names[0]: available[0]}
    lacking = {name: field for name, field in fields.items() if field not in available}
    if lacking:
        named = ", ".join(f"{field!r} for input {name!r}" for name, field in lacking.items())
        it = "it" if len(lacking) == 1 else "them"
        given = [one for one in names if one not in lacking]
        advice = f"Name {it}: {_columns(fields, lacking)}{without(signature, given)}"
        raise InputError(
            f"{at} has no column {named} of model {signature.model!r}. "
            f"{choices(next(iter(lacking.values())), available)} "
            f"{f'Give {it} in every sample' if are_live(at) else advice}"
        )
    return fields


def _columns(fields: Mapping[str, str], lacking: Container[str]) -> str:
    """Return the override of the columns of all inputs, with gaps for those that are missing."""
    named = {
        name: "COLUMN" if name in lacking else hydra_text(field) for name, field in fields.items()
    }
    return nested_override("inputs.columns", named)


_CHUNK_BYTES = 1 << 23
_TEXT_BYTES = 1 << 10
# The number of samples that show what a column of objects holds.
_SHOWN_OBJECTS = 1000


class Column(Protocol):
    """The interface of arrays in memory and on disk. The first axis is the sample axis."""

    @property
    def dtype(self) -> DType: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice, /) -> Array: ...


@dataclass(frozen=True, eq=False)
class ColumnSource:
    """A source of samples along the first axis of arrays.

    Attributes:
        columns: Arrays (samples, *shape) by the name of the model's input.
        specs: The model's inputs by name.
        at: The configuration key and value, for messages.
        origin: The origin of the arrays.
        count: The number of samples.
        digest: The SHA-256 over the inputs' names, dtypes, shapes and contents as read. It is
            the same for the same numbers in a file and in memory.
        notes: Notes for the log and the manifest.
        labels: The labels of the samples. If None, none are needed.
    """

    columns: Mapping[str, Column]
    specs: Mapping[str, InputSpec]
    at: str
    origin: str
    count: int
    digest: str
    notes: tuple[str, ...] = ()
    labels: "LabelColumn | None" = None

    def __len__(self) -> int:
        return self.count

    def read(self, start: int, stop: int) -> list[Sample]:
        """Return copies of the samples start … stop-1. Their ids are their numbers.

        Raises:
            InputError: A value cannot be read, or the model's type cannot hold it.
            JobError: The file has changed since it was bound.
            IndexError: The range is outside the source.
        """
        check_range(start, stop, len(self))
        inputs = {
            name: converted(_held(column, self.specs[name], start, stop, self.at), self.specs[name])
            for name, column in self.columns.items()
        }
        # The ellipsis returns an array instead of a scalar.
        named: str | None = None
        labels: Sequence[Array | None] = [None] * (stop - start)
        if self.labels is not None:
            named, read = self.labels.name, self.labels.read(start, stop)
            labels = [read[row, ...] for row in range(stop - start)]
        return [
            Sample(
                start + row,
                str(start + row),
                self.origin,
                {name: values[row, ...] for name, values in inputs.items()},
                in_row(named, label),
                label,
            )
            for row, label in enumerate(labels)
        ]

    def identify(self, index: int) -> Identity:
        """Return the identity of the sample of this number."""
        return Identity(str(index), self.origin)


@dataclass(frozen=True, eq=False)
class LabelColumn:
    """The labels of samples.

    Attributes:
        name: The name of the column.
        column: The column.
        spec: The form of the labels.
        at: The configuration key and value, for messages.
    """

    name: str
    column: Column
    spec: LabelSpec
    at: str

    def read(self, start: int, stop: int) -> Array:
        """Return the labels of these samples.

        Raises:
            InputError: One has another form; the message names the first.
        """
        values = self.column[start:stop]
        try:
            return labels_of(values, self.spec, self.at)
        except InputError:
            for row in range(stop - start):
                labels_of(values[row : row + 1], self.spec, f"{self.at}, sample {start + row}")
            raise

    def check(self, count: int) -> None:
        """Check that there are as many labels as samples.

        Raises:
            InputError: The numbers differ.
        """
        own = self.column.shape[0] if self.column.shape else None
        if own != count:
            has = "no axis of samples" if own is None else f"{own} labels"
            raise InputError(f"{self.at}: {self.name!r} ({LABELS}) has {has} for {count} samples")

    def digest(self, count: int) -> Iterator[bytes]:
        """Yield the contents of all labels in parts, in bounded memory."""
        yield f"{LABELS}\0{self.spec.dtype}\0{(count, *self.spec.shape)}\0".encode()
        faults = Faults()
        for start, stop in _chunks(self.column, count):
            try:
                yield contents(self.read(start, stop))
            except InputError:
                yield from (self._content(row, faults) for row in range(start, stop))
        faults.check(count)

    def _content(self, row: int, faults: Faults) -> bytes:
        try:
            return bytes(contents(self.read(row, row + 1)))
        except InputError as error:
            faults.add(error)
            return FAULT


def bind_columns(
    columns: Mapping[str, Column],
    signature: Signature,
    *,
    at: str,
    origin: str,
    visit: Visit | None,
    limit: int | None = None,
    notes: tuple[str, ...] = (),
    labels: str | None = None,
) -> ColumnSource:
    """Check the types and shapes, but not the values, of arrays against the model's inputs.

    Args:
        at: The configuration key and value, for messages.
        origin: The origin of the samples.
        visit: Receives every sample of a single array. Several, labels included, are read one
            after the other, so samples that need all of them take a pass of their own.
        limit: The number of samples to use. If None, all.
        labels: The name of the column with the labels. If None, there is none.

    Raises:
        InputError: They do not fit, or no sample can be read.
    """
    check_limit(limit)
    check_beside_inputs(labels, {spec.name: spec.name for spec in signature.specs}, columns)
    columns, column = without_labels(columns, labels, at)
    check_names(list(columns), signature, at)
    for spec in signature.specs:
        if columns[spec.name].dtype.hasobject and columns[spec.name].shape:
            check_objects(spec, columns[spec.name][:_SHOWN_OBJECTS], signature, at)
        check_dtype(spec, columns[spec.name].dtype, signature, at)
    ordered = {spec.name: _as_taken(columns[spec.name], spec) for spec in signature.specs}
    labelled = None
    if labels is not None and column is not None and signature.label is not None:
        labelled = LabelColumn(labels, column, signature.label, at)
    shown = _Shown(origin, visit if len(ordered) == 1 and labelled is None else None)
    found = check_shapes({name: ordered[name].shape for name in ordered}, signature, at)
    count = found if limit is None else min(limit, found)
    if labelled is not None:
        labelled.check(found)
    return ColumnSource(
        ordered,
        {spec.name: spec for spec in signature.specs},
        at,
        origin,
        count,
        _digest(ordered, signature, count, at, shown, labelled),
        (*notes, *_cut_strings(ordered, signature)),
        labelled,
    )


@dataclass(frozen=True, eq=False)
class _Reshaped:
    """A column whose samples are reshaped."""

    column: Column
    shape: tuple[int, ...]

    @property
    def dtype(self) -> DType:
        return self.column.dtype

    def __getitem__(self, rows: slice, /) -> Array:
        values = self.column[rows]
        return values.reshape(len(values), *self.shape[1:])


def _as_taken(column: Column, spec: InputSpec) -> Column:
    if not column.shape:
        return column
    samples, *own = column.shape
    shape = (samples, *as_taken(tuple(own), spec.shape))
    return column if shape == column.shape else _Reshaped(column, shape)


def _cut_strings(columns: Mapping[str, Column], signature: Signature) -> list[str]:
    """Return a note on every column whose type drops trailing zeros of strings."""
    return [
        f"{spec.name}: values of NumPy's fixed-width type {columns[spec.name].dtype.str!r} end "
        f"before their last zero bytes; bytes that may end in zeros need an array of objects"
        for spec in signature.specs
        if columns[spec.name].dtype.kind == "S"
    ]


@dataclass(frozen=True)
class _Shown:
    """Passes the rows of a single column on as samples."""

    origin: str
    visit: Visit | None

    def values(self, name: str, start: int, values: Array) -> None:
        """Pass on the rows from number `start` on."""
        if self.visit is not None:
            for index, row in enumerate(range(len(values)), start=start):
                # The ellipsis returns an array instead of a scalar.
                self.visit(Sample(index, str(index), self.origin, {name: values[row, ...]}))

    def fault(self, index: int, error: InputError) -> None:
        """Pass on the error of a row."""
        if self.visit is not None:
            self.visit(Unreadable(index, Identity(str(index), self.origin), error))


def _digest(
    columns: Mapping[str, Column],
    signature: Signature,
    count: int,
    at: str,
    shown: _Shown,
    labels: LabelColumn | None,
) -> str:
    """Return a digest of the values as they will be read, in bounded memory."""
    digest = hashlib.sha256()
    for spec in signature.specs:
        column = columns[spec.name]
        digest.update(f"{spec.name}\0{spec.dtype}\0{(count, *column.shape[1:])}\0".encode())
        faults = Faults()
        for start, stop in _chunks(column, count):
            for part in _contents(column, spec, start, stop, at, faults, shown):
                digest.update(part)
        faults.check(count)
    for part in () if labels is None else labels.digest(count):
        digest.update(part)
    return digest.hexdigest()


def _contents(
    column: Column,
    spec: InputSpec,
    start: int,
    stop: int,
    at: str,
    faults: Faults,
    shown: _Shown,
) -> Iterator[bytes]:
    """Yield the contents of these rows in parts. Invalid rows are found by bisection."""
    try:
        values = converted(_held(column, spec, start, stop, at), spec, copy=False)
        part = contents(values)
    except CutStringsError:
        raise  # without the rows that show it, other cut rows would be accepted
    except InputError as error:
        if stop - start == 1:
            faults.add(error)
            shown.fault(start, error)
            yield FAULT
            return
        middle = (start + stop) // 2
        yield from _contents(column, spec, start, middle, at, faults, shown)
        yield from _contents(column, spec, middle, stop, at, faults, shown)
    else:
        shown.values(spec.name, start, values)
        yield part


def _held(column: Column, spec: InputSpec, start: int, stop: int, at: str) -> Array:
    """Return these rows after checking that the model's type can hold their values."""
    values = column[start:stop]
    check_held(spec, values, at)
    return values


def _chunks(column: Column, count: int) -> Iterator[tuple[int, int]]:
    # An object array holds only the addresses of its texts.
    size = _TEXT_BYTES if column.dtype.hasobject else column.dtype.itemsize
    row_bytes = size * int(np.prod(column.shape[1:], dtype=np.int64))
    step = max(1, _CHUNK_BYTES // max(1, row_bytes))
    return ((start, min(start + step, count)) for start in range(0, count, step))
