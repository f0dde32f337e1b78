"""The values of one tensor over several samples: dense, or ragged without padding. NumPy only.

These are the arrays that a shard holds. `parts` names them as stored: a dense tensor is one array,
a ragged one is `values` and `offsets`, and `shapes` if more than its first axis varies.

A missing sample keeps its position and is `absent`. `without` defines the fill values.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import eq
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from extractkit.core.spec import BFLOAT16, numpy_dtype
from extractkit.errors import JobError, counted

Array = npt.NDArray[Any]

State = tuple[Array, ...]
"""The state that a stateful model carries from one call to the next."""

VALUES, OFFSETS, SHAPES = "values", "offsets", "shapes"


def as_array(values: object) -> Array:
    """Return values as an array, with strings as objects of any length.

    NumPy's string types have a fixed width, and drop zeros at the end of a value. An array that
    already has such a type keeps it, because the zeros are lost.

    Raises:
        ValueError: nested lists of different lengths, or values that NumPy cannot convert.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "SU" or hasattr(values, "dtype"):
        return array
    return np.array(values, object)


def as_bytes(rows: Array) -> Array:
    """Convert rows of uint8, as HDF5 returns variable-length data, to bytes objects.

    Args:
        rows: an array of objects, each a one-dimensional array of uint8.
    """
    strings = np.empty(rows.shape, object)
    for index in np.ndindex(rows.shape):
        strings[index] = rows[index].tobytes()
    return strings


def as_rows(strings: Array) -> Array:
    """Convert strings to arrays of uint8. This is the inverse of `as_bytes`.

    Raises:
        TypeError: an object that is neither text nor bytes.
    """
    rows = np.empty(strings.shape, object)
    for index in np.ndindex(strings.shape):
        rows[index] = np.frombuffer(encoded(strings[index]), np.uint8)
    return rows


def encoded(string: object) -> bytes:
    """Encode a text in UTF-8, and return bytes unchanged.

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
    """Values with one shape for every sample.

    Attributes:
        values: (samples, *shape).
        absent: positions of the samples without a value, which hold a fill value.
    """

    values: Array
    absent: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    def sample(self, index: int) -> Array:
        """Return the value of one sample: (*shape)."""
        return np.asarray(self.values[index, ...])  # an array even for a single text

    def parts(self) -> dict[str, Array]:
        """Return the arrays to store, by name. A dense tensor has one, with an empty name."""
        return {"": self.values}


@dataclass(frozen=True, eq=False)
class Ragged:
    """Values whose shape varies from sample to sample, concatenated without padding.

    Attributes:
        values: (elements along the varying axis, *fixed) if only the first axis varies; otherwise
            one-dimensional, with every sample flattened in C order.
        offsets: int64 (samples + 1), the row of `values` at which each sample begins.
        shapes: int64 (samples, rank) if more than the first axis varies, else None.
        absent: positions of the samples without a value, whose length is 0.
    """

    values: Array
    offsets: npt.NDArray[np.int64]
    shapes: npt.NDArray[np.int64] | None = None
    absent: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def sample(self, index: int) -> Array:
        """Return the value of one sample, in its own shape."""
        rows = self.values[self.offsets[index] : self.offsets[index + 1]]
        return rows if self.shapes is None else rows.reshape(self.shapes[index])

    def parts(self) -> dict[str, Array]:
        """Return the arrays to store, by name."""
        stored: dict[str, Array] = {VALUES: self.values, OFFSETS: self.offsets}
        if self.shapes is not None:
            stored[SHAPES] = self.shapes
        return stored


Values = Dense | Ragged


def as_stored(values: Values, dtype: str) -> Values:
    """Return values as files hold them: those of the stored dtype bfloat16 as their bits, uint16.

    Raises:
        JobError: a value is not a bfloat16.
    """
    if dtype != BFLOAT16:
        return values
    bits = np.asarray(values.values, np.float32, order="C").view(np.uint32)
    if (bits & 0xFFFF).any():
        raise JobError("a value to be stored as bfloat16 has more than its 16 bits")
    return replace(values, values=np.asarray(bits >> 16, np.uint16))


def from_stored(values: Values, dtype: str) -> Values:
    """Return values from how files hold them. This is the inverse of `as_stored`."""
    if dtype != BFLOAT16 or values.values.dtype != np.uint16:
        return values
    bits = np.asarray(values.values.astype(np.uint32) << 16)
    return replace(values, values=bits.view(np.float32))


def of_samples(values: Values, positions: npt.NDArray[np.int64]) -> Values:
    """Return the values of some samples alone.

    Args:
        positions: those of the samples, ascending.
    """
    if len(positions) == len(values):
        return values
    here = np.zeros(len(values), bool)
    here[positions] = True
    absent = tuple(np.flatnonzero(np.isin(positions, values.absent)).tolist())
    if isinstance(values, Dense):
        return Dense(values.values[here], absent)
    lengths = np.diff(values.offsets)
    rows = values.values[np.repeat(here, lengths)]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths[here])])
    return Ragged(rows, offsets, None if values.shapes is None else values.shapes[here], absent)


def without(values: Values, absent: Sequence[int], shape: Sequence[int | None]) -> Values:
    """Return a copy in which the given samples have no value.

    If all samples have one shape, NaN, 0 or an empty text takes the place of a value. If shapes
    vary, it is a value without elements.

    Args:
        absent: positions of the samples, in addition to those that are absent already.
        shape: shape of one sample, with None where it varies.
    """
    missing = tuple(sorted({*values.absent, *map(int, absent)}))
    if missing == values.absent:
        return values
    rows = list(missing)
    if isinstance(values, Dense):
        filled = values.values.copy()
        filled[rows] = _fill(values.values)
        return Dense(filled, missing)
    remaining = of_samples(values, np.delete(np.arange(len(values)), rows))
    lengths = np.diff(values.offsets)
    lengths[rows] = 0
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    shapes = values.shapes
    if shapes is not None:
        shapes = shapes.copy()
        shapes[rows] = [size or 0 for size in shape]
    return Ragged(remaining.values, offsets, shapes, missing)


def _fill(array: Array) -> object:
    """Return the fill value for a sample without a value."""
    if array.dtype.kind in "fc":
        return np.nan if array.dtype.kind == "f" else complex(np.nan, np.nan)
    if array.dtype.kind != "O":
        return array.dtype.type()
    # An empty text of the same type as the others, because a file holds texts of one type.
    return next((type(text)() for text in array.flat if isinstance(text, str | bytes)), b"")


def varies(shape: Sequence[int | None]) -> bool:
    """Return True if a sample's shape (without the sample axis) varies."""
    return any(size is None for size in shape)


