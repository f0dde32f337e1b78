"""The contract tests of transforms.

A test module of a transform subclasses `TransformContract` and provides the class and options:

    class TestDouble(TransformContract):
        def transform(self) -> type[Transform]:
            return Double

        def options(self) -> Sequence[object]:
            return [None]           # as written in configuration; None without options

pytest then collects the tests below. They apply both forms, in TensorFlow and in NumPy, to examples
of hidden states, attention, images, vectors and numbers of several dtypes, padded and alone. Some
floats are infinite or NaN, and some samples have no elements.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from extractkit.core.spec import BFLOAT16, SAMPLE, Dim, numpy_dtype
from extractkit.core.transforms import Array, Axis, AxisLengths, Operand, Transform, registry
from extractkit.engine.conformity import in_graph, in_numpy, misfits, wrong_lengths
from extractkit.errors import SelectionError
from extractkit.testing.registered import RegisteredContract

AT = "selectors.mine.do.0"

DTYPES = ("float32", BFLOAT16, "int32", "uint64", "bool")

_DIMS = (
    (Dim.along("token"), Dim(size=3)),
    (Dim("head", 2), Dim.along("token", "query"), Dim.along("token", "key")),
    (Dim.along("height"), Dim.along("width"), Dim(size=2)),
    (Dim(size=5),),
    (),
)
_SIZES = {"token": (4, 1, 3), "height": (2, 3, 1), "width": (3, 3, 2)}
_WITH_EMPTY = {"token": (0, 3, 0), "height": (2, 0, 1), "width": (3, 2, 0)}
_SAMPLES = 3
_NOT_FINITE = ((-np.inf,), (-np.inf, np.inf, np.nan), (np.inf,))
"""What replaces about half of each sample's elements in examples that are not finite."""


def operand_of(dims: Sequence[Dim], dtype: str) -> Operand:
    """Return the spec of a tensor with samples in front, as a pipeline begins with it."""
    axes = (Axis(dim, number) for number, dim in enumerate([Dim.along(SAMPLE), *dims]))
    return Operand(dtype, tuple(axes), "example:output")


@dataclass(frozen=True, eq=False)
class Example:
    """Samples of different lengths.

    Attributes:
        operand: the spec of the tensor.
        samples: each sample in its own shape, bfloat16 as float32.
        lengths: the samples' lengths by position of a ragged axis, int32.
    """

    operand: Operand
    samples: Sequence[Array]
    lengths: AxisLengths

    def padded(self, fill: float, wider: int = 0) -> Array:
        """Return the samples as one batch.

        Args:
            fill: the padding.
            wider: more padding than the longest sample needs.
        """
        shape = [
            max(sizes) + wider * (axis + 1 in self.lengths)
            for axis, sizes in enumerate(zip(*(one.shape for one in self.samples), strict=True))
        ]
        dtype = self.samples[0].dtype
        filling = fill if dtype.kind == "f" else int(np.nan_to_num(abs(fill), nan=1)) % 2
        batch = np.full((len(self.samples), *shape), filling, dtype)
        for position, sample in enumerate(self.samples):
            own: tuple[int | slice, ...] = (position, *map(slice, sample.shape))
            batch[own] = sample
        return batch

    def alone(self, index: int) -> "Example":
        """Return one of the samples."""
        own = {axis: size[index : index + 1] for axis, size in self.lengths.items()}
        return Example(self.operand, [self.samples[index]], own)


