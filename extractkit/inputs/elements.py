"""What the elements of somebody's dataset are to a model: a text or arrays, and what is left over.

An element is a single value, a mapping, or a tuple, whose values have their positions as names
("0", "1", …); of a tuple that begins with a mapping, as Keras takes features with a label, the
mapping's values keep their names.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np

from extractkit.errors import InputError, UserError
from extractkit.inputs.checks import describe
from extractkit.inputs.fields import input_fields, reads_text, text_field
from extractkit.inputs.protocol import Identity, InputSpec, Sample, Signature
from extractkit.inputs.sparse import positions_of, row_of
from extractkit.inputs.strings import check_width, string_data
from extractkit.plan import numpy_dtype
from extractkit.tensors import TEXT
from extractkit.values import Array, as_array


@dataclass(frozen=True)
class Elements:
    """How elements become samples.

    Attributes:
        signature: what the model takes.
        columns: for each of its inputs the name of the value; None: the same names, or in a tuple
            the positions, in the order of the inputs.
        column: name of the text, for a model that takes text and without `columns`.
        source: where the samples come from.
    """

    signature: Signature
    columns: Mapping[str, str] | None
    column: str
    source: str

    def sample(self, index: int, element: object, at: str) -> Sample:
        """One element, not yet held against the model's types and shapes.

        Raises:
            InputError: it lacks a value.
        """
        text = reads_text(self.columns, self.column, self.signature)
        named = _named(element, several=not text and len(self.signature.specs) > 1)
        if named is None:
            return self._single(index, element, text, at)
        if text:
            positions = isinstance(element, tuple) and self.column not in named
            column = "0" if positions else self.column
            field = text_field(column, list(named), self.signature, at)
            used = {field}
            data: str | dict[str, Array] = string_data(
                named[field], self.signature, f"{at}: {field!r}"
            )
        else:
            fields = self._fields(element, named, at)
            used = set(fields.values())
            data = {
                spec.name: _array(named[fields[spec.name]], spec, f"{at}: {fields[spec.name]!r}")
                for spec in self.signature.specs
            }
        rest = {key: _plain(value) for key, value in named.items() if key not in used}
        extra = {key: value for key, value in rest.items() if value is not None}
        return Sample(index, str(index), self.source, data, extra)

    def _fields(self, element: object, named: Mapping[str, object], at: str) -> dict[str, str]:
        columns = self.columns
        if columns is None and not isinstance(element, Mapping) and "0" in named:
            names = [spec.name for spec in self.signature.specs]
            columns = {name: str(position) for position, name in enumerate(names)}
        return input_fields(columns, self.signature, list(named), at)

    def _single(self, index: int, element: object, text: bool, at: str) -> Sample:
        if text:
            data = string_data(element, self.signature, at)
            return Sample(index, str(index), self.source, data)
        if len(self.signature.specs) != 1:
            raise InputError(
                f"{at} is one value, {type(element).__name__}, and model "
                f"{self.signature.model!r} takes {describe(self.signature)}. "
                f"Give a mapping from their names, or a tuple in their order"
            )
        spec = self.signature.specs[0]
        return Sample(index, str(index), self.source, {spec.name: _array(element, spec, at)})


class Sequential:
    """The elements of a sequence, asked for one at a time: it may not be made for threads.

    Args:
        sequence: with `__len__` and `__getitem__`.
        elements: how its elements become samples.
        at: how messages name it.
    """

    def __init__(self, sequence: Any, elements: Elements, at: str) -> None:
        self._sequence = sequence
        self._elements = elements
        self._at = at
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._sequence)

    def record(self, index: int) -> Sample:
        """The element of this number as a sample.

        Raises:
            InputError: it cannot be read, or lacks a value.
        """
        at = f"{self._at}, sample {index}"
        try:
            with self._lock:
                element = self._sequence[index]
        except UserError:
            raise
        except Exception as error:  # the user's own code
            raise InputError(f"{at} cannot be read: {summary(error)}") from error
        return self._elements.sample(index, element, at)

    def identify(self, index: int) -> Identity:
        """Who the sample of this number is: nothing but the number tells."""
        return Identity(str(index), self._elements.source)


class Rows:
    """Values of many samples as a sequence of elements: a mapping or tuple of arrays, or an array.

    Args:
        values: the samples lie along their first axis.

    Raises:
        InputError: they differ in their number of samples, or have none; or bytes of a fixed-width
            type may have been cut.
    """

    def __init__(self, values: object, at: str) -> None:
        named = _named(values, several=False)
        self._positions = isinstance(values, tuple) and not isinstance(values[0], Mapping)
        self._values = values if named is None else named
        counts = {
            name: len(value) if hasattr(value, "__len__") else None
            for name, value in (named or {"": values}).items()
        }
        if len(set(counts.values())) != 1 or None in counts.values():
            listed = ", ".join(
                f"{name!r} has {'none' if count is None else count}"
                for name, count in counts.items()
            )
            raise InputError(f"{at}: the values differ in their number of samples: {listed}")
        self._count = next(iter(counts.values())) or 0
        # A single row no longer tells how wide its type was.
        for name, value in (named or {"": values}).items():
            if isinstance(value, np.ndarray):
                check_width(value, f"{at}: {name!r}" if name else at)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, row: int) -> object:
        if not isinstance(self._values, Mapping):
            return self._values[row]  # type: ignore[index]
        element = {name: value[row] for name, value in self._values.items()}
        return tuple(element.values()) if self._positions else element

    def __iter__(self) -> Iterator[object]:
        return (self[row] for row in range(len(self)))


def summary(error: Exception) -> str:
    """Return the type and the first line of an error that other people's code raised."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def _named(element: object, several: bool) -> dict[str, object] | None:
    """The values by name; None for a single one. A list is a tuple where `several` are wanted."""
    if isinstance(element, Mapping):
        return {str(name): value for name, value in element.items()}
    if not isinstance(element, tuple) and not (several and isinstance(element, list)):
        return None
    named = {str(position): value for position, value in enumerate(element)}
    if isinstance(first := named.get("0"), Mapping):
        del named["0"]
        return {str(name): value for name, value in first.items()} | named
    return named


def _array(value: object, spec: InputSpec, at: str) -> Array:
    if value is None:
        raise InputError(f"{at} is missing (None). Fill it in, or leave the sample out")
    if len(spec.shape) == 1 and (given := positions_of(value)) is not None:
        return row_of(given, spec, at)
    if spec.dtype == TEXT and isinstance(value, bytearray | memoryview):
        value = bytes(value)
    try:
        array = as_array(value) if spec.dtype == TEXT else np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{at} makes no array: {error}") from error
    # NumPy takes an empty list for real numbers.
    typed = array.size > 0 or hasattr(value, "dtype")
    return array if typed else array.astype(numpy_dtype(spec.dtype))


def _plain(value: object) -> str | int | float | bool | None:
    """A single value as it can be written down; None for all others."""
    if isinstance(value, np.generic) or getattr(value, "shape", None) == ():
        value = as_array(value).item()
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if isinstance(value, str):
        # Half a surrogate pair cannot be written down.
        return value.encode("utf-8", "backslashreplace").decode()
    return value if isinstance(value, bool | int | float) else None
