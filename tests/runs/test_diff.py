"""Two runs, tensor by tensor and sample by sample, against NumPy over whole arrays."""

import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import extractkit
from extractkit.core.catalog import Kind, TensorRecord
from extractkit.core.spec import TensorSpec
from extractkit.errors import ConfigError, RunDirectoryError, SelectionError
from extractkit.runs.comparing import diff, elements
from extractkit.runs.comparing.result import (
    Comparison,
    OneSided,
    SamplePair,
    TensorComparison,
    Verdict,
)
from extractkit.runs.environment import Volatile
from extractkit.runs.manifest import Manifest, RunStatistics
from extractkit.runs.reader import Run
from extractkit.testing.reference import ReferenceModel
from tests.runs.diff_examples import Samples, made_run

F32, F16 = np.dtype("float32"), np.dtype("float16")

Make = Callable[..., Run]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes runs of given values."""
    made: list[Run] = []

    def one(tensors: dict[str, object], **settings: object) -> Run:
        made.append(made_run(tmp_path / f"run{len(made)}", tensors, **settings))  # type: ignore[arg-type]
        return made[-1]

    return one


def random_samples(count: int = 7, shape: tuple[int, ...] = (3, 2), seed: int = 0) -> list[object]:
    draw = np.random.default_rng(seed)
    return [draw.normal(size=shape).astype(F32) for _ in range(count)]


def only(found: Comparison) -> TensorComparison:
    (tensor,) = found.tensors
    return tensor


def pair(make: Make, one: Samples, other: Samples, **settings: float) -> TensorComparison:
    return only(diff(make({"x": one}), make({"x": other}), **settings))


def test_a_run_is_bitwise_equal_to_itself(make: Make) -> None:
    values = random_samples()
    run = make({"x": values, "w": np.float32([1, np.nan, np.inf])}, shards=[2, 3])
    found = diff(run, run)
    assert [one.verdict for one in found.tensors] == [Verdict.EQUAL, Verdict.EQUAL]
    assert not found.beyond
    errors = found.tensors[0].errors
    assert errors is not None
    assert (errors.max_abs, errors.mean_abs, errors.max_rel, errors.mean_rel) == (0, 0, 0, 0)
    assert (errors.relative_l2, errors.cosine) == (0, 1)
    assert errors.correlation == pytest.approx(1)
    assert found.tensors[0].worst is None
    assert found.circumstances == ()


@pytest.mark.parametrize("size", [1, 5, 6, 13, 1 << 16])
def test_numbers_are_those_of_numpy_however_they_are_cut(
    make: Make, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards and blocks of any size; the mean is large beside the spread."""
    monkeypatch.setattr(elements, "ELEMENTS", size)
    draw = np.random.default_rng(1)
    one = [(1e4 + draw.normal(size=(4, 3))).astype(F32) for _ in range(9)]
    other = [value + draw.normal(scale=0.1, size=(4, 3)).astype(F32) for value in one]
    found = only(
        diff(make({"x": one}, shards=[4, 5]), make({"x": other}, shards=[1, 8]), atol=0.2, rtol=0)
    )
    a, b = np.stack(one).astype("float64"), np.stack(other).astype("float64")
    error = np.abs(a - b)
    assert found.counts is not None
    assert found.errors is not None
    assert found.counts.elements == a.size
    assert found.counts.beyond == (error > 0.2).sum() > 0
    assert found.counts.unequal == (a != b).sum()
    assert found.errors.max_abs == error.max()
    assert found.errors.mean_abs == pytest.approx(error.mean(), rel=1e-12)
    relative = error / np.maximum(np.abs(a), np.abs(b))
    assert found.errors.max_rel == pytest.approx(relative.max(), rel=1e-12)
    assert found.errors.mean_rel == pytest.approx(relative.mean(), rel=1e-12)
    norm = np.linalg.norm
    assert found.errors.relative_l2 == pytest.approx(norm(a - b) / norm(a), rel=1e-12)
    assert found.errors.cosine == pytest.approx(np.vdot(a, b) / (norm(a) * norm(b)), rel=1e-12)
    correlation = np.corrcoef(a.ravel(), b.ravel())[0, 1]
    assert found.errors.correlation == pytest.approx(correlation, rel=1e-12)
    by_sample = error.reshape(9, -1).max(axis=1)
    assert found.first_beyond is not None
    assert found.first_beyond.a == np.flatnonzero(by_sample > 0.2)[0]
    assert found.worst == SamplePair(
        f"s{by_sample.argmax()}", by_sample.argmax(), by_sample.argmax()
    )


