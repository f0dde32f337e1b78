"""Transforms of a selector's values before they leave the model: slice, reduce, cast.

Pure Python, except for lengths, which are counted with NumPy. Axes are named by dim ("token":
every axis of that name) or by number. Numbers count the stored tensor's axes before any transform.
Axis 0 is the sample axis, which no transform may touch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from extractkit.core.catalog import TEXT
from extractkit.core.keys import Key
from extractkit.errors import ConfigError, SelectionError, choices

TRANSFORMS = (
    Key(
        *("slice", None),
        "indices along an axis, by dim or number (0 is the sample): `{token: 0}`, "
        "`{1: '0:4', token: '::2'}`; one number drops the axis",
    ),
    Key(
        *("reduce", None),
        "`mean`, `sum`, `min`, `max` or `norm` along an axis: `{token: mean}`, or `mean` for all "
        "axes of a sample; padding is ignored",
    ),
    Key("cast", None, "the dtype to store: `float16`"),
)
"""The keys for what is stored of a match, in the order in which they apply."""

TRANSFORM_KEYS = tuple(key.name for key in TRANSFORMS)
REDUCTIONS = ("mean", "sum", "min", "max", "norm")
CASTS = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")

Dims = tuple[str | None, ...]
Shape = tuple[int | None, ...]
AxisName = str | int
Index = int | tuple[int | None, int | None, int | None]

_EVERY_AXIS = "*"


@dataclass(frozen=True)
class Reduction:
    """One reduction, over these axes together."""

    op: str
    axes: tuple[int, ...]


@dataclass(frozen=True)
class AxisTransform:
    """A transform bound to one tensor's axes.

    `slices` holds for each axis None, a number (which drops the axis) or (start, stop, step).
    Reductions name axes of the tensor before slicing, and are applied in order.
    """

    slices: tuple[Index | None, ...]
    reductions: tuple[Reduction, ...]
    cast: str | None

    def result(self, dims: Dims, shape: Shape, dtype: str) -> tuple[Dims, Shape, str]:
        """Return dims, shape and dtype after the transform."""
        dropped = {axis for reduction in self.reductions for axis in reduction.axes}
        kept_dims: list[str | None] = []
        kept_shape: list[int | None] = []
        for axis, (dim, size, index) in enumerate(zip(dims, shape, self.slices, strict=True)):
            if axis in dropped or isinstance(index, int):
                continue
            if index is not None and size is not None:
                size = len(range(*slice(*index).indices(size)))
            kept_dims.append(dim)
            kept_shape.append(size)
        for reduction in self.reductions:
            dtype = reduced_dtype(reduction.op, dtype)
        return tuple(kept_dims), tuple(kept_shape), self.cast or dtype

    def lengths(self, axis: int, sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the lengths of a sliced, kept axis for samples with `sizes` elements on it."""
        index = self.slices[axis]
        if index is None or isinstance(index, int):
            return sizes
        # Lengths repeat. Computing each once keeps this fast for millions of samples.
        distinct, where = np.unique(sizes, return_inverse=True)
        counts = [len(range(*slice(*index).indices(int(size)))) for size in distinct]
        return np.array(counts, dtype=np.int64)[where]


