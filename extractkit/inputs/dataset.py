"""Samples from any Python callable: lists, generators, `tf.data`, Hugging Face datasets, …"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

from extractkit.component import Component
from extractkit.errors import InputError, UserError
from extractkit.inputs.checks import check_limit
from extractkit.inputs.elements import Elements, Rows, Sequential, summary
from extractkit.inputs.fields import TEXT_COLUMN
from extractkit.inputs.protocol import Signature
from extractkit.inputs.records import RecordSource, bind_records, fitted
from extractkit.inputs.spool import Spool

# What `tf.data.Dataset.cardinality` says of a dataset without an end.
_INFINITE = -1


@dataclass(frozen=True)
class Dataset:
    """What a callable returns.

    That is a sequence of samples (anything with `__len__` and `__getitem__`: a list, a PyTorch or
    Hugging Face dataset, a tfds data source), a mapping or tuple of arrays with samples along
    their first axis, a `tf.data.Dataset`, or any iterable. What can only be gone through is copied
    to a temporary file on the way, and read from there.

    A sample is an array, a text, a mapping with a value for each of the model's inputs, or a tuple
    in their order. What else is in it, a label say, goes to samples.jsonl if it is a single value.

    Attributes:
        dataset: the callable, with its arguments.
        columns: for each of the model's inputs the name, or in a tuple the position, of its value.
        column: the name of the text, for a model that takes text and without `columns`.
        batched: whether what comes is batches, to be taken apart along their first axis.
        limit: the first so many samples; None: all.

    Raises:
        InputError: `limit` is no whole number of 1 or more, `batched` not true or false.
    """

    dataset: Component | None
    columns: Mapping[str, str] | None = None
    column: str = TEXT_COLUMN
    batched: bool = False
    limit: int | None = None

    def __post_init__(self) -> None:
        check_limit(self.limit)
        if not isinstance(self.batched, bool):
            raise InputError(f"inputs.batched={self.batched!r} is not true or false")

    def bind(self, signature: Signature) -> RecordSource:
        """Call the callable, read every sample once and hold it against what the model takes.

        Raises:
            InputError: the callable fails, returns something else, or none of its samples fits.
            ConfigError: there is no such callable, or it cannot be called so.
            DiskSpaceError: the temporary file fills the disk.
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
        elements = Elements(signature, columns, self.column, self.dataset.target)
        returned = _called(self.dataset, at)
        sequence = None if self.batched else _sequence(returned, at)
        if sequence is not None:
            records = Sequential(sequence, elements, at)
            return bind_records(records, signature, at=at, limit=self.limit)
        spool = self._spooled(_iterable(returned, self.limit, at), elements, at)
        note = "inputs.dataset gives its samples in turn; they were kept in a temporary file"
        return bind_records(spool, signature, at=at, notes=(note,))

    def _spooled(self, iterable: Iterable[object], elements: Elements, at: str) -> Spool:
        spool = Spool(elements.source)
        given = _unbatched(iterable, at) if self.batched else iterable
        for index, element in enumerate(_guarded(islice(given, self.limit), at)):
            try:
                sample = elements.sample(index, element, f"{at}, sample {index}")
                spool.append(fitted(sample, index, elements.signature, at))
            except InputError as error:
                spool.append(error)
        return spool


def _called(component: Component, at: str) -> object:
    try:
        return component.instantiate()
    except UserError:
        raise
    except Exception as error:  # the user's own code
        raise InputError(f"{at} failed: {summary(error)}") from error


def _sequence(returned: object, at: str) -> Any:
    """What can be read at random, or None. TensorFlow's datasets have a length, and cannot."""
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
        # By its length: not every sequence says so where it ends.
        return (sequence[index] for index in range(len(sequence)))
    if isinstance(returned, Iterable) and not isinstance(returned, str | bytes):
        return returned
    partial = ". Leave out _partial_" if callable(returned) else ""
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
    """The same elements; what their making raises is told as one message."""
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