def only_rows_vary(shape: Sequence[int | None]) -> bool:
    """Return True if only a sample's first axis varies, so that rows can be concatenated."""
    return bool(shape) and shape[0] is None and not varies(shape[1:])


class Assembly:
    """Collects the values of one tensor, sample by sample, in any order.

    Memory is allocated once from the samples' shapes, so that batches of any composition end up in
    the samples' own order without a second copy. If only the model knows the shapes, values are
    kept one by one and joined at the end.

    Args:
        shape: shape of one sample, with None where it varies.
        dtype: type of the values, by name; "string" for texts.
        shapes: shapes of all samples; None if they become known with the values.
        count: number of samples.
    """

    def __init__(
        self,
        shape: Sequence[int | None],
        dtype: str,
        shapes: Sequence[tuple[int, ...]] | None,
        count: int,
    ) -> None:
        self._shape = tuple(shape)
        self._by_rows = only_rows_vary(shape)
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
        counts = [size[0] if self._by_rows else math.prod(size) for size in shapes]
        self._offsets = np.zeros(len(counts) + 1, np.int64)
        np.cumsum(counts, out=self._offsets[1:])
        fixed = [size or 0 for size in self._shape[1:]] if self._by_rows else []
        self._values = np.empty((int(self._offsets[-1]), *fixed), self._dtype)

    def put(self, positions: Sequence[int], batch: Array, padded: bool = True) -> None:
        """Store a batch (samples, *padded) at these positions, without its padding.

        A batch of all samples in their order is kept as it is, without a copy.

        Args:
            padded: whether the batch may be padded.

        Raises:
            JobError: a shape is not the planned one. NumPy would broadcast or cut it silently.
        """
        if len(batch) != len(positions):
            raise JobError(
                f"{counted(len(positions), 'sample')} have {counted(len(batch), 'row')} of it: "
                f"the number of rows depends on the values, so a row does not belong to a sample"
            )
        if not varies(self._shape) and self._values is not None:
            self._check(batch.shape[1:], self._shape)
            if self._is_whole(positions, batch):
                self._values = batch
            else:
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

    def _is_whole(self, positions: Sequence[int], batch: Array) -> bool:
        assert self._values is not None
        every = range(len(self._values))
        return (
            len(positions) == len(every)
            and all(map(eq, positions, every))
            and batch.dtype == self._dtype
            and batch.flags.c_contiguous
        )

    def _check(self, given: tuple[int, ...], planned: Sequence[int | None]) -> None:
        if given != tuple(planned):
            raise JobError(
                f"a sample has shape {list(given)} where {list(planned)} was planned: a length of "
                f"it depends on the inputs in a way that their free axes do not show"
            )

    def _put_ragged(self, position: int, value: Array) -> None:
        assert self._values is not None
        begin, end = self._offsets[position], self._offsets[position + 1]
        self._values[begin:end] = value if self._by_rows else value.reshape(-1)

    def finish(self, absent: Sequence[int] = ()) -> Values:
        """Return the values, once all positions except those of absent samples are filled."""
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
        if self._by_rows:
            return Ragged(self._values, self._offsets)
        shapes = np.asarray(self._shapes, dtype=np.int64).reshape(-1, len(self._shape))
        return Ragged(self._values, self._offsets, shapes)


