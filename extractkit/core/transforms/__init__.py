"""Transforms of values before they leave the model: their protocol, operands and results.

A transform has two forms: operations of the graph, on a padded batch with its lengths, and NumPy on
one sample. A test over the whole registry compares them. TensorFlow is passed in as a module, so
that this package does not import it. Each family has a file; `pipeline.py` chains them.
"""

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy.typing as npt

from extractkit.core.spec import TEXT, Dim, TensorSpec
from extractkit.errors import ConfigError, SelectionError

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

Array = npt.NDArray[Any]

Tensor = Any
"""A `tf.Tensor`. Its module is passed beside it."""

AxisLengths = Mapping[int, Any]
"""The length of every sample, int32 (samples,), by position of a ragged axis: arrays or tensors."""

AxisName = str | int

EVERY_AXIS = "*"
"""The name for all axes except that of the samples."""

LARGEST_MATRIX = 256 * 1024 * 1024
"""Most bytes of a projection's matrix in float64. It is a constant of the graph."""

_LARGEST = 2**31 - 1  # of TensorFlow's int32, in which sizes are counted

_RANGE = re.compile(r"(-?\d*):(-?\d*)")
"""Names the axes of a range of positions, as `1:-1`."""


@dataclass(frozen=True)
class Axis:
    """An axis of a tensor on its way through a pipeline.

    Attributes:
        dim: the dim.
        number: its number before any transform, which configuration may use. None for an axis made
            by a transform.
    """

    dim: Dim
    number: int | None = None


