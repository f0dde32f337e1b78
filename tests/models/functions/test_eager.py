"""`model.eager=true`: a function run as Python runs it."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from extractkit.errors import ConfigError, JobError, ModelError
from extractkit.job import Component
from extractkit.models.module import load
from extractkit.models.protocol import Compilation, Fetch, Model
from extractkit.tensors import Kind
from extractkit.testing.models import ModelContract


def sorted_rows(x: tf.Tensor) -> dict[str, tf.Tensor]:
    """NumPy in the middle, which no trace can follow."""
    doubled = x * 2.0
    ordered = tf.constant(np.sort(doubled.numpy(), axis=-1))
    return {"ordered": ordered + 1.0, "largest": tf.reduce_max(ordered, axis=-1)}


class Scale(tf.Module):
    def __init__(self) -> None:
        self.factor = tf.Variable([2.0, 3.0], name="factor")

    @tf.function
    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return tf.nn.relu(x * self.factor)


def of_the_batch(x: tf.Tensor) -> tf.Tensor:
    return tf.exp(x) if float(tf.reduce_sum(x)) > 100.0 else x + 1.0


def fails(x: tf.Tensor) -> tf.Tensor:
    raise RuntimeError("out of luck")


def model(name: str, itself: bool = True, **arguments: object) -> Model:
    factory = Component("model.factory", f"{__name__}.{name}", partial=itself)
    return load(factory, eager=True, **arguments)  # type: ignore[arg-type]


X = {"x": {"dims": ["sample", "time"]}}
PAIR = {"x": {"dims": ["sample", 2]}}


class TestEagerFunction(ModelContract):
    def model(self) -> Model:
        return model("sorted_rows", inputs=X)


class TestEagerModule(ModelContract):
    def model(self) -> Model:
        return model("Scale", itself=False, inputs=PAIR)


class TestOneSampleACall(ModelContract):
    def model(self) -> Model:
        return model("Scale", itself=False, inputs={"x": {"dims": [3, 2]}})


def test_values_agree_with_numpy(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(70, 5)).astype(np.float32)
    from extractkit import extract

    run = extract(
        [
            "model=module", f"model.factory._target_={__name__}.sorted_rows",
            "model.factory._partial_=true", "model.eager=true",
            "model.inputs={x: {dims: [sample, 5]}}", "+selectors.all.path=*",
        ],
        inputs=x,
        run_dir=tmp_path / "run",
    )  # fmt: skip
    np.testing.assert_array_equal(np.asarray(run[":input.x"]), x)
    np.testing.assert_array_equal(np.asarray(run[":op/Mul"]), x * 2)
    np.testing.assert_array_equal(np.asarray(run[":output.ordered"]), np.sort(x * 2) + 1)
    np.testing.assert_array_equal(np.asarray(run[":output.largest"]), (x * 2).max(-1))


def test_operations_inside_a_nested_function_are_seen() -> None:
    catalog = model("Scale", itself=False, inputs=PAIR).catalog
    assert [r.address for r in catalog.records if r.kind is Kind.OP and r.extractable] == [
        ":op/Mul",
        ":op/Relu",
    ]
    assert catalog[":factor"].kind is Kind.WEIGHT


def test_values_of_nothing() -> None:
    factory = Component("model.factory", "tests.models.test_module.values")
    given = load(factory, eager=True)
    (scaled,) = given.constants([Fetch(":output.scaled")])
    np.testing.assert_array_equal(scaled, [[3.0, 6.0]])


def test_functions_are_traced_again_afterwards() -> None:
    model("Scale", itself=False, inputs=PAIR).catalog  # noqa: B018
    assert not tf.config.functions_run_eagerly()


def test_another_path_ends_the_job() -> None:
    given = model("of_the_batch", inputs=PAIR)
    program = given.program([Fetch(":op/AddV2")], Compilation())
    (value,) = program({"x": np.ones((2, 2), np.float32)}, {})
    np.testing.assert_array_equal(value, np.full((2, 2), 2.0))
    with pytest.raises(JobError, match=r"took another path on this batch: it ran no ':op/AddV2'"):
        program({"x": np.full((2, 2), 99.0, np.float32)}, {})


def test_nothing_is_compiled() -> None:
    with pytest.raises(ConfigError, match=r"runtime\.compile=xla: model\.eager=true runs"):
        model("sorted_rows", inputs=X).program([], Compilation(compile="xla"))


def test_what_fails_says_so() -> None:
    with pytest.raises(ModelError, match=r"made-up values: .*RuntimeError: out of luck"):
        model("fails", inputs=X).catalog  # noqa: B018