def test_the_tolerance_is_symmetric_and_bitwise_equality_is_distinguished(make: Make) -> None:
    one, other = [np.float32([100, 0])], [np.float32([100.0005, 5e-7])]
    assert pair(make, one, other).verdict is Verdict.WITHIN
    assert pair(make, other, one).verdict is Verdict.WITHIN
    assert pair(make, one, other, rtol=0).verdict is Verdict.BEYOND
    assert pair(make, one, other, atol=0).verdict is Verdict.BEYOND
    signs = pair(make, [np.float32([0.0])], [np.float32([-0.0])], rtol=0, atol=0)
    assert signs.verdict is Verdict.WITHIN
    assert signs.counts is not None
    assert signs.counts.unequal == 1
    assert signs.first_unequal == SamplePair("s0", 0, 0)
    assert signs.worst is None
    for tolerance in ({"rtol": -1}, {"atol": float("nan")}, {"atol": "1"}, {"rtol": True}):
        with pytest.raises(ConfigError, match=r"is not a finite number of 0 or more"):
            pair(make, one, other, **tolerance)


def test_nan_equals_nan_and_nothing_else(make: Make) -> None:
    nan, inf = np.nan, np.inf
    one = [np.float32([1, nan]), np.float32([inf, -inf]), np.float32([nan, 5]), np.float32([0, 9])]
    other = [np.float32([1, nan]), np.float32([inf, inf]), np.float32([2, 5]), np.float32([0, 7])]
    found = pair(make, one, other)
    assert found.verdict is Verdict.BEYOND
    assert found.counts is not None
    assert (found.counts.nan, found.counts.lone, found.counts.beyond) == (1, 2, 3)
    assert found.first_beyond == SamplePair("s1", 1, 1)
    assert found.worst == SamplePair("s1", 1, 1)
    assert found.errors is not None
    assert found.errors.max_abs == 2  # over pairs of finite numbers: 1 1, 5 5, 0 0, 9 7
    assert found.errors.mean_abs == 0.5
    nothing = pair(make, [np.float32([nan])], [np.float32([nan])])
    assert (nothing.verdict, nothing.errors) == (Verdict.EQUAL, None)


def test_zero_and_constant_vectors_have_no_direction(make: Make) -> None:
    found = pair(make, [np.zeros(3, F32)], [np.float32([1, 2, 3])]).errors
    assert found is not None
    assert (found.relative_l2, found.cosine, found.correlation) == (None, None, None)
    assert (found.max_rel, found.mean_rel) == (1, 1)
    flat = pair(make, [np.ones(3, F32)], [np.float32([1, 2, 3])]).errors
    assert flat is not None
    assert flat.correlation is None
    assert flat.cosine == pytest.approx(6 / np.sqrt(3 * 14))


def test_the_largest_numbers_do_not_overflow_in_silence(make: Make) -> None:
    most = np.finfo("float64").max
    found = pair(make, [np.array([most])], [np.array([-most])])
    assert found.verdict is Verdict.BEYOND
    assert found.errors is not None
    assert found.errors.max_abs == np.inf
    assert found.errors.max_rel == 2
    assert found.errors.cosine is None