@dataclass(frozen=True)
class Operand:
    """The spec of an operand or result of a transform.

    Attributes:
        dtype: NumPy name of the element type.
        axes: the axes; the first is that of the samples, unless the tensor is a constant.
        source: the address of the tensor, for messages.
        request: what it is if not the value of the tensor, as plain data; empty for values.
    """

    dtype: str
    axes: tuple[Axis, ...]
    source: str = ""
    request: Mapping[str, object] = field(default_factory=dict, hash=False)

    @classmethod
    def of(
        cls, spec: TensorSpec, source: str, request: Mapping[str, object] | None = None
    ) -> "Operand":
        """Return the operand of a tensor in stored order, before any transform."""
        axes = tuple(Axis(dim, number) for number, dim in enumerate(spec.axes))
        return cls(spec.dtype, axes, source, request or {})

    @property
    def first(self) -> int:
        """The position of the first axis that a transform may touch."""
        return 1 if self.axes and self.axes[0].dim.samples else 0

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The size of each axis, None where it varies."""
        return tuple(axis.dim.size for axis in self.axes)

    @property
    def titles(self) -> tuple[str | None, ...]:
        """What each axis is called; None for a fixed axis without a name."""
        return tuple(axis.dim.title for axis in self.axes)

    @property
    def every_axis(self) -> tuple[int, ...]:
        """The positions of all axes that a transform may touch."""
        return tuple(range(self.first, len(self.axes)))

    def find(self, names: Sequence[AxisName], at: str) -> tuple[int, ...]:
        """Return the positions of the named axes, in order.

        Raises:
            SelectionError: there is no such axis, or one is named twice.
        """
        found: dict[int, AxisName] = {}
        for name in names:
            for position in self._find(name, at):
                if position in found:
                    both = " and ".join(repr(one) for one in (found[position], name))
                    raise SelectionError(
                        f"{at} names an axis of {self.source!r} with dims {list(self.titles)} "
                        f"twice, by {both}"
                    )
                found[position] = name
        return tuple(sorted(found))

    def find_some(self, names: Sequence[AxisName], at: str) -> tuple[int, ...]:
        """Return the positions of the named axes, in order: at least one.

        Raises:
            SelectionError: see `find`, or there is no axis.
        """
        found = self.find(names, at)
        if not found:
            raise SelectionError(f"{at} needs an axis, and {self.source!r} has none")
        return found

    def _find(self, name: AxisName, at: str) -> tuple[int, ...]:
        if name == EVERY_AXIS:
            return self.every_axis
        if isinstance(name, str) and (ends := _RANGE.fullmatch(name)):
            start, stop = (int(end) if end else None for end in ends.groups())
            within = range(len(self.axes))[start:stop]
            return tuple(position for position in self.every_axis if position in within)
        found = tuple(
            position
            for position in self.every_axis
            for axis in [self.axes[position]]
            if name in (axis.number, axis.dim.name, axis.dim.length, axis.dim.label)
        )
        if found:
            return found
        own = [self.axes[position] for position in self.every_axis]
        offered = [
            *dict.fromkeys(
                name for axis in own for name in (axis.dim.title, axis.dim.free) if name
            ),
            *(axis.number for axis in own if axis.number is not None),
        ]
        raise SelectionError(
            f"{at} names axis {name!r}, which {self.source!r} with dims {list(self.titles)} does "
            f"not have. Available: {', '.join(map(str, offered)) or 'none'}. The sample axis "
            f"cannot be sliced or reduced; inputs.limit takes the first samples"
        )

    def one(self, name: AxisName, at: str) -> int:
        """Return the position of the single axis of that name.

        Raises:
            SelectionError: there is none, or several.
        """
        found = self.find([name], at)
        if len(found) != 1:
            numbers = ", ".join(str(self.axes[position].number) for position in found)
            raise SelectionError(
                f"{at} takes one axis, and {name!r} names {len(found)} of {self.source!r} with "
                f"dims {list(self.titles)}. Give one by its number: {numbers}"
            )
        return found[0]

    def needs_numbers(self, at: str) -> None:
        """Raise SelectionError if the elements are texts or complex numbers."""
        if self.dtype == TEXT or self.dtype.startswith("complex"):
            wanted, held = (
                ("numbers", "texts") if self.dtype == TEXT else ("real numbers", "complex ones")
            )
            raise SelectionError(f"{at} needs {wanted}, but {self.source!r} holds {held}")

    def without(self, positions: Sequence[int]) -> "Operand":
        """Return the operand without the axes at these positions."""
        kept = (axis for position, axis in enumerate(self.axes) if position not in positions)
        return replace(self, axes=tuple(kept))

    def with_axis(self, position: int, axis: Axis) -> "Operand":
        """Return the operand with another axis at a position."""
        axes = (*self.axes[:position], axis, *self.axes[position + 1 :])
        return replace(self, axes=axes)


@dataclass(frozen=True)
class Masked:
    """A padded batch in the graph.

    Attributes:
        tensor: the batch.
        lengths: the lengths along each ragged axis. Elements beyond a sample's length are padding
            with any value.
    """

    tensor: Tensor
    lengths: AxisLengths


class Transform(Protocol):
    """One step of a pipeline. Instances are frozen dataclasses of its options.

    A transform is registered by name, in `registry.py` or by an entry point.

    Attributes:
        name: its key in configuration.
    """

    name: ClassVar[str]

    @property
    def at(self) -> str:
        """Its configuration key, for messages."""
        ...

    def __hash__(self) -> int:
        """Return a hash. Transforms with equal options are equal."""
        ...

    @classmethod
    def parse(cls, options: object, at: str) -> "Transform":
        """Parse its options as written in configuration.

        Raises:
            ConfigError: they do not have its form.
        """
        ...

    def results(self, operand: Operand) -> Mapping[str, Operand]:
        """Return the specs of its results.

        The first one has the empty name and is the operand of the next step.

        Further results are stored beside it, as `ADDRESS@NAME`.

        Raises:
            SelectionError: the transform does not fit the operand.
        """
        ...

    def lengths(self, xp: Any, operand: Operand, lengths: AxisLengths) -> Sequence[AxisLengths]:
        """Return the lengths of each result's ragged axes.

        Args:
            xp: `numpy` or `tensorflow`: lengths are arrays or tensors.
        """
        ...

    def in_graph(self, tf: Any, operand: Operand, value: Masked) -> Sequence[Tensor]:
        """Return the results for a padded batch."""
        ...

    def in_numpy(self, operand: Operand, value: Array) -> Sequence[Array]:
        """Return the results for one sample. Its sample axis, if any, has one element.

        Operands and results of dtype bfloat16 are float32, which represents all of its values.
        """
        ...


def kept_lengths(lengths: AxisLengths, dropped: Sequence[int]) -> AxisLengths:
    """Return the lengths of the axes that remain after some are dropped."""
    return {
        position - sum(gone < position for gone in dropped): length
        for position, length in lengths.items()
        if position not in dropped
    }


def present(tf: Any, value: Masked, positions: Sequence[int]) -> Tensor:
    """Return a mask of the elements that are not padding along some axes.

    The mask is boolean and can be broadcast to the tensor.
    """
    found = tf.constant(True)
    rank = value.tensor.shape.rank
    for position in positions:
        if position not in value.lengths:
            continue
        size = tf.shape(value.tensor)[position]
        shape = [1] * rank
        shape[0], shape[position] = tf.shape(value.tensor)[0], size
        mask = tf.sequence_mask(value.lengths[position], size)
        found = tf.logical_and(found, tf.reshape(mask, shape))
    return found


def axis_name(key: object, at: str) -> AxisName:
    """Parse the name of an axis: a dim's label or a number.

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(key, int) and not isinstance(key, bool):
        return key
    text = str(key)
    if isinstance(key, str) and text.isdecimal():
        return int(text)
    if isinstance(key, str) and text and text != EVERY_AXIS:
        return text
    if key is None:
        raise ConfigError(f"{at} needs an axis. Give a dim such as token, or a number")
    raise ConfigError(f"{at}: {key!r} does not name an axis. Use a dim such as token, or a number")


