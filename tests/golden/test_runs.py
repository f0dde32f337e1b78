"""Whole runs, as the code of each schema wrote them, hold what NumPy computes by hand.

`make_runs.py` made them. No TensorFlow is needed to read any of them.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from extractkit import cli
from extractkit.runs.checking.verification import verify
from extractkit.runs.comparing import diff
from extractkit.runs.manifest import SCHEMA, Status
from extractkit.runs.reader import Run, open_run
from extractkit.runs.sweeps.reader import open_sweep

RUNS = Path(__file__).parent / "runs"
FOLDERS = sorted(path.name for path in RUNS.iterdir())
"""One for each schema, and for the first form of those that changed under their number."""

LENGTHS = (2, 1, 3, 1, 2)
STEPS = (0, 10, 20)


def runs(*names: str) -> pytest.MarkDecorator:
    """Parametrise a test over the stored runs of these names (none: over all of them)."""
    found = sorted(path.parent for path in RUNS.rglob("manifest.json"))
    chosen = [run for run in found if not names or run.name in names]
    return pytest.mark.parametrize("run", chosen, ids=lambda run: str(run.relative_to(RUNS)))


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
    assert {f"schema-{older}" for older in range(1, SCHEMA)} <= set(FOLDERS)


@runs("finished")
def test_a_finished_run(run: Path) -> None:
    found = open_run(run)
    assert found.status is Status.FINISHED
    assert list(found.manifest.sinks) == ["hdf5", "npz"]
    assert found.manifest.model_name == "keras"
    check(found)


@runs("finished")
def test_the_second_sink_holds_the_same(run: Path) -> None:
    for start, stop in [(0, 2), (2, 4), (4, 5)]:
        with np.load(run / "shards" / f"{start:09}-{stop:09}.npz") as shard:
            rows = np.concatenate([hidden(number) for number in range(start, stop)])
            np.testing.assert_array_equal(shard["%3Aoutput+values"], rows)


@runs("interrupted")
def test_an_interrupted_run_has_its_committed_samples(run: Path) -> None:
    found = open_run(run)
    assert found.status is Status.INTERRUPTED
    assert [entry.shard for entry in found.journal.entries] == ["constants", "000000000-000000002"]
    check(found, samples=(0, 1))


@runs("trajectory")
def test_a_trajectory_over_checkpoints(run: Path) -> None:
    found = open_run(run)
    assert found.checkpoints == ("step_0", "step_10", "step_20")
    for step in STEPS:
        check(found.at(f"step_{step}"), step=step)


@runs("trajectory")
def test_its_drift(run: Path) -> None:
    drift = open_run(run).drift
    assert drift is not None
    first = np.array(kernel(0), np.float64)
    moved = [np.linalg.norm(np.array(kernel(step)) - first) for step in STEPS]
    found = drift.tensors["hidden:kernel"].from_first.relative_norm
    np.testing.assert_allclose(found, np.array(moved) / np.linalg.norm(first), rtol=1e-12)


@runs("statistics")
def test_statistics_and_transforms(run: Path) -> None:
    found = open_run(run)
    rows = [hidden(number) for number in range(5)]
    spread = found.statistics["hidden:output@spread"]
    every = np.concatenate(rows)
    np.testing.assert_allclose(spread.moments.mean, every.mean(axis=0), rtol=1e-15)
    np.testing.assert_allclose(spread.moments.variance, every.var(axis=0), rtol=1e-15)
    np.testing.assert_array_equal(spread.top.values, np.sort(every, axis=0)[:-3:-1].T)
    np.testing.assert_array_equal(np.asarray(found["hidden:kernel"]), np.abs(kernel(0)))
    for number, row in enumerate(rows):
        last = found["hidden:output@last"].sample(number)
        assert last.dtype == "float16"
        np.testing.assert_array_equal(last, row[-1:])
        ends = np.stack([row[-2:].min(axis=0), row[-2:].max(axis=0)], axis=-1)
        np.testing.assert_array_equal(found[":output@pieces"].sample(number), ends)
        largest, at = found[":output@largest"], found[":output@largest@indices"]
        np.testing.assert_array_equal(largest.sample(number), -np.sort(-row, axis=1)[:, :2])
        np.testing.assert_array_equal(at.sample(number), np.argsort(-row, axis=1)[:, :2])


@runs("gradients")
def test_gradients(run: Path) -> None:
    found = open_run(run)
    weights = np.array(kernel(0))
    for number, rows in enumerate(LENGTHS):
        slope = np.zeros((rows, 2))
        slope[-1] += weights[:, 2]
        slope[0] -= weights[:, 1]
        np.testing.assert_array_equal(found[":input@grad"].sample(number), slope)
        values = hidden(number)
        row, column = np.unravel_index(np.argmax(values), values.shape)
        chosen = np.zeros((2, 3))
        chosen[:, column] = 2 * row - 3 * rows + np.arange(2)
        np.testing.assert_array_equal(found["hidden:kernel@grad"].sample(number), chosen)


@runs("statistics")
def test_the_transforms_of_older_runs_are_those_of_their_selectors(run: Path) -> None:
    tensors = {one.key: (one.transforms, one.result) for one in open_run(run).manifest.tensors}
    largest = ({"topk": {"axis": 2, "k": 2}},)
    assert tensors == {
        ":output@pieces": (({"slice": {"1": "-2:"}}, {"quantile": {"q": [0, 1], "axis": 1}}), ""),
        ":output@largest": (largest, ""),
        ":output@largest@indices": (largest, "indices"),
        "hidden:kernel": (("abs",), ""),
        "hidden:output@last": (({"slice": {"1": "-1:"}}, {"cast": "float16"}), ""),
    }


@runs("joined", "missing")
def test_a_run_with_a_sample_that_has_no_values(run: Path) -> None:
    found = open_run(run)
    assert found.status is Status.FINISHED
    assert list(found.missing) == [3]
    (row,) = [row for row in found.samples if "missing" in row]
    assert row["missing"] == found.missing[3]
    assert "skipped" not in row
    check(found, samples=(0, 1, 2, 4))


@runs("joined")
def test_the_former_word_names_those_that_replace_it(run: Path) -> None:
    found = open_run(run)
    with pytest.raises(AttributeError) as error:
        _ = found.skipped
    for name in ("missing", "manifest.unextractable", "manifest.excluded"):
        assert f"run.{name} " in str(error.value)


@pytest.mark.parametrize("folder", [name for name in FOLDERS if (RUNS / name / "sweep").exists()])
def test_a_sweep(folder: str) -> None:
    sweep = open_sweep(RUNS / folder / "sweep")
    assert sweep.keys == ("model.checkpoint",)
    for number, step in enumerate((0, 20)):
        check(open_run(RUNS / folder / "sweep" / str(number)), step=step)


@runs()
def test_every_file_is_as_it_was_recorded(run: Path) -> None:
    found = verify(run)
    assert [finding.message for finding in found.findings] == []


@runs("finished", "joined", "missing", "trajectory")
def test_a_run_equals_itself(run: Path) -> None:
    found = diff(run, run)
    assert not found.beyond
    assert {one.verdict.value for one in found.tensors} == {"equal"}


@runs("finished")
def test_a_run_equals_those_of_the_same_job_in_other_schemas(run: Path) -> None:
    for folder in FOLDERS:
        found = diff(RUNS / folder / "finished", run)
        assert not found.beyond
        assert {one.verdict.value for one in found.tensors} == {"equal"}


@runs("1")
def test_a_run_of_other_weights_is_distinguished(run: Path) -> None:
    found = diff(run.parent / "0", run)
    apart = {one.a for one in found.tensors if one.verdict.value == "beyond"}
    assert apart == {":output", "hidden:kernel", "hidden:bias", "hidden:output"}


@runs()
def test_it_is_shown(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.execute(["show", str(run)]) == 0
    assert "hidden:kernel" in capsys.readouterr().out
    assert cli.execute(["show", str(run), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    # Whatever wrote the run, the document is that of today.
    assert document["schema"] == SCHEMA
    # Values versions are counted since schema 6.
    written = json.loads((run / "manifest.json").read_bytes())
    counted = {6: 1, 7: 1, 8: 2, 9: 3, 10: 7, 11: 7, 12: 7, 13: 9}
    assert document["values_version"] == counted.get(written["schema"], 0)
