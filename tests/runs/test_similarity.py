"""Relative norm, cosine and linear CKA, against NumPy and the definition by Gram matrices."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extractkit import cli
from extractkit.core.statistics import Arrays
from extractkit.errors import ConfigError, RunDirectoryError, SelectionError
from extractkit.runs.comparing.similarity import similarity
from extractkit.runs.drift import (
    UNDEFINED,
    WIDEST,
    Measures,
    examples_of,
    measures,
    sums_of,
    to_itself,
)
from extractkit.runs.reader import open_run
from tests.runs.diff_examples import made_run

Array = np.ndarray


def blocks(values: Array, ends: Sequence[int] = ()) -> list[Array]:
    return [examples_of(part) for part in np.split(values, sorted(ends))]


def sums(values: Array, ends: Sequence[int] = (), examples: bool = True) -> Arrays:
    return sums_of(blocks(values, ends), examples)


def measured(one: Array, other: Array, ends: Sequence[int] = (), examples: bool = True) -> Measures:
    own = sums(one, ends, examples), sums(other, ends, examples)
    return measures(blocks(one, ends), blocks(other, ends), own)


def by_gram(x: Array, y: Array) -> float:
    """Linear CKA: HSIC(K, L) / √(HSIC(K, K) HSIC(L, L)) with K = XXᵀ, L = YYᵀ.

    Source: Kornblith et al. 2019, equations 3 and 4.
    """
    n = len(x)
    centre = np.eye(n) - np.full((n, n), 1 / n)
    flat = [side.reshape(n, -1).astype(np.float64) for side in (x, y)]
    # No matter in exact numbers, but not to lose the difference of numbers far from zero.
    k, m = (side @ side.T for side in (side - side.mean(axis=0) for side in flat))

    def hsic(p: Array, q: Array) -> float:
        return float(np.trace(p @ centre @ q @ centre)) / (n - 1) ** 2

    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def drawn(seed: int, rows: int, wide: int = 5) -> Array:
    return np.random.default_rng(seed).normal(size=(rows, wide))


@pytest.mark.parametrize("shape", [(7, 3), (40, 12), (5, 30), (9, 2, 4), (6,)])
def test_all_three_are_those_of_their_definitions(shape: tuple[int, ...]) -> None:
    draw = np.random.default_rng(len(shape))
    x = draw.normal(1.0, 2.0, size=shape)
    y = x + draw.normal(size=shape)
    found = measured(x, y)
    assert found.relative_norm == pytest.approx(
        np.linalg.norm((y - x).ravel()) / np.linalg.norm(x.ravel()), rel=1e-12
    )
    cosine = np.vdot(x, y) / (np.linalg.norm(x.ravel()) * np.linalg.norm(y.ravel()))
    assert found.cosine == pytest.approx(cosine, rel=1e-12)
    assert found.cka == pytest.approx(by_gram(x, y), rel=1e-9)


@given(st.integers(0, 1000), st.integers(2, 30), st.integers(1, 8), st.integers(1, 8))
def test_cka_is_that_of_gram_matrices(seed: int, rows: int, wide: int, extra: int) -> None:
    """A mean far from zero and two scales are no matter."""
    draw = np.random.default_rng(seed)
    x = draw.normal(50, 1, (rows, wide))
    y = x @ draw.normal(size=(wide, wide)) + extra * draw.normal(size=(rows, wide)) - 300
    assert measured(x, y).cka == pytest.approx(by_gram(x, y), abs=1e-9)


@given(st.integers(0, 1000), st.floats(1e-3, 1e3), st.floats(-100, 100))
def test_cka_knows_no_rotation_no_scale_and_no_shift(seed: int, scale: float, shift: float) -> None:
    draw = np.random.default_rng(seed)
    x, y = draw.normal(size=(20, 4)), draw.normal(size=(20, 4))
    turn, _ = np.linalg.qr(draw.normal(size=(4, 4)))
    before = measured(x, y).cka
    assert before is not None
    assert measured(x, scale * (y @ turn) + shift).cka == pytest.approx(before, abs=1e-8)
    assert measured(x, scale * (x @ turn) + shift).cka == pytest.approx(1, abs=1e-8)
    assert measured(y, x).cka == pytest.approx(before, abs=1e-12)


@given(st.integers(0, 1000), st.lists(st.integers(0, 12), max_size=5))
def test_where_a_block_ends_does_not_matter(seed: int, ends: list[int]) -> None:
    x, y = drawn(seed, 12), drawn(seed + 1, 12)
    whole, parts = measured(x, y), measured(x, y, ends)
    for name in ("relative_norm", "cosine", "cka"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-9), name


def test_a_thing_is_entirely_like_itself_and_its_opposite_is_its_opposite() -> None:
    x = drawn(0, 9)
    itself = measured(x, x)
    assert itself.relative_norm == 0
    assert (itself.cosine, itself.cka) == (pytest.approx(1, abs=1e-12), pytest.approx(1, abs=1e-12))
    opposite = measured(x, -x)
    assert (opposite.relative_norm, opposite.cosine, opposite.cka) == (
        pytest.approx(2), pytest.approx(-1), pytest.approx(1),
    )  # fmt: skip


def test_rounding_leads_out_of_no_bounds() -> None:
    found = [measured(x, 3 * x) for x in (drawn(seed, 6, 3) for seed in range(200))]
    assert {one.cosine for one in found} >= {1.0}
    assert all(one.cosine is not None and one.cosine <= 1 for one in found)
    assert all(one.cka is not None and 0 <= one.cka <= 1 for one in found)


@pytest.mark.parametrize("examples", [True, False])
def test_what_is_compared_with_itself_is_what_a_comparison_tells(examples: bool) -> None:
    x = drawn(1, 9)
    own, copied = sums(x, (), examples), measured(x, x.copy(), (), examples)
    assert to_itself(own) == copied == Measures(0.0, 1.0, 1.0 if examples else None)
    zero = sums(np.zeros((4, 2)))
    assert to_itself(zero) == measured(np.zeros((4, 2)), np.zeros((4, 2)))


@pytest.mark.parametrize("wrong", [np.inf, np.nan, 1e200])
def test_what_is_no_number_or_too_large_is_like_nothing_not_even_itself(wrong: float) -> None:
    x = drawn(1, 9)
    x[2, 1] = wrong
    assert to_itself(sums(x)) == Measures(None, None, None)
    assert measured(x, drawn(2, 9)) == Measures(None, None, None)


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8", "int64", "uint8", "bool"])
def test_numbers_of_any_type_are_summed_in_float64(dtype: str) -> None:
    draw = np.random.default_rng(3)
    x, y = (draw.integers(0, 2 if dtype == "bool" else 100, (50, 3)).astype(dtype) for _ in "ab")
    assert measured(x, y) == measured(x.astype(np.float64), y.astype(np.float64))


def test_large_sums_of_small_types_do_not_overflow() -> None:
    x = np.full((2000, 4), 60000, np.float16)
    assert measured(x, x).relative_norm == 0
    assert measured(x, -x).relative_norm == pytest.approx(2)


# ---- what has no meaning


def test_a_reference_that_is_zero_has_no_norm_to_compare_with() -> None:
    zero, x = np.zeros((4, 2)), drawn(0, 4, 2)
    assert measured(zero, x) == Measures(None, None, None)
    assert measured(zero, zero) == Measures(None, None, None)
    assert measured(x, zero) == Measures(1.0, None, None)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_what_is_not_finite_has_no_likeness(value: float, side: int) -> None:
    pair = [drawn(0, 4), drawn(1, 4)]
    pair[side][2, 1] = value
    assert measured(*pair) == UNDEFINED
    assert measured(pair[side], pair[side]) == UNDEFINED


def test_what_is_too_large_for_float64_has_none() -> None:
    x = np.full((4, 2), 1e200)
    x[0] = -1e200
    assert measured(x, x) == UNDEFINED


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e6 + 0.7, 1e-9, -7.3])
@pytest.mark.parametrize("rows", [3, 10, 1000, 4097])
def test_where_examples_do_not_differ_there_is_no_cka(value: float, rows: int) -> None:
    """What rounding leaves of a mean is no difference: a dead layer is like nothing."""
    same, x = np.full((rows, 3), value), drawn(0, rows, 3)
    same[:, 1] *= 3
    for one, other in ((same, same), (same, x), (x, same), (same, 2 * same)):
        assert measured(one, other).cka is None
        assert measured(one, other, (1, rows // 2)).cka is None


@given(st.integers(0, 1000), st.sampled_from([1e-3, 1e-5, 1e-6]))
def test_small_differences_of_float32_are_differences(seed: int, size: float) -> None:
    x = (1 + size * drawn(seed, 20, 3)).astype(np.float32)
    y = (1 + size * drawn(seed + 1, 20, 3)).astype(np.float32)
    if np.ptp(x) and np.ptp(y):
        centred = [side.astype(np.float64) - side.astype(np.float64).mean(0) for side in (x, y)]
        assert measured(x, y).cka == pytest.approx(by_gram(*centred), abs=1e-6)


def test_one_example_or_none_has_no_cka() -> None:
    x = drawn(0, 1)
    assert measured(x, x).cka is None
    assert measured(x, x).cosine == pytest.approx(1)
    empty = np.zeros((0, 5))
    assert measured(empty, empty) == UNDEFINED
    assert measured(np.zeros((3, 0)), np.zeros((3, 0))) == UNDEFINED


def test_where_its_first_axis_counts_no_examples_there_is_no_cka() -> None:
    x = drawn(0, 9)
    found = measured(x, x + 1, examples=False)
    assert found.cka is None
    assert found.relative_norm == measured(x, x + 1).relative_norm


@pytest.mark.parametrize(("wide", "has"), [(WIDEST, True), (WIDEST + 1, False)])
def test_beyond_the_widest_there_is_no_cka(wide: int, has: bool) -> None:
    x = drawn(0, 3, wide).astype(np.float32)
    found = measured(x, x)
    assert (found.cka is not None) == has
    assert found.cosine == pytest.approx(1)


def test_things_of_different_shapes_are_unlike() -> None:
    assert measured(drawn(0, 4, 3), drawn(0, 4, 2)) == UNDEFINED
    assert measured(drawn(0, 4), drawn(0, 5)) == UNDEFINED


@settings(deadline=None)
@given(st.integers(0, 50))
def test_a_side_may_move_far_from_where_it_was(seed: int) -> None:
    """As far as float64 allows: its mean is ten million times what its examples differ by."""
    x, y = drawn(seed, 30, 3), drawn(seed + 1, 30, 3)
    far = measured(x, y + 1e7).cka
    assert far == pytest.approx(by_gram(x, (y + 1e7) - 1e7), abs=1e-6)


def test_the_command_line_finds_the_tensors_that_are_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x, y = drawn(1, 12), drawn(2, 12)
    turned = 3 * x @ np.linalg.qr(drawn(3, 5, 5))[0] + 7
    constant = np.ones((12, 2))
    a = made_run(tmp_path / "a", {"x": list(x), "y": list(y), "still": list(constant)})
    b = made_run(tmp_path / "b", {"x": list(y + x), "z": list(turned)})
    assert cli.execute(["similarity", str(a.path), str(b.path), "--json"]) == cli.DONE
    document = json.loads(capsys.readouterr().out)
    assert (document["a"], document["b"], document["count"]) == (
        ["x", "y", "still"],
        ["x", "z"],
        12,
    )
    expected = [[by_gram(one, other) for other in (y + x, turned)] for one in (x, y)]
    np.testing.assert_allclose(document["cka"][:2], expected, rtol=1e-9)
    assert document["cka"][2] == [None, None]
    assert cli.execute(["similarity", str(a.path), str(b.path)]) == cli.DONE
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == ["x", f"{expected[0][0]:.4f}", "z", "1.0000"]
    assert lines[2] == ["y", "x", f"{expected[1][0]:.4f}"]
    assert lines[3] == ["still", "none:", "it", "never", "changes"]
    assert lines[-1][:5] == ["3", "×", "2", "tensors", "compared"]


def test_what_has_no_similarity_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    holed, x = drawn(1, 12), drawn(2, 12)
    holed[3, 1] = np.nan
    lost = np.full((12, 2), 0.1)
    lost[5, 0] += 1e-17 + np.spacing(0.1)
    tensors = {"holed": list(holed), "x": list(x), "still": list(np.ones((12, 2)))}
    a = made_run(tmp_path / "a", {**tensors, "lost": list(lost)})
    b = made_run(tmp_path / "b", {"x": list(np.ones((12, 2)))})
    assert cli.execute(["similarity", str(a.path), str(b.path), "--json"]) == cli.DONE
    document = json.loads(capsys.readouterr().out)
    assert document["cka"] == [[None]] * 4
    assert document["undefined_a"] == {
        "holed": "it holds NaN or infinities",
        "still": "it never changes",
        "lost": "its variance is lost in rounding",
    }
    assert document["undefined_b"] == {"x": "it never changes"}
    assert cli.execute(["similarity", str(a.path), str(b.path)]) == cli.DONE
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[1:5] == [
        "holed none: it holds NaN or infinities",
        "x none: the tensors of B have no similarity to any",
        "still none: it never changes",
        "lost none: its variance is lost in rounding",
    ]


def test_numbers_with_a_scale_for_each_sample_are_compared_as_numbers(tmp_path: Path) -> None:
    x = drawn(1, 12) * np.arange(1, 13)[:, np.newaxis] ** 2  # samples of many sizes
    scales = (np.abs(x).max(axis=1) / 127).astype(np.float32)
    steps = np.round(x / scales[:, np.newaxis]).astype(np.int8)
    tensors = {"x": list(steps), "x@scale": list(scales)}
    do = {"x": ("float32", [{"quantize": "int8"}])}
    small = made_run(tmp_path / "small", tensors, do=do)
    whole = made_run(tmp_path / "whole", {"x": list(x)})
    real = steps * scales[:, np.newaxis].astype(np.float64)
    found = similarity(small, whole, only="x")["x", "x"]
    assert found == pytest.approx(by_gram(real, x), rel=1e-6)
    assert found > 0.999 > by_gram(steps, x)


@pytest.mark.parametrize("twice", [False, True])
def test_within_a_run_each_tensor_is_compared_with_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], twice: bool
) -> None:
    x, y = drawn(1, 12), drawn(2, 12)
    run = made_run(tmp_path / "a", {"x": list(x), "y": list(y), "both": list(x + 3 * y)})
    again = [f"{run.path.parent}/../{run.path.parent.name}/a"] if twice else []
    assert cli.execute(["similarity", str(run.path), *again]) == cli.DONE
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["tensor", "most", "similar", "CKA"]
    expected = {
        "x": (x, "both", x + 3 * y),
        "y": (y, "both", x + 3 * y),
        "both": (x + 3 * y, "y", y),
    }
    assert lines[1:4] == [
        [key, nearest, f"{by_gram(one, other):.4f}"]
        for key, (one, nearest, other) in expected.items()
    ]


def test_the_command_line_refuses_checkpoints_with_the_way_in_python() -> None:
    run = Path(__file__).parents[1] / "golden" / "runs" / "schema-10" / "trajectory"
    with pytest.raises(RunDirectoryError) as caught:
        cli.execute(["similarity", str(run)])
    labels = open_run(run).checkpoints
    assert str(caught.value) == (
        f"{run} has {len(labels)} checkpoints. Compare those that you want, in Python: "
        f"similarity(run.at({labels[0]!r}), run.at({labels[-1]!r}))"
    )


def test_the_command_line_chooses_tensors_and_estimates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"x": list(drawn(1, 16)), "long": [drawn(2, 3)] * 16}
    run = made_run(tmp_path / "a", values)
    other = made_run(tmp_path / "b", values)
    given = ["similarity", str(run.path), str(other.path)]
    with pytest.raises(SelectionError, match="on the command line --only GLOB"):
        cli.execute(given)
    assert cli.execute([*given, "--only", "x", "--batch", "8", "--json"]) == cli.DONE
    assert json.loads(capsys.readouterr().out)["cka"] == [[pytest.approx(1)]]
    with pytest.raises(ConfigError, match=r"similarity\.batch=2"):
        cli.execute([*given, "--only", "x", "--batch", "2"])
