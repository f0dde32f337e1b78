"""Samples from records that are read one by one and may differ in length."""

import hashlib
import math
import os
import pickle
import tempfile
import weakref
from array import array
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Protocol

from extractkit.core.values import Array
from extractkit.errors import DiskSpaceError, InputError
from extractkit.inputs import Identity, Sample, Signature, Unreadable, Visit
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
from extractkit.inputs.labels import label_of


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
        digest: The SHA-256 over the digests of all samples.
        notes: Notes for the log and the manifest.
        file_digests: See `HashesFiles`.
    """

    records: Records
    signature: Signature
    at: str
    marks: bytes
    digest: str
    notes: tuple[str, ...] = ()
    file_digests: Mapping[Path, str] = field(default_factory=dict)

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


class Scan:
    """One pass over records: checks them against the model's inputs and computes their digest.

    Memory grows by 8 bytes per record.

    Args:
        signature: The model's inputs.
        at: The configuration key and value, for messages.
        visit: Receives every sample. If None, no one needs them.
    """

    def __init__(self, signature: Signature, at: str, visit: Visit | None) -> None:
        self._signature = signature
        self._at = at
        self._visit = visit
        self._digest = hashlib.sha256()
        self._marks = bytearray()
        self._faults = Faults()
        self._first_good: int | None = None

    def add(
        self, record: Callable[[], Sample], identify: Callable[[], Identity]
    ) -> Sample | InputError:
        """Add the next record, and return its sample in the model's types, or why it has none.

        Args:
            record: Reads it; may raise InputError.
            identify: Returns its identity if that fails.
        """
        index = len(self)
        found: Sample | InputError
        try:
            found = fitted(record(), index, self._signature, self._at)
            digest = sample_digest(found)
        except InputError as error:
            found = error
            self._faults.add(error)
            digest = FAULT
            if self._visit is not None:
                self._visit(Unreadable(index, identify(), error))
        else:
            self._first_good = index if self._first_good is None else self._first_good
            if self._visit is not None:
                self._visit(found)
        self._digest.update(digest)
        self._marks += digest[:_MARK]
        return found

    def __len__(self) -> int:
        return len(self._marks) // _MARK

    def source(
        self,
        records: Records,
        notes: tuple[str, ...] = (),
        file_digests: Mapping[Path, str] | None = None,
    ) -> RecordSource:
        """Return the source of the records that were added.

        Args:
            records: The same records.
            notes, file_digests: See `RecordSource`.

        Raises:
            InputError: There is no record, or none can be read and fits.
        """
        if not len(self):
            raise InputError(f"{self._at} holds no sample. Give at least one")
        self._faults.check(len(self))
        source = RecordSource(
            records,
            self._signature,
            self._at,
            bytes(self._marks),
            self._digest.hexdigest(),
            notes,
            file_digests or {},
        )
        # Random samples are detected by reading the first one twice.
        if self._first_good is not None:
            source.read(self._first_good, self._first_good + 1)
        return source


def bind_records(
    records: Records,
    signature: Signature,
    *,
    at: str,
    visit: Visit | None,
    limit: int | None = None,
) -> RecordSource:
    """Read every record once; see `Scan`.

    Args:
        at: The configuration key and value, for messages.
        visit: Receives every sample.
        limit: The number of samples to use. If None, all.

    Raises:
        InputError: There is no record, or none can be read and fits.
    """
    scan = Scan(signature, at, visit)
    for index in range(len(records) if limit is None else min(limit, len(records))):
        scan.add(partial(records.record, index), partial(records.identify, index))
    return scan.source(records)


def fitted(sample: Sample, index: int, signature: Signature, at: str) -> Sample:
    """Return the sample of this number in the model's types, in memory of its own.

    Raises:
        InputError: It does not fit. The message names its id.
    """
    where = f"{at}, sample {sample.id!r}"
    if isinstance(sample.data, str):
        check_takes_text(signature, where, "Choose numbers: inputs.columns={INPUT:COLUMN,…}")
        check_text(sample.data, where)
        return replace(sample, index=index, label=_label(sample, signature, where))
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
    return replace(sample, index=index, data=data, label=_label(sample, signature, where))


def _label(sample: Sample, signature: Signature, where: str) -> Array | None:
    """Return the label of a sample in the form of the signature."""
    return None if signature.label is None else label_of(sample.label, signature.label, where)
