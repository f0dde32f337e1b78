"""Specs of tensors: dtype and dims. Plain values, no TensorFlow."""

import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np

SAMPLE = "sample"
"""Name of the axis that counts samples."""

STEP = "step"
"""Name of the axis of a loop's steps."""

TAKEN = "taken"
"""Name of the axis of a value in a branch: of length 1 if the branch was taken, else 0."""

_UNKNOWN = "?"
_VALUES = "values"

TEXT = "string"
"""TensorFlow's name of a dtype that NumPy lacks: texts of any length."""

_COMPUTED = re.compile(r"f\((.*)\)")

INFERRED = frozenset(
    {"group", "head", "query", "key", "channel", "height", "width", "feature", STEP, TAKEN}
)
"""Names that adapters infer from layers. They describe axes, and change nothing that is stored."""


@dataclass(frozen=True, slots=True)
class Dim:
    """One axis of a tensor: its length, and its name where one is known.

    Its length is one of:

    - that of the samples or of a free axis, which differs from sample to sample: `follows`;
    - fixed: `size`;
    - a product of other lengths ("sample*token", "token*12"): `factors`;
    - computed by the model from the lengths of free axes, or from values ("f(token)"): `of`;
    - unknown before the model runs ("?"): none of these. It is measured on data, never guessed.

    A free axis has the name of what it follows, unless a more specific one is known: the axes of an
    attention map both follow "token", and are "query" and "key".

    Attributes:
        name: the name; None if none is known.
        size: the number of elements, None if it varies or is unknown.
        follows: the free axis with this length, or "sample".
        factors: the axes of a product, slowest first.
        of: the free axes that a computed length depends on.
    """

    name: str | None = None
    size: int | None = None
    follows: str | None = None
    factors: tuple["Dim", ...] = ()
    of: tuple[str, ...] = ()

    @classmethod
    def along(cls, axis: str, name: str | None = None) -> "Dim":
        """Return an axis as long as a free one."""
        return cls(name or axis, follows=axis)

    @classmethod
    def computed_from(cls, *axes: str) -> "Dim":
        """Return an axis whose length the model computes from free ones; without any, from values.

        Only the model knows that length. Names may be joined by commas.
        """
        return cls(of=tuple(",".join(axes or (_VALUES,)).split(",")))

    @classmethod
    def parse(cls, text: str | None, size: int | None = None) -> "Dim":
        """Parse the text of a dim. This is the inverse of `label` and `size`.

        Args:
            text: "sample", "token", "query=token", "sample*token", "f(token)", "?", or, for a fixed
                axis, its name or None.
            size: the size of a fixed axis.
        """
        if text is None or text.isdecimal():
            return cls(size=size if text is None else int(text))
        name, named, length = text.partition("=")
        if named:
            return replace(cls.parse(length, size), name=name)
        if text == _UNKNOWN:
            return cls()
        if found := _COMPUTED.fullmatch(text):
            return cls(size=size, of=tuple(found[1].split(",")))
        if "*" in text:
            head, _, rest = text.partition("*")
            return cls(size=size, factors=(cls.parse(head), cls.parse(rest)))
        return cls.along(text) if size is None else cls(text, size)

    @property
    def length(self) -> str:
        """The text of its length, without its name: "12", "token", "token*12", "f(token)", "?"."""
        if self.factors:
            return "*".join(factor.length for factor in self.factors)
        if self.of:
            return f"f({','.join(self.of)})"
        if self.follows is not None:
            return self.follows
        return _UNKNOWN if self.size is None else str(self.size)

    @property
    def label(self) -> str | None:
        """The text in JSON documents, beside the size; None for a fixed axis without a name."""
        fixed = self.size is not None and not self.factors and not self.of
        if fixed or self.name == self.follows is not None:
            return self.name
        return self.length if self.name is None else f"{self.name}={self.length}"

    def __str__(self) -> str:
        """Return name and length ("head=12", "query=token"), or the one that is known."""
        own = self.name is not None and self.name != self.follows
        return f"{self.name}={self.length}" if own else self.length

    @property
    def title(self) -> str | None:
        """The name of the axis in arrays and messages. Without one, the way its length varies."""
        return self.name or self.label

    @property
    def samples(self) -> bool:
        """Whether it is the axis of the samples, not a product with it."""
        return self.follows == SAMPLE

    @property
    def free(self) -> str | None:
        """The free axis that it is as long as; None for any other axis."""
        return None if self.samples else self.follows

    @property
    def computed(self) -> bool:
        """Whether only the model knows its length."""
        return bool(self.of) or any(factor.computed for factor in self.factors)

    @property
    def of_values(self) -> bool:
        """Whether the values of a sample decide its length."""
        return self.of == (_VALUES,) or any(factor.of_values for factor in self.factors)

    @property
    def unknown(self) -> bool:
        """Whether its length has to be measured."""
        return self.size is None and self.follows is None and not self.factors and not self.of

    @property
    def axes(self) -> tuple[str, ...]:
        """The free axes, and "sample", that its length depends on."""
        if self.factors:
            return tuple(axis for factor in self.factors for axis in factor.axes)
        return self.of if self.follows is None else (self.follows,)

    @property
    def counts_samples(self) -> bool:
        """Whether it is the axis of the samples, or a product in which they vary slowest."""
        return self.samples or bool(self.factors and self.factors[0].samples)

    def named(self, name: str | None) -> "Dim":
        """Return the same axis with a name, unless it has one of its own or none is given.

        Axes that count samples keep theirs.
        """
        own = self.name is not None and self.name != self.follows
        return self if own or name is None or self.counts_samples else replace(self, name=name)

    @property
    def described(self) -> bool:
        """Whether its name is only a description, apart from what its length follows."""
        return self.name in INFERRED if self.size is not None else self.name != self.follows

    @property
    def undescribed(self) -> "Dim":
        """The same axis without a name that only describes it."""
        return replace(self, name=self.follows) if self.described else self


