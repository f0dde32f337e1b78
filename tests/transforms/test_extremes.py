"""Infinities, NaN and the extreme values of integer types, which padding must not be mistaken for.

Samples hold few other elements, so that a value that masks padding equals many of their own. Both
forms are compared with plain loops.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import tensorflow as tf

from extractkit.core.spec import SAMPLES, Dim, TensorSpec
from extractkit.core.transforms import Array, Masked, Operand, registry
from extractkit.engine.conformity import in_graph, in_numpy
from tests.transforms.plain_loops import REDUCTIONS, plain

FLOATS, INTEGERS = ("float16", "float32", "float64"), ("int8", "uint8", "int64", "uint64")
LENGTHS = (3, 1, 5)

PICKING: Sequence[tuple[str, object]] = [
    ("argmax", "token"),
    ("argmin", "token"),
    ("topk", {"axis": "token", "k": 4, "smallest": False}),
    ("topk", {"axis": "token", "k": 4, "smallest": True}),
]
EXTREME: Sequence[tuple[str, object]] = [
    ("max", "token"),
    ("min", "token"),
    ("pool", {"axis": "token", "window": 2, "stride": 2, "op": "max"}),
    ("pool", {"axis": "token", "window": 2, "stride": 2, "op": "min"}),
    ("histogram", {"edges": [-1, 0, 1], "axis": "token"}),
]
QUANTILES: tuple[str, object] = ("quantile", {"q": [0.0, 0.25, 0.5, 1.0], "axis": "token"})
SPARSE: tuple[str, object] = ("sparsify", 7)
SIZES: Sequence[tuple[str, object]] = [
    ("abs", None),
    ("sparsify", 3),
    *(("threshold", limit) for limit in (126.5, 127, 128, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1)),
    ("threshold", 2.0**70),
    ("threshold", 10**30),
]
SOFTMAX: tuple[str, object] = ("softmax", "token")


def check(step: tuple[str, object], dtype: str, elements: Sequence[float]) -> None:
    name, options = step
    operand = Operand.of(TensorSpec(dtype, (SAMPLES, Dim.along("token"), Dim(size=4))), "a:b")
    transform = registry.transform(name, "").parse(options, "s.do.0")
    lengths: Mapping[int, Array] = {1: np.array(LENGTHS, np.int32)}
    for seed in range(4):
        draw = np.random.default_rng(seed)
        choices = np.array(elements, dtype)
        samples = [choices[draw.integers(len(choices), size=(one, 4))] for one in LENGTHS]
        forms = in_numpy(transform, operand, samples)
        for fill in (0, 1):
            batch = np.full((len(samples), max(LENGTHS) + 1, 4), fill, dtype)
            for one, sample in zip(batch, samples, strict=True):
                one[: len(sample)] = sample
            outcome = in_graph(transform, operand, batch, lengths)
            for index, sample in enumerate(samples):
                expected = plain(name, options, operand, sample)
                assert expected is not None
                for result, values in enumerate(expected):
                    for found in (forms[index][result], outcome.sample(result, index)):
                        _same(found, values)


def _same(found: Array, expected: Array) -> None:
    wanted = np.asarray(expected, object).astype(found.dtype)
    assert found.shape == wanted.shape
    if found.dtype.kind == "f":
        np.testing.assert_allclose(found, wanted, 2e-3, equal_nan=True)
    else:
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("step", [*PICKING, QUANTILES, SPARSE], ids=str)
def test_infinities_and_nan(step: tuple[str, object], dtype: str) -> None:
    check(step, dtype, [-np.inf, np.inf, np.nan, 2])
    check(step, dtype, [-np.inf, 2, 0.5])
    check(step, dtype, [np.inf, -2, 0.5])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("step", [*EXTREME, SOFTMAX], ids=str)
def test_infinities(step: tuple[str, object], dtype: str) -> None:
    """Without NaN, which Python's own max and min lose."""
    check(step, dtype, [-np.inf, np.inf, 0.5])
    check(step, dtype, [-np.inf, 0.5])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("step", [*PICKING, *EXTREME, QUANTILES, SPARSE], ids=str)
def test_the_largest_floats(step: tuple[str, object], dtype: str) -> None:
    limits = np.finfo(dtype)
    check(step, dtype, [float(limits.min), float(limits.max), 0])


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("step", [*PICKING, *EXTREME], ids=str)
def test_the_largest_integers(step: tuple[str, object], dtype: str) -> None:
    limits = np.iinfo(dtype)
    check(step, dtype, [limits.min, limits.min + 1, limits.max, limits.max - 1])


