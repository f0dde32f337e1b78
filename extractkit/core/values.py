"""The values of one tensor over several samples: dense, or ragged without padding. NumPy only.

These are the arrays that a shard holds. `parts` names them as they are stored: a dense tensor is
one array, a ragged one is `values` and `offsets`, and `shapes` where more than its first axis
varies.

A missing sample keeps its place, and is `absent`: `without` says what stands there.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from extractkit.core.plan import numpy_dtype
from extractkit.errors import JobError

Array = npt.NDArray[Any]

State = tuple[Array, ...]
"""What a model with a state carries from one call to the next."""

VALUES, OFFSETS, SHAPES = "values", "offsets", "shapes"


def as_array(values: object) -> Array:
    """Return values as an array, strings as objects of any length.

    NumPy's own types for strings have a fixed width, and drop the zeros at the end of a value. An
    array that has such a type already keeps it: what it has dropped is gone.

    Raises:
        ValueError: nested lists of different lengths, or values that NumPy cannot convert.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "SU" or hasattr(values, "dtype"):
        return array
    return np.array(values, object)


def as_bytes(rows: Array) -> Array:
    """Return bytes objects of rows of uint8, as HDF5 gives what it stores in variable length.

    Args:
        rows: objects, each a one-dimensional array of uint8.
    """
    strings = np.empty(rows.shape, object)
    for place in np.ndindex(rows.shape):
        strings[place] = rows[place].tobytes()
    return strings


def as_rows(strings: Array) -> Array:
    """Return the bytes of each string as an array of uint8; the inverse of `as_bytes`.

    Raises:
        TypeError: an object that is neither text nor bytes.
    """
    rows = np.empty(strings.shape, object)
    for place in np.ndindex(strings.shape):
        rows[place] = np.frombuffer(encoded(strings[place]), np.uint8)
    return rows


def encoded(string: object) -> bytes:
    """Return a text in UTF-8, and bytes as they are.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(string, str):
        return string.encode()
    if isinstance(string, bytes):
        return string
    raise TypeError(f"{string!r:.60} is {type(string).__name__}, neither text nor bytes")


@dataclass(frozen=True, eq=False)
class Dense:
    """Values of one shape for every sample.

    Attributes:
        values: (samples, *shape).
        absent: positions of the samples that have no value, where a fill value stands.
    """

    values: Array
    absent: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    def sample(self, index: int) -> Array:
        """The value for one sample: (*shape)."""
        return np.asarray(self.values[index, ...])  # of a text alone, too, an array of objects

    def parts(self) -> dict[str, Array]:
        """The arrays to store, by name; a dense tensor has one, without a name."""
        return {"": self.values}


@dataclass(frozen=True, eq=False)
class Ragged:
    """Values whose shape differs from sample to sample, end to end without padding.

    Attributes:
        values: (elements along the varying axis, *fixed) where only the first axis varies;
            otherwise one-dimensional, every sample flattened in C order.
        offsets: int64 (samples + 1), the row of `values` at which each sample begins.
        shapes: int64 (samples, rank) where more than the first axis varies, else None.
        absent: positions of the samples that have no value, and so a length of 0.
    """

    values: Array
    offsets: npt.NDArray[np.int64]
    shapes: npt.NDArray[np.int64] | None = None
    absent: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def sample(self, index: int) -> Array:
        """The value for one sample, in its own shape."""
        rows = self.values[self.offsets[index] : self.offsets[index + 1]]
        return rows if self.shapes is None else rows.reshape(self.shapes[index])

    def parts(self) -> dict[str, Array]:
        """The arrays to store, by name."""
        stored: dict[str, Array] = {VALUES: self.values, OFFSETS: self.offsets}
        if self.shapes is not None:
            stored[SHAPES] = self.shapes
        return stored


Values = Dense | Ragged


def from_parts(parts: Mapping[str, Array]) -> Values:
    """The inverse of `parts`."""
    if VALUES not in parts:
        return Dense(parts[""])
    shapes = parts.get(SHAPES)
    return Ragged(
        parts[VALUES],
        parts[OFFSETS].astype(np.int64, copy=False),
        None if shapes is None else shapes.astype(np.int64, copy=False),
    )


def without(values: Values, absent: Sequence[int], shape: Sequence[int | None]) -> Values:
    """A copy in which these samples have no value.

    What stands in their place is NaN, 0 or an empty text where all samples have one shape; where
    shapes vary, a value without elements.

    Args:
        absent: their positions; those that are absent already stay so.
        shape: of one sample; None where it varies.
    """
    gone = tuple(sorted({*values.absent, *map(int, absent)}))
    if gone == values.absent:
        return values
    rows = list(gone)
    if isinstance(values, Dense):
        filled = values.values.copy()
        filled[rows] = _fill(values.values)
        return Dense(filled, gone)
    lengths = np.diff(values.offsets)
    kept = np.ones(len(lengths), bool)
    kept[rows] = False
    left = values.values[np.repeat(kept, lengths)]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths * kept)])
    shapes = values.shapes
    if shapes is not None:
        shapes = shapes.copy()
        shapes[rows] = [size or 0 for size in shape]
    return Ragged(left, offsets, shapes, gone)


def _fill(array: Array) -> object:
    """What stands where a sample has no value."""
    if array.dtype.kind in "fc":
        return np.nan if array.dtype.kind == "f" else complex(np.nan, np.nan)
    if array.dtype.kind != "O":
        return array.dtype.type()
    # An empty text of the kind that the others are: a file holds texts of one kind.
    return next((type(text)() for text in array.flat if isinstance(text, str | bytes)), b"")


def varies(shape: Sequence[int | None]) -> bool:
    """Whether a sample's shape (without the sample axis) differs from sample to sample."""
    return any(size is None for size in shape)