def test_integers_are_exact_unless_an_absolute_tolerance_is_given(make: Make) -> None:
    large = 2**62
    one, other = [np.array([large, 7])], [np.array([large + 1, 7])]
    found = pair(make, one, other)
    assert found.verdict is Verdict.BEYOND
    assert found.errors is not None
    assert found.errors.max_abs == 1
    assert pair(make, one, other, rtol=0.5).verdict is Verdict.BEYOND
    assert pair(make, one, other, atol=1).verdict is Verdict.WITHIN
    small = pair(make, [np.int8([-128, 3])], [np.int64([127, 3])])
    assert small.errors is not None
    assert small.errors.max_abs == 255
    same = pair(make, [np.int8([1])], [np.int64([1])])
    assert same.verdict is Verdict.WITHIN  # another type is never bitwise equal


def test_booleans_and_texts_are_equal_or_not(make: Make) -> None:
    found = pair(make, [np.array([True, False])], [np.array([True, True])], atol=5)
    assert found.verdict is Verdict.BEYOND
    texts = [np.array([b"one", b"two"], object), np.array([b"", b"x"], object)]
    others = [texts[0], np.array([b"", b"y"], object)]
    assert pair(make, texts, texts).verdict is Verdict.EQUAL
    found = pair(make, texts, others)
    assert found.verdict is Verdict.BEYOND
    assert (found.errors, found.worst) == (None, None)
    assert found.counts is not None
    assert (found.counts.elements, found.counts.unequal, found.counts.beyond) == (4, 1, 1)
    assert found.first_beyond == found.first_unequal == SamplePair("s1", 1, 1)


def test_complex_numbers_are_compared_by_their_distance(make: Make) -> None:
    one, other = [np.array([3 + 4j, 1j])], [np.array([0j, 1j])]
    found = pair(make, one, other).errors
    assert found is not None
    assert (found.max_abs, found.max_rel) == (5, 1)
    a, b = np.float64([3, 4, 0, 1]), np.float64([0, 0, 0, 1])
    assert found.cosine == pytest.approx(a @ b / np.sqrt((a @ a) * (b @ b)))


def test_half_precision_is_compared_by_value(make: Make) -> None:
    one = random_samples()
    rounded = [np.asarray(value, F16) for value in one]  # type: ignore[arg-type]
    found = pair(make, one, rounded, rtol=1e-3)  # type: ignore[arg-type]
    assert found.verdict is Verdict.WITHIN
    assert found.errors is not None
    assert 0 < found.errors.max_rel <= 2**-11
    exact = pair(make, [np.float16([0.5])], [np.float32([0.5])])
    assert exact.verdict is Verdict.WITHIN
    assert exact.counts is not None
    assert exact.counts.unequal == 0


def test_samples_of_any_length_are_compared_unpadded(make: Make) -> None:
    draw = np.random.default_rng(2)
    one = [draw.normal(size=(length, 2)).astype(F32) for length in (3, 0, 1, 1, 5)]
    other = [value.copy() for value in one]
    other[4][4, 1] += 1
    found = only(diff(make({"x": one}, shards=[2]), make({"x": other}, shards=[3])))
    assert found.verdict is Verdict.BEYOND
    assert found.counts is not None
    assert (found.counts.elements, found.counts.beyond) == (20, 1)
    assert found.worst == SamplePair("s4", 4, 4)


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        ([np.zeros((2, 3), F32)], [np.zeros((3, 2), F32)], "'s0': shape [2, 3] against [3, 2]"),
        (
            [np.zeros(1, F32)],
            [np.zeros(1, "int32")],
            "int32, and the integers have no recorded scale",
        ),
        ([np.zeros(1, F32)], np.zeros(1, F32), "has samples in A"),
        (np.zeros(1, F32), np.zeros(2, F32), "shape [1] against [2]"),
        ([np.zeros(1, bool)], [np.zeros(1, "int8")], "bool against int8"),
    ],
)
def test_what_cannot_be_compared_says_why(
    make: Make, one: object, other: object, reason: str
) -> None:
    found = diff(make({"x": one}), make({"x": other}))
    assert only(found).verdict is Verdict.INCOMPARABLE
    assert reason in str(only(found).reason)
    assert found.beyond


