"""Samples from any Python callable: lists, generators, `tf.data`, Hugging Face datasets, tfds.

An element is a single value, a mapping, or a tuple. The values of a tuple are named by position
("0", "1", …). If it begins with a mapping, as Keras's (features, label), the mapping's values keep
their names.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from threading import Lock
from typing import Annotated, Any

import numpy as np

from extractkit.core.component import Component
from extractkit.core.keys import DecidesValues
from extractkit.core.picks import LABELS
from extractkit.core.spec import TEXT, numpy_dtype
from extractkit.core.values import Array, as_array
from extractkit.errors import InputError, UserError
from extractkit.inputs import Identity, InputSpec, Sample, Scanning, Signature, Visit
from extractkit.inputs.checks import check_limit, describe
from extractkit.inputs.columns import TEXT_COLUMN, input_fields, reads_text, text_field
from extractkit.inputs.conversion import (
    check_unmasked,
    check_width,
    positions_of,
    row_of,
    string_data,
)
from extractkit.inputs.labels import label_name, without_labels
from extractkit.inputs.records import RecordSource, Scan, Spool, bind_records


@dataclass(frozen=True)
class Elements:
    """The conversion of elements to samples.

    Attributes:
        signature: The model's inputs.
        columns: The name of the value for each input. If None, the inputs' names, or in a tuple
            their positions.
        column: The name of the text, for a model that takes text and without `columns`.
        source: The origin of the samples.
        labels: The name of the label. If None, there is none.
    """

    signature: Signature
    columns: Mapping[str, str] | None
    column: str
    source: str
    labels: str | None = None

    def sample(self, index: int, element: object, at: str) -> Sample:
        """Return one element as a sample, not yet checked against the model's types and shapes.

        Raises:
            InputError: It lacks a value.
        """
        text = reads_text(self.columns, self.column, self.signature)
        several = self.labels is not None or (not text and len(self.signature.specs) > 1)
        every = _named(element, several=several)
        if every is None:
            return self._single(index, element, text, at)
        named, label = without_labels(every, self.labels, at)
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
        rest = {key: _plain(value) for key, value in every.items() if key not in used}
        extra = {key: value for key, value in rest.items() if value is not None}
        return Sample(index, str(index), self.source, data, extra, label)

    def _fields(self, element: object, named: Mapping[str, object], at: str) -> dict[str, str]:
        columns = self.columns
        if columns is None and not isinstance(element, Mapping) and "0" in named:
            names = [spec.name for spec in self.signature.specs]
            columns = {name: str(position) for position, name in enumerate(names)}
        return input_fields(columns, self.signature, named, at, self.labels)

    def _single(self, index: int, element: object, text: bool, at: str) -> Sample:
        if self.labels is not None:
            raise InputError(
                f"{at} is one value, {type(element).__name__}, and has no {self.labels!r} "
                f"({LABELS}). Give a tuple of input and label, {LABELS}=1, or a mapping"
            )
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
    """The elements of a sequence, read one at a time, since it may not be thread-safe.

    Args:
        sequence: An object with `__len__` and `__getitem__`.
        elements: The conversion of its elements.
        at: Its name in messages.
    """

    def __init__(self, sequence: Any, elements: Elements, at: str) -> None:
        self._sequence = sequence
        self._elements = elements
        self._at = at
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._sequence)

    def record(self, index: int) -> Sample:
        """Return the element of this number as a sample.

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
        """Return the identity of the sample of this number, which is only its number."""
        return Identity(str(index), self._elements.source)


class Rows:
    """A mapping or tuple of arrays, or one array, as a sequence of elements.

    Args:
        values: The arrays, with samples along their first axis.

    Raises:
        InputError: Their numbers of samples differ or are 0, or bytes of a fixed-width type may
            have been cut.
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
        # The width of the array's type is not known from a single row.
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
    """Return the type and the first line of an error raised by third-party code."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def _named(element: object, several: bool) -> dict[str, object] | None:
    """Return the values by name, or None for a single value.

    A list is treated as a tuple if `several` values are wanted.
    """
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
    check_unmasked(value, at)
    if len(spec.shape) == 1 and (given := positions_of(value)) is not None:
        return row_of(given, spec, at)
    if spec.dtype == TEXT and isinstance(value, bytearray | memoryview):
        value = bytes(value)
    try:
        array = as_array(value) if spec.dtype == TEXT else np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{at} cannot be converted to an array: {error}") from error
    # NumPy gives an empty list a floating-point dtype.
    typed = array.size > 0 or hasattr(value, "dtype")
    return array if typed else array.astype(numpy_dtype(spec.dtype))


def _plain(value: object) -> str | int | float | bool | None:
    """Return a scalar that JSON can hold, or None for all other values."""
    if value is np.ma.masked:
        return None
    if isinstance(value, np.generic) or getattr(value, "shape", None) == ():
        value = as_array(value).item()
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if isinstance(value, str):
        # Half a surrogate pair cannot be encoded.
        return value.encode("utf-8", "backslashreplace").decode()
    return value if isinstance(value, bool | int | float) else None


# The value of `tf.data.Dataset.cardinality` for an infinite dataset.
_INFINITE = -1


