"""`verify`, `verify --recompute` and `rerun` of runs over several checkpoints."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from extractkit.core.checkpoints import AXIS
from extractkit.core.job import Job
from extractkit.core.shards import Position, Shard
from extractkit.engine import Silent
from extractkit.engine.execute import execute
from extractkit.engine.recompute import recompute
from extractkit.errors import RunDirectoryError
from extractkit.runs import JOURNAL, journal
from extractkit.runs import manifest as manifests
from extractkit.runs.checking import Check, Outcome, Verification
from extractkit.runs.checking.verification import verify
from tests.engine.checkpoint_examples import drawn, files, over, written
from tests.engine.examples import shard_files
from tests.engine.test_recompute import stored_otherwise


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three checkpoints and a finished run over them."""
    folder = tmp_path_factory.mktemp("verify")
    execute(given(folder), folder / "run", hydra_files={}, listener=Silent())
    return folder


@pytest.fixture
def copy(place: Path, tmp_path: Path) -> Path:
    """A copy of it; the run's checkpoints stay where they were."""
    return Path(shutil.copytree(place, tmp_path / "copy"))


def given(folder: Path) -> Job:
    paths = [f"{folder}/w/step_{n}.safetensors" for n in range(3)]
    if not Path(paths[0]).exists():
        files(folder / "w")
    return over(paths, shard_size=8, batch_size=4)


def check(found: Verification, name: str) -> Check:
    (one,) = (check for check in found.checks if check.name == name)
    return one


def again(path: Path, of: Job, shards: int = 12) -> Verification:
    return verify(path, recompute=lambda sound: recompute(of, sound, shards, 0))


def reported(found: Verification) -> str:
    return "\n".join(finding.message for finding in found.findings)


def test_a_run_as_it_was_written_is_sound(place: Path) -> None:
    found = verify(place / "run")
    assert not found.failed
    assert check(found, "journal").detail == "12 shards"
    assert check(found, "given files").detail == "3 paths"
    assert check(found, "values").detail == "78 tensors in 12 shards"  # 8 in 9, 2 in 3


def test_every_shard_comes_out_bit_for_bit(place: Path) -> None:
    found = again(place / "run", given(place))
    assert not found.failed
    assert check(found, "recomputed").detail == "12 of 12 shards, bit for bit"
    assert check(found, "outputs").outcome is Outcome.OK


@pytest.mark.parametrize("at", [0, 1, 2])
def test_one_number_of_one_checkpoint_that_is_another_is_found(at: int, copy: Path) -> None:
    shard = Shard(8, 16, (Position(AXIS, at),))
    stored_otherwise(copy / "run", shard, "pool:output", 1.0)
    found = again(copy / "run", given(copy))
    assert {finding.shard for finding in check(found, "recomputed").findings} == {shard.key}
    assert {finding.tensor for finding in check(found, "recomputed").findings} == {"pool:output"}


def test_the_constants_of_every_checkpoint_are_held_against_its_own_file(copy: Path) -> None:
    stored_otherwise(copy / "run", Shard(0, 0, (Position(AXIS, 2),)), "attention:kernel", 1.0)
    found = again(copy / "run", given(copy))
    (finding,) = check(found, "recomputed").findings
    assert finding.shard == Shard(0, 0, (Position(AXIS, 2),)).key


def test_shards_of_two_checkpoints_that_were_exchanged_are_found(copy: Path) -> None:
    """Both files are whole and both lines true to them: only the weights tell."""
    entries = journal.read(copy / "run" / JOURNAL).by_shard()
    one, other = Shard(0, 8, (Position(AXIS, 0),)), Shard(0, 8, (Position(AXIS, 1),))
    a, b = (entries[shard].files["npz"].name for shard in (one, other))
    content = [(copy / "run" / name).read_bytes() for name in (a, b)]
    for name, bytes_ in zip((b, a), content, strict=True):
        (copy / "run" / name).write_bytes(bytes_)
    entries[one], entries[other] = (
        replace(
            entries[shard],
            values=entries[source].values,
            stats=entries[source].stats,
            files={"npz": replace(entries[source].files["npz"], name=name)},
        )
        for shard, source, name in ((one, other, a), (other, one, b))
    )
    lines = [entry.to_line() for entry in entries.values()]
    (copy / "run" / JOURNAL).write_text("".join(f"{line}\n" for line in lines))
    assert {one.key, other.key} <= {
        finding.shard for finding in check(again(copy / "run", given(copy)), "recomputed").findings
    }


@pytest.mark.parametrize("harm", ["flip", "remove"])
def test_a_damaged_shard_or_drift_is_named(harm: str, copy: Path) -> None:
    for name in (f"shards/{Shard(8, 16, (Position(AXIS, 1),)).key}.npz", "drift.json"):
        path = copy / "run" / name
        if harm == "remove":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert {finding.file for finding in verify(copy / "run").findings} == {
        f"shards/{Shard(8, 16, (Position(AXIS, 1),)).key}.npz",
        "drift.json",
    }


def test_a_checkpoint_that_has_changed_or_is_gone_is_reported(copy: Path) -> None:
    recorded = manifests.read(copy / "run")
    moved = tuple(
        replace(one, path=one.path.replace(str(Path(one.path).parents[1]), str(copy)))
        for one in recorded.checkpoints
    )
    manifests.write(copy / "run", replace(recorded, checkpoints=moved))
    assert not verify(copy / "run").failed
    written(Path(moved[1].path), drawn(8))
    Path(moved[2].path).unlink()
    found = check(verify(copy / "run"), "given files")
    (finding,) = found.findings
    assert finding.message == (
        f"model.checkpoints={moved[1].path} has changed: its SHA-256 is not the recorded one"
    )
    assert found.notes == (f"model.checkpoints={moved[2].path} is gone, so it was not checked",)


def test_recomputing_with_another_content_is_another_job(copy: Path) -> None:
    written(copy / "w" / "step_1.safetensors", drawn(8))
    found = again(copy / "run", given(copy))
    assert check(found, "same job").outcome is Outcome.FAILED
    assert "checkpoint 'step_1': " in reported(found)
    assert check(found, "recomputed").outcome is not Outcome.OK


def test_a_rerun_repeats_the_run_and_refuses_other_weights(place: Path, copy: Path) -> None:
    run = place / "run"
    execute(
        given(copy), copy / "again", hydra_files={}, listener=Silent(), repeats=run
    )  # elsewhere, and the same
    assert shard_files(copy / "again") == shard_files(place / "run")
    written(copy / "w" / "step_2.safetensors", drawn(9))
    with pytest.raises(RunDirectoryError, match=r"cannot be repeated: checkpoint 'step_2': "):
        execute(given(copy), copy / "other", hydra_files={}, listener=Silent(), repeats=run)
    assert not (copy / "other").exists()
