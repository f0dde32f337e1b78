"""Views of a run's tensors: NumPy's own answers on the whole array are the oracle."""

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from extractkit.core.values import Array
from extractkit.runs.reader import Run, open_run
from extractkit.sinks import Extent
from extractkit.sinks.hdf5 import Hdf5Sink
from tests.runs.examples import (
    ATTENTION,
    HIDDEN,
    KERNEL,
    LENGTHS,
    POOLED,
    STEPS,
    Example,
    finished_run,
)

VARYING = (HIDDEN, ATTENTION, POOLED, STEPS)


@pytest.fixture(scope="module")
def run(example: Example) -> Run:
    """The example, opened."""
    return open_run(example.path)


@pytest.mark.parametrize("key", VARYING)
def test_shape_dtype_dims_and_contents(key: str, run: Run, example: Example) -> None:
    view, expected = run[key], example.padded(key)
    assert view.shape == expected.shape
    assert view.dtype == expected.dtype
    assert view.ndim == len(view.dims) == expected.ndim
    assert len(view) == 8
    array = np.asarray(view)
    assert array.dtype == expected.dtype
    np.testing.assert_array_equal(array, expected)


# Speed depends on the disk and on what else the machine does.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), key=st.sampled_from(VARYING))
def test_any_index_gives_what_numpy_gives(
    data: st.DataObject, key: str, run: Run, example: Example
) -> None:
    expected = example.padded(key)
    index = data.draw(
        hnp.basic_indices(expected.shape, allow_newaxis=True, allow_ellipsis=True)
        | hnp.integer_array_indices(expected.shape)
        | hnp.arrays(bool, 8)
        | hnp.arrays(bool, expected.shape)
        | st.lists(st.integers(-8, 7))
    )
    if isinstance(index, list):
        index = np.array(index, int)
    found = run[key][index]
    np.testing.assert_array_equal(found, expected[index])
    assert found.dtype == expected.dtype


@pytest.mark.parametrize(
    "index",
    [
        np.s_[3, :, [0, 1]],
        np.s_[[1, 5], :, 0],
        np.s_[[5, 1, 5]],
        np.s_[::-1],
        np.s_[6:0:-2, ..., 0],
        np.s_[()],
        np.s_[True],
        np.s_[[True, False] * 4, 0],
        np.s_[np.int64(3)],
        np.s_[[[0, 1], [7, -1]], [0, 1]],
        np.s_[None, 2],
        np.s_[4:4],
    ],
    ids=str,
)
@pytest.mark.parametrize("key", [HIDDEN, ATTENTION])
def test_indices_that_are_easily_got_wrong(
    index: Any, key: str, run: Run, example: Example
) -> None:
    np.testing.assert_array_equal(run[key][index], example.padded(key)[index])


@pytest.mark.parametrize("index", [8, -9, [0, 8], np.s_[0, 0, 0, 0, 0], 1.5, "a", [True] * 7])
def test_indices_that_numpy_refuses_are_refused(index: Any, run: Run) -> None:
    with pytest.raises(IndexError):
        run[HIDDEN][index]


def test_only_the_shards_needed_are_read(run: Run) -> None:
    original = Extent.read_into
    seen: list[tuple[str, int, int]] = []

    def read_into(self: Extent, array: Array, start: int) -> None:
        seen.append((self.path.stem, start, len(array)))
        original(self, array, start)

    before = sum(LENGTHS[5:7])
    with mock.patch.object(Extent, "read_into", read_into):
        run[HIDDEN][5:7, 0]
        run[HIDDEN].sample(-1)
        run[POOLED][[1, 3, 4]]
    assert seen == [
        ("000000005-000000008", 0, before),
        ("000000005-000000008", before, LENGTHS[7]),
        ("000000000-000000004", 1, 1),
        ("000000000-000000004", 3, 1),
        ("000000004-000000005", 0, 1),
    ]


def test_a_shard_is_looked_into_once_for_each_tensor(example: Example) -> None:
    run = open_run(example.path)
    with mock.patch.object(
        Hdf5Sink, "locate", autospec=True, side_effect=Hdf5Sink.locate
    ) as located:
        for key in (HIDDEN, POOLED):
            for _ in range(2):
                np.asarray(run[key])
                list(run[key])
    assert located.call_count == 2 * 3


def test_the_run_wide_length_is_found_without_reading_values_and_once(example: Example) -> None:
    view = open_run(example.path)[ATTENTION]
    with mock.patch.object(Extent, "read_into", side_effect=AssertionError("values were read")):
        assert view.shape == view.shape == (8, 2, 5, 5)


@pytest.mark.parametrize("key", VARYING)
def test_samples_come_without_padding(key: str, run: Run, example: Example) -> None:
    for index in range(-8, 8):
        found = run[key].sample(index)
        assert found.shape == example.samples[key][index].shape
        np.testing.assert_array_equal(found, example.samples[key][index])
    for found, expected in zip(run[key], example.samples[key], strict=True):
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(IndexError):
        run[key].sample(8)


def test_lengths_are_those_along_the_varying_axes(run: Run) -> None:
    assert run[HIDDEN].lengths[:, 0].tolist() == list(LENGTHS)
    assert run[ATTENTION].lengths.tolist() == [[n, n] for n in LENGTHS]
    assert run[POOLED].lengths.shape == (8, 0)


def test_padding_is_nan_for_floats_zero_for_integers_or_what_is_asked_for(run: Run) -> None:
    assert np.isnan(run[HIDDEN][2]).all()
    assert run[STEPS][2].tolist() == [0] * 5
    assert (run[STEPS].padded(fill=-1)[2] == -1).all()
    assert (run[HIDDEN].padded(fill=0)[2] == 0).all()


def test_a_constant_is_its_value(run: Run, example: Example) -> None:
    view = run[KERNEL]
    assert view.constant
    assert view.shape == (2, 3)
    assert view.dims == (None, None)
    np.testing.assert_array_equal(np.asarray(view), example.kernel)
    np.testing.assert_array_equal(view[1, ::2], example.kernel[1, ::2])
    assert [row.tolist() for row in view] == example.kernel.tolist()
    with pytest.raises(IndexError, match="is constant"):
        view.sample(0)


def test_numpys_array_protocol(run: Run) -> None:
    view = run[POOLED]
    assert np.asarray(view, dtype="float32").dtype == np.float32
    assert np.array(view, copy=True).shape == (8, 4)
    with pytest.raises(ValueError, match="always a copy"):
        np.asarray(view, copy=False)
    np.testing.assert_array_equal(np.mean(view, axis=0), np.asarray(view).mean(axis=0))


def test_a_view_shows_its_axes(run: Run) -> None:
    assert repr(run[ATTENTION]) == f"<TensorView {ATTENTION!r}: float16 (sample, 2, token, token)>"
    assert repr(run[KERNEL]) == f"<ConstantView {KERNEL!r}: float32 (2, 3)>"


def test_npz_runs_read_alike(run_path: Path) -> None:
    example = finished_run(run_path, ("npz",))
    run = open_run(run_path)
    for key in VARYING:
        np.testing.assert_array_equal(run[key][2:7], example.padded(key)[2:7])