def quantized(make: Make, values: object, scale: float, zero_point: int, key: str = "x") -> Run:
    recorded = {key: [{"scale": scale, "zero_point": zero_point}]}
    return make({"x": values}, model={"quantized": recorded})


@pytest.mark.parametrize("constant", [False, True])
def test_quantised_integers_are_compared_with_floats_in_their_scale(
    make: Make, constant: bool
) -> None:
    integers = np.arange(-8, 8, dtype=np.int8).reshape(4, 4)
    real = (integers.astype(np.float64) - 3) * 0.25
    other = (real + np.linspace(-0.1, 0.1, 16).reshape(4, 4)).astype(F32)
    sides = [side if constant else list(side) for side in (integers, other)]
    one, two = quantized(make, sides[0], 0.25, 3), make({"x": sides[1]})
    for found in (diff(one, two), diff(two, one)):
        assert only(found).verdict is Verdict.BEYOND
        assert only(found).errors is not None
        assert only(found).errors.max_abs == pytest.approx(np.abs(real - other).max(), rel=1e-6)
    assert only(diff(one, two, atol=0.11)).verdict is Verdict.WITHIN


def test_quantised_integers_of_two_scales_are_compared_as_real_numbers(make: Make) -> None:
    coarse = [np.int8([1, -2, 3]), np.int8([4, 5, 0])]
    fine = [(2 * one + 7).astype(np.int8) for one in coarse]
    one, same = quantized(make, coarse, 0.5, 0), quantized(make, coarse, 0.5, 0)
    assert only(diff(one, quantized(make, fine, 0.25, 7))).verdict is Verdict.EQUAL
    assert only(diff(one, quantized(make, coarse, 0.25, 7))).verdict is Verdict.BEYOND
    assert only(diff(one, same)).verdict is Verdict.EQUAL
    steps = quantized(make, [coarse[0] + np.int8(1), coarse[1]], 0.5, 0)
    found = only(diff(one, steps, atol=2))  # integers of one scale are compared as such
    assert found.errors is not None
    assert (found.verdict, found.errors.max_abs) == (Verdict.WITHIN, 1)


@pytest.mark.parametrize(
    "recorded",
    [
        None,
        {"other": [{"scale": 1, "zero_point": 0}]},
        {"x": [{"scale": 1, "zero_point": 0}, {"scale": 2, "zero_point": 0}]},
        {"x": [{"scale": "much"}]},
        ["x"],
    ],
    ids=str,
)
def test_integers_without_one_recorded_scale_are_not_compared_with_floats(
    make: Make, recorded: object
) -> None:
    one = make({"x": [np.int8([1])]}, model={"quantized": recorded})
    found = only(diff(one, make({"x": [F32.type([1])]})))
    assert found.reason == "int8 against float32, and the integers have no recorded scale"


