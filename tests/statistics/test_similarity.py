"""Similarity of tensors: linear CKA as Gram matrices give it, however the samples are divided."""

import re
from collections.abc import Sequence
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import extractkit
from extractkit.core.spec import Dim
from extractkit.core.statistics import Array, Arrays, Block, JointStatistic, Merging
from extractkit.core.statistics import similarity as limited
from extractkit.core.statistics.registry import Asked
from extractkit.core.transforms import Axis, Operand
from extractkit.core.values import Dense, Ragged
from extractkit.errors import ConfigError, JobError, SelectionError
from extractkit.testing.reference import ReferenceModel
from tests.engine.checkpoint_examples import files, over
from tests.engine.examples import executed
from tests.statistics.test_runs import TEXTS

WIDTHS = (3, 5, 1)
POOLED = {"path": ["embedding:output", "attention:output", "pool:output"], "do": [{"mean": "1:-1"}]}


def asked(options: object = None) -> JointStatistic:
    entry = {"similarity": options} if options else "similarity"
    return Asked.parse([entry], "selectors.s.statistics").joint[0]


def by_gram(one: Array, other: Array) -> float:
    """CKA from the kernels of all pairs of rows."""
    center = np.eye(len(one)) - 1 / len(one)
    k, other_k = (center @ (x @ x.T) @ center for x in (one, other))
    return float((k * other_k).sum() / np.sqrt((k * k).sum() * (other_k * other_k).sum()))


def merged(statistic: JointStatistic, tensors: Sequence[Array], cuts: Sequence[int] = ()) -> Arrays:
    """The result over shards that end at these rows."""
    merging = Merging(statistic)
    count = len(tensors[0])
    for start, stop in pairwise([0, *sorted({min(cut, count) for cut in cuts}), count]):
        merging.add(
            statistic.of(
                [Block(Dense(x[start:stop]), np.arange(start, stop), x.shape[1]) for x in tensors]
            )
        )
    return merging.finish()


def tensors(seed: int, rows: int = 40) -> list[Array]:
    draw = np.random.default_rng(seed)
    shared = draw.normal(size=(rows, 2))
    return [
        shared @ draw.normal(size=(2, n)) + draw.normal(size=(rows, n)) + 10 * draw.normal()
        for n in WIDTHS
    ]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.lists(st.integers(0, 40), max_size=4))
def test_it_is_what_gram_matrices_give(seed: int, cuts: list[int]) -> None:
    every = tensors(seed)
    found = merged(asked(), every, cuts)
    expected = [[by_gram(one, other) for other in every] for one in every]
    np.testing.assert_allclose(found["cka"], expected, rtol=1e-10)
    assert int(found["count"]) == 40


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
def test_rotation_scale_and_offset_do_not_matter(seed: int, scale: float, offset: float) -> None:
    first, *others = tensors(seed)
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    found = merged(asked(), [first, scale * first @ rotation + offset, *others])["cka"]
    np.testing.assert_allclose(found[0, 1], 1, rtol=1e-9)
    np.testing.assert_allclose(found[0, 2:], found[1, 2:], rtol=1e-7)
    np.testing.assert_array_equal(np.diagonal(found), 1)
    np.testing.assert_array_equal(found, found.T)


@pytest.mark.parametrize("size", [1e-150, 1e150])
def test_tiny_and_huge_numbers_keep_their_similarity(size: float) -> None:
    every = tensors(1)
    found = merged(asked(), [size * every[0], every[1]])["cka"]
    np.testing.assert_allclose(found, merged(asked(), every[:2])["cka"], rtol=1e-9)


@pytest.mark.parametrize("constants", [(3.0, 3.0), (0.1, 0.3), (1e9 / 3, -1e-9 / 7)])
@pytest.mark.parametrize("cuts", [(), (1, 2, 7, 30)])
def test_a_tensor_that_never_changes_has_no_similarity(
    constants: tuple[float, float], cuts: tuple[int, ...]
) -> None:
    """Means of equal numbers are rounded, unless the numbers have few digits."""
    first, *_ = tensors(2)
    for options in (None, {"batch": 10}, {"batch": 5}):
        found = merged(asked(options), [first, np.tile(constants, (40, 1))], cuts)["cka"]
        np.testing.assert_array_equal(found, [[1, np.nan], [np.nan, np.nan]])


