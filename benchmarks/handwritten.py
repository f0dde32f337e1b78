"""The loop that people write by hand to get a BERT's hidden states into a file.

Competent and typical, so that a comparison with it is fair: `keras.Model(inputs, outputs)` over the
layers' outputs, texts padded to the longest length allowed, `predict_on_batch` in batches of 32,
one HDF5 dataset a layer. The weights are MiniLM's, with the GELU and the accents it was trained on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import keras
import keras_hub
import numpy as np

MAX_LENGTH = 128  # tokens
BATCH_SIZE = 32  # texts


@dataclass(frozen=True)
class HandwrittenModel:
    """A BERT taken apart by hand.

    Attributes:
        tokenizer: texts to word pieces.
        packer: word pieces to token and segment ids, both (texts, 128) int32, with [CLS] and [SEP].
        states: these two and the padding mask to one array (texts, 128, width) float32 a layer.
        probabilities: the same to one array (texts, heads, 128, 128) float32 a layer.
        first: the same to the first layer's states alone.
    """

    tokenizer: Any
    packer: Any
    states: Any
    probabilities: Any
    first: Any

    def inputs(self, texts: Sequence[str]) -> dict[str, Any]:
        """Return what the models take for one batch of texts."""
        token_ids, segment_ids = self.packer(self.tokenizer(list(texts)))
        mask = token_ids != self.tokenizer.pad_token_id
        return {"token_ids": token_ids, "segment_ids": segment_ids, "padding_mask": mask}


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
    states, first = (keras.Model(backbone.input, one) for one in (outputs, outputs[:1]))
    return HandwrittenModel(tokenizer, packer, states, _Probabilities(backbone), first)


class _Probabilities(keras.Model):  # type: ignore[misc]
    """Calls the layers of a BERT again, since the functional model has no such outputs."""

    def __init__(self, backbone: Any) -> None:
        super().__init__(name="probabilities")
        self.embeddings = keras.Model(backbone.input, backbone.transformer_layers[0].input[0])
        self.encoders = backbone.transformer_layers

    def call(self, inputs: Any) -> list[Any]:
        state, mask, found = self.embeddings(inputs), inputs["padding_mask"], []
        for layer in self.encoders:
            state, scores = layer(state, padding_mask=mask, return_attention_scores=True)
            found.append(scores)
        return found


def hidden_states(model: HandwrittenModel, texts: Sequence[str], path: Path) -> None:
    """Write every layer's output for `texts` to an HDF5 file.

    The datasets `layer_0`, `layer_1`, … are (texts, 128, width) float32, padding included.
    """
    _written(model, model.states, texts, path)


def attention(model: HandwrittenModel, texts: Sequence[str], path: Path) -> None:
    """Write every layer's attention probabilities, (texts, heads, 128, 128) float32, likewise."""
    _written(model, model.probabilities, texts, path)


def first_layer(model: HandwrittenModel, texts: Sequence[str], path: Path) -> None:
    """Write the first layer's output likewise."""
    _written(model, model.first, texts, path)


def means(model: HandwrittenModel, texts: Sequence[str], path: Path) -> None:
    """Write the mean of every layer's output over the text's tokens, (texts, width) float32."""

    def mean(states: Any, given: dict[str, Any]) -> Any:
        mask = np.asarray(given["padding_mask"])[..., np.newaxis].astype("float32")
        return (states * mask).sum(axis=1) / mask.sum(axis=1)

    _written(model, model.states, texts, path, mean)


def _written(
    model: HandwrittenModel,
    network: Any,
    texts: Sequence[str],
    path: Path,
    of: Callable[[Any, dict[str, Any]], Any] = lambda values, given: values,
) -> None:
    with h5py.File(path, "w") as file:
        for start in range(0, len(texts), BATCH_SIZE):
            batch = texts[start : start + BATCH_SIZE]
            given = model.inputs(batch)
            returned = network.predict_on_batch(given)
            layers = returned if isinstance(returned, list) else [returned]
            for index, values in enumerate(layers):
                stored = of(values, given)
                if not start:
                    shape = (len(texts), *stored.shape[1:])
                    file.create_dataset(f"layer_{index}", shape, "float32")
                file[f"layer_{index}"][start : start + len(batch)] = stored
