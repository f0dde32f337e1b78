"""Configurations of Keras 1 layers in the words of Keras 2. Pure Python.

Source: https://github.com/keras-team/keras/wiki/Keras-2.0-release-notes, and the signatures of
keras 1.2.2. What matters in training alone (initial values, regularizers, constraints) is left
out: the weights are read from the file anyway.
"""

from collections.abc import Callable, Mapping
from typing import Any

from extractkit.errors import ModelError, choices

Config = Mapping[str, Any]

_KEPT = ("name", "trainable", "batch_input_shape")
_DROPPED = frozenset(
    {
        *("init", "inner_init", "forget_bias_init", "beta_init", "gamma_init", "weights"),
        *("W_regularizer", "U_regularizer", "b_regularizer", "activity_regularizer"),
        *("gamma_regularizer", "beta_regularizer", "alpha_constraint"),
        *("W_constraint", "U_constraint", "b_constraint", "consume_less", "input_shape"),
    }
)
_DATA_FORMATS = {"tf": "channels_last", "th": "channels_first", "default": "channels_last"}
_MERGES = {
    "sum": "Add",
    "mul": "Multiply",
    "ave": "Average",
    "max": "Maximum",
    "concat": "Concatenate",
    "dot": "Dot",
    "cos": "Dot",
}

# The new class and its keys by their old names; what is said nowhere else is called alike.
_POOL_1D = {"pool_length": "pool_size", "stride": "strides", "border_mode": "padding"}
_POOL_2D = {
    "pool_size": "pool_size",
    "strides": "strides",
    "border_mode": "padding",
    "dim_ordering": "data_format",
}
_ORDERED = {"dim_ordering": "data_format"}
_CONVOLUTION = {
    "nb_filter": "filters",
    "activation": "activation",
    "border_mode": "padding",
    "subsample": "strides",
    "dim_ordering": "data_format",
    "bias": "use_bias",
}
_RECURRENT = {
    "output_dim": "units",
    "activation": "activation",
    "dropout_W": "dropout",
    "dropout_U": "recurrent_dropout",
    **{key: key for key in ("return_sequences", "go_backwards", "stateful", "unroll")},
}
_GATED = {**_RECURRENT, "inner_activation": "recurrent_activation"}
_LAYERS: dict[str, tuple[str, dict[str, str]]] = {
    "InputLayer": ("InputLayer", {"input_dtype": "dtype", "sparse": "sparse"}),
    "Dense": ("Dense", {"output_dim": "units", "activation": "activation", "bias": "use_bias"}),
    "Activation": ("Activation", {"activation": "activation"}),
    "Dropout": ("Dropout", {"p": "rate"}),
    "GaussianDropout": ("GaussianDropout", {"p": "rate"}),
    "GaussianNoise": ("GaussianNoise", {"sigma": "stddev"}),
    "SpatialDropout1D": ("SpatialDropout1D", {"p": "rate"}),
    "SpatialDropout2D": ("SpatialDropout2D", {"p": "rate", **_ORDERED}),
    "Flatten": ("Flatten", {}),
    "Reshape": ("Reshape", {"target_shape": "target_shape"}),
    "Permute": ("Permute", {"dims": "dims"}),
    "RepeatVector": ("RepeatVector", {"n": "n"}),
    "Masking": ("Masking", {"mask_value": "mask_value"}),
    "LeakyReLU": ("LeakyReLU", {"alpha": "alpha"}),
    "ELU": ("ELU", {"alpha": "alpha"}),
    "ThresholdedReLU": ("ThresholdedReLU", {"theta": "theta"}),
    "PReLU": ("PReLU", {"shared_axes": "shared_axes"}),
    "Convolution2D": ("Conv2D", _CONVOLUTION),
    "AtrousConvolution2D": ("Conv2D", {**_CONVOLUTION, "atrous_rate": "dilation_rate"}),
    "SeparableConvolution2D": (
        "SeparableConv2D",
        {**_CONVOLUTION, "depth_multiplier": "depth_multiplier"},
    ),
    "Convolution1D": (
        "Conv1D",
        {**_CONVOLUTION, "subsample_length": "strides", "filter_length": "kernel_size"},
    ),
    "MaxPooling1D": ("MaxPooling1D", _POOL_1D),
    "AveragePooling1D": ("AveragePooling1D", _POOL_1D),
    "MaxPooling2D": ("MaxPooling2D", _POOL_2D),
    "AveragePooling2D": ("AveragePooling2D", _POOL_2D),
    "GlobalMaxPooling1D": ("GlobalMaxPooling1D", {}),
    "GlobalAveragePooling1D": ("GlobalAveragePooling1D", {}),
    "GlobalMaxPooling2D": ("GlobalMaxPooling2D", _ORDERED),
    "GlobalAveragePooling2D": ("GlobalAveragePooling2D", _ORDERED),
    "ZeroPadding1D": ("ZeroPadding1D", {"padding": "padding"}),
    "ZeroPadding2D": ("ZeroPadding2D", {"padding": "padding", **_ORDERED}),
    "Cropping2D": ("Cropping2D", {"cropping": "cropping", **_ORDERED}),
    "UpSampling1D": ("UpSampling1D", {"length": "size"}),
    "UpSampling2D": ("UpSampling2D", {"size": "size", **_ORDERED}),
    "BatchNormalization": (
        "BatchNormalization",
        {"axis": "axis", "epsilon": "epsilon", "momentum": "momentum"},
    ),
    "Embedding": (
        "Embedding",
        {
            "input_dim": "input_dim",
            "output_dim": "output_dim",
            "input_length": "input_length",
            "mask_zero": "mask_zero",
        },
    ),
    "SimpleRNN": ("SimpleRNN", _RECURRENT),
    "LSTM": ("LSTM", _GATED),
    "GRU": ("GRU", _GATED),
}