def test_small_changes_of_large_numbers_are_a_similarity() -> None:
    first, *others = tensors(2)
    for options in (None, {"batch": 10}):
        plain = merged(asked(options), [first, *others])["cka"]
        moved = merged(asked(options), [first + 1e6, *others], [7, 30])["cka"]
        if options is None:
            np.testing.assert_allclose(moved, plain, rtol=1e-8)
        assert np.isfinite(moved).all()


def test_numbers_that_are_not_finite_make_the_similarities_of_their_tensor_nan() -> None:
    for number in (np.nan, np.inf, -np.inf):
        first, second, third = tensors(5)
        second[3, 1] = number
        for options in (None, {"batch": 10}):
            found = merged(asked(options), [first, second, third], [2, 20])["cka"]
            plain = merged(asked(options), [first, third], [2, 20])["cka"]
            assert np.isnan(found[1]).all()
            np.testing.assert_allclose(found[::2, ::2], plain, rtol=1e-12)


def test_without_rows_it_is_nan() -> None:
    for options in (None, {"batch": 10}):
        found = merged(asked(options), [np.zeros((0, 2)), np.zeros((0, 3))])
        assert int(found["count"]) == 0
        assert np.isnan(found["cka"]).all()


def unbiased(one: Array, other: Array) -> float:
    """The estimate as its definition has it: over all choices of four different rows."""
    k, other_k = one @ one.T, other @ other.T
    rows = range(len(one))
    terms = [
        k[i, j] * (other_k[i, j] + other_k[q, r] - 2 * other_k[i, q])
        for i, j, q, r in permutations(rows, 4)
    ]
    return float(np.mean(terms))


def test_minibatches_give_the_mean_of_unbiased_estimates() -> None:
    every = tensors(3, rows=19)
    # A rest of three rows after each shard is too small.
    found = merged(asked({"batch": 6}), every, [9])
    batches = [(0, 6), (9, 15), (15, 19)]
    expected = np.zeros((3, 3))
    for start, stop in batches:
        parts = [x[start:stop] for x in every]
        expected += [[(stop - start) * unbiased(a, b) for b in parts] for a in parts]
    own = np.sqrt(np.diagonal(expected))
    np.testing.assert_allclose(found["cka"], expected / own[:, None] / own[None, :], rtol=1e-9)
    assert int(found["count"]) == 16


def test_minibatches_estimate_what_all_rows_give() -> None:
    every = tensors(4, rows=4096)
    estimate = merged(asked({"batch": 128}), every, [1000, 3000])["cka"]
    np.testing.assert_allclose(estimate, merged(asked(), every)["cka"], atol=0.02)


@pytest.mark.parametrize("options", [None, {"batch": 4}])
def test_what_a_shard_stores_has_the_promised_size(options: object) -> None:
    operands = [
        Operand("float32", (Axis(Dim("sample")), Axis(Dim(size=width))), "a") for width in WIDTHS
    ]
    blocks = [Block(Dense(x), np.arange(40), x.shape[1]) for x in tensors(0)]
    statistic = asked(options)
    stored = sum(array.nbytes for array in statistic.of(blocks).values())
    assert stored == statistic.partial_bytes(operands)


def test_other_rows_are_refused_once_they_show() -> None:
    wide = np.zeros((6, 2))
    blocks = [
        Block(Ragged(wide, np.array(offsets)), np.arange(2), 2)
        for offsets in ([0, 2, 6], [0, 3, 6])
    ]
    with pytest.raises(JobError, match=r"tensor 2 of the selector has other rows than the first"):
        asked().of(blocks)


