"""Old configurations of Keras: layers of Keras 1, pruning wrappers, folders of Keras 2.

Source of the translation from Keras 1: https://github.com/keras-team/keras/wiki/Keras-2.0-release-notes
and the signatures of keras 1.2.2. Settings that only affect training are dropped.

`PruneLowMagnitude` stores the masked weights, so the wrapper is removed as by `strip_pruning`.

For an unknown class, tf-keras creates a layer that runs the stored graph. Its inner layers would be
missing from the catalog, so such a layer is refused with the name of the class.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import h5py

from extractkit.errors import ModelError, choices
from extractkit.models.keras_internals import (
    give_input_shape,
    is_functional_2,
    is_model_2,
    layers_in,
    revived_class,
)
from extractkit.models.keras_models.saved import (
    SavedKeras,
    graph_alternative,
    needs,
    serialized_objects,
)

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

# The new class, and new keys by their old names. Other keys keep their names.
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

# Settings without a counterpart in Keras 2 are accepted only with these neutral values.
_NEUTRAL = {"mode": 0, "dropout": 0.0, "input_dtype": None}
# Only the first layer has them, and `batch_input_shape` is equivalent.
_OF_FIRST = ("input_dim", "input_length", "input_dtype")


def translated_layer(node: Config) -> dict[str, Any]:
    """Return a serialized layer of Keras 1 as Keras 2 serializes it.

    Args:
        node: Its `class_name` and `config`. Other entries are kept.

    Raises:
        ModelError: Keras 2 has no such layer or setting. The message, which follows the name of
            the file, names the layer.
    """
    old, config = str(node["class_name"]), node["config"]
    if old in ("Sequential", "Model"):
        return {**node, "config": translated_model(old, config)}
    special = _SPECIAL.get(old)
    class_name, translated = special(config) if special else _by_table(old, config)
    return {**node, "class_name": class_name, "config": translated}


def translated_model(class_name: str, config: Any) -> Any:
    """Return the configuration of a whole model with every layer translated.

    Raises:
        ModelError: As `translated_layer`.
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
            raise _no_setting(old, config, key)
    return class_name, {key: value for key, value in translated.items() if value is not None}


def _is_neutral(key: str, value: object) -> bool:
    return key in _NEUTRAL and value == _NEUTRAL[key]


def _merge(config: Config) -> tuple[str, dict[str, Any]]:
    mode = config.get("mode")
    if not isinstance(mode, str) or mode not in _MERGES or config.get("layers"):
        raise _no_setting("Merge", config, "layers" if config.get("layers") else "mode")
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


def _no_setting(old: str, config: Config, key: str) -> ModelError:
    return ModelError(
        f"layer {config.get('name')!r} ({old}) has {key}={config.get(key)!r}, for which Keras 2 "
        f"has no setting"
    )


WRAPPER = "PruneLowMagnitude"

_OWN = re.compile(r"(mask|threshold|pruning_step)(_\d+)?(:0)?")
_WEIGHTS, _NAMES = "model_weights", "weight_names"
_SETTINGS = frozenset({"name", "trainable", "dtype", "batch_input_shape", "layer"})
_STRIP = "Save the model without them: tfmot.sparsity.keras.strip_pruning(model).save(...)"


def pruned_layers(saved: SavedKeras, custom_objects: Mapping[str, Any]) -> list[str]:
    """Return the names of layers in pruning wrappers, unless the wrapper's class is given.

    Raises:
        ModelError: The wrapper of one changes what the model computes.
    """
    if WRAPPER in custom_objects:
        return []
    layers = [config["layer"]["config"] for config in _wrappers(saved)]
    for layer in layers:
        if layer.get("mask_zero"):
            raise ModelError(
                f"{saved.at}: the pruning wrapper of layer {layer['name']!r} keeps its mask from "
                f"the layers after it, and they have it without the wrapper. {_STRIP}"
            )
    return list(dict.fromkeys(str(layer["name"]) for layer in layers))


def stand_in(package: Any) -> Any:
    """Return a replacement for the wrapper's class, without its variables.

    Args:
        package: the imported module `tf_keras`.
    """

    class PruneLowMagnitude(package.layers.Wrapper):
        """A wrapper with the original name, since archives name weights by class."""

        @classmethod
        def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
            kept = {key: value for key, value in config.items() if key in _SETTINGS}
            return super().from_config(kept, custom_objects)

        def call(self, inputs: Any, **arguments: Any) -> Any:
            return self.layer(inputs, **arguments)

        def load_own_variables(self, store: Any) -> None:
            """Ignore the wrapper's own variables."""

    return PruneLowMagnitude


