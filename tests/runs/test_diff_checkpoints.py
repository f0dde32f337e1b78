"""Runs over checkpoints compared: those of one label, or of one step, with each other."""

import io
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import extractkit
from extractkit import cli
from extractkit.display import render
from extractkit.display.checks import diff_overview
from extractkit.errors import RunDirectoryError
from extractkit.runs.comparing import diff
from extractkit.runs.comparing.result import Comparison, Verdict
from extractkit.runs.reader import Run
from extractkit.testing.reference import ReferenceModel
from tests.engine.checkpoint_examples import drawn, files, holding, over, written
from tests.engine.examples import EVERYTHING, TEXTS, executed, job

POOLED = {"path": ["pool:output", "attention:kernel"]}


def made(tmp_path: Path, seeds: dict[str, int], name: str, step: str | None = None) -> Run:
    """A run with a checkpoint of each label, with the weights of that seed."""
    paths = [
        written(tmp_path / name / "w" / f"{label}.safetensors", drawn(seed))
        for label, seed in seeds.items()
    ]
    model = partial(ReferenceModel, checkpoint_step=step)
    return executed(tmp_path / name / "run", over(paths, POOLED, model=model, shard_size=8))


def verdicts(found: Comparison) -> dict[tuple[str | None, str], Verdict]:
    return {(one.checkpoint, one.a): one.verdict for one in found.tensors}


def test_two_runs_of_one_job_are_equal_at_every_checkpoint(tmp_path: Path) -> None:
    one = made(tmp_path, {"s0": 0, "s1": 1}, "a")
    other = made(tmp_path, {"s0": 0, "s1": 1}, "b")
    found = diff(one, other)
    assert verdicts(found) == {
        (label, key): Verdict.EQUAL
        for label in ("s0", "s1")
        for key in ("pool:output", "attention:kernel")
    }
    assert not found.beyond


def test_where_one_checkpoint_differs_it_is_the_one_that_is_reported(tmp_path: Path) -> None:
    one = made(tmp_path, {"s0": 0, "s1": 1, "s2": 2}, "a")
    other = made(tmp_path, {"s0": 0, "s1": 7, "s2": 2}, "b")
    found = diff(one, other)
    apart = {key for key, verdict in verdicts(found).items() if verdict is not Verdict.EQUAL}
    assert apart == {("s1", "pool:output"), ("s1", "attention:kernel")}
    assert found.beyond
    (pooled,) = (t for t in found.tensors if (t.checkpoint, t.a) == ("s1", "pool:output"))
    assert pooled.errors is not None
    largest = np.abs(np.asarray(one["pool:output"])[1] - np.asarray(other["pool:output"])[1]).max()
    assert pooled.errors.max_abs == pytest.approx(largest, rel=1e-6)


def test_labels_decide_what_belongs_together_and_not_places(tmp_path: Path) -> None:
    one = made(tmp_path, {"s0": 0, "s1": 1, "s2": 2}, "a")
    other = made(tmp_path, {"s2": 2, "s9": 9, "s1": 1}, "b")
    found = diff(one, other)
    assert set(verdicts(found).values()) == {Verdict.EQUAL}
    assert [one.checkpoint for one in found.tensors] == ["s1", "s1", "s2", "s2"]
    assert (found.checkpoints_only_in_a, found.checkpoints_only_in_b) == (("s0",), ("s9",))
    assert found.beyond
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert document["checkpoints_only_in_a"] == ["s0"]
    assert document["tensors"][0]["checkpoint"] == "s1"


