"""What a trace finds in Keras models: values equal those that Keras gives without us."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from extractkit.core.catalog import Kind
from extractkit.core.requests import Value
from extractkit.models import Fetch
from extractkit.models.in_memory import live_model
from extractkit.models.keras_models.model import KerasModel
from tests.models.programs import values_of
from tests.models.zoo import MODELS, drawn

FUNCTIONAL = (
    "sequential",
    "convolutional",
    "shared_and_nested",
    "tokens_and_mask",
    "unrolled",
    "attention",
    "control_flow",
)
CONDITION = "made inside a loop's condition, which runs once more than the loop has steps"


def wrapped(name: str) -> KerasModel:
    return live_model(MODELS[name](), name=name)


def addresses(model: KerasModel, *kinds: Kind) -> list[str]:
    return [record.address for record in model.catalog.records if record.kind in kinds]


def head(model: KerasModel) -> keras.layers.Layer:
    """The last Dense of `shared_and_nested`, whose name Keras makes up."""
    return next(layer for layer in model.keras_model.layers if layer.name.startswith("dense"))


@pytest.mark.parametrize("name", FUNCTIONAL)
def test_outputs_of_layers_equal_those_of_a_keras_model_cut_off_there(name: str) -> None:
    model = wrapped(name)
    whole = model.keras_model
    for weight in whole.weights:  # so that normalisation is not the identity
        weight.assign(tf.random.stateless_uniform(weight.shape, (1, 2), 0.2, 0.9))
    once = [
        layer
        for layer in whole.layers
        if len(layer._inbound_nodes) == 1 and not isinstance(layer, keras.layers.InputLayer)
    ]
    expected = {
        f"{layer.name}:output{f'.{index}' if index else ''}": tensor
        for layer in once
        for index, tensor in enumerate(keras.tree.flatten(layer.output))
    }
    batch = drawn(model.signature, 3, 6)
    found = values_of(model, expected, batch)
    oracle = keras.Model(whole.inputs, list(expected.values())).predict_on_batch([*batch.values()])
    for (address, value), wanted in zip(found.items(), keras.tree.flatten(oracle), strict=True):
        np.testing.assert_allclose(value, wanted, atol=1e-6, err_msg=address)


def test_shared_and_nested_layers_have_a_path_for_each_call() -> None:
    found = addresses(wrapped("shared_and_nested"), Kind.LAYER_OUTPUT)
    assert found == [
        "shared:output",
        "shared@2:output",
        "functional/layer_normalization:output",
        "functional/dense:output",
        "functional:output",
        "functional@2/layer_normalization:output",
        "functional@2/dense:output",
        "functional@2:output",
        "concatenate:output",
        "add:output",
        "dense:output",
    ]


def test_inner_layers_of_a_nested_model_give_what_calling_them_by_hand_gives() -> None:
    model = wrapped("shared_and_nested")
    whole = model.keras_model
    batch = drawn(model.signature, 3, 0)
    shared, block = whole.get_layer("shared"), whole.layers[3]
    assert isinstance(block, keras.Model)
    found = values_of(model, ["functional@2/layer_normalization:output", "shared@2:input"], batch)
    by_hand = block.layers[1](shared(batch["two"]))
    np.testing.assert_allclose(found["functional@2/layer_normalization:output"], by_hand, atol=1e-6)
    np.testing.assert_array_equal(found["shared@2:input"], batch["two"])


@pytest.fixture(scope="module")
def subclassed() -> KerasModel:
    return wrapped("subclassed")


def test_everything_in_a_subclassed_model_is_found(subclassed: KerasModel) -> None:
    """Lists of layers, keyword tensors and masks, dictionaries, unnamed and unused weights."""
    assert addresses(subclassed, *(kind for kind in Kind if kind is not Kind.OP)) == [
        ":input",
        *("dense:input", "dense:output"),
        *("inner:input", "inner:input.bias", "inner:input.mask"),
        *("inner/block:input", "inner/block:output", "inner/block.1:input", "inner/block.1:output"),
        *("inner:output.biased", "inner:output.plain"),
        *("dense@2:input", "dense@2:output", "dense.1:input", "dense.1:output"),
        *("dropout:input", "dropout:output"),
        *(":output.first", ":output.last"),
        *("dense:kernel", "dense:bias", "inner:variable"),
        *("inner/block:kernel", "inner/block:bias", "inner/block.1:kernel", "inner/block.1:bias"),
        *("dense.1:kernel", "dense.1:bias", "spare:kernel", "spare:bias"),
    ]


def test_a_subclassed_model_gives_what_calling_its_layers_by_hand_gives(
    subclassed: KerasModel,
) -> None:
    whole = subclassed.keras_model
    x = drawn(subclassed.signature, 3, 0)["input"]
    first, second = whole.stack
    block = whole.inner.blocks[1](whole.inner.blocks[0](first(x)))
    biased = np.where(x > 0, block + x, block)
    expected = {
        "inner:input.bias": x,
        "inner:input.mask": x > 0,
        "inner/block.1:output": block,
        "inner:output.biased": biased,
        "dense@2:output": first(biased),
        ":output.last": second(first(biased)),
    }
    found = values_of(subclassed, expected, {"input": x})
    for address, value in expected.items():
        np.testing.assert_allclose(found[address], value, atol=1e-6, err_msg=address)


def test_softmax_in_attention_is_what_keras_returns_as_attention_scores() -> None:
    model = wrapped("attention")
    ids = drawn(model.signature, 2, 7)
    with_dropout, plain = "dropped/softmax:op/Softmax", "plain/softmax:op/Softmax"
    found = values_of(model, [with_dropout, plain], ids)
    whole = model.keras_model
    embedded = whole.get_layer("embedding")(ids["ids"])
    mixed, scores = whole.get_layer("dropped")(
        embedded, embedded, use_causal_mask=True, return_attention_scores=True
    )
    _, later = whole.get_layer("plain")(mixed, mixed, return_attention_scores=True)
    np.testing.assert_allclose(found[with_dropout], scores, atol=1e-6)
    np.testing.assert_allclose(found[plain], later, atol=1e-6)
    record = model.catalog[plain]
    assert record.spec.labels == ("sample", "head", "query=token", "key=token")
    assert [scope.type for scope in record.scopes] == [
        "Functional",
        "MultiHeadAttention",
        "Softmax",
    ]
    assert "Layer" in record.scopes[1].bases


def test_each_step_of_an_unrolled_lstm_can_be_had() -> None:
    model = wrapped("unrolled")
    batch = drawn(model.signature, 2, 0)
    cell = model.keras_model.get_layer("lstm").cell
    steps = ["lstm/lstm_cell:output", "lstm/lstm_cell@2:output", "lstm/lstm_cell@3:output"]
    states = [tf.zeros((2, 2)), tf.zeros((2, 2))]
    for step, value in enumerate(values_of(model, steps, batch).values()):
        output, states = cell(batch["input"][:, step], states)
        np.testing.assert_allclose(value, output, atol=1e-6)


def test_inside_an_rnns_loop_everything_has_an_axis_of_steps() -> None:
    catalog = wrapped("tokens_and_mask").catalog
    dims = list(map(str, catalog["lstm/lstm_cell:output"].spec.axes))
    assert dims == ["step=token", "sample", "feature=3"]
    assert catalog["both/backward_gru/gru_cell:output"].spec.axes[0].title == "step"


@pytest.mark.parametrize(
    ("layer", "op_types", "reason"),
    [
        ("loop", {"Tanh"}, None),
        ("scan", {"Less"}, CONDITION),
        ("branch", {"Sin", "Cos"}, None),
        ("nested", {"Elu", "MatMul"}, None),
    ],
)
def test_loops_and_branches_without_layers_are_listed(
    layer: str, op_types: set[str], reason: str | None
) -> None:
    records = [r for r in wrapped("control_flow").catalog.records if r.layer == layer]
    inside = {record.op_type for record in records if record.reason == reason}
    assert op_types <= inside
    assert {record.reason for record in records if record.op_type in op_types} == {reason}
    assert [r.extractable for r in records if r.kind is Kind.LAYER_OUTPUT] == [True]


def test_training_leaves_nothing_of_its_own_in_the_catalog() -> None:
    """Optimizer slots, metrics and seed states are variables of the model too."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
    fresh = list(live_model(model).catalog)
    model.compile("adam", "mse", metrics=["mae"])
    model.train_on_batch(np.ones((2, 4), "float32"), np.ones((2, 1), "float32"))
    assert list(live_model(model).catalog) == fresh
    assert len(model.variables) > len(model.weights)


def test_weights_have_the_values_that_keras_has() -> None:
    model = wrapped("shared_and_nested")
    block = model.keras_model.layers[3]
    by_address = {
        "shared:kernel": model.keras_model.get_layer("shared").kernel,
        "functional/layer_normalization:gamma": block.layers[1].gamma,
        "functional/dense:bias": block.layers[2].bias,
        "dense:kernel": head(model).kernel,
    }
    values = model.constants([Fetch(Value(address)) for address in by_address])
    for value, (address, variable) in zip(values, by_address.items(), strict=True):
        np.testing.assert_array_equal(value, variable.numpy(), err_msg=address)
    assert len(addresses(model, Kind.WEIGHT)) == len(model.keras_model.get_weights()) == 8


def test_the_layers_own_names_find_the_same_records() -> None:
    model = wrapped("shared_and_nested")
    assert model.catalog[f"{head(model).name}:output"].address == "dense:output"
