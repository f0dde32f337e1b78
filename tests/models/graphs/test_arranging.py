"""Values in a model's own order of axes, arranged and transformed, agree with NumPy."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from extractkit.core.catalog import Kind, Layout, TensorRecord
from extractkit.core.requests import Value
from extractkit.core.spec import SAMPLES, Dim, TensorSpec
from extractkit.core.transforms.pipeline import Pipeline
from extractkit.core.values import Array
from extractkit.models import Fetch
from extractkit.models.graphs.model import transformed

Dims = tuple[str | None, ...]

# As the model makes it, fixed axes given by their size; and the same of one sample.
LAYOUTS: dict[str, tuple[tuple[str | int, ...], tuple[str | int, ...]]] = {
    "hidden states": (("sample", "token", 3), ("token", 3)),
    "attention": (("sample", 2, "token", "token"), (2, "token", "token")),
    "time first": (("token", "sample", 3), ("token", 3)),
    "flattened": (("sample*token", 3), ("token", 3)),
    "flattened in the middle": ((3, "sample*token"), (3, "token")),
    "product with a constant": (("sample*4", 3), (4, 3)),
    "two lengths": (("sample", "token", "row"), ("token", "row")),
    "without a length": (("sample", 4), (4,)),
}
DTYPES = ("float32", "float64", "int32", "int64", "uint8", "bool")


@dataclass(frozen=True)
class Case:
    layout: str
    dtype: str
    lengths: dict[str, list[int]]
    transform: dict[str, Any]
    seed: int


def takes_something(size: int, part: tuple[int, int | None, int]) -> bool:
    return len(range(size)[slice(*part)]) > 0


@st.composite
def cases(draw: st.DrawFn) -> Case:
    layout = draw(st.sampled_from(sorted(LAYOUTS)))
    count = draw(st.integers(1, 4))
    lengths = {
        axis: draw(st.lists(st.integers(2, 6), min_size=count, max_size=count))
        for axis in ("token", "row")
    }
    own = LAYOUTS[layout][1]
    reduced = draw(st.lists(st.sampled_from(range(len(own))), unique=True))
    ops = st.sampled_from(["mean", "sum", "min", "max", "norm"])
    transform: dict[str, Any] = {"reduce": {axis + 1: draw(ops) for axis in reduced}}
    slices: dict[int, object] = {}
    for axis, size in enumerate(own):
        if draw(st.booleans()):
            # What is empty has no mean, so an axis that is reduced keeps some element.
            start = st.integers(0, 0 if axis in reduced else 7)
            part = st.tuples(start, st.none() | st.integers(1, 8), st.integers(1, 3))
            one = st.nothing() if axis in reduced else st.integers(-2, 1)
            fixed = []
            if isinstance(size, int):
                fixed = [st.just("-2:"), st.just("::-1")]
                # Nothing of a fixed axis is refused before the run.
                part = part.filter(partial(takes_something, size))
            parts = part.map(lambda p: f"{p[0]}:{'' if p[1] is None else p[1]}:{p[2]}")
            slices[axis + 1] = draw(st.one_of(one, parts, *fixed))
    transform["slice"] = slices
    transform["cast"] = draw(st.sampled_from([None, "float32", "float64", "int32"]))
    return Case(layout, draw(st.sampled_from(DTYPES)), lengths, transform, draw(st.integers(0, 99)))


def samples_of(case: Case) -> list[Array]:
    """Each sample alone, in its own size."""
    draw = np.random.default_rng(case.seed)
    made = []
    for position in range(len(case.lengths["token"])):
        sizes = [
            size if isinstance(size, int) else case.lengths[size][position]
            for size in LAYOUTS[case.layout][1]
        ]
        made.append(draw.integers(0, 5, sizes).astype(case.dtype))
    return made


def as_the_model_makes_it(case: Case, samples: list[Array]) -> Array:
    """One batch; what is padded is large, so that it shows where it should not be."""
    made, own = LAYOUTS[case.layout]
    padded = [size if isinstance(size, int) else max(case.lengths[size]) for size in own]
    batch = np.full((len(samples), *padded), 99).astype(case.dtype)
    for row, sample in zip(batch, samples, strict=True):
        row[tuple(slice(size) for size in sample.shape)] = sample
    place = [str(size).startswith("sample") for size in made].index(True)
    batch = np.moveaxis(batch, 0, place)
    if "*" in str(made[place]):
        shape = batch.shape
        batch = batch.reshape(*shape[:place], shape[place] * shape[place + 1], *shape[place + 2 :])
    return batch


def fetch_of(case: Case) -> Fetch:
    made = LAYOUTS[case.layout][0]
    dims: Dims = tuple(None if isinstance(size, int) else size for size in made)
    shape = tuple(size if isinstance(size, int) else None for size in made)
    record = TensorRecord("a:b", Kind.OP, TensorSpec.of(case.dtype, dims, shape))
    layout = Layout.of(record)
    assert layout is not None
    pipeline = Pipeline.parse(case.transform, "selectors.mine")
    spec = TensorSpec(case.dtype, layout.dims)
    return Fetch(Value("a:b"), layout, pipeline.bind("a:b", spec)[""])


def in_graph(batch: Array, fetch: Fetch, lengths: dict[str, list[int]]) -> Array:
    """With every size unknown while tracing, as in a program."""

    def compute(tensor: tf.Tensor, count: tf.Tensor, own: dict[str, tf.Tensor]) -> tf.Tensor:
        return transformed(tensor, fetch, count, own)

    spec = tf.TensorSpec([None] * batch.ndim, batch.dtype)
    own = {axis: tf.TensorSpec([None], tf.int32) for axis in lengths}
    traced = tf.function(compute, [spec, tf.TensorSpec([], tf.int32), own], autograph=False)
    given_lengths = {axis: tf.constant(sizes, tf.int32) for axis, sizes in lengths.items()}
    count = tf.constant(len(lengths["token"]))
    return np.asarray(traced(tf.constant(batch), count, given_lengths))


@settings(max_examples=60, deadline=None)
@given(case=cases())
def test_padded_batches_in_the_graph_agree_with_single_samples_in_numpy(case: Case) -> None:
    samples = samples_of(case)
    fetch = fetch_of(case)
    assert fetch.pipeline is not None
    found = in_graph(as_the_model_makes_it(case, samples), fetch, case.lengths)
    assert len(found) == len(samples)
    assert found.dtype == fetch.pipeline.spec.dtype
    for row, sample in zip(found, samples, strict=True):
        expected = fetch.pipeline.in_numpy(sample)
        unpadded = row[tuple(slice(size) for size in expected.shape)]
        assert unpadded.dtype == expected.dtype
        np.testing.assert_allclose(unpadded, expected, rtol=1e-5)


@pytest.mark.parametrize("index", [0, -1])
def test_the_last_token_is_each_samples_own(index: int) -> None:
    case = Case("hidden states", "float32", {"token": [2, 4]}, {"slice": {"token": index}}, 0)
    samples = samples_of(case)
    found = in_graph(as_the_model_makes_it(case, samples), fetch_of(case), case.lengths)
    np.testing.assert_array_equal(found, [sample[index] for sample in samples])


def test_a_mean_over_both_token_axes_leaves_padding_out() -> None:
    case = Case("attention", "float32", {"token": [2, 5]}, {"reduce": {"token": "mean"}}, 0)
    samples = samples_of(case)
    found = in_graph(as_the_model_makes_it(case, samples), fetch_of(case), case.lengths)
    np.testing.assert_allclose(found, [sample.mean((1, 2)) for sample in samples], rtol=1e-6)


@pytest.mark.parametrize("layout", [None, Layout(0, False, (SAMPLES, Dim(size=2)))])
def test_bfloat16_comes_back_as_float32_exactly(layout: Layout | None) -> None:
    values = tf.constant([[1.5, -0.125]], tf.bfloat16)
    found = transformed(values, Fetch(Value("a:b"), layout), tf.constant(1), {})
    assert found.dtype == tf.float32
    np.testing.assert_array_equal(found, [[1.5, -0.125]])


@pytest.mark.parametrize(("op", "expected"), [("max", True), ("min", False)])
def test_the_largest_and_smallest_truth_are_truths(op: str, expected: bool) -> None:
    case = Case("without a length", "bool", {"token": [2]}, {"reduce": op}, 0)
    found = in_graph(np.array([[True, False]]), fetch_of(case), case.lengths)
    assert found.dtype == bool
    assert found.tolist() == [expected]


def test_a_constant_is_transformed_without_samples() -> None:
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
    record = TensorRecord(
        "d:kernel",
        Kind.WEIGHT,
        TensorSpec.of("float32", (None, None), (2, 3)),
        depends_on_inputs=False,
    )
    layout = Layout.of(record)
    assert layout is not None
    pipeline = Pipeline.parse({"slice": {0: 1}, "reduce": {1: "sum"}}, "s").bind(
        "d:kernel", TensorSpec("float32", layout.dims)
    )[""]
    found = transformed(tf.constant(kernel), Fetch(Value("d:kernel"), layout, pipeline), None, {})
    np.testing.assert_array_equal(found, kernel[1].sum())