def planned(**selector: Any) -> None:
    extractkit.plan(
        model=ReferenceModel(),
        inputs=TEXTS,
        selectors={"s": {"statistics": ["similarity"], **selector}},
    )


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ({"path": "embedding:output"}, "similarity compares the tensors that the selector matches "
         "with each other, and it stores 'embedding:output' alone"),
        ({"path": ["embedding:output", "pool:output"]}, "similarity compares tensors row by row, "
         "and their axes before the last one differ: 'embedding:output' has dims ['sample', "
         "'token'], 'pool:output' ['sample']. Narrow the selector, for example with dims: "
         "'sample,token,#', or take one row of each sample: do: [{mean: '1:-1'}]"),
        ({"path": ["pool:output", "*Softmax"]}, "treats the last axis as features, and that of"),
        # The axes of this tensor are unknown before it is measured.
        ({"path": ["embedding:output", "pool:op/Max"]}, "'pool:op/Max' ['sample']"),
    ],
)  # fmt: skip
def test_tensors_without_common_rows_are_refused(selector: Any, message: str) -> None:
    with pytest.raises(SelectionError, match=re.escape(message)):
        planned(**selector)


def test_many_features_are_refused_with_the_alternative() -> None:
    operand = Operand("float32", (Axis(Dim("sample")), Axis(Dim(size=6000))), "wide:output")
    message = (
        r"of 2 tensors would hold 864,096,024 bytes for each shard, more than 268,435,456. "
        r"Estimate it from minibatches with batch: 256, or narrow the last axes: "
        r"do: [{project: {axis: 1, to: 128}}]"
    )
    with pytest.raises(SelectionError, match=re.escape(message)):
        asked().check({"a": operand, "b": operand})
    asked({"batch": 256}).check({"a": operand, "b": operand})
    with pytest.raises(SelectionError, match=r"of kernels, .* Give a batch of at most 4,096 rows$"):
        asked({"batch": 4097}).check({"a": operand, "b": operand})
    asked({"batch": 4096}).check({"a": operand, "b": operand})


@pytest.mark.parametrize("options", [{"batch": 3}, {"batch": "256"}, {"size": 9}, [256]])
def test_wrong_options_are_refused(options: object) -> None:
    with pytest.raises(ConfigError, match=r"selectors\.s\.statistics\.0\.similarity"):
        asked(options)


def extracted(directory: Path, *, statistics: Sequence[object] = ("similarity",), **runtime: Any):
    return extractkit.extract(
        model=ReferenceModel(),
        inputs=TEXTS,
        selectors={
            "rows": {**POOLED},
            "alike": {**POOLED, "statistics": ["moments", *statistics]},
            "tokens": {"path": ["embedding:output", "attention:output"], "statistics": statistics},
        },
        runtime={"shard_size": 3, **runtime},
        run_dir=directory,
    )


def test_a_run_compares_the_tensors_of_each_selector(tmp_path: Path) -> None:
    run = extracted(tmp_path / "run")
    found = run.statistics["@alike"]
    assert found.tensors == tuple(f"{path}@alike" for path in POOLED["path"])
    rows = [np.asarray(run[f"{path}@rows"], np.float64) for path in POOLED["path"]]
    expected = [[by_gram(one, other) for other in rows] for one in rows]
    np.testing.assert_allclose(found.similarity.cka, expected, rtol=1e-9)
    assert int(run.statistics["@tokens"].similarity.count) == sum(map(len, TEXTS))
    assert list(run.statistics["pool:output@alike"]) == ["moments"]
    with pytest.raises(KeyError, match=r"run\.statistics\['@alike'\]\.similarity"):
        _ = run.statistics["pool:output@alike"]["similarity"]
    assert not extractkit.verify(run.path).findings


def test_parts_resumes_and_recomputing_have_the_same_bits(tmp_path: Path) -> None:
    whole = extracted(tmp_path / "whole")
    for part in ("1/2", "2/2"):
        extracted(tmp_path / "parts", part=part)
    joined = extractkit.join(tmp_path / "parts")
    stored = (whole.path / "statistics.npz").read_bytes()
    assert (joined.path / "statistics.npz").read_bytes() == stored
    cut = extracted(tmp_path / "cut")
    for file in sorted((cut.path / "shards").glob("*.statistics.npz"))[1:]:
        file.unlink()
    live = {"model": ReferenceModel(), "inputs": TEXTS}
    extractkit.resume(cut.path, **live)
    assert (cut.path / "statistics.npz").read_bytes() == stored
    assert not extractkit.verify(whole.path, recompute=9, **live).findings


