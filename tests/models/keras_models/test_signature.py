"""What Keras models take: names, dtypes, free axes, and how to hand the inputs over."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from extractkit.errors import ModelError
from extractkit.inputs import InputSpec
from extractkit.models.in_memory import live_model
from extractkit.models.keras_file import load
from extractkit.models.keras_models.catalog import input_specs, input_structure, packer
from tests.models.programs import values_of


def tensor(shape: tuple[int | None, ...], dtype: str = "float32", name: str | None = None) -> Any:
    return keras.KerasTensor((None, *shape), dtype, name=name)


def fixed(name: str) -> InputSpec:
    return InputSpec(name, "float32", (4,), (None,))


@pytest.mark.parametrize(
    ("structure", "names"),
    [
        (tensor((4,)), ["input"]),
        (tensor((4,), name="pixels"), ["pixels"]),
        ([tensor((4,)), tensor((4,), name="b"), tensor((4,))], ["input", "b", "input.1"]),
        ([tensor((4,), name="a"), tensor((4,), name="a")], ["a", "a.1"]),
        ({"b": tensor((4,)), "a": tensor((4,), name="x")}, ["a", "b"]),
        ({"b": [tensor((4,)), {"c": tensor((4,))}], "a": tensor((4,))}, ["a", "b.0", "b.1.c"]),
    ],
)
def test_inputs_are_named_by_key_or_name_and_packed_again(structure: Any, names: list[str]) -> None:
    specs = input_specs(structure)
    assert [spec.name for spec in specs] == names
    assert specs == tuple(fixed(name) for name in names)
    packed = packer(structure)({name: tf.constant(float(i)) for i, name in enumerate(names)})
    keras.tree.assert_same_structure(packed, structure)
    assert [float(value) for value in keras.tree.flatten(packed)] == list(range(len(names)))


@pytest.mark.parametrize(
    ("structure", "dims"),
    [
        (tensor((None,), "int32"), ("token",)),
        (tensor((None, 4)), ("axis1", None)),
        (tensor((8, None, None, 3)), (None, "axis2", "axis3", None)),
        (tensor((None, None), "int64"), ("axis1", "axis2")),
        (tensor((None,), "bool"), ("axis1",)),
        (tensor(()), ()),
    ],
)
def test_free_axes_of_a_single_input(structure: Any, dims: tuple[str | None, ...]) -> None:
    assert input_specs(structure)[0].dims == dims


def test_free_axes_of_several_inputs_are_their_own() -> None:
    structure = {"ids": tensor((None,), "int32"), "x": tensor((None, 2)), "y": tensor((None, 2))}
    found = {spec.name: spec.dims for spec in input_specs(structure)}
    assert found == {"ids": ("ids.axis1",), "x": ("x.axis1", None), "y": ("y.axis1", None)}


def test_unnamed_inputs_are_canonical_however_many_models_were_built() -> None:
    names = []
    for _ in range(2):
        one, two = keras.KerasTensor((None, 4)), keras.KerasTensor((None, 4))
        names.append([spec.name for spec in input_specs([one, two])])
    assert names == [["input", "input.1"]] * 2


def test_inputs_that_keras_named_by_counter_are_canonical() -> None:
    """`keras.Input` without a name makes `keras_tensor_7`."""
    x, y = keras.Input((4,)), keras.Input((4,))
    model = keras.Model([x, y], keras.layers.Add()([x, y]))
    assert [spec.name for spec in live_model(model).signature.specs] == ["input", "input.1"]


def test_a_sequential_model_tells_its_input_before_it_is_called() -> None:
    model = keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(2)])
    assert live_model(model).signature.specs == (fixed("x"),)


@pytest.mark.parametrize("kind", ["single", "list", "dict"])
def test_functional_models_are_called_as_they_were_made(kind: str) -> None:
    x, y = keras.Input((4,), name="x"), keras.Input((4,), name="y")
    inputs: Any = {"single": x, "list": [x, y], "dict": {"x": x, "y": y}}[kind]
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    catalog = live_model(model).catalog
    named = {"single": ["x"], "list": ["x", "y"], "dict": ["x", "y"]}[kind]
    assert [a for a in catalog if a.startswith(":input")] == [f":input.{name}" for name in named]


class Sum(keras.Model):
    """Subclassed: adds up whatever it is given, through a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(2)

    def build(self, shapes: Any) -> None:
        self.dense.build((None, 4))

    def call(self, inputs: Any) -> Any:
        return self.dense(sum(keras.tree.flatten(inputs)))