@dataclass(frozen=True)
class Dataset(Scanning):
    """The samples that a callable returns.

    It may return a sequence of samples (anything with `__len__` and `__getitem__`: a list, a
    PyTorch or Hugging Face dataset, a tfds data source), a mapping or tuple of arrays with samples
    along their first axis, a `tf.data.Dataset`, or any iterable. The elements of an iterable are
    copied to a temporary file, to be read at random.

    A sample is an array, a text, a mapping with a value for each of the model's inputs, or a tuple
    in their order. Other single values, such as a label, are stored in samples.jsonl.

    Attributes:
        dataset: The `_target_` of the callable, with its arguments. Required.
        columns: The name, or the position in a tuple, of the value for each of the model's inputs.
            If None, the inputs' names, or the order of a tuple.
        column: The name of the text, for a model that takes text and without `columns`.
        batched: Whether the elements are batches, to be split along their first axis.
        limit: The number of samples to use. If None, all.
        labels: The name, or the position in a tuple, of each sample's label, as targets of
            gradients take it: 1 in Keras's (x, y). If None, there is none.

    Raises:
        InputError: `limit` is not a whole number of at least 1, `batched` not true or false.
    """

    dataset: DecidesValues[Annotated[Component | None, "mapping or null"]]
    columns: DecidesValues[Mapping[str, str] | None] = None
    column: DecidesValues[str] = TEXT_COLUMN
    batched: DecidesValues[bool] = False
    limit: DecidesValues[int | None] = None
    labels: DecidesValues[str | int | None] = None

    def __post_init__(self) -> None:
        check_limit(self.limit)
        label_name(self.labels)
        if not isinstance(self.batched, bool):
            raise InputError(f"inputs.batched={self.batched!r} is not true or false")

    def scan(self, signature: Signature, visit: Visit | None) -> RecordSource:
        """Call the callable, read every sample once and check it against the model's inputs.

        Raises:
            InputError: The callable fails, returns something else, or none of its samples fits.
            ConfigError: The callable does not exist, or does not take these arguments.
            DiskSpaceError: The temporary file fills the disk.
        """
        if not isinstance(self.dataset, Component):
            raise InputError(
                "inputs.dataset._target_ is missing. Give the dotted path of a callable that "
                "returns samples: inputs.dataset._target_=package.module.function"
            )
        at = f"inputs.dataset._target_={self.dataset.target!r}"
        columns = self.columns
        if columns is not None:
            columns = {name: str(field) for name, field in columns.items()}
        labels = label_name(self.labels)
        elements = Elements(signature, columns, self.column, self.dataset.target, labels)
        returned = _called(self.dataset, at)
        sequence = None if self.batched else _sequence(returned, at)
        if sequence is not None:
            records = Sequential(sequence, elements, at)
            return bind_records(records, signature, at=at, visit=visit, limit=self.limit)
        iterable = _iterable(returned, self.limit, at)
        given = _unbatched(iterable, at) if self.batched else iterable
        spool, scan = Spool(elements.source), Scan(signature, at, visit)
        for index, element in enumerate(_guarded(islice(given, self.limit), at)):
            read = partial(elements.sample, index, element, f"{at}, sample {index}")
            spool.append(scan.add(read, partial(spool.identify, index)))
        note = "inputs.dataset gives its samples in turn; they were kept in a temporary file"
        return scan.source(spool, (note,))


def _called(component: Component, at: str) -> object:
    try:
        return component.instantiate()
    except UserError:
        raise
    except Exception as error:  # the user's own code
        raise InputError(f"{at} failed: {summary(error)}") from error


def _sequence(returned: object, at: str) -> Any:
    """Return the value as a sequence, or None if it cannot be read at random.

    TensorFlow's datasets have a length, but no random access.
    """
    if _is_tensorflow(returned) or isinstance(returned, str | bytes):
        return None
    if isinstance(returned, Mapping | tuple):
        return Rows(returned, at)
    if hasattr(returned, "__len__") and hasattr(returned, "__getitem__"):
        return returned
    return None


def _iterable(returned: Any, limit: int | None, at: str) -> Iterable[object]:
    if _is_tensorflow(returned):
        if limit is None and int(returned.cardinality()) == _INFINITE:
            raise InputError(f"{at} returns a dataset without an end. Set inputs.limit")
        iterable: Iterable[object] = returned.as_numpy_iterator()
        return iterable
    if (sequence := _sequence(returned, at)) is not None:
        # By its length: not every sequence raises IndexError at its end.
        return (sequence[index] for index in range(len(sequence)))
    if isinstance(returned, Iterable) and not isinstance(returned, str | bytes):
        return returned
    partial = ". Remove _partial_" if callable(returned) else ""
    raise InputError(
        f"{at} returns {type(returned).__name__}, which holds no samples: give a sequence, a "
        f"mapping of arrays, a tf.data.Dataset or an iterable{partial}"
    )


def _is_tensorflow(returned: object) -> bool:
    return hasattr(returned, "as_numpy_iterator")


def _unbatched(batches: Iterable[object], at: str) -> Iterator[object]:
    for batch in batches:
        yield from Rows(batch, at)


def _guarded(elements: Iterable[object], at: str) -> Iterator[object]:
    """Yield the elements, and convert the errors of their generator to an InputError."""
    iterator = iter(elements)
    for index in count():
        try:
            element = next(iterator)
        except StopIteration:
            return
        except UserError:
            raise
        except Exception as error:  # the user's own code
            raise InputError(f"{at}, sample {index} cannot be read: {summary(error)}") from error
        yield element