def test_diff_compares_matrices_of_the_same_tensors(tmp_path: Path) -> None:
    def run(name: str, *paths: str) -> extractkit.Run:
        return extractkit.extract(
            model=ReferenceModel(),
            inputs=TEXTS,
            selectors={"s": {**POOLED, "path": paths, "statistics": ["similarity"]}},
            run_dir=tmp_path / name,
        )

    one = run("one", "embedding:output", "pool:output")
    other = run("other", "embedding:output", "attention:output")
    compared = {tensor.a: str(tensor.verdict) for tensor in extractkit.diff(one, one).tensors}
    assert compared == {"@s similarity.count": "equal", "@s similarity.cka": "equal"}
    found = extractkit.diff(one, other)
    assert found.only_in_a == found.only_in_b == ("@s similarity",)
    assert not found.tensors


def test_plan_counts_the_bytes_of_a_group(tmp_path: Path) -> None:
    plan = extractkit.plan(
        model=ReferenceModel(),
        inputs=TEXTS,
        selectors={"s": {**POOLED, "statistics": ["similarity"]}},
        runtime={"shard_size": 3},
        run_dir=tmp_path / "run",
    )
    each = 8 * (4 * 12 + 4 * 8 + 4 * 4 + 12 + 3 + 1)
    assert plan.bytes == 3 * each
    assert plan.to_json()["together"] == [
        {
            "selector": "s",
            "statistic": "similarity",
            "tensors": list(POOLED["path"]),
            "bytes": 3 * each,
        }
    ]


def stored(directory: Path, texts: Sequence[str], seed: int = 0, **selector: Any) -> extractkit.Run:
    return extractkit.extract(
        model=ReferenceModel(seed=seed),
        inputs=texts,
        selectors={"s": {"path": ["embedding:output", "attention:output"], **selector}},
        runtime={"shard_size": 3},
        run_dir=directory,
    )


@pytest.mark.parametrize("selector", [{}, {"do": [{"mean": "token"}]}], ids=["tokens", "means"])
def test_two_runs_are_compared_by_their_rows(tmp_path: Path, selector: Any) -> None:
    one = stored(tmp_path / "one", TEXTS, **selector)
    other = stored(tmp_path / "other", TEXTS[:6], seed=1, **selector)

    def rows(run: extractkit.Run, key: str) -> Array:
        parts = [run[key].sample(number).reshape(-1, 4) for number in range(6)]
        return np.concatenate(parts).astype(np.float64)

    found = extractkit.similarity(one.path, other)
    assert found.a == found.b == tuple(one)
    expected = [[by_gram(rows(one, a), rows(other, b)) for b in found.b] for a in found.a]
    np.testing.assert_allclose(found.cka, expected, rtol=1e-9)
    assert found.samples.compared == 6
    assert found["embedding:output", "attention:output"] == found.cka[0, 1]
    array = found.to_xarray()
    assert float(array.sel(tensor="attention:output", other="embedding:output")) == found.cka[1, 0]
    alone = extractkit.similarity(one)
    np.testing.assert_array_equal(np.diagonal(alone.cka), 1)


def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    one = stored(tmp_path / "one", TEXTS)
    means = stored(tmp_path / "means", TEXTS, do=[{"mean": "token"}])
    longer = stored(tmp_path / "longer", [f"{text}!" for text in TEXTS])
    maps = extractkit.extract(
        model=ReferenceModel(),
        inputs=TEXTS,
        selectors={"s": {"path": "*"}},
        run_dir=tmp_path / "maps",
    )
    choose = "Choose tensors by their addresses: only=["
    with pytest.raises(SelectionError, match=re.escape("differ: 'embedding:output of ")) as caught:
        extractkit.similarity(one, means)
    assert choose in str(caught.value)
    with pytest.raises(SelectionError, match=r"those of sample '0' have shapes \[16, 4\] and \[17"):
        extractkit.similarity(one, longer)
    with pytest.raises(SelectionError, match="treats the last axis as features") as caught:
        extractkit.similarity(maps)
    assert choose in str(caught.value)
    only = ["embedding:output", "attention:output"]
    np.testing.assert_array_equal(
        extractkit.similarity(maps, only=only).cka, extractkit.similarity(one).cka
    )
    with pytest.raises(SelectionError, match=r"only='pool:\*' matches none: .* stores no such"):
        extractkit.similarity(one, only="pool:*")
    with pytest.raises(SelectionError, match="stores one such tensor, 'embedding:output'"):
        extractkit.similarity(one, only="embedding:*")
    with pytest.raises(ConfigError, match=r"similarity\.batch=1 is not a whole number from 4"):
        extractkit.similarity(one, batch=1)
    with pytest.raises(extractkit.UnknownTensorError, match="'pool:output' was not compared"):
        _ = extractkit.similarity(one)["pool:output", "embedding:output"]


