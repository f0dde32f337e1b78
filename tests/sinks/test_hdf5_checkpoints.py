"""`tensors.h5` of a run over checkpoints, read with plain h5py."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from extractkit.core.checkpoints import AXIS
from extractkit.core.shards import Position, Shard
from tests.runs.trajectory_examples import CONSTANT, DIMS, LENGTHS, SHARDS, Trajectories, made

DENSE = ("dense:out", "count:out", "flag:out", "kernel", "rate")
RAGGED = ("hidden:out", "ids:out", "found:out", "map:out")


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Trajectories:
    return made(tmp_path_factory.mktemp("index") / "run")


@pytest.mark.parametrize("key", DENSE)
def test_a_dense_tensor_is_one_dataset_with_checkpoints_in_front(
    key: str, example: Trajectories
) -> None:
    expected = np.asarray(example.open()[key])
    np.testing.assert_array_equal(expected, example.padded(key))
    with h5py.File(example.path / "tensors.h5") as file:
        node = file[key]
        np.testing.assert_array_equal(node[()], expected, strict=True)
        labels = ["checkpoint", *(dim or "" for dim in DIMS[key])]
        assert node.attrs["dims"].tolist() == labels
        assert [dim.label for dim in node.dims] == labels


def test_texts_are_there(example: Trajectories) -> None:
    with h5py.File(example.path / "tensors.h5") as file:
        np.testing.assert_array_equal(file["word:out"][()], example.padded("word:out"))


@pytest.mark.parametrize("key", RAGGED)
def test_a_ragged_tensor_is_its_values_and_where_each_sample_begins(
    key: str, example: Trajectories
) -> None:
    with h5py.File(example.path / "tensors.h5") as file:
        values, offsets = file[f"{key}/values"], file[f"{key}/offsets"][()]
        assert (offsets.shape, offsets.dtype) == ((3, len(LENGTHS) + 1), np.int64)
        assert offsets[0, 0] == 0
        assert offsets[-1, -1] == len(values)
        assert (offsets[1:, 0] == offsets[:-1, -1]).all()
        assert ("shapes" in file[key]) == (key == "map:out")
        for at, series in enumerate(example.samples[key]):
            for number, expected in enumerate(series):
                rows = values[offsets[at, number] : offsets[at, number + 1]]
                if key == "map:out":
                    assert file[f"{key}/shapes"].shape == (3, len(LENGTHS), 2)
                    rows = rows.reshape(file[f"{key}/shapes"][at, number])
                np.testing.assert_array_equal(rows, expected, strict=True)


def test_what_has_no_nan_says_where_it_is_present(example: Trajectories) -> None:
    with h5py.File(example.path / "tensors.h5") as file:
        for key in ("count:out", "flag:out", "word:out"):
            present = file[f"{key}:present"]
            np.testing.assert_array_equal(present[()], np.ones((3, len(LENGTHS)), bool))
        assert "dense:out:present" not in file


def test_a_missing_shard_reads_as_nan_or_as_absent(example: Trajectories, tmp_path: Path) -> None:
    run = Path(shutil.copytree(example.path, tmp_path / "moved"))
    gone = SHARDS[0]
    (run / "shards" / f"{Shard(gone.start, gone.stop, (Position(AXIS, 1),)).key}.h5").unlink()
    (run / "shards" / f"{Shard(0, 0, (Position(AXIS, 2),)).key}.h5").unlink()
    with h5py.File(run / "tensors.h5") as file:
        expected = example.padded("dense:out")
        expected[1, gone.start : gone.stop] = np.nan
        np.testing.assert_array_equal(file["dense:out"][()], expected)
        for key in CONSTANT:
            expected = example.padded(key)
            expected[2] = np.nan
            np.testing.assert_array_equal(file[key][()], expected)
        present = file["count:out:present"][()]
        assert np.argwhere(~present).tolist() == [[1, at] for at in range(gone.start, gone.stop)]
        np.testing.assert_array_equal(
            file["count:out"][()][present], example.padded("count:out")[present]
        )
        offsets = file["hidden:out/offsets"][()]
        rows = file["hidden:out/values"][()]
        lost = slice(offsets[1, gone.start], offsets[1, gone.stop])
        assert np.argwhere(np.isnan(rows).all(axis=1)).ravel().tolist() == list(
            range(lost.start, lost.stop)
        )
        assert lost.start < lost.stop
