"""Sources of samples, and the protocols that they implement. NumPy only."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from extractkit.core.picks import LabelSpec
from extractkit.core.spec import TEXT
from extractkit.core.values import Array
from extractkit.errors import InputError

PICTURE = "picture"
"""The name of a picture that the model's own image processor prepares.

Its values are whole numbers 0 … 255 of shape (height, width, 3).
"""


class Quantized(NamedTuple):
    """The parameters of quantisation: real = (whole - zero_point) · scale."""

    scale: float
    zero_point: int


RAGGED, SPARSE = "ragged", "sparse"
"""The kinds of inputs that are not arrays: see `InputSpec.composite`."""


@dataclass(frozen=True)
class InputSpec:
    """One named input of a model.

    Attributes:
        name: Its name in the model.
        dtype: The NumPy name of the element type.
        shape: The shape of one sample, without the sample axis. None for a free length.
        dims: The name of the free axis for each axis of `shape`, or None for a fixed one.
        pad: The padding value of shorter samples in a batch.
        low, high: The range of valid whole numbers, `high` excluded. None for real numbers.
        sample_axis: The sample axis of the model's own input, which `shape` omits. None if it has
            none and a call takes one sample.
        parsed: Whether the model parses it as a serialized `tf.train.Example`.
        composite: `RAGGED` or `SPARSE` for such a tensor, of which each sample is a row. None for
            an array.
        parts: The names of the tensors of a composite input.
        index_dtype: The dtype of the row splits or indices of a composite input.
        quantized: The quantisation of a quantised input, or None.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    dims: tuple[str | None, ...]
    pad: int | float = 0
    low: int | None = None
    high: int | None = None
    sample_axis: int | None = 0
    # The other fields enter digests by their repr.
    parsed: bool = field(default=False, repr=False)
    composite: str | None = field(default=None, repr=False)
    parts: tuple[str, ...] = field(default=(), repr=False)
    index_dtype: str = field(default="int64", repr=False)
    quantized: Quantized | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Signature:
    """The inputs of a model.

    Attributes:
        model: The model's name, for messages.
        specs: Its inputs.
        takes_text: Whether it takes texts, because it has a tokenizer or one string input.
        takes_pictures: Whether it prepares pictures of any size with its own image processor.
            False if it needs one and has none. None if it takes pictures as arrays.
        longest: The maximum length of free axes by name. Axes without a limit are absent.
        selectable: Whether `model.input_axes` may name fewer inputs. Tensors that need the others
            are then unextractable.
        optional: The names of inputs for which the model has defaults.
        label: The form of the label that each sample needs beside the inputs. None if none.
        batch: The maximum number of samples in one call, 1 for a model whose sample axis has a
            fixed size. None if unlimited.
    """

    model: str
    specs: tuple[InputSpec, ...]
    takes_text: bool = False
    longest: Mapping[str, int] | None = None
    batch: int | None = None
    takes_pictures: bool | None = None
    selectable: bool = False
    optional: frozenset[str] = frozenset()
    label: LabelSpec | None = None

    @property
    def string(self) -> InputSpec | None:
        """The only input, if it is a single string (a text or any bytes), else None."""
        alone = self.specs[0] if len(self.specs) == 1 else None
        single = alone is not None and alone.dtype == TEXT and alone.shape in ((), (1,))
        return alone if single else None

    @property
    def free_axes(self) -> tuple[str, ...]:
        """The names of the axes whose length may differ between samples, in order."""
        return tuple(dict.fromkeys(dim for spec in self.specs for dim in spec.dims if dim))


@dataclass(frozen=True)
class Sample:
    """One sample.

    Attributes:
        index: Its position in the source, from 0.
        id: A stable name, unique in its source.
        source: Its origin (a file's name, "random").
        data: A text, or an array for each of the model's inputs, without a sample axis.
        extra: Further identifying values (its file, its label), for samples.jsonl.
        label: Its label, in the form of `Signature.label`. None if no label is needed.
    """

    index: int
    id: str
    source: str
    data: str | Mapping[str, Array]
    extra: Mapping[str, object] = field(default_factory=dict)
    label: Any = None


@dataclass(frozen=True)
class Identity:
    """The identity of a sample, as far as it is known without reading it.

    Attributes:
        id, source, extra: As in `Sample`. `extra` has only values known without reading.
    """

    id: str
    source: str = ""
    extra: Mapping[str, object] = field(default_factory=dict)


@runtime_checkable
class Source(Protocol):
    """A random-access source of samples, bound to a model."""

    @property
    def digest(self) -> str:
        """A digest of everything that determines the result of `read`."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user, log and manifest, such as ignored blank lines."""
        ...

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> Sequence[Sample]:
        """Return the samples start … stop-1. May be called in any order and from any thread.

        Raises:
            InputError: One of them cannot be read. The others can be read separately.
            JobError: The data has changed since the source was bound.
        """
        ...


@runtime_checkable
class Identifying(Protocol):
    """The ability to identify samples that cannot be read, optional for a `Source`."""

    def identify(self, index: int) -> Identity:
        """Return the identity of the sample of this number, readable or not."""
        ...


def identity(source: Source, index: int) -> Identity:
    """Return the identity of a sample without reading it, or its number if it is not known."""
    return source.identify(index) if isinstance(source, Identifying) else Identity(str(index))


@runtime_checkable
class HashesFiles(Protocol):
    """The ability to give digests of files that were read whole.

    Optional for a `Source` and for a model.
    """

    @property
    def file_digests(self) -> Mapping[Path, str]:
        """The SHA-256 of each of these files, in hexadecimal, by absolute path."""
        ...


@dataclass(frozen=True)
class Unreadable:
    """A sample that cannot be read, or does not fit the model.

    Attributes:
        index: Its position in the source, from 0.
        identity: Its identity.
        error: Why it cannot be used.
    """

    index: int
    identity: Identity
    error: InputError


Visit = Callable[[Sample | Unreadable], None]
"""Receives the samples of a source one after the other. Arrays may be views: copy what is kept."""


@runtime_checkable
class Inputs(Protocol):
    """A configured source that is not yet bound to a model."""

    def bind(self, signature: Signature) -> Source:
        """Open the source for a model with this signature.

        Single invalid samples fail when they are read, so that a job may skip them.

        Raises:
            InputError: It is missing, empty or unreadable, or does not fit the signature.
        """
        ...


@runtime_checkable
class Scanning(Inputs, Protocol):
    """The ability to show every sample in the pass that computes the digest, optional for `Inputs`.

    A job then reads its samples twice: once for identity, digest and lengths, and once to compute.
    """

    def bind(self, signature: Signature) -> Source:
        """Open the source for a model with this signature; see `Inputs`."""
        return self.scan(signature, None)

    def scan(self, signature: Signature, visit: Visit | None) -> Source:
        """Open the source as `bind` does.

        Args:
            visit: Called for every sample in order, unless the source needs a pass of its own for
                that: then it is not called at all. If None, the samples are not needed.

        Raises:
            InputError: See `Inputs.bind`.
        """
        ...