@contextmanager
def without_masks(saved: SavedKeras) -> Iterator[Any]:
    """Yield a copy of an HDF5 file in memory, without the wrappers' own weights."""
    wrappers = {str(config["name"]) for config in _wrappers(saved)}
    with (
        h5py.File(saved.path, "r") as old,
        h5py.File("without_masks.h5", "w", driver="core", backing_store=False) as new,
    ):
        for key, value in old.attrs.items():
            new.attrs[key] = value
        old.copy(_WEIGHTS, new)
        for group in new[_WEIGHTS].values():
            # Long lists are split into weight_names0, weight_names1, …
            for key in [key for key in group.attrs if key.startswith(_NAMES)]:
                names = [name for name in group.attrs[key] if not _is_own(name, wrappers)]
                group.attrs[key] = names
        yield new


def stripped(model: Any, package: Any, wrapper: Any, at: str) -> Any:
    """Return the model with wrappers replaced by their layers, as `strip_pruning` does.

    Args:
        package: the imported module `tf_keras`.
        wrapper: The replacement of the wrapper's class.
        at: how messages name the file.

    Raises:
        ModelError: A wrapper is inside a layer that is not a functional or sequential model.
    """

    def is_wrapped(layer: Any) -> bool:
        return any(isinstance(one, wrapper) for one in layers_in(layer))

    def strip(layer: Any) -> Any:
        if not is_wrapped(layer):
            return layer
        if isinstance(layer, wrapper):
            inner: Any = layer.layer
            # The first layer of a sequential model defines the model's input.
            give_input_shape(inner, layer)
            return inner
        if not (isinstance(layer, package.Sequential) or is_functional_2(layer)):
            raise ModelError(
                f"{at}: pruning wrappers are inside {layer.name!r}, which is a "
                f"{type(layer).__name__}; they are taken out of functional and sequential models "
                f"alone. {_STRIP}"
            )
        return package.models.clone_model(layer, clone_function=strip)

    return strip(model)


def _wrappers(saved: SavedKeras) -> list[dict[str, Any]]:
    return [
        node["config"] for node in serialized_objects(saved.config) if node["class_name"] == WRAPPER
    ]


def _is_own(name: bytes | str, wrappers: set[str]) -> bool:
    """Return whether a weight in an HDF5 file belongs to a wrapper itself."""
    parts = (name.decode() if isinstance(name, bytes) else name).split("/")
    return len(parts) > 1 and parts[-2] in wrappers and _OWN.fullmatch(parts[-1]) is not None


_WEIGHTS = "model_weights"
_WORDS = frozenset({"W_regularizer", "border_mode", "nb_filter"})


def is_keras_1(saved: SavedKeras) -> bool:
    """Return whether Keras 1 wrote the file, by its version or its keys."""
    if saved.major is not None:
        return saved.major == 1 and saved.is_hdf5
    return saved.is_hdf5 and any(
        isinstance(node.get("config"), dict) and not _WORDS.isdisjoint(node["config"])
        for node in serialized_objects(saved.config)
    )


@contextmanager
def translated_to_keras_2(saved: SavedKeras) -> Iterator[Any]:
    """Yield a copy of the file in memory with a translated architecture.

    Raises:
        ModelError: A layer has no counterpart. The message names it.
    """
    class_name = str(saved.config.get("class_name"))
    try:
        config = translated_model(class_name, saved.config["config"])
    except ModelError as error:
        raise ModelError(f"{saved.at}: {error}") from error
    with (
        h5py.File(saved.path, "r") as old,
        h5py.File("translated.h5", "w", driver="core", backing_store=False) as new,
    ):
        new.attrs["model_config"] = json.dumps({"class_name": class_name, "config": config})
        old.copy(_WEIGHTS, new)
        # tf-keras takes weights without a version for those of Keras 1.
        new[_WEIGHTS].attrs.pop("keras_version", None)
        yield new


def check_revived(model: Any, saved: SavedKeras, custom_objects: Mapping[str, Any]) -> None:
    """Refuse layers that tf-keras has restored without their class.

    Args:
        model: The model that tf-keras has read.
        custom_objects: Classes by their names in the folder.

    Raises:
        ModelError: There are such layers.
    """
    if not is_model_2(model):
        raise ModelError(f"{saved.at} does not hold a model of Keras{graph_alternative(saved)}")
    for layer in layers_in(model):
        name = type(layer).__name__
        known = name.rpartition(">")[2] in custom_objects or name in custom_objects
        if isinstance(layer, revived_class()) and not known:
            raise ModelError(needs(saved, name))
        if isinstance(layer, revived_class()):
            raise ModelError(
                f"{saved.at}: layer {layer.name!r} cannot be made of class {name!r}: the folder "
                f"holds no configuration that fits. Give the class a get_config, and save the "
                f"model again{graph_alternative(saved)}"
            )
