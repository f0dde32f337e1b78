"""`model=module`: everything that a Python callable may build, traced."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import extractkit
from extractkit.core.catalog import Kind
from extractkit.core.component import Component
from extractkit.core.values import Array
from extractkit.errors import ConfigError, ModelError
from extractkit.models import Model
from extractkit.models.module import load
from extractkit.testing.models import ModelContract

X = {"x": {"dims": ["sample", 4]}}


class Affine(tf.Module):
    """Two nested functions and a method of its own."""

    def __init__(self, units: int = 3) -> None:
        super().__init__(name="affine")
        self.kernel = tf.Variable(tf.random.normal([4, units]), name="kernel")

    @tf.function
    def hidden(self, x: tf.Tensor) -> tf.Tensor:
        return tf.nn.relu(x @ self.kernel)

    def __call__(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.name_scope("head"):
            hidden = self.hidden(x)
            return {"hidden": hidden, "total": tf.reduce_sum(hidden, -1)}

    def twice(self, x: tf.Tensor) -> tf.Tensor:
        return self.hidden(self.hidden(x) @ tf.transpose(self.kernel))


@tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32, name="x")])
def with_signature(x: tf.Tensor) -> tf.Tensor:
    return tf.cumsum(x, axis=1)


def plain(x: tf.Tensor, scale: float = 2.0) -> tuple[tf.Tensor, tf.Tensor]:
    shifted = x + 1.0
    return shifted * scale, tf.nn.softmax(shifted)


def two_inputs(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    return tf.concat([a, tf.cast(b, tf.float32)], axis=1)


def values() -> dict[str, object]:
    return {
        "scaled": tf.constant([[1.0, 2.0]]) * 3,
        "bias": tf.Variable([0.5], name="bias"),
        "n": 7,
    }


def layer() -> keras.layers.Layer:
    return keras.layers.Dense(2, name="dense")


def failing() -> None:
    raise RuntimeError("no such file\nsecond line")


def nothing() -> object:
    return object()


def numpy_inside(x: tf.Tensor) -> tf.Tensor:
    return tf.constant(np.sort(x.numpy()))


def model(name: str, **arguments: object) -> Model:
    """`name` is one of the callables above; a leading `=` means the callable itself."""
    itself = name.startswith("=")
    factory_arguments = arguments.pop("factory_arguments", {})
    assert isinstance(factory_arguments, dict)
    factory = Component(
        "model.factory", f"{__name__}.{name.lstrip('=')}", factory_arguments, partial=itself
    )
    return load(factory, **arguments)  # type: ignore[arg-type]


@tf.function(input_signature=[tf.TensorSpec([None, 4])])
def unnamed(x: tf.Tensor) -> tf.Tensor:
    return tf.nn.relu(x)


@tf.function(
    input_signature=[{"a": tf.TensorSpec([None, 4]), "b": tf.TensorSpec([None, None], tf.int32)}]
)
def of_a_mapping(x: dict[str, tf.Tensor]) -> tf.Tensor:
    return tf.reduce_sum(x["a"], -1) + tf.cast(tf.reduce_sum(x["b"], -1), tf.float32)


class Declaring(tf.Module):
    """Its `__call__` tells what it takes."""

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32)])
    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return x // 2


def ragged(x: tf.Tensor) -> tf.RaggedTensor:
    return tf.RaggedTensor.from_tensor(x, lengths=tf.cast(x[:, 0], tf.int32))


def sparse(x: tf.Tensor) -> dict[str, object]:
    return {"cells": tf.sparse.from_dense(x), "dense": x + 1.0}


class TestUnnamedSpec(ModelContract):
    def model(self) -> Model:
        return model("=unnamed")


class TestDeclaringModule(ModelContract):
    def model(self) -> Model:
        return model("Declaring", input_axes={"x": {"dims": ["sample", 4]}})


class TestModule(ModelContract):
    def model(self) -> Model:
        return model("Affine", input_axes=X)


class TestFunctionWithSignature(ModelContract):
    def model(self) -> Model:
        return model("=with_signature")


class TestPlainFunction(ModelContract):
    def model(self) -> Model:
        return model("=plain", input_axes={"x": {"dims": ["sample", "time"]}})


class TestTwoInputs(ModelContract):
    def model(self) -> Model:
        inputs = {"a": {"dims": ["sample", 2]}, "b": {"dims": ["sample", 3], "dtype": "int32"}}
        return model("=two_inputs", input_axes=inputs)


class TestLayer(ModelContract):
    def model(self) -> Model:
        return model("layer", input_axes=X)


def extracted(name: str, x: Array | None, tmp_path: Path, *overrides: str) -> extractkit.Run:
    given = [f"model.factory._target_={__name__}.{name}", "model=module", *overrides]
    return extractkit.extract(given, inputs=x, run_dir=tmp_path / "run")


def test_what_stands_in_nested_functions_is_there(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    run = extracted(
        "Affine", x, tmp_path, "model.input_axes={x: {dims: [sample, 4]}}", "+selectors.all.path=*"
    )
    kernel = np.asarray(run["kernel:0"])
    np.testing.assert_allclose(
        np.asarray(run["head/StatefulPartitionedCall/Relu:0"]), np.maximum(x @ kernel, 0), rtol=1e-5
    )
    np.testing.assert_allclose(
        np.asarray(run[":output.total"]), np.maximum(x @ kernel, 0).sum(-1), rtol=1e-5
    )


def test_the_arguments_of_the_factory_are_given_on_the_command_line(tmp_path: Path) -> None:
    x = np.ones((2, 4), np.float32)
    run = extracted(
        "Affine", x, tmp_path, "model.factory.units=5", "model.input_axes={x: [sample, 4]}",
        "selectors=[weights]",
    )  # fmt: skip
    assert run["kernel:0"].shape == (4, 5)


def test_a_method_is_chosen_by_its_name() -> None:
    twice = model("Affine", signature="twice", input_axes=X)
    assert [r.address for r in twice.catalog.records if r.kind is Kind.MODEL_OUTPUT] == [":output"]


def test_values_need_no_inputs(tmp_path: Path) -> None:
    run = extracted("values", None, tmp_path, "selectors=[outputs,weights]", "inputs=random")
    np.testing.assert_array_equal(np.asarray(run[":output.scaled"]), [[3.0, 6.0]])
    assert np.asarray(run[":output.n"]) == 7
    np.testing.assert_array_equal(np.asarray(run["bias:0"]), [0.5])
    assert len(run.samples) == 0


def masked(x: tf.Tensor) -> dict[str, tf.Tensor]:
    return {"positive": tf.boolean_mask(x, x > 0), "doubled": x * 2.0}


def test_rows_that_the_values_decide_are_left_out(tmp_path: Path) -> None:
    """As many as there are samples, in all: 1, 2, 0 and 1."""
    x = np.array([[1, -1], [2, 3], [-1, -1], [4, -1]], np.float32)
    run = extracted(
        "masked", x, tmp_path, "model.factory._partial_=true", "model.input_axes={x: [sample, 2]}",
        "selectors=outputs",
    )  # fmt: skip
    assert list(run) == [":output.doubled"]
    (one,) = run.manifest.unextractable
    assert one.reason.endswith("with runtime.batch_size=1 it is that of a sample")
    alone = extracted(
        "masked", x, tmp_path / "alone", "model.factory._partial_=true",
        "model.input_axes={x: [sample, 2]}", "selectors=outputs", "runtime.batch_size=1",
    )  # fmt: skip
    found = [alone[":output.positive"].sample(at).tolist() for at in range(4)]
    assert found == [[1], [2, 3], [], [4]]


def quantised(x: tf.Tensor) -> dict[str, tf.Tensor]:
    whole = tf.quantization.quantize(x, -1.0, 1.0, tf.qint8).output
    return {"whole": whole, "doubled": x * 2.0}


def test_quantised_values_are_the_raw_integers(tmp_path: Path) -> None:
    x = np.array([[-1, -0.5, 0.1, 1]], np.float32)
    run = extracted(
        "quantised", x, tmp_path, "model.factory._partial_=true",
        "model.input_axes={x: [sample, 4]}", "selectors=outputs",
    )  # fmt: skip
    whole = np.asarray(run[":output.whole"])
    assert whole.dtype == np.int8
    # 255 steps from -1 to 1, the first of which is -128.
    np.testing.assert_array_equal(whole, np.round((x + 1) * 255 / 2) - 128)


def wrong_shape(x: tf.Tensor) -> tf.Tensor:
    return tf.matmul(x, tf.ones([3, 2]))


def test_what_goes_wrong_in_a_trace_is_reported() -> None:
    with pytest.raises(ModelError, match="ValueError: Dimensions must be equal, but are 4 and 3"):
        model("=wrong_shape", input_axes=X)


def test_a_seed_is_set_before_the_factory_is_called() -> None:
    digests = [model("Affine", input_axes=X, seed=seed).weights_digest() for seed in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]


def test_a_concrete_function_is_taken_as_it_is() -> None:
    concrete = model("concrete")
    assert [spec.name for spec in concrete.signature.specs] == ["x"]


@pytest.mark.parametrize("inputs", [None, ["x"], X])
def test_settings_leave_the_declared_type(inputs: object) -> None:
    (spec,) = model("Declaring", input_axes=inputs).signature.specs
    assert (spec.name, spec.dtype) == ("x", "int32")
    assert spec.shape == ((4,) if inputs == X else (None,))


def test_a_declared_mapping_is_taken_apart() -> None:
    # The names are TensorFlow's own.
    specs = model("=of_a_mapping").signature.specs
    assert [(spec.name, spec.dtype, spec.shape) for spec in specs] == [
        ("x_a", "float32", (4,)),
        ("x_b", "int32", (None,)),
    ]


@pytest.mark.parametrize(
    ("name", "outputs"),
    [
        ("=ragged", [":output.values", ":output.row_splits"]),
        (
            "=sparse",
            [
                ":output.cells.indices",
                ":output.cells.values",
                ":output.cells.dense_shape",
                ":output.dense",
            ],
        ),
    ],
)
def test_results_that_are_no_tensor_are_listed_by_what_they_are_made_of(
    name: str, outputs: list[str]
) -> None:
    catalog = model(name, input_axes=X).catalog
    assert [r.address for r in catalog.records if r.kind is Kind.MODEL_OUTPUT] == outputs


def test_what_stands_beside_a_sparse_result_is_extracted(tmp_path: Path) -> None:
    x = np.eye(4, dtype=np.float32)
    run = extracted(
        "sparse", x, tmp_path, "model.factory._partial_=true",
        "model.input_axes={x: [sample, 4]}", "selectors=[outputs]",
    )  # fmt: skip
    np.testing.assert_array_equal(np.asarray(run[":output.dense"]), x + 1)


def concrete() -> object:
    return with_signature.get_concrete_function()


@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"),
    [
        (
            "=plain",
            {},
            ModelError,
            "model.factory gives a function of 'x', which does not declare their shapes. Specify "
            "what it takes, for example: 'model.input_axes={x: {dims: [sample, 4], dtype: "
            "float32}}'",
        ),
        (
            "=plain",
            {"input_axes": ["x"]},
            ModelError,
            "model.factory gives a function of 'x', which does not declare their shapes. Specify "
            "what it takes, for example: 'model.input_axes={x: {dims: [sample, 4], dtype: "
            "float32}}'",
        ),
        (
            "Declaring",
            {"input_axes": ["y"]},
            ConfigError,
            "model.input_axes: 'y' is neither an input nor",
        ),
        ("=plain", {"eager": "yes"}, ConfigError, "model.eager='yes' is not true or false"),
        (
            "=plain",
            {"input_axes": {"z": ["sample"]}},
            ConfigError,
            "model.input_axes: 'z' is not an argument. Available: 'scale', 'x'.",
        ),
        (
            "=plain",
            {"input_axes": {"x": {"dims": ["sample"], "dtype": "flaot"}}},
            ConfigError,
            "model.input_axes.x.dtype='flaot' is not a type. Nearest: 'float16', 'float32', "
            "'float64'.",
        ),
        (
            "Affine",
            {"signature": "twicee", "input_axes": X},
            ModelError,
            "model.signature='twicee': the Affine that model.factory gives has no such method. "
            "Available: 'hidden', 'twice', 'with_name_scope'.",
        ),
        ("failing", {}, ModelError, "failed: RuntimeError: no such file"),
        ("nothing", {}, ModelError, "gives a object, which is neither callable nor a tensor"),
        (
            "=numpy_inside",
            {"input_axes": X},
            ModelError,
            "cannot be traced with (x TensorSpec(shape=(None, 4), dtype=tf.float32, name='x')): ",
        ),
    ],
)
def test_it_refuses(
    name: str, arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        model(name, **arguments)
    assert message in str(caught.value)


def test_what_cannot_be_traced_names_the_way_to_run_eagerly() -> None:
    with pytest.raises(ModelError, match=r"model\.eager=true"):
        model("=numpy_inside", input_axes=X)


def test_a_factory_has_to_be_given() -> None:
    with pytest.raises(ConfigError, match=r"model\.factory=None is not a callable\. Name one: "):
        load()
