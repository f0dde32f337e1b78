"""`selectors=attention` on Keras's own layers: what they return as their scores."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
import pytest
import tf_keras

import extractkit
from extractkit.errors import SelectionError
from extractkit.models.in_memory import live_model
from extractkit.models.keras_file import load
from tests.attention.chosen import chosen, probabilities, softmax

BOTH = pytest.mark.parametrize("package", [keras, tf_keras], ids=["Keras 3", "Keras 2"])
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(2, 5, 6)).astype(np.float32)
Y = RANDOM.normal(size=(2, 7, 6)).astype(np.float32)
PICTURE = RANDOM.normal(size=(2, 3, 4, 6)).astype(np.float32)
Layers = Callable[[Any], Any]

MULTI_HEAD: dict[str, tuple[Layers, dict[str, bool]]] = {
    "plain": (lambda layers: layers.MultiHeadAttention(2, 3), {}),
    "value_dim": (lambda layers: layers.MultiHeadAttention(2, 3, value_dim=5), {}),
    "causal": (lambda layers: layers.MultiHeadAttention(2, 3), {"use_causal_mask": True}),
    "dropout": (
        lambda layers: layers.MultiHeadAttention(2, 3, dropout=0.1),
        {"use_causal_mask": True},
    ),
}
GROUPED: dict[str, tuple[Layers, dict[str, bool]]] = {
    "grouped": (lambda layers: layers.GroupQueryAttention(3, 4, 2), {}),
    "grouped, causal": (
        lambda layers: layers.GroupQueryAttention(3, 4, 2, dropout=0.1),
        {"use_causal_mask": True},
    ),
    "window": (lambda layers: layers.MultiHeadAttention(2, 3, sliding_window=2), {}),
    "grouped, window": (
        lambda layers: layers.GroupQueryAttention(3, 4, 2, sliding_window=2),
        {"use_causal_mask": True},
    ),
    "gate": (lambda layers: layers.MultiHeadAttention(2, 3, use_gate=True), {}),
}
ONE_HEAD: dict[str, tuple[Layers, dict[str, bool]]] = {
    "dot": (lambda layers: layers.Attention(), {}),
    "scaled": (lambda layers: layers.Attention(use_scale=True), {}),
    "concat": (lambda layers: layers.Attention(score_mode="concat", use_scale=True), {}),
    "causal": (lambda layers: layers.Attention(dropout=0.1), {"use_causal_mask": True}),
    "additive": (lambda layers: layers.AdditiveAttention(), {}),
    "additive, causal": (
        lambda layers: layers.AdditiveAttention(use_scale=False),
        {"use_causal_mask": True},
    ),
}


def cases() -> Iterator[Any]:
    for package in (keras, tf_keras):
        own = MULTI_HEAD | (GROUPED if package is keras else {})
        for name, (build, call) in own.items():
            yield pytest.param(package, build, call, id=f"{package.__name__} {name}")


@pytest.mark.parametrize(("package", "build", "call"), list(cases()))
def test_heads(package: ModuleType, build: Layers, call: dict[str, bool]) -> None:
    x, y = package.Input((None, 6), name="x"), package.Input((None, 6), name="y")
    layer = build(package.layers)
    model = live_model(package.Model([x, y], layer(x, y, **call)))
    (record,) = chosen(model)
    assert record.spec.titles == ("sample", "head", "query", "key")
    (found,) = probabilities(model, {"x": X, "y": Y}).values()
    _, scores = layer(X, Y, return_attention_scores=True, **call)
    np.testing.assert_allclose(found, scores, atol=1e-6)
    if not call:
        assert np.ptp(found) > 0.01  # not uniform, so that an axis or a weight makes a difference


@BOTH
@pytest.mark.parametrize("name", ONE_HEAD)
def test_one_head(package: ModuleType, name: str) -> None:
    build, call = ONE_HEAD[name]
    x, y = package.Input((None, 6), name="x"), package.Input((None, 6), name="y")
    layer = build(package.layers)
    model = live_model(package.Model([x, y], layer([x, y], **call)))
    (record,) = chosen(model)
    assert record.spec.titles == ("sample", "query", "key")
    (found,) = probabilities(model, {"x": X, "y": Y}).values()
    _, scores = layer([X, Y], return_attention_scores=True, **call)
    np.testing.assert_allclose(found, scores, atol=1e-6)


@BOTH
@pytest.mark.parametrize(
    ("axes", "dims"),
    [
        ((2,), ("sample", None, "head", "query", "key")),
        ((1, 2), ("sample", "head", None, None, None, None)),
    ],
)
def test_several_axes(package: ModuleType, axes: tuple[int, ...], dims: tuple[str, ...]) -> None:
    """Along two axes, Keras computes the softmax from an exponential, without its operation."""
    x = package.Input(PICTURE.shape[1:], name="x")
    layer = package.layers.MultiHeadAttention(2, 3, attention_axes=axes)
    model = live_model(package.Model(x, layer(x, x)))
    (record,) = chosen(model)
    assert record.spec.titles == dims
    (found,) = probabilities(model, {"x": PICTURE}).values()
    _, scores = layer(PICTURE, PICTURE, return_attention_scores=True)
    np.testing.assert_allclose(found, scores, atol=1e-6)
    np.testing.assert_allclose(found.sum(tuple(range(-len(axes), 0))), 1, rtol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_rows_of_masked_queries(dropout: float) -> None:
    """`Embedding(mask_zero=True)` masks queries, too. No key is left to these rows.

    With dropout, Keras's Softmax layer sets them to zero. Without, Keras calls
    `dot_product_attention`, which attends to all keys alike, masked ones included.
    """
    ids = keras.Input((None,), dtype="int32", name="ids")
    h = keras.layers.Embedding(9, 6, mask_zero=True)(ids)
    model = live_model(
        keras.Model(ids, keras.layers.MultiHeadAttention(2, 3, dropout=dropout)(h, h))
    )
    (found,) = probabilities(model, {"ids": np.array([[1, 2, 3, 0, 0]], np.int32)}).values()
    np.testing.assert_allclose(found[:, :, :3].sum(-1), 1, rtol=1e-6)
    assert not found[:, :, :3, 3:].any()
    np.testing.assert_allclose(found[:, :, 3:], 0 if dropout else 1 / 5, rtol=1e-6)


def test_half_precision() -> None:
    """Keras computes the softmax in float32 and rounds its result to multiply it."""
    x = keras.Input((None, 6), name="x")
    layer = keras.layers.MultiHeadAttention(2, 3, dtype="float16")
    model = live_model(keras.Model(x, layer(x, x)))
    (record,) = chosen(model)
    assert (record.spec.dtype, record.spec.titles) == (
        "float32",
        ("sample", "head", "query", "key"),
    )
    (found,) = probabilities(model, {"x": X}).values()
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)


# ---- without a layer of attention


class Mixer(keras.layers.Layer):
    """Has no word of attention in its name."""

    def __init__(self, flash: bool | None, **more: Any) -> None:
        super().__init__(**more)
        self.flash = flash

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "flash": self.flash}

    def call(self, x: Any) -> Any:
        split = keras.ops.reshape(x, (-1, 5, 2, 3))
        return keras.ops.dot_product_attention(split, split, split, flash_attention=self.flash)


def by_hand(x: Any) -> Any:
    scores = x @ keras.ops.transpose(x, (0, 2, 1))
    return keras.layers.Dot((2, 1))([keras.layers.Softmax()(scores), x])


def by_activation(x: Any) -> Any:
    scores = keras.layers.Dot((2, 2))([x, x])
    weights = keras.layers.Activation("softmax")(scores)
    return keras.layers.Dot((2, 1))([keras.layers.Dropout(0.5)(weights), x])


def expected_heads() -> Any:
    split = X.reshape(2, 5, 2, 3).astype(np.float64)
    return softmax(np.einsum("bqhd,bkhd->bhqk", split, split) / np.sqrt(3))


@pytest.mark.parametrize("attend", [by_hand, by_activation])
def test_softmax_that_is_multiplied(attend: Callable[[Any], Any]) -> None:
    x = keras.Input((None, 6), name="x")
    head = keras.layers.Dense(3, activation="softmax")(attend(x))
    model = live_model(keras.Model(x, head))
    (found,) = probabilities(model, {"x": X}).values()  # and not the classifier's softmax
    np.testing.assert_allclose(found, softmax(X @ X.transpose(0, 2, 1)), atol=1e-5)


def test_gates_and_classes_are_not_attention() -> None:
    x = keras.Input((4, 6))
    gates = keras.layers.Dense(6, activation="softmax")(x)
    model = keras.Model(x, keras.layers.Dense(3, activation="softmax")(gates * x))
    with pytest.raises(SelectionError, match=r"selectors\.attention\.all=.* matched 0 of") as error:
        chosen(live_model(model))
    assert len(str(error.value)) < 450


def test_further_keys() -> None:
    x = keras.Input((None, 6), name="x")
    h = keras.layers.MultiHeadAttention(2, 3, name="first")(x, x)
    model = keras.Model(x, keras.layers.MultiHeadAttention(2, 3, name="second")(h, h))
    further = ["+selectors.attention.take='-1:'", "+selectors.attention.slice={head: 0}"]
    (tensor,) = extractkit.plan(["selectors=attention", *further], model=model, inputs=X).tensors
    assert tensor.key == "second:op/Softmax"
    assert tensor.spec.titles == ("sample", "query", "key")


# ---- fused kernels


@contextmanager
def enabled() -> Iterator[None]:
    keras.config.enable_flash_attention()
    try:
        yield
    finally:
        keras.config.disable_flash_attention()


@pytest.mark.parametrize("flash", [True, None, False])
def test_attention_is_not_fused(flash: bool | None, caplog: pytest.LogCaptureFixture) -> None:
    """Keras refuses `flash_attention=True` on TensorFlow."""
    x = keras.Input((5, 6), name="x")
    layer = keras.layers.MultiHeadAttention(2, 3, flash_attention=flash)
    twin = keras.layers.MultiHeadAttention(2, 3)
    keras_model = keras.Model(x, layer(x, x))
    if flash:
        with pytest.raises(ValueError, match="Flash attention is not supported"):
            keras_model(X)
    model = live_model(keras_model)
    with caplog.at_level(logging.WARNING):
        (found,) = probabilities(model, {"x": X}).values()
    twin.build(X.shape, X.shape)
    twin.set_weights(layer.get_weights())
    _, scores = twin(X, X, return_attention_scores=True)
    np.testing.assert_allclose(found, scores, atol=1e-6)
    unfused = ["multi_head_attention:op/Softmax"] if flash else None
    assert model.describe().get("unfused_attention") == unfused
    assert ("without the fused kernel" in caplog.text) is bool(flash)


def test_the_switch_for_all_layers() -> None:
    x = keras.Input((5, 6), name="x")
    with enabled():
        layer = keras.layers.GroupQueryAttention(3, 4, 2)
        model = live_model(keras.Model(x, layer(x, x)))
        (found,) = probabilities(model, {"x": X}).values()
    _, scores = layer(X, X, return_attention_scores=True)
    np.testing.assert_allclose(found, scores, atol=1e-6)


def test_a_run_records_it_and_checks_itself(tmp_path: Path) -> None:
    x = keras.Input((5, 6), name="x")
    attend = keras.layers.GroupQueryAttention(3, 4, 2, flash_attention=True, name="gqa")
    run = extractkit.extract(
        ["selectors=attention"],
        model=keras.Model(x, attend(x, x, use_causal_mask=True)),
        inputs=X,
        run_dir=tmp_path / "run",
    )
    assert list(run) == ["gqa:op/Softmax"]
    assert run.manifest.model["unfused_attention"] == ["gqa:op/Softmax"]
    assert run["gqa:op/Softmax"].dims == ("sample", "head", "query", "key")
    np.testing.assert_allclose(np.asarray(run["gqa:op/Softmax"]).sum(-1), 1, rtol=1e-5)
    assert not np.asarray(run["gqa:op/Softmax"])[:, :, *np.triu_indices(5, 1)].any()


@pytest.mark.parametrize("flash", [True, None])
def test_own_layers_and_operations_from_a_file(flash: bool | None, tmp_path: Path) -> None:
    """Keras calls a layer while it reads the file."""
    x = keras.Input((5, 6), name="x")
    split = keras.ops.reshape(x, (-1, 5, 2, 3))
    merged = keras.ops.dot_product_attention(split, split, split, flash_attention=flash)
    layer = Mixer(None, name="own")
    model = keras.Model(x, [merged, layer(x)])
    layer.flash = flash
    model.save(tmp_path / "net.keras")
    loaded = load(str(tmp_path / "net.keras"), custom_objects={"Mixer": f"{__name__}.Mixer"})
    found = probabilities(loaded, {"x": X})
    assert set(found) == {":op/Softmax", "own:op/Softmax"}
    for address, value in found.items():
        np.testing.assert_allclose(value, expected_heads(), atol=1e-6, err_msg=address)
    assert loaded.describe().get("unfused_attention") == (list(found) if flash else None)


def test_compiled_by_xla() -> None:
    """A program returns probabilities, so XLA cannot fuse them away."""
    x = keras.Input((None, 6), name="x")
    layer = keras.layers.MultiHeadAttention(2, 3)
    model = live_model(keras.Model(x, layer(x, x)))
    (compiled,) = probabilities(model, {"x": X}, "xla").values()
    _, scores = layer(X, X, return_attention_scores=True)
    np.testing.assert_allclose(compiled, scores, atol=1e-6)
