"""The survey of all samples, before any value is computed: lengths, rows, missing samples.

It is taken in the pass in which inputs compute their digest, or in a pass of its own.
"""

import hashlib
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from extractkit.core.plan import PlannedTensor, SampleLengths
from extractkit.engine.batches import encode
from extractkit.errors import InputError, RunDirectoryError, counted
from extractkit.inputs import Identity, Sample, Signature, Source, Unreadable, identity
from extractkit.models import CarriesState, Encoded, Model
from extractkit.models.process import free_memory
from extractkit.runs.directory import human_bytes
from extractkit.runs.samples import MISSING, RESERVED, Row, why_missing

WAY_OUT = "To leave such samples out: runtime.bad_samples=skip"


def named(sample_id: str, index: int) -> str:
    """Format a sample's name for messages."""
    return f"{sample_id!r} (number {index})"


def blamed(sample_id: str, index: int, reason: str, *, skippable: bool = True) -> str:
    """Format the error for one sample, with the advice to skip such samples if the job can."""
    message = f"sample {named(sample_id, index)}: {reason.removesuffix('.')}"
    return f"{message}. {WAY_OUT}" if skippable else message


_CHUNK = 256

SampleRow = Mapping[str, object]


@dataclass(frozen=True, eq=False)
class Survey:
    """Lengths and missing samples, known before any value is computed.

    Attributes:
        lengths: the length of every sample along each free axis; 0 for missing samples.
        missing: the samples that cannot be used: by index, the reason.
    """

    lengths: SampleLengths
    missing: Mapping[int, str]


@dataclass(frozen=True, eq=False)
class _Examined:
    """The result of reading and encoding a sample, with the reason if it cannot be used."""

    index: int
    identity: Identity
    sample: Sample | None = None
    encoded: Encoded | None = None
    reason: str | None = None


Record = Callable[[Sequence[SampleRow]], None]
"""Receives the rows of the next samples."""


class Surveyor:
    """Takes the survey of samples that are shown one after the other.

    Memory grows by eight bytes per sample and axis, independent of the samples' contents.

    Args:
        record: receives the samples' rows in turn.
        policy: "fail", or "skip" samples that cannot be read or encoded, or that are too short for
            a slice.
        tensors: tensors whose slices the samples must be long enough for, if they are known yet.

    Attributes:
        seen: number of samples so far.
    """

    def __init__(
        self,
        model: Model,
        record: Record,
        policy: str = "fail",
        tensors: Sequence[PlannedTensor] = (),
    ) -> None:
        self.seen = 0
        self._record = record
        self._axes = {axis: array("q") for axis in model.signature.free_axes}
        self._missing: dict[int, str] = {}
        self._skip = policy == "skip"
        # Samples of fixed shape are encoded only to check that they can be.
        encode = bool(self._axes) or self._skip
        self._examiner = _Examiner(model, encode=encode, skip=self._skip, tensors=tensors)
        self._waiting: list[Sample | Unreadable] = []
        self._refusal: InputError | None = None

    def see(self, sample: Sample | Unreadable) -> None:
        """Take the next sample. Those that cannot be used are refused by `result`."""
        self.seen += 1
        if self._refusal is None:
            self._waiting.append(sample)
            if len(self._waiting) == _CHUNK:
                self._examine()

    def _examine(self) -> None:
        waiting, self._waiting = self._waiting, []
        try:
            found = self._examiner.examined(waiting)
        except InputError as error:
            self._refusal = error
            return
        self._record([_row(one, tuple(self._axes)) for one in found])
        self._missing |= {one.index: one.reason for one in found if one.reason is not None}
        for axis, sizes in self._axes.items():
            sizes.extend(_sizes(one, (axis,))[axis] for one in found)

    def result(self) -> Survey:
        """Return the survey of all samples.

        Raises:
            InputError: a sample cannot be used (the message names it), or none can with "skip".
        """
        if self._waiting:
            self._examine()
        if self._refusal is not None:
            raise self._refusal
        _check_left(self._missing, self.seen)
        axes = {axis: np.array(sizes, dtype=np.int64) for axis, sizes in self._axes.items()}
        return Survey(SampleLengths(self.seen, axes), self._missing)


def survey(
    model: Model,
    source: Source,
    record: Record,
    policy: str = "fail",
    tensors: Sequence[PlannedTensor] = (),
) -> Survey:
    """Read every sample, and pass the samples' rows to `record` in turn.

    Args:
        record, policy, tensors: see `Surveyor`.

    Raises:
        InputError: a sample cannot be used (the message names it), or none can with "skip".
        SelectionError: a sample is too short for a slice.
    """
    surveyor = Surveyor(model, record, policy, tensors)
    for start in range(0, len(source), _CHUNK):
        for sample in _read(source, start, min(start + _CHUNK, len(source))):
            surveyor.see(sample)
    found = surveyor.result()
    check_slices(found, tensors, policy)
    return found


