"""Names of the axes that layers give their results, from the layers' types and settings.

Only layers of Keras, of KerasHub and some of Transformers name axes, and only if their computation
is not overridden: a user's own class may give its axes any meaning.
"""

from typing import Any

from extractkit.models.axes import Names
from extractkit.models.keras_models.tracing import LayerCall

_PACKAGES = ("keras", "tf_keras", "keras_hub", "keras_nlp")

_CONVOLUTIONS_1D = frozenset({"Conv1D", "Conv1DTranspose", "SeparableConv1D", "DepthwiseConv1D"})
_PICTURES = frozenset(
    {
        *("Conv2D", "Conv2DTranspose", "SeparableConv2D", "DepthwiseConv2D", "ConvLSTM2D"),
        *("MaxPooling2D", "AveragePooling2D", "UpSampling2D", "ZeroPadding2D", "Cropping2D"),
        *("GlobalMaxPooling2D", "GlobalAveragePooling2D"),
    }
)
_FEATURES = frozenset(
    {
        *("Dense", "Embedding", "ReversibleEmbedding", "LSTM", "GRU", "SimpleRNN"),
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
# In each of these, the scores have the shape (batch, heads, query, key). Others of KerasHub have no
# names. Gemma divides its heads into groups, XLNet and DeBERTa add scores of relative positions,
# and the scores of GPT-OSS have a column more than there are keys.
_ATTENTION = frozenset(
    {
        *("MultiHeadAttention", "GroupedQueryAttention", "LlamaAttention", "QwenAttention"),
        *("CachedMistralAttention", "CachedMixtralAttention", "Qwen3Attention", "Phi3Attention"),
        *("GPTNeoXAttention", "FalconAttention", "BloomAttention"),
    }
)

# In these classes of Transformers, the scores have the shape (batch, heads, query, key).
_ATTENTION_OF_TRANSFORMERS = frozenset(
    {
        *("TFBertSelfAttention", "TFRobertaSelfAttention", "TFXLMRobertaSelfAttention"),
        *("TFCamembertSelfAttention", "TFElectraSelfAttention", "TFMultiHeadSelfAttention"),
        *("TFAttention", "TFT5Attention", "TFViTSelfAttention", "TFDeiTSelfAttention"),
    }
)

_SCORES: Names = (None, "head", "query", "key")


def names_of(call: LayerCall, port: str, rank: int | None) -> Names | None:
    """Return the names of the axes of a layer's input or output; None if none is known.

    Args:
        port: "input", "output", or another port of the call.
        rank: the number of its axes.
    """
    if rank is None or rank < 2:
        return None
    kinds = _kinds(call.layer)
    if port in ("input", "output") and _makes_weights_of_attention(call):
        return _SCORES if rank == len(_SCORES) else None
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
    return bool(_kinds(layer) & _SAME_AXES)


def names_of_operation(call: LayerCall, operation: Any) -> Names | None:
    """Return the names of the axes of an operation's result inside a layer; None if unknown."""
    if operation.type not in ("Softmax", "Einsum"):
        return None
    attention = bool(_kinds(call.layer) & _ATTENTION)
    if operation.type == "Einsum":
        equation = operation.get_attr("equation").decode()
        return _of_scores(equation) if attention else None
    module = type(call.layer).__module__.partition(".")[0]
    listed = module == "transformers" and type(call.layer).__name__ in _ATTENTION_OF_TRANSFORMERS
    known = attention or listed or _makes_weights_of_attention(call)
    return _SCORES if known and operation.outputs[0].shape.rank == len(_SCORES) else None


def _makes_weights_of_attention(call: LayerCall) -> bool:
    return "Softmax" in _kinds(call.layer) and bool(_kinds_above(call) & _ATTENTION)


def _kinds_above(call: LayerCall) -> frozenset[str]:
    return frozenset() if call.parent is None else _kinds(call.parent.layer)


def _kinds(layer: Any) -> frozenset[str]:
    """Return the names of a layer's class and its bases, as far as these are Keras's or KerasHub's.

    There are none if another class defines the computation.
    """
    classes = type(layer).__mro__
    computing = next((one for one in classes if "call" in vars(one)), object)
    if not _is_known(computing):
        return frozenset()
    return frozenset(one.__name__ for one in classes if _is_known(one))


def _is_known(one: type) -> bool:
    return one.__module__.partition(".")[0] in _PACKAGES


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
