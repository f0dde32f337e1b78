"""Samples out of whole arrays, one array for each of a model's inputs, wherever the arrays are."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from extractkit.errors import InputError
from extractkit.inputs.checks import (
    DType,
    check_dtype,
    check_held,
    check_limit,
    check_names,
    check_range,
    check_shapes,
)
from extractkit.inputs.conversion import as_taken, converted
from extractkit.inputs.faults import FAULT, Faults
from extractkit.inputs.fingerprints import contents
from extractkit.inputs.protocol import Identity, InputSpec, Sample, Signature
from extractkit.inputs.strings import CutStringsError
from extractkit.values import Array

_CHUNK_BYTES = 1 << 23
_TEXT_BYTES = 1 << 10


class Column(Protocol):
    """What an array in memory and one on disk have in common. Its first axis is the sample."""

    @property
    def dtype(self) -> DType: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice, /) -> Array: ...


@dataclass(frozen=True, eq=False)
class ColumnSource:
    """Samples along the first axis of arrays.

    Attributes:
        columns: (samples, *shape) by the name of the model's input.
        specs: what the model takes, by the same names.
        at: how messages name what the user gave.
        origin: where the arrays come from.
        count: how many samples are used.
        fingerprint: SHA-256 over the inputs' names, dtypes, shapes and contents as they are read;
            the same for the same numbers in a file and in memory.
        notes: for log and manifest.
    """

    columns: Mapping[str, Column]
    specs: Mapping[str, InputSpec]
    at: str
    origin: str
    count: int
    fingerprint: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.count

    def read(self, start: int, stop: int) -> list[Sample]:
        """The samples start … stop-1, in memory of their own; their ids are their numbers.

        Raises:
            InputError: a value cannot be read, or the model's type cannot hold it.
            JobError: a file has changed since it was bound.
            IndexError: there are no such samples.
        """
        check_range(start, stop, len(self))
        inputs = {
            name: converted(_held(column, self.specs[name], start, stop, self.at), self.specs[name])
            for name, column in self.columns.items()
        }
        return [
            # The ellipsis keeps a scalar an array.
            Sample(
                start + row,
                str(start + row),
                self.origin,
                {name: values[row, ...] for name, values in inputs.items()},
            )
            for row in range(stop - start)
        ]

    def identify(self, index: int) -> Identity:
        """Who the sample of this number is."""
        return Identity(str(index), self.origin)


def bind_columns(
    columns: Mapping[str, Column],
    signature: Signature,
    *,
    at: str,
    origin: str,
    limit: int | None = None,
    notes: tuple[str, ...] = (),
) -> ColumnSource:
    """Hold arrays against what a model takes: their types and shapes, not each single value.

    Args:
        at: how messages name what the user gave.
        origin: where the samples come from.
        limit: the first so many samples; None: all.

    Raises:
        InputError: they do not fit, or no sample can be read.
    """
    check_limit(limit)
    check_names(list(columns), signature, at)
    for spec in signature.specs:
        check_dtype(spec, columns[spec.name].dtype, signature, at)
    ordered = {spec.name: _as_taken(columns[spec.name], spec) for spec in signature.specs}
    found = check_shapes({name: ordered[name].shape for name in ordered}, signature, at)
    count = found if limit is None else min(limit, found)
    return ColumnSource(
        ordered,
        {spec.name: spec for spec in signature.specs},
        at,
        origin,
        count,
        _fingerprint(ordered, signature, count, at),
        (*notes, *_cut_strings(ordered, signature)),
    )


@dataclass(frozen=True, eq=False)
class _Reshaped:
    """A column whose samples have another shape."""

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
    """A note on every column that cannot tell zeros at the end of a string from padding."""
    return [
        f"{spec.name}: values of NumPy's fixed-width type {columns[spec.name].dtype.str!r} end "
        f"before their last zero bytes; bytes that may end in zeros need an array of objects"
        for spec in signature.specs
        if columns[spec.name].dtype.kind == "S"
    ]


def _fingerprint(columns: Mapping[str, Column], signature: Signature, count: int, at: str) -> str:
    """Digest of the values as they will be read, in bounded memory."""
    digest = hashlib.sha256()
    for spec in signature.specs:
        column = columns[spec.name]
        digest.update(f"{spec.name}\0{spec.dtype}\0{(count, *column.shape[1:])}\0".encode())
        faults = Faults()
        for start, stop in _chunks(column, count):
            for part in _contents(column, spec, start, stop, at, faults):
                digest.update(part)
        faults.check(count)
    return digest.hexdigest()


def _contents(
    column: Column, spec: InputSpec, start: int, stop: int, at: str, faults: Faults
) -> Iterator[bytes]:
    """What these rows hold, in parts; rows that are no good are found by halving."""
    try:
        values = _held(column, spec, start, stop, at)
        yield contents(converted(values, spec, copy=False))
    except CutStringsError:
        raise  # leaving out the rows that show it would let others pass
    except InputError as error:
        if stop - start == 1:
            faults.add(error)
            yield FAULT
            return
        middle = (start + stop) // 2
        yield from _contents(column, spec, start, middle, at, faults)
        yield from _contents(column, spec, middle, stop, at, faults)


def _held(column: Column, spec: InputSpec, start: int, stop: int, at: str) -> Array:
    """These rows, every value of which the model's type can hold."""
    values = column[start:stop]
    check_held(spec, values, at)
    return values


def _chunks(column: Column, count: int) -> Iterator[tuple[int, int]]:
    # Of a text, the array itself holds the address alone.
    size = _TEXT_BYTES if column.dtype.hasobject else column.dtype.itemsize
    row_bytes = size * int(np.prod(column.shape[1:], dtype=np.int64))
    step = max(1, _CHUNK_BYTES // max(1, row_bytes))
    return ((start, min(start + step, count)) for start in range(0, count, step))