def only_rows_vary(shape: Sequence[int | None]) -> bool:
    """Whether a sample's first axis alone varies, so that rows can be laid end to end."""
    return bool(shape) and shape[0] is None and not varies(shape[1:])


class Assembly:
    """The values of one tensor being put together, sample by sample, in any order.

    Memory is laid out once from the samples' shapes, so that batches of any composition end up in
    the samples' own order without a second copy. Where only the model knows the shapes, values are
    kept one by one and joined at the end.

    Args:
        shape: of one sample; None where it varies.
        dtype: of the values, by name; "string" for texts.
        shapes: of every sample; None where they become known with the values.
        count: how many samples there are.
    """

    def __init__(
        self,
        shape: Sequence[int | None],
        dtype: str,
        shapes: Sequence[tuple[int, ...]] | None,
        count: int,
    ) -> None:
        self._shape = tuple(shape)
        self._dtype = numpy_dtype(dtype)
        self._shapes = shapes
        self._single: list[Array | None] = []
        self._values: Array | None = None
        if not varies(shape):
            self._values = np.empty((count, *(size or 0 for size in shape)), self._dtype)
        elif shapes is None:
            self._single = [None] * count
        else:
            self._lay_out(shapes)

    def _lay_out(self, shapes: Sequence[tuple[int, ...]]) -> None:
        by_rows = only_rows_vary(self._shape)
        counts = [size[0] if by_rows else math.prod(size) for size in shapes]
        self._offsets = np.zeros(len(counts) + 1, np.int64)
        np.cumsum(counts, out=self._offsets[1:])
        fixed = [size or 0 for size in self._shape[1:]] if by_rows else []
        self._values = np.empty((int(self._offsets[-1]), *fixed), self._dtype)

    def put(self, positions: Sequence[int], batch: Array, padded: bool = True) -> None:
        """Store a batch (samples, *padded) at these positions, without its padding.

        Args:
            padded: whether the batch may be padded.

        Raises:
            JobError: it has not the shape that was planned. NumPy would repeat or cut it silently.
        """
        if len(batch) != len(positions):
            raise JobError(
                f"{len(positions)} samples have {len(batch)} rows of it: their values decide how "
                f"many, so none of them belongs to a sample"
            )
        if not varies(self._shape) and self._values is not None:
            self._check(batch.shape[1:], self._shape)
            self._values[list(positions)] = batch
        elif self._shapes is None:
            for row, position in zip(batch, positions, strict=True):
                self._single[position] = row.copy()
        else:
            for row, position in zip(batch, positions, strict=True):
                planned = self._shapes[position]
                # oneDNN's convolutions return rows, of no meaning, for an input without any.
                cut = padded or 0 in planned
                value = row[tuple(map(slice, planned))] if cut else row
                self._check(value.shape, planned)
                self._put_ragged(position, value)

    def _check(self, given: tuple[int, ...], planned: Sequence[int | None]) -> None:
        if given != tuple(planned):
            raise JobError(
                f"a sample has shape {list(given)} where {list(planned)} was planned: a length of "
                f"it depends on the inputs in a way that their free axes do not tell"
            )

    def _put_ragged(self, position: int, value: Array) -> None:
        assert self._values is not None
        begin, end = self._offsets[position], self._offsets[position + 1]
        self._values[begin:end] = value if only_rows_vary(self._shape) else value.reshape(-1)

    def finish(self, absent: Sequence[int] = ()) -> Values:
        """The values, once every position has been put but those of absent samples."""
        return without(self._finished(), absent, self._shape)

    def _finished(self) -> Values:
        if varies(self._shape) and self._shapes is None:
            nothing = np.empty([size or 0 for size in self._shape], self._dtype)
            single = [nothing if value is None else value for value in self._single]
            self._shapes = [value.shape for value in single]
            self._lay_out(self._shapes)
            for position, value in enumerate(single):
                self._put_ragged(position, value)
        assert self._values is not None
        if not varies(self._shape):
            return Dense(self._values)
        if only_rows_vary(self._shape):
            return Ragged(self._values, self._offsets)
        shapes = np.asarray(self._shapes, dtype=np.int64).reshape(-1, len(self._shape))
        return Ragged(self._values, self._offsets, shapes)


