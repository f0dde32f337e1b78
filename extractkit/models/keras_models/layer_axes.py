"""Names of the axes that layers give their results, from the layers' types and settings.

Only layers of Keras, of KerasHub and some of Transformers name axes, and only if their computation
is not overridden: a user's own class may give its axes any meaning.
"""

from collections.abc import Mapping
from typing import Any

from extractkit.models.axes import Names
from extractkit.models.keras_models.dialects import kinds_of
from extractkit.models.keras_models.tracing import LayerCall

_CONVOLUTIONS_1D = frozenset({"Conv1D", "Conv1DTranspose", "SeparableConv1D", "DepthwiseConv1D"})
_PICTURES = frozenset(
    {
        *("Conv2D", "Conv2DTranspose", "SeparableConv2D", "DepthwiseConv2D"),
        *("ConvLSTM2D", "ConvLSTMCell"),
        *("MaxPooling2D", "AveragePooling2D", "UpSampling2D", "ZeroPadding2D", "Cropping2D"),
        *("GlobalMaxPooling2D", "GlobalAveragePooling2D"),
    }
)
_FEATURES = frozenset(
    {
        *("Dense", "Embedding", "ReversibleEmbedding", "LSTM", "GRU", "SimpleRNN"),
        *("LSTMCell", "GRUCell", "SimpleRNNCell"),
        *("TokenAndPositionEmbedding", "TransformerEncoder", "TransformerDecoder"),
    }
)
_SAME_AXES = frozenset(
    {
        *(
            "Activation",
            "ReLU",
            "LeakyReLU",
            "PReLU",
            "ELU",
            "Softmax",
            "Dropout",
            "SpatialDropout1D",
        ),
        *("SpatialDropout2D", "GaussianNoise", "GaussianDropout", "AlphaDropout", "Identity"),
        *("BatchNormalization", "LayerNormalization", "UnitNormalization", "GroupNormalization"),
        *("RMSNormalization", "ActivityRegularization"),
    }
)
_SCORES: Names = (None, "head", "query", "key")
# In these, products of queries and keys have the axes of `_SCORES`, and outputs end with features.
_ATTENTION = frozenset(
    {
        *("MultiHeadAttention", "GroupedQueryAttention", "LlamaAttention", "QwenAttention"),
        *("CachedMistralAttention", "CachedMixtralAttention", "Qwen3Attention", "Phi3Attention"),
        *("GPTNeoXAttention", "FalconAttention", "BloomAttention"),
    }
)
# XLNet's derives from Keras's. It also multiplies queries with embeddings of relative positions.
_RELATIVE = frozenset({"TwoStreamRelativeAttention"})
# The axes of the probabilities. In a group of Gemma's, query heads share a head of keys. GPT-OSS
# has a column more than there are keys, and deformable attention has sampled points for keys.
_PROBABILITIES: Mapping[str, Names] = {
    **dict.fromkeys(_ATTENTION | _RELATIVE, _SCORES),
    **dict.fromkeys(("T5MultiHeadAttention", "DisentangledSelfAttention"), _SCORES),
    **dict.fromkeys(("T5GemmaAttention", "T5Gemma2Attention", "T5Gemma2MergedAttention"), _SCORES),
    **dict.fromkeys(("Gemma3nTextAttention", "Gemma3VisionAttention"), _SCORES),
    **dict.fromkeys(("QwenMoeAttention", "Qwen3MoeAttention", "Qwen3_5Attention"), _SCORES),
    **dict.fromkeys(("SmolLM3Attention", "RoformerAttention", "VideoPrismAttention"), _SCORES),
    **dict.fromkeys(("PaliGemmaVitAttention", "DINOV3Attention", "WindowAttention"), _SCORES),
    **dict.fromkeys(("SegFormerMultiheadAttention", "DFineMultiheadAttention"), _SCORES),
    **dict.fromkeys(("MultiQueryAttention2d", "FluxRoPEAttention"), _SCORES),
    **dict.fromkeys(("SAM3Attention", "MMDiTBlock"), _SCORES),
    "MultiHeadAttentionWithDownsampling": _SCORES,
    **dict.fromkeys(("Attention", "BaseDenseAttention"), (None, "query", "key")),
    "MultiHeadAttentionWithRelativePE": (None, "query", "key"),
    "Conv2DMultiHeadAttention": (None, "query", "key"),
    **dict.fromkeys(
        (
            *("CachedGemmaAttention", "CachedGemma3Attention"),
            *("Gemma4TextAttention", "Gemma4VisionAttention"),
        ),
        (None, "group", "head", "query", "key"),
    ),
    "GptOssAttention": (None, "head", "query", None),
    "DFineMultiscaleDeformableAttention": (None, "query", "head", None),
}

# In these classes of Transformers, the scores have the shape (batch, heads, query, key).
_ATTENTION_OF_TRANSFORMERS = frozenset(
    {
        *("TFBertSelfAttention", "TFRobertaSelfAttention", "TFXLMRobertaSelfAttention"),
        *("TFCamembertSelfAttention", "TFElectraSelfAttention", "TFMultiHeadSelfAttention"),
        *("TFAttention", "TFT5Attention", "TFViTSelfAttention", "TFDeiTSelfAttention"),
    }
)