def example(
    operand: Operand, seed: int = 0, *, finite: bool = True, empty: bool = False
) -> Example:
    """Draw samples of a spec, of three different lengths along its free axes.

    Args:
        finite: False for floats with infinities and NaN among them.
        empty: True for samples without elements among them.
    """
    of_axes = _WITH_EMPTY if empty else _SIZES
    draw = np.random.default_rng(seed)
    lengths = {
        axis: np.array(of_axes.get(str(dim.free), of_axes["token"]), np.int32)
        for axis, dim in enumerate(one.dim for one in operand.axes)
        if dim.free is not None
    }
    samples = []
    for index in range(_SAMPLES):
        sizes = [one.dim.size for one in operand.axes[1:]]
        shape = [
            int(lengths[axis][index]) if size is None else size
            for axis, size in enumerate(sizes, start=1)
        ]
        values: Array = np.asarray(draw.normal(scale=2, size=shape))
        dtype = numpy_dtype(operand.dtype)
        values = np.abs(values) if dtype.kind == "u" else values
        values = values > 0 if dtype.kind == "b" else values
        if not finite:
            replaced = draw.random(shape) < 0.5
            values = np.where(replaced, draw.choice(_NOT_FINITE[index], shape), values)
        samples.append(_rounded(np.asarray(values.astype(dtype)), operand.dtype))
    return Example(operand, samples, lengths)


def _rounded(values: Array, dtype: str) -> Array:
    """Return float32 cut to bfloat16 where that is the dtype."""
    if dtype != BFLOAT16:
        return values
    return np.asarray(values.view(np.uint32) & 0xFFFF0000, np.uint32).view(np.float32)


