"""What the command line advises when a run fails, typed as it is printed."""

import shlex
from pathlib import Path

import keras
import numpy as np
import pytest

import extractkit
from extractkit.advice import hydra_text
from tests.advised import Answer, ask

SIZES = (8, 9, 12)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A model that takes even lengths alone, and a sample of length 9 between others."""
    monkeypatch.chdir(tmp_path)
    given = keras.Input((None, 1))
    halves = keras.layers.UpSampling1D(2)(keras.layers.MaxPooling1D(2)(given))
    keras.Model(given, keras.layers.Add(name="sum")([given, halves])).save("even.keras")
    rows = [f'{{"x": {np.ones((size, 1)).tolist()}}}' for size in SIZES]
    Path("rows.jsonl").write_text("\n".join(rows))
    return [
        *("model=keras", "model.path=even.keras", "selectors=outputs", "inputs=texts"),
        *(
            "inputs.path=rows.jsonl",
            "inputs.columns={input: x}",
            "runtime.batch_size=1",
            "run_dir=a run",
        ),
    ]


def advised(answer: Answer) -> str:
    assert answer.code == 1, answer
    assert "Resume the run" not in answer.message
    (line,) = [one for one in answer.message.splitlines() if "resume would fail" in one]
    return line.partition("in another directory: ")[2]


def test_the_run_without_bad_samples_is_made_in_another_directory(job: list[str]) -> None:
    failed = ask(*job)
    assert "it has 9 along" in failed.message
    words = shlex.split(advised(failed))[1:]
    assert ask(*words).code == 0
    assert list(extractkit.open("a run-2").missing) == [1]


def test_the_advice_finds_the_users_configuration_and_leaves_a_sweep_alone(job: list[str]) -> None:
    experiment = Path("my/experiment/mine.yaml")
    experiment.parent.mkdir(parents=True)
    experiment.write_text("# @package _global_\ndefaults: [{override /selectors: outputs}]\n")
    given = [one for one in job if not one.startswith(("selectors=", "run_dir="))]
    failed = ask(*given, "experiment=mine", "--config-dir", "my", "-m", "run_dir=swept")
    there = Path("swept-0").absolute()
    words = shlex.split(advised(failed))[1:]
    assert words[-1] == f"run_dir={hydra_text(there)}"
    assert ask(*words).code == 0
    assert list(extractkit.open(there).missing) == [1]


def test_resume_advises_the_same_from_any_directory(
    job: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advised(ask(*job))
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    line = advised(ask("resume", str(tmp_path / "a run")))
    there, command = line.split(" && ")
    assert shlex.split(there) == ["cd", str(tmp_path)]
    assert shlex.split(command)[-2:] == [
        "runtime.bad_samples=skip", f'run_dir="{tmp_path}/a run-2"'
    ]  # fmt: skip


def test_a_sample_of_wrong_size_is_the_subject_where_it_is_the_first(job: list[str]) -> None:
    Path("rows.jsonl").write_text(f'{{"x": {np.ones((9, 1)).tolist()}}}')
    failed = ask(*job)
    assert "the first sample that was tried does not fit: it has 9 along" in failed.message
    # With nothing left, nothing is advised that could not help.
    skipping = ask(*shlex.split(advised(failed))[1:])
    assert skipping.code == 1
    assert "resume" not in skipping.message
    assert "bad_samples=skip" not in skipping.message
