"""Private names of Keras 3, tf-keras, keras-hub and transformers, each on its own."""

import importlib
from typing import Any

import keras
import pytest

from tests.internals.names import check, unlisted

FILE = "extractkit/models/keras_internals.py"
_LAYERS = "models/keras_internals.py, to list layers and their weights"
_TRACE = "models/keras_models/dialects.py, to trace recurrent layers, attention and TimeDistributed"
_STATE = "models/keras_models/layer_state.py, to compare the state of layers"
_OLD = "models/keras_models/old_configs.py, to read models of tf-keras"
_BLOCKS = "models/hub_preset.py, to load BERT's weights"
_KEYS = "models/hugging_face_library.py, to load weights of transformers"

KERAS = {
    "dense:_flatten_layers": _LAYERS,
    "dense:_trainable_variables": _LAYERS,
    "dense:_non_trainable_variables": _LAYERS,
    "dense:_call_has_mask_arg": _TRACE,
    "dense:_call_has_training_arg": _TRACE,
    "variable:_value": _LAYERS,
    "keras.src.backend:rnn": _TRACE,
    "keras.src.backend:nn.dot_product_attention": _TRACE,
    "keras:layers.RNN._maybe_config_dropout_masks": _TRACE,
    "keras.src.ops:add": "models/keras_models/loading.py, to find operations among layers",
    "keras.src.utils.tracking:TrackedList": _STATE,
}
KERAS_2 = {
    "dense:_flatten_layers": _LAYERS,
    "dense:_trainable_weights": _LAYERS,
    "dense:_non_trainable_weights": _LAYERS,
    "autocast:_variable": _LAYERS,
    "tf_keras.src.backend:rnn": _TRACE,
    "tf_keras.src.layers.rnn.gru_lstm_utils:function_register": _TRACE,
    "tf_keras.src.engine.node:Node": _STATE,
    "tf_keras.src.engine.keras_tensor:KerasTensor": _STATE,
    "tf_keras.src.saving.legacy.saved_model.load:RevivedLayer": _OLD,
    "functional:_is_graph_network": _OLD,
    "shaped:_batch_input_shape": _OLD,
}
KERAS_HUB = {
    f"block:{name}": _BLOCKS
    for name in (
        "_self_attention_layer",
        "_self_attention_layer_norm",
        "_feedforward_intermediate_dense",
        "_feedforward_output_dense",
        "_feedforward_layer_norm",
    )
}
TRANSFORMERS = {
    "transformers:TFPreTrainedModel._keys_to_ignore_on_load_missing": _KEYS,
    "transformers:TFPreTrainedModel._keys_to_ignore_on_load_unexpected": _KEYS,
}


@pytest.fixture(scope="module")
def objects() -> dict[str, object]:
    dense = keras.layers.Dense(1)
    dense.build((None, 1))
    return {"dense": dense, "variable": dense.kernel}


@pytest.fixture(scope="module")
def objects_2() -> dict[str, object]:
    tf_keras: Any = importlib.import_module("tf_keras")
    dense = tf_keras.layers.Dense(1, dtype="mixed_float16")
    dense.build((None, 1))
    given = tf_keras.Input((1,))
    return {
        "dense": dense,
        "autocast": dense.kernel,
        "functional": tf_keras.Model(given, dense(given)),
        "shaped": tf_keras.layers.Dense(1, input_shape=(1,)),
    }


@pytest.fixture(scope="module")
def objects_of_hub() -> dict[str, object]:
    keras_hub: Any = importlib.import_module("keras_hub")
    block = keras_hub.layers.TransformerEncoder(intermediate_dim=1, num_heads=1)
    block.build((None, 1, 1))
    return {"block": block}


@pytest.mark.parametrize("name", KERAS)
def test_keras_has(name: str, objects: dict[str, object]) -> None:
    check("keras", name, KERAS[name], objects)


@pytest.mark.parametrize("name", KERAS_2)
def test_tf_keras_has(name: str, objects_2: dict[str, object]) -> None:
    check("tf-keras", name, KERAS_2[name], objects_2)


@pytest.mark.parametrize("name", KERAS_HUB)
def test_keras_hub_has(name: str, objects_of_hub: dict[str, object]) -> None:
    check("keras-hub", name, KERAS_HUB[name], objects_of_hub)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_has(name: str) -> None:
    pytest.importorskip("transformers", reason="is not in the lock")
    check("transformers", name, TRANSFORMERS[name], {})


def test_every_name_that_is_used_is_checked() -> None:
    assert not unlisted(FILE, {**KERAS, **KERAS_2, **KERAS_HUB, **TRANSFORMERS})
