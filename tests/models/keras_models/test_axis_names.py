"""Names of axes: each is held against what the layer does along the axis."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import extractkit
from extractkit.core.catalog import Catalog
from extractkit.errors import SelectionError
from extractkit.models.frozen_graph import load
from extractkit.models.in_memory import live_model
from extractkit.runs.reader import Run

BOTH = pytest.mark.parametrize("package", [keras, tf_keras], ids=["Keras 3", "Keras 2"])
PICTURE = np.random.default_rng(0).normal(size=(2, 6, 9, 3)).astype(np.float32)


def catalog_of(package: ModuleType, x: Any, layer: Callable[[Any], Any]) -> Catalog:
    return live_model(package.Model(x, layer(x))).catalog


def extracted(model: Any, inputs: Any, path: Path, address: str, **selector: object) -> Run:
    selectors = {"s": {"path": address, **selector}}
    return extractkit.extract(selectors=selectors, model=model, inputs=inputs, run_dir=path)


def attention(package: ModuleType) -> Any:
    x = package.Input((None, 6), name="x")
    layer = package.layers.MultiHeadAttention(2, 3, name="mha")
    return package.Model(x, package.layers.Dense(1)(layer(x, x, use_causal_mask=True)))


@BOTH
def test_rows_of_attention_are_queries_and_columns_keys(
    package: ModuleType, tmp_path: Path
) -> None:
    model = attention(package)
    x = np.random.default_rng(1).normal(size=(2, 5, 6)).astype(np.float32)
    run = extracted(model, x, tmp_path / "run", "mha*op/Softmax")
    (view,) = run.values()
    assert view.dims == ("sample", "head", "query", "key")
    assert [dim.free for dim in view.spec.axes] == [None, None, "axis1", "axis1"]
    values = dict(zip(view.dims, np.moveaxis(np.asarray(view), 0, 0).shape, strict=True))
    assert values == {"sample": 2, "head": 2, "query": 5, "key": 5}
    weights = np.asarray(view)
    np.testing.assert_allclose(weights.sum(axis=view.dims.index("key")), 1, rtol=1e-5)
    # With a causal mask, no query looks at a later key.
    assert not weights[:, :, *np.triu_indices(5, 1)].any()


@BOTH
def test_the_axis_of_heads_is_that_of_the_kernels_heads(
    package: ModuleType, tmp_path: Path
) -> None:
    model = attention(package)
    x = np.random.default_rng(1).normal(size=(2, 5, 6)).astype(np.float32)
    layer = model.get_layer("mha")
    before = extracted(model, x, tmp_path / "a", "mha/query:output")["mha/query:output"]
    assert before.dims == ("sample", "axis1", "head", "feature")
    weights = layer.get_weights()
    weights[0][:, 1] += 1  # the query's kernel is (features, heads, features of a head)
    layer.set_weights(weights)
    after = extracted(model, x, tmp_path / "b", "mha/query:output")["mha/query:output"]
    apart = np.moveaxis(np.asarray(before) != np.asarray(after), before.dims.index("head"), 0)
    assert [bool(head.any()) for head in apart] == [False, True]


@BOTH
@pytest.mark.parametrize(
    ("build", "dims"),
    [
        (lambda layers: layers.Conv2D(4, 3), ("sample", "height", "width", "channel")),
        (
            lambda layers: layers.MaxPooling2D(data_format="channels_first"),
            ("sample", "channel", "height", "width"),
        ),
        (lambda layers: layers.Conv2DTranspose(4, 3), ("sample", "height", "width", "channel")),
        (lambda layers: layers.DepthwiseConv2D(3), ("sample", "height", "width", "channel")),
        (lambda layers: layers.UpSampling2D(), ("sample", "height", "width", "channel")),
        (lambda layers: layers.GlobalAveragePooling2D(), ("sample", "channel")),
        (
            lambda layers: layers.GlobalMaxPooling2D(keepdims=True),
            ("sample", "height", "width", "channel"),
        ),
        (lambda layers: layers.Dense(2), ("sample", "axis1", "axis2", "feature")),
        (lambda layers: layers.Flatten(), ("sample", "f(axis1,axis2)")),
        (lambda layers: layers.Reshape((-1, 3)), ("sample", "f(axis1,axis2)", None)),
    ],
)
def test_layers_on_pictures(
    package: ModuleType, build: Callable[[Any], Any], dims: tuple[str | None, ...]
) -> None:
    layer = build(package.layers)
    catalog = catalog_of(package, package.Input((None, None, 3)), layer)
    assert catalog[":output"].spec.titles == dims


@BOTH
def test_the_axis_of_channels_is_that_of_the_kernels_channels(
    package: ModuleType, tmp_path: Path
) -> None:
    x = package.Input((None, None, 3), name="x")
    h = package.layers.Conv2D(4, 3, padding="same", name="conv")(x)
    h = package.layers.BatchNormalization(name="norm")(h)
    h = package.layers.ReLU(name="relu")(h)
    model = package.Model(x, package.layers.GlobalAveragePooling2D(name="pool")(h + h))
    one = extracted(model, PICTURE, tmp_path / "a", "*:output")
    weights = model.get_layer("conv").get_weights()
    weights[1][2] += 5
    model.get_layer("conv").set_weights(weights)
    other = extracted(model, PICTURE, tmp_path / "b", "*:output")
    for key in ("conv:output", "norm:output", "relu:output", "pool:output", ":output"):
        apart = np.asarray(one[key]) != np.asarray(other[key])
        by_channel = np.moveaxis(apart, one[key].dims.index("channel"), 0)
        assert [bool(channel.any()) for channel in by_channel] == [False, False, True, False], key


@BOTH
def test_features_of_layers_on_sequences(package: ModuleType) -> None:
    layers = package.layers
    ids = package.Input((None,), dtype="int32", name="ids")
    h = layers.Embedding(9, 4, name="embedding")(ids)
    h = layers.LayerNormalization(name="norm")(h)
    h = layers.Conv1D(5, 3, padding="same", name="conv")(h)
    h = layers.GRU(3, return_sequences=True, name="gru")(h)
    catalog = live_model(package.Model(ids, layers.Dense(2, name="head")(h))).catalog
    found = {name: catalog[f"{name}:output"].spec.titles[-1] for name in ("embedding", "norm")}
    assert found == {"embedding": "feature", "norm": "feature"}
    assert catalog["conv:output"].spec.titles[-1] == "channel"
    assert catalog["gru:output"].spec.titles[-1] == "feature"
    assert catalog["head:output"].spec.titles[-1] == "feature"


class Dense(keras.layers.Layer):
    """Has the name of Keras's layer and computes something else."""

    def call(self, x: Any) -> Any:
        return keras.ops.transpose(x, (0, 2, 1))


