"""`model.state=carry` of TFLite files: each sample starts from the state that LiteRT would keep."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import extractkit
from extractkit.core.requests import Value
from extractkit.core.values import Array, State
from extractkit.errors import JobError, UserError
from extractkit.models import Compilation, Fetch
from extractkit.models.litert.model import CarryingTFLiteModel
from extractkit.models.litert.state import CarryingInterpreter
from extractkit.models.tflite import load
from extractkit.runs import JOURNAL, SHARDS
from tests.models.litert.carried_files import written

DRAW = np.random.default_rng(0)
STEPS = {"total": (3,), "recurrent": (5, 3), "lstm": (5, 3), "svdf": (3,), "loop": (3,)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("carried")


def called_in_turn(path: Path, samples: list[Array]) -> list[list[Array]]:
    """Every output of a plain interpreter of LiteRT that is never reset."""
    interpreter = Interpreter(str(path))
    given, outputs = interpreter.get_input_details()[0], interpreter.get_output_details()
    found = []
    for sample in samples:
        interpreter.resize_tensor_input(given["index"], (1, *sample.shape))
        interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], sample[None])
        interpreter.invoke()
        values = [np.asarray(interpreter.get_tensor(one["index"])) for one in outputs]
        found.append([value[0] if value.ndim else value for value in values])
    return found


@pytest.mark.parametrize("xnnpack", [True, False])
@pytest.mark.parametrize("name", STEPS)
def test_calls_are_those_of_an_interpreter_that_keeps_its_state(
    folder: Path, name: str, xnnpack: bool
) -> None:
    path = written(name, folder)
    model = load(str(path), state="carry", xnnpack=xnnpack)
    assert isinstance(model, CarryingTFLiteModel)
    assert model.samples_carried() == 1
    samples = list(DRAW.normal(size=(4, *STEPS[name])).astype(np.float32))
    numbers = [one["index"] for one in Interpreter(str(path)).get_output_details()]
    addresses = {model.found[r.address].index: r.address for r in model.catalog.outputs}
    fetches = [Fetch(Value(addresses[number])) for number in numbers]
    # Everything between inputs and outputs as well, which must not change them.
    beside = [Fetch(Value(r.address)) for r in model.catalog.records if r.extractable]
    beside = [one for one in beside if model.catalog[one.address].depends_on_inputs]
    (feature,) = (spec.name for spec in model.signature.specs)
    for wanted in (fetches, [*fetches, *beside]):
        program = model.carrying_program(wanted, Compilation())
        carried = program.initial
        for sample, expected in zip(samples, called_in_turn(path, samples), strict=True):
            values, carried = program.call({feature: sample[None]}, {}, carried)
            for value, right in zip(values, expected, strict=False):
                np.testing.assert_allclose(value[0], right, rtol=1e-6, atol=1e-6)
        reset = program.from_initial({feature: samples[-1][None]}, {})
        assert any(not np.allclose(*pair) for pair in zip(values, reset, strict=True))
        # The program has no memory: the first state gives the first values again.
        again = program.from_initial({feature: samples[0][None]}, {})
        first = program.call({feature: samples[0][None]}, {}, program.initial)[0]
        for one, other in zip(again, first, strict=True):
            np.testing.assert_array_equal(one, other)


def lines(path: Path, samples: list[Array]) -> Path:
    path.write_text("".join(f'{{"x": {sample.tolist()}}}\n' for sample in samples))
    return path


def run(folder: Path, name: str, *more: str) -> Any:
    return extractkit.extract(
        [
            *("model=tflite", f"model.path={folder}/stream.tflite", "model.state=carry"),
            *("selectors=[outputs,ops]", "runtime.shard_size=4"),
            *("inputs=texts", f"inputs.path={folder}/x.jsonl", *more),
        ],
        run_dir=folder / name,
    )


LENGTHS = (3, 1, 2, 5, 4, 1, 1, 6, 2, 3)


@pytest.fixture(scope="module")
def place(folder: Path) -> Path:
    """A folder with a streaming model, samples of several lengths, and a finished run."""
    written("stream", folder)
    samples = [DRAW.normal(size=(length, 2)).astype(np.float32) for length in LENGTHS]
    lines(folder / "x.jsonl", samples)
    np.savez(folder / "x.npz", *samples)
    run(folder, "whole")
    return folder


def bits(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((directory / SHARDS).iterdir())}


def test_a_run_has_the_values_of_one_stream(place: Path) -> None:
    """Against LiteRT, and against the same in NumPy."""
    found = extractkit.open(place / "whole")
    samples = list(np.load(place / "x.npz").values())
    mean, count = (found[f":output.{name}"] for name in ("mean", "count"))
    buffer, number = np.arange(8.0).reshape(4, 2), 7
    for at, (sample, own) in enumerate(
        zip(samples, called_in_turn(place / "stream.tflite", samples), strict=True)
    ):
        joined = np.concatenate([buffer, np.tanh(sample * np.array([2.0, 3]))])
        buffer, number = joined[-4:], number + len(sample)
        np.testing.assert_allclose(mean.sample(at), joined.mean(0), rtol=1e-5, atol=1e-6)
        assert count.sample(at) == number
        assert any(np.array_equal(mean.sample(at), one) for one in own)
    assert found.manifest.model["state"] == "carry"
    assert found.manifest.model["states"] == ["count", "buffer"]
    (check,) = found.manifest.volatile.self_check
    assert check.samples == 2  # the first call, and one that starts from its state


def test_how_samples_are_cut_into_shards_changes_no_bit(place: Path) -> None:
    whole, other = extractkit.open(place / "whole"), run(place, "one", "runtime.shard_size=10")
    for address, view in whole.items():
        for at in range(len(LENGTHS)):
            np.testing.assert_array_equal(view.sample(at), other[address].sample(at))


def _interrupted(directory: Path) -> None:
    """What a process leaves that is killed before the last shard."""
    written_lines = (directory / JOURNAL).read_text().splitlines(keepends=True)
    (directory / JOURNAL).write_text("".join(written_lines[:-1]))


def _without_a_state(directory: Path) -> None:
    (directory / SHARDS / "000000004-000000008.state.npz").unlink()


def _without_any_shard(directory: Path) -> None:
    for path in (directory / SHARDS).iterdir():
        path.unlink()


@pytest.mark.parametrize("fault", [_interrupted, _without_a_state, _without_any_shard])
def test_a_resumed_run_is_bitwise_equal(
    place: Path, tmp_path: Path, fault: Callable[[Path], None]
) -> None:
    shutil.copytree(place / "whole", tmp_path / "run")
    fault(tmp_path / "run")
    extractkit.resume(tmp_path / "run")
    assert bits(tmp_path / "run") == bits(place / "whole")


def test_verify_computes_shards_from_the_stored_states(place: Path) -> None:
    assert not extractkit.verify(place / "whole", recompute=3).failed


def _from_initial(self: CarryingInterpreter, arrays: Any, state: State) -> State:
    self.call(arrays)
    return state


def test_a_job_checks_that_the_state_is_carried(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every call from the initial state, where it should take over the one before."""
    monkeypatch.setattr(CarryingInterpreter, "call_from", _from_initial)
    with pytest.raises(JobError, match=r"^runtime\.self_check: "):
        run(place, "wrong")
    assert not list((place / "wrong" / SHARDS).iterdir())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "runtime.batch_size=4",
            "runtime.batch_size=4 and model.state=carry: the model keeps the state of one stream "
            "and takes one sample per call. Leave runtime.batch_size out",
        ),
        (
            "runtime.part=1/2",
            "runtime.part=1/2 and model.state=carry: each sample starts from the state that the "
            "samples before it left, so the job has no parts. Leave runtime.part out",
        ),
        ("model.state=keep", "model.state='keep' is not a policy. Available: 'carry', 'reset'."),
    ],
)
def test_what_would_break_the_order_is_refused(place: Path, given: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        run(place, "refused", given)
    assert str(raised.value) == message


def _uninitialised(model: Any) -> None:
    """Let the first call start from a variable that nothing has assigned."""
    main = model.subgraphs[0]
    main.operators = main.operators[1:]  # CALL_ONCE


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "float32",
            None,
            "model.state=carry: model.path='FILE' keeps no state from call to call, so there is "
            "nothing to carry. Leave model.state out",
        ),
        (
            "random",
            None,
            "model.state=carry: model.path='FILE': random numbers go into the state. Use "
            "model.state=reset",
        ),
        (
            "lacking",
            None,
            "model.state=carry: model.path='FILE': the state cannot be computed: it needs FlexErf "
            "(operation 2), TensorFlow's own operation Erf: LiteRT's Python package runs none of "
            "those (SELECT_TF_OPS, Flex). Extract from the model that was converted, such as a "
            "SavedModel. Use model.state=reset",
        ),
        (
            "total",
            _uninitialised,
            "model.state=carry: model.path='FILE': variable 'total' has no initial value in the "
            "file. Use model.state=reset",
        ),
    ],
)
def test_files_whose_state_cannot_be_carried(
    tmp_path: Path, name: str, change: Callable[[Any], None] | None, message: str
) -> None:
    path = written(name, tmp_path, change)
    with pytest.raises(UserError) as raised:
        load(str(path), state="carry")
    assert str(raised.value) == message.replace("FILE", str(path))
    load(str(path), state="reset")  # as the message advises