def digest(values: Iterable[tuple[str, Values]]) -> str:
    """SHA-256 over keys, dtypes, shapes and contents, independent of any file format."""
    sha = hashlib.sha256()
    for key, value in values:
        for name, array in value.parts().items():
            text = array.dtype.kind in "OSU"
            dtype = "text" if text else array.dtype.str
            sha.update(f"{key}\0{name}\0{dtype}\0{array.shape}\0".encode())
            sha.update(_text_bytes(array) if text else np.ascontiguousarray(array).data)
    return sha.hexdigest()


def _text_bytes(array: Array) -> bytes:
    """Texts end to end, each after its length: an array of objects holds addresses in memory."""
    texts = list(map(encoded, array.flat))
    return b"".join(len(text).to_bytes(8, "little") + text for text in texts)


def sample_shapes(values: Values) -> npt.NDArray[np.int64]:
    """The shape of each sample: int64 (samples, rank)."""
    if isinstance(values, Dense):
        shape = np.asarray(values.values.shape[1:], np.int64)
        return np.broadcast_to(shape, (len(values), len(shape)))
    return ragged_shapes(values.offsets, values.shapes, values.values.shape[1:])


def ragged_shapes(
    offsets: npt.NDArray[np.int64], shapes: npt.NDArray[np.int64] | None, fixed: Sequence[int]
) -> npt.NDArray[np.int64]:
    """The same from the parts of a ragged tensor; `fixed` is the shape of one of its rows."""
    if shapes is not None:
        return shapes
    lengths = np.diff(offsets)[:, np.newaxis]
    rest = np.broadcast_to(np.asarray(fixed, np.int64), (len(lengths), len(fixed)))
    return np.concatenate([lengths, rest], axis=1)