class SingleValue:
    """Takes the place of an `Assembly` for a tensor that has no samples."""

    def put(self, positions: Sequence[int], value: Array, padded: bool = True) -> None:
        """Keep the value. There are no positions, and there is no padding."""
        self._value = value

    def finish(self, absent: Sequence[int] = ()) -> Dense:
        """Return the value."""
        return Dense(self._value)


class Hash(Protocol):
    """The part of `hashlib`'s interface that is used."""

    def update(self, data: bytes | memoryview, /) -> object: ...

    def hexdigest(self) -> str: ...


def add_to_digest(sha: Hash, name: str, dtype: str, array: Array) -> None:
    """Add one weight to a digest: its name, dtype, shape and content.

    Texts count by their bytes, because an array of objects holds memory addresses.
    """
    sha.update(f"{name}\0{dtype}\0{array.shape}\0".encode("utf-8", "surrogateescape"))
    if array.dtype.hasobject:
        for text in array.flat:
            content = text if isinstance(text, bytes) else str(text).encode()
            sha.update(len(content).to_bytes(8, "little") + content)
    else:
        # As plain bytes, because the buffer protocol does not support bfloat16.
        sha.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def digest_of_plain_data(value: object) -> str:
    """Return the SHA-256 of plain data, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def digest_of_array(array: Array) -> str:
    """Return the SHA-256 of dtype, shape and content."""
    sha = hashlib.sha256()
    add_to_digest(sha, "", str(array.dtype), array)
    return sha.hexdigest()


def digest_of_table(keys: Array, values: Array) -> str:
    """Return the SHA-256 of a lookup table, independent of the order of its rows.

    Args:
        keys, values: (n,), or (n, …) of arrays.
    """
    rows = keys.tolist()
    order = sorted(range(len(rows)), key=rows.__getitem__)
    return digest_of_plain_data([digest_of_array(keys[order]), digest_of_array(values[order])])


def sample_shapes(values: Values) -> npt.NDArray[np.int64]:
    """Return the shape of each sample: int64 (samples, rank)."""
    if isinstance(values, Dense):
        shape = np.asarray(values.values.shape[1:], np.int64)
        return np.broadcast_to(shape, (len(values), len(shape)))
    return ragged_shapes(values.offsets, values.shapes, values.values.shape[1:])


def ragged_shapes(
    offsets: npt.NDArray[np.int64], shapes: npt.NDArray[np.int64] | None, fixed: Sequence[int]
) -> npt.NDArray[np.int64]:
    """Return the same from the parts of a ragged tensor. `fixed` is the shape of one row."""
    if shapes is not None:
        return shapes
    lengths = np.diff(offsets)[:, np.newaxis]
    rest = np.broadcast_to(np.asarray(fixed, np.int64), (len(lengths), len(fixed)))
    return np.concatenate([lengths, rest], axis=1)


def stacked(values: Sequence[Array]) -> Array:
    """Stack samples of different shapes, padded to the largest with zeros or empty strings."""
    shape = tuple(max(sizes) for sizes in zip(*(value.shape for value in values), strict=True))
    dtype = values[0].dtype
    whole = np.full((len(values), *shape), b"" if dtype.hasobject else 0, dtype)
    for position, value in enumerate(values):
        own: tuple[int | slice, ...] = (position, *map(slice, value.shape))
        whole[(*own, ...)] = value
    return whole