class Turned(keras.layers.Dense):
    """Has the class of Keras's layer as its base and computes something else."""

    def call(self, x: Any) -> Any:
        return keras.ops.transpose(super().call(x), (0, 2, 1))


class Wider(keras.layers.Dense):
    """Computes what its base does."""


@pytest.mark.parametrize(
    ("layer", "dims"),
    [
        (Dense(), ("sample", None, None)),
        (Turned(2), ("sample", None, None)),
        (Wider(2), ("sample", None, "feature")),
    ],
)
def test_the_class_that_computes_decides(layer: Any, dims: tuple[str | None, ...]) -> None:
    assert catalog_of(keras, keras.Input((5, 4)), layer)[":output"].spec.titles == dims


@BOTH
def test_axes_that_are_measured_keep_their_names_in_the_record(
    package: ModuleType, tmp_path: Path
) -> None:
    x = package.Input((None, 4), name="x")
    layers = package.layers
    h = layers.LSTM(3, return_sequences=True, name="lstm")(x)
    model = package.Model(x, layers.Dense(2, name="head")(h))
    assert live_model(model).catalog["lstm:output"].spec.labels[-1] == "feature"
    samples = [np.ones((n, 4), np.float32) for n in (2, 5, 3)]
    run = extracted(model, samples, tmp_path / "run", "*:output")
    for tensor in run.manifest.tensors:
        if "cell" in tensor.key:  # in the loop of Keras 3
            assert tensor.record.spec.labels == ("step=axis1", "sample", "feature")
            assert tensor.stored.spec.labels == ("sample", "step=axis1", "feature")
            continue
        assert tensor.record.spec == tensor.stored.spec
        assert tensor.record.spec.labels == ("sample", "axis1", "feature")
        assert tensor.record.spec.known


def test_no_name_follows_from_a_size(tmp_path: Path) -> None:
    """Two graphs of the same shapes: one convolves pictures, the other multiplies them."""
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 8, 8, 3], "x")
        conv = tf.nn.conv2d(x, np.ones((3, 3, 3, 3), "float32"), 1, "SAME", name="conv")
        turned = tf.transpose(conv, [0, 3, 1, 2])
        tf.reduce_mean(turned, [2, 3], name="mean")
        tf.identity(tf.tensordot(x, np.ones((3, 3), "float32"), 1), name="product")
    (tmp_path / "net.pb").write_bytes(graph.as_graph_def().SerializeToString())
    catalog = load(str(tmp_path / "net.pb")).catalog
    assert catalog["conv:0"].spec.titles == ("sample", "height", "width", "channel")
    assert catalog["mean:0"].spec.titles == ("sample", "channel")
    assert catalog["product:0"].spec.titles == ("sample", None, None, None)


