"""Runs in MLflow and in W&B: what they get, when, and what stays if they fail.

Both packages are large, so stand-ins record what they are asked. Where a package is installed, its
own reader opens what it wrote.
"""

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import extractkit
from extractkit.commands.jobs import run as run_jobs
from extractkit.commands.jobs import sweep_trust_needed
from extractkit.config.overrides import trust_of
from extractkit.errors import ConfigError, JobError, MissingExtraError
from extractkit.exports.trackers import fitting, numbers, tracked
from tests.runs.trajectory_examples import LABELS, made
from tests.sweep_examples import Failures, placed, swept

NO_REPORT = "hydra.callbacks.{}.report=false"


class Client:
    """Stands in for a client of MLflow, with an empty store."""

    calls: list[tuple[str, Any]]
    breaks = ""

    def __init__(self, tracking_uri: str | None = None) -> None:
        self.calls.append(("client", ((tracking_uri,), {})))

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **given: Any) -> Any:
            self.calls.append((name, (args, given)))
            if name == self.breaks:
                raise ConnectionError("no route\nto host")
            if name == "create_run":
                number = f"r{sum(called == name for called, _ in self.calls)}"
                return SimpleNamespace(info=SimpleNamespace(run_id=number))
            return {"create_experiment": "7", "search_runs": []}.get(name)

        return call


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> type[Client]:
    """MLflow by a stand-in, whose class holds the calls."""
    made_up, entities = ModuleType("mlflow"), ModuleType("mlflow.entities")
    recording = type("Recording", (Client,), {"calls": []})
    vars(made_up).update(MlflowClient=recording)
    vars(entities).update(Param=lambda *one: one, Metric=lambda *one: one)
    named = {"mlflow": made_up, "mlflow.entities": entities}
    for name in ("sqlalchemy", "alembic"):
        named[name] = ModuleType(name)
    for name, module in named.items():
        monkeypatch.setitem(sys.modules, name, module)
    return recording


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(placed(tmp_path))
    return tmp_path


def job(*arguments: str) -> list[Exception]:
    """Run a single job; what failed in it."""
    failures = Failures()
    given = ["model=reference", "inputs.path=texts.txt", *arguments, "--config-dir", "my"]
    run_jobs(given, failures.report, [])
    return failures


def test_checkpoints_are_steps(tmp_path: Path) -> None:
    """The totals are at the last step, and each number is that of the reader."""
    run = extractkit.open(made(tmp_path / "run", steps=True).path)
    found = numbers(run)
    assert list(found) == [at for at in run.manifest.outer_axes[0].steps if at is not None]
    assert run.drift is not None
    assert run.manifest.actual is not None
    (key, drift), *_ = run.drift.tensors.items()
    for at, each in enumerate(found.values()):
        expected = drift.from_first.relative_norm[at]
        assert each.get(f"drift/{key} relative_norm from first") == expected
    *first, last = found.values()
    assert all(not name.startswith(("run/", "values/")) for each in first for name in each)
    assert last["run/samples"] == run.manifest.samples
    assert last["run/bytes"] == run.manifest.actual.bytes
    checks = run.manifest.actual.values
    assert {name for name in last if name.endswith("not finite")} == {
        f"values/{key} not finite" for key in checks
    }
    without = extractkit.open(made(tmp_path / "without").path)
    assert list(numbers(without)) == [*range(len(LABELS))]


def test_a_run_as_plain_data(place: Path) -> None:
    assert not job("selectors=statistics", "hydra.run.dir=run")
    found = tracked(place / "run", place, with_report=False)
    run = extractkit.open(place / "run")
    assert found.parameters["model.seed"] == "0"
    assert found.parameters["inputs.path"] == "texts.txt"
    assert not {"model", "inputs"} & {*found.parameters}
    assert found.files == [place / "run" / "manifest.json"]
    assert found.tags["extractkit.identity"] == run.manifest.identity
    assert "| samples | 3 |" in found.description
    assert found.finished >= found.started > 1.7e9
    (each,) = found.numbers.values()
    key, one = next((key, one) for key, one in run.statistics.items() if "moments" in one)
    moments = one["moments"]
    assert each[f"statistics/{key} mean"] == pytest.approx(np.mean(moments.mean))
    assert each[f"statistics/{key} max"] == np.max(moments.max)
    assert found.key == tracked(place / "run", place, with_report=False).key
    assert len(found.key) == 16


