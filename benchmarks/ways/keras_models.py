"""The models of the comparison in Keras, made to return what a work needs."""

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import keras_hub
import numpy as np

from benchmarks.ways import Assets

STAGES = ("conv2_block3_out", "conv3_block4_out", "conv4_block6_out", "conv5_block3_out")
PICTURE = (224, 224, 3)
STEPS, FEATURES, UNITS = 200, 32, 128


class _Bert(keras.Model):
    """MiniLM, whose layers are called one by one for what a work needs of each.

    A model over the outputs of layers would do, except for attention: in Keras's symbolic calls, a
    layer of KerasHub has no second result.
    """

    def __init__(self, folder: Path, work: str) -> None:
        super().__init__(name="bert")
        self.backbone = keras_hub.models.BertBackbone.from_preset(str(folder))
        layers = self.backbone.transformer_layers
        for layer in layers:  # exact, not tanh
            layer._feedforward_intermediate_dense.activation = keras.activations.gelu
        self.used = layers[:1] if work == "first_layer" else layers
        self.attention = work == "attention"

    def call(self, inputs: list[Any]) -> list[Any]:
        ids, mask = inputs
        parts = self.backbone
        tokens = parts.token_embedding(ids)
        segments = parts.segment_embedding(keras.ops.zeros_like(ids))
        x = parts.embeddings_layer_norm(tokens + parts.position_embedding(tokens) + segments)
        found = []
        for layer in self.used:
            if self.attention:
                x, scores = layer(x, padding_mask=mask, return_attention_scores=True)
                found.append(scores)
            else:
                x = layer(x, padding_mask=mask)
                found.append(x)
        return found


def bert(folder: Path, work: str) -> keras.Model:
    """Build MiniLM: token ids and mask (texts, tokens), both int32, to a value a layer.

    The values are hidden states (texts, tokens, 384), or attention probabilities
    (texts, 12, tokens, tokens).
    """
    return _Bert(folder, work)


def resnet50(assets: Assets) -> keras.Model:
    """Build ResNet50, which returns the outputs of its stages, with the weights of all ways."""
    model = keras.applications.ResNet50(weights=None, include_top=False, input_shape=PICTURE)
    with np.load(assets.folder / "resnet50.npz") as weights:
        for variable in model.variables:
            if variable.path in weights:
                variable.assign(weights[variable.path])
    return keras.Model(model.input, [model.get_layer(name).output for name in STAGES])


def lstm(assets: Assets) -> keras.Model:
    """Build the LSTM with the weights of `lstm.npz`: (n, steps, features) to all its outputs."""
    x = keras.Input((STEPS, FEATURES), name="x")
    layer = keras.layers.LSTM(UNITS, return_sequences=True, name="memory")
    model = keras.Model(x, layer(x))
    with np.load(assets.folder / "lstm.npz") as weights:
        layer.set_weights([weights[name] for name in ("kernel", "recurrent_kernel", "bias")])
    return model


def save_weights(folder: Path) -> None:
    """Write random weights of ResNet50 and the LSTM, as all frameworks read them."""
    keras.utils.set_random_seed(0)
    model = keras.applications.ResNet50(weights=None, include_top=False, input_shape=PICTURE)
    noise = np.random.default_rng(0)
    weights = {one.path: np.asarray(one.value) for one in model.variables if "/" in one.path}
    for name, value in weights.items():
        if name.endswith("moving_mean"):
            weights[name] = noise.normal(size=value.shape).astype("float32") / 10
    np.savez(folder / "resnet50.npz", allow_pickle=False, **weights)
    x = keras.Input((STEPS, FEATURES))
    layer = keras.layers.LSTM(UNITS, return_sequences=True)
    layer(x)
    names = ("kernel", "recurrent_kernel", "bias")
    of_lstm = dict(zip(names, layer.get_weights(), strict=True))
    np.savez(folder / "lstm.npz", allow_pickle=False, **of_lstm)