# ---- their use


def test_slices_reductions_and_statistics_by_name(tmp_path: Path) -> None:
    x = keras.Input((None, None, 3), name="x")
    model = keras.Model(x, keras.layers.Conv2D(4, 3, name="conv")(x))
    whole = extracted(model, PICTURE, tmp_path / "whole", "conv:output")["conv:output"]
    expected = np.asarray(whole)
    (third,) = extracted(
        model, PICTURE, tmp_path / "third", "conv:output", slice={"channel": 3}
    ).values()
    assert third.dims == ("sample", "height", "width")
    np.testing.assert_array_equal(np.asarray(third), expected[..., 3])
    (few,) = extracted(
        model, PICTURE, tmp_path / "few", "conv:output", slice={"channel": "1:3"}
    ).values()
    assert few.dims == ("sample", "height", "width", "channel")
    np.testing.assert_array_equal(np.asarray(few), expected[..., 1:3])
    (mean,) = extracted(
        model, PICTURE, tmp_path / "mean", "conv:output", do=[{"mean": ["height", "width"]}]
    ).values()
    assert mean.dims == ("sample", "channel")
    np.testing.assert_allclose(np.asarray(mean), expected.mean((1, 2)), rtol=1e-5)


@pytest.mark.parametrize(
    ("axis", "dims"),
    [
        ("query", ("sample", "head", "key")),
        ("key", ("sample", "head", "query")),
        ("head", ("sample", "query", "key")),
        ("axis1", ("sample", "head")),
        (3, ("sample", "head", "query")),
    ],
)
def test_axes_of_one_length_are_sliced_by_their_names_or_by_what_they_follow(
    axis: str | int, dims: tuple[str, ...], tmp_path: Path
) -> None:
    samples = [np.ones((n, 6), np.float32) * n for n in (2, 4)]
    model = attention(keras)
    (view,) = extracted(
        model, samples, tmp_path / "run", "mha:op/Softmax", slice={axis: 1}
    ).values()
    assert view.dims == dims


def test_an_axis_that_does_not_exist_is_refused_with_those_that_do() -> None:
    x = keras.Input((None, None, 3), name="x")
    model = keras.Model(x, keras.layers.Conv2D(4, 3, name="conv")(x))
    with pytest.raises(SelectionError) as error:
        extractkit.plan(
            selectors={"s": {"path": "conv:output", "slice": {"chanel": 3}}},
            model=model,
            inputs=PICTURE,
        )
    assert str(error.value) == (
        "selectors.s.slice names axis 'chanel', which 'conv:output' with dims "
        "['sample', 'height', 'width', 'channel'] does not have. Available: height, width, "
        "channel, 1, 2, 3. The sample axis cannot be sliced or reduced; inputs.limit takes the "
        "first samples"
    )


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("sample,head,query,key", True),
        ("sample,#,axis1,axis1", True),
        ("sample,2,*,*", True),
        ("sample,*,key,query", False),
        ("sample,head,token,token", False),
    ],
)
def test_dims_select_by_names_and_by_what_axes_follow(pattern: str, matches: bool) -> None:
    catalog = live_model(attention(keras)).catalog
    selectors = {"s": {"dims": pattern}}
    if not matches:
        with pytest.raises(SelectionError) as error:
            extractkit.plan(selectors=selectors, model=attention(keras), inputs=np.ones((1, 5, 6)))
        assert "sample,head,query,key" in str(error.value)
        return
    planned = extractkit.plan(
        selectors=selectors, model=attention(keras), inputs=np.ones((1, 5, 6), np.float32)
    )
    assert "mha:op/Softmax" in {tensor.key for tensor in planned.tensors}
    assert catalog["mha:op/Softmax"].spec.labels[1:] == ("head", "query=axis1", "key=axis1")


def test_xarray_has_these_names(tmp_path: Path) -> None:
    samples = [np.ones((n, 6), np.float32) * n for n in (2, 4)]
    run = extracted(attention(keras), samples, tmp_path / "run", "mha*op/Softmax")
    data = run.to_xarray()
    assert data["mha:op/Softmax"].dims == ("sample", "head", "query", "key")