def axis_names(value: object, at: str) -> tuple[AxisName, ...]:
    """Parse one name of an axis, several, or "*" for all; None means all."""
    if value is None or value == EVERY_AXIS:
        return (EVERY_AXIS,)
    if isinstance(value, list | tuple):
        if not value:
            raise ConfigError(f"{at} is an empty list of axes")
        return tuple(axis_name(one, at) for one in value)
    return (axis_name(value, at),)


def as_options(value: object, at: str, names: Sequence[str], example: str) -> dict[str, Any]:
    """Return a mapping of options, whose keys are among `names`.

    Raises:
        ConfigError: it is not a mapping, or has another key.
    """
    if not isinstance(value, Mapping):
        raise ConfigError(f"{at}={value!r} is not a mapping of options, as in {example}")
    for key in value:
        if key not in names:
            raise ConfigError(
                f"{at}.{key} does not exist. Available: {', '.join(names)}. For example {example}"
            )
    return {str(key): entry for key, entry in value.items() if entry is not None}


def no_options(value: object, at: str) -> None:
    """Check that nothing is given as options.

    Raises:
        ConfigError: something is.
    """
    if value not in (None, {}):
        raise ConfigError(f"{at} takes no options, given {value!r}")


def named_entry(entry: object) -> tuple[Any, object] | None:
    """Return the name and options of a list's entry: a name, or a mapping of one to its options.

    None if it is neither.
    """
    if isinstance(entry, str):
        return entry, None
    if isinstance(entry, Mapping) and len(entry) == 1:
        ((name, options),) = entry.items()
        return name, options
    return None


def whole_number(value: object, at: str, least: int = 1) -> int:
    """Return an option that is a whole number of at least `least`.

    Raises:
        ConfigError: it is not.
    """
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= _LARGEST:
        return value
    raise ConfigError(f"{at}={value!r} is not a whole number from {least} to {_LARGEST:,}")


def number(value: object, at: str) -> float:
    """Return an option that is a finite number.

    Raises:
        ConfigError: it is not.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        # An integer may be too large for a float.
        with suppress(OverflowError):
            if math.isfinite(found := float(value)):
                return found
    raise ConfigError(f"{at}={value!r} is not a number")


def widest(size: int) -> int:
    """Return the most dimensions onto which an axis of this size can be projected."""
    return min(size, LARGEST_MATRIX // (8 * size))


@cache
def _controller() -> "ThreadpoolController":
    """Return the controller of the libraries that NumPy has loaded. Finding them takes a while."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


class _Limit:
    """A limit of the whole process, set by the first of its holders and lifted by the last."""

    def __init__(self) -> None:
        self._lock, self._holders, self._limits = Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._holders:
                _take_control()
                self._limits.enter_context(_controller().limit(limits=1, user_api="blas"))
            else:
                # Builds of OpenBLAS with OpenMP have a limit for each thread. Others ignore this.
                _controller().limit(limits=1, user_api="blas")
            self._holders += 1

    def __exit__(self, *raised: object) -> None:
        with self._lock:
            self._holders -= 1
            if not self._holders:
                _take_control()
                self._limits.close()


def _take_control() -> None:
    """Let this thread set limits, which otherwise only the first to set one can do."""
    from threadpoolctl import OpenBLASController

    OpenBLASController.clear_controlling_thread(force=True)


_LIMIT = _Limit()


def one_thread() -> AbstractContextManager[None]:
    """Let BLAS and LAPACK use one thread for each thread that calls them.

    With several threads they divide sums, so that the last bits of a product would depend on the
    number of cores.
    """
    return _LIMIT