def test_checkpoints_of_other_labels_belong_together_by_their_steps(tmp_path: Path) -> None:
    step = r"_([0-9]+)\."
    one = made(tmp_path, {"x_5": 5, "x_10": 10, "both_7": 7}, "a", step)
    other = made(tmp_path, {"y_10": 10, "both_7": 7, "y_20": 20, "y_5": 6}, "b", step)
    found = diff(one, other)
    equal = {label for (label, _), one in verdicts(found).items() if one is Verdict.EQUAL}
    assert equal == {"x_10", "both_7"}
    assert {label for label, _ in verdicts(found)} == {"x_5", "both_7", "x_10"}
    assert (found.checkpoints_only_in_a, found.checkpoints_only_in_b) == ((), ("y_20",))
    pairs = {(one.checkpoint, one.checkpoint_b) for one in found.tensors}
    assert pairs == {("x_5", "y_5"), ("both_7", "both_7"), ("x_10", "y_10")}
    shown = render(diff_overview(found), io.StringIO())
    assert "x_10 = y_10: pool:output" in shown
    assert "both_7: pool:output" in shown


def test_runs_without_a_label_in_common_are_refused(tmp_path: Path) -> None:
    one, other = made(tmp_path, {"a": 0, "b": 1}, "a"), made(tmp_path, {"c": 0}, "b")
    with pytest.raises(RunDirectoryError) as caught:
        diff(one, other)
    assert str(caught.value) == (
        f"{one.path} and {other.path} have no checkpoint in common, neither a label nor a step: "
        f"the first ones are 'a' and 'c'. Compare two of them in Python: "
        f"extractkit.diff(a.at('a'), b.at('c'))"
    )
    assert not diff(one.at("a"), other.at("c")).beyond


@pytest.mark.parametrize("swapped", [False, True])
def test_a_run_without_checkpoints_is_refused_with_a_way_that_works(
    swapped: bool, tmp_path: Path
) -> None:
    several = made(tmp_path, {"s0": 0, "s1": 1}, "a")
    alone = executed(tmp_path / "alone", job(POOLED, model=holding(drawn(1)), shard_size=8))
    pair = (alone, several) if swapped else (several, alone)
    with pytest.raises(RunDirectoryError) as caught:
        diff(*pair)
    assert str(caught.value) == (
        f"{several.path} has 2 checkpoints, {alone.path} has none. Compare one of them in Python: "
        f"extractkit.diff(a.at('s0'), b)"
    )
    # That is what it says: in either place, and of two runs that both have an axis.
    assert extractkit.diff(several.at("s0"), alone).beyond
    found = extractkit.diff(several.at("s1"), alone)
    assert verdicts(found) == {
        (None, key): Verdict.EQUAL for key in ("pool:output", "attention:kernel")
    }
    assert not extractkit.diff(several.at("s1"), several.at("s1")).beyond
    assert extractkit.diff(several.at("s0"), several.at("s1")).beyond


def test_samples_missing_at_one_checkpoint_are_compared_nowhere(tmp_path: Path) -> None:
    weights = drawn(1)
    weights["embeddings"][ord("z") % 50] = np.nan
    paths = [*files(tmp_path / "w", [0]), written(tmp_path / "w" / "bad.safetensors", weights)]
    only = {"path": "pool:output"}
    runs = [
        executed(tmp_path / name, over(paths, only, inputs=("ab", "z", "c"), non_finite="skip"))
        for name in "ab"
    ]
    found = diff(*runs)
    assert not found.beyond
    assert (found.samples.compared, found.samples.missing) == (2, 1)


def test_the_command_tells_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = made(tmp_path, {"s0": 0, "s1": 1}, "a")
    other = made(tmp_path, {"s0": 0, "s1": 7, "s2": 2}, "b")
    assert cli.execute(["diff", str(one.path), str(other.path)]) == cli.FAILED
    reported = capsys.readouterr().out
    assert "1 checkpoint only in B: s2\n" in reported
    assert (
        "4 tensors compared: 2 bitwise equal, 2 beyond it; the first beyond: s1: pool:output\n"
        in reported
    )
    assert cli.execute(["diff", str(one.path), str(one.path)]) == cli.DONE


def test_everything_of_a_job_can_be_compared(tmp_path: Path) -> None:
    paths = files(tmp_path / "w", range(2))
    run = executed(tmp_path / "run", over(paths, EVERYTHING, inputs=TEXTS[:4]))
    assert not diff(run, run).beyond
    assert len(diff(run, run).tensors) == 2 * len(run)
