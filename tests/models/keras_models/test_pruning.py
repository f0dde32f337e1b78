"""Pruning wrappers of tensorflow-model-optimization, which is not installed here.

The wrapper below writes what its `PruneLowMagnitude` writes: names, variables and configuration.
"""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tf_keras import layers

import extractkit
from extractkit.core.catalog import Kind
from extractkit.core.requests import Value
from extractkit.errors import ModelError
from extractkit.models import Fetch
from extractkit.models.keras_file import load

X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
SCHEDULE = {"class_name": "ConstantSparsity", "config": {"target_sparsity": 0.5, "begin_step": 0}}


class PruneLowMagnitude(layers.Wrapper):  # type: ignore[misc]
    def __init__(self, layer: Any, **arguments: Any) -> None:
        super().__init__(layer, **{**arguments, "name": f"prune_low_magnitude_{layer.name}"})
        if not hasattr(self, "_batch_input_shape") and hasattr(layer, "_batch_input_shape"):
            self._batch_input_shape = layer._batch_input_shape

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        if hasattr(self.layer, "kernel"):
            shape = self.layer.kernel.shape
            self.mask = self.add_weight("mask", shape=shape, trainable=False)
            self.threshold = self.add_weight("threshold", shape=[], trainable=False)
        self.step = self.add_weight("pruning_step", shape=[], dtype=tf.int64, trainable=False)

    def call(self, inputs: Any) -> Any:
        return self.layer(inputs)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "pruning_schedule": SCHEDULE,
            "block_size": [1, 1],
            "block_pooling_type": "AVG",
        }


def redrawn(model: Any) -> Any:
    """Give a model weights that no initializer gives, and zeros where its masks have them."""
    generator = np.random.default_rng(1)
    for weight in model.weights:
        weight.assign(np.asarray(generator.uniform(0.5, 1.5, weight.shape), weight.dtype.name))
    for layer in model._flatten_layers():
        if isinstance(layer, PruneLowMagnitude) and hasattr(layer, "mask"):
            layer.mask.assign(generator.integers(0, 2, layer.mask.shape))
            layer.layer.kernel.assign(layer.layer.kernel * layer.mask)
    return model


def functional() -> Any:
    x = tf_keras.Input((4,), name="x")
    first = layers.Dense(3, name="first", input_shape=(4,))
    inner = tf_keras.Sequential([PruneLowMagnitude(first), layers.ReLU()], name="inner")
    normal = PruneLowMagnitude(layers.BatchNormalization(name="bn"))(inner(x))
    last = PruneLowMagnitude(layers.Dense(2, name="last"))
    # Called twice: its weights stay shared.
    second = last(layers.Dense(3, name="plain")(normal))
    return redrawn(tf_keras.Model(x, {"a": last(normal), "b": second}))


def save(model: Any, path: Path) -> Path:
    with pytest.warns(UserWarning, match="HDF5") if path.suffix == ".h5" else nullcontext():
        model.save(path)
    return path


@pytest.mark.parametrize("name", ["net.h5", "net.keras", "net"])
def test_the_wrapped_layers_remain(name: str, tmp_path: Path) -> None:
    model = functional()
    path = save(model, tmp_path / name)
    run = extractkit.extract(
        ["model=keras", f"model.path={path}", "selectors=[layers,outputs]"],
        inputs=X,
        run_dir=tmp_path / "run",
    )
    first, bn, last = (
        {weight.name.rpartition("/")[2][:-2]: weight.numpy() for weight in layer.weights}
        for layer in (
            model.get_layer("inner").layers[0].layer,
            model.get_layer("prune_low_magnitude_bn").layer,
            model.get_layer("prune_low_magnitude_last").layer,
        )
    )
    assert (last["kernel"] == 0).any()
    hidden = np.maximum(X @ first["kernel"] + first["bias"], 0)
    hidden = (hidden - bn["moving_mean"]) / np.sqrt(bn["moving_variance"] + 1e-3)
    hidden = hidden * bn["gamma"] + bn["beta"]
    np.testing.assert_allclose(np.asarray(run["bn:output"]), hidden, atol=1e-5)
    wanted = hidden @ last["kernel"] + last["bias"]
    np.testing.assert_allclose(np.asarray(run[":output.a"]), wanted, atol=1e-5)
    wanted = model.predict(X, verbose=0)["b"]
    np.testing.assert_allclose(np.asarray(run[":output.b"]), wanted, atol=1e-5)
    assert "prune" not in str(run.manifest.tensors)
    assert run.manifest.model["pruning_wrappers_stripped"] == ["first", "bn", "last"]


