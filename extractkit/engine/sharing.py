"""Measurement of which samples may share a batch, and whether they may be padded.

The program that computes the run's values is called with a few of the first samples alone,
together, and padded, and the results are compared. So the answer applies to the selected tensors:
if padding changes the pooled output of a model, it may still leave the hidden states unchanged.
What a few samples cannot show is found while the job runs, see `engine/batch_effects.py`.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np

from extractkit.core.plan import PlannedTensor, SampleLengths
from extractkit.core.spec import TEXT
from extractkit.core.values import Array
from extractkit.engine.batch_effects import difference, lengths_of, own_values, tolerance
from extractkit.engine.batches import LENGTH_STEP, collate, elements, encode
from extractkit.engine.jumps import Jumps
from extractkit.engine.sizes import not_empty, resized_sample, with_label_0
from extractkit.errors import JobError
from extractkit.inputs import InputSpec, Signature, Source
from extractkit.models import Encoded, Encoder, Program
from extractkit.runs.environment import SharingMeasurement

_LOOKED_AT, _FEW = 64, 8
"""Number of samples to read: short rows, and samples that are slow to read, such as pictures."""

_REAL = 4
"""Number of different samples to run, besides those derived from the first."""

_LONGEST = 32
"""Rows of numbers or tokens are cut to this length."""

_CROWD = 32
"""Number of short rows in the largest batch, which repeats the samples that are run."""

_ELEMENTS = 32
"""Number of different tokens, or rows of numbers, to run as samples of length one."""

_MOST = sys.float_info.max


class Sharing(StrEnum):
    """Which samples may share a batch."""

    PADDED = "samples of any lengths"
    EQUAL = "samples of equal lengths"
    ALONE = "one sample"
    IN_ORDER = "consecutive samples"


@dataclass(frozen=True)
class Shared:
    """The samples that may share a batch, and the reason if not all may.

    Attributes:
        reason: why not all samples may share a batch; None if all may.
        measured: the measurement that decided it; None if the model was not run.
    """

    sharing: Sharing
    reason: str | None = None
    measured: SharingMeasurement | None = None

    @property
    def note(self) -> str | None:
        """The message for the user; None if there is none."""
        if self.sharing is Sharing.IN_ORDER:
            return self.reason
        if self.sharing is not Sharing.ALONE or self.reason is None:
            return None
        return f"{self.reason}, so the model is run on one sample per call"


def measure_sharing(
    model: Encoder,
    source: Source,
    program: Program,
    tensors: Sequence[PlannedTensor],
    *,
    coarse: bool = False,
) -> Shared:
    """Run a few samples alone, together and padded, and compare.

    Args:
        program: computes `tensors`, all of which depend on the samples.
        coarse: whether numbers are computed in half precision.

    Raises:
        SampleError: the model fails on the first sample alone.
    """
    signature = model.signature
    short = all(len(spec.shape) <= 1 for spec in signature.specs)
    count = min(_LOOKED_AT if short else _FEW, len(source))
    trial = _Trial(signature, program, tensors, coarse)
    every = [one for one in encode(model, source.read(0, count)) if trial.fits(one)]
    if not every:
        return Shared(Sharing.ALONE, "the first samples are too short to measure it")
    encoded = _different(every)
    if short:
        # The beginnings of long texts show most, at a fraction of the cost.
        cut = [_cut(signature, one, _LONGEST) for one in encoded]
        encoded = cut if trial.takes(cut) else encoded
    first = not_empty(signature, encoded[0])
    if (by_values := _by_values(tensors)) is not None:
        return trial.decided(Sharing.ALONE, f"values decide how long {by_values.key!r} is")
    reason = trial.apart_together(first, encoded[1:], _CROWD if short else 0)
    if reason is not None:
        return trial.decided(Sharing.ALONE, reason)
    if not signature.free_axes:
        return trial.decided(Sharing.PADDED)  # there is nothing to pad
    if any(not tensor.bears_padding for tensor in tensors):
        reason = "the model computes lengths from those of the samples"
        return trial.decided(Sharing.EQUAL, reason)
    reason = trial.apart_padded([first, *encoded[1:]])
    if short and reason is None:
        reason = trial.apart_elements(_single_elements(signature, every))
        reason = reason or trial.apart_at_full_length(every)
    return trial.decided(Sharing.PADDED if reason is None else Sharing.EQUAL, reason)


def _by_values(tensors: Sequence[PlannedTensor]) -> PlannedTensor | None:
    """Return a tensor with a length that values decide, which a batch would have in common."""
    for tensor in tensors:
        if tensor.layout is not None and any(dim.of_values for dim in tensor.layout.dims):
            return tensor
    return None


def _different(encoded: Sequence[Encoded]) -> list[Encoded]:
    """Return the first sample, the smallest, the largest and the next different ones."""
    first, *others = encoded
    unlike = [one for one in others if not _alike(first, one)]
    by_size = sorted(unlike, key=elements)
    chosen = [first, *by_size[:1], *by_size[-1:], *unlike]
    return list({id(one): one for one in chosen}.values())[:_REAL]


def _alike(one: Encoded, other: Encoded) -> bool:
    return all(np.array_equal(x, other.features[name]) for name, x in one.features.items())


def _has_elements(encoded: Encoded) -> bool:
    return min(encoded.sizes.values()) > 0


def _cut(signature: Signature, encoded: Encoded, length: int) -> Encoded:
    """Return the beginning of a sample along all of its free axes."""
    sizes = {axis: min(length, size) for axis, size in encoded.sizes.items()}
    features = with_label_0(encoded.features) if sizes != encoded.sizes else encoded.features
    features = dict(features)
    for spec in signature.specs:
        part = [slice(None) if dim is None else slice(sizes[dim]) for dim in spec.dims]
        # The ellipsis keeps a single text an array.
        features[spec.name] = encoded.features[spec.name][(*part, ...)]
    return Encoded(features, sizes)


def _single_elements(signature: Signature, encoded: Sequence[Encoded]) -> list[Encoded]:
    """Return different single elements of samples, those that look like padding first."""
    found: dict[str, Encoded] = {}
    for sample in encoded:
        for at in range(min(_LONGEST, max(sample.sizes.values()))):
            parts = {axis: slice(at, at + 1) for axis, size in sample.sizes.items() if at < size}
            if len(parts) < len(sample.sizes):
                break
            features = {
                spec.name: sample.features[spec.name][
                    tuple(parts.get(dim or "", slice(None)) for dim in spec.dims)
                ]
                for spec in signature.specs
            }
            key = repr([array.tolist() for array in features.values()])
            whole = {**with_label_0(sample.features), **features}
            found.setdefault(key, Encoded(whole, dict.fromkeys(sample.sizes, 1)))

    def unlike_padding(one: Encoded) -> int:
        return sum(bool((one.features[spec.name] != spec.pad).any()) for spec in signature.specs)

    return sorted(found.values(), key=unlike_padding)[:_ELEMENTS]


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
            spread, middle = (float(of(array, dtype=np.float64)) for of in (np.std, np.mean))
            return draw.normal(middle, spread or 1.0, array.shape).astype(array.dtype)
        return array

    made_up = {spec.name: other(spec) for spec in signature.specs}
    return Encoded({**encoded.features, **made_up}, encoded.sizes)


def _longer(text: str | bytes) -> str | bytes:
    return f"{text} {text}" if isinstance(text, str) else text + b" " + text


@dataclass(eq=False)
class _Nearest:
    """The difference nearest to, or beyond, its tolerance so far."""

    measurement: SharingMeasurement = field(default_factory=SharingMeasurement)
    _ratio: float = -1.0

    def run(self, samples: int) -> None:
        """Record the number of different samples in a batch."""
        self.measurement = replace(self.measurement, samples=max(samples, self.measurement.samples))

    def padded_to(self, lengths: Mapping[str, int]) -> None:
        """Record the padded lengths of a batch."""
        known = self.measurement.lengths
        longest = {axis: max(size, known.get(axis, 0)) for axis, size in lengths.items()}
        self.measurement = replace(self.measurement, lengths=longest)

    def found(self, key: str, apart: float, most: float) -> None:
        """Record a difference of a tensor."""
        ratio = apart / most if most else (np.inf if apart else 0.0)
        if ratio > self._ratio:
            self._ratio = ratio
            self.measurement = replace(
                self.measurement, tensor=key, difference=min(apart, _MOST), tolerance=most
            )


@dataclass(frozen=True, eq=False)
class _Trial:
    """A program to be run on samples alone, together and padded."""

    signature: Signature
    program: Program
    tensors: Sequence[PlannedTensor]
    coarse: bool
    _nearest: _Nearest = field(default_factory=_Nearest)

    def decided(self, sharing: Sharing, reason: str | None = None) -> Shared:
        """Return which samples may share a batch, with what was measured so far."""
        return Shared(sharing, reason, replace(self._nearest.measurement, reason=reason))

    def fits(self, sample: Encoded) -> bool:
        """Return whether a sample is long enough for the slices."""
        lengths = lengths_of([sample.sizes])
        return not any(tensor.too_short(lengths) for tensor in self.tensors)

    def takes(self, samples: Sequence[Encoded]) -> bool:
        """Return whether the model takes each of the samples alone."""
        filled = [not_empty(self.signature, sample) for sample in samples]
        return len(self._runnable(filled)) == len(samples)

    def apart_together(
        self, first: Encoded, others: Sequence[Encoded], crowd: int = 0
    ) -> str | None:
        """Return why samples of one size cannot share a batch; None: they can.

        Args:
            crowd: the number of samples in the batch, reached by repeating them.

        Raises:
            SampleError: the model fails on the first alone.
        """
        alone = [(first, self._alone(first))]
        beside = [resized_sample(self.signature, one, first.sizes) for one in others]
        alone += self._runnable([*beside, _made_up(self.signature, first)])
        alone = [alone[at % len(alone)] for at in range(max(crowd, len(alone)))]
        try:
            noise = self._noise(*alone[0], len(alone))
            together = self._run([one for one, _ in alone])
        except JobError:
            return "the model fails on several samples together that it takes alone"
        jumps = Jumps(
            *(self.signature, self.program, self.tensors),
            *([one for one, _ in alone], [values for _, values in alone], together),
        )
        why = "several samples together give other values of {!r} than each alone"
        return self._apart(together, alone, noise, why, jumps)

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
        alone = [(one, values) for one, values in alone if _has_elements(one)]
        noise = self._noise(*alone[0], len(alone))
        most = {axis: max(one.sizes[axis] for one, _ in alone) for axis in longest.sizes}
        limits = self.signature.longest or {}
        for more in (0, 1):
            to = {axis: min(n + more, limits.get(axis, n + more)) for axis, n in most.items()}
            if (reason := self._apart_at(to, alone, noise, required=not more)) is not None:
                return reason
        return self._apart_at(self._rounded(most), alone, noise)

    def apart_elements(self, samples: Sequence[Encoded]) -> str | None:
        """Return why samples of one element cannot be padded; None: they can.

        A tensor may treat some values like padding, or most values may hide the effect of padding.
        Samples of equal lengths are known to share batches, so they need not be run alone.

        Args:
            samples: have the size 1 along each free axis.
        """
        samples = list(filter(self.fits, samples))
        if not samples:
            return None
        try:
            noise = self._noise(samples[0], self._alone(samples[0]), len(samples))
            if any(tensor.per_call for tensor in self.tensors):
                alone = [(one, self._alone(one)) for one in samples]
            else:
                together = self._run(samples)
                if any(len(values) != len(samples) for values in together):
                    return None
                alone = [
                    (one, [values[row, ...] for values in together])
                    for row, one in enumerate(samples)
                ]
        except JobError:
            return None  # the model takes no samples that short
        to = self._rounded(dict.fromkeys(self.signature.free_axes, 2))
        return self._apart_at(to, alone, noise)

    def apart_at_full_length(self, samples: Sequence[Encoded]) -> str | None:
        """Return why samples cannot be padded to the longest one in full length; None: they can.

        A model may treat long samples in another way than their beginnings.
        """
        by_size = sorted(filter(_has_elements, samples), key=elements)
        if not by_size:
            return None
        chosen = {id(one): one for one in (by_size[0], by_size[len(by_size) // 2], by_size[-1])}
        alone = self._runnable([*chosen.values()])
        if len(alone) < len(chosen):
            return None  # reported when its turn comes
        noise = self._noise(*alone[0], len(alone))
        most = {axis: max(one.sizes[axis] for one, _ in alone) for axis in alone[0][0].sizes}
        return self._apart_at(self._rounded(most), alone, noise)

    def _rounded(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Return lengths as batches of the run are padded to them."""
        limits = self.signature.longest or {}
        rounded = {axis: -(-n // LENGTH_STEP) * LENGTH_STEP for axis, n in sizes.items()}
        return {axis: min(n, limits.get(axis, n)) for axis, n in rounded.items()}

    def _apart_at(
        self,
        to: Mapping[str, int],
        alone: Sequence[tuple[Encoded, list[Array]]],
        noise: Sequence[float],
        *,
        required: bool = False,
    ) -> str | None:
        """Return why samples cannot be padded to these lengths; None: they can.

        Args:
            required: whether to refuse if the model fails. Otherwise the lengths may be longer than
                it accepts, and no batch of the run is that long.
        """
        try:
            padded = self._run([one for one, _ in alone], to)
        except JobError:
            return "the model does not take samples that are padded" if required else None
        self._nearest.padded_to(to)
        return self._apart(padded, alone, noise, "padding changes values of {!r}")

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

    def _noise(self, sample: Encoded, alone: Sequence[Array], size: int) -> list[float]:
        """Return for each tensor how much the batch size changes its values, relative to them."""
        copies = self._run([sample] * size)
        return [
            difference(rows[0, ...], one * size if tensor.per_call else one) if len(rows) else 0.0
            for tensor, rows, one in zip(self.tensors, copies, alone, strict=True)
        ]

    def _apart(
        self,
        together: Sequence[Array],
        alone: Sequence[tuple[Encoded, list[Array]]],
        noise: Sequence[float],
        why: str,
        jumps: Jumps | None = None,
    ) -> str | None:
        self._nearest.run(len({id(one) for one, _ in alone}))
        lengths = lengths_of([sample.sizes for sample, _ in alone])
        for at, (tensor, rows) in enumerate(zip(self.tensors, together, strict=True)):
            most = tolerance(tensor, rows, noise[at], coarse=self.coarse)
            every = [values[at] for _, values in alone]
            for row, apart in enumerate(_differences(tensor, rows, every, lengths)):
                own = most if jumps is None else jumps.tolerance(at, row, apart, most)
                self._nearest.found(tensor.key, apart, own)
                if apart > own:
                    return why.format(tensor.request.key)
        return None


def _differences(
    tensor: PlannedTensor, rows: Array, alone: Sequence[Array], lengths: SampleLengths
) -> Iterator[float]:
    """Yield the difference of each row of a batch, or of its sum, from values of samples alone."""
    if tensor.per_call:
        total = np.asarray(np.sum(alone, 0, dtype=np.float64))
        yield difference(rows[0, ...].astype(np.float64), total)
        return
    shapes = tensor.sample_shapes(lengths)
    for row, own in enumerate(alone):
        fits = len(rows) == len(alone)
        yield difference(own_values(rows[row, ...], shapes, row), own) if fits else np.inf
