"""Checks that transforms and statistics return what their specs predict, in jobs and in tests.

A plugin's code runs on an example of zeros before anything is stored. What it returns has to have
the dtype, the axes and the lengths that it predicts for them, because batches, shards and readers
rely on these.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from extractkit.core.plan import PlannedTensor
from extractkit.core.spec import BFLOAT16, TEXT, numpy_dtype
from extractkit.core.statistics import Array, Block, Statistic
from extractkit.core.statistics import registry as statistics
from extractkit.core.transforms import AxisLengths, Masked, Operand, Transform
from extractkit.core.transforms import registry as transforms
from extractkit.core.transforms.pipeline import BoundPipeline
from extractkit.core.values import Dense
from extractkit.errors import SelectionError

_LENGTHS = (16, 128, 1024)
"""Elements of examples along each axis whose length varies. The longer ones are for slices that
leave nothing of a shorter one."""

_LARGEST = 64 * 1024 * 1024
"""Most elements of a longer example."""


@dataclass(frozen=True, eq=False)
class Result:
    """What a transform returns for a batch.

    Attributes:
        values: one array for each result, padded.
        lengths: for each result, the lengths of its ragged axes by position.
    """

    values: Sequence[Array]
    lengths: Sequence[Mapping[int, Array]]

    def sample(self, result: int, index: int) -> Array:
        """Return one result for one sample, without padding."""
        own = {axis: int(size[index]) for axis, size in self.lengths[result].items()}
        value = self.values[result][index]
        return np.asarray(value[tuple(slice(own.get(axis + 1)) for axis in range(value.ndim))])


def in_graph(transform: Transform, operand: Operand, batch: Array, lengths: AxisLengths) -> Result:
    """Apply a transform's graph form to a padded batch, or to a constant, with lengths int32.

    Sizes are unknown while it is traced, as in a program.
    """
    import tensorflow as tf

    tensor = tf.constant(batch, tf.as_dtype(operand.dtype))
    own = {str(axis): tf.constant(one, tf.int32) for axis, one in lengths.items()}
    values, found = _traced(transform, operand, tuple(lengths))(tensor, own)
    return Result(
        [value.numpy() for value in values],
        [{int(axis): one.numpy() for axis, one in each.items()} for each in found],
    )


@lru_cache(maxsize=1024)
def _traced(transform: Transform, operand: Operand, ragged: tuple[int, ...]) -> Any:
    """Return the graph form and the lengths of a transform as a function of tensors."""
    import tensorflow as tf

    def compute(tensor: Any, own: Mapping[str, Any]) -> Any:
        lengths = {int(axis): length for axis, length in own.items()}
        results = transform.in_graph(tf, operand, Masked(tensor, lengths))
        found = transform.lengths(tf, operand, lengths)
        return list(results), [{str(axis): one for axis, one in each.items()} for each in found]

    sizes = [None] * len(operand.axes) if operand.first else operand.shape
    signature = [
        tf.TensorSpec(sizes, tf.as_dtype(operand.dtype)),
        {str(axis): tf.TensorSpec([None], tf.int32) for axis in ragged},
    ]
    return tf.function(compute, signature, autograph=False)


def in_numpy(transform: Transform, operand: Operand, samples: Sequence[Array]) -> list[list[Array]]:
    """Apply a transform's NumPy form to each sample, given without a sample axis, or a constant.

    Returns:
        For each sample, its results.
    """
    first = operand.first
    every = []
    for sample in samples:
        whole = sample[np.newaxis] if first else sample
        results = transform.in_numpy(operand, whole)
        every.append([np.asarray(one[0] if first else one) for one in results])
    return every


def misfits(results: Mapping[str, Operand], values: Sequence[Array]) -> Iterator[str]:
    """Yield how values differ from their specs: number, dtype, axes, sizes of fixed axes.

    Args:
        values: a batch or a constant for each result.
    """
    if len(values) != len(results):
        yield f"it returns {len(values)} results, and its spec has {len(results)}"
        return
    for (name, spec), value in zip(results.items(), values, strict=True):
        result = f"result {name!r}" if name else "the result"
        found = "bfloat16" if value.dtype.name == BFLOAT16 else value.dtype.name
        wanted = {spec.dtype, numpy_dtype(spec.dtype).name}
        if found not in wanted and not (spec.dtype == TEXT and value.dtype.kind in "OSU"):
            yield f"{result} is {found}, and its spec has {spec.dtype}"
        if value.ndim != len(spec.axes):
            yield f"{result} has {value.ndim} axes, and its spec {len(spec.axes)}"
            continue
        for axis, size in enumerate(spec.shape):
            if size is not None and value.shape[axis] != size:
                yield (
                    f"{result} has {value.shape[axis]} elements along axis {axis}, and its spec "
                    f"{size}"
                )


def wrong_lengths(
    results: Mapping[str, Operand], values: Sequence[Array], lengths: Sequence[AxisLengths]
) -> Iterator[str]:
    """Yield how one sample's results differ from the predicted lengths of their ragged axes.

    Args:
        values: with a sample axis of size 1, without padding.
        lengths: as `Transform.lengths` returns them.
    """
    if len(lengths) != len(results):
        yield f"`lengths` returns {len(lengths)} entries for {len(results)} results"
        return
    for (name, spec), value, own in zip(results.items(), values, lengths, strict=True):
        result = f"result {name!r}" if name else "the result"
        for axis, predicted in own.items():
            if not 0 < axis < value.ndim or spec.shape[axis] is not None:
                yield f"`lengths` has axis {axis} of {result}, which is not a ragged one"
            elif value.shape[axis] != int(predicted[0]):
                yield (
                    f"{result} has {value.shape[axis]} elements along axis {axis}, and `lengths` "
                    f"predicts {int(predicted[0])}"
                )


def check_plugins(tensors: Iterable[PlannedTensor]) -> None:
    """Try the plugins among the transforms and statistics of tensors on example values.

    Raises:
        SelectionError: one fails, or returns something else than it predicts.
    """
    for tensor in tensors:
        if tensor.bound is None:
            continue
        if not all(transforms.is_own(step.transform.name) for step in tensor.bound.steps):
            _check_transforms(tensor.bound)
        for statistic in tensor.statistics.single:
            if not statistics.is_own(statistic.name):
                _check_statistic(statistic, tensor.bound.result)


def _check_transforms(bound: BoundPipeline) -> None:
    """Check the plugins on the first example of which the slices before them leave elements.

    Some slices need longer examples than there are. Plugins after these slices are not checked.
    """
    first = bound.steps[0].operand
    for length in _LENGTHS:
        if length > _LENGTHS[0] and math.prod(_shape(first, length)) > _LARGEST:
            return
        if _checked(bound, length):
            return


def _checked(bound: BoundPipeline, length: int) -> bool:
    """Check plugins until nothing is left of the example; return whether all are checked."""
    operand = bound.steps[0].operand
    value = _zeros(operand, length)
    lengths: AxisLengths = {
        axis: np.full(1, length, np.int32)
        for axis in operand.every_axis
        if operand.first and operand.axes[axis].dim.free is not None
    }
    for step in bound.steps:
        if not value.size:
            return False
        own = transforms.is_own(step.transform.name)
        if not own:
            found = _problem_of(step.transform, step.operand, value, lengths)
            if found is not None:
                package = transforms.PLUGINS.distribution(step.transform.name)
                what = f"transform {step.transform.name!r} of {package}"
                raise _defect(step.transform.at, what, found, "TransformContract")
        try:
            results = step.transform.in_numpy(step.operand, value)
        except IndexError:
            return False  # a slice takes an element beyond the example
        value = results[step.results.index("")]
        lengths = step.transform.lengths(np, step.operand, lengths)[step.results.index("")]
    return True


def _shape(operand: Operand, length: int) -> list[int]:
    sizes = [1 if axis.dim.samples else axis.dim.size for axis in operand.axes]
    return [length if size is None else size for size in sizes]


def _zeros(operand: Operand, length: int = _LENGTHS[0]) -> Array:
    """Return an example of an operand, with one sample."""
    dtype = numpy_dtype(operand.dtype)
    return np.full(_shape(operand, length), b"" if dtype.hasobject else 0, dtype)


def _problem_of(
    transform: Transform, operand: Operand, value: Array, lengths: AxisLengths
) -> str | None:
    """Return the first thing that is wrong with a transform; None if nothing is."""
    results = dict(transform.results(operand))
    if next(iter(results), None) != "":
        return "its first result has a name, and the first one must have the empty name"
    forms: Mapping[str, Callable[[], Sequence[Array]]] = {
        "NumPy": lambda: transform.in_numpy(operand, value),
        "graph": lambda: in_graph(transform, operand, value, lengths).values,
    }
    for form, compute in forms.items():
        try:
            values = [np.asarray(one) for one in compute()]
            predicted = transform.lengths(np, operand, lengths)
        except Exception as error:  # noqa: BLE001 - a plugin's code may raise anything
            shape = f"{operand.dtype} zeros of shape {list(value.shape)}"
            return f"its {form} form fails on {shape}: {type(error).__name__}: {error}"
        wrong = [*misfits(results, values)]
        wrong = wrong or [*wrong_lengths(results, values, predicted)]
        if wrong:
            return f"in its {form} form {wrong[0]}"
    return None


def _check_statistic(statistic: Statistic, operand: Operand) -> None:
    found = _statistics_problem(statistic, operand)
    if found is not None:
        package = statistics.PLUGINS.distribution(statistic.name)
        what = f"statistic {statistic.name!r} of {package}"
        raise _defect(statistic.at, what, found, "StatisticContract")


def _statistics_problem(statistic: Statistic, operand: Operand) -> str | None:
    value = _zeros(operand)
    block = Block(Dense(value), np.zeros(1, np.int64), operand.axes[-1].dim.size or 1)
    try:
        partial = statistic.of(block)
        merged = statistic.merge(partial, statistic.of(block))
        arrays: dict[str, object] = {**partial, **merged, **statistic.finish(merged)}
    except Exception as error:  # noqa: BLE001 - a plugin's code may raise anything
        return f"it fails on zeros of shape {list(value.shape)}: {type(error).__name__}: {error}"
    if partial.keys() != merged.keys():
        return f"it merges {sorted(partial)} to {sorted(merged)}"
    for name, one in arrays.items():
        if not isinstance(one, np.ndarray | np.generic):
            return f"{name!r} is {type(one).__name__}, not an array"
    size, predicted = sum(one.nbytes for one in partial.values()), statistic.partial_bytes(operand)
    if size != predicted:
        return f"its partial result has {size} bytes, and `partial_bytes` predicts {predicted}"
    return None


def _defect(at: str, what: str, wrong: str, contract: str) -> SelectionError:
    room = "transforms" if contract.startswith("Transform") else "statistics"
    return SelectionError(
        f"{at}: the {what} has a defect: {wrong}. Its author finds such defects with "
        f"extractkit.testing.{room}.{contract}"
    )
