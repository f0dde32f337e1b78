"""`model.checkpoints` as people give it: mistakes leave nothing, and what every verb tells."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import extractkit
from extractkit import cli
from extractkit.testing.reference import ReferenceModel
from tests.cli.called import Program, left_in
from tests.engine.checkpoint_examples import drawn, files

REFERENCE, AXIS = "model=reference", "model.checkpoints=my/w"
SKIP = "runtime.bad_checkpoints=skip"
LAYERS = ("model=reference", "selectors=layers", "run_dir=r")


@pytest.fixture
def weights(place: Path) -> Path:
    """A folder `w` with two good checkpoints, a damaged one and one of another model."""
    folder = place / "my" / "w"
    files(folder, (9, 10))
    (folder / "torn_1.safetensors").write_bytes(b"\x10")
    odd = {**drawn(0), "kernel": np.zeros((5, 4), np.float32)}
    save_file(odd, folder / "odd_1.safetensors")
    return folder


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([REFERENCE, f"+{AXIS}/*"], "2 of 4 checkpoints cannot be used, first 'odd_1': model.che"),
        ([REFERENCE, f"+{AXIS}/torn*", SKIP], "1 of 1 checkpoints cannot be used, first 'torn_1'"),
        ([REFERENCE, "+model.checkpoints=[my/w/step_9.safetensors,no.h5]"], "first 'no': model."),
        ([REFERENCE, f"+{AXIS}/*.h5"], "model.checkpoints='my/w/*.h5' matches nothing. In '"),
        ([REFERENCE, "runtime.bad_checkpoints=keep"], "runtime.bad_checkpoints='keep' does not e"),
        (["model=checkpoint", f"{AXIS}/*"], "2 of 4 checkpoints cannot be used, first 'odd_1': "),
    ],
)  # fmt: skip
def test_a_mistake_gets_one_message_and_leaves_nothing(
    program: Program, place: Path, weights: Path, arguments: list[str], said: str
) -> None:
    done = program(*arguments, "selectors=weights", "run_dir=r")
    assert (done.returncode, done.stdout) == (cli.MISTAKEN, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("extractkit: ") == 1
    assert left_in(place) == set()


def test_bad_ones_are_left_out_where_that_is_asked_for(
    program: Program, place: Path, weights: Path
) -> None:
    done = program(*LAYERS, "+model.checkpoints=my/w/*", SKIP)
    assert (done.returncode, done.stdout) == (cli.DONE, f"{place}/r\n")
    for label in ("odd_1", "torn_1"):
        assert f"checkpoint '{label}' is excluded: " in " ".join(done.stderr.split())
    run = extractkit.open(place / "r")
    assert run.checkpoints == ("step_9", "step_10")
    assert run["pool:output"].shape == (2, 48, 4)
    shown = " ".join(program("show", "r").stdout.split())
    assert "checkpoints 2: step_9, step_10" in shown
    assert "excluded odd_1: model.checkpoints=" in shown
    assert "moved last against first cosine CKA largest step to" in shown
    document = json.loads(program("show", "r", "--json").stdout)
    assert [one["label"] for one in document["checkpoints"]] == ["step_9", "step_10"]
    assert document["drift"]["checkpoints"] == ["step_9", "step_10"]
    assert [one["label"] for one in document["excluded"]] == ["odd_1", "torn_1"]


def test_plan_and_tensors_tell_of_checkpoints_and_leave_nothing(
    program: Program, place: Path, weights: Path
) -> None:
    given = ("model=reference", "+model.checkpoints=my/w/step_*")
    plan = json.loads(program("plan", *given, "selectors=layers", "--json").stdout)
    assert [one["label"] for one in plan["checkpoints"]] == ["step_9", "step_10"]
    # 48 texts of up to 64 characters: 4 bytes × 4 numbers × (2 × 64 tokens + 1 pooled).
    assert (plan["bytes"], plan["samples"]) == (2 * 48 * 16 * (2 * 64 + 1), 48)
    listed = json.loads(program("tensors", *given, "--json").stdout)["tensors"]
    assert [record["address"] for record in listed] == list(ReferenceModel().catalog)
    assert left_in(place) == set()


def test_relative_globs_are_found_again_by_resume_rerun_and_verify(
    program: Program, place: Path, weights: Path
) -> None:
    given = ("model=checkpoint", "model.checkpoints=my/w/step_*", "selectors=weights")
    done = program(*given, "model.checkpoint_step='step_(\\d+)'", "run_dir=r")
    assert (done.returncode, done.stdout) == (cli.DONE, f"{place}/r\n")
    run = extractkit.open(place / "r")
    assert [one.step for one in run.manifest.checkpoints] == [9, 10]
    expected = np.stack([drawn(seed)["kernel"] for seed in (9, 10)])
    np.testing.assert_array_equal(np.asarray(run[":kernel"]), expected, strict=True)
    again = program("rerun", "r", "run_dir=r2")
    assert again.returncode == cli.DONE, again.stderr
    assert (place / "r2/drift.json").read_bytes() == (place / "r/drift.json").read_bytes()
    checked = program("verify", "r", "--recompute", "9")
    assert checked.returncode == cli.DONE, checked.stdout
    shard = next((place / "r" / "shards").glob("checkpoint-000001-*"))
    content = shard.read_bytes()
    shard.unlink()
    assert program("verify", "r").returncode == cli.FAILED
    assert program("resume", "r").returncode == cli.DONE
    assert shard.read_bytes() == content