Q = np.int8([[4, -8], [12, 120]])
INTEGERS, NUMBERS = list(Q), [(one * np.float64(0.25)).astype(F32) for one in Q]
MEANING: dict[str, tuple[list[object], str, object, float | None]] = {
    "numbers": (NUMBERS, "float32", (), None),
    "mean of numbers": (NUMBERS, "float32", ({"mean": "x"},), None),
    "raw, 0.25": (INTEGERS, "int8", (), 0.25),
    "slice, 0.25": (INTEGERS, "int8", ({"slice": {"x": ":"}}, "flatten"), 0.25),
    "raw, 0.5": ([one // 2 for one in Q], "int8", (), 0.5),
    "raw, unknown": (INTEGERS, "int8", (), None),
    "cast, 0.25": ([one.astype(F32) for one in Q], "int8", ({"cast": "float32"},), 0.25),
    "cast, 0.5": ([one.astype(F32) for one in Q], "int8", ({"cast": "float32"},), 0.5),
    "cast, unknown": ([one.astype(F32) for one in Q], "int8", ({"cast": "float32"},), None),
    "unknown transforms": (INTEGERS, "int8", None, 0.25),
    "rounded": ([one.astype(np.int32) for one in Q], "float32", ({"cast": "int32"},), None),
    "positions": ([one.astype(np.int64) for one in Q], "int8", ({"argmax": "x"},), 0.25),
    "ids": ([one.astype(np.int64) for one in Q], "int64", (), None),
}
REAL = {"numbers", "mean of numbers"}
SCALED = {"raw, 0.25", "slice, 0.25"}
COMPARABLE = [
    REAL | SCALED | {"raw, 0.5"},
    {*SCALED, "unknown transforms"},
    {"cast, 0.25"},
    {"cast, 0.5"},
    {"raw, unknown"},
    {"cast, unknown"},
    {"rounded", "positions", "ids"},
    {"raw, unknown", "ids"},
]
"""What may be compared with each other, and then is equal within the tolerance."""


@pytest.mark.parametrize("one", MEANING)
def test_integers_are_compared_with_what_means_the_same(make: Make, one: str) -> None:
    def run(name: str) -> Run:
        values, dtype, do, scale = MEANING[name]
        recorded = {} if scale is None else {"x": [{"scale": scale, "zero_point": 0}]}
        return make({"x": values}, do={"x": (dtype, do)}, model={"quantized": recorded})

    ours, found = run(one), {}
    for other in MEANING:
        found[other] = only(diff(ours, run(other)))
    comparable = set().union(*(group for group in COMPARABLE if one in group))
    same = {name for name, tensor in found.items() if tensor.verdict is not Verdict.INCOMPARABLE}
    assert same == comparable
    assert {found[name].verdict for name in same} <= {Verdict.EQUAL, Verdict.WITHIN}


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        (
            ("int8", ({"mean": "x"},), 0.25),
            ("float32", ({"mean": "x"},), None),
            "float32 against float32: computed from int8 of the scale 0.25 and the zero point 0 in "
            "A and numbers in B, so that equal elements are not equal numbers",
        ),
        (
            ("int8", ({"mean": "x"},), 0.25),
            ("int8", ({"mean": "x"},), None),
            "float32 against float32: computed from int8 of the scale 0.25 and the zero point 0 in "
            "A and computed from int8 of an unknown scale in B, so that equal elements are not "
            "equal numbers",
        ),
    ],
)
def test_what_is_computed_from_quantised_integers_is_refused_with_the_scales(
    make: Make,
    one: tuple[str, tuple[object, ...], float | None],
    other: tuple[str, tuple[object, ...], float | None],
    reason: str,
) -> None:
    runs = [
        make(
            {"x": NUMBERS},
            do={"x": (dtype, do)},
            model={"quantized": {"x": [{"scale": scale, "zero_point": 0}]}} if scale else {},
        )
        for dtype, do, scale in (one, other)
    ]
    assert only(diff(*runs)).reason == reason


@pytest.mark.parametrize(
    ("dtype", "scale", "do", "reason"),
    [
        ("float32", None, (), None),
        ("int8", 0.25, (), "int8 against float32"),
        ("int8", None, (), "and the integers have no recorded scale"),
        ("int8", 0.25, ({"cast": "float32"},), "computed from int8 of the scale 0.25"),
    ],
)
def test_statistics_of_quantised_integers_are_not_those_of_numbers(
    dtype: str, scale: float | None, do: tuple[object, ...], reason: str | None
) -> None:
    def manifest(dtype: str, do: tuple[object, ...], scale: float | None) -> Manifest:
        spec = TensorSpec.of(dtype, ("sample", None), (None, 2))
        record = TensorRecord("x", Kind.OP, spec)
        stored = replace(spec, dtype="float32") if do else spec
        own = RunStatistics("x", record, ("mine",), do, ("moments",), ("moments",), stored)
        recorded = {"x": [{"scale": scale, "zero_point": 0}]}
        return Manifest(
            volatile=Volatile(started="2026-11-28T15:04:05+00:00"),
            job_resolved={},
            model={} if scale is None else {"quantized": recorded},
            statistics=(own,),
        )

    numbers, integers = manifest("float32", (), None), manifest(dtype, do, scale)
    elements.check_statistics(integers, integers, ["x"])
    if reason is None:
        elements.check_statistics(integers, numbers, ["x"])
        return
    with pytest.raises(elements.IncomparableError, match=reason):
        elements.check_statistics(integers, numbers, ["x"])


