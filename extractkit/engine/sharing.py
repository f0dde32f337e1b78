"""Measurement of which samples may share a batch, and whether they may be padded.

The program that computes the run's values is called with a few of the first samples alone,
together, and padded, and the results are compared. So the answer applies to the selected tensors:
if padding changes the pooled output of a model, it may still leave the hidden states unchanged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from extractkit.core.plan import Lengths, PlannedTensor
from extractkit.core.spec import TEXT
from extractkit.core.values import Array
from extractkit.engine.batches import collate, elements
from extractkit.engine.sizes import resized
from extractkit.errors import JobError
from extractkit.inputs import InputSpec, Signature, Source
from extractkit.models import Encoded, Model, Program

KEY = "sharing"
"""The key in the manifest's settings."""

_LOOKED_AT, _FEW = 64, 8
"""Number of samples to read: short rows, and samples that are slow to read, such as pictures."""

_REAL = 4
"""Number of different samples to run, besides those derived from the first."""

_LONGEST = 32
"""Rows of numbers or tokens are cut to this length."""

_STEP = 8
"""Padded lengths are a multiple of this in a run; see `engine/batches.py`."""

_FLOOR = 32 * float(np.finfo(np.float32).eps)
"""The smallest relative difference that counts: 4e-6.

MiniLM differs by 5e-7 of its scale between a batch of one and larger ones. A mask of -10 in place
of minus infinity, the weakest in use, lets 4.5e-5 of a padded token through.
"""

_NOISE_TIMES = 8
"""Factor by which a difference may exceed the measured rounding between batch sizes."""

_NOISE_LIMIT = 0.02
"""Differences above this are not rounding, even in half precision."""


class Sharing(StrEnum):
    """Which samples may share a batch."""

    PADDED = "samples of any lengths"
    EQUAL = "samples of equal lengths"
    ALONE = "one sample"
    IN_ORDER = "consecutive samples"


@dataclass(frozen=True)
class Shared:
    """Which samples may share a batch, and why not more.

    Attributes:
        reason: the measurement that forbids more; None if nothing does.
    """

    sharing: Sharing
    reason: str | None = None

    @property
    def note(self) -> str | None:
        """The message for the user; None if there is none."""
        if self.sharing is Sharing.IN_ORDER:
            return self.reason
        if self.sharing is not Sharing.ALONE or self.reason is None:
            return None
        return f"{self.reason}, so the model is run on one sample per call"


def measure_sharing(
    model: Model, source: Source, program: Program, tensors: Sequence[PlannedTensor]
) -> Shared:
    """Run a few samples alone, together and padded, and compare.

    Args:
        program: computes `tensors`, all of which depend on the samples.

    Raises:
        SampleError: the model fails on the first sample alone.
    """
    signature = model.signature
    short = all(len(spec.shape) <= 1 for spec in signature.specs)
    count = min(_LOOKED_AT if short else _FEW, len(source))
    trial = _Trial(signature, program, tensors)
    encoded = [one for one in model.encode(source.read(0, count)) if trial.fits(one)]
    if not encoded:
        return Shared(Sharing.ALONE, "the first samples are too short to measure it")
    encoded = _different(encoded)
    if short:
        # The beginning of a long text is enough, at a fraction of the cost.
        cut = [_cut(signature, one, _LONGEST) for one in encoded]
        encoded = cut if trial.takes(cut) else encoded
    first = _not_empty(signature, encoded[0])
    reason = trial.apart_together(first, encoded[1:])
    if reason is not None:
        return Shared(Sharing.ALONE, reason)
    if not signature.free_axes:
        return Shared(Sharing.PADDED)  # there is nothing to pad
    if any(not tensor.bears_padding for tensor in tensors):
        return Shared(Sharing.EQUAL, "the model computes lengths from those of the samples")
    reason = trial.apart_padded([first, *encoded[1:]])
    return Shared(Sharing.PADDED) if reason is None else Shared(Sharing.EQUAL, reason)


def _different(encoded: Sequence[Encoded]) -> list[Encoded]:
    """Return the first sample, the smallest, the largest and the next different ones."""
    first, *others = encoded
    unlike = [one for one in others if not _alike(first, one)]
    by_size = sorted(unlike, key=elements)
    chosen = [first, *by_size[:1], *by_size[-1:], *unlike]
    return list({id(one): one for one in chosen}.values())[:_REAL]