def test_a_variable_without_an_initial_value_has_no_value_to_read(tmp_path: Path) -> None:
    """LiteRT with XNNPACK reads memory with any content there, and reports no error."""
    model = load(str(written("total", tmp_path, _uninitialised)), state="reset")
    reason = "it needs variable 'total', which has no initial value"
    assert model.catalog[":output.total"].reason == reason
    double = model.program([Fetch(Value(":output.double"))], Compilation())
    assert double({"x": np.ones((1, 3), np.float32)}, {})[0].tolist() == [[2, 2, 2]]


def test_what_follows_random_numbers_by_way_of_a_state_is_refused(folder: Path) -> None:
    catalog = load(str(written("random", folder)), state="reset").catalog
    assert "random" in (catalog[":output.y"].reason or "")
    assert catalog[":output.z"].extractable


@pytest.mark.parametrize(("policy", "warned"), [(None, True), ("reset", False), ("carry", False)])
def test_starting_from_the_initial_state_is_warned_about(
    folder: Path, policy: str | None, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path = written("recurrent", folder)
    with caplog.at_level(logging.WARNING, "extractkit"):
        load(str(path), state=policy)
    message = (
        f"model.path={str(path)!r} keeps a state ('state'): each call starts from the initial "
        "state. LiteRT's invoke() carries it from call to call. To carry it: model.state=carry; to "
        "hide this warning: model.state=reset"
    )
    assert caplog.messages == ([message] if warned else [])
