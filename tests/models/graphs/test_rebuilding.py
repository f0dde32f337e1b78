"""A program computes what was asked for and what that needs, nothing else."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from extractkit.core.requests import Value
from extractkit.errors import JobError
from extractkit.models import Compilation, Fetch
from extractkit.models.graphs.purity import dependent_operations
from extractkit.models.graphs.rebuilding import tensors_in_graph
from extractkit.models.in_memory import live_model
from extractkit.models.keras_models.model import KerasModel
from tests.models.programs import values_of
from tests.models.zoo import MODELS, drawn

BATCH = {"x": np.ones((2, 4), np.float32)}


class Failing(layers.Layer):
    """Fails whenever it runs, and as an operation that others wait for by control edge."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        failed = tf.debugging.Assert(tf.reduce_all(x > 1e9), ["too small"])
        with tf.control_dependencies([failed]):
            return x * 2.0


@pytest.fixture(scope="module")
def model() -> KerasModel:
    x = keras.Input((4,), name="x")
    first = layers.Dense(3, name="first")(x)
    failing = Failing(name="failing")(first)
    return live_model(keras.Model(x, [failing, layers.Dense(2, name="beside")(first)]), "m")


def test_what_is_not_needed_does_not_run(model: KerasModel) -> None:
    first = model.keras_model.get_layer("first")
    found = values_of(model, ["first:output", "failing:input", "beside:output"], BATCH)
    np.testing.assert_allclose(found["first:output"], first(BATCH["x"]), atol=1e-6)


@pytest.mark.parametrize("address", ["failing:output", ":output"])
def test_what_is_needed_does_run(model: KerasModel, address: str) -> None:
    with pytest.raises(JobError, match=r"^model 'm' failed on a batch: "):
        values_of(model, [address], BATCH)


def test_model_inputs_can_be_fetched_alone_and_twice(model: KerasModel) -> None:
    found = values_of(model, [":input.x", "first:input"], BATCH)
    for value in found.values():
        np.testing.assert_array_equal(value, BATCH["x"])


def test_weights_stay_variables(model: KerasModel) -> None:
    program = model.program([Fetch(Value("first:output"))], Compilation())
    kernel = model.keras_model.get_layer("first").kernel
    before = program(BATCH, {})[0]
    kept = kernel.numpy()
    kernel.assign(kept * 3.0)
    np.testing.assert_allclose(program(BATCH, {})[0], before * 3.0, rtol=1e-5)
    kernel.assign(kept)


def test_no_weight_is_copied_into_the_graph() -> None:
    x = keras.Input((100,), name="x")
    model = live_model(keras.Model(x, layers.Dense(200, name="wide")(x)))
    the_trace = model.graph

    def rebuilt(features: tf.Tensor) -> list[tf.Tensor]:
        return tensors_in_graph(
            the_trace, {"x": features}, [the_trace.calls[0].outputs["output"].name]
        )

    graph = tf.function(rebuilt).get_concrete_function(tf.TensorSpec([None, 100])).graph
    assert graph.as_graph_def().ByteSize() < 100 * 200 * 4 / 8
    assert [op.type for op in graph.get_operations()].count("ReadVariableOp") == 2


def test_only_what_is_needed_is_imported() -> None:
    x = keras.Input((4,), name="x")
    exponential = layers.Activation("exponential", name="e")(x)
    model = live_model(keras.Model(x, layers.Activation("tanh")(exponential)))
    the_trace = model.graph
    wanted = next(call for call in the_trace.calls if call.layer.name == "e").outputs["output"].name

    def rebuilt(features: tf.Tensor) -> list[tf.Tensor]:
        return tensors_in_graph(the_trace, {"x": features}, [wanted])

    graph = tf.function(rebuilt).get_concrete_function(tf.TensorSpec([None, 4])).graph
    types = [operation.type for operation in graph.get_operations()]
    assert types == ["Placeholder", "Exp", "Identity"]


@pytest.mark.parametrize("name", ["sequential", "convolutional", "shared_and_nested", "attention"])
def test_xla_agrees_with_the_graph(name: str) -> None:
    model = live_model(MODELS[name](), name)
    wanted = [
        record.address
        for record in model.catalog.records
        if record.extractable and record.depends_on_inputs and record.spec.dtype == "float32"
    ]
    batch = drawn(model.signature, 3, 5)
    plain, compiled = (values_of(model, wanted, batch, mode) for mode in ("graph", "xla"))
    for address in wanted:
        np.testing.assert_allclose(compiled[address], plain[address], atol=1e-5, err_msg=address)


def test_what_depends_on_the_inputs_is_known() -> None:
    x = keras.Input((4,), name="x")
    model = live_model(keras.Model(x, layers.Dense(2, name="dense")(x)))
    by_hand = {
        ":input.x": True,
        "dense:op/MatMul": True,
        "dense:op/ReadVariableOp": False,
        "dense:kernel": False,
        ":output": True,
    }
    assert {a: model.catalog[a].depends_on_inputs for a in by_hand} == by_hand
    assert not {"ReadVariableOp"} & {
        name.rpartition("/")[2] for name in dependent_operations(model.graph)
    }
