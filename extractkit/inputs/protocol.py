"""What a source of samples is, and what a model says of the inputs that it takes. NumPy only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from extractkit.core.catalog import TEXT
from extractkit.core.values import Array

PICTURE = "picture"
"""The name under which a sample holds a picture that the model prepares by itself: whole numbers
0 … 255 of shape (height, width, 3)."""


class Quantized(NamedTuple):
    """How whole numbers stand for real ones: real = (whole - zero_point) · scale."""

    scale: float
    zero_point: int


RAGGED, SPARSE = "ragged", "sparse"
"""The kinds of inputs that are no arrays: see `InputSpec.composite`."""


@dataclass(frozen=True)
class InputSpec:
    """One named input of a model.

    Attributes:
        name: as the model calls it.
        dtype: NumPy name of the element type.
        shape: of one sample, without the sample axis; None where the length is free.
        dims: for each axis of `shape` the name of its free axis, or None where it is fixed.
        pad: what fills a shorter sample up where samples of different lengths share a batch.
        low, high: whole numbers that make sense for it, `high` excluded; None for real numbers.
        sample_axis: which axis of the model's own input counts the samples, which `shape` leaves
            out; None where it has none, and a call takes one sample.
        parsed: whether the model parses it as a serialized `tf.train.Example`.
        composite: `RAGGED` or `SPARSE` where the model takes such a tensor, of which each sample
            is a row; None: an array.
        parts: names of the tensors that a composite input is made of.
        index_dtype: type of those parts that say where its values are.
        quantized: which real numbers the whole numbers that it takes stand for; None: none.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    dims: tuple[str | None, ...]
    pad: int | float = 0
    low: int | None = None
    high: int | None = None
    sample_axis: int | None = 0
    # Fingerprints hold the others as they are printed.
    parsed: bool = field(default=False, repr=False)
    composite: str | None = field(default=None, repr=False)
    parts: tuple[str, ...] = field(default=(), repr=False)
    index_dtype: str = field(default="int64", repr=False)
    quantized: Quantized | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Signature:
    """What a model takes.

    Attributes:
        model: its name, for messages.
        specs: its inputs.
        takes_text: whether it turns text into those inputs by itself (it has a tokenizer, or one
            input that is a text).
        takes_pictures: whether it turns pictures of any size into its input by itself (it has an
            image processor); False: it needs one and has none; None: it takes them as arrays.
        longest: the longest that each free axis may be, by name; absent: no limit.
        selectable: whether `model.input_axes` may name fewer inputs: what needs the others is then
            left out.
        optional: names of inputs that the model computes by itself where `model.input_axes` leaves
            them out.
        batch: most samples that one call takes; 1 for a model whose sample axis has a fixed size,
            so that each call stands for one sample. None: any number.
    """

    model: str
    specs: tuple[InputSpec, ...]
    takes_text: bool = False
    longest: Mapping[str, int] | None = None
    batch: int | None = None
    takes_pictures: bool | None = None
    selectable: bool = False
    optional: frozenset[str] = frozenset()

    @property
    def string(self) -> InputSpec | None:
        """The only input, where it is a single string: a text, or bytes of any kind."""
        alone = self.specs[0] if len(self.specs) == 1 else None
        single = alone is not None and alone.dtype == TEXT and alone.shape in ((), (1,))
        return alone if single else None

    @property
    def free_axes(self) -> tuple[str, ...]:
        """Names of the axes whose length may differ from sample to sample, in order."""
        return tuple(dict.fromkeys(dim for spec in self.specs for dim in spec.dims if dim))


@dataclass(frozen=True)
class Sample:
    """One sample.

    Attributes:
        index: its position in the source, from 0.
        id: stable name of the sample, unique in its source.
        source: where it comes from (a file's name, "random").
        data: a text, or an array for each of the model's inputs, without a sample axis.
        extra: what else identifies it (its file, its label), for its row in samples.jsonl.
    """

    index: int
    id: str
    source: str
    data: str | Mapping[str, Array]
    extra: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Identity:
    """Who a sample is, as far as that is known without reading it.

    Attributes:
        id, source, extra: as the sample has them; of `extra`, what takes no reading.
    """

    id: str
    source: str = ""
    extra: Mapping[str, object] = field(default_factory=dict)


class Source(Protocol):
    """A random-access source of samples, ready to be read."""

    @property
    def fingerprint(self) -> str:
        """Digest of everything that decides what `read` returns."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know (blank lines skipped, say), for log and manifest."""
        ...

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> Sequence[Sample]:
        """Return the samples start … stop-1; may be called in any order and from another thread.

        Raises:
            InputError: one of them cannot be read. Read alone, the others can be.
            JobError: what they are read from is no longer what it was.
        """
        ...

    # A source may also have `identify`, see `Identifying`.


class Identifying(Protocol):
    """What a source may have besides: samples that cannot be read then keep their names."""

    def identify(self, index: int) -> Identity:
        """Who the sample of this number is, whether it can be read or not."""
        ...


def identity(source: Source, index: int) -> Identity:
    """Who a sample is, without reading it; its number where the source cannot tell."""
    identify = getattr(source, "identify", None)
    found: Identity = Identity(str(index)) if identify is None else identify(index)
    return found


class Inputs(Protocol):
    """A source as configured, before it is known which model will read it."""

    def bind(self, signature: Signature) -> Source:
        """Open the source for a model that takes this.

        Single samples that are no good fail when they are read, so that a job may skip them.

        Raises:
            InputError: it is missing, empty or unreadable, or does not fit the signature.
        """
        ...