def test_names_fit_and_stay_different() -> None:
    names = ["values/a:0 min", "values/a@x min", "values/a_x min", "a//b", "../up", "é", "n" * 400]
    found = fitting([*names, *names])
    assert list(found) == names
    assert found["values/a:0 min"] == "values/a:0 min"
    assert (found["values/a@x min"], found["values/a_x min"]) == ("values/a_x min",) * 2 or (
        found["values/a_x min"] == "values/a_x min 2"
    )
    assert (found["a//b"], found["../up"], found["é"]) == ("a/_/b", "_/up", "_")
    assert len({*found.values()}) == len(names)
    assert max(map(len, found.values())) <= 250


def test_mlflow_gets_a_run_once_it_is_finished(place: Path, client: type[Client]) -> None:
    uri = "hydra.callbacks.mlflow.tracking_uri=sqlite:///x.db"
    chosen = ("hydra/callbacks=mlflow", NO_REPORT.format("mlflow"), uri)
    assert not job("selectors=outputs", "hydra.run.dir=run", *chosen)
    names = [name for name, _ in client.calls]
    assert names == [
        *("client", "get_experiment_by_name", "create_experiment", "search_runs", "create_run"),
        *("log_batch", "log_batch", "log_artifact", "set_terminated"),
    ]
    calls = dict(client.calls)
    assert calls["client"] == (("sqlite:///x.db",), {})
    assert calls["create_run"][1]["run_name"] == "run"
    assert calls["set_terminated"][0][:2] == ("r1", "FINISHED")
    assert calls["log_artifact"][0] == ("r1", str(place / "run" / "manifest.json"))


def test_each_job_of_a_sweep_is_a_run_below_it(place: Path, client: type[Client]) -> None:
    chosen = ("hydra/callbacks=[mlflow]", NO_REPORT.format("mlflow"))
    failed = swept("selectors=outputs", "model.seed=0,1,x", *chosen)
    assert len(failed) == 1
    given = [one for name, (_, one) in client.calls if name == "create_run"]
    # The stand-in finds nothing again, so the run for the sweep is made for each.
    assert [one["run_name"] for one in given] == ["s", "0", "s", "1"]
    assert [one["tags"].get("mlflow.parentRunId") for one in given] == [None, "r1", None, "r3"]


def test_a_run_stays_whole_if_its_tracker_fails(place: Path, client: type[Client]) -> None:
    client.breaks = "log_batch"
    chosen = ("hydra/callbacks=mlflow", NO_REPORT.format("mlflow"))
    (failed,) = job("selectors=outputs", "hydra.run.dir=run", *chosen)
    assert isinstance(failed, JobError)
    assert str(failed) == (
        f"hydra/callbacks=mlflow: {place}/run is finished and whole, but was not logged to MLflow: "
        f"ConnectionError: no route to host. To log it, repeat the job, which computes nothing "
        f"again: extractkit model=reference inputs.path=texts.txt selectors=outputs "
        f"runtime.reuse_from={place} hydra/callbacks=mlflow"
    )
    assert client.calls[-1] == ("set_terminated", (("r1", "FAILED"), {}))
    assert not extractkit.verify(place / "run").failed
    client.breaks = ""
    client.calls.clear()
    assert not job("selectors=outputs", f"runtime.reuse_from={place}", *chosen)
    assert dict(client.calls)["create_run"][1]["run_name"] == "run"


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
@pytest.mark.parametrize("several", [[], ["-m"]], ids=["job", "sweep"])
def test_a_missing_package_is_named_before_a_job_runs(
    place: Path, monkeypatch: pytest.MonkeyPatch, name: str, several: list[str]
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    message = (
        rf"^hydra/callbacks={name} needs {name}, which is not installed\. "
        rf"Install it: python -m pip install 'extractkit\[{name}\]'$"
    )
    with pytest.raises(MissingExtraError, match=message):
        job("selectors=outputs", "hydra.run.dir=run", f"hydra/callbacks={name}", *several)
    assert {path.name for path in place.iterdir()} == {"my", "texts.txt"}


def test_wandb_gets_a_run_offline(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, Any]] = []
    (folder := place / "of wandb").mkdir()
    tracked_run = SimpleNamespace(
        dir=str(folder),
        log=lambda values, step: calls.append(("log", step)),
        finish=lambda exit_code: calls.append(("finish", exit_code)),
    )
    module = ModuleType("wandb")
    vars(module).update(
        Settings=dict, init=lambda **given: calls.append(("init", given)) or tracked_run
    )
    monkeypatch.setitem(sys.modules, "wandb", module)
    chosen = ("hydra/callbacks=wandb", NO_REPORT.format("wandb"))
    assert not job("selectors=outputs", "hydra.run.dir=run", *chosen)
    (_, given), *others = calls
    assert (given["mode"], given["project"], given["name"]) == ("offline", "extractkit", "run")
    assert given["config"]["model.seed"] == "0"
    assert others == [("log", 0), ("finish", 0)]
    assert (folder / "manifest.json").read_bytes() == (place / "run/manifest.json").read_bytes()


