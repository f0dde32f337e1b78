"""Runs of earlier schemas that this code is asked to resume, or to repeat."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import extractkit
from extractkit import cli
from extractkit.config import recorded
from extractkit.errors import RunDirectoryError
from tests.golden.test_runs import RUNS, bias, check, kernel

TRUST = ["linear"]


@pytest.fixture
def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The interrupted run of schema 3, with the files that its job names."""
    weights = {"kernel": np.float32(kernel(0)), "bias": np.float32(bias(0))}
    named = {f"sequential/hidden/{name}": value for name, value in weights.items()}
    save_file(named, tmp_path / "step_0.safetensors")
    monkeypatch.chdir(tmp_path)
    # Its paths count from the directory where it was made, which may exist on this machine.
    monkeypatch.setattr(recorded, "relocated", lambda entries, directory: entries)
    monkeypatch.syspath_prepend(str(RUNS.parent))
    return Path(shutil.copytree(RUNS / "schema-3" / "interrupted", tmp_path / "run"))


def test_a_run_from_before_batches_were_measured_says_why_it_is_not_resumed(
    interrupted: Path,
) -> None:
    before = {path: path.read_bytes() for path in interrupted.rglob("*") if path.is_file()}
    with pytest.raises(RunDirectoryError) as error:
        extractkit.resume(interrupted, trust=TRUST)
    assert str(error.value) == (
        f"{interrupted} cannot be resumed: an earlier extractkit wrote it, which did not measure "
        f"whether samples may share a batch, and this one may compute other last bits than those "
        f"of the shards that are committed. These stay readable: extractkit show {interrupted}. "
        f"To compute every sample anew: extractkit rerun {interrupted}"
    )
    after = {path: path.read_bytes() for path in interrupted.rglob("*") if path.is_file()}
    kept = [path for path in before if path.suffix != ".log"]
    assert [path for path in kept if after[path] != before[path]] == []


def test_the_advice_of_that_message_works(interrupted: Path) -> None:
    assert cli.execute(["show", str(interrupted)]) == 0
    again = extractkit.rerun(interrupted, run_dir=interrupted.parent / "again", trust=TRUST)
    check(again)


def test_other_weights_are_named_besides(interrupted: Path) -> None:
    weights = {"kernel": np.float32(kernel(1)), "bias": np.float32(bias(0))}
    named = {f"sequential/hidden/{name}": value for name, value in weights.items()}
    save_file(named, interrupted.parent / "step_0.safetensors")
    with pytest.raises(RunDirectoryError, match="Besides, the model's weights: 4e24d35f"):
        extractkit.resume(interrupted, trust=TRUST)