def test_checkpoints_are_compared_one_by_one(tmp_path: Path) -> None:
    paths = files(tmp_path, [0, 1])
    both = {"path": ["embedding:output", "attention:output"]}
    run = executed(tmp_path / "run", over(paths, both, shard_size=7))
    with pytest.raises(extractkit.RunDirectoryError) as caught:
        extractkit.similarity(run)
    assert "has 2 checkpoints" in str(caught.value)
    assert "similarity(run.at('step_0'), run.at('step_1'))" in str(caught.value)
    same = extractkit.similarity(run.at("step_0"), run.at("step_0"))
    np.testing.assert_allclose(same.cka, extractkit.similarity(run.at("step_0")).cka, rtol=1e-12)
    assert extractkit.similarity(run.at("step_0"), run.at("step_1")).cka[0, 0] < 1
    one = extractkit.similarity(run.at("step_0"), run.at("step_1"), only="embedding:*")
    rows = [run.at(at)["embedding:output"] for at in ("step_0", "step_1")]
    first, second = (np.concatenate([view.sample(n) for n in range(len(view))]) for view in rows)
    np.testing.assert_allclose(one.cka, [[by_gram(np.float64(first), np.float64(second))]], 1e-9)


def test_all_tensors_of_both_checkpoints_count_towards_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = {"path": ["embedding:output", "attention:output"]}
    run = executed(tmp_path / "run", over(files(tmp_path, [0, 1]), both, shard_size=7))
    # Four tensors of four features: products of ten pairs, four means, widths and the count.
    size = 8 * (10 * 16 + 4 * 4 + 4 + 1)
    monkeypatch.setattr(limited, "LARGEST_PARTIAL", size)
    extractkit.similarity(run.at("step_0"), run.at("step_1"))
    monkeypatch.setattr(limited, "LARGEST_PARTIAL", size - 1)
    with pytest.raises(SelectionError, match=f"of 4 tensors would hold {size:,} bytes"):
        extractkit.similarity(run.at("step_0"), run.at("step_1"))


def test_selectors_that_share_tensors_have_matrices_of_their_own(tmp_path: Path) -> None:
    first, second, third = POOLED["path"]
    alike = {**POOLED, "statistics": ["similarity"]}
    run = extractkit.extract(
        model=ReferenceModel(),
        inputs=TEXTS,
        selectors={
            "all": alike,
            "front": {**alike, "path": [first, second]},
            "back": {**alike, "path": [second, third]},
        },
        run_dir=tmp_path / "run",
    )
    whole = run.statistics["@all"].similarity.cka
    assert run.statistics["@front"].tensors == (first, second)
    np.testing.assert_allclose(run.statistics["@front"].similarity.cka, whole[:2, :2], rtol=1e-12)
    np.testing.assert_allclose(run.statistics["@back"].similarity.cka, whole[1:, 1:], rtol=1e-12)


def test_checkpoints_have_a_matrix_each(tmp_path: Path) -> None:
    paths = files(tmp_path, [0, 1])
    alike = {**POOLED, "statistics": ["similarity"]}
    run = executed(tmp_path / "run", over(paths, alike, shard_size=7))
    found = run.statistics["@s0"].similarity
    assert found.cka.shape == (2, 3, 3)
    alone = executed(tmp_path / "alone", over(paths[1:], alike, shard_size=7))
    expected = alone.statistics["@s0"].similarity.cka[0]
    np.testing.assert_array_equal(found.cka[1], expected)
    at = run.at("step_1").statistics["@s0"]
    np.testing.assert_array_equal(at.similarity.cka, expected)
    assert at.tensors == tuple(POOLED["path"])