# What Keras 2 has no other word for is told apart by value: these alone mean nothing.
_NEUTRAL = {"mode": 0, "dropout": 0.0, "input_dtype": None}
# Only a first layer says them, and `batch_input_shape` says as much.
_OF_FIRST = ("input_dim", "input_length", "input_dtype")


def translated_layer(node: Config) -> dict[str, Any]:
    """A serialized layer of Keras 1 as Keras 2 serializes it.

    Args:
        node: its `class_name` and `config`; what else stands beside them is kept.

    Raises:
        ModelError: there is no such layer in Keras 2, or none with such a setting; the message
            names the layer and goes on from the file's own name.
    """
    old, config = str(node["class_name"]), node["config"]
    if old in ("Sequential", "Model"):
        return {**node, "config": translated_model(old, config)}
    special = _SPECIAL.get(old)
    class_name, translated = special(config) if special else _by_table(old, config)
    return {**node, "class_name": class_name, "config": translated}


def translated_model(class_name: str, config: Any) -> Any:
    """The configuration of a whole model: every layer in it translated.

    Raises:
        ModelError: as `translated_layer`.
    """
    if class_name == "Sequential":
        return [translated_layer(node) for node in config]
    return {**config, "layers": [translated_layer(node) for node in config["layers"]]}


def _by_table(old: str, config: Config) -> tuple[str, dict[str, Any]]:
    if old not in _LAYERS:
        raise ModelError(
            f"layer {config.get('name')!r} is a {old} of Keras 1, which is not translated. "
            f"{choices(old, (*_LAYERS, *_SPECIAL))}"
        )
    class_name, keys = _LAYERS[old]
    translated = {key: config[key] for key in _KEPT if key in config}
    if old in ("Convolution2D", "AtrousConvolution2D", "SeparableConvolution2D"):
        translated["kernel_size"] = [config["nb_row"], config["nb_col"]]
        config = {key: config[key] for key in config if key not in ("nb_row", "nb_col")}
    if old == "GRU":
        translated["reset_after"] = False
    for key, value in config.items():
        if key in keys:
            translated[keys[key]] = _DATA_FORMATS[value] if key == "dim_ordering" else value
        elif not (key in (*_KEPT, *_OF_FIRST) or key in _DROPPED or _is_neutral(key, value)):
            raise _cannot(old, config, key)
    return class_name, {key: value for key, value in translated.items() if value is not None}


def _is_neutral(key: str, value: object) -> bool:
    return key in _NEUTRAL and value == _NEUTRAL[key]


def _merge(config: Config) -> tuple[str, dict[str, Any]]:
    mode = config.get("mode")
    if not isinstance(mode, str) or mode not in _MERGES or config.get("layers"):
        raise _cannot("Merge", config, "layers" if config.get("layers") else "mode")
    translated = {"name": config["name"]}
    if mode == "concat":
        translated["axis"] = config.get("concat_axis", -1)
    if mode in ("dot", "cos"):
        translated |= {"axes": config["dot_axes"], "normalize": mode == "cos"}
    return _MERGES[mode], translated


def _wrapper(class_name: str) -> Callable[[Config], tuple[str, dict[str, Any]]]:
    def translate(config: Config) -> tuple[str, dict[str, Any]]:
        kept = {key: config[key] for key in (*_KEPT, "merge_mode") if key in config}
        return class_name, {**kept, "layer": translated_layer(config["layer"])}

    return translate


_SPECIAL: dict[str, Callable[[Config], tuple[str, dict[str, Any]]]] = {
    "Merge": _merge,
    "TimeDistributed": _wrapper("TimeDistributed"),
    "Bidirectional": _wrapper("Bidirectional"),
}


def _cannot(old: str, config: Config, key: str) -> ModelError:
    return ModelError(
        f"layer {config.get('name')!r} ({old}) has {key}={config.get(key)!r}, for which Keras 2 "
        f"has no setting"
    )
