"""What refusals of functions say is true, and the command that they advise succeeds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import extractkit
from extractkit.advice import hydra_override
from tests.advised import Answer, ask, merged, refused

HERE = f"model.factory._target_={__name__}"
X = "model.input_axes={x: {dims: [sample, 4]}}"
EAGER = "model.eager=true"


class Scaled(tf.Module):
    """`declared` tells what it takes, `plain` does not."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = tf.Variable(np.arange(12, dtype="float32").reshape(4, 3), name="kernel")

    @tf.function(
        input_signature=[tf.TensorSpec([None, 4], name="x"), tf.TensorSpec([], name="scale")]
    )
    def declared(self, x: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
        return x @ self.kernel * scale

    def plain(self, x: tf.Tensor, scale: Any) -> tf.Tensor:
        if tf.reduce_sum(x) > 1e9:  # for AutoGraph to convert
            return x @ self.kernel
        return x @ self.kernel * scale

    @tf.function(input_signature=[tf.RaggedTensorSpec([None, None])])
    def ragged(self, x: tf.RaggedTensor) -> tf.Tensor:
        return tf.reduce_sum(x, 1)


class Layer(tf.keras.layers.Layer):
    def call(self, x: tf.Tensor, scale: Any = 1.0) -> tf.Tensor:
        return x * scale


class WithMethod:
    def go(self, x: tf.Tensor) -> tf.Tensor:
        return x * 2


def nothing() -> None:
    """Return nothing, as a factory does that forgets to."""


def of_any_number(*tensors: tf.Tensor) -> tf.Tensor:
    return tensors[0]


def of_fixed_steps(x: tf.Tensor) -> tf.Tensor:
    return tf.ensure_shape(x, [None, 4, 4]) * 2


def of_objects(x: tf.Tensor) -> Any:
    return {"x": x, "other": np.array([object()])}


def no(factory: str, *more: str) -> Answer:
    return refused("tensors", "model=module", f"{HERE}.{factory}", *more)


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("method", ["declared", "plain"])
def test_an_argument_that_is_the_same_for_every_sample(
    method: str, eager: bool, tmp_path: Path
) -> None:
    words = ["model=module", f"{HERE}.Scaled", f"model.signature={method}"]
    words += [EAGER] if eager else []
    words += [X] if method == "plain" else []
    if method == "declared":
        extra = [] if eager else ["model.input_axes=[x, scale]"]
        answer = refused("tensors", *words, *extra)
        assert "input 'scale' of model 'module' has the axes [], none of them" in answer.message
        advised = [one.replace("VALUE", "2.5") for one in answer.overrides]
        words = merged(answer.words, advised)[1:]
    else:
        words = [*words, "model.constants={scale: 2.5}"]
    x = np.arange(8, dtype="float32").reshape(2, 4)
    np.savez(tmp_path / "in.npz", x=x)
    inputs = ["inputs=arrays", hydra_override("inputs.path", tmp_path / "in.npz")]
    run = extractkit.extract([*words, *inputs, "selectors=outputs"], run_dir=tmp_path / "run")
    found = np.stack([run[":output"].sample(at) for at in range(2)])
    kernel = np.arange(12, dtype="float32").reshape(4, 3)
    np.testing.assert_allclose(found, x @ kernel * 2.5, rtol=1e-6)
    assert run.manifest.model["constants"] == {"scale": 2.5}


def test_what_nothing_is_given_for_names_both_ways_and_both_work() -> None:
    words = ("plan", "model=module", f"{HERE}.Scaled", "model.signature=declared")
    answer = refused(*words, "selectors=outputs", "inputs=random")
    assert (
        "it needs 'scale', which nothing is given for: name it in model.input_axes, or give its "
        "value in model.constants"
    ) in answer.message
    assert ask(*answer.words, "model.constants={scale: 2}").code == 0
    alone = "model.input_axes={x: null, scale: null}"
    assert refused(*answer.words, alone).overrides  # which leads to a constant as well


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("other: 1", "model.constants: 'other' is not an argument. Available: 'scale', 'x'."),
        ("x: 1, scale: 1", "'x' is in both model.input_axes and model.constants. Leave one out"),
    ],
)
@pytest.mark.parametrize("eager", ["false", "true"])
def test_constants_that_are_not_left_to_give(given: str, text: str, eager: str) -> None:
    words = ("model.signature=plain", X, f"model.eager={eager}", f"model.constants={{{given}}}")
    assert text in no("Scaled", *words).message


def test_constants_of_a_layer_go_to_its_call() -> None:
    answer = no("Layer", X, "model.constants={scale: 3}")
    assert "model.constants is for functions, and model.factory gives a model or layer" in (
        answer.message
    )
    assert ask(*answer.advised("model.signature")).code == 0


def test_shapes_that_a_function_does_not_declare() -> None:
    alone = no("of_fixed_steps", "model.factory._partial_=true")
    assert (
        "which does not declare their shapes. Specify what it takes, for example: " in alone.message
    )
    assert alone.overrides == ["model.input_axes={x: {dims: [sample, 4], dtype: float32}}"]
    known = "model.input_axes={x: null, scale: {dims: [sample, 3], dtype: float32}}"
    assert ask(*no("Scaled", "model.signature=plain", known).advised("model.input_axes")).code == 0


def test_a_ragged_argument_is_traced() -> None:
    answer = no("Scaled", "model.signature=ragged", EAGER)
    assert "which is not a single tensor. Trace it instead: model.eager=false" in answer.message
    assert ask(*answer.advised("model.eager")).code == 0


def test_an_object_that_cannot_be_called() -> None:
    answer = no("WithMethod", X)
    assert (
        "a WithMethod, which is neither callable nor a tensor. Available: 'go'." in answer.message
    )
    assert ask(*[one.replace("NAME", "go") for one in answer.advised("model.signature")]).code == 0
    message = no("nothing").message
    assert "a NoneType, which is neither callable nor a tensor and has no methods. " in message
    assert "model.signature" not in message


@pytest.mark.parametrize("eager", ["false", "true"])
def test_arguments_without_names(eager: str) -> None:
    message = no("of_any_number", "model.factory._partial_=true", f"model.eager={eager}").message
    assert "arguments have no names (*args), so that nothing can be given to it" in message


def test_sizes_that_a_function_does_not_take() -> None:
    inputs = "model.input_axes={x: {dims: [sample, time, 4]}}"
    answer = no("of_fixed_steps", "model.factory._partial_=true", EAGER, inputs)
    assert "Specify what it takes, with a size for each free axis: " in answer.message
    assert answer.message.count("sample=13, time=101") == 1
    assert ask(*answer.advised("model.input_axes")).code == 0


def test_results_that_are_not_tensors() -> None:
    message = no("of_objects", "model.factory._partial_=true", EAGER, X).message
    assert (
        "returns a ndarray among its results, which TensorFlow cannot convert to a tensor"
        in message
    )
    assert "Return only tensors, arrays and numbers" in message