def test_positions_among_quantised_numbers_are_positions(make: Make) -> None:
    positions, scales = [np.int64(one) for one in (2, 0)], [F32.type(one) for one in (0.5, 3)]
    do = [{"quantize": "int8"}, {"argmax": "x"}]
    one = make({"x": positions, "x@scale": scales}, do={"x": ("float32", do)})
    other = make({"x": positions}, do={"x": ("float32", do[1:])})
    assert diff(one, other, only="x").tensors[0].verdict is Verdict.EQUAL


@pytest.mark.parametrize("do", [[{"quantize": "int8"}], [{"quantize": "int8"}, "flatten"]])
def test_numbers_quantised_in_two_runs_are_compared_as_numbers(
    tmp_path: Path, do: list[object]
) -> None:
    """Twice the numbers give the same integers with twice the scale."""
    runs = []
    for factor in (1.0, 2.0):
        values = np.float32([[1, -3], [0.5, 2]]) * np.float32(factor)
        scales = np.abs(values).max(axis=1) / np.float32(127)
        integers = np.round(values / scales[:, np.newaxis]).astype(np.int8)
        tensors = {"x": list(integers), "x@scale": list(scales.reshape(-1))}
        runs.append(made_run(tmp_path / str(factor), tensors, do={"x": ("float32", do)}))
    found = diff(*runs, only="x").tensors[0]
    assert found.verdict is Verdict.BEYOND
    assert found.errors is not None
    assert found.errors.max_abs == pytest.approx(3, rel=1e-2)


def test_numbers_that_a_run_quantises_differ_by_their_recorded_error(tmp_path: Path) -> None:
    for name, do in (("whole", []), ("small", [{"quantize": "int8"}])):
        extractkit.extract(
            model=ReferenceModel(),
            inputs=["one", "a", "seven letters", "at"],
            selectors={"mine": {"path": "embedding:output", "do": do}},
            run_dir=tmp_path / name,
        )
    whole, small = (extractkit.open(tmp_path / name) for name in ("whole", "small"))
    errors = np.asarray(small["embedding:output@error"])
    found = diff(whole, small, only="embedding:output")
    (one,) = (tensor for tensor in found.tensors if tensor.b == "embedding:output")
    assert one.errors is not None
    assert one.errors.max_abs == pytest.approx(errors.max(), rel=1e-5)
    assert one.worst is not None
    assert one.worst.a == errors.argmax()


def test_samples_belong_together_by_their_ids(make: Make) -> None:
    values = random_samples(5)
    order = [3, 0, 4, 1]
    a = make({"x": values}, ids=list("abcde"), shards=[2])
    b = make({"x": [values[n] for n in order]}, ids=[*"dae", "new"], shards=[1, 3])
    found = diff(a, b)
    assert only(found).verdict is Verdict.EQUAL
    assert found.samples.aligned_by == "id"
    assert found.samples.compared == 3
    assert found.samples.only_in_a == OneSided(2, ("b", "c"))
    assert found.samples.only_in_b == OneSided(1, ("new",))
    assert found.beyond
    changed = [values[n] + 1 if n == 4 else values[n] for n in order]  # type: ignore[operator]
    found = diff(a, make({"x": changed}, ids=[*"dae", "new"]))
    assert only(found).first_beyond == SamplePair("e", 4, 2)


def test_ids_that_occur_twice_leave_the_numbers(make: Make) -> None:
    values = random_samples(3)
    found = diff(make({"x": values}, ids=list("aab")), make({"x": values[:2]}, ids=list("xy")))
    assert found.samples.aligned_by == "number"
    assert found.samples.compared == 2
    assert found.samples.only_in_a == OneSided(1, ("b",))
    assert only(found).verdict is Verdict.EQUAL


