"""Axes inferred from shapes: formulas that are known beforehand are recovered."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractkit.core.spec import Dim, TensorSpec
from extractkit.models.axes import Sizes, candidate_sizes, infer_dims, no_sample_axis_reason

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
