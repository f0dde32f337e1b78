"""Whole runs, as the code of each schema wrote them, hold what NumPy computes by hand.

`make_runs.py` made them. No TensorFlow is needed to read any of them.
"""

from pathlib import Path

import numpy as np
import pytest

from extractkit.runs.manifest import SCHEMA, Status
from extractkit.runs.reader import Run, open_run
from extractkit.runs.sweeps.reader import open_sweep
from extractkit.runs.verify import verify

RUNS = Path(__file__).parent / "runs"
VERSIONS = sorted(int(path.name.removeprefix("schema-")) for path in RUNS.iterdir())
LENGTHS = (2, 1, 3, 1, 2)
STEPS = (0, 10, 20)


@pytest.fixture(params=VERSIONS)
def stored(request: pytest.FixtureRequest) -> Path:
    """The folder of one schema's runs."""
    return RUNS / f"schema-{request.param}"


def kernel(step: int) -> list[list[int]]:
    return [[3 * row + column - 2 + step for column in range(3)] for row in range(2)]


def bias(step: int) -> list[int]:
    return [1, -1, step]


def hidden(number: int, step: int = 0) -> np.ndarray:
    """What the linear map makes of one sample, in whole numbers."""
    first = -3 * LENGTHS[number]
    rows = [(first + 2 * row, first + 2 * row + 1) for row in range(LENGTHS[number])]
    weights, offset = kernel(step), bias(step)
    return np.array(
        [[a * weights[0][c] + b * weights[1][c] + offset[c] for c in range(3)] for a, b in rows]
    )


def check(run: Run, *, step: int = 0, samples: tuple[int, ...] = (0, 1, 2, 3, 4)) -> None:
    """Hold every stored tensor against the values computed here."""
    assert set(run) == {":output", "hidden:kernel", "hidden:bias", "hidden:output"}
    np.testing.assert_array_equal(np.asarray(run["hidden:kernel"]), kernel(step))
    np.testing.assert_array_equal(np.asarray(run["hidden:bias"]), bias(step))
    for number in samples:
        expected = hidden(number, step)
        np.testing.assert_array_equal(run[":output"].sample(number), expected)
        np.testing.assert_array_equal(run["hidden:output"].sample(number), expected.sum(axis=0))


def test_every_older_schema_has_its_runs() -> None:
    """Those of the current one are made when it is raised, as the last thing that its code does."""
    assert set(range(3, SCHEMA)) <= set(VERSIONS)


def test_a_finished_run(stored: Path) -> None:
    run = open_run(stored / "finished")
    assert run.status is Status.FINISHED
    assert list(run.manifest.sinks) == ["hdf5", "npz"]
    check(run)


def test_the_second_sink_holds_the_same(stored: Path) -> None:
    for start, stop in [(0, 2), (2, 4), (4, 5)]:
        with np.load(stored / "finished" / "shards" / f"{start:09}-{stop:09}.npz") as shard:
            rows = np.concatenate([hidden(number) for number in range(start, stop)])
            np.testing.assert_array_equal(shard["%3Aoutput+values"], rows)


def test_an_interrupted_run_has_its_committed_samples(stored: Path) -> None:
    run = open_run(stored / "interrupted")
    assert run.status is Status.INTERRUPTED
    assert [entry.shard for entry in run.journal.entries] == ["constants", "000000000-000000002"]
    check(run, samples=(0, 1))


def test_a_trajectory_over_checkpoints(stored: Path) -> None:
    run = open_run(stored / "trajectory")
    assert run.checkpoints == ("step_0", "step_10", "step_20")
    for step in STEPS:
        check(run.at(f"step_{step}"), step=step)


def test_its_drift(stored: Path) -> None:
    drift = open_run(stored / "trajectory").drift
    assert drift is not None
    first = np.array(kernel(0), np.float64)
    moved = [np.linalg.norm(np.array(kernel(step)) - first) for step in STEPS]
    found = drift.tensors["hidden:kernel"].from_first.relative_norm
    np.testing.assert_allclose(found, np.array(moved) / np.linalg.norm(first), rtol=1e-12)


def test_a_run_joined_from_parts_with_a_sample_left_out(stored: Path) -> None:
    run = open_run(stored / "joined")
    assert run.status is Status.FINISHED
    assert list(run.skipped) == [3]
    check(run, samples=(0, 1, 2, 4))


def test_a_sweep(stored: Path) -> None:
    sweep = open_sweep(stored / "sweep")
    assert sweep.keys == ("model.checkpoint",)
    for number, step in enumerate((0, 20)):
        check(open_run(stored / "sweep" / str(number)), step=step)


@pytest.mark.parametrize("name", ["finished", "trajectory", "joined"])
def test_every_file_is_as_it_was_recorded(stored: Path, name: str) -> None:
    assert verify(stored / name).failed is False