@pytest.mark.parametrize("dtype", [*INTEGERS, "bool"])
@pytest.mark.parametrize("step", SIZES, ids=str)
def test_sizes_of_integers_are_exact(step: tuple[str, object], dtype: str) -> None:
    """In float64, 2**53 and 2**53 + 1 are equal."""
    if dtype == "bool":
        check(step, dtype, [False, True])
        return
    limits = np.iinfo(dtype)
    check(step, dtype, [limits.min, limits.min + 1, limits.max, limits.max - 1, 0])
    if limits.bits == 64:
        signs = (1,) if limits.min == 0 else (1, -1)
        check(step, dtype, [sign * (2**53 + one) for sign in signs for one in range(3)])


BEYOND = [
    [3e200, -4e200], [3e-200, 4e-200], [2.5e-308, 0], [1.2e308, 1.2e308], [3, 4], [0, 0],
    [3e200, 4e-200], [3e-170, 4e-170],
]  # fmt: skip


def test_directions_of_all_floats_are_found() -> None:
    """Their squares are beyond float64. Python's own `hypot` takes none."""
    operand = Operand.of(TensorSpec("float64", (SAMPLES, Dim.along("token"))), "a:b")
    transform = registry.transform("normalize", "").parse("token", "s.do.0")
    samples = [np.array(one, np.float64) for one in BEYOND]
    batch = np.full((len(samples), 3), 1e300)
    batch[:, :2] = samples
    outcome = in_graph(transform, operand, batch, {1: np.full(len(samples), 2, np.int32)})
    for index, (first, second) in enumerate(BEYOND):
        norm = math.hypot(first, second)
        expected = [first / norm, second / norm] if norm else [0, 0]
        for found in (in_numpy(transform, operand, samples)[index][0], outcome.sample(0, index)):
            np.testing.assert_allclose(found, expected, 1e-14)


def test_directions_with_infinities_are_those_of_the_definition() -> None:
    operand = Operand.of(TensorSpec("float64", (SAMPLES, Dim.along("token"))), "a:b")
    transform = registry.transform("normalize", "").parse("token", "s.do.0")
    sample = np.array([np.inf, 1e200, 2.0])
    lengths = {1: np.array([3], np.int32)}
    outcome = in_graph(transform, operand, sample[np.newaxis], lengths)
    for found in (in_numpy(transform, operand, [sample])[0][0], outcome.sample(0, 0)):
        np.testing.assert_array_equal(found, [np.nan, 0, 0])


def test_softmax_is_rounded_once() -> None:
    """By NumPy in float64: the graph's result is the nearest 32-bit float."""
    operand = Operand.of(TensorSpec("float32", (SAMPLES, Dim.along("token"))), "a:b")
    transform = registry.transform("softmax", "").parse("token", "s.do.0")
    sample = (30 * np.random.default_rng(1).normal(size=1000)).astype(np.float32)
    wide = np.exp(sample.astype(np.float64) - sample.max())
    outcome = in_graph(
        transform, operand, sample[np.newaxis], {1: np.array([len(sample)], np.int32)}
    )
    np.testing.assert_allclose(outcome.sample(0, 0), wide / wide.sum(), 6e-8, 1.2e-38)


@pytest.mark.parametrize("name", sorted(REDUCTIONS))
def test_one_number_is_reduced_like_several(name: str) -> None:
    operand = Operand.of(TensorSpec("float32", (SAMPLES,)), "a:b")
    transform = registry.transform(name, "").parse("*", "s.do.0")
    sample = np.array(-3, np.float32)
    expected = REDUCTIONS[name]([-3.0])
    assert in_numpy(transform, operand, [sample])[0][0] == expected
    assert in_graph(transform, operand, sample[np.newaxis], {}).sample(0, 0) == expected


@pytest.mark.parametrize("smallest", [False, True])
def test_both_zeros_are_equal_with_xla(smallest: bool) -> None:
    operand = Operand.of(TensorSpec("float32", (SAMPLES, Dim.along("token"))), "a:b")
    options = {"axis": "token", "k": 4, "smallest": smallest}
    transform = registry.transform("topk", "").parse(options, "s.do.0")
    sample = np.array([0, -0.0, 0, -0.0], np.float32)

    def compute(batch: tf.Tensor, lengths: tf.Tensor) -> Sequence[tf.Tensor]:
        return transform.in_graph(tf, operand, Masked(batch, {1: lengths}))

    compiled = tf.function(compute, jit_compile=True, autograph=False)
    _, indices = compiled(tf.constant(sample[np.newaxis]), tf.constant([4]))
    np.testing.assert_array_equal(indices[0], [0, 1, 2, 3])