class TransformContract(RegisteredContract):
    """Tests that every transform must pass."""

    at = AT

    def transform(self) -> type[Transform]:
        """Return the class under test."""
        raise NotImplementedError

    def registered(self) -> type[Transform]:
        """Return the class under test."""
        return self.transform()

    def own(self, name: str) -> type[Any] | None:
        """Return the class of one of extractkit's own transforms; None if there is none."""
        return registry.own(name)

    def operands(self) -> Sequence[Operand]:
        """Return specs to apply it to. Those that it refuses are omitted.

        It has to accept at least one with each of its options.
        """
        of_all_shapes = [operand_of(dims, DTYPES[0]) for dims in _DIMS]
        return [*of_all_shapes, *(operand_of(_DIMS[0], dtype) for dtype in DTYPES[1:])]

    def tolerance(self, dtype: str) -> float:
        """Return how far both forms may differ for operands of a dtype, relative and absolute."""
        return 2e-2 if dtype in ("float16", BFLOAT16) else 2e-4

    def cases(self) -> Iterator[tuple[Transform, Example]]:
        """Yield the transform with each of its options, and examples that it accepts."""
        for options in self.options():
            transform = self.transform().parse(options, AT)
            accepted = False
            for operand in self.operands():
                try:
                    transform.results(operand)
                except SelectionError:
                    continue
                accepted = True
                yield transform, example(operand)
                if "float" in operand.dtype:
                    yield transform, example(operand, finite=False)
                if any(axis.dim.free for axis in operand.axes[1:]):
                    yield transform, example(operand, empty=True)
            assert accepted, f"options {options!r} fit none of the specs of operands()"

    def test_equal_options_have_equal_hashes(self) -> None:
        for options in self.options():
            one, two = (self.transform().parse(options, AT) for _ in range(2))
            assert hash(one) == hash(two)

    def test_results_are_as_their_specs_predict(self) -> None:
        for transform, case in self.cases():
            results = transform.results(case.operand)
            assert next(iter(results)) == "", "the first result has the empty name"
            for index, values in enumerate(_in_numpy(transform, case.operand, case.samples)):
                whole = [value[np.newaxis] for value in values]
                own = {axis: size[index : index + 1] for axis, size in case.lengths.items()}
                predicted = transform.lengths(np, case.operand, own)
                found = [*misfits(results, whole), *wrong_lengths(results, whole, predicted)]
                assert not found, (case.operand, found)
            outcome = in_graph(transform, case.operand, case.padded(np.nan), case.lengths)
            for name, value in zip(results, outcome.values, strict=False):
                assert len(value) == len(case.samples), f"{name!r} has no axis of samples in front"
            found = [*misfits(results, outcome.values)]
            assert not found, (case.operand, found)

    def test_lengths_are_the_same_in_both_forms(self) -> None:
        for transform, case in self.cases():
            outcome = in_graph(transform, case.operand, case.padded(np.nan), case.lengths)
            predicted = transform.lengths(np, case.operand, case.lengths)
            assert len(predicted) == len(outcome.lengths)
            for one, other in zip(predicted, outcome.lengths, strict=True):
                _assert_lengths(one, other)

    def test_both_forms_agree_for_each_sample(self) -> None:
        for transform, case in self.cases():
            outcome = in_graph(transform, case.operand, case.padded(np.nan), case.lengths)
            for index, expected in enumerate(_in_numpy(transform, case.operand, case.samples)):
                for result, value in enumerate(expected):
                    self.assert_close(outcome.sample(result, index), value, case.operand)

    def test_padding_is_not_read(self) -> None:
        for transform, case in self.cases():
            first, *others = (
                in_graph(transform, case.operand, case.padded(fill, wider), case.lengths)
                for fill, wider in ((0.0, 0), (1e4, 0), (-1e4, 2), (np.nan, 1))
            )
            for outcome in others:
                for result in range(len(first.values)):
                    for index in range(len(case.samples)):
                        one, other = (o.sample(result, index) for o in (first, outcome))
                        self.assert_close(one, other, case.operand)

    def test_a_sample_alone_has_the_same_values(self) -> None:
        for transform, case in self.cases():
            together = in_graph(transform, case.operand, case.padded(np.nan), case.lengths)
            for index in range(len(case.samples)):
                single = case.alone(index)
                alone = in_graph(transform, case.operand, single.padded(0), single.lengths)
                for result in range(len(together.values)):
                    one, other = together.sample(result, index), alone.sample(result, 0)
                    self.assert_close(one, other, case.operand)

    def test_an_array_is_not_changed(self) -> None:
        for transform, case in self.cases():
            before = [sample.copy() for sample in case.samples]
            _in_numpy(transform, case.operand, case.samples)
            for sample, expected in zip(case.samples, before, strict=True):
                np.testing.assert_array_equal(sample, expected)

    def test_a_constant_is_one_value(self) -> None:
        for transform, case in self.cases():
            constant = Operand(case.operand.dtype, case.operand.axes[1:], case.operand.source)
            if any(axis.dim.size is None for axis in constant.axes):
                continue
            try:
                results = transform.results(constant)
            except SelectionError:
                continue
            (expected,) = _in_numpy(transform, constant, case.samples[:1])
            outcome = in_graph(transform, constant, case.samples[0], {})
            assert not [*misfits(results, expected), *misfits(results, outcome.values)]
            for one, other in zip(outcome.values, expected, strict=True):
                self.assert_close(one, other, constant)

    def assert_close(self, found: Array, expected: Array, operand: Operand) -> None:
        """Check that two results of one sample agree."""
        assert found.shape == expected.shape, (operand, found.shape, expected.shape)
        if found.dtype.kind in "OSU" or found.dtype.kind in "iub":
            # A float half-way between two integers may be rounded either way.
            apart = 1 if found.dtype == np.int8 and operand.dtype.startswith(("float", "b")) else 0
            if apart and operand.dtype != "bool":
                assert (np.abs(found.astype(int) - expected.astype(int)) <= apart).all(), operand
            else:
                np.testing.assert_array_equal(found, expected, str(operand))
            return
        tolerance = self.tolerance(operand.dtype)
        one, other = (value.astype(np.float64) for value in (found, expected))
        np.testing.assert_allclose(one, other, tolerance, tolerance, True, str(operand))


def _in_numpy(
    transform: Transform, operand: Operand, samples: Sequence[Array]
) -> list[list[Array]]:
    """Return `in_numpy`, without NumPy's warnings about infinities and means of no elements."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return in_numpy(transform, operand, samples)


def _assert_lengths(one: Mapping[int, Array], other: Mapping[int, Array]) -> None:
    assert one.keys() == other.keys()
    for axis, lengths in one.items():
        np.testing.assert_array_equal(lengths, other[axis])