def test_masks_are_no_weights(tmp_path: Path) -> None:
    model = load(str(save(functional(), tmp_path / "net.h5")))
    weights = [r.address for r in model.catalog.records if r.kind is Kind.WEIGHT]
    assert "last:kernel" in weights
    assert not [one for one in weights if "mask" in one or "threshold" in one]
    (kernel,) = model.constants([Fetch(Value("last:kernel"))])
    assert (np.asarray(kernel) == 0).any()


def test_a_wrapper_around_the_first_layer_of_a_sequential_model(tmp_path: Path) -> None:
    first = PruneLowMagnitude(layers.Dense(3, name="first", input_shape=(4,)))
    model = redrawn(tf_keras.Sequential([first, layers.Dense(2, name="last")]))
    for name in ("net.h5", "net.keras", "net"):
        found = load(str(save(model, tmp_path / name))).keras_model
        assert [layer.name for layer in found.layers] == ["first", "last"]
        np.testing.assert_allclose(found(X), model(X), atol=1e-6)


def test_a_wrapper_that_is_given_is_used(tmp_path: Path) -> None:
    model = functional()
    path = save(model, tmp_path / "net.h5")
    given = {"PruneLowMagnitude": f"{__name__}.Given"}
    found = load(str(path), custom_objects=given)
    assert "pruning_wrappers_stripped" not in found.describe()
    assert isinstance(found.keras_model.get_layer("prune_low_magnitude_last"), Given)


class Given(PruneLowMagnitude):
    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        own = ("pruning_schedule", "block_size", "block_pooling_type")
        kept = {key: value for key, value in config.items() if key not in own}
        return super().from_config(kept, custom_objects)


def test_a_wrapper_inside_another_layer_is_refused(tmp_path: Path) -> None:
    x = tf_keras.Input((5, 4))
    wrapped = PruneLowMagnitude(layers.Dense(3, name="dense"))
    model = tf_keras.Model(x, layers.TimeDistributed(wrapped, name="steps")(x))
    path = save(model, tmp_path / "net.keras")
    with pytest.raises(ModelError) as caught:
        load(str(path))
    assert str(caught.value) == (
        f"model.path={str(path)!r}: pruning wrappers are inside 'steps', which is a "
        f"TimeDistributed; they are taken out of functional and sequential models alone. Save the "
        f"model without them: tfmot.sparsity.keras.strip_pruning(model).save(...)"
    )


def test_a_wrapper_that_drops_a_mask_is_refused(tmp_path: Path) -> None:
    x = tf_keras.Input((5,))
    wrapped = PruneLowMagnitude(layers.Embedding(3, 2, mask_zero=True, name="words"))
    path = save(tf_keras.Model(x, wrapped(x)), tmp_path / "net.h5")
    with pytest.raises(ModelError) as caught:
        load(str(path))
    assert str(caught.value) == (
        f"model.path={str(path)!r}: the pruning wrapper of layer 'words' keeps its mask from the "
        f"layers after it, and they have it without the wrapper. Save the model without them: "
        f"tfmot.sparsity.keras.strip_pruning(model).save(...)"
    )


def test_the_package_is_not_imported(tmp_path: Path) -> None:
    load(str(save(functional(), tmp_path / "net.keras")))
    assert "tensorflow_model_optimization" not in sys.modules
