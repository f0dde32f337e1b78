"""The loop that people write by hand to get a BERT's hidden states into a file.

Competent and typical, so that a comparison with it is fair: `keras.Model(inputs, outputs)` over the
layers' outputs, texts padded to the longest length allowed, `predict_on_batch` in batches of 32,
one HDF5 dataset a layer. The weights are MiniLM's, with the GELU and the accents it was trained on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import h5py
import keras
import keras_hub

MAX_LENGTH = 128  # tokens
BATCH_SIZE = 32  # texts


@dataclass(frozen=True)
class HandwrittenModel:
    """A BERT taken apart by hand.

    Attributes:
        tokenizer: texts to word pieces.
        packer: word pieces to token and segment ids, both (texts, 128) int32, with [CLS] and [SEP].
        network: these two and the padding mask to one array (texts, 128, width) float32 a layer.
    """

    tokenizer: Any
    packer: Any
    network: Any

    def __call__(self, texts: Sequence[str]) -> list[Any]:
        """Give the hidden states of one batch of texts: (texts, 128, width) float32 a layer."""
        token_ids, segment_ids = self.packer(self.tokenizer(list(texts)))
        states: list[Any] = self.network.predict_on_batch(
            {
                "token_ids": token_ids,
                "segment_ids": segment_ids,
                "padding_mask": token_ids != self.tokenizer.pad_token_id,
            }
        )
        return states


def load(directory: Path) -> HandwrittenModel:
    """Load a BERT from a Hugging Face folder."""
    tokenizer = keras_hub.models.BertTokenizer.from_preset(str(directory), strip_accents=True)
    packer = keras_hub.layers.MultiSegmentPacker(
        sequence_length=MAX_LENGTH,
        start_value=tokenizer.cls_token_id,
        end_value=tokenizer.sep_token_id,
        pad_value=tokenizer.pad_token_id,
    )
    backbone = keras_hub.models.BertBackbone.from_preset(str(directory))
    for layer in backbone.transformer_layers:
        layer._feedforward_intermediate_dense.activation = keras.activations.gelu  # exact, not tanh
    outputs = [layer.output for layer in backbone.transformer_layers]
    return HandwrittenModel(tokenizer, packer, keras.Model(backbone.input, outputs))


def hidden_states(model: HandwrittenModel, texts: Sequence[str], path: Path) -> float:
    """Write every layer's output for `texts` to an HDF5 file; give the seconds that took.

    The datasets `layer_0`, `layer_1`, … are (texts, 128, width) float32, padding included. Neither
    loading nor the first, compiling call is timed; tokenising, running and writing are.
    """
    shapes = [states.shape[1:] for states in model(texts[:BATCH_SIZE])]
    start = perf_counter()
    with h5py.File(path, "w") as file:
        datasets = [
            file.create_dataset(f"layer_{index}", (len(texts), *shape), "float32")
            for index, shape in enumerate(shapes)
        ]
        for first in range(0, len(texts), BATCH_SIZE):
            batch = slice(first, first + BATCH_SIZE)
            for dataset, states in zip(datasets, model(texts[batch]), strict=True):
                dataset[batch] = states
    return perf_counter() - start
