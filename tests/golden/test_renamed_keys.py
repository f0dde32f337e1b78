"""Old runs and sweeps are read with the present names of config keys."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from extractkit.runs import manifest as manifests
from extractkit.runs import sweeps
from tests.golden.test_damage import edited
from tests.golden.test_runs import FOLDERS, RUNS

TYPED = ["model=keras", "++model.inputs.x=[sample]", "inputs=random"]
PRESENT = ("model=keras", "++model.input_axes.x=[sample]", "inputs=random")
OF_OWN = ["model=mine", "model.inputs=[x]"]


def read(folder: str, tmp_path: Path, change: Callable[[Any], object]) -> manifests.Manifest:
    run = Path(shutil.copytree(RUNS / folder / "finished", tmp_path / "run"))
    edited(run / "manifest.json", change)
    return manifests.read(run)


@pytest.mark.parametrize("folder", FOLDERS)
def test_axes_of_inputs(folder: str, tmp_path: Path) -> None:
    def change(fields: Any) -> None:
        assert fields["job_resolved"]["model"]["inputs"] is None
        fields["job_resolved"]["model"]["inputs"] = {"x": ["sample"]}
        fields["job_given"] = TYPED

    found = read(folder, tmp_path, change)
    model: Any = found.job_resolved["model"]
    assert "inputs" not in model
    assert model["input_axes"] == {"x": ["sample"]}
    assert found.job_given == PRESENT


def test_a_loader_of_ones_own_keeps_its_argument(tmp_path: Path) -> None:
    def change(fields: Any) -> None:
        fields["job_resolved"]["model"] = {"_target_": "mine.load", "inputs": ["x"]}
        fields["job_given"] = OF_OWN

    found = read("schema-6", tmp_path, change)
    assert found.job_resolved["model"] == {"_target_": "mine.load", "inputs": ["x"]}
    assert found.job_given == tuple(OF_OWN)


def test_features_of_records_are_by_input(tmp_path: Path) -> None:
    target = "extractkit.inputs.tfrecord.TFRecord"

    def change(fields: Any) -> None:
        features = {"y": None, "raw": {"input": "x", "dtype": "int8"}, "z": {"shape": [2]}}
        fields["job_resolved"]["inputs"] = {"_target_": target, "features": features}

    found: Any = read("schema-6", tmp_path, change).job_resolved["inputs"]
    assert found["features"] == {
        "y": {"feature": "y"},
        "x": {"feature": "raw", "dtype": "int8"},
        "z": {"feature": "z", "shape": [2]},
    }
    assert [*found["features"]] == ["y", "x", "z"]


@pytest.mark.parametrize("status", ["started", "finished"])
def test_a_sweep_over_axes_of_inputs(status: str, tmp_path: Path) -> None:
    sweep = Path(shutil.copytree(RUNS / "schema-6" / "sweep", tmp_path / "sweep"))

    def change(job: Any) -> None:
        job["overrides"] = TYPED
        job["values"] = {"model": "keras", "model.inputs.x": ["sample"]}

    def change_all(fields: Any) -> None:
        fields["status"] = status
        fields["overrides"] = ["model=keras,module", "model.inputs.x=[sample],[null]"]
        for job in fields["jobs"]:
            change(job)

    edited(sweep / "sweep.json", change_all)
    for number in (0, 1):
        edited(sweep / "jobs" / f"{number}.json", lambda fields: change(fields["job"]))
        edited(sweep / str(number) / "manifest.json", lambda fields: fields.update(job_given=TYPED))
    # Until a sweep is finished its jobs' own records are read.
    found = sweeps.read(sweep)
    assert found.overrides == ("model=keras,module", "model.input_axes.x=[sample],[null]")
    for job in found.jobs:
        assert job.overrides == PRESENT
        assert job.values == {"model": "keras", "model.input_axes.x": ["sample"]}
        assert sweeps.is_of(manifests.read(job.directory(sweep)), job)
