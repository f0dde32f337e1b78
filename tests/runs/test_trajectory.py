"""Views over checkpoints, held against NumPy."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import basic_indices

from extractkit.errors import RunDirectoryError, UnknownTensorError
from extractkit.runs.reader import Run, open_run
from extractkit.runs.trajectory import TrajectoryView
from tests.runs.trajectory_examples import (
    CONSTANT,
    DIMS,
    LABELS,
    LENGTHS,
    SHARDS,
    Trajectories,
    made,
    of_checkpoint,
)

KEYS = tuple(DIMS)
VARYING = tuple(key for key in KEYS if key not in CONSTANT)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Trajectories:
    return made(tmp_path_factory.mktemp("trajectory") / "run")


@pytest.fixture(scope="module")
def run(example: Trajectories) -> Run:
    return example.open()


def view_of(run: Run, key: str) -> TrajectoryView:
    view = run[key]
    assert isinstance(view, TrajectoryView)
    return view


def same(found: object, expected: np.ndarray) -> None:
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, expected, strict=True)


@pytest.mark.parametrize("key", KEYS)
def test_shape_dims_and_values_are_those_of_the_stacked_checkpoints(
    key: str, example: Trajectories, run: Run
) -> None:
    view, expected = view_of(run, key), example.padded(key)
    assert (view.shape, view.dtype, len(view)) == (expected.shape, expected.dtype, 3)
    assert view.dims == ("checkpoint", *DIMS[key])
    same(np.asarray(view), expected)
    same(view.padded(), expected)
    for found, one in zip(view, expected, strict=True):
        same(found, np.asarray(one, expected.dtype))


@pytest.mark.parametrize("key", ["dense:out", "hidden:out", "found:out", "kernel"])
def test_it_can_be_read_as_another_type(key: str, example: Trajectories, run: Run) -> None:
    same(np.asarray(view_of(run, key), np.float64), example.padded(key).astype(np.float64))


@pytest.mark.parametrize(("key", "fill"), [("hidden:out", 7.5), ("found:out", 0), ("ids:out", -1)])
def test_what_is_beyond_an_end_may_be_chosen(
    key: str, fill: float, example: Trajectories, run: Run
) -> None:
    same(view_of(run, key).padded(fill), example.padded(key, fill))


def test_a_view_says_what_it_is(run: Run) -> None:
    assert repr(run["hidden:out"]) == (
        "<TrajectoryView 'hidden:out': float32 (checkpoint, sample, token, 2)>"
    )
    assert repr(run["kernel"]) == "<TrajectoryView 'kernel': float32 (checkpoint, 2, 3)>"
    assert repr(run["rate"]) == "<TrajectoryView 'rate': float64 (checkpoint)>"


@given(st.data())
def test_basic_indices_are_numpys(example: Trajectories, run: Run, data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(KEYS))
    expected = example.padded(key)
    index = data.draw(basic_indices(expected.shape, allow_newaxis=True))
    found, wanted = view_of(run, key)[index], np.asarray(expected[index], expected.dtype)
    np.testing.assert_array_equal(found, wanted, err_msg=f"{key}[{index}]", strict=True)


def advanced(size: int) -> st.SearchStrategy[object]:
    """One index of an axis: a number, a slice, some numbers, or a choice."""
    numbers = st.integers(-size, size - 1) if size else st.nothing()
    return st.one_of(
        numbers,
        st.slices(size),
        st.lists(numbers, min_size=2, max_size=2),
        st.lists(st.booleans(), min_size=size, max_size=size).map(np.array)
        if size
        else st.nothing(),
    )


@given(st.data())
def test_any_indices_are_numpys(example: Trajectories, run: Run, data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(KEYS))
    expected = example.padded(key)
    count = data.draw(st.integers(1, expected.ndim))
    index: tuple[object, ...] = tuple(data.draw(advanced(size)) for size in expected.shape[:count])
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, count))
        index = (*index[:at], ..., *index[at:])
    only = index[0] if len(index) == 1 else index
    try:
        wanted = np.asarray(expected[only], expected.dtype)  # type: ignore[index]
    except IndexError:  # numbers and choices that do not go together
        with pytest.raises(IndexError):
            view_of(run, key)[only]
        return
    np.testing.assert_array_equal(
        view_of(run, key)[only], wanted, err_msg=f"{key}[{only}]", strict=True
    )


SPECIAL: list[object] = [
    True, False, None, ..., (), np.True_, np.int64(1), np.array(2), (None, 1), ([], slice(None)),
    (slice(None), None), (1, ..., None), np.zeros((3, 5), bool), (0, np.ones((5, 3), bool)),
    (slice(None), [0, 1], slice(None), None), (0, slice(None), [0, 1]), (slice(5, 2), [0, 1]),
    (slice(None, None, -1), 0, [True, False, True]), (np.array([[0, 1], [2, 0]]), 1),
]  # fmt: skip


@pytest.mark.parametrize("index", SPECIAL, ids=lambda index: repr(index))
def test_rare_indices_are_numpys(index: object, example: Trajectories, run: Run) -> None:
    expected = example.padded("dense:out")
    same(view_of(run, "dense:out")[index], np.asarray(expected[index], expected.dtype))  # type: ignore[index]


@pytest.mark.parametrize(
    "index", [3, -4, (0, 5), (0, 0, 0, 0), (slice(None), 9), "a", 1.0, (0, ..., ...)]
)
def test_wrong_indices_are_index_errors(index: object, run: Run) -> None:
    expected = np.zeros((3, 5, 3), np.float32)
    with pytest.raises(IndexError):
        expected[index]  # type: ignore[index]
    with pytest.raises(IndexError):
        view_of(run, "dense:out")[index]


@pytest.mark.parametrize("key", VARYING)
@pytest.mark.parametrize("number", [0, 1, 4, -1])
def test_a_sample_is_padded_no_further_than_its_checkpoints_need(
    key: str, number: int, example: Trajectories, run: Run
) -> None:
    own = [series[number] for series in example.samples[key]]
    found = view_of(run, key).sample(number)
    sizes = np.max([value.shape for value in own], axis=0, initial=0).astype(int)
    assert found.shape == (3, *sizes)
    for at, value in enumerate(own):
        same(found[(at, *map(slice, value.shape), ...)], value)
    if all(value.shape == own[0].shape for value in own):
        same(found, np.stack(own))


def test_there_is_no_sample_beyond_the_last_and_none_of_a_constant(run: Run) -> None:
    with pytest.raises(IndexError):
        view_of(run, "dense:out").sample(5)
    with pytest.raises(IndexError, match="it has no samples"):
        view_of(run, "kernel").sample(0)


@pytest.mark.parametrize("key", ["hidden:out", "found:out", "map:out", "ids:out"])
def test_lengths_are_reported_for_every_checkpoint(
    key: str, example: Trajectories, run: Run
) -> None:
    axes = [at for at, size in enumerate(DIMS[key][1:]) if size]
    expected = [
        [[value.shape[axis] for axis in axes] for value in own] for own in example.samples[key]
    ]
    assert view_of(run, key).lengths.tolist() == expected
    if key == "found:out":
        assert len({str(one) for one in expected}) == 3


def test_shards_of_one_checkpoint_are_no_values_of_all(run: Run) -> None:
    """Asked of the whole, they would be those of the first checkpoint, without a word."""
    with pytest.raises(TypeError, match=r"at\(checkpoint\)\.by_shard"):
        list(view_of(run, "dense:out").by_shard())


# ---- one checkpoint


@pytest.mark.parametrize("key", KEYS)
def test_at_a_label_it_is_a_view_without_the_axis(
    key: str, example: Trajectories, run: Run
) -> None:
    for at, label in enumerate(LABELS):
        for view in (view_of(run, key).at(label), run.at(label)[key], view_of(run, key).each[at]):
            assert view.dims == DIMS[key]
            if key in CONSTANT:
                same(np.asarray(view), example.constants[key][at])
            else:
                for found, expected in zip(view, example.samples[key][at], strict=True):
                    same(found, expected)


def test_the_run_of_one_checkpoint_is_a_run_without_the_axis(run: Run) -> None:
    one = run.at("middle")
    assert (list(one), one.checkpoints, one.samples[0]) == (list(run), (), run.samples[0])
    assert repr(one).endswith("finished, 10 tensors, 5 samples, checkpoint 'middle'>")
    assert repr(run).endswith("finished, 10 tensors, 5 samples, 3 checkpoints>")
    with pytest.raises(UnknownTensorError, match="'end' is not a checkpoint of "):
        one.at("end")


def test_a_step_is_as_good_as_a_label(tmp_path: Path) -> None:
    example = made(tmp_path / "run", steps=True)
    run = example.open()
    for key in ("dense:out", "kernel"):
        same(np.asarray(run.at(20)[key]), np.asarray(run.at("end")[key]))
        same(np.asarray(view_of(run, key).at(20)), np.asarray(run[key])[2])


def test_a_step_that_does_not_exist_is_reported_with_those_that_do(tmp_path: Path) -> None:
    run = made(tmp_path / "run", steps=True).open()
    with pytest.raises(UnknownTensorError) as caught:
        run.at(15)
    assert str(caught.value) == (
        f"15 is not the step of a checkpoint of {run.path}. Steps: 0, 10, 20"
    )


@pytest.mark.parametrize("wrong", ["strat", 0, 7, None])
def test_one_that_does_not_exist_is_named_with_those_that_do(wrong: object, run: Run) -> None:
    for ask, of in ((run.at, str(run.path)), (view_of(run, "kernel").at, "'kernel'")):
        with pytest.raises(UnknownTensorError) as caught:
            ask(wrong)  # type: ignore[operator]
        assert str(caught.value).startswith(f"{wrong!r} is not a checkpoint of {of}. ")
        assert "'start'" in str(caught.value)


# ---- damage


def test_a_damaged_shard_is_an_error_of_its_checkpoint_alone(tmp_path: Path) -> None:
    example = made(tmp_path / "run")
    (example.path / "shards" / f"{of_checkpoint(SHARDS[1], 1).key}.h5").write_bytes(b"x")
    view = view_of(open_run(example.path), "dense:out")
    same(view[0], example.padded("dense:out")[0])
    same(view[2, 1:4], example.padded("dense:out")[2, 1:4])
    same(view[1, :2], example.padded("dense:out")[1, :2])
    for read in (lambda: view[1], lambda: view[:, 2], lambda: np.asarray(view)):
        with pytest.raises(RunDirectoryError, match=r"checkpoint-000001-000000002-000000003\.h5"):
            read()


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    example = made(tmp_path / "run")
    for at in (0, 2):
        for shard in SHARDS:
            (example.path / "shards" / f"{of_checkpoint(shard, at).key}.h5").unlink()
    expected = example.padded("dense:out")
    view = view_of(open_run(example.path), "dense:out")
    for index in (1, -2, (1, 3), (slice(1, 2), [0, 4]), (1, ..., 2), ([1, 1], 2), [-2]):
        same(view[index], np.asarray(expected[index], expected.dtype))


# ---- xarray


@pytest.fixture(params=[True, False])
def steps(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_xarray_has_steps_as_numbers_or_labels(steps: bool, tmp_path: Path) -> None:
    pytest.importorskip("xarray")
    example = made(tmp_path / "run", steps=steps)
    found = example.open().to_xarray()
    assert found.coords["checkpoint"].values.tolist() == ([0, 10, 20] if steps else list(LABELS))
    assert found.coords["sample"].values.tolist() == [f"s{n}" for n in range(len(LENGTHS))]
    for key in KEYS:
        same(found[key].values, example.padded(key))
        assert found[key].dims[0] == "checkpoint"
    assert found["map:out"].dims == ("checkpoint", "sample", "token", "token_1")
    assert found["found:out"].dims[2] == "f(token)"
    chosen = 10 if steps else "middle"
    same(found["dense:out"].sel(checkpoint=chosen).values, example.padded("dense:out")[1])


def test_one_checkpoint_as_xarray_has_no_such_axis(tmp_path: Path) -> None:
    pytest.importorskip("xarray")
    example = made(tmp_path / "run")
    found = example.open().at("end").to_xarray("dense:out", "kernel")
    assert set(found.coords) == {"sample"}
    same(found["dense:out"].values, example.padded("dense:out")[2])
