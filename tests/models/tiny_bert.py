"""Tiny BERT directories with random weights, in both layouts that keras-hub reads."""

import json
from pathlib import Path
from typing import Any

import keras_hub
import numpy as np
from safetensors.numpy import save_file

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "house", "of", "##s", "cards"]
WIDTH, WIDE, LAYERS, POSITIONS = 8, 16, 2, 12

CONFIG: dict[str, Any] = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_act": "gelu",
    "hidden_size": WIDTH,
    "intermediate_size": WIDE,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": POSITIONS,
    "num_attention_heads": 2,
    "num_hidden_layers": LAYERS,
    "position_embedding_type": "absolute",
    "type_vocab_size": 2,
    "vocab_size": len(VOCABULARY),
}


def shapes() -> dict[str, tuple[int, ...]]:
    """The tensors of such a file by Hugging Face's names."""
    dense = {"attention.output.dense": (WIDTH, WIDTH), "intermediate.dense": (WIDE, WIDTH)}
    dense |= {f"attention.self.{role}": (WIDTH, WIDTH) for role in ("query", "key", "value")}
    dense |= {"output.dense": (WIDTH, WIDE)}
    found: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (len(VOCABULARY), WIDTH),
        "embeddings.position_embeddings.weight": (POSITIONS, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH),
        "embeddings.LayerNorm.weight": (WIDTH,),
        "embeddings.LayerNorm.bias": (WIDTH,),
        "pooler.dense.weight": (WIDTH, WIDTH),
        "pooler.dense.bias": (WIDTH,),
    }
    for layer in (f"encoder.layer.{index}" for index in range(LAYERS)):
        for name, shape in dense.items():
            found |= {f"{layer}.{name}.weight": shape, f"{layer}.{name}.bias": shape[:1]}
        for name in ("attention.output", "output"):
            norm = f"{layer}.{name}.LayerNorm"
            found |= {f"{norm}.weight": (WIDTH,), f"{norm}.bias": (WIDTH,)}
    return found


def hugging_face(directory: Path, **changes: object) -> Path:
    """Hugging Face's layout; the settings in `changes` replace those of CONFIG."""
    directory.mkdir(exist_ok=True)
    draw = np.random.default_rng(0)
    weights = {name: draw.normal(size=shape) for name, shape in shapes().items()}
    save_file(
        {name: values.astype(np.float32) for name, values in weights.items()},
        directory / "model.safetensors",
    )
    (directory / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    (directory / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    (directory / "vocab.txt").write_text("\n".join(VOCABULARY))
    return directory


def backbone() -> keras_hub.models.BertBackbone:
    model = keras_hub.models.BertBackbone(
        vocabulary_size=len(VOCABULARY),
        num_layers=LAYERS,
        num_heads=2,
        hidden_dim=WIDTH,
        intermediate_dim=WIDE,
        max_sequence_length=POSITIONS,
    )
    draw = np.random.default_rng(1)
    model.set_weights([draw.normal(size=weight.shape) for weight in model.weights])
    return model


def keras_hub_preset(directory: Path, model: keras_hub.models.BertBackbone) -> Path:
    """keras-hub's own layout."""
    model.save_to_preset(str(directory))
    keras_hub.models.BertTokenizer(vocabulary=VOCABULARY, lowercase=True).save_to_preset(
        str(directory)
    )
    return directory
