"""`model.state=carry`: each batch of a stateful model starts from the state before it."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tf_keras
from blake3 import blake3

import extractkit
from extractkit.core.requests import Value
from extractkit.core.values import Array
from extractkit.errors import JobError, ModelError, UserError
from extractkit.models import CarriesState, CarryingProgram, Compilation, Fetch
from extractkit.models.in_memory import live_model
from extractkit.models.keras_models.carrying import CarryingModel
from extractkit.runs import JOURNAL, SHARDS
from tests.models.keras_models.test_probing import lstm_step
from tests.models.keras_models.test_stateful import fresh, recurrent

ROWS = 2
X = np.random.default_rng(0).normal(size=(12, 5, 3)).astype(np.float32)
BOTH = pytest.mark.parametrize("package", [keras, tf_keras], ids=["Keras 3", "Keras 2"])


def deep(package: Any) -> Any:
    """A model of an LSTM, a bidirectional GRU and a stack of cells, all of which keep a state."""
    layers = package.layers
    both = layers.Bidirectional(layers.GRU(3, stateful=True, return_sequences=True), name="both")
    cells = [layers.LSTMCell(2), layers.GRUCell(3)]
    stack = layers.RNN(cells, stateful=True, return_sequences=True, name="stack")
    return recurrent(package, ROWS, both, stack)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a stateful model, its samples, and a run that carries its state."""
    folder = tmp_path_factory.mktemp("carrying")
    recurrent(keras, ROWS).save(folder / "model.keras")
    np.save(folder / "x.npy", X)
    run(folder, "whole")
    return folder


def run(folder: Path, name: str, *more: str, inputs: str = "arrays", file: str = "x.npy") -> Any:
    return extractkit.extract(
        [
            *("model=keras", f"model.path={folder}/model.keras", "model.state=carry"),
            *("selectors=layers", "runtime.shard_size=4", *more),
            *(f"inputs={inputs}", f"inputs.path={folder / file}"),
        ],
        run_dir=folder / name,
    )


def bits(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((directory / SHARDS).iterdir())}


@BOTH
def test_a_program_carries_the_states_of_all_layers(package: Any) -> None:
    model = deep(package)
    wrapped = live_model(model, state="carry")
    assert isinstance(wrapped, CarriesState)
    program = wrapped.carrying_program([Fetch(Value(":output"))], Compilation())
    state, found = program.initial, []
    for start in range(0, len(X), ROWS):
        (values,), state = program.call({"x": X[start : start + ROWS]}, {}, state)
        found.append(values)
    again = model(X[:ROWS])  # the model's own state is still the initial one
    np.testing.assert_allclose(again, found[0], atol=1e-6)
    expected = fresh(package, model).predict(X, batch_size=ROWS, verbose=0)
    np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-6)


KEPT = {"stateful": True, "return_sequences": True}
# Recurrent layers that keep a state, of every kind that keeps it in another way.
RECURRENT: dict[str, Callable[[Any], Any]] = {
    "lstm": lambda layers: layers.LSTM(3, name="r", **KEPT),
    "gru": lambda layers: layers.GRU(3, name="r", **KEPT),
    "simple": lambda layers: layers.SimpleRNN(3, name="r", **KEPT),
    "last": lambda layers: layers.LSTM(3, name="r", stateful=True),
    "unrolled": lambda layers: layers.GRU(3, name="r", unroll=True, **KEPT),
    "both ways": lambda layers: layers.Bidirectional(layers.GRU(3, **KEPT), name="r"),
    "stack": lambda layers: layers.RNN([layers.LSTMCell(2), layers.GRUCell(3)], name="r", **KEPT),
    "masked": lambda layers: layers.LSTM(3, name="r", **KEPT),
    "pictures": lambda layers: layers.ConvLSTM2D(2, 3, name="r", **KEPT),
}


def of_layer(package: Any, name: str) -> Any:
    """A model of one recurrent layer."""
    shape = (3, 6, 6, 1) if name == "pictures" else (5, 3)
    x = package.layers.Input(batch_shape=(ROWS, *shape), name="x")
    y = package.layers.Masking(0.0)(x) if name == "masked" else x
    return package.Model(x, RECURRENT[name](package.layers)(y))


