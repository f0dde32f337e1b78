"""A sample is to blame for what its values can cause, and for nothing else."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import extractkit
from extractkit.core.component import Component
from extractkit.core.requests import Value
from extractkit.errors import JobError, SampleError
from extractkit.models import Compilation, Fetch, Model, frozen_graph, module, tflite
from extractkit.models.failures import batch_failure, out_of_memory
from extractkit.models.functions import FunctionModel
from extractkit.models.litert.interpreter import Interpreter
from tests.models import session_graphs
from tests.models.tflite_zoo import written

TABLE = np.array([[1.0], [2.0], [3.0]], "float32")
GOOD, BAD = np.array([[2], [0], [1]], "int32"), np.array([[2], [0], [7]], "int32")
AT = {"at": {"dims": ["sample", 1], "dtype": "int32"}}


def looks_up() -> Any:
    return lambda at: tf.gather(TABLE, at)


def exhausts(error: type[Exception], *arguments: object) -> Any:
    """Looks up too, but fails with this whenever it meets a 7."""

    def compute(at: tf.Tensor) -> tf.Tensor:
        if (at.numpy() == 7).any():
            raise error(*arguments)
        return tf.gather(TABLE, at)

    return compute


def eager(build: Any, **arguments: object) -> Model:
    factory = Component("model.factory", f"{__name__}.{build.__name__}", arguments)
    return module.load(factory, input_axes=AT, eager=True)


def function(path: Path) -> Model:
    return module.load(Component("model.factory", f"{__name__}.looks_up"), input_axes=AT)


def session(path: Path) -> Model:
    def build() -> None:
        at = tf.compat.v1.placeholder(tf.int32, [None, 1], "at")
        tf.identity(tf.gather(TABLE, at), name="y")

    return frozen_graph.load(str(session_graphs.frozen(build, ["y"], path / "m.pb")))


def eagerly(path: Path) -> Model:
    return eager(looks_up)


def missing(model: Model, ids: Any, directory: Path) -> list[int]:
    settings = ["selectors=outputs", "runtime.bad_samples=skip"]
    run = extractkit.extract(settings, model=model, inputs=ids, run_dir=directory)
    (key,) = run
    for at in set(range(len(ids))) - set(run.missing):
        np.testing.assert_array_equal(run[key].sample(at), TABLE[ids[at]])
    return list(run.missing)


@pytest.mark.parametrize("build", [function, session, eagerly])
def test_an_index_that_is_none_is_the_samples_fault(build: Any, tmp_path: Path) -> None:
    """Against the plain look-up of NumPy."""
    model = build(tmp_path)
    (output,) = [r.address for r in model.catalog.records if r.kind == "model_output"]
    program = model.program([Fetch(Value(output))], Compilation())
    with pytest.raises(SampleError, match=r"failed on a batch: .*is not in \[0, 3\)"):
        program({"at": BAD}, {})
    with pytest.raises(SampleError, match=r"is not in \[0, 3\)"):
        model.own_call().outputs({"at": BAD}, {})
    assert missing(model, BAD, tmp_path / "run") == [2]


SHORT = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")


def exploding(program: Any, error: Exception) -> Any:
    def run(features: Any, lengths: Any) -> Any:
        if (features["at"] == 7).any():
            raise batch_failure("m", error)
        return program(features, lengths)

    return run


@pytest.mark.parametrize("error", [SHORT, MemoryError("no room")], ids=["graph", "python"])
def test_memory_that_is_short_ends_the_job(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = function(tmp_path)
    build = FunctionModel.program
    monkeypatch.setattr(FunctionModel, "program", lambda *given: exploding(build(*given), error))
    expected = JobError if error is SHORT else MemoryError
    with pytest.raises(expected, match=r"OOM when allocating|no room") as caught:
        missing(model, BAD, tmp_path / "run")
    assert not isinstance(caught.value, SampleError)
    assert missing(model, GOOD, tmp_path / "good") == []


@pytest.mark.parametrize("error", [MemoryError, OSError, RuntimeError])
def test_what_python_code_cannot_help_ends_the_job(error: type[Exception], tmp_path: Path) -> None:
    model = eager(exhausts, error=error)
    with pytest.raises((MemoryError, JobError)) as caught:
        missing(model, BAD, tmp_path / "run")
    assert not isinstance(caught.value, SampleError)
    assert isinstance(caught.value, MemoryError) == (error is MemoryError)


def test_what_python_code_says_of_a_value_is_the_samples_fault(tmp_path: Path) -> None:
    assert missing(eager(exhausts, error=ValueError), BAD, tmp_path / "run") == [2]


@pytest.mark.parametrize(
    ("error", "expected"),
    [(RuntimeError, SampleError), (ValueError, SampleError), (MemoryError, MemoryError)],
)
def test_of_litert_all_but_memory_is_the_samples_fault(
    error: type[Exception],
    expected: type[Exception],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tflite.load(str(written("float32", tmp_path)))
    (output,) = [r.address for r in model.catalog.records if r.kind == "model_output"]
    program = model.program([Fetch(Value(output))], Compilation())
    (spec,) = model.signature.specs
    features = {spec.name: np.zeros((1, *(size or 2 for size in spec.shape)), spec.dtype)}

    def failing(*_: object) -> None:
        raise error("it broke")

    monkeypatch.setattr(Interpreter, "call", failing)
    with pytest.raises(expected, match="it broke"):
        program(features, {axis: np.array([2], "int32") for axis in model.signature.free_axes})


_ERRORS = tf.errors


@pytest.mark.parametrize(
    ("error", "blamed"),
    [
        (_ERRORS.InvalidArgumentError, True), (_ERRORS.OutOfRangeError, True),
        (_ERRORS.FailedPreconditionError, True), (_ERRORS.UnimplementedError, True),
        (_ERRORS.ResourceExhaustedError, False), (_ERRORS.AbortedError, False),
        (_ERRORS.UnavailableError, False), (_ERRORS.InternalError, False),
        (_ERRORS.CancelledError, False), (_ERRORS.DeadlineExceededError, False),
        (_ERRORS.UnknownError, False), (_ERRORS.DataLossError, False),
    ],
)  # fmt: skip
def test_of_tensorflows_errors_those_of_values_are(error: Any, blamed: bool) -> None:
    found = batch_failure("m", error(None, None, "what it says"))
    assert isinstance(found, SampleError) == blamed
    assert str(found) == "model 'm' failed on a batch: what it says"


class Exhausting(keras.layers.Layer):
    """A layer whose call raises what it is given; Keras puts an error of its own in its place."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def call(self, x: Any) -> Any:
        raise self.error


@pytest.mark.parametrize("short", [True, False])
def test_shortage_of_memory_is_reported_from_other_errors_behind_those_of_libraries(
    short: bool,
) -> None:
    kind = tf.errors.ResourceExhaustedError if short else tf.errors.InternalError
    error = kind(None, None, "OOM when allocating tensor")
    with pytest.raises(Exception) as caught:  # noqa: PT011 - of which type, Keras decides
        Exhausting(error)(np.ones((1, 2), "float32"))
    by_keras = caught.value
    with pytest.raises(JobError) as replaced:
        raise batch_failure("m", error) from error
    assert [out_of_memory(one) for one in (error, by_keras, replaced.value)] == [short] * 3
    assert out_of_memory(MemoryError())