SAMPLES = Dim.along(SAMPLE)
"""The axis of the samples."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """The dtype and the dims of a tensor.

    Attributes:
        dtype: NumPy name of the element type ("float32"); "string" for texts.
        dims: one `Dim` for each axis; None if the number of axes is unknown.
    """

    dtype: str
    dims: tuple[Dim, ...] | None

    @classmethod
    def of(
        cls,
        dtype: str,
        labels: Sequence[str | None] | None,
        shape: Sequence[int | None] | None,
    ) -> "TensorSpec":
        """Build a spec from the labels and sizes of a JSON document."""
        if labels is None or shape is None:
            return cls(dtype, None)
        return cls(dtype, tuple(Dim.parse(*axis) for axis in zip(labels, shape, strict=True)))

    @classmethod
    def fixed(cls, dtype: str, shape: Iterable[int | None] | None) -> "TensorSpec":
        """Build a spec from sizes alone; those that are None are unknown."""
        return cls(dtype, None if shape is None else tuple(Dim(size=size) for size in shape))

    @property
    def axes(self) -> tuple[Dim, ...]:
        """The dims of a tensor whose number of axes is known.

        Raises:
            ValueError: it is unknown.
        """
        if self.dims is None:
            raise ValueError("the number of axes is unknown")
        return self.dims

    @property
    def known(self) -> bool:
        """Whether no axis has to be measured."""
        return self.dims is not None and not any(dim.unknown for dim in self.dims)

    @property
    def labels(self) -> tuple[str | None, ...]:
        """The label of each axis."""
        return tuple(dim.label for dim in self.axes)

    @property
    def titles(self) -> tuple[str | None, ...]:
        """What each axis is called; None for a fixed axis without a name."""
        return tuple(dim.title for dim in self.axes)

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The size of each axis, None where it varies."""
        return tuple(dim.size for dim in self.axes)

    @property
    def sample_shape(self) -> tuple[int | None, ...]:
        """The size of each axis of one sample, or of a constant."""
        return self.shape[1:] if self.axes and self.axes[0].samples else self.shape

    @property
    def undescribed(self) -> "TensorSpec":
        """The same spec without names that only describe axes."""
        if self.dims is None:
            return self
        return replace(self, dims=tuple(dim.undescribed for dim in self.dims))

    def measured(self, dims: tuple[Dim, ...]) -> "TensorSpec":
        """Return the spec with measured dims, which keep the names of the axes if known.

        A length that values decide stays one, even if it was the same in each measurement.
        """
        if self.dims is None or len(self.dims) != len(dims):
            return replace(self, dims=dims)
        pairs = zip(dims, self.dims, strict=True)
        kept = (own if own.of_values else dim.named(own.name) for dim, own in pairs)
        return replace(self, dims=tuple(kept))

    def to_json(self) -> dict[str, object]:
        """Return dtype, dims and shape for JSON documents."""
        if self.dims is None:
            return {"dtype": self.dtype, "dims": None, "shape": None}
        return {"dtype": self.dtype, "dims": list(self.labels), "shape": list(self.shape)}


PER_SAMPLE = {"shape": "of one sample"}
"""Metadata of a record's field with a spec whose `shape` in JSON omits the axis of the samples."""


BFLOAT16 = "bfloat16"
"""A dtype that NumPy and HDF5 lack. float32 represents all of its values exactly."""


def storable(dtype: str) -> str:
    """Return the dtype in which a tensor is stored if it is not cast: bfloat16 as float32."""
    return "float32" if dtype == BFLOAT16 else dtype


def numpy_dtype(dtype: str) -> np.dtype[Any]:
    """Return NumPy's type for values in memory: float32 for bfloat16, objects for texts."""
    return np.dtype(object if dtype == TEXT else storable(dtype))


def file_dtype(dtype: str) -> np.dtype[Any]:
    """Return NumPy's type for a stored dtype in files: uint16, the bits, for bfloat16."""
    return np.dtype(np.uint16) if dtype == BFLOAT16 else numpy_dtype(dtype)


def unique_dims(
    dims: Sequence[str | None], forms: Sequence[Hashable], known: dict[str, Hashable]
) -> tuple[str, ...]:
    """Return unique names for the axes of one variable, and add their forms to `known`.

    A name has one form throughout an `xarray.Dataset`. The second "token" of an attention map
    therefore becomes "token_1", and so does a "token" that was sliced to another length. Unnamed
    axes are called "axis".

    Args:
        forms: the size of each axis, with its labels if it has some.
    """
    names: list[str] = []
    for dim, form in zip(dims, forms, strict=True):
        name = next(
            candidate
            for candidate in _candidates(dim or "axis")
            if candidate not in names and known.get(candidate, form) == form
        )
        known[name] = form
        names.append(name)
    return tuple(names)


def _candidates(name: str) -> Iterator[str]:
    yield name
    for number in count(1):
        yield f"{name}_{number}"