def names_of(call: LayerCall, port: str, rank: int | None) -> Names | None:
    """Return the names of the axes of a layer's input or output; None if none is known.

    Args:
        port: "input", "output", or another port of the call.
        rank: the number of its axes.
    """
    if rank is None or rank < 2:
        return None
    kinds = kinds_of(call.layer)
    if port in ("input", "output") and "Softmax" in kinds and call.parent is not None:
        return _of_probabilities(call.parent.layer, rank, call.layer.axis)
    if not port.startswith("output"):
        return None
    if kinds & _PICTURES:
        return _of_pictures(call.layer, rank)
    if kinds & _CONVOLUTIONS_1D and rank == 3:
        last = getattr(call.layer, "data_format", None) == "channels_last"
        return (None, None, "channel") if last else (None, "channel", None)
    if "EinsumDense" in kinds:
        return _of_einsum(call.layer.equation, rank, heads=bool(_kinds_above(call) & _ATTENTION))
    if kinds & {*_FEATURES, *_ATTENTION} and (port == "output" or "Dense" in kinds):
        return (*(None,) * (rank - 1), "feature")
    return None


def keeps_axes(layer: Any) -> bool:
    """Return whether a layer's output has the axes of its input."""
    return bool(kinds_of(layer) & _SAME_AXES)


def names_of_operation(call: LayerCall, operation: Any) -> Names | None:
    """Return the names of the axes of an operation's result inside a layer; None if unknown."""
    if operation.type not in ("Softmax", "Einsum"):
        return None
    if operation.type == "Einsum":
        equation = operation.get_attr("equation").decode()
        kinds = kinds_of(call.layer)
        return _of_scores(equation) if kinds & _ATTENTION and not kinds & _RELATIVE else None
    rank = operation.outputs[0].shape.rank
    if rank is None:
        return None
    if "Softmax" in kinds_of(call.layer) and call.parent is not None:
        return _of_probabilities(call.parent.layer, rank, call.layer.axis)
    module = type(call.layer).__module__.partition(".")[0]
    if module == "transformers" and type(call.layer).__name__ in _ATTENTION_OF_TRANSFORMERS:
        return _SCORES if rank == len(_SCORES) else None
    return _of_probabilities(call.layer, rank)


def _of_probabilities(layer: Any, rank: int, keys: Any = -1) -> Names | None:
    """Return the names of the axes of an attention layer's probabilities; None if unknown.

    Args:
        keys: The axis, or the axes, of the keys.
    """
    kinds = kinds_of(layer)
    classes = (one.__name__ for one in type(layer).__mro__ if one.__name__ in kinds)
    names = next((_PROBABILITIES[one] for one in classes if one in _PROBABILITIES), None)
    if names is None:
        return None
    if "MultiHeadAttention" in kinds:
        # It may attend along some of its inputs' axes. The others come before the heads.
        along = len(keys) if isinstance(keys, list | tuple) else 1
        ends = ("head", "query", "key") if along == 1 else ("head", *(None,) * (2 * along))
        names = (*(None,) * (rank - len(ends)), *ends)
    return names if rank == len(names) and names[0] is None else None


def _kinds_above(call: LayerCall) -> frozenset[str]:
    return frozenset() if call.parent is None else kinds_of(call.parent.layer)


def _of_pictures(layer: Any, rank: int) -> Names | None:
    last = getattr(layer, "data_format", None) != "channels_first"
    if rank == 2:
        return (None, "channel")
    spatial = ("height", "width", "channel") if last else ("channel", "height", "width")
    return (*(None,) * (rank - 3), *spatial) if rank in (4, 5) else None


def _of_scores(equation: str) -> Names | None:
    """Return the names of the product of queries and keys; None for another product.

    It sums over the last axis of both, the features of a head, and pairs each position of one with
    each position of the other.
    """
    operands, _, result = equation.partition("->")
    one, _, other = operands.partition(",")
    if len(result) != len(_SCORES) or one[-1:] != other[-1:] or one[-1:] in result:
        return None
    _, head, query, key = list(result)
    apart = {query, key}.isdisjoint(set(one) & set(other)) and (query in one) != (key in one)
    return _SCORES if head in one and head in other and apart else None


def _of_einsum(equation: str, rank: int, *, heads: bool) -> Names | None:
    """Return the names of a result's last axes that only the kernel has."""
    operands, _, result = equation.replace(" ", "").partition("->")
    given = operands.partition(",")[0]
    own = [letter for letter in result if letter not in given]
    if "." in equation or len(result) != rank or not result.endswith("".join(own)):
        return None
    names = {1: ("feature",), 2: ("head", "feature") if heads else ()}.get(len(own), ())
    return (*(None,) * (rank - len(names)), *names) if names else None
