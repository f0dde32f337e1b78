"""Projections of an axis: random ones, and onto the principal components of another run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from extractkit.core.spec import Dim
from extractkit.core.transforms import (
    EVERY_AXIS,
    LARGEST_MATRIX,
    Array,
    Axis,
    AxisLengths,
    AxisName,
    Masked,
    Operand,
    Tensor,
    as_options,
    axis_name,
    named_entry,
    one_thread,
    whole_number,
    widest,
)
from extractkit.core.transforms.reductions import reduced_dtype
from extractkit.errors import ConfigError, SelectionError, choices


def _instead(at: str, size: int) -> str:
    most = widest(size)
    return f"The most for this axis is {at}.to={most}" if most else "Take a slice of it first"


def decisive(recorded: Iterable[object]) -> tuple[object, ...]:
    """Return what decides the values of recorded transforms.

    The path of a run with components is replaced by null: it may be relative, or the run may have
    moved. The digests of the components identify them instead.
    """
    return tuple(map(_decisive, recorded))


def _decisive(entry: object) -> object:
    match named_entry(entry):
        case (Project.name, Mapping() as options) if "run" in options:
            return {Project.name: {**options, "run": None}}
        case _:
            return entry


@dataclass(frozen=True)
class Components:
    """Principal components of one tensor of another run.

    Attributes:
        key: the tensor's name in that run.
        address: its address in the model of that run.
        run: the run directory.
        identity: the run's identity; None if it is unknown.
        sha256: digest of the mean and the components.
        mean: float64 (features,).
        components: float64 (components, features), as the statistic `pca` has them.
        transforms: the recorded transforms of the tensor before; None if they need no check.
        model: digests of weights and definition of that model; None if they need no check.
        request: what they are components of if not of values, as plain data. It is checked with
            the transforms.
    """

    key: str
    address: str
    run: str
    identity: str | None
    sha256: str
    mean: Array = field(compare=False, repr=False)
    components: Array = field(compare=False, repr=False)
    transforms: Sequence[object] | None = field(default=None, compare=False)
    model: tuple[object, object] | None = field(default=None, compare=False)
    request: Mapping[str, object] = field(default_factory=dict, compare=False)

    def of_same(self, operand: Operand) -> bool:
        """Return True if they and the operand are values, or for example gradients of one target.

        True as well if they need no check.
        """
        return self.transforms is None or _plain(self.request) == _plain(operand.request)

    def follow(self, transforms: tuple[object, ...]) -> bool:
        """Return True if the components were computed after these transforms.

        It is False if one of these projects onto another run, since that may have been a different
        run.
        """
        if self.transforms is None:
            return True
        compared = transforms == decisive(transforms)
        return compared and _plain(transforms) == _plain(self.transforms)


def _plain(value: object) -> object:
    """Return plain data as JSON has it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def _of(request: Mapping[str, object]) -> str:
    named = (f"{name}s of {_plain(entry)}" for name, entry in request.items())
    return ", ".join(named) or "values"


def _after(transforms: Sequence[object] | None) -> str:
    return f"after {_plain(list(transforms))}" if transforms else "without transforms before"


@dataclass(frozen=True)
class Signs:
    """A random matrix of ±1/√to, so that distances are kept in expectation.

    Source: Achlioptas, Database-friendly random projections, 2003.
    """

    to: int
    seed: int

    def width(self, size: int, operand: Operand, at: str) -> int:
        """Return the number of dimensions of the result."""
        if self.to > size:
            raise SelectionError(
                f"{at}.to={self.to} is larger than the axis of {operand.source!r}, which has "
                f"{size} elements"
            )
        if (bytes_ := 8 * size * self.to) > LARGEST_MATRIX:
            raise SelectionError(
                f"{at}.to={self.to} of {size} elements of {operand.source!r} needs a matrix of "
                f"{bytes_:,} bytes, more than {LARGEST_MATRIX:,}. {_instead(at, size)}"
            )
        return self.to

    def matrix(self, size: int, operand: Operand, at: str) -> tuple[Array | None, Array]:
        """Return no offset, and the matrix, float64 (size, to)."""
        return None, random_signs(size, self.to, self.seed) / np.sqrt(self.to)