def test_runs_without_a_common_sample_cannot_be_compared(make: Make) -> None:
    values = random_samples(2)
    found = diff(make({"x": values}, ids=list("ab")), make({"x": values}, ids=list("cd")))
    assert "no sample in common" in str(only(found).reason)
    assert found.beyond


def test_missing_samples_are_counted_and_not_compared(make: Make) -> None:
    values = random_samples(6)
    other = [np.full((3, 2), np.nan, F32) if n == 4 else value for n, value in enumerate(values)]
    both = {"missing": {4: "no picture"}}
    found = diff(make({"x": values}, shards=[3], **both), make({"x": other}, shards=[2], **both))
    assert found.samples.compared == 5
    assert found.samples.missing == 1
    assert found.samples.one_sided == 0
    assert only(found).verdict is Verdict.EQUAL
    assert not found.beyond


def test_a_sample_that_is_missing_from_one_run_alone_is_a_difference(make: Make) -> None:
    values = random_samples(6)
    order = [5, 4, 3, 2, 1, 0]
    a = make({"x": values}, ids=list("abcdef"), missing={1: "no picture", 2: "no picture"})
    b = make(
        {"x": [values[n] for n in order]},
        ids=list("fedcba"),
        shards=[2],
        missing={1: "no picture", 3: "no picture", 5: "no picture"},
    )
    found = diff(a, b)
    assert found.samples.compared == 2
    assert found.samples.missing == 1  # c
    assert found.samples.missing_in_a == OneSided(1, ("b",))
    assert found.samples.missing_in_b == OneSided(2, ("a", "e"))
    assert only(found).verdict is Verdict.EQUAL
    assert found.beyond
    turned = diff(b, a)
    assert turned.samples.missing_in_b == OneSided(1, ("b",))
    assert turned.beyond


def test_what_one_run_alone_has_is_reported_and_counts(make: Make) -> None:
    values = random_samples(2)
    found = diff(make({"x": values, "y": values}), make({"x": values, "z": values}))
    assert (found.only_in_a, found.only_in_b) == (("y",), ("z",))
    assert only(found).verdict is Verdict.EQUAL
    assert found.beyond
    assert not diff(make({"x": values, "y": values}), make({"x": values}), only="x").beyond
    with pytest.raises(SelectionError, match=r"only='q\*' matches no tensor of .*'x'"):
        diff(make({"x": values}), make({"x": values}), only="q*")


def test_a_run_of_constants_alone_needs_no_samples(make: Make) -> None:
    found = diff(make({"w": np.float32([1, 2])}), make({"w": np.float32([1, 4])}))
    assert only(found).verdict is Verdict.BEYOND
    assert only(found).first_beyond is None
    assert found.samples.compared == 0
    large = np.arange(elements.ELEMENTS + 3, dtype=F32)
    changed = large.copy()
    changed[-1] += 10
    counts = only(diff(make({"w": large}), make({"w": changed}))).counts
    assert counts is not None
    assert (counts.elements, counts.unequal) == (large.size, 1)


def test_an_unfinished_run_is_refused(make: Make) -> None:
    done, failed = make({"x": random_samples(2)}), make({"x": random_samples(2)}, finish=False)
    with pytest.raises(RunDirectoryError, match=r"not finished \(status: failed\).*resume"):
        diff(done, failed)


def test_a_list_of_samples_that_is_not_the_runs_is_refused(make: Make) -> None:
    run = make({"x": random_samples(3)})
    rows = (run.path / "samples.jsonl").read_text().splitlines(keepends=True)
    (run.path / "samples.jsonl").write_text("".join(rows[:2]))
    with pytest.raises(RunDirectoryError, match=r"samples.jsonl is damaged"):
        diff(run, run)