@dataclass(frozen=True)
class Transform:
    """A selector's transforms as written, not yet bound to a tensor."""

    slice: tuple[tuple[AxisName, Index], ...] = ()
    reduce: tuple[tuple[AxisName, str], ...] = ()
    cast: str | None = None
    at: str = "selector"

    @classmethod
    def parse(cls, entries: Mapping[str, object], at: str) -> "Transform":
        """Parse configuration: `slice: {token: 0}`, `reduce: {token: mean}` or `mean`, `cast`.

        Raises:
            ConfigError: a value is not of that form.
        """
        cast = entries.get("cast")
        if cast is not None and cast not in CASTS:
            raise ConfigError(f"{at}.cast={cast!r} is not a dtype. {choices(str(cast), CASTS)}")
        return cls(
            slice=tuple(_parse_slices(entries.get("slice"), f"{at}.slice")),
            reduce=tuple(_parse_reductions(entries.get("reduce"), f"{at}.reduce")),
            cast=None if cast is None else str(cast),
            at=at,
        )

    def same_as(self, other: "Transform") -> bool:
        """Return True if both do the same, even if they belong to different selectors."""
        return replace(self, at="") == replace(other, at="")

    def bind(self, address: str, dims: Dims, shape: Shape, dtype: str) -> AxisTransform:
        """Bind the transform to one tensor, whose first axis is the sample axis if it has one.

        Raises:
            SelectionError: the tensor lacks an axis, a slice does not fit, or texts would be
                reduced or cast.
        """
        if (dtype == TEXT or dtype.startswith("complex")) and (self.reduce or self.cast):
            key = "reduce" if self.reduce else "cast"
            wanted, held = (
                ("numbers", "texts") if dtype == TEXT else ("real numbers", "complex ones")
            )
            raise SelectionError(f"{self.at}.{key} needs {wanted}, but {address!r} holds {held}")
        slices: list[Index | None] = [None] * len(dims)
        for name, index in self.slice:
            for axis in self._axes(name, address, dims, "slice"):
                if slices[axis] is not None:
                    raise SelectionError(f"{self.at}.slice names an axis of {address!r} twice")
                self._check_index(index, address, dims[axis], shape[axis])
                slices[axis] = index
        reductions = []
        for name, op in self.reduce:
            axes = self._axes(name, address, dims, "reduce")
            reductions.append(
                Reduction(op, tuple(a for a in axes if not isinstance(slices[a], int)))
            )
        reduced = [axis for reduction in reductions for axis in reduction.axes]
        if len(set(reduced)) != len(reduced):
            raise SelectionError(f"{self.at}.reduce names an axis of {address!r} twice")
        return AxisTransform(tuple(slices), tuple(r for r in reductions if r.axes), self.cast)

    def _axes(self, name: AxisName, address: str, dims: Dims, key: str) -> tuple[int, ...]:
        first = 1 if dims and dims[0] == "sample" else 0
        if name == _EVERY_AXIS:
            return tuple(range(first, len(dims)))
        axes = [name] if isinstance(name, int) else [i for i, dim in enumerate(dims) if dim == name]
        if axes and all(first <= axis < len(dims) for axis in axes):
            return tuple(axes)
        offered = [*dict.fromkeys(d for d in dims if d and d != "sample"), *range(first, len(dims))]
        raise SelectionError(
            f"{self.at}.{key} names axis {name!r}, which {address!r} with dims {list(dims)} does "
            f"not have. Available: {', '.join(map(str, offered)) or 'none'}. The sample axis "
            f"cannot be sliced or reduced; inputs.limit takes the first samples"
        )

    def _check_index(self, index: Index, address: str, dim: str | None, size: int | None) -> None:
        if isinstance(index, int):
            if size is not None and not -size <= index < size:
                raise SelectionError(
                    f"{self.at}.slice takes element {index} of an axis of {address!r} that has "
                    f"{size} elements"
                )
            return
        start, stop, step = index
        backwards = (step is not None and step < 1) or (start or 0) < 0 or (stop or 0) < 0
        if size is None and backwards:
            raise SelectionError(
                f"{self.at}.slice counts from the end of {dim!r}, whose length differs from sample "
                f"to sample in {address!r}. Use a start and stop from 0 up, or one number"
            )


def reduced_dtype(op: str, dtype: str) -> str:
    """Return a reduction's result dtype, in which it is computed: wide enough not to overflow."""
    if op in ("mean", "norm"):
        return dtype if dtype == "float64" else "float32"
    if op == "sum" and dtype in ("float16", "bfloat16"):
        return "float32"
    if op == "sum" and "float" not in dtype:
        return "uint64" if dtype == "uint64" else "int64"
    return dtype


def _axis_name(key: object, at: str) -> AxisName:
    if isinstance(key, int) and not isinstance(key, bool):
        return key
    text = str(key)
    if text.isdecimal():
        return int(text)
    if text and text != _EVERY_AXIS:
        return text
    raise ConfigError(f"{at}: {key!r} does not name an axis. Use a dim such as token, or a number")


def _parse_slices(value: object, at: str) -> list[tuple[AxisName, Index]]:
    if value is None:
        return []
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{at}={value!r} is not a mapping of axis to slice, as in {{token: '0:4'}}"
        )
    return [(_axis_name(k, at), _parse_index(v, f"{at}.{k}")) for k, v in value.items()]


def _parse_index(value: object, at: str) -> Index:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    parts = str(value).split(":")
    try:
        numbers = [int(part) if part.strip() else None for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) == 1 and numbers[0] is not None:
        return numbers[0]
    if len(numbers) in (2, 3) and 0 not in numbers[2:]:
        start, stop, step = (*numbers, None)[:3]
        return (start, stop, step)
    raise ConfigError(f"{at}={value!r} is not a slice. Write a number, or '0:4', '::2'")


def _parse_reductions(value: object, at: str) -> list[tuple[AxisName, str]]:
    if value is None:
        return []
    entries = value if isinstance(value, Mapping) else {_EVERY_AXIS: value}
    parsed: list[tuple[AxisName, str]] = []
    for key, op in entries.items():
        if op not in REDUCTIONS:
            raise ConfigError(f"{at}={op!r} is not a reduction. {choices(str(op), REDUCTIONS)}")
        parsed.append((key if key == _EVERY_AXIS else _axis_name(key, at), str(op)))
    return parsed
