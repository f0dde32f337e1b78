"""BERT's forward pass in float64 NumPy, straight from the published weights.

An oracle for `model=bert`: it shares no code with TensorFlow, Keras or keras-hub, knows neither
batches nor padding, and rounds so little that what differs is the other side's doing.

Source: Devlin et al. 2019 (arXiv:1810.04805) for BERT, Vaswani et al. 2017 (arXiv:1706.03762) for
its encoder, with layer normalisation after each residual sum, and Hendrycks and Gimpel 2016
(arXiv:1606.08415) for the exact GELU. Weights and configuration keys go by Hugging Face's names.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class BertTrace:
    """What one text gives: float64, no batch axis, no padding.

    Attributes:
        hidden_states: layers + 1 arrays (tokens, width): the normalised embeddings, then the
            output of each layer in turn.
        attention: one array (heads, tokens, tokens) a layer: probabilities, query by key; the last
            axis sums to one.
        wide: one array (tokens, 4 · width) a layer: the feed-forward units after the GELU.
        pooled: (width,): the dense tanh layer on the first token, [CLS].
    """

    hidden_states: list[Array]
    attention: list[Array]
    wide: list[Array]
    pooled: Array


class BertFloat64:
    """A BERT encoder read from a Hugging Face folder (`config.json`, `model.safetensors`).

    Only what MiniLM needs: one segment, exact GELU, absolute positions. Another activation or other
    positions are a ValueError rather than a plausible wrong number.
    """

    def __init__(self, directory: Path) -> None:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        for key, known in {"hidden_act": "gelu", "position_embedding_type": "absolute"}.items():
            if config[key] != known:
                raise ValueError(f"{directory}: {key} is {config[key]!r}, not {known!r}")
        self.layers: int = config["num_hidden_layers"]
        self.heads: int = config["num_attention_heads"]
        self.epsilon: float = config["layer_norm_eps"]
        self.weights: dict[str, Array] = {
            name: values.astype(np.float64)
            for name, values in load_file(directory / "model.safetensors").items()
        }

    def forward(self, token_ids: list[int]) -> BertTrace:
        """Run one text, given as its token ids with [CLS] and [SEP], without padding."""
        x = self._embed(token_ids)
        hidden_states, attention, wide = [x], [], []
        for layer in range(self.layers):
            x, probabilities, units = self._layer(f"encoder.layer.{layer}", x)
            hidden_states.append(x)
            attention.append(probabilities)
            wide.append(units)
        pooled = np.tanh(self._dense("pooler.dense", x[0]))
        return BertTrace(hidden_states, attention, wide, pooled)

    def _embed(self, token_ids: list[int]) -> Array:
        words = self.weights["embeddings.word_embeddings.weight"][token_ids]
        positions = self.weights["embeddings.position_embeddings.weight"][: len(token_ids)]
        segment = self.weights["embeddings.token_type_embeddings.weight"][0]
        return self._norm("embeddings.LayerNorm", words + positions + segment)

    def _layer(self, name: str, x: Array) -> tuple[Array, Array, Array]:
        mixed, probabilities = self._attend(f"{name}.attention.self", x)
        x = self._norm(
            f"{name}.attention.output.LayerNorm",
            x + self._dense(f"{name}.attention.output.dense", mixed),
        )
        wide = gelu(self._dense(f"{name}.intermediate.dense", x))
        x = self._norm(f"{name}.output.LayerNorm", x + self._dense(f"{name}.output.dense", wide))
        return x, probabilities, wide

    def _attend(self, name: str, x: Array) -> tuple[Array, Array]:
        """Give the heads' outputs side by side (tokens, width), and the probabilities."""
        query, key, value = (
            self._split_heads(self._dense(f"{name}.{role}", x))
            for role in ("query", "key", "value")
        )
        scores = query @ key.swapaxes(1, 2) / math.sqrt(query.shape[-1])
        probabilities = _softmax(scores)
        return (probabilities @ value).swapaxes(0, 1).reshape(x.shape), probabilities

    def _split_heads(self, x: Array) -> Array:
        """Turn (tokens, width) into (heads, tokens, width / heads)."""
        return x.reshape(len(x), self.heads, -1).swapaxes(0, 1)

    def _dense(self, name: str, x: Array) -> Array:
        product: Array = x @ self.weights[f"{name}.weight"].T
        return product + self.weights[f"{name}.bias"]

    def _norm(self, name: str, x: Array) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = np.square(centred).mean(axis=-1, keepdims=True)
        scaled: Array = centred / np.sqrt(variance + self.epsilon)
        return scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]


def gelu(x: Array) -> Array:
    """Multiply x by the normal distribution function of x: erf itself, no tanh approximation."""
    return 0.5 * x * (1.0 + _erf(x / math.sqrt(2.0)))


def _erf(x: Array) -> Array:
    """Ask the C library, value by value: NumPy has no erf."""
    return np.fromiter(map(math.erf, x.ravel().tolist()), np.float64, x.size).reshape(x.shape)


def _softmax(scores: Array) -> Array:
    powers: Array = np.exp(scores - scores.max(axis=-1, keepdims=True))
    total: Array = powers.sum(axis=-1, keepdims=True)
    return powers / total