def _alike(one: Encoded, other: Encoded) -> bool:
    return all(np.array_equal(x, other.features[name]) for name, x in one.features.items())


def _not_empty(signature: Signature, encoded: Encoded) -> Encoded:
    return _at(signature, encoded, {axis: max(1, size) for axis, size in encoded.sizes.items()})


def _at(signature: Signature, encoded: Encoded, sizes: Mapping[str, int]) -> Encoded:
    """Return a sample resized by repeating its elements."""
    features = {
        spec.name: resized(spec, encoded.features[spec.name], sizes) for spec in signature.specs
    }
    return Encoded(features, dict(sizes))


def _cut(signature: Signature, encoded: Encoded, length: int) -> Encoded:
    """Return the beginning of a sample along all of its free axes."""
    sizes = {axis: min(length, size) for axis, size in encoded.sizes.items()}
    features = {}
    for spec in signature.specs:
        part = [slice(None) if dim is None else slice(sizes[dim]) for dim in spec.dims]
        # The ellipsis keeps a single text an array.
        features[spec.name] = encoded.features[spec.name][(*part, ...)]
    return Encoded(features, sizes)


def _made_up(signature: Signature, encoded: Encoded) -> Encoded:
    """Return a random sample of the same sizes, because similar samples can hide an effect.

    Numbers are drawn from the range that the sample has; texts become longer.
    """
    draw = np.random.default_rng(0)

    def other(spec: InputSpec) -> Array:
        array = encoded.features[spec.name]
        if not array.size:
            return array
        if spec.dtype == TEXT:
            longer = [_longer(text) for text in array.flat]
            return np.array([*longer, None], object)[:-1].reshape(array.shape)
        if array.dtype.kind in "iu":
            low, high = int(array.min()), int(array.max())
            return draw.integers(low, high, array.shape, array.dtype, endpoint=True)
        if array.dtype.kind == "f":
            spread, middle = float(np.std(array)), float(np.mean(array))
            return draw.normal(middle, spread or 1.0, array.shape).astype(array.dtype)
        return array

    return Encoded({spec.name: other(spec) for spec in signature.specs}, encoded.sizes)


def _longer(text: str | bytes) -> str | bytes:
    return f"{text} {text}" if isinstance(text, str) else text + b" " + text