@dataclass(frozen=True)
class FromRun:
    """The mean and the principal components of a tensor of another run.

    Attributes:
        run: the run directory, as written.
        tensor: the tensor's key there; None for the one of the operand's address.
        to: how many components to take, largest variance first; None for all.
        found: the components that the run offers; None until they have been read.
        before: the transforms before the projection.
    """

    run: str
    tensor: str | None
    to: int | None
    found: tuple[Components, ...] | None = None
    before: tuple[object, ...] = ()

    def chosen(self, operand: Operand, at: str) -> Components:
        """Return the components for an operand.

        Raises:
            SelectionError: the run has no components for it, or several, or only components of
                another target, of gradients instead of values, or after other transforms.
        """
        if self.found is None:
            raise SelectionError(f"{at}.run={self.run!r} has not been read")
        keys = [one.key for one in self.found]
        if self.tensor is not None:
            for one in self.found:
                if one.key == self.tensor:
                    return one
            raise SelectionError(
                f"{at}.tensor={self.tensor!r} has no principal components in {self.run}. "
                f"{choices(self.tensor, keys)}"
            )
        same = [one for one in self.found if operand.source in (one.key, one.address)]
        alike = [one for one in same if one.of_same(operand)]
        fitting = [one for one in alike if one.follow(self.before)]
        if len(fitting) == 1:
            return fitting[0]
        if same and not alike:
            others = ", ".join(f"{one.key!r} ({_of(one.request)})" for one in same)
            raise SelectionError(
                f"{at}: {self.run} has principal components of {others}, and this projection is of "
                f"{_of(operand.request)} of {operand.source!r}. Compute those of the same in "
                f"another run, or use the components all the same: {at}.tensor={same[0].key!r}"
            )
        if alike and not fitting:
            others = ", ".join(f"{one.key!r} {_after(one.transforms)}" for one in alike)
            advice = (
                "Write the same transforms before it, or use"
                if self.before == decisive(self.before)
                else "The runs onto which they project may differ. Use"
            )
            raise SelectionError(
                f"{at}: {self.run} has principal components of {others}, and this projection is "
                f"{_after(self.before)}. {advice} the components all the same: "
                f"{at}.tensor={alike[0].key!r}"
            )
        if fitting:
            several = ", ".join(repr(one.key) for one in fitting)
            raise SelectionError(
                f"{at}: {self.run} has principal components of {operand.source!r} under several "
                f"names: {several}. Choose one with {at}.tensor=…"
            )
        raise SelectionError(
            f"{at}: {self.run} has no principal components of {operand.source!r}. Those of another "
            f"tensor: {at}.tensor=…. {choices(operand.source, keys)}"
        )

    def width(self, size: int, operand: Operand, at: str) -> int:
        """Return the number of components."""
        chosen = self.chosen(operand, at)
        count, features = chosen.components.shape
        of = f"principal components of {chosen.key!r} in {self.run}"
        if features != size:
            raise SelectionError(
                f"{at}: the {of} have {features} features, and the axis of {operand.source!r} with "
                f"dims {list(operand.titles)} has {size} elements"
            )
        if not (np.isfinite(chosen.mean).all() and np.isfinite(chosen.components).all()):
            raise SelectionError(
                f"{at}: the {of} are not finite, because its values were not, or there were none"
            )
        if self.to is not None and self.to > count:
            raise SelectionError(f"{at}.to={self.to} is larger than the {count} {of}")
        return count if self.to is None else self.to

    def matrix(self, size: int, operand: Operand, at: str) -> tuple[Array, Array]:
        """Return the mean, float64 (size,), and the matrix, float64 (size, components)."""
        chosen = self.chosen(operand, at)
        return chosen.mean, chosen.components[: self.width(size, operand, at)].T


