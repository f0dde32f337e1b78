"""`selectors=attention` on keras-hub's backbones: the probabilities, by hand."""

from pathlib import Path

import keras
import keras_hub
import numpy as np
import pytest

from extractkit.core.selectors import parse_selector
from extractkit.core.values import Array
from extractkit.models.hub import load
from extractkit.models.in_memory import live_model
from extractkit.models.keras_models.model import KerasModel
from tests.models import tiny_presets
from tests.models.programs import values_of

ATTENTION = parse_selector("attention", {"inside": "*Attention", "op_type": "Softmax"})
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int32)
TOKENS = {"token_ids": np.array([[1, 2, 3, 4, 5], [6, 7, 8, 0, 0]], np.int32), "padding_mask": MASK}
IMAGES = {"images": np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)}


def probabilities(query: Array, key: Array, mask: Array | None) -> Array:
    """Softmax of QKᵀ/√d; query and key (samples, tokens, heads, d), fewer heads of keys shared."""
    query, key = query.astype(np.float64), key.astype(np.float64)
    key = np.repeat(key, query.shape[2] // key.shape[2], axis=2)
    scores = np.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(query.shape[-1])
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    raised = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(raised / raised.sum(-1, keepdims=True))


def causal() -> Array:
    tokens = MASK.shape[1]
    return np.tril(np.ones((tokens, tokens), bool)) & (MASK[:, None, None, :] == 1)


def found(model: KerasModel, inputs: dict[str, Array], query: str, key: str) -> list[Array]:
    addresses = [record.address for record in ATTENTION.select(model.catalog)]
    assert len(addresses) == 2  # one a layer
    values = values_of(model, [addresses[1], query, key], inputs)
    return list(values.values())


def preset(build: object, directory: Path) -> KerasModel:
    assert callable(build)
    return load(str(tiny_presets.saved(build, directory)))


SMALL = {"vocabulary_size": 20, "num_layers": 1, "hidden_dim": 24, "intermediate_dim": 8}
GROUPED = {**SMALL, "num_query_heads": 3, "num_key_value_heads": 1}
BACKBONES: dict[str, dict[str, int]] = {
    "LlamaBackbone": GROUPED,
    "MistralBackbone": GROUPED,
    "QwenBackbone": GROUPED,
    "Qwen3Backbone": {**GROUPED, "head_dim": 4},
    "Phi3Backbone": GROUPED,
    "MixtralBackbone": {**GROUPED, "num_experts": 2},
    "GPTNeoXBackbone": {**SMALL, "num_heads": 3},
    "FalconBackbone": {**SMALL, "num_attention_heads": 3},
    "BloomBackbone": {**SMALL, "num_heads": 3},
}


@pytest.mark.parametrize("name", BACKBONES)
def test_names_of_axes_are_what_the_layers_do_along_them(name: str) -> None:
    keras.utils.set_random_seed(0)
    model = live_model(getattr(keras_hub.models, name)(**BACKBONES[name]))
    (record,) = ATTENTION.select(model.catalog)
    assert record.spec.titles == ("sample", "head", "query", "key")
    (weights,) = values_of(model, [record.address], TOKENS).values()
    assert weights.shape == (2, 3, 5, 5)
    np.testing.assert_allclose(weights.sum(record.spec.titles.index("key")), 1, rtol=1e-5)
    # No query attends to a later key.
    assert not weights[:, :, *np.triu_indices(5, 1)].any()


def test_gpt2(tmp_path: Path) -> None:
    model = preset(tiny_presets.gpt2, tmp_path / "gpt2")
    layer = "transformer_layer_1/self_attention"
    softmax, query, key = found(model, TOKENS, f"{layer}/query:output", f"{layer}/key:output")
    np.testing.assert_allclose(softmax, probabilities(query, key, causal()), atol=1e-6)


def test_llama(tmp_path: Path) -> None:
    """Queries and keys as they leave the rotary embedding."""
    model = preset(tiny_presets.llama, tmp_path / "llama")
    rotary = "transformer_layer_1/self_attention/llama_rotary_embedding"
    softmax, query, key = found(model, TOKENS, f"{rotary}:output", f"{rotary}@2:output")
    np.testing.assert_allclose(softmax, probabilities(query, key, causal()), atol=1e-6)


def test_vit(tmp_path: Path) -> None:
    model = preset(tiny_presets.vit, tmp_path / "vit")
    layer = "vit_encoder/transformer_block_2/mha"
    softmax, query, key = found(model, IMAGES, f"{layer}/query:output", f"{layer}/key:output")
    np.testing.assert_allclose(softmax, probabilities(query, key, None), atol=1e-6)


@pytest.mark.parametrize("build", [tiny_presets.gpt2, tiny_presets.llama])
def test_selected_rows_sum_to_one(build: object, tmp_path: Path) -> None:
    model = preset(build, tmp_path / "preset")
    address = ATTENTION.select(model.catalog)[0].address
    np.testing.assert_allclose(values_of(model, [address], TOKENS)[address].sum(-1), 1, atol=1e-6)
