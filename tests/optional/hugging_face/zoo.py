"""Small models of transformers with random weights, saved as `save_pretrained` does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import transformers as t

VOCABULARY = 40
IMAGE = 32
_SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
_BERT = {**_SMALL, "vocab_size": VOCABULARY, "max_position_embeddings": 24}
_VISION = {**_SMALL, "image_size": IMAGE, "patch_size": 8}
_WHISPER = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "num_mel_bins": 8,
    "max_source_positions": 16,
    "max_target_positions": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}

MODELS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "bert": lambda: (t.TFBertModel, t.BertConfig(**_BERT)),
    "bert_classifier": lambda: (
        t.TFBertForSequenceClassification,
        t.BertConfig(**_BERT, num_labels=3),
    ),
    "distilbert": lambda: (
        t.TFDistilBertModel,
        t.DistilBertConfig(
            vocab_size=VOCABULARY, dim=16, n_layers=2, n_heads=2, hidden_dim=32,
            max_position_embeddings=24,
        ),
    ),
    "electra": lambda: (t.TFElectraModel, t.ElectraConfig(**_BERT, embedding_size=16)),
    "roberta": lambda: (t.TFRobertaModel, t.RobertaConfig(**_BERT)),
    "gpt2": lambda: (
        t.TFGPT2Model,
        t.GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=24),
    ),
    "t5": lambda: (
        t.TFT5Model,
        t.T5Config(
            vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
            decoder_start_token_id=0,
        ),
    ),
    "vit": lambda: (t.TFViTModel, t.ViTConfig(**_VISION)),
    "clip": lambda: (
        t.TFCLIPModel,
        t.CLIPConfig(
            text_config={**_BERT, "eos_token_id": 2}, vision_config=_VISION, projection_dim=8
        ),
    ),
    "whisper": lambda: (t.TFWhisperModel, t.WhisperConfig(**_WHISPER)),
    # Its code has an `if` on a length, which is a tensor where the trace leaves it open.
    "bart": lambda: (
        t.TFBartModel,
        t.BartConfig(
            vocab_size=VOCABULARY, d_model=16, encoder_layers=2, decoder_layers=2,
            encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
            decoder_ffn_dim=32, max_position_embeddings=24,
        ),
    ),
}  # fmt: skip


def saved(name: str, directory: Path, *, safetensors: bool = True) -> Any:
    """Return the model, with random weights that are not near zero, saved in a directory."""
    kind, config = MODELS[name]()
    model = kind(config)
    model.build_in_name_scope()
    draw = np.random.default_rng(0)
    model.set_weights([draw.normal(scale=0.3, size=w.shape) for w in model.get_weights()])
    model.save_pretrained(str(directory), safe_serialization=safetensors)
    return model


def arrays(name: str) -> dict[str, np.ndarray[Any, Any]]:
    """Return five samples of one length for a model."""
    draw = np.random.default_rng(1)
    ids = draw.integers(3, VOCABULARY, (5, 9)).astype("int32")
    mask = np.ones((5, 9), "int32")
    mask[1, 6:] = mask[3, 4:] = 0
    rows = {"input_ids": ids, "attention_mask": mask}
    decoder = {
        "decoder_input_ids": draw.integers(3, VOCABULARY, (5, 4)).astype("int32"),
        "decoder_attention_mask": np.ones((5, 4), "int32"),
    }
    pixels = {"pixel_values": draw.normal(size=(5, 3, IMAGE, IMAGE)).astype("float32")}
    sound = {"input_features": draw.normal(size=(5, 8, 32)).astype("float32")}
    segments = {"token_type_ids": draw.integers(0, 2, (5, 9)).astype("int32")}
    return {
        "bart": {**rows, **decoder},
        "t5": {**rows, **decoder},
        "vit": pixels,
        "clip": {**rows, **pixels},
        "whisper": {**sound, **decoder},
        "gpt2": rows,
        "distilbert": rows,
        "roberta": {**rows, "token_type_ids": np.zeros((5, 9), "int32")},
    }.get(name, {**rows, **segments})
