"""Mistakes: each ends in one message before training begins, and leaves every run as it is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import extractkit
from extractkit.engine.execute import Execution
from extractkit.errors import (
    ConfigError,
    ExtractkitError,
    InputError,
    JobError,
    ModelError,
    RunDirectoryError,
    SelectionError,
)
from extractkit.runs import recorder
from extractkit.runs.manifest import Status
from extractkit.runs.shards import Storing
from tests.training.examples import PROBE, X, Y, probing, same, small, state, train, trained
from tests.training.test_resume import contents

OUTPUTS = {"selectors": "outputs", "runtime": {"self_check": False}}


def message(error: type[Exception], given: Any) -> str:
    with pytest.raises(error) as caught:
        given()
    return str(caught.value)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"every": 0}, "every=0 is neither 'epoch' nor a whole number of steps, 1 or more"),
        ({"every": "step"}, "every='step' is neither 'epoch' nor"),
        ({"every": True}, "every=True is neither"),
        ({"every": 1.5}, "every=1.5 is neither"),
        ({"on_error": "ignore"}, "on_error='ignore' is neither 'raise' nor 'warn'"),
        ({"inputs": None}, "inputs=None holds no samples. Give those to compute values of, such"),
        ({"selectors": "layer"}, "selectors=layer does not exist. Nearest: "),
        ({"selectors": {"a": {"pth": "x"}}}, "selectors.a.pth does not exist. Nearest: 'path'"),
        ({"runtime": {"batch": 3}}, "runtime.batch does not exist. Nearest: 'batch_size'"),
        ({"runtime": {"deterministic": True}}, "runtime.deterministic=true would change the"),
        ({"runtime": {"seed": 3}}, "runtime.seed=3 has no effect on a run of a training"),
        ({"runtime": {"part": "1/2"}}, "runtime.part=1/2 has no effect on a run of a training"),
        ({"runtime": {"engine": "ray"}}, "runtime.engine=ray has no effect on a run of"),
    ],
)
def test_settings_are_checked_as_they_are_given(
    settings: Mapping[str, Any], text: str, tmp_path: Path
) -> None:
    given = {"selectors": "outputs", **settings}
    assert text in message(ConfigError, lambda: probing(tmp_path / "run", **given))


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"selectors": {"x": {"path": "b:*"}}}, SelectionError, "selectors.x.path='b:*' matched 0"),
        ({"inputs": PROBE[:, :2]}, InputError, "inputs"),
        ({"inputs": ["a text"]}, InputError, "takes numbers (input: float32"),
        ({"inputs": PROBE[:0]}, InputError, "holds no sample"),
    ],
)
def test_what_does_not_fit_the_model_ends_training_before_its_first_step(
    settings: Mapping[str, Any], error: type[ExtractkitError], text: str, tmp_path: Path
) -> None:
    model = small()
    before = state_of(model)
    given = {**OUTPUTS, **settings}
    found = message(error, lambda: train(tmp_path / "run", model=model, callback=given))
    assert text in found
    assert not (tmp_path / "run").exists()
    same(state_of(model), before)


def state_of(model: Any) -> list[Any]:
    return [np.asarray(one) for one in model.weights]


def test_a_model_without_known_inputs_is_named(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Dense(2)])
    rows = {**OUTPUTS, "inputs": [list(row) for row in PROBE.tolist()]}
    found = message(ModelError, lambda: train(tmp_path / "run", model=model, callback=rows))
    assert "does not declare its inputs" in found
    assert not (tmp_path / "run").exists()


def test_steps_need_an_optimizer(tmp_path: Path) -> None:
    class Still(keras.Model):  # type: ignore[misc]
        def call(self, inputs: Any) -> Any:
            return inputs

        def train_step(self, data: Any) -> dict[str, Any]:
            return {}

    model = Still()
    model.compile(optimizer=None, loss="mse")
    model.optimizer = None
    callback = probing(tmp_path / "run", every=3, **OUTPUTS)
    with pytest.raises(ConfigError, match=r"^every=3: steps are counted by the model's optimizer"):
        model.fit(X, Y, verbose=0, callbacks=[callback])


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("recorded") / "run"
    train(run, epochs=1, callback=OUTPUTS)
    return run


def wide() -> Any:
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(5), keras.layers.Dense(2)])


@pytest.mark.parametrize(
    ("model", "settings", "text"),
    [
        (lambda: small(7), {}, "holds another training: at 'epoch_0' it has other weights"),
        (wide, {}, "cannot be resumed: its values would not be those of one job. what the model"),
        (small, {"inputs": PROBE[:5]}, "cannot be resumed: its values would not be those of one"),
        (
            small,
            {"selectors": ["outputs", "weights"]},
            "cannot be resumed with other settings: sel",
        ),
        (
            small,
            {"runtime": {"batch_size": 3, "self_check": False}},
            "with other settings: runtime",
        ),
        (small, {"sinks": "npz"}, "cannot be resumed with other settings: sinks"),
        (
            small,
            {"every": 2},
            "holds a run of every epoch, which cannot be resumed with every step",
        ),
    ],
)
def test_a_run_of_something_else_is_refused_and_unchanged(
    model: Any, settings: Mapping[str, Any], text: str, recorded: Path
) -> None:
    before, manifest = contents(recorded), (recorded / "manifest.json").read_bytes()
    given = {**OUTPUTS, **settings}
    found = message(RunDirectoryError, lambda: train(recorded, model=model(), callback=given))
    assert text in found
    assert contents(recorded) == before
    assert (recorded / "manifest.json").read_bytes() == manifest


@pytest.mark.parametrize("error", [KeyboardInterrupt, JobError])
def test_a_finished_run_stays_so_if_it_cannot_be_opened(
    error: type[BaseException], recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(execution: Execution, recorder: object) -> None:
        raise error("while the model is loaded")

    before = (recorded / "manifest.json").read_bytes()
    monkeypatch.setattr(Execution, "prepared", fail)
    with pytest.raises(error, match="while the model is loaded"):
        train(recorded, callback=OUTPUTS)
    assert (recorded / "manifest.json").read_bytes() == before


def test_other_runs_are_refused(recorded: Path, tmp_path: Path) -> None:
    model = small()
    extractkit.extract(model=model, inputs=PROBE, selectors="outputs", run_dir=tmp_path / "run")
    found = message(
        RunDirectoryError, lambda: train(tmp_path / "run", model=model, callback=OUTPUTS)
    )
    assert f"run_dir={tmp_path / 'run'} holds a run that no training has recorded" in found
    for again in (extractkit.resume, extractkit.rerun):
        if again is extractkit.resume:
            again(recorded)  # nothing is missing
        else:
            text = message(RunDirectoryError, lambda: extractkit.rerun(recorded, tmp_path / "2"))
            assert "was recorded while its model was trained" in text
    checks = extractkit.verify(recorded, recompute=1, model=model, inputs=PROBE).checks
    assert "the weights of its steps existed only during the training" in str(checks)


def test_a_damaged_step_cannot_be_computed_again(recorded: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(run, epochs=1, callback=OUTPUTS)
    file = next((run / "shards").glob("checkpoint-000001-0*"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    found = message(RunDirectoryError, lambda: train(run, callback=OUTPUTS))
    assert "is damaged in 1 shard, first 'checkpoint-000001-" in found
    assert "existed only during training" in found


def test_a_full_disk_as_training_begins_ends_the_record_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(execution: Execution, recorder: object) -> None:
        raise JobError("no space left on device")

    plain, _ = trained(keras, model=small())
    monkeypatch.setattr(Execution, "prepared", fail)
    model = small()
    with pytest.warns(UserWarning, match=r"records no more steps in .*: no space left on device"):
        train(tmp_path / "run", model=model, callback={**OUTPUTS, "on_error": "warn"})
    same(state(model), state(plain))
    with pytest.raises(JobError, match="no space left"):
        train(tmp_path / "run", callback=OUTPUTS)


@pytest.mark.parametrize("on_error", ["raise", "warn"])
def test_a_full_disk_ends_the_record_and_not_a_bit_of_the_training(
    on_error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, _ = trained(keras, model=small())
    store, stored = Storing.store, []

    def full(self: Storing, one: Any) -> Any:
        stored.append(one)
        if len(stored) == 3:
            raise JobError("no space left on device")
        return store(self, one)

    monkeypatch.setattr(recorder.Storing, "store", full)
    model, settings = small(), {**OUTPUTS, "on_error": on_error}
    if on_error == "raise":
        with pytest.raises(JobError, match="no space left"):
            train(tmp_path / "run", model=model, callback=settings)
    else:
        with pytest.warns(UserWarning, match=r"^extractkit\.Callback records no more steps in"):
            train(tmp_path / "run", model=model, callback=settings)
        same(state(model), state(plain))
    run = extractkit.open(tmp_path / "run")
    assert (run.status, run.checkpoints) == (Status.FAILED, ("epoch_0", "epoch_1"))
    monkeypatch.undo()
    train(tmp_path / "run", callback=OUTPUTS)
    assert extractkit.open(tmp_path / "run").status is Status.FINISHED
