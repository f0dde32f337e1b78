"""Samples from records that are read one by one and may differ in length."""

import hashlib
import math
import os
import pickle
import tempfile
import weakref
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Protocol

from extractkit.core.values import Array
from extractkit.errors import DiskSpaceError, InputError
from extractkit.inputs import Identity, Sample, Signature
from extractkit.inputs.checks import (
    FAULT,
    Faults,
    check_dtype,
    check_held,
    check_names,
    check_objects,
    check_range,
    check_shapes,
    check_takes_text,
    check_text,
)
from extractkit.inputs.conversion import as_taken, converted
from extractkit.inputs.file_access import sample_digest


class Spool:
    """Samples in a temporary file (in `TMPDIR`), at 8 bytes of memory each.

    The file is anonymous. No other process can write to it, so it is safe to unpickle, and it is
    deleted with this object or when the process ends.

    Args:
        source: The origin of the samples.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._offsets = array("q", [0])
        # Without a context manager, since it stays open as long as this object.
        weakref.finalize(self, self._file.close)

    def append(self, sample: Sample | InputError) -> None:
        """Append a sample, or the error of reading it.

        Raises:
            DiskSpaceError: The disk is full.
        """
        try:
            pickle.dump(sample, self._file, pickle.HIGHEST_PROTOCOL)
            self._file.flush()
        except OSError as error:
            raise DiskSpaceError(
                f"{tempfile.gettempdir()} cannot hold the samples, which are kept there to be read "
                f"at random ({error.strerror}). Set inputs.limit, or give another folder: TMPDIR=…"
            ) from error
        self._offsets.append(self._file.tell())

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def identify(self, index: int) -> Identity:
        """Return the identity of the sample of this number, which is only its number."""
        return Identity(str(index), self._source)

    def record(self, index: int) -> Sample:
        """Return the sample of this number.

        Raises:
            InputError: It could not be read.
        """
        start, stop = self._offsets[index], self._offsets[index + 1]
        # Reading at an offset does not move the file's position, which threads share.
        parts = []
        while start < stop:
            parts.append(os.pread(self._file.fileno(), stop - start, start))
            start += len(parts[-1])
        sample: Sample | InputError = pickle.loads(b"".join(parts))
        if isinstance(sample, InputError):
            raise sample
        return sample


# The bytes of each digest kept in memory: enough to detect changes.
_MARK = 8


class Records(Protocol):
    """Records with random access, before they are checked against the model's inputs."""

    def __len__(self) -> int: ...

    def record(self, index: int) -> Sample:
        """Return one record as stored. Thread-safe."""
        ...

    def identify(self, index: int) -> Identity:
        """Return the identity of this record's sample, without reading it."""
        ...


def shaped(values: Array, shape: Sequence[int | None]) -> Array:
    """Return a flat list of values in the shape that a model takes.

    Values with several axes, or that do not fill the shape, are returned unchanged.
    """
    if values.ndim != 1 or len(shape) == 1 or shape.count(None) > 1:
        return values
    wanted = [-1 if size is None else size for size in shape]
    fixed = math.prod(size for size in wanted if size != -1)
    fits = fixed and values.size % fixed == 0 if -1 in wanted else values.size == fixed
    return values.reshape(wanted) if fits else values


class Chain:
    """The records of several files, one after another."""

    def __init__(self, parts: Sequence[Records]) -> None:
        self._parts = tuple(parts)
        self._ends = list(accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def record(self, index: int) -> Sample:
        """Return the record of this number, counted over all parts."""
        part, inside = self._find(index)
        return part.record(inside)

    def identify(self, index: int) -> Identity:
        """Return the identity of that record's sample."""
        part, inside = self._find(index)
        return part.identify(inside)

    def _find(self, index: int) -> tuple[Records, int]:
        part = bisect_right(self._ends, index)
        return self._parts[part], index - (self._ends[part - 1] if part else 0)


@dataclass(frozen=True, eq=False)
class RecordSource:
    """A source of records, converted to the model's types one by one.

    Attributes:
        records: The records.
        signature: The model's inputs.
        at: The configuration key and value, for messages.
        marks: The first 8 bytes of every sample's digest, concatenated.
        fingerprint: The SHA-256 over the digests of all samples.
        notes: Notes for the log and the manifest.
    """

    records: Records
    signature: Signature
    at: str
    marks: bytes
    fingerprint: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.marks) // _MARK

    def read(self, start: int, stop: int) -> list[Sample]:
        """Return the samples start … stop-1, in memory of their own.

        Raises:
            InputError: A sample cannot be read, does not fit, or has changed since it was bound.
            JobError: The file has changed since it was bound.
            IndexError: The range is outside the source.
        """
        check_range(start, stop, len(self))
        return [self._sample(index) for index in range(start, stop)]

    def identify(self, index: int) -> Identity:
        """Return the identity of the sample of this number."""
        return self.records.identify(index)

    def _sample(self, index: int) -> Sample:
        sample = fitted(self.records.record(index), index, self.signature, self.at)
        if not sample_digest(sample).startswith(self.marks[index * _MARK : (index + 1) * _MARK]):
            raise InputError(
                f"{self.at}: sample {sample.id!r} differs from one reading to the next. "
                f"Samples are read more than once: make them without random steps"
            )
        return sample


def bind_records(
    records: Records,
    signature: Signature,
    *,
    at: str,
    limit: int | None = None,
    notes: tuple[str, ...] = (),
) -> RecordSource:
    """Read every record once and check it against the model's inputs.

    Memory grows by 8 bytes per record.

    Args:
        at: The configuration key and value, for messages.
        limit: The number of samples to use. If None, all.

    Raises:
        InputError: There is no record, or none can be read and fits.
    """
    count = len(records) if limit is None else min(limit, len(records))
    if not count:
        raise InputError(f"{at} holds no sample. Give at least one")
    digest = hashlib.sha256()
    marks = bytearray()
    faults = Faults()
    first_good: int | None = None
    for index in range(count):
        try:
            one = sample_digest(fitted(records.record(index), index, signature, at))
        except InputError as error:
            faults.add(error)
            one = FAULT
        else:
            first_good = index if first_good is None else first_good
        digest.update(one)
        marks += one[:_MARK]
    faults.check(count)
    source = RecordSource(records, signature, at, bytes(marks), digest.hexdigest(), notes)
    # Random samples are detected by reading the first one twice.
    if first_good is not None:
        source.read(first_good, first_good + 1)
    return source


def fitted(sample: Sample, index: int, signature: Signature, at: str) -> Sample:
    """Return the sample of this number in the model's types, in memory of its own.

    Raises:
        InputError: It does not fit. The message names its id.
    """
    where = f"{at}, sample {sample.id!r}"
    if isinstance(sample.data, str):
        check_takes_text(signature, where, "Choose numbers: inputs.columns={INPUT:COLUMN,…}")
        check_text(sample.data, where)
        return replace(sample, index=index)
    given = sample.data
    check_names(list(given), signature, where)
    for spec in signature.specs:
        check_objects(spec, given[spec.name], signature, where)
        check_dtype(spec, given[spec.name].dtype, signature, where)
        check_held(spec, given[spec.name], where)
    data = {
        spec.name: converted(
            given[spec.name].reshape(as_taken(given[spec.name].shape, spec.shape)), spec
        )
        for spec in signature.specs
    }
    check_shapes({name: (1, *value.shape) for name, value in data.items()}, signature, where)
    return replace(sample, index=index, data=data)