@dataclass(frozen=True)
class Project:
    """Project an axis onto fewer dimensions, which become the axis `component`.

    project: {axis: 2, to: 64, seed: 0}                  # random, depends only on the seed
    project: {run: runs/pca, to: 8}                      # onto components of the statistic `pca`
    project: {run: runs/pca, tensor: 'a:output', axis: 2}

    Components are those of the tensor of the same address after the same transforms, unless
    `tensor` names others. Those of gradients are for gradients of the same target. The axis is the
    last one, unless `axis` names another. The mean is subtracted first, as scikit-learn's
    `PCA.transform` does.
    """

    name: ClassVar[str] = "project"
    axis: AxisName | None
    onto: Signs | FromRun
    at: str

    @classmethod
    def parse(cls, options: object, at: str) -> "Project":
        """Parse axis, width and seed, or the run with the components."""
        names = ("axis", "to", "seed", "run", "tensor")
        given = as_options(options, at, names, "{axis: 2, to: 64, seed: 0}, or {run: runs/pca}")
        axis = axis_name(given["axis"], f"{at}.axis") if "axis" in given else None
        if "run" not in given:
            if "tensor" in given:
                raise ConfigError(f"{at}.tensor needs a run: add {at}.run=…, the run with its pca")
            to = whole_number(given.get("to"), f"{at}.to")
            seed = whole_number(given.get("seed", 0), f"{at}.seed", least=0)
            return cls(axis_name(axis, f"{at}.axis"), Signs(to, seed), at)
        if "seed" in given:
            raise ConfigError(
                f"{at}.seed is for random projections, {at}.run for components. Leave one out"
            )
        for name in ("run", "tensor"):
            if not isinstance(given.get(name, "…"), str) or not given.get(name, "…"):
                wanted = "a run directory" if name == "run" else "the key of a tensor"
                raise ConfigError(f"{at}.{name}={given[name]!r} is not {wanted}")
        most = whole_number(given["to"], f"{at}.to") if "to" in given else None
        return cls(axis, FromRun(given["run"], given.get("tensor"), most), at)

    def given(self, found: Sequence[Components], before: Sequence[object]) -> "Project":
        """Return the projection with the components that its run offers.

        Args:
            found: the components.
            before: the transforms before the projection, as written.
        """
        if isinstance(self.onto, Signs):
            return self
        return replace(self, onto=replace(self.onto, found=tuple(found), before=tuple(before)))

    def components(self, operand: Operand) -> Components | None:
        """Return the components that are used for an operand; None for a random projection."""
        return None if isinstance(self.onto, Signs) else self.onto.chosen(operand, self.at)

    def _position(self, operand: Operand) -> tuple[int, int]:
        """Return the position of the axis and its size."""
        if self.axis is None:
            position = operand.find_some([EVERY_AXIS], self.at)[-1]
        else:
            position = operand.one(self.axis, self.at)
        size = operand.axes[position].dim.size
        if size is None:
            raise SelectionError(
                f"{self.at} needs an axis of one size, and {operand.axes[position].dim} of "
                f"{operand.source!r} differs from sample to sample"
            )
        return position, size

    def results(self, operand: Operand) -> Mapping[str, Operand]:
        """Return the spec with the axis narrowed."""
        operand.needs_numbers(self.at)
        position, size = self._position(operand)
        width = self.onto.width(size, operand, self.at)
        result = operand.with_axis(position, Axis(Dim("component", width)))
        return {"": replace(result, dtype=reduced_dtype("mean", operand.dtype))}

    def lengths(self, xp: Any, operand: Operand, lengths: AxisLengths) -> Sequence[AxisLengths]:
        """Return the same lengths."""
        return [lengths]

    def in_graph(self, tf: Any, operand: Operand, value: Masked) -> Sequence[Tensor]:
        """Subtract the mean, and multiply with the matrix, in float64."""
        position, size = self._position(operand)
        mean, matrix = self.onto.matrix(size, operand, self.at)
        tensor = tf.cast(value.tensor, tf.float64)
        rank = tensor.shape.rank
        if mean is not None:
            tensor -= tf.constant(mean.reshape(size, *[1] * (rank - 1 - position)))
        found = tf.tensordot(tensor, tf.constant(matrix), [[position], [0]])
        found = tf.cast(found, reduced_dtype("mean", value.tensor.dtype.name))
        return [tf.transpose(found, [*range(position), rank - 1, *range(position, rank - 1)])]

    def in_numpy(self, operand: Operand, value: Array) -> Sequence[Array]:
        """Do the same in float64."""
        position, size = self._position(operand)
        mean, matrix = self.onto.matrix(size, operand, self.at)
        wide = value.astype(np.float64)
        if mean is not None:
            wide -= mean.reshape(size, *[1] * (value.ndim - 1 - position))
        with one_thread():
            found = np.tensordot(wide, matrix, ([position], [0]))
        found = np.moveaxis(found, -1, position)
        with np.errstate(over="ignore"):
            return [found.astype(reduced_dtype("mean", value.dtype.name))]


@lru_cache(maxsize=16)
def random_signs(rows: int, columns: int, seed: int) -> Array:
    """Return a matrix of ±1, float64 (rows, columns), the same for every release of NumPy."""
    count = rows * columns
    # Raw bits of the generator: its distributions may change between releases.
    words = np.random.PCG64(seed).random_raw(-(-count // 64))
    bits = np.unpackbits(np.asarray(words, "<u8").view(np.uint8), count=count)
    return (bits.reshape(rows, columns) * 2.0) - 1.0
