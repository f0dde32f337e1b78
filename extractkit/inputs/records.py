"""Samples from records: each is read by itself and may have lengths of its own."""

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
from extractkit.inputs.checks import (
    FAULT,
    Faults,
    check_dtype,
    check_held,
    check_names,
    check_range,
    check_shapes,
    check_takes_text,
    check_text,
)
from extractkit.inputs.conversion import as_taken, converted
from extractkit.inputs.files import sample_digest
from extractkit.inputs.protocol import Identity, Sample, Signature


class Spool:
    """Samples in a temporary file (in `TMPDIR`), at 8 bytes of memory each.

    The file has no name: nobody else can write to it, which is why it may be unpickled, and it is
    gone with this object or with the process, however that ends.

    Args:
        source: where the samples come from.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._offsets = array("q", [0])
        # Without a context, as it is open for as long as this object lives.
        weakref.finalize(self, self._file.close)

    def append(self, sample: Sample | InputError) -> None:
        """Add a sample behind the others, or what is wrong with it.

        Raises:
            DiskSpaceError: the disk is full.
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
        """Who the sample of this number is: nothing but the number tells."""
        return Identity(str(index), self._source)

    def record(self, index: int) -> Sample:
        """Return the sample of this number.

        Raises:
            InputError: it is no good.
        """
        start, stop = self._offsets[index], self._offsets[index + 1]
        # Reading at an offset leaves the file's position alone: threads do not meet in it.
        parts = []
        while start < stop:
            parts.append(os.pread(self._file.fileno(), stop - start, start))
            start += len(parts[-1])
        sample: Sample | InputError = pickle.loads(b"".join(parts))
        if isinstance(sample, InputError):
            raise sample
        return sample


# Of each sample's digest so many bytes stay in memory: enough to notice that it has changed.
_MARK = 8


class Records(Protocol):
    """What can be read at random, before it is held against what the model takes."""

    def __len__(self) -> int: ...

    def record(self, index: int) -> Sample:
        """Return one record as it is stored; may be called from any thread."""
        ...

    def identify(self, index: int) -> Identity:
        """Who the sample of this record is, without reading it."""
        ...


def shaped(values: Array, shape: Sequence[int | None]) -> Array:
    """Return a flat list in the shape that a model takes, where that is all that tells it.

    Values that have axes of their own, or do not fill the shape, are left as they are.
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
        """Return the record of this number, counted through all of them."""
        part, inside = self._find(index)
        return part.record(inside)

    def identify(self, index: int) -> Identity:
        """Who that record's sample is."""
        part, inside = self._find(index)
        return part.identify(inside)

    def _find(self, index: int) -> tuple[Records, int]:
        part = bisect_right(self._ends, index)
        return self._parts[part], index - (self._ends[part - 1] if part else 0)


@dataclass(frozen=True, eq=False)
class RecordSource:
    """Records as samples in the model's types, read one by one.

    Attributes:
        records: where they come from.
        signature: what the model takes.
        at: how messages name what the user gave.
        marks: the first 8 bytes of every sample's digest, end to end.
        fingerprint: SHA-256 over the digests of all samples.
        notes: for log and manifest.
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
            InputError: a sample cannot be read, does not fit, or is not the same as when it was
                bound.
            JobError: a file has changed since it was bound.
            IndexError: there are no such samples.
        """
        check_range(start, stop, len(self))
        return [self._sample(index) for index in range(start, stop)]

    def identify(self, index: int) -> Identity:
        """Who the sample of this number is."""
        return self.records.identify(index)

    def _sample(self, index: int) -> Sample:
        sample = fitted(self.records.record(index), index, self.signature, self.at)
        if not sample_digest(sample).startswith(self.marks[index * _MARK : (index + 1) * _MARK]):
            raise InputError(
                f"{self.at}: sample {sample.id!r} differs from one reading to the next. "
                f"Samples are read more than once: leave out what is random in making them"
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
    """Read every record once and hold it against what a model takes.

    Memory grows by 8 bytes a record.

    Args:
        at: how messages name what the user gave.
        limit: the first so many; None: all.

    Raises:
        InputError: there is none, or none can be read and fits.
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
    # What differs from reading to reading shows already in the first.
    if first_good is not None:
        source.read(first_good, first_good + 1)
    return source


def fitted(sample: Sample, index: int, signature: Signature, at: str) -> Sample:
    """Return the sample of this number as the model takes it: its types, in memory of its own.

    Raises:
        InputError: it does not fit; the message names it by its id.
    """
    where = f"{at}, sample {sample.id!r}"
    if isinstance(sample.data, str):
        check_takes_text(signature, where, "Choose numbers: inputs.columns={INPUT:COLUMN,…}")
        check_text(sample.data, where)
        return replace(sample, index=index)
    given = sample.data
    check_names(list(given), signature, where)
    for spec in signature.specs:
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