@BOTH
@pytest.mark.parametrize("name", RECURRENT)
def test_from_the_initial_state_every_tensor_is_that_of_a_single_call(
    package: Any, name: str
) -> None:
    """Both traces of a model mean the same by an address, or one of them does not offer it."""
    wrapped = live_model(of_layer(package, name), state="carry")
    assert isinstance(wrapped, CarriesState)
    records = [one for one in wrapped.catalog.records if one.extractable and one.depends_on_inputs]
    assert {"r:output", ":output"} <= {one.address for one in records}
    fetches = [Fetch(Value(one.address)) for one in records]
    shape = wrapped.signature.specs[0].shape
    x = np.random.default_rng(1).normal(size=(ROWS, *(n or 1 for n in shape))).astype(np.float32)
    carried = wrapped.carrying_program(fetches, Compilation()).from_initial({"x": x}, {})
    single = wrapped.program(fetches, Compilation())({"x": x}, {})
    for fetch, one, other in zip(fetches, carried, single, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6, err_msg=fetch.address)


class Ones(keras.layers.SimpleRNNCell):
    """A cell whose initial state is ones."""

    def get_initial_state(self, batch_size: Any = None) -> Any:
        return [keras.ops.ones((batch_size, self.state_size))]


def test_the_initial_state_is_that_of_a_model_that_has_just_been_built() -> None:
    def build() -> Any:
        x = keras.Input(batch_shape=(ROWS, 5, 3), name="x")
        keras.utils.set_random_seed(0)
        return keras.Model(x, keras.layers.RNN(Ones(3), stateful=True, name="r")(x))

    wrapped = live_model(build(), state="carry")
    assert isinstance(wrapped, CarriesState)
    program = wrapped.carrying_program([Fetch(Value(":output"))], Compilation())
    (found,) = program.from_initial({"x": X[:ROWS]}, {})
    expected = build().predict(X[:ROWS], batch_size=ROWS, verbose=0)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_layers_that_do_not_know_the_size_of_a_batch() -> None:
    class Sub(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="sub")
            self.lstm = keras.layers.LSTM(3, stateful=True, name="lstm")

        def call(self, x: Any) -> Any:
            return self.lstm(x)

    with pytest.raises(ModelError) as raised:
        live_model(Sub(), state="carry", example=X[:ROWS]).samples_carried()  # type: ignore[attr-defined]
    assert str(raised.value) == (
        "model.state=carry: the stateful layers ('lstm') do not know the size of a batch yet. "
        "Call the model on one batch where it is built, for example in model.factory"
    )
    model = Sub()
    model(X[:ROWS])
    wrapped = live_model(model, state="carry", example=X[:ROWS])
    assert isinstance(wrapped, CarriesState)
    assert wrapped.samples_carried() == ROWS


@BOTH
def test_a_run_has_the_values_of_predict_over_all_batches_in_order(
    package: Any, tmp_path: Path
) -> None:
    model = recurrent(package, ROWS)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", X)
    found = run(tmp_path, "run")
    expected = fresh(package, model).predict(X, batch_size=ROWS, verbose=0)
    np.testing.assert_allclose(np.asarray(found["out:output"]), expected, atol=1e-6)
    reset = fresh(package, model).predict(X[ROWS : 2 * ROWS], batch_size=ROWS, verbose=0)
    assert np.abs(expected[ROWS : 2 * ROWS] - reset).max() > 1e-3  # carrying matters
    assert found.manifest.model["state"] == "carry"
    assert found.manifest.model["stateful_layers"] == ["lstm"]


def test_every_step_is_that_of_a_recurrence_in_float64(place: Path) -> None:
    model = keras.models.load_model(place / "model.keras")
    weights = [np.asarray(one, np.float64) for one in model.get_layer("lstm").get_weights()[:3]]
    state: tuple[Array, Array] = (np.zeros((ROWS, 4)), np.zeros((ROWS, 4)))
    expected = []
    for start in range(0, len(X), ROWS):
        steps = []
        for step in range(X.shape[1]):
            state = lstm_step(weights, X[start : start + ROWS, step], state)
            steps.append(state[0])
        expected.append(np.stack(steps, 1))
    found = np.asarray(extractkit.open(place / "whole")["lstm:output"])
    np.testing.assert_allclose(found, np.concatenate(expected), atol=1e-5)


def test_how_samples_are_cut_into_shards_changes_no_bit(place: Path) -> None:
    other = run(place, "one shard", "runtime.shard_size=12")
    whole = extractkit.open(place / "whole")
    for address, view in whole.items():
        np.testing.assert_array_equal(np.asarray(view), np.asarray(other[address]))