@dataclass(frozen=True, eq=False)
class _Trial:
    """A program to be run on samples alone, together and padded."""

    signature: Signature
    program: Program
    tensors: Sequence[PlannedTensor]

    def fits(self, sample: Encoded) -> bool:
        """Return whether a sample is long enough for the slices."""
        lengths = _lengths(sample)
        return not any(tensor.too_short(lengths) for tensor in self.tensors)

    def takes(self, samples: Sequence[Encoded]) -> bool:
        """Return whether the model takes each of the samples alone."""
        filled = [_not_empty(self.signature, sample) for sample in samples]
        return len(self._runnable(filled)) == len(samples)

    def apart_together(self, first: Encoded, others: Sequence[Encoded]) -> str | None:
        """Return why samples of one size cannot share a batch; None: they can.

        Raises:
            SampleError: the model fails on the first alone.
        """
        alone = [(first, self._alone(first))]
        beside = [_at(self.signature, one, first.sizes) for one in others]
        alone += self._runnable([*beside, _made_up(self.signature, first)])
        try:
            copies = self._run([first] * len(alone))
            together = self._run([one for one, _ in alone])
        except JobError:
            return "the model fails on several samples together that it takes alone"
        noise = self._noise(copies, alone[0][1])
        return self._apart(
            together,
            alone,
            noise,
            "several samples together give other values of {!r} than each alone",
        )

    def apart_padded(self, samples: Sequence[Encoded]) -> str | None:
        """Return why samples cannot be padded to share a batch; None: they can.

        Short samples show the effect of padding best, so beginnings of samples are padded as well:
        a maximum over many tokens hides one that padding adds.
        """
        longest = max(samples, key=elements)
        half = max(longest.sizes.values()) // 2
        parts = [_cut(self.signature, longest, length) for length in sorted({1, 2, half}) if length]
        made_up = _made_up(self.signature, longest)
        alone = self._runnable([*samples, *parts, made_up, _cut(self.signature, made_up, 2)])
        alone = [(one, values) for one, values in alone if min(one.sizes.values()) > 0]
        copies = self._run([alone[0][0]] * len(alone))
        noise = self._noise(copies, alone[0][1])
        most = {axis: max(one.sizes[axis] for one, _ in alone) for axis in longest.sizes}
        limits = self.signature.longest or {}
        why = "padding changes values of {!r}"
        for more in (0, 1, _STEP):
            to = {axis: min(n + more, limits.get(axis, n + more)) for axis, n in most.items()}
            if more == _STEP:
                to = {axis: min(-(-n // _STEP) * _STEP, to[axis]) for axis, n in most.items()}
            try:
                padded = self._run([one for one, _ in alone], to)
            except JobError:
                if more:
                    continue  # longer than the model accepts; no batch of the run is that long
                return "the model does not take samples that are padded"
            if (reason := self._apart(padded, alone, noise, why)) is not None:
                return reason
        return None

    def _run(
        self, samples: Sequence[Encoded], longest: Mapping[str, int] | None = None
    ) -> Sequence[Array]:
        batch = collate(self.signature, samples, longest=longest)
        return self.program(batch.features, batch.lengths)

    def _alone(self, sample: Encoded) -> list[Array]:
        # The ellipsis keeps a single string an array.
        return [value[0, ...] if len(value) == 1 else value for value in self._run([sample])]

    def _runnable(self, samples: Sequence[Encoded]) -> list[tuple[Encoded, list[Array]]]:
        """Return the samples that the model accepts, each with its values alone."""
        found = []
        for sample in filter(self.fits, samples):
            try:
                found.append((sample, self._alone(sample)))
            except JobError:
                continue  # made up, or reported when its turn comes
        return found

    def _noise(self, copies: Sequence[Array], alone: Sequence[Array]) -> list[float]:
        """Return for each tensor how much the batch size changes its values, relative to them."""
        return [
            _difference(rows[0, ...], one) if len(rows) else 0.0
            for rows, one in zip(copies, alone, strict=True)
        ]

    def _apart(
        self,
        together: Sequence[Array],
        alone: Sequence[tuple[Encoded, list[Array]]],
        noise: Sequence[float],
        why: str,
    ) -> str | None:
        for at, (tensor, rows) in enumerate(zip(self.tensors, together, strict=True)):
            most = _threshold(rows, noise[at])
            if len(rows) != len(alone):
                return why.format(tensor.address)
            for row, (sample, values) in enumerate(alone):
                if _difference(_own(tensor, rows[row, ...], sample), values[at]) > most:
                    return why.format(tensor.address)
        return None


def _own(tensor: PlannedTensor, row: Array, sample: Encoded) -> Array:
    """Return a row without padding, as far as the sample's lengths are known."""
    shapes = tensor.sample_shapes(_lengths(sample))
    if shapes is None:
        return row
    own: tuple[Any, ...] = (*map(slice, shapes[0]), ...)
    return np.asarray(row[own])


def _lengths(sample: Encoded) -> Lengths:
    return Lengths(1, {axis: np.array([size], np.int64) for axis, size in sample.sizes.items()})


def _threshold(rows: Array, noise: float) -> float:
    """Return the largest relative difference that is rounding; 0 if values are not real numbers."""
    if rows.dtype.kind not in "fc":
        return 0.0
    # Half precision rounds stored values by more than a difference in single precision.
    floor = max(_FLOOR, 4 * float(np.finfo(rows.dtype).eps))
    return min(floor + _NOISE_TIMES * noise, max(floor, _NOISE_LIMIT))


def _difference(one: Array, other: Array) -> float:
    """Return the largest relative difference of two arrays; infinity if not comparable."""
    if one.shape != other.shape:
        return np.inf
    if one.dtype.kind not in "fc":
        return 0.0 if np.array_equal(one, other) else np.inf
    if not one.size:
        return 0.0
    wide = np.complex128 if one.dtype.kind == "c" else np.float64
    x, y = one.astype(wide), other.astype(wide)
    finite = np.isfinite(x) & np.isfinite(y)
    # Both the same infinity, or both NaN.
    if not np.array_equal(x[~finite], y[~finite], equal_nan=True):
        return np.inf
    apart = np.abs(x[finite] - y[finite])
    if not apart.any():
        return 0.0
    sizes = np.maximum(np.abs(x[finite]), np.abs(y[finite]))
    # Each value is compared relative to those around it, except values that represent minus
    # infinity.
    usual = np.quantile(sizes[sizes > 0], 0.25)
    scale = np.maximum(sizes, sizes[sizes <= 1e5 * usual].max(initial=0.0))
    return float((apart / scale).max())
