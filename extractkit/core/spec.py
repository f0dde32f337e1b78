"""Specs of tensors: dtype and dims. Plain values, no TensorFlow."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SAMPLE = "sample"
"""Name of the axis that counts samples."""

UNKNOWN = "?"
"""Text of a dim that is unknown before the model runs. It is measured on data, never guessed."""

BY_VALUES = "f(values)"
"""Text of a dim whose length the model computes from a sample's values, not from its lengths."""

TEXT = "string"
"""TensorFlow's name of a dtype that NumPy lacks: texts of any length."""

_COMPUTED = re.compile(r"f\((.*)\)")


@dataclass(frozen=True, slots=True)
class Dim:
    """One axis of a tensor.

    An axis is one of:

    - the samples (`name` is "sample") or a free axis, whose length differs from sample to sample
      ("token"): a name, no size;
    - fixed: a size, and a name where one is known ("head");
    - a product of other axes ("sample*token", "token*12"): `factors`;
    - computed by the model from the lengths of free axes, or from values ("f(token)"): `of`;
    - unknown ("?"): none of these.

    Attributes:
        name: the name of the samples' axis, of a free axis or of a fixed one.
        size: the number of elements, None if it varies or is unknown.
        factors: the axes of a product, slowest first.
        of: the free axes that a computed length depends on.
    """

    name: str | None = None
    size: int | None = None
    factors: tuple["Dim", ...] = ()
    of: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str | None, size: int | None = None) -> "Dim":
        """Parse the text of a dim. This is the inverse of `str` and `label`.

        Args:
            text: "sample", "token", "sample*token", "f(token)", "?", or None for a fixed axis
                without a name.
            size: the size of a fixed axis.
        """
        if text is None or text.isdigit():
            return cls(size=size if text is None else int(text))
        if text == UNKNOWN:
            return cls()
        if found := _COMPUTED.fullmatch(text):
            return cls(size=size, of=tuple(found[1].split(",")))
        if "*" in text:
            head, _, rest = text.partition("*")
            return cls(size=size, factors=(cls.parse(head), cls.parse(rest)))
        return cls(text, size)

    @property
    def label(self) -> str | None:
        """The text in manifests, views and tables; None for a fixed axis without a name."""
        if self.factors:
            return "*".join(str(factor) for factor in self.factors)
        if self.of:
            return f"f({','.join(self.of)})"
        if self.name is None and self.size is None:
            return UNKNOWN
        return self.name

    def __str__(self) -> str:
        return self.label or str(self.size)

    @property
    def samples(self) -> bool:
        """Whether it is the axis of the samples, not a product with it."""
        return self.name == SAMPLE

    @property
    def free(self) -> str | None:
        """The name of the free axis; None for any other axis."""
        single = self.size is None and not self.factors and not self.samples
        return self.name if single else None

    @property
    def computed(self) -> bool:
        """Whether only the model knows its length."""
        return bool(self.of) or any(factor.computed for factor in self.factors)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """The dtype and the dims of a tensor.

    Attributes:
        dtype: NumPy name of the element type ("float32"); "string" for texts.
        dims: one `Dim` for each axis.
    """

    dtype: str
    dims: tuple[Dim, ...]

    @classmethod
    def of(
        cls, dtype: str, labels: Sequence[str | None], shape: Sequence[int | None]
    ) -> "TensorSpec":
        """Build a spec from the labels and sizes in a manifest or record."""
        return cls(dtype, tuple(map(Dim.parse, labels, shape)))

    @property
    def labels(self) -> tuple[str | None, ...]:
        """The label of each axis."""
        return tuple(dim.label for dim in self.dims)

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The size of each axis, None where it varies."""
        return tuple(dim.size for dim in self.dims)


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
