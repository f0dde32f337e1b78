"""Slice, reduce and cast: what may be written, and what it does to dims, shape and dtype."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractkit.core.numpy_transforms import transformed
from extractkit.core.transforms import CASTS, REDUCTIONS, AxisTransform, Transform
from extractkit.errors import ConfigError, SelectionError

TOKENS = ("sample", "token", None)
ATTENTION = ("sample", None, "token", "token")


def parse(**entries: object) -> Transform:
    return Transform.parse(entries, "selectors.mine")


@pytest.mark.parametrize(
    ("written", "index"),
    [
        (0, 0),
        (-1, -1),
        ("3", 3),
        ("0:4", (0, 4, None)),
        (" 1 : 2 ", (1, 2, None)),
        (":", (None, None, None)),
        ("::2", (None, None, 2)),
        ("-3:", (-3, None, None)),
    ],
)
def test_a_slice_is_written_as_in_python(written: object, index: object) -> None:
    assert parse(slice={"token": written}).slice == (("token", index),)


def test_axes_have_names_or_numbers() -> None:
    axes = [name for name, _ in parse(slice={"token": 0, 2: 0, "3": 0}).slice]
    assert axes == ["token", 2, 3]


def test_what_is_not_said_changes_nothing() -> None:
    shape = (None, None, 4)
    bound = parse().bind("a:output", TOKENS, shape, "float32")
    assert bound.result(TOKENS, shape, "float32") == (TOKENS, shape, "float32")


def test_two_selectors_may_ask_for_the_same() -> None:
    here, there = (Transform.parse({"cast": "int8"}, at) for at in ("selectors.a", "selectors.b"))
    assert here.same_as(there)
    assert not here.same_as(parse(cast="int16"))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            {"cast": "float31"},
            "cast='float31' is not a dtype. Nearest: 'float16', 'float32', 'float64'.",
        ),
        ({"cast": ["int8"]}, "cast=['int8'] is not a dtype. Nearest: 'int8', 'uint8', 'int16'."),
        (
            {"reduce": "median"},
            "reduce='median' is not a reduction. Available: 'max', 'mean', 'min', 'norm', 'sum'.",
        ),
        (
            {"reduce": {"token": None}},
            "reduce=None is not a reduction. Available: 'max', 'mean', 'min', 'norm', 'sum'.",
        ),
        (
            {"reduce": {"": "mean"}},
            "reduce: '' does not name an axis. Use a dim such as token, or a number",
        ),
        (
            {"slice": {"*": 0}},
            "slice: '*' does not name an axis. Use a dim such as token, or a number",
        ),
        ({"slice": "0:4"}, "slice='0:4' is not a mapping of axis to slice, as in {token: '0:4'}"),
        *(
            (
                {"slice": {"token": wrong}},
                f"slice.token={wrong!r} is not a slice. Write a number, or '0:4', '::2'",
            )
            for wrong in ("", "a:b", "0:4:0", "1:2:3:4", 1.5, True, None, [0, 4])
        ),
    ],
)  # fmt: skip
def test_it_refuses(entries: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(**entries)
    assert str(caught.value) == f"selectors.mine.{message}"


def test_a_superscript_is_no_number_of_an_axis() -> None:
    assert parse(slice={"²": 0}).slice == (("²", 0),)


SAMPLE_STAYS = "The sample axis cannot be sliced or reduced; inputs.limit takes the first samples"


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            {"slice": {"tokn": 0}},
            "selectors.mine.slice names axis 'tokn', which 'a:output' with dims "
            f"['sample', 'token', None] does not have. Available: token, 1, 2. {SAMPLE_STAYS}",
        ),
        (
            {"reduce": {0: "mean"}},
            "selectors.mine.reduce names axis 0, which 'a:output' with dims "
            f"['sample', 'token', None] does not have. Available: token, 1, 2. {SAMPLE_STAYS}",
        ),
        (
            {"reduce": {"sample": "mean"}},
            "selectors.mine.reduce names axis 'sample', which 'a:output' with dims "
            f"['sample', 'token', None] does not have. Available: token, 1, 2. {SAMPLE_STAYS}",
        ),
        (
            {"slice": {2: 4}},
            "selectors.mine.slice takes element 4 of an axis of 'a:output' that has 4 elements",
        ),
        (
            {"slice": {2: -5}},
            "selectors.mine.slice takes element -5 of an axis of 'a:output' that has 4 elements",
        ),
        *(
            (
                {"slice": {"token": backwards}},
                "selectors.mine.slice counts from the end of 'token', whose length differs from "
                "sample to sample in 'a:output'. Use a start and stop from 0 up, or one number",
            )
            for backwards in ("-3:", ":-1", "::-1")
        ),
        (
            {"reduce": {"token": "mean", 1: "max"}},
            "selectors.mine.reduce names an axis of 'a:output' twice",
        ),
        (
            {"slice": {"token": 0, 1: "0:4"}},
            "selectors.mine.slice names an axis of 'a:output' twice",
        ),
    ],
)
def test_it_does_not_fit_the_tensor(entries: dict[str, object], message: str) -> None:
    with pytest.raises(SelectionError) as caught:
        parse(**entries).bind("a:output", TOKENS, (None, None, 4), "float32")
    assert str(caught.value) == message


@pytest.mark.parametrize(("key", "value"), [("reduce", "sum"), ("cast", "int8")])
def test_nobody_calculates_with_texts(key: str, value: str) -> None:
    with pytest.raises(SelectionError) as caught:
        parse(**{key: value}).bind("a:output", ("sample",), (None,), "string")
    assert str(caught.value) == f"selectors.mine.{key} needs numbers, but 'a:output' holds texts"


def test_a_name_means_every_axis_that_bears_it() -> None:
    shape = (None, 12, None, None)
    bound = parse(reduce={"token": "mean"}).bind("a:op/Softmax", ATTENTION, shape, "float32")
    assert bound.reductions[0].axes == (2, 3)
    assert bound.result(ATTENTION, shape, "float32") == (("sample", None), (None, 12), "float32")


def test_a_bare_reduction_means_every_axis_but_the_sample() -> None:
    bound = parse(reduce="max").bind("a:output", TOKENS, (None, None, 4), "int32")
    assert bound.result(TOKENS, (None, None, 4), "int32") == (("sample",), (None,), "int32")


def test_a_constant_has_no_sample_axis_to_be_spared() -> None:
    bound = parse(slice={0: 1}, reduce="sum").bind("a:kernel", (None, None), (3, 4), "float32")
    assert bound.result((None, None), (3, 4), "float32") == ((), (), "float32")


AXES = st.integers(2, 4)
SLICES = st.none() | st.integers(-2, 1) | st.sampled_from(["0:2", "::2", "1:", "-2:", "::-1", "5:"])


@st.composite
def bound_to_an_array(draw: st.DrawFn) -> tuple[AxisTransform, np.ndarray]:
    """A transform of a tensor with fixed axes (2 … 4 elements each), and one sample of it."""
    sizes = draw(st.lists(AXES, min_size=1, max_size=3))
    dtype = draw(st.sampled_from(["float32", "float16", "int32", "uint8", "bool"]))
    axes = range(1, len(sizes) + 1)
    slices = {axis: index for axis in axes if (index := draw(SLICES)) is not None}
    # NumPy has no least element of nothing.
    free = [axis for axis in axes if slices.get(axis) != "5:"]
    reduced = draw(st.sets(st.sampled_from(free))) if free else set()
    written = {
        "slice": slices,
        "reduce": {axis: draw(st.sampled_from(REDUCTIONS)) for axis in sorted(reduced)},
        "cast": draw(st.none() | st.sampled_from(["float64", "int64", "float16"])),
    }
    dims = ("sample", *(None for _ in sizes))
    transform = parse(**written).bind("a:output", dims, (None, *sizes), dtype)
    value = np.random.default_rng(0).integers(0, 2, sizes).astype(dtype)
    return transform, value


@given(bound_to_an_array())
def test_the_predicted_shape_and_dtype_are_those_of_numpy(
    case: tuple[AxisTransform, np.ndarray],
) -> None:
    transform, value = case
    dims = ("sample", *(None for _ in value.shape))
    found_dims, shape, dtype = transform.result(dims, (None, *value.shape), value.dtype.name)
    if not all(_kept(transform, value)):
        return  # of nothing there is no least element, and no mean
    expected = transformed(value, transform)
    assert shape == (None, *expected.shape)
    assert found_dims == dims[: len(shape)]
    assert dtype == expected.dtype.name


def _kept(transform: AxisTransform, value: np.ndarray) -> list[int]:
    """How many elements each range leaves."""
    sliced = zip(transform.slices[1:], value.shape, strict=True)
    return [len(range(n)[slice(*index)]) for index, n in sliced if isinstance(index, tuple)]


BOUND = st.none() | st.integers(-6, 6)


@given(BOUND, BOUND, st.none() | st.integers(1, 4), st.lists(st.integers(0, 9), max_size=8))
def test_lengths_are_those_of_a_range(
    start: int | None, stop: int | None, step: int | None, sizes: list[int]
) -> None:
    transform = AxisTransform((None, (start, stop, step)), (), None)
    expected = [len(range(size)[start:stop:step]) for size in sizes]
    assert transform.lengths(1, np.array(sizes, np.int64)).tolist() == expected


def test_lengths_of_an_axis_that_is_not_sliced_stay() -> None:
    sizes = np.array([3, 0, 5])
    assert AxisTransform((None, None), (), None).lengths(1, sizes).tolist() == [3, 0, 5]


def test_every_cast_is_a_dtype_of_numpy() -> None:
    assert [np.dtype(name).name for name in CASTS] == list(CASTS)