@pytest.mark.parametrize(
    ("shapes", "names"),
    [
        ((None, 4), ["input"]),
        ([(None, 4), (None, 4)], ["input", "input.1"]),
        ({"a": (None, 4), "b": (None, 4)}, ["a", "b"]),
    ],
)
def test_a_subclassed_model_is_known_by_the_shapes_it_was_built_with(
    shapes: Any, names: list[str]
) -> None:
    model = Sum()
    model.build(shapes)
    wrapped = live_model(model)
    assert wrapped.signature.specs == tuple(fixed(name) for name in names)
    assert wrapped.catalog["dense:output"].spec.shape == (None, 2)


@pytest.mark.parametrize("names", [["input"], ["a", "b"]])
def test_a_subclassed_model_is_known_by_an_example(names: list[str]) -> None:
    arrays = {name: np.ones((3, 4), np.float32) for name in names}
    example = arrays if len(names) > 1 else arrays["input"]
    wrapped = live_model(Sum(), example=example)
    assert wrapped.signature.specs == tuple(fixed(name) for name in names)
    assert wrapped.catalog["dense:output"].spec.shape == (None, 2)


def test_without_shapes_or_example_the_message_says_what_to_do() -> None:
    model = Sum()
    with pytest.raises(ModelError) as caught:
        input_structure(model)
    assert str(caught.value) == (
        f"Sum {model.name!r} does not declare its inputs: it is neither functional nor built from "
        f"the shapes of its inputs. Specify its axes: 'model.input_axes={{x: {{dims: [sample, "
        f"64, 64, 3], dtype: float32}}}}'. Or give arrays with it (extractkit.extract(…, "
        f"inputs=arrays)), or save it after model.build(shape)"
    )


def test_what_is_no_keras_model_is_refused() -> None:
    with pytest.raises(ModelError) as caught:
        live_model(object())
    assert str(caught.value) == (
        "model=object is not a Keras model. Give a keras.Model, or an adapter with extractkit's "
        "Model "
        "protocol"
    )


def test_a_model_that_cannot_be_called_with_its_inputs_is_a_clear_error() -> None:
    model = live_model(Sum(), example=np.ones((3, 5), np.float32))
    with pytest.raises(ModelError, match=r"^model 'model' \(Sum\) cannot be called with inputs "):
        model.catalog  # noqa: B018


@keras.saving.register_keras_serializable("tests")
class _Shifted(keras.layers.Layer):
    def call(self, x: Any, shift: Any = None) -> Any:
        return 2 * x if shift is None else x + shift

    def compute_output_shape(self, shape: Any, *others: Any, **named: Any) -> Any:
        return shape


@pytest.mark.parametrize("kind", ["list", "dict"])
def test_an_optional_input_can_be_left_out(kind: str, tmp_path: Path) -> None:
    """Against Keras's own call."""
    inputs = {"x": keras.Input((3,), name="x")}
    inputs["shift"] = keras.Input((3,), name="shift", optional=True)
    outputs = keras.layers.Dense(2)(_Shifted()(inputs["x"], inputs["shift"]))
    structure = inputs if kind == "dict" else [*inputs.values()]
    model = keras.Model(structure, outputs)
    model.save(tmp_path / "m.keras")
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    for given in ({"x": x, "shift": x + 1}, {"x": x}):
        called = {"shift": None, **given}
        expected = model(called if kind == "dict" else [called["x"], called["shift"]])
        setting = None if "shift" in given else ["x"]
        for loaded in (
            load(str(tmp_path / "m.keras"), input_axes=setting),
            live_model(model, example=given),
        ):
            assert {spec.name for spec in loaded.signature.specs} == set(given)
            assert loaded.signature.optional == given.keys() - {"x"}
            found = values_of(loaded, [":output"], given)[":output"]
            np.testing.assert_allclose(found, expected, rtol=1e-6)
