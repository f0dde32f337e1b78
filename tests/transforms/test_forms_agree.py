"""Every transform, alone and in random pipelines: both forms agree, and with plain loops.

The graph gets padded batches, whose padding is filled with large numbers and NaN; NumPy gets each
sample alone. Predicted specs and lengths are those of the results.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from extractkit.core.spec import SAMPLES, Dim, TensorSpec, numpy_dtype
from extractkit.core.transforms import Array, AxisName, Masked, Operand, registry
from extractkit.core.transforms.pipeline import BoundPipeline, Pipeline
from extractkit.core.values import stacked
from extractkit.errors import SelectionError
from tests.transforms.plain_loops import plain

DTYPES = (
    *("float32", "float64", "float16", "bfloat16"),
    *("int32", "int64", "uint8", "uint64", "bool"),
)
SCALES = {
    "float32": (2.0, 1e-30, 1e20, 6e37),
    "bfloat16": (2.0, 1e-30),
    "float16": (2.0, 1e4),
    "float64": (2.0, 1e-100, 1e100),
    "int32": (2.0, 2.0**28),
    **dict.fromkeys(("int64", "uint64"), (2.0, 2.0**54)),
}
"""Sizes of numbers, with some whose sums or squares a type of the same width could not hold."""
TENSORS: dict[str, tuple[str | int | Dim, ...]] = {
    "hidden states": ("token", 3),
    "attention": (2, "token", "token"),
    "images": ("height", "width", 2),
    "channels first": (Dim("channel", 2), "height", "width"),
    "features": (5,),
    "one number": (),
}
OPS = ("mean", "sum", "max", "min")

Draw = st.DrawFn


def _axis(draw: Draw, operand: Operand) -> AxisName:
    position = draw(st.sampled_from(operand.every_axis))
    axis = operand.axes[position]
    return axis.number if axis.number is not None else str(axis.dim.label)


def _over(draw: Draw, operand: Operand) -> object:
    if draw(st.booleans()):
        return "*"
    return _axis(draw, operand)


def _slice(draw: Draw, operand: Operand) -> object:
    bound = st.none() | st.integers(-5, 5)
    if draw(st.booleans()):
        return {_axis(draw, operand): draw(st.integers(-1, 0))}
    start, stop, step = draw(bound), draw(bound), draw(st.sampled_from([None, 1, 2, -1, -2]))
    return {
        _axis(draw, operand): ":".join("" if n is None else str(n) for n in (start, stop, step))
    }


OPTIONS: dict[str, Callable[[Draw, Operand], object]] = {
    "slice": _slice,
    **dict.fromkeys(("mean", "sum", "min", "max", "norm", "std", "var"), _over),
    **dict.fromkeys(("argmax", "argmin"), _axis),
    "quantile": lambda draw, operand: {
        "q": draw(st.sampled_from([0.5, 0.3, [0.0, 0.25, 1.0]])),
        "axis": _over(draw, operand),
    },
    "histogram": lambda draw, operand: {
        "edges": [-2.5, 0, 0.5, 3],
        "axis": _over(draw, operand),
    },
    "topk": lambda draw, operand: {
        "axis": _axis(draw, operand),
        "k": draw(st.integers(1, 3)),
        "smallest": draw(st.booleans()),
    },
    "flatten": lambda draw, operand: "*",
    "channels_last": lambda draw, operand: None,
    "abs": lambda draw, operand: None,
    "softmax": _over,
    "normalize": _over,
    "pool": lambda draw, operand: {
        "axis": _axis(draw, operand),
        "window": draw(st.integers(1, 3)),
        "stride": draw(st.integers(1, 3)),
        "op": draw(st.sampled_from(OPS)),
    },
    "project": lambda draw, operand: {"axis": _axis(draw, operand), "to": 2, "seed": 7},
    "threshold": lambda draw, operand: draw(st.sampled_from([0.7, 2**53 + 1])),
    "sparsify": lambda draw, operand: draw(st.integers(1, 4)),
    "cast": lambda draw, operand: draw(
        st.sampled_from(["float32", "float64", "int8", "uint8", "int64", "bool"])
    ),
    "quantize": lambda draw, operand: "int8",
}
"""For each transform, a way to draw options that mostly fit a tensor."""


ROUND = {"mean", "sum", "norm", "std", "var", "quantile", "softmax", "normalize", "pool", "project"}
"""Transforms whose forms may differ in the last bits."""

CHOOSE = {"argmax", "argmin", "topk", "sparsify", "threshold", "histogram"}
"""Transforms that make another choice if the last bits break a tie another way."""


@dataclass(frozen=True)
class Case:
    spec: TensorSpec
    samples: list[Array]
    lengths: dict[str, list[int]]
    written: list[Any]
    results: dict[str, BoundPipeline] = field(repr=False)
    scale: float

    def tolerance(self, found: Array, exact: float = 2e-4) -> tuple[float, float]:
        """How far results may differ: relatively, and absolutely where that is more."""
        rough = bool({"float16", "bfloat16"} & {self.spec.dtype, found.dtype.name})
        relative = 2e-2 if rough else exact
        return relative, relative * min(1.0, self.scale)


@st.composite
def cases(draw: Draw, first: str | None = None, most: int = 4) -> Case:
    own = TENSORS[draw(st.sampled_from(sorted(TENSORS)))]
    dtype = draw(st.sampled_from(DTYPES))
    count = draw(st.integers(1, 3))
    lengths = {
        axis: draw(st.lists(st.integers(0, 5), min_size=count, max_size=count))
        for axis in ("token", "height", "width")
    }
    dims = (
        one if isinstance(one, Dim) else Dim(size=one) if isinstance(one, int) else Dim.along(one)
        for one in own
    )
    spec = TensorSpec(dtype, (SAMPLES, *dims))
    names = [first] if first is not None else []
    names += draw(st.lists(st.sampled_from(sorted(OPTIONS)), max_size=most - len(names)))
    written: list[Any] = []
    results = Pipeline().bind("a:b", spec)
    for name in names:
        operand = results[""].result
        if not operand.every_axis and name not in ("abs", "threshold", "cast", "quantize"):
            continue
        if name in CHOOSE and any(ROUND & set(step) for step in written if isinstance(step, dict)):
            continue
        try:
            options = OPTIONS[name](draw, operand)
            step = name if options is None else {name: options}
            pipeline = Pipeline.parse({"do": [*written, step]}, "selectors.mine")
            results = pipeline.bind("a:b", spec)
        except SelectionError:
            continue  # it does not fit what the steps before have made
        written.append(step)
    assume(written)
    # Samples without the element that a slice takes are refused before a job runs.
    free = {axis: np.asarray(lengths[dim.free]) for axis, dim in enumerate(spec.axes) if dim.free}
    for _, _, index, found in results[""].elements(free):
        assume((found >= (index + 1 if index >= 0 else -index)).all())
    numbers = np.random.default_rng(draw(st.integers(0, 99)))
    scale = draw(st.sampled_from(SCALES.get(dtype, (2.0,))))
    samples = []
    for position in range(count):
        shape = [
            lengths[str(dim.free)][position] if dim.size is None else dim.size
            for dim in spec.axes[1:]
        ]
        values = numbers.normal(scale=scale, size=shape)
        samples.append((np.abs(values) if dtype[0] == "u" else values).astype(dtype))
    return Case(spec, samples, lengths, written, dict(results), scale)


def padded(case: Case) -> Array:
    """The samples as one batch, whose padding is conspicuous."""
    shape = [max(sizes) for sizes in zip(*(one.shape for one in case.samples), strict=True)]
    noise = np.random.default_rng(1).choice([99.0, -99.0, np.nan], (len(case.samples), *shape))
    if case.spec.dtype != "bfloat16" and case.samples[0].dtype.kind != "f":
        noise = np.nan_to_num(np.abs(noise), nan=77)
    batch = noise.astype(case.spec.dtype)
    for position, sample in enumerate(case.samples):
        batch[(position, *map(slice, sample.shape))] = sample
    return batch


def in_graph(case: Case, bound: BoundPipeline) -> tuple[Array, dict[int, Array]]:
    """Results and lengths, with every size unknown while tracing, as in a program."""
    own = {
        axis: np.asarray(case.lengths[dim.free], np.int32)
        for axis, dim in enumerate(case.spec.axes)
        if dim.free
    }

    def compute(tensor: tf.Tensor, lengths: dict[str, tf.Tensor]) -> Any:
        ragged = {int(axis): length for axis, length in lengths.items()}
        return (
            bound.in_graph(tf, Masked(tensor, ragged)),
            {str(axis): length for axis, length in bound.lengths(tf, ragged).items()},
        )

    batch = padded(case)
    traced = tf.function(
        compute,
        [
            tf.TensorSpec([None] * batch.ndim, batch.dtype),
            {str(axis): tf.TensorSpec([None], tf.int32) for axis in own},
        ],
        autograph=False,
    )
    found, lengths = traced(
        tf.constant(batch), {str(axis): tf.constant(one) for axis, one in own.items()}
    )
    found = tf.cast(found, tf.float32) if found.dtype == tf.bfloat16 else found
    return np.asarray(found), {int(axis): np.asarray(one) for axis, one in lengths.items()}


def check(case: Case) -> None:
    for name, bound in case.results.items():
        found, lengths = in_graph(case, bound)
        assert len(found) == len(case.samples)
        assert found.dtype == numpy_dtype(bound.spec.dtype), name
        for position, sample in enumerate(case.samples):
            expected = bound.in_numpy(sample)
            assert expected.dtype == numpy_dtype(bound.spec.dtype), name
            predicted = tuple(
                int(lengths[axis][position]) if dim.size is None else dim.size
                for axis, dim in enumerate(bound.spec.axes)
                if axis > 0
            )
            assert expected.shape == predicted, name
            row = found[position][tuple(map(slice, predicted))]
            assert row.shape == predicted, name
            close(row, expected, case)
        by_position = {
            axis: np.asarray(case.lengths[dim.free])
            for axis, dim in enumerate(case.spec.axes)
            if dim.free
        }
        for axis, own in bound.lengths(np, by_position).items():
            np.testing.assert_array_equal(own, lengths[axis])


def close(found: Array, expected: Array, case: Case) -> None:
    if found.dtype.kind == "f":
        np.testing.assert_allclose(found, expected, *case.tolerance(found), equal_nan=True)
    elif found.dtype == np.int8:  # a number half-way between two steps
        assert (np.abs(found.astype(int) - expected.astype(int)) <= 1).all()
    else:
        np.testing.assert_array_equal(found, expected)


def test_options_of_every_transform_are_drawn() -> None:
    assert set(OPTIONS) == set(registry.names())


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_one_transform(name: str) -> None:
    @settings(max_examples=5, deadline=None)
    @given(case=cases(first=name, most=1))
    def law(case: Case) -> None:
        check(case)

    law()


@settings(max_examples=25, deadline=None)
@given(case=cases())
def test_pipelines(case: Case) -> None:
    check(case)


@settings(max_examples=8, deadline=None)
@given(case=cases())
def test_samples_alone_and_together_have_the_same_values(case: Case) -> None:
    """What a batch holds besides a sample changes nothing."""
    for bound in case.results.values():
        together, _ = in_graph(case, bound)
        for position, sample in enumerate(case.samples):
            alone = Case(
                case.spec,
                [sample],
                {axis: [own[position]] for axis, own in case.lengths.items()},
                case.written,
                case.results,
                case.scale,
            )
            single, _ = in_graph(alone, bound)
            part = tuple(map(slice, single[0].shape))
            close(together[position][part], single[0], case)


def _values(*rows: Sequence[float]) -> list[Array]:
    return [np.asarray(row, np.float32) for row in rows]


def test_stacked_results_hold_no_padding() -> None:
    rows = [
        Pipeline.parse({"do": [{"topk": {"axis": 1, "k": 2}}]}, "s")
        .bind("a:b", TensorSpec("float32", (SAMPLES, Dim.along("token"))))[""]
        .in_numpy(row)
        for row in _values([3, 1, 2], [5])
    ]
    np.testing.assert_array_equal(stacked(rows), [[3, 2], [5, 0]])


WITHOUT_PLAIN_FORM = ("slice", "flatten", "cast", "quantize")
"""Indexing and reshaping are NumPy's; casts and scales have tests of their own."""


@pytest.mark.parametrize("name", sorted(set(OPTIONS) - set(WITHOUT_PLAIN_FORM)))
def test_one_transform_is_what_plain_loops_compute(name: str) -> None:
    """The form of a single sample against Python's numbers, and so the graph's form too."""

    @settings(max_examples=30, deadline=None)
    @given(case=cases(first=name, most=1))
    def law(case: Case) -> None:
        (step,) = case.written
        options = step[name] if isinstance(step, dict) else None
        operand = case.results[""].steps[0].operand
        for sample in case.samples:
            expected = plain(name, options, operand, sample)
            assert expected is not None
            for bound, one in zip(case.results.values(), expected, strict=True):
                found = bound.in_numpy(sample)
                assert found.shape == np.shape(one)
                with np.errstate(over="ignore"):  # infinite where the result's type has no number
                    wanted = np.asarray(one).astype(found.dtype)
                np.testing.assert_allclose(
                    found.astype(np.float64),
                    wanted.astype(np.float64),
                    *case.tolerance(found, 1e-5),
                    equal_nan=True,
                )

    law()
