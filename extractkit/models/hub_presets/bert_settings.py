"""Settings of a Hugging Face BERT that keras-hub passes over."""

import functools
from typing import Any

import keras
import keras_hub

from extractkit.errors import ModelError
from extractkit.models.hub_presets.preset import Preset

_TANH_GELU = ("gelu_approximate", "gelu_new", "gelu_fast", "gelu_pytorch_tanh")


def settle_bert(backbone: Any, preset: Preset) -> None:
    """Give a BERT the activation and the epsilon that its `config.json` says.

    Every other backbone, and a preset of keras-hub's own, is left as it is.

    Raises:
        ModelError: positions or an activation that keras-hub cannot build.
    """
    if not (isinstance(backbone, keras_hub.models.BertBackbone) and preset.is_hugging_face):
        return
    positions = preset.config.get("position_embedding_type", "absolute")
    name, known = hidden_activation(preset), _activations()
    if positions != "absolute" or name not in known:
        raise ModelError(
            f"model.path={preset.name!r} has position_embedding_type={positions!r} and "
            f"hidden_act={name!r}; model={preset.model} takes 'absolute' and one of "
            f"{', '.join(known)}"
        )
    for layer in backbone.transformer_layers:
        # keras-hub builds every BERT with the tanh approximation.
        layer._feedforward_intermediate_dense.activation = known[name]
    for layer in backbone._flatten_layers():
        if isinstance(layer, keras.layers.LayerNormalization):
            layer.epsilon = preset.config.get("layer_norm_eps", 1e-12)


def hidden_activation(preset: Preset) -> str:
    """The activation of a BERT's feed-forward layers, by the name that `config.json` has."""
    if not preset.is_hugging_face:
        return _TANH_GELU[0]
    # "gelu" is what Hugging Face takes where the file is silent.
    return str(preset.config.get("hidden_act", "gelu"))


def _activations() -> dict[str, Any]:
    return {
        "gelu": functools.partial(keras.activations.gelu, approximate=False),
        "relu": keras.activations.relu,
        "silu": keras.activations.silu,
        "swish": keras.activations.silu,
        **dict.fromkeys(_TANH_GELU, functools.partial(keras.activations.gelu, approximate=True)),
    }