def check_slices(found: Survey, tensors: Sequence[PlannedTensor], policy: str) -> None:
    """Check that the samples are long enough for the slices of tensors.

    Raises:
        SelectionError: a sample is too short and may not be missing, or all samples are too short.
    """
    for tensor in tensors:
        if policy != "skip":
            tensor.check_lengths(found.lengths)
        tensor.check_ranges(found.lengths)


def _read(source: Source, start: int, stop: int) -> Sequence[Sample | Unreadable]:
    """Read samples start … stop-1. After a failure, read them one by one."""
    try:
        return source.read(start, stop)
    except InputError as error:
        if stop - start == 1:
            return [Unreadable(start, identity(source, start), error)]
    return [one for index in range(start, stop) for one in _read(source, index, index + 1)]


def too_short(found: Survey, tensors: Sequence[PlannedTensor]) -> bool:
    """Return whether samples that are not missing are too short for a slice."""
    lengths = found.lengths
    if found.missing:
        lengths = lengths.take([n for n in range(lengths.samples) if n not in found.missing])
    return any(tensor.too_short(lengths) for tensor in tensors)


def check_first(model: Model, source: Source) -> None:
    """Check the first samples.

    Raises:
        InputError: a sample cannot be used; the message names it.
    """
    first = _read(source, 0, min(_CHUNK, len(source)))
    _Examiner(model, encode=True, skip=False).examined(first)


_BYTES_OF_SAMPLE = 32
"""Memory that a plan takes for each sample, at least: its bytes in a shard, and of each tensor."""
_MUCH = 10**8
"""Bytes below which it is not asked how much memory is free."""


def check_memory(samples: int) -> None:
    """Check that there is memory for a plan, which has numbers for each sample.

    Raises:
        InputError: there are too many samples.
    """
    needed = samples * _BYTES_OF_SAMPLE
    if needed < _MUCH:
        return
    try:
        free = free_memory()
    except OSError:  # the system does not report it
        return
    if needed > free:
        raise InputError(
            f"inputs holds {counted(samples, 'sample')}, whose plan needs {human_bytes(needed)} of "
            f"memory, and {human_bytes(free)} are free. Take fewer: inputs.limit=…"
        )


def longest(model: Model, source: Source) -> SampleLengths | None:
    """Return an upper bound of every length without reading samples; None if there is none."""
    limits = model.signature.longest or {}
    axes = model.signature.free_axes
    if any(axis not in limits for axis in axes):
        return None
    return SampleLengths(len(source), {axis: np.full(len(source), limits[axis]) for axis in axes})


def first_usable(
    model: Model,
    source: Source,
    tensors: Sequence[PlannedTensor] = (),
    most: int = 64,
) -> "FewSamples":
    """Return the first usable samples of a source.

    Args:
        tensors: tensors whose slices they must be long enough for.
        most: number of samples wanted.

    Raises:
        InputError: there is none.
    """
    examiner = _Examiner(model, encode=True, skip=True, tensors=tensors)
    good: list[Sample] = []
    missing: dict[int, str] = {}
    for start in range(0, len(source), most):
        for one in examiner.examined(_read(source, start, min(start + most, len(source)))):
            if one.reason is not None:
                missing[one.index] = one.reason
            elif one.sample is not None:
                good.append(one.sample)
        if len(good) >= most:
            break
    _check_left(missing, len(source))
    return FewSamples(source.digest, source.notes, tuple(good[:most]))


@dataclass(frozen=True, eq=False)
class FewSamples:
    """Some samples of a source, in memory, with their original indices.

    Attributes:
        digest, notes: those of the whole source.
        samples: the samples in order.
    """

    digest: str
    notes: tuple[str, ...]
    samples: tuple[Sample, ...]

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, start: int, stop: int) -> Sequence[Sample]:
        """Return samples start … stop-1 of these."""
        return self.samples[start:stop]

    def behind_first(self) -> "FewSamples":
        """Return all but the first."""
        return replace(self, samples=self.samples[1:])


