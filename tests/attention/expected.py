"""Which keys each attention of keras-hub's backbones may attend to, and how it scores them.

Written down from keras-hub's documentation and code, layer by layer, in NumPy.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from extractkit.core.values import Array
from tests.attention.backbones import IMAGE, TOKENS

Inputs = Mapping[str, Array]
Mask = Callable[[Inputs], Array]
"""Returns whether a query may attend to a key, for (samples, queries, keys); 1 for any number."""

HEADS = ("sample", "head", "query", "key")
GROUPS = ("sample", "group", "head", "query", "key")


def full(x: Inputs) -> Array:
    return np.ones((1, 1, 1), bool)


def keys(name: str) -> Mask:
    return lambda x: x[name][:, None, :] == 1


def causal(x: Inputs, length: int = TOKENS) -> Array:
    return np.tril(np.ones((1, length, length), bool))


def window(before: int, after: int = 0) -> Mask:
    """Keys at most so many tokens before and after the query."""
    return lambda x: np.asarray(
        [[[-before <= k - q <= after for k in range(TOKENS)] for q in range(TOKENS)]]
    )


def both(*masks: Mask) -> Mask:
    return lambda x: np.logical_and.reduce(np.broadcast_arrays(*(mask(x) for mask in masks)))


def either(*masks: Mask) -> Mask:
    return lambda x: np.logical_or.reduce(np.broadcast_arrays(*(mask(x) for mask in masks)))


def beside(*masks: Mask) -> Mask:
    """Keys of several sequences, one after the other."""
    square = (1, TOKENS, 1)
    return lambda x: np.concatenate(
        np.broadcast_arrays(*(mask(x) & np.ones(square, bool) for mask in masks)), axis=-1
    )


def shifted(x: Inputs) -> Array:
    """Swin's second block shifts windows of 4 × 4 by 2, and keeps apart what was not adjacent."""
    side, size, shift = IMAGE[0] // 4, 4, 2
    region = np.searchsorted([side - size, side - shift], np.arange(side), side="right")
    regions = region[:, None] * 3 + region
    windows = regions.reshape(side // size, size, side // size, size).transpose(0, 2, 1, 3)
    flat = windows.reshape(-1, size * size)
    return np.tile(flat[:, :, None] == flat[:, None, :], (2, 1, 1))


def images(x: Inputs) -> Array:
    """Tokens of an image attend to each other, also to later ones."""
    vision = x["vision_mask"].astype(bool)
    return np.asarray(vision[:, :, None] & vision[:, None, :])


def prefix(x: Inputs) -> Array:
    """PaliGemma: 16 patches and a prompt are seen by all, a response only afterwards."""
    response = np.pad(x["response_mask"], ((0, 0), (16, 0)))[:, None, :] == 1
    padding = np.pad(x["padding_mask"], ((0, 0), (16, 0)), constant_values=1)[:, None, :] == 1
    return np.asarray((padding & ~response) | (causal(x, 16 + TOKENS) & response))


def after_images(x: Inputs) -> Array:
    """BLIP-2's language model: two tokens of the image, then the text."""
    padding = np.pad(x["padding_mask"], ((0, 0), (2, 0)), constant_values=1)[:, None, :] == 1
    return np.asarray(padding & causal(x, 2 + TOKENS))


def with_class(x: Inputs) -> Array:
    """VideoPrism's texts, with a class token at their end that sees all of them."""
    padding = np.pad(x["padding_mask"], ((0, 0), (0, 1)), constant_values=1)[:, None, :] == 1
    return np.asarray(padding & causal(x, TOKENS + 1))


def real_queries(x: Inputs) -> Array:
    """RoFormer and ESM: on TensorFlow, keras-hub 0.32 masks padded queries in place of keys."""
    return np.asarray(x["token_ids"][:, :, None] != 0)


def reshaped(x: Inputs) -> Array:
    """XLNet: all tokens attend to themselves, too.

    keras-hub 0.32 reshapes (samples, tokens) to (tokens, samples), where it should transpose, so
    that a batch of several samples masks the wrong ones.
    """
    mask = x["padding_mask"]
    wrong = mask.reshape(mask.shape[::-1]).T
    return np.asarray((wrong[:, None, :] == 1) | np.eye(mask.shape[1], dtype=bool)[None])


def frames(x: Inputs) -> Array:
    """Moonshine: the frames that three convolutions without padding make of the real audio."""
    real = x["encoder_padding_mask"].sum(-1)
    longest = x["encoder_input_values"].shape[1]
    for size, stride in ((127, 64), (7, 3), (3, 2)):
        real, longest = (real - size) // stride + 1, (longest - size) // stride + 1
    return np.asarray(np.arange(longest)[None, None, :] < real[:, None, None])


@dataclass(frozen=True)
class Attention:
    """What is expected of one attention.

    Attributes:
        mask: The keys that may be attended to.
        dims: The names of the axes of its probabilities.
        scale: The factor of the products of extracted queries and keys; "root": 1/√d. None if the
            scores have a further term, such as relative positions.
        turned: Whether keys come before queries in the product.
        cap: The scores are `cap·tanh(scores / cap)`.
        empty: The sum of a row without any key.
        sink: Whether the last column is not a key.
    """

    mask: Mask = full
    dims: tuple[str | None, ...] = HEADS
    scale: float | str | None = "root"
    cap: float | None = None
    empty: float = 1
    sink: bool = False
    turned: bool = False


PADDING = keys("padding_mask")


def layer(mask: Mask) -> Attention:
    """`MultiHeadAttention` with dropout, which scales queries and has a `Softmax` layer."""
    return Attention(mask, scale=1, empty=0, turned=True)


PADDED = layer(PADDING)
CAUSAL = layer(both(causal, PADDING))
DECODER = Attention(both(causal, PADDING), empty=0)
"""Of layers that scale the scores."""
SLIDING = Attention(both(window(1), PADDING), empty=0)
PLAIN = Attention()
SCALED = Attention(scale=1)
ENCODER_KEYS, DECODER_KEYS = keys("encoder_padding_mask"), keys("decoder_padding_mask")
T5_GEMMA = {"scale": 1.0, "cap": 50.0}
IN_WINDOWS = ("sample", None, "head", "query", "key")

EXPECTED: dict[str, list[Attention]] = {
    "AlbertBackbone": [Attention(PADDING)],
    "BLIP2Backbone": [PLAIN, PLAIN, PLAIN, Attention(after_images)],
    "BartBackbone": [
        layer(ENCODER_KEYS),
        layer(both(causal, DECODER_KEYS)),
        layer(ENCODER_KEYS),
    ],
    "BertBackbone": [PADDED],
    "BloomBackbone": [Attention(both(causal, PADDING), scale=None, empty=0)],
    "CLIPBackbone": [Attention(causal), PLAIN],
    "DFineBackbone": [
        SCALED,
        SCALED,
        Attention(dims=("sample", "query", "head", None), scale=None),
    ],
    "DINOV2Backbone": [PLAIN],
    "DINOV3Backbone": [PLAIN],
    "DebertaV3Backbone": [Attention(PADDING, scale=None, empty=0)],
    "DeiTBackbone": [PLAIN],
    "DepthAnythingBackbone": [PLAIN] * 4,
    "DistilBertBackbone": [PADDED],
    "ESMBackbone": [Attention(real_queries)],
    "EdRecBackbone": [
        Attention(ENCODER_KEYS),
        Attention(both(causal, DECODER_KEYS)),
        Attention(ENCODER_KEYS),
    ],
    "ElectraBackbone": [PADDED],
    "FalconBackbone": [Attention(both(causal, PADDING), scale=None, empty=0)],
    "FluxBackbone": [PLAIN, PLAIN],
    "GPT2Backbone": [CAUSAL],
    "GPTNeoXBackbone": [Attention(both(causal, PADDING), empty=0, turned=True)],
    "Gemma3Backbone": [
        PLAIN,
        *[Attention(both(window(1, 1), either(causal, images), PADDING), GROUPS, 1, 50.0, empty=0)]
        * 5,
        Attention(both(either(causal, images), PADDING), GROUPS, 1, 50.0, empty=0),
    ],
    "Gemma3nBackbone": [
        Attention(both(window(1), PADDING), scale=1),
        Attention(both(causal, PADDING), scale=1),
    ],
    "Gemma4Backbone": [
        Attention(full, GROUPS, 1, empty=0),
        Attention(both(window(1), PADDING), GROUPS, 1, empty=0),
    ],
    "GemmaBackbone": [
        Attention(both(window(1), PADDING), GROUPS, 1, 50.0, empty=0),
        Attention(both(causal, PADDING), GROUPS, 1, 50.0, empty=0),
    ],
    "GptOssBackbone": [
        Attention(both(causal, PADDING), ("sample", "head", "query", None), None, sink=True),
        Attention(both(window(2), PADDING), ("sample", "head", "query", None), None, sink=True),
    ],
    "Llama3Backbone": [DECODER],
    "LlamaBackbone": [DECODER],
    "MetaCLIP2Backbone": [PLAIN, Attention(causal)],
    "MiTBackbone": [PLAIN, PLAIN],
    "MistralBackbone": [SLIDING],
    "MixtralBackbone": [SLIDING],
    "MobileNetV5Backbone": [SCALED, SCALED],
    "MoonshineBackbone": [
        Attention(frames),
        Attention(both(causal, DECODER_KEYS)),
        Attention(frames),
    ],
    "OPTBackbone": [CAUSAL],
    "PARSeqBackbone": [PLAIN, CAUSAL, layer(full)],
    "PaliGemmaBackbone": [PLAIN, Attention(prefix, GROUPS, 1, empty=0)],
    "Phi3Backbone": [DECODER],
    "Qwen3Backbone": [SLIDING],
    "Qwen3MoeBackbone": [DECODER],
    "Qwen3_5Backbone": [DECODER],
    "Qwen3_5MoeBackbone": [DECODER],
    "QwenBackbone": [SLIDING],
    "QwenMoeBackbone": [DECODER],
    "RobertaBackbone": [PADDED],
    "RoformerV2Backbone": [Attention(real_queries)],
    "SAMBackbone": [Attention(dims=("sample", None, "query", "key"), scale=None)] * 2,
    "SegFormerBackbone": [PLAIN, PLAIN],
    "SigLIPBackbone": [PLAIN, PLAIN, PLAIN],
    "SmolLM3Backbone": [DECODER],
    "SwinTransformerBackbone": [
        Attention(dims=IN_WINDOWS, scale=None),
        Attention(shifted, IN_WINDOWS, None),
    ],
    "T5Backbone": [
        Attention(ENCODER_KEYS, scale=None),
        Attention(both(causal, DECODER_KEYS), scale=None),
        Attention(ENCODER_KEYS, scale=None),
    ],
    "T5GemmaBackbone": [
        # keras-hub 0.32 does not apply the window in the encoder.
        *[Attention(ENCODER_KEYS, **T5_GEMMA)] * 2,
        Attention(both(window(2), DECODER_KEYS), **T5_GEMMA),
        Attention(ENCODER_KEYS, **T5_GEMMA),
        Attention(both(causal, DECODER_KEYS), **T5_GEMMA),
        Attention(ENCODER_KEYS, **T5_GEMMA),
    ],
    "T5Gemma2Backbone": [
        Attention(both(window(0, 1), ENCODER_KEYS), **T5_GEMMA),
        Attention(ENCODER_KEYS, **T5_GEMMA),
        Attention(beside(both(window(1), DECODER_KEYS), ENCODER_KEYS), **T5_GEMMA),
        Attention(beside(both(causal, DECODER_KEYS), ENCODER_KEYS), **T5_GEMMA),
    ],
    "ViTBackbone": [PLAIN],
    "ViTDetBackbone": [Attention(dims=("sample", None, "query", "key"), scale=None)] * 2,
    "VideoPrismBackbone": [
        Attention(dims=IN_WINDOWS, scale=1),
        Attention(dims=IN_WINDOWS, scale=1),
        SCALED,
        Attention(with_class, scale=1),
        SCALED,
    ],
    "WhisperBackbone": [PLAIN, Attention(both(causal, DECODER_KEYS)), PLAIN],
    "XLMRobertaBackbone": [PADDED],
    "XLNetBackbone": [Attention(reshaped, scale=None, empty=0)],
}
"""Each attention of the backbones of `BUILDERS`, in the order of the catalog."""
