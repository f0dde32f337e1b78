"""Runs as xarray Datasets: which samples have no values."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from extractkit.runs.reader import to_dataset
from tests.runs.diff_examples import made_run


def test_missing_samples_are_marked_along_the_axis_of_samples(tmp_path: Path) -> None:
    pytest.importorskip("xarray")
    values = [np.float32([n, np.nan]) for n in range(4)]
    tensors = {"x": values, "w": np.float32([1])}
    run = made_run(tmp_path / "run", tensors, shards=[2], missing={1: "no picture", 2: "none"})
    ids = [str(row["id"]) for row in run.samples]
    data = to_dataset(run.values(), ids, run.missing)
    assert data["missing"].dims == ("sample",)
    assert data["missing"].dtype == bool
    assert data["missing"].values.tolist() == [False, True, True, False]
    # So a value that is NaN can be distinguished from a missing one.
    assert data["x"].where(~data["missing"], drop=True)["sample"].values.tolist() == ["s0", "s3"]
    assert list(to_dataset([run["w"]], ids, run.missing).coords) == []


def test_without_missing_samples_there_is_no_such_coordinate(tmp_path: Path) -> None:
    pytest.importorskip("xarray")
    run = made_run(tmp_path / "run", {"x": [np.float32([1])]})
    assert list(to_dataset(run.values(), ["s0"], run.missing).coords) == ["sample"]


class View:
    """An array of a model that calls an axis of its own "checkpoint"."""

    key = "x"
    dims = ("sample", "checkpoint")
    shape = (2, 3)
    record = SimpleNamespace(address="x", name="x")

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        return np.zeros(self.shape)


def test_an_axis_of_that_name_alone_makes_no_run_over_checkpoints() -> None:
    pytest.importorskip("xarray")
    found = to_dataset([View()], ["a", "b"])  # type: ignore[list-item]
    assert set(found.coords) == {"sample"}
    assert found["x"].dims == ("sample", "checkpoint")