CARRYING_PROGRAM = CarryingModel.carrying_program


def with_states_swapped(model: CarryingModel, *given: Any) -> CarryingProgram:
    """Take the two states of an LSTM for each other."""
    program = CARRYING_PROGRAM(model, *given)

    def call(*arguments: Any) -> Any:
        values, state = program.call(*arguments)
        return values, state[::-1]

    return replace(program, call=call)


@BOTH
def test_a_job_checks_that_the_state_is_carried(
    package: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recurrent(package, ROWS).save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", X)
    found = run(tmp_path, "right")
    (check,) = found.manifest.volatile.self_check
    assert (check.samples, check.outputs) == (2 * ROWS, (":output",))
    monkeypatch.setattr(CarryingModel, "carrying_program", with_states_swapped)
    with pytest.raises(JobError, match=r"^runtime\.self_check: ':output' is not the model's own"):
        run(tmp_path, "wrong")
    assert not list((tmp_path / "wrong" / SHARDS).iterdir())


def _without_a_shard(directory: Path) -> None:
    (directory / SHARDS / "000000004-000000008.h5").unlink()


def _without_a_state(directory: Path) -> None:
    (directory / SHARDS / "000000004-000000008.state.npz").unlink()


def _unnamed_state(directory: Path) -> None:
    _rewrite(directory, lambda record: record.update(state=None))


def _with_a_damaged_state(directory: Path) -> None:
    path = directory / SHARDS / "000000000-000000004.state.npz"
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def _interrupted(directory: Path) -> None:
    """What a process leaves that is killed before the last shard."""
    lines = (directory / JOURNAL).read_text().splitlines(keepends=True)
    (directory / JOURNAL).write_text("".join(lines[:-1]))


def _without_any_shard(directory: Path) -> None:
    for path in (directory / SHARDS).iterdir():
        path.unlink()


@pytest.mark.parametrize(
    "fault",
    [
        _without_a_shard,
        _without_a_state,
        _with_a_damaged_state,
        _unnamed_state,
        _interrupted,
        _without_any_shard,
    ],
)
def test_a_resumed_run_is_bitwise_equal(
    place: Path, tmp_path: Path, fault: Callable[[Path], None]
) -> None:
    shutil.copytree(place / "whole", tmp_path / "run")
    fault(tmp_path / "run")
    extractkit.resume(tmp_path / "run")
    assert bits(tmp_path / "run") == bits(place / "whole")


def test_verify_computes_shards_from_the_stored_states(place: Path, tmp_path: Path) -> None:
    assert not extractkit.verify(place / "whole", recompute=3).failed
    shutil.copytree(place / "whole", tmp_path / "run")
    _swap_states(tmp_path / "run")
    result = extractkit.verify(tmp_path / "run", recompute=3)
    assert result.failed
    reported = [str(finding.message) for check in result.checks for finding in check.findings]
    assert any("it differs when computed again" in message for message in reported)


def _swap_states(directory: Path) -> None:
    """Let a shard record the state of another as its own: only computing can find it."""
    states = sorted((directory / SHARDS).glob("*.state.npz"))
    first, second = (path.read_bytes() for path in states[:2])
    assert first != second
    states[0].write_bytes(second)

    def swapped(record: dict[str, Any]) -> dict[str, Any]:
        if states[0].name in record.get("state", {}).get("name", ""):
            record["state"]["digest"] = f"blake3:{blake3(second).hexdigest()}"
            record["state"]["size"] = len(second)
        return record

    _rewrite(directory, swapped)


def _rewrite(directory: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the records of a journal, and their checksums with them."""

    def text(record: dict[str, Any]) -> str:
        return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    lines = []
    for line in (directory / JOURNAL).read_text().splitlines():
        record = json.loads(line)
        del record["checksum"]
        change(record)
        record["checksum"] = hashlib.sha256(text(record).encode()).hexdigest()[:16]
        lines.append(f"{text(record)}\n")
    (directory / JOURNAL).write_text("".join(lines))


def test_the_policy_is_part_of_the_identity(place: Path) -> None:
    carried = extractkit.open(place / "whole")
    reset = run(place, "reset", "model.state=reset")
    assert carried.manifest.identity != reset.manifest.identity
    assert reset.manifest.model["state"] == "reset"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "runtime.engine=processes",
            "runtime.engine=processes and model.state=carry: each sample starts from the state "
            "that the samples before it left, so one process computes them all. Use "
            "runtime.engine=local",
        ),
        (
            "runtime.part=1/2",
            "runtime.part=1/2 and model.state=carry: each sample starts from the state that the "
            "samples before it left, so the job has no parts. Leave runtime.part out",
        ),
        (
            "runtime.bad_samples=skip",
            "runtime.bad_samples=skip and model.state=carry: each sample starts from the state "
            "that the samples before it left, so none of them can be missing. Use "
            "runtime.bad_samples=fail",
        ),
        (
            "runtime.non_finite=skip",
            "runtime.non_finite=skip and model.state=carry: each sample starts from the state "
            "that the samples before it left, so none of them can be missing. Use "
            "runtime.non_finite=fail",
        ),
        (
            "runtime.batch_size=1",
            "runtime.batch_size=1 and model.state=carry: the model keeps the states of batches of "
            "2 samples. Leave runtime.batch_size out",
        ),
        (
            "runtime.batch_tokens=64",
            "runtime.batch_tokens=64 and model.state=carry: the model keeps the states of batches "
            "of 2 samples. Leave runtime.batch_tokens out",
        ),
        (
            "runtime.shard_size=3",
            "runtime.shard_size=3 and model.state=carry: a shard holds whole batches, and the "
            "model keeps the states of batches of 2 samples. Use runtime.shard_size=4",
        ),
        (
            "inputs.limit=7",
            "inputs holds 7 samples, and with model.state=carry each call takes exactly 2: 1 would "
            "be left over. Give inputs.limit=6",
        ),
        (
            "model.checkpoints=FOLDER/*.keras",
            "model.state=carry and model.checkpoints: state is carried with one set of weights. "
            "Make a run of each: in the same command, replace model.checkpoints (and "
            "model.checkpoint_step) by -m model.checkpoint=FOLDER/model.keras",
        ),
        ("model.state=keep", "model.state='keep' is not a policy. Available: 'carry', 'reset'."),
    ],
)
def test_what_would_break_the_order_is_refused(place: Path, given: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        run(place, "refused", given.replace("FOLDER", str(place)))
    assert str(raised.value) == message.replace("FOLDER", str(place))
    assert not (place / "refused").exists()


def test_a_model_without_a_state_has_none_to_carry(place: Path, tmp_path: Path) -> None:
    x = keras.Input((5, 3))
    keras.Model(x, keras.layers.Dense(2)(x), name="plain").save(tmp_path / "model.keras")
    shutil.copy(place / "x.npy", tmp_path)
    with pytest.raises(UserError) as raised:
        run(tmp_path, "run")
    assert str(raised.value) == (
        "model.state=carry: no layer of 'plain' keeps a state (stateful=True), so there is nothing "
        "to carry. Leave model.state out"
    )


def test_samples_of_a_batch_have_equal_lengths(tmp_path: Path) -> None:
    x = keras.layers.Input(batch_shape=(ROWS, None, 3), name="x")
    y = keras.layers.LSTM(4, stateful=True, return_sequences=True, name="lstm")(x)
    model = keras.Model(x, y)
    model.save(tmp_path / "model.keras")

    def lines(name: str, lengths: list[int]) -> list[Array]:
        samples = [X[at, :length] for at, length in enumerate(lengths)]
        rows = "".join(f"{json.dumps({'x': sample.tolist()})}\n" for sample in samples)
        (tmp_path / name).write_text(rows)
        return samples

    def extract(name: str) -> Any:
        return run(tmp_path, name, inputs="texts", file=f"{name}.jsonl")

    lines("uneven.jsonl", [3, 3, 2, 4])
    with pytest.raises(UserError) as raised:
        extract("uneven")
    assert str(raised.value) == (
        "samples 2 and 3 share a batch with model.state=carry, and their lengths along 'axis1' are "
        "2 and 4: padding would change the state. Give samples of equal lengths to each batch of 2"
    )
    samples = lines("even.jsonl", [3, 3, 5, 5, 1, 1])
    found = extract("even")
    reference = fresh(keras, model)
    for at in range(0, 6, ROWS):
        batch = np.stack(samples[at : at + ROWS])
        expected = np.asarray(reference(batch))
        for row in range(ROWS):
            np.testing.assert_allclose(
                found["lstm:output"].sample(at + row), expected[row], atol=1e-6
            )