@pytest.mark.parametrize(
    ("setting", "typed"),
    [
        ("", []),
        ("mlflow: {tracking_uri: http://elsewhere}", ["hydra/callbacks=mlflow"]),
        ("wandb: {mode: online}", ["hydra/callbacks=wandb"]),
    ],
    ids=["tracker", "address", "mode"],
)
def test_a_file_chooses_no_tracker_and_no_address(
    place: Path, setting: str, typed: list[str]
) -> None:
    (place / "my" / "experiment").mkdir()
    inside = setting or "mlflow: {_target_: extractkit.config.trackers.LogToMLflow}"
    text = f"# @package _global_\nhydra: {{callbacks: {{{inside}}}}}\n"
    (place / "my" / "experiment" / "sly.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^hydra\.callbacks\.\w+\.\w+='.*' is refused"):
        job("selectors=outputs", "hydra.run.dir=run", "experiment=sly", *typed)
    assert not (place / "run").exists()


def test_a_mode_that_does_not_exist_is_refused(place: Path) -> None:
    chosen = ("hydra/callbacks=wandb", "hydra.callbacks.wandb.mode=onlin")
    message = (
        r"^hydra\.callbacks\.wandb\.mode='onlin' is not a mode\. Available: 'offline', 'online'"
    )
    with pytest.raises(ConfigError, match=message):
        job("selectors=outputs", "hydra.run.dir=run", *chosen)


def test_a_sweep_is_resumed_with_what_its_tracker_needs() -> None:
    assert sweep_trust_needed(trust_of(["hydra/callbacks=[wandb]"])) == ["hydra.callbacks"]
    assert not sweep_trust_needed(trust_of(["model=bert"]))


@pytest.mark.filterwarnings("ignore")  # of MLflow and its packages
def test_mlflow_reads_back_what_was_logged(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place}/mlflow.db")
    chosen = ("selectors=outputs", "model.seed=0,1", "hydra/callbacks=mlflow")
    assert [*map(str, swept(*chosen))] == []
    client = mlflow.MlflowClient()
    (experiment,) = [one for one in client.search_experiments() if one.name == "extractkit"]
    found = {one.info.run_name: one for one in client.search_runs([experiment.experiment_id])}
    assert {*found} == {"s", "0", "1"}
    for name in ("0", "1"):
        one = found[name]
        assert one.info.status == "FINISHED"
        assert one.data.params["model.seed"] == name
        assert one.data.tags["mlflow.parentRunId"] == found["s"].info.run_id
        (view,) = extractkit.open(place / "s" / name).values()
        assert one.data.metrics[f"values/{view.key} max"] == np.max(view.padded())
        files = [file.path for file in client.list_artifacts(one.info.run_id)]
        assert sorted(files) == ["manifest.json", "report.html"]


def log_entries(rest: bytes) -> Iterator[bytes]:
    """Yield the entries of a log of LevelDB, in blocks whose first holds 7 bytes of W&B."""
    at, whole = 7, b""
    while len(rest) > 7:
        if (left := 32768 - at % 32768) < 7:
            rest, at = rest[left:], at + left
            continue
        size, kind = struct.unpack("<HB", rest[4:7])
        whole, rest, at = whole + rest[7 : 7 + size], rest[7 + size :], at + 7 + size
        if kind in (1, 4):  # whole, or the last of several
            yield whole
            whole = b""


def test_wandb_reads_back_what_was_logged(place: Path) -> None:
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    assert not job("selectors=outputs", "hydra.run.dir=run", "hydra/callbacks=wandb")
    (file,) = (place / "wandb").glob("offline-run-*/*.wandb")
    records = [*map(Record.FromString, log_entries(file.read_bytes()[7:]))]
    (about,) = [one.run for one in records if one.HasField("run")][:1]
    assert (about.project, about.display_name) == ("extractkit", "run")
    configured = {one.key: json.loads(one.value_json) for one in about.config.update}
    assert configured["inputs.path"] == "texts.txt"
    (history,) = [one.history for one in records if one.HasField("history")]
    logged = {
        one.key or "/".join(one.nested_key): json.loads(one.value_json) for one in history.item
    }
    assert logged["run/samples"] == 3
    assert {one.name for one in file.parent.joinpath("files").iterdir()} >= {
        *("manifest.json", "report.html")
    }