def test_memory_is_that_of_a_shard_and_not_of_a_tensor(make: Make) -> None:
    values = [np.full(1 << 18, n, F32) for n in range(24)]
    one, other = (make({"x": values}, shards=range(1, 24)) for _ in "ab")
    tracemalloc.start()
    try:
        diff(one, other)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(value.nbytes for value in values) > 24e6
    assert peak < 16e6  # two shards of a megabyte, and a block of each with what is made of it


def test_what_may_explain_a_difference_is_reported(make: Make) -> None:
    values = random_samples(2)
    a = make({"x": values}, versions={"tensorflow": "2.20", "numpy": "2.4"}, seeds={"numpy": 1})
    b = make({"x": values}, versions={"tensorflow": "2.21", "numpy": "2.4"})
    reported = [(one.key, one.a, one.b) for one in diff(a, b).circumstances]
    assert reported == [("versions.tensorflow", "2.20", "2.21"), ("seeds.numpy", 1, None)]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        # The default of a stateful model is to reset.
        ({"state": None}, {"state": "carry"}, [("model.state", "reset", "carry")]),
        ({"state": None}, {"state": "reset"}, []),
        (
            {"max_length": 8, "input_axes": {"x": ["sample", 3]}},
            {"max_length": 16, "input_axes": None},
            [("model.max_length", 8, 16), ("model.input_axes.x", ["sample", 3], None)],
        ),
        # Settings of two formats are not compared.
        (
            {"_target_": "a.load", "path": "net.keras", "state": "carry"},
            {"_target_": "b.load", "path": "net.tflite"},
            [("model._target_", "a.load", "b.load"), ("model.state", "carry", None)],
        ),
    ],
)
def test_settings_of_the_model_may_explain_a_difference(
    make: Make, one: dict[str, object], other: dict[str, object], expected: list[object]
) -> None:
    def run(settings: dict[str, object]) -> Run:
        described = {"state": settings["state"] or "reset"} if "state" in settings else {}
        return make({"x": [np.ones(2, F32)]}, configured=settings, model=described)

    found = diff(run(one), run(other)).circumstances
    assert [(c.key, c.a, c.b) for c in found] == expected


def test_the_document_is_closed_and_strict_json(make: Make) -> None:
    most = np.finfo("float64").max
    a, b = [np.array([most]), np.array([np.nan])], [np.array([-most]), np.array([1.0])]
    found = diff(make({"x": a}), make({"x": b}))
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert list(document) == [
        "schema", "beyond", "a", "b", "tolerance", "mapped", "samples", "tensors", "only_in_a",
        "only_in_b", "checkpoints_only_in_a", "checkpoints_only_in_b", "circumstances",
    ]  # fmt: skip
    assert document["schema"] == 5
    assert document["beyond"] is True
    assert document["tensors"] == [
        {
            "a": "x",
            "b": "x",
            "verdict": "beyond",
            "reason": None,
            "counts": {"elements": 2, "unequal": 2, "beyond": 2, "nan": 0, "lone": 1},
            "errors": {
                "max_abs": "inf",
                "mean_abs": "inf",
                "max_rel": 2.0,
                "mean_rel": 2.0,
                "relative_l2": None,
                "cosine": None,
                "correlation": None,
            },
            "first_unequal": {"id": "s0", "a": 0, "b": 0},
            "first_beyond": {"id": "s0", "a": 0, "b": 0},
            "worst": {"id": "s0", "a": 0, "b": 0},
            "checkpoint": None,
            "checkpoint_b": None,
            "result": None,
        }
    ]


def test_comparing_imports_neither_tensorflow_nor_hydra(make: Make) -> None:
    run = make({"x": random_samples(2)})
    program = (
        "import sys\n"
        "from extractkit.runs.reader import open_run\n"
        "from extractkit.runs.comparing import diff\n"
        f"run = open_run({str(run.path)!r})\n"
        "assert not diff(run, run).beyond\n"
        "heavy = {'tensorflow', 'keras', 'hydra', 'omegaconf'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env=dict(os.environ))
