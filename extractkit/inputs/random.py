"""Random samples that fit a model's inputs."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from extractkit.core.keys import DecidesValues
from extractkit.core.spec import numpy_dtype
from extractkit.core.values import Array
from extractkit.errors import InputError
from extractkit.inputs import Identity, InputSpec, Sample, Signature
from extractkit.inputs.checks import check_limit, check_range, check_whole, describe

# Without known bounds, only the whole numbers 0 and 1 are safe: they fit masks, segments, and
# indices of any table.
_LOW, _SPAN = 0, 2


_ROWS = "inputs=texts inputs.path=FILE.jsonl (JSON lines)"

_MOST = 1 << 40  # a length that every part of Python can hold


@dataclass(frozen=True)
class Random:
    """Random numbers: standard normal for real inputs, uniform for others.

    Each sample is drawn from its own generator, so it does not depend on the order in which samples
    are read, or on their number.

    Attributes:
        samples: The number of samples.
        seed: The seed, 0 … 2⁶⁴-1.
        length: The length of every free axis, up to the model's maximum.
        limit: The number of samples to use. If None, all.

    Raises:
        InputError: One of these is not a whole number in its range.
    """

    samples: DecidesValues[int] = 32
    seed: DecidesValues[int] = 0
    length: DecidesValues[int] = 32
    limit: DecidesValues[int | None] = None

    def __post_init__(self) -> None:
        check_whole("samples", self.samples, below=_MOST)
        check_whole("seed", self.seed, least=0, below=1 << 64)
        check_whole("length", self.length)
        check_limit(self.limit)

    def bind(self, signature: Signature) -> "RandomSource":
        """Return a source for this model.

        Raises:
            InputError: It takes something else than numbers.
        """
        for spec in signature.specs:
            if _kind(spec) not in "fiub":
                raise InputError(
                    f"inputs=random makes numbers, and input {spec.name!r} of model "
                    f"{signature.model!r} is {spec.dtype} (it takes {describe(signature)}). "
                    f"Try {_other(spec, signature)}"
                )
        longest = signature.longest or {}
        sizes = {
            axis: min(self.length, longest.get(axis, self.length)) for axis in signature.free_axes
        }
        count = self.samples if self.limit is None else min(self.samples, self.limit)
        return RandomSource(signature.specs, sizes, self.seed, count)


@dataclass(frozen=True)
class RandomSource:
    """Random samples for one model.

    Attributes:
        specs: The model's inputs.
        sizes: The length of each free axis by name.
        seed: The seed.
        count: The number of samples.
    """

    specs: tuple[InputSpec, ...]
    sizes: Mapping[str, int]
    seed: int
    count: int

    def __len__(self) -> int:
        return self.count

    @property
    def digest(self) -> str:
        """The SHA-256 over the settings, the inputs' specs and the first sample.

        The first sample is included because NumPy may change its distributions.
        """
        settings = (self.specs, sorted(self.sizes.items()), self.seed, self.count)
        digest = hashlib.sha256(repr(settings).encode())
        for values in self._draw(0).values():
            digest.update(values.tobytes())
        return digest.hexdigest()

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on inputs with unknown bounds."""
        guessed = [spec for spec in self.specs if _kind(spec) in "iu" and spec.high is None]
        return tuple(
            f"{spec.name}: the model does not declare the range of its numbers; "
            f"drawn from {' and '.join(str(number) for number in range(*_bounds(spec)))}"
            for spec in guessed
        )

    def read(self, start: int, stop: int) -> list[Sample]:
        """Return the samples start … stop-1. Their ids are their numbers.

        Raises:
            IndexError: The range is outside the source.
        """
        check_range(start, stop, len(self))
        return [
            Sample(index, str(index), "random", self._draw(index)) for index in range(start, stop)
        ]

    def identify(self, index: int) -> Identity:
        """Return the identity of the sample of this number."""
        return Identity(str(index), "random")

    def _draw(self, index: int) -> dict[str, Array]:
        key = np.array([self.seed, index], np.uint64)
        generator = np.random.Generator(np.random.Philox(key=key))
        return {spec.name: self._values(spec, generator) for spec in self.specs}

    def _values(self, spec: InputSpec, generator: np.random.Generator) -> Array:
        shape = tuple(
            self.sizes[str(dim)] if size is None else size
            for size, dim in zip(spec.shape, spec.dims, strict=True)
        )
        kind = _kind(spec)
        if kind == "f":
            return np.asarray(generator.standard_normal(shape)).astype(spec.dtype)
        low, high = (0, 2) if kind == "b" else _bounds(spec)
        return np.asarray(generator.integers(low, high, shape)).astype(spec.dtype)


def _bounds(spec: InputSpec) -> tuple[int, int]:
    low = _LOW if spec.low is None else spec.low
    return low, low + _SPAN if spec.high is None else spec.high


def _other(spec: InputSpec, signature: Signature) -> str:
    """Return the override that selects a source with such values."""
    if _kind(spec) == "c":  # JSON has no complex numbers
        return "inputs=arrays"
    return f"{'inputs=texts' if signature.takes_text else _ROWS} or inputs=arrays"


def _kind(spec: InputSpec) -> str:
    """Return NumPy's letter for a type: f, i, u or b. bfloat16, which NumPy lacks, is an f."""
    return numpy_dtype(spec.dtype).kind