@dataclass(frozen=True, eq=False)
class _Examiner:
    """Checks samples.

    Attributes:
        encode: whether to encode them.
        skip: report an unusable sample instead of raising.
        tensors: tensors whose slices they must be long enough for.
    """

    model: Model
    encode: bool
    skip: bool
    tensors: Sequence[PlannedTensor] = ()

    def examined(self, samples: Sequence[Sample | Unreadable]) -> list[_Examined]:
        """Check samples. After a failure, check them one by one.

        Raises:
            InputError: a sample cannot be used, and none may be missing.
        """
        readable = [one for one in samples if isinstance(one, Sample)]
        failure = next((one.error for one in samples if isinstance(one, Unreadable)), None)
        if failure is None:
            try:
                if not self.encode:
                    return [_looked(sample) for sample in readable]
                pairs = zip(readable, encode(self.model, readable), strict=True)
                return [self._long_enough(_looked(one, encoded)) for one, encoded in pairs]
            except InputError as error:
                failure = error
        found = [self._alone(one) for one in samples]
        if self.skip:
            return found
        refusal = _refusal(found, skippable=not isinstance(self.model, CarriesState))
        if refusal is None:
            raise failure
        raise refusal from failure

    def _alone(self, sample: Sample | Unreadable) -> _Examined:
        if isinstance(sample, Unreadable):
            return _Examined(sample.index, sample.identity, reason=str(sample.error))
        try:
            (encoded,) = encode(self.model, [sample])
        except InputError as error:
            return _Examined(sample.index, _identity(sample), sample, reason=str(error))
        return self._long_enough(_looked(sample, encoded))

    def _long_enough(self, one: _Examined) -> _Examined:
        if not self.skip or one.encoded is None:
            return one
        lengths = SampleLengths(1, {axis: np.array([n]) for axis, n in one.encoded.sizes.items()})
        for tensor in self.tensors:
            if short := tensor.too_short(lengths):
                return replace(one, encoded=None, reason=short[0])
        return one


def _looked(sample: Sample, encoded: Encoded | None = None) -> _Examined:
    return _Examined(sample.index, _identity(sample), sample, encoded)


def _identity(sample: Sample) -> Identity:
    return Identity(sample.id, sample.source, sample.extra)


def _refusal(found: Sequence[_Examined], *, skippable: bool) -> InputError | None:
    """Return an error that names the first bad sample, of samples that failed together.

    Returns None if all of them fail alone, or none does: no single sample is at fault then.
    """
    bad = [one for one in found if one.reason is not None]
    if not bad or len(bad) == len(found):
        return None
    first = bad[0]
    reason = first.reason or ""
    return InputError(blamed(first.identity.id, first.index, reason, skippable=skippable))


def _check_left(missing: Mapping[int, str], count: int) -> None:
    if count and len(missing) == count:
        raise InputError(
            f"runtime.bad_samples=skip would leave nothing: none of {count} samples can be used. "
            f"The first: {next(iter(missing.values()))}"
        )


def _sizes(one: _Examined, axes: Sequence[str]) -> dict[str, int]:
    return {axis: 0 if one.encoded is None else one.encoded.sizes[axis] for axis in axes}


def _row(one: _Examined, axes: Sequence[str]) -> dict[str, object]:
    own, encoded = one.identity, one.encoded
    row: dict[str, object] = {"index": one.index, "id": own.id, "source": own.source}
    if axes:
        sizes = _sizes(one, axes)
        row["length"] = sizes[axes[0]] if len(axes) == 1 else sizes
        row["truncated"] = encoded is not None and encoded.truncated
        tokens = None if encoded is None else encoded.tokens
        row["tokens"] = None if tokens is None else list(tokens)
    if one.reason is not None:
        row[MISSING] = one.reason
    if one.sample is not None and isinstance(one.sample.data, str):
        row["text"] = one.sample.data
    # A label must not be taken for the reason why a sample is missing.
    labels = {f"{key}_" if key in RESERVED else key: label for key, label in own.extra.items()}
    return {**labels, **row}


def without_texts(row: SampleRow) -> dict[str, object]:
    """Return a row with the SHA-256 of its text in place of text and tokens."""
    found = {name: value for name, value in row.items() if name not in _TEXTS}
    if isinstance(text := row.get("text"), str):
        content = text.encode(errors="surrogatepass")
        found["text_sha256"] = hashlib.sha256(content).hexdigest()
    return found


_TEXTS = frozenset({"text", "tokens"})

_LONGEST = 2**40


def recorded_survey(signature: Signature, rows: Iterable[Row], count: int) -> Survey:
    """Read lengths and missing samples from the samples' rows.

    Args:
        count: the expected number of samples.

    Raises:
        RunDirectoryError: a row has no length, or the number of rows differs.
    """
    axes = {axis: array("q") for axis in signature.free_axes}
    missing = {}
    samples = 0
    for samples, row in enumerate(rows, start=1):
        if (reason := why_missing(row)) is not None:
            missing[samples - 1] = reason
        recorded = row.get("length")
        for axis, lengths in axes.items():
            length = recorded.get(axis) if isinstance(recorded, dict) else recorded
            if type(length) is not int or not 0 <= length <= _LONGEST:
                raise RunDirectoryError(f"sample {samples - 1} has no length along {axis!r}")
            lengths.append(length)
    if samples != count:
        raise RunDirectoryError(f"{samples} samples have a row, {count} were recorded")
    known = {axis: np.array(n, np.int64) for axis, n in axes.items()}
    return Survey(SampleLengths(samples, known), missing)
