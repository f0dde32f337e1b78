"""Old runs and sweeps are read with the present names of config keys and of fields."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from extractkit.config.hydra_internals import swept_jobs
from extractkit.runs import manifest as manifests
from extractkit.runs import sweeps
from extractkit.runs.checking.verification import verify
from extractkit.runs.reader import open_run
from tests.golden.test_damage import canonical, edited
from tests.golden.test_runs import FOLDERS, RUNS

TYPED = ["model=keras", "++model.inputs.x=[sample]", "inputs=random"]
PRESENT = ("model=keras", "++model.input_axes.x=[sample]", "inputs=random")
OF_OWN = ["model=mine", "model.inputs=[x]"]


def read(folder: str, tmp_path: Path, change: Callable[[Any], object]) -> manifests.Manifest:
    run = Path(shutil.copytree(RUNS / folder / "finished", tmp_path / "run"))
    edited(run / "manifest.json", change)
    return manifests.read(run)


@pytest.mark.parametrize("folder", [one for one in FOLDERS if int(one.split("-")[1]) < 7])
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


@pytest.mark.parametrize("folder", ["schema-3", "schema-7"])
@pytest.mark.parametrize("status", ["started", "failed"])
def test_a_job_that_was_not_started_was_called_skipped(
    status: str, folder: str, tmp_path: Path
) -> None:
    sweep = Path(shutil.copytree(RUNS / folder / "sweep", tmp_path / "sweep"))
    shutil.rmtree(sweep / "1")

    def change(job: Any) -> None:
        job.update(status="skipped", error="not begun, since job 0 has failed")

    def change_all(fields: Any) -> None:
        fields["status"] = status
        change(fields["jobs"][1])

    edited(sweep / "sweep.json", change_all)
    edited(sweep / "jobs" / "1.json", lambda fields: change(fields["job"]))
    last = sweeps.read(sweep).jobs[1]
    assert last.status is sweeps.JobStatus.NOT_STARTED
    assert last.error == "not begun, since job 0 has failed"


def under_an_experiment(sweep: Path, typed: str, values: dict[str, object]) -> list[str]:
    """Record one override beside `experiment=` in a sweep; return what is read back of it."""
    given = ["experiment=mine", typed]

    def change(job: Any) -> None:
        job["overrides"] = given
        job["values"] = {"experiment": "mine", **values}

    def change_all(fields: Any) -> None:
        fields["overrides"] = given
        for job in fields["jobs"]:
            change(job)

    edited(sweep / "sweep.json", change_all)
    for number in (0, 1):
        edited(sweep / "jobs" / f"{number}.json", lambda fields: change(fields["job"]))
        edited(sweep / str(number) / "manifest.json", lambda fields: fields.update(job_given=given))
    found = sweeps.read(sweep)
    for job in (*found.jobs, *sweeps.jobs(sweep)):
        assert job.overrides == found.overrides
        assert sweeps.is_of(manifests.read(job.directory(sweep)), job)
    assert found.overrides[0] == given[0]
    return [found.overrides[1], *(f"{key}" for key in found.jobs[0].values if key != "experiment")]


def test_axes_of_inputs_under_an_experiment(tmp_path: Path) -> None:
    sweep = Path(shutil.copytree(RUNS / "schema-6" / "sweep", tmp_path / "sweep"))
    found = under_an_experiment(sweep, "+model.inputs.x=[sample]", {"model.inputs.x": ["sample"]})
    assert found == ["+model.input_axes.x=[sample]", "model.input_axes.x"]


def test_features_under_an_experiment(tmp_path: Path) -> None:
    sweep = Path(shutil.copytree(RUNS / "schema-6" / "sweep", tmp_path / "sweep"))
    typed = "inputs.features={raw:{input:x,dtype:int8}}"
    value = {"raw": {"input": "x", "dtype": "int8"}}
    found = under_an_experiment(sweep, typed, {"inputs.features": value})
    assert found == ["inputs.features={x:{feature:raw,dtype:int8}}", "inputs.features"]
    (job, _) = sweeps.read(sweep).jobs
    assert job.values["inputs.features"] == {"x": {"feature": "raw", "dtype": "int8"}}


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("{y: null, z: {shape: [2, 3]}}", [{"y": None, "z": {"shape": [2, 3]}}]),
        (r"{a\ b: {input: x}, c: {}}", [{"x": {"feature": "a b"}, "c": {}}]),
        ('{raw: {input: "my, input"}}', [{"my, input": {"feature": "raw"}}]),
        (r"{a\:b/c: {dtype: int8, input: x}}", [{"x": {"feature": "a:b/c", "dtype": "int8"}}]),
        ("{raw: {input: null}}", [{"raw": {}}]),
        ("{a: {input: x}},{b: {input: x}}", [{"x": {"feature": "a"}}, {"x": {"feature": "b"}}]),
    ],
)
def test_features_as_typed_are_by_input(typed: str, expected: list[object], tmp_path: Path) -> None:
    """As Hydra reads them, by whose grammar they were typed."""
    given = ["inputs=tfrecord", f"inputs.features={typed}"]
    found = read("schema-6", tmp_path, lambda fields: fields.update(job_given=given))
    override = OverridesParser.create().parse_override(found.job_given[1])
    value: Any = override.value()
    assert (value.list if override.is_sweep_override() else [value]) == expected
    # A resumed sweep goes on with a run if Hydra gives its job the same overrides as before.
    before, after = (swept_jobs([*one]) for one in (given, found.job_given))
    for job, again in zip(before, after, strict=True):
        run = shutil.copytree(RUNS / "schema-6" / "finished", tmp_path / f"run of {job[1]!r:.9}")
        edited(run / "manifest.json", lambda fields, job=job: fields.update(job_given=[*job]))
        assert manifests.read(run).job_given == tuple(again)
        shutil.rmtree(run)


@pytest.mark.parametrize(
    "given",
    [
        ["experiment=mine", "model=mine", "inputs=mine"],
        ["experiment=mine", "~model", "+model._target_=mine.load", "inputs._target_=mine.Source"],
        ["model=mine", "inputs=mine"],
    ],
)
def test_components_of_ones_own_keep_their_arguments(given: list[str], tmp_path: Path) -> None:
    given = [*given, "model.inputs=[x]", "inputs.features={a: {input: x}}"]
    found = read("schema-6", tmp_path, lambda fields: fields.update(job_given=given))
    assert found.job_given == tuple(given)


@pytest.mark.parametrize("folder", ["schema-3", "schema-6"])
def test_a_label_of_the_present_word_was_the_sources_own(folder: str, tmp_path: Path) -> None:
    """Sources of the user's own gave labels of any name when the reason was called skipped."""
    run = Path(shutil.copytree(RUNS / folder / "joined", tmp_path / "run"))
    rows = [json.loads(line) for line in (run / "samples.jsonl").read_text("utf-8").splitlines()]
    rows = [{**row, "missing": f"label {row['id']}"} for row in rows]
    content = "".join(f"{canonical(row)}\n" for row in rows).encode()
    (run / "samples.jsonl").write_bytes(content)

    def change(fields: Any) -> None:
        (file,) = [one for one in fields["files"] if one["name"] == "samples.jsonl"]
        file.update(sha256=hashlib.sha256(content).hexdigest(), size=len(content))

    edited(run / "manifest.json", change)
    found = open_run(run)
    assert list(found.missing) == [3]
    assert [row["missing_"] for row in found.samples] == [f"label {n}" for n in range(5)]
    assert verify(run).failed is False
