"""Reading a run back."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Hashable
from pathlib import Path

import numpy as np
import pytest

from extractkit.core.shards import CONSTANTS_SHARD
from extractkit.core.spec import unique_dims
from extractkit.core.values import Dense
from extractkit.errors import ConfigError, MissingExtraError, RunDirectoryError, SelectionError
from extractkit.runs import manifest as manifests
from extractkit.runs.manifest import RunPlan, Status
from extractkit.runs.reader import Run, open_run
from extractkit.runs.recorder import Recorder
from extractkit.runs.schema import canonical
from extractkit.runs.shards import ShardValues
from extractkit.sinks.hdf5 import Hdf5Sink
from tests.runs.examples import (
    ATTENTION,
    HIDDEN,
    KERNEL,
    LENGTHS,
    POOLED,
    SHARDS,
    STEPS,
    TENSORS,
    Example,
    finished_run,
    manifest,
    record,
    run_tensor,
)


@pytest.fixture
def run(example: Example) -> Run:
    """The example, opened."""
    return open_run(example.path)


@pytest.fixture
def copied(example: Example, tmp_path: Path) -> Path:
    """A copy of the example, to be damaged."""
    return Path(shutil.copytree(example.path, tmp_path / "copy"))


def edit_manifest(path: Path, **changes: object) -> None:
    file = path / "manifest.json"
    data = json.loads(file.read_text())
    del data["checksum"]
    file.write_bytes(manifests.with_checksum({**data, **changes}))


def test_a_run_is_a_mapping_in_the_manifests_order(run: Run) -> None:
    assert list(run) == [HIDDEN, ATTENTION, POOLED, STEPS, KERNEL]
    assert len(run) == 5
    assert run.status is Status.FINISHED
    assert "5 tensors, 8 samples" in repr(run)


def test_samples_are_rows(run: Run) -> None:
    assert run.samples[2] == {"index": 2, "id": "text-2", "length": 0}
    assert len(run.samples) == 8


def test_a_tensor_is_found_by_its_name_too(run: Run) -> None:
    assert run["my_encoder:output"] is run[HIDDEN]
    assert "my_encoder:output" in run


def test_an_unknown_tensor_is_an_error_of_both_kinds_that_names_the_nearest(run: Run) -> None:
    with pytest.raises(KeyError) as caught:
        run["encoder:outputs"]
    assert isinstance(caught.value, SelectionError)
    assert str(caught.value).startswith("'encoder:outputs' is not a tensor of")
    assert repr(HIDDEN) in str(caught.value)
    assert run.get("nothing") is None
    assert "nothing" not in run


def test_an_address_stored_twice_must_be_asked_for_by_its_key(copied: Path) -> None:
    twice = [
        run_tensor(f"{POOLED}@{name}", "float64", ("sample", None), (4,), "Dense") for name in "ab"
    ]
    edit_manifest(copied, tensors=json.loads(canonical(twice)))
    with pytest.raises(KeyError, match="stored as 'pooler:output@a' and 'pooler:output@b'"):
        open_run(copied)[POOLED]


def test_selectors_work_on_a_run_as_in_configuration(run: Run) -> None:
    assert list(run.select(inside="SelfAtt*")) == [ATTENTION]
    assert list(run.select(op_type="Softmax", dtype="float16")) == [ATTENTION]
    assert list(run.select(kind="weight")) == [KERNEL]
    assert list(run.select(**{"not": {"path": "encoder*"}})) == [POOLED, STEPS]
    with pytest.raises(SelectionError, match=r"select\(path='encodr\*'\) matched 0 of 5 tensors"):
        run.select(path="encodr*")
    with pytest.raises(ConfigError, match="pth does not exist"):
        run.select(pth="x")


@pytest.mark.parametrize("sinks", [("npz",), ("npz", "hdf5")])
def test_the_first_sink_is_read(sinks: tuple[str, ...], run_path: Path) -> None:
    example = finished_run(run_path, sinks)
    for path in run_path.rglob("*.h5"):
        path.unlink()
    for key in example.samples:
        np.testing.assert_array_equal(np.asarray(open_run(run_path)[key]), example.padded(key))


def test_a_moved_run_reads_and_the_index_over_it_is_not_needed(copied: Path) -> None:
    (copied / "tensors.h5").unlink()
    moved = copied.rename(copied.with_name("moved"))
    assert open_run(str(moved))[POOLED].shape == (8, 4)


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    for path, why in (
        (tmp_path, "is not a run directory: it holds no manifest.json"),
        (tmp_path / "missing", "does not exist"),
        (Path(__file__), "is a file, and a run is a directory"),
    ):
        with pytest.raises(RunDirectoryError, match=f"^{path} {why}"):
            open_run(path)


def test_a_finished_run_whose_journal_lacks_a_shard_is_damaged(copied: Path) -> None:
    lines = (copied / "journal.jsonl").read_text().splitlines(keepends=True)
    (copied / "journal.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(RunDirectoryError, match=r"lacks 1 of 4 shards, .*'000000005-000000008'"):
        open_run(copied)


def test_a_missing_shard_file_is_an_error_and_never_zeros(copied: Path) -> None:
    (copied / "shards" / f"{SHARDS[1].key}.h5").unlink()
    run = open_run(copied)
    np.testing.assert_array_equal(run[POOLED][:4].shape, (4, 4))
    for read in (lambda: np.asarray(run[POOLED]), lambda: run[STEPS].sample(4)):
        with pytest.raises(RunDirectoryError, match="is missing from its run"):
            read()


def test_an_unfinished_run_reads_what_was_committed(run_path: Path) -> None:
    recorder, example = record(run_path, shards=SHARDS[::2])
    recorder.fail(Status.INTERRUPTED)
    run = open_run(run_path)
    assert run.status is Status.INTERRUPTED
    np.testing.assert_array_equal(run[POOLED][5:], example.samples[POOLED][5:])
    np.testing.assert_array_equal(run[HIDDEN].sample(1), example.samples[HIDDEN][1])
    assert run[HIDDEN].shape == (8, 4, 3)  # sample 4, the longest, is not there
    for read in (
        lambda: run[HIDDEN].sample(4),
        lambda: run[POOLED][3:6],
        lambda: np.asarray(run[STEPS]),
        lambda: run[STEPS].lengths,
        lambda: list(run[STEPS]),
    ):
        with pytest.raises(
            RunDirectoryError, match=r"sample 4 is not in .*interrupted\): 7 of its 8 samples"
        ):
            read()
    assert run.samples[4]["id"] == "text-4"


def test_a_run_that_has_just_started_opens(run_path: Path) -> None:
    run_path.mkdir()
    manifests.write(run_path, manifest())
    recorder = Recorder.start(run_path, manifest(), {"hdf5": Hdf5Sink()})
    run = open_run(run_path)
    assert len(run[POOLED]) == 8
    with pytest.raises(RunDirectoryError, match=r"samples.jsonl is missing"):
        run.samples[0]
    recorder.fail()


def test_a_run_cannot_make_the_reader_call_any_function(copied: Path) -> None:
    trap = copied / "trap"
    for target in ("os.mkdir", "pathlib.Path"):
        sinks = {"sinks": {"hdf5": {"_target_": target, "path": str(trap)}}}
        edit_manifest(copied, job_resolved=sinks)
        with pytest.raises(ConfigError, match="is refused: a file "):
            open_run(copied)
    assert not trap.exists()
    assert open_run(copied, sink=Hdf5Sink())[POOLED].shape == (8, 4)


def test_xarray_gets_unique_dims_and_sample_ids(run: Run, example: Example) -> None:
    pytest.importorskip("xarray")
    data = run.to_xarray()
    assert list(data.data_vars) == list(run)
    assert data[ATTENTION].dims == ("sample", "axis_1", "token", "token_1")
    assert data[HIDDEN].dims == ("sample", "token", "axis")
    assert data["sample"].values.tolist() == [f"text-{index}" for index in range(8)]
    np.testing.assert_array_equal(data[HIDDEN].values, example.padded(HIDDEN))
    assert data[HIDDEN].attrs["address"] == HIDDEN
    assert list(run.to_xarray(KERNEL).coords) == []


def test_dims_that_would_clash_are_numbered() -> None:
    sizes: dict[str, Hashable] = {}
    assert unique_dims(("sample", "token", None), (8, 5, 3), sizes) == (
        "sample",
        "token",
        "axis",
    )
    assert unique_dims(("sample", "token", "token", None, None), (8, 4, 4, 3, 3), sizes) == (
        *("sample", "token_1", "token_2", "axis", "axis_1"),
    )
    assert sizes == {"sample": 8, "token": 5, "axis": 3, "token_1": 4, "token_2": 4, "axis_1": 3}


def test_without_xarray_the_message_says_how_to_get_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(MissingExtraError) as caught:
        run.to_xarray()
    assert str(caught.value) == (
        "to_xarray needs xarray, which is not installed. "
        "Install it: python -m pip install 'extractkit[xarray]'"
    )


def test_reading_a_run_imports_neither_tensorflow_nor_hydra(example: Example) -> None:
    program = (
        "import sys\n"
        "from extractkit.runs.reader import open_run\n"
        f"open_run({str(example.path)!r})[{POOLED!r}][0]\n"
        "heavy = {'tensorflow', 'keras', 'hydra', 'omegaconf', 'xarray'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env=dict(os.environ))


def test_the_examples_lengths_are_those_of_the_samples(example: Example) -> None:
    assert tuple(len(value) for value in example.samples[STEPS]) == LENGTHS
    assert manifest().tensors == TENSORS


def test_a_constant_that_is_one_number_can_be_looked_up(tmp_path: Path) -> None:
    scalar = run_tensor("scale:op/Const", "float32", (), (), "Scale", constant=True)
    planned = manifest(tensors=(scalar,), plan=RunPlan(4, True, ()), inputs=None)
    recorder = Recorder.start(tmp_path, planned, {"hdf5": Hdf5Sink()})
    recorder.freeze(recorder.manifest)
    recorder.commit(
        ShardValues(CONSTANTS_SHARD, {"scale:op/Const": Dense(np.array(2.5, "float32"))})
    )
    recorder.finish()
    assert np.asarray(open_run(tmp_path)["scale:op/Const"]) == np.float32(2.5)
