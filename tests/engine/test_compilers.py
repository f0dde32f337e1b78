"""The compiler of a job: asked for, chosen by the work, compared with TensorFlow, and recorded."""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from extractkit.core.component import Component
from extractkit.core.job import Job
from extractkit.engine import Silent, compilers
from extractkit.engine.execute import execute, resume
from extractkit.engine.identity import described
from extractkit.engine.prepare import prepare
from extractkit.engine.preview import preview
from extractkit.errors import MissingExtraError, RunDirectoryError
from extractkit.inputs.in_memory import LiveArrays
from extractkit.models import NotCompiledError, Program, openvino
from extractkit.models.in_memory import live_model
from extractkit.runs.environment import package_versions
from extractkit.runs.manifest import SHARING
from extractkit.runs.parts import join
from extractkit.runs.same_job import check_same
from tests.engine.examples import executed, shard_files
from tests.engine.examples import job as job_of
from tests.models.test_openvino import transformer

pytest.importorskip("openvino", reason="needs the extra openvino")

X = np.random.default_rng(0).normal(size=(70, 4)).astype(np.float32)

LAYERS = {"path": ["embedding:output", "norm:output", "wide:output", "head:output"]}


def network() -> Any:
    keras.utils.set_random_seed(0)
    layers = [keras.Input((4,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(2, name="last")]
    return live_model(keras.Sequential(layers, name="net"), name="net")


def job(selector: Mapping[str, object] | None = None, x: Any = X, **runtime: object) -> Job:
    chosen = selector or {"path": "last:output"}
    return job_of(chosen, model=network(), inputs=LiveArrays(x), shard_size=32, **runtime)


def wrong(program: Program) -> Program:
    def run(*arguments: Any) -> Any:
        return [value + 0.1 for value in program(*arguments)]

    return run


@pytest.fixture
def drifting(monkeypatch: pytest.MonkeyPatch) -> None:
    by_openvino = compilers.Choice.by_openvino
    monkeypatch.setattr(compilers.Choice, "by_openvino", lambda choice: wrong(by_openvino(choice)))


def test_a_job_records_the_compiler_and_repeats_its_bits(tmp_path: Path) -> None:
    run = executed(tmp_path / "run", job(compile="openvino"))
    settings = run.manifest.settings
    assert settings["compile"] == "openvino"
    assert settings["compiler"] == f"openvino {package_versions(['openvino'])['openvino']}"
    graph = executed(tmp_path / "graph", job())
    assert graph.manifest.settings["compile"] == "graph"
    assert "compiler" not in graph.manifest.settings
    assert graph.manifest.identity != run.manifest.identity
    one, other = (np.asarray(each["last:output"]) for each in (run, graph))
    np.testing.assert_allclose(one, other, atol=1e-6)
    again = executed(tmp_path / "again", job(compile="openvino"))
    np.testing.assert_array_equal(np.asarray(again["last:output"]), one)
    assert again.manifest.identity == run.manifest.identity


def test_transforms_are_applied_to_what_openvino_computes(tmp_path: Path) -> None:
    selector = {"path": "last:output", "do": [{"cast": "float16"}, {"slice": {"feature": "1:"}}]}
    found = [
        np.asarray(run["last:output"])
        for name in ("openvino", "graph")
        for run in [executed(tmp_path / name, job(selector, compile=name))]
    ]
    assert found[0].shape == (70, 1)
    assert found[0].dtype == np.float16
    np.testing.assert_allclose(*found, atol=1e-3)


def test_other_values_on_the_first_batch_are_refused(drifting: None) -> None:
    with pytest.raises(NotCompiledError) as caught:
        prepare(job(compile="openvino"))
    assert str(caught.value) == (
        "runtime.compile=openvino cannot run model 'net': on the first batch 'last:output' is not "
        "as TensorFlow computes it: 64 elements apart, by 0.1 at most, beyond 1e-05 + 0.0001 of a "
        "tensor's largest value. Use runtime.compile=graph"
    )


def test_auto_falls_back_with_the_reason(drifting: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilers, "WORTH", 0)
    monkeypatch.setattr(compilers, "WORTH_EACH", 0)
    prepared = prepare(job(compile="auto"))
    assert "is not as TensorFlow computes it" in str(prepared.declined)
    assert prepared.opened.compilation.compile == "graph"


def test_auto_takes_openvino_only_where_it_pays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    declined = prepare(job(x=X[:63], compile="auto")).declined
    assert declined == "63 samples are too few for it to pay"
    # 4 × 8 + 8 × 2 for each of 70 samples, of which two numbers are returned.
    small = preview(job(compile="auto"), tmp_path)
    assert small.declined == (
        "3e+03 multiplications are too few for it to pay, which it does from 2e+12"
    )
    assert small.to_json()["compile"] == "graph"
    monkeypatch.setattr(compilers, "WORTH", 3360)
    few = prepare(job(compile="auto")).declined
    assert few == (
        "24 multiplications for each value that is returned are too few for it to pay, which it "
        "does from 500"
    )
    monkeypatch.setattr(compilers, "WORTH_EACH", 24)
    taken = preview(job(compile="auto"), tmp_path)
    assert (taken.compile, taken.declined) == ("openvino", None)


def test_auto_asks_for_more_work_of_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [keras.Input((8, 8, 2)), keras.layers.Conv2D(3, 3, padding="same")]
    model = live_model(keras.Sequential(layers), name="net")
    x = [np.ones((8, 8, 2), np.float32)] * 64
    asked = job_of({"kind": "model_output"}, model=model, inputs=LiveArrays(x), compile="auto")
    monkeypatch.setattr(compilers, "WORTH", 0)
    monkeypatch.setattr(compilers, "WORTH_EACH", 0)
    assert prepare(asked).declined == (  # 3 × 3 × 2 for each
        "18 multiplications for each value that is returned, mostly in convolutions, are too few "
        "for it to pay, which it does from 20,000"
    )


def test_padding_of_the_first_batch_counts_as_no_work() -> None:
    """A long sample among short ones pads its batch, but no others."""
    layers = [keras.Input((None, 4)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(2)]
    model = live_model(keras.Sequential(layers), name="net")
    x = [np.ones((16 if at == 0 else 4, 4), np.float32) for at in range(64)]
    asked = job_of({"kind": "model_output"}, model=model, inputs=LiveArrays(x), compile="auto")
    # 4 × 8 + 8 × 2 for each row: 140 in 32 samples, and twice as many in all. 512 with padding.
    assert str(prepare(asked).declined).startswith(f"{48 * 140 * 2:.1g} multiplications")


def test_auto_leaves_a_model_that_is_not_finite_to_tensorflow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compilers, "WORTH", 0)
    monkeypatch.setattr(compilers, "WORTH_EACH", 0)
    x = X.copy()
    x[3, 0] = np.nan
    declined = prepare(job(x=x, compile="auto")).declined
    assert declined == "it leaves the values of the first batch to TensorFlow"


def test_auto_leaves_a_batch_on_which_openvino_fails_to_tensorflow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("Exception from src/core: out of luck")

    monkeypatch.setattr(openvino.CompiledGraph, "__call__", fail)
    monkeypatch.setattr(compilers, "WORTH", 0)
    declined = prepare(job(compile="auto")).declined
    assert str(declined).startswith("it fails on the first batch (")


def test_a_compiler_that_is_not_installed_is_missed_before_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    unloadable = replace(job(compile="openvino"), model=Component("model", "no.such.Model"))
    monkeypatch.setattr(openvino, "find_spec", lambda name: None)
    for attempt in (lambda: prepare(unloadable), lambda: preview(unloadable, tmp_path)):
        with pytest.raises(MissingExtraError):
            attempt()


def test_auto_without_the_extra_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "find_spec", lambda name: None)
    declined = prepare(job(compile="auto")).declined
    assert declined == "OpenVINO is not installed (extra openvino)"


def test_auto_has_the_identity_of_what_it_takes(tmp_path: Path) -> None:
    auto, graph = (executed(tmp_path / how, job(compile=how)) for how in ("auto", "graph"))
    assert auto.manifest.identity == graph.manifest.identity
    note = "runtime.compile=auto takes TensorFlow's graph: 3e+03 multiplications"
    assert note in (tmp_path / "auto" / "extractkit.log").read_text()


def test_a_resume_keeps_the_decision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would pay now does not matter."""
    settings = executed(tmp_path / "run", job(compile="auto")).manifest.settings
    monkeypatch.setattr(compilers, "WORTH", 0)
    monkeypatch.setattr(compilers, "WORTH_EACH", 0)
    assert prepare(job(compile="auto")).opened.compilation.compile == "openvino"
    assert prepare(job(compile="auto"), settings).opened.compilation.compile == "graph"


def test_resumed_and_joined_runs_have_the_bits_of_one(tmp_path: Path) -> None:
    """Samples of unlike lengths share batches, which parts and resumes have as one job has them."""
    drawn = np.random.default_rng(0)
    model = live_model(transformer(), name="net")
    x = LiveArrays([drawn.integers(1, 11, 1 + at % 9).astype(np.int32) for at in range(70)])
    asked: dict[str, Any] = {"model": model, "inputs": x, "shard_size": 16, "compile": "openvino"}
    run = executed(tmp_path / "run", job_of(LAYERS, **asked))
    assert run.manifest.settings[SHARING] == "samples of any lengths"
    stored = shard_files(run.path)
    (run.path / "shards" / sorted(stored)[2]).unlink()
    resume(job_of(LAYERS, **asked), run.path, listener=Silent())
    assert shard_files(run.path) == stored
    for part in ("1/2", "2/2"):
        of_part = job_of(LAYERS, part=part, **asked)
        execute(of_part, tmp_path / "joined", hydra_files={}, listener=Silent())
    join(tmp_path / "joined")
    assert shard_files(tmp_path / "joined") == stored


def test_another_version_of_the_compiler_is_refused(tmp_path: Path) -> None:
    live = job(compile="openvino")
    recorded = executed(tmp_path / "run", live).manifest
    now = described(recorded, prepare(live, recorded.settings))
    check_same(recorded, now, "run")
    older = {**recorded.settings, "compiler": "openvino 2026.1.0"}
    with pytest.raises(RunDirectoryError) as caught:
        check_same(replace(recorded, settings=older), now, "run")
    found = f"openvino {package_versions(['openvino'])['openvino']}"
    said = f"the setting 'compiler': openvino 2026.1.0 was recorded, {found} is found"
    assert said in str(caught.value)


def test_samples_alone_are_compared_alone() -> None:
    prepared = prepare(job(compile="openvino", batch_size=1))
    assert prepared.opened.compilation.compile == "openvino"


def test_gradients_are_left_to_tensorflow() -> None:
    selector = {"path": "last:output", "gradient": {"of": {"index": 0}}}
    with pytest.raises(NotCompiledError, match="gradients are computed by TensorFlow alone"):
        prepare(job(selector, compile="openvino"))


def test_outputs_that_openvino_cannot_compute_are_checked_by_tensorflow(tmp_path: Path) -> None:
    """The self-check compares outputs that the job does not extract."""
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(8, name="hidden")(inputs)
    largest = keras.layers.Lambda(lambda x: keras.ops.argmax(x, 1), name="largest")(hidden)
    model = live_model(keras.Model(inputs, largest), name="net")
    asked = job_of({"path": "hidden:output"}, model=model, inputs=LiveArrays(X), compile="openvino")
    run = executed(tmp_path / "run", asked)
    (check,) = run.manifest.volatile.self_check
    assert check.outputs == (":output",)
    assert run.manifest.settings["compile"] == "openvino"


def test_the_check_that_it_is_installed_keeps_quiet_about_tensorflow() -> None:
    probe = (
        "import sys; from extractkit.core.job import Runtime; "
        "from extractkit.engine.compilers import check_installed; "
        "check_installed(Runtime(compile='openvino')); "
        "assert 'tensorflow' in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
