"""Axes inferred from shapes: formulas that are known beforehand are recovered."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractkit.core.spec import Dim, TensorSpec
from extractkit.models.axes import (
    Names,
    Operation,
    Sizes,
    candidate_sizes,
    infer_dims,
    no_sample_axis_reason,
    propagated,
    with_names,
)

FREE = ("token", "row")
ALL_SIZES = tuple(candidate_sizes(FREE, "sample"))

# Each formula: what is to be recovered, and the size for (samples, tokens, rows).
Formula = tuple[str | None, Callable[[int, int, int], int | None]]
FIXED: st.SearchStrategy[Formula] = st.integers(0, 5000).map(lambda n: (None, lambda s, t, r: n))
FACTORS: st.SearchStrategy[Formula] = st.integers(2, 64).map(
    lambda n: (f"sample*{n}", lambda s, t, r: s * n)
)
KNOWN: tuple[Formula, ...] = (
    ("sample", lambda s, t, r: s),
    ("token", lambda s, t, r: t),
    ("row", lambda s, t, r: r),
    ("sample*token", lambda s, t, r: s * t),
    ("sample*f(token)", lambda s, t, r: s * (t + 1)),
    ("sample*f(token,row)", lambda s, t, r: s * t * r),
    ("f(token)", lambda s, t, r: t // 2),
    ("f(token)", lambda s, t, r: t - 4),
    ("f(token)", lambda s, t, r: 12 * t),
    ("f(token,row)", lambda s, t, r: t * r),
    ("f(token,row)", lambda s, t, r: t + r),
    ("f(sample)", lambda s, t, r: s + 1),
    ("f(sample)", lambda s, t, r: s * s),
    ("f(sample,token)", lambda s, t, r: s + t),
    ("?", lambda s, t, r: None),
)
FORMULAS = st.one_of(FIXED, FACTORS, st.sampled_from(KNOWN))


def labels(dims: tuple[Dim, ...] | None) -> tuple[str | None, ...]:
    return TensorSpec("", dims).labels


@given(formulas=st.lists(FORMULAS, max_size=5), sizes=st.sampled_from(ALL_SIZES))
def test_known_formulas_are_recovered(formulas: list[Formula], sizes: Sizes) -> None:
    shapes = [
        tuple(size(at["sample"], at["token"], at["row"]) for _, size in formulas)
        for at in sizes.trials
    ]
    assert labels(infer_dims(sizes, shapes)) == tuple(name for name, _ in formulas)


def test_each_trial_enlarges_one_axis() -> None:
    sizes = Sizes({"sample": 13, "token": 101}, {"sample": 17, "token": 211})
    assert sizes.trials == [
        {"sample": 13, "token": 101},
        {"sample": 17, "token": 101},
        {"sample": 13, "token": 211},
    ]


def test_a_rank_that_varies_or_is_unknown_gives_no_dims() -> None:
    sizes = Sizes({"sample": 13}, {"sample": 17})
    assert infer_dims(sizes, [(13,), (17, 1)]) is None
    assert infer_dims(sizes, [None, (17,)]) is None
    assert infer_dims(sizes, [(), ()]) == ()


def test_an_axis_unknown_at_one_size_alone_is_unknown() -> None:
    sizes = Sizes({"sample": 13}, {"sample": 17})
    assert labels(infer_dims(sizes, [(13, 4), (17, None)])) == ("sample", "?")


WHOLE = "its value belongs to a whole batch"


@pytest.mark.parametrize(
    ("dims", "reason"),
    [
        (("sample", None), None),
        (("token", "sample", None), None),
        (("sample*token", None), None),
        (("sample*f(token)",), None),
        (("sample*12",), None),
        ((), f"no axis of it follows the samples: {WHOLE}"),
        (("token", None), f"no axis of it follows the samples: {WHOLE}"),
        (("sample", "sample"), f"more than one of its axes follows the samples: {WHOLE}"),
        (("sample*token", "sample"), f"more than one of its axes follows the samples: {WHOLE}"),
        (
            ("f(sample,token)",),
            "its axis f(sample,token) mixes samples in a way that cannot be taken apart",
        ),
    ],
)
def test_why_a_tensor_has_no_value_per_sample(
    dims: tuple[str | None, ...], reason: str | None
) -> None:
    sizes = [None if dim else 4 for dim in dims]
    assert no_sample_axis_reason(TensorSpec.of("float32", dims, sizes).axes) == reason


# ---- names


def names(*operations: Operation[str], **known: Names) -> dict[str, Names]:
    return propagated(operations, known)


def test_a_data_format_names_the_axes_of_pictures() -> None:
    last = Operation("Conv2D", [("x", 4), ("kernel", 4)], ("y", 4), "NHWC")
    first = Operation("MaxPool", [("x", 4)], ("z", 4), "NCHW")
    stated_by_none = Operation("CONV_2D", [("x", 4)], ("lite", 4))
    other = Operation("MaxPool", [("x", 4)], ("v", 5), "NCHW_VECT_C")
    assert names(last, first, stated_by_none, other) == {
        "y": (None, "height", "width", "channel"),
        "z": (None, "channel", "height", "width"),
        "lite": (None, "height", "width", "channel"),
    }


def test_a_fully_connected_layer_of_litert_gives_features() -> None:
    found = names(
        Operation("FULLY_CONNECTED", [("x", 2), ("kernel", 2)], ("y", 3)),
        Operation("LOGISTIC", [("y", 3)], ("z", 3)),
        Operation("FULLY_CONNECTED", [("x", None)], ("unknown", None)),
    )
    assert found == {"y": (None, None, "feature"), "z": (None, None, "feature")}


SEQUENCE: Names = (None, None, "feature")


def test_elementwise_operations_keep_the_axes_of_their_operands() -> None:
    found = names(
        Operation("Relu", [("x", 3)], ("relu", 3)),
        Operation("AddV2", [("bias", 1), ("relu", 3)], ("sum", 3)),
        Operation("MatMul", [("sum", 3), ("kernel", 2)], ("product", 3)),
        x=SEQUENCE,
    )
    assert found == dict.fromkeys(("x", "relu", "sum"), SEQUENCE)


def test_operands_that_disagree_leave_an_axis_without_a_name() -> None:
    found = names(
        Operation("Mul", [("a", 4), ("b", 4)], ("c", 4)),
        a=(None, "height", "width", "channel"),
        b=(None, "height", None, "feature"),
    )
    assert found["c"] == (None, "height", "width", None)


def test_operations_that_move_or_drop_axes_take_their_names_along() -> None:
    found = names(
        Operation("Transpose", [("x", 4)], ("turned", 4), taken=[0, 3, 1, 2]),
        Operation("Mean", [("turned", 4)], ("mean", 2), taken=[0, 1]),
        x=(None, "height", "width", "channel"),
    )
    assert found["turned"] == (None, "channel", "height", "width")
    assert found["mean"] == (None, "channel")


def test_a_name_that_is_known_stays() -> None:
    found = names(Operation("Identity", [("x", 3)], ("y", 3)), x=SEQUENCE, y=(None, "query", None))
    assert found["y"] == (None, "query", "feature")


def test_names_of_another_number_of_axes_are_left_out() -> None:
    found = names(Operation("Relu", [("x", 3)], ("y", 2)), x=SEQUENCE)
    assert found == {"x": SEQUENCE}
    dims = (Dim(size=3), Dim(size=4))
    assert with_names(dims, SEQUENCE) == dims
    assert with_names(None, SEQUENCE) is None
