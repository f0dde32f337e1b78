"""Backbones and tasks built from keras-hub presets."""

import functools
import logging
import re
from pathlib import Path
from typing import Any

import keras
import keras_hub

from extractkit.errors import ConfigError, ModelError, choices
from extractkit.models.foreign import error_summary
from extractkit.models.hub_preset import Preset
from extractkit.models.keras_internals import bert_block, layers_in


def tasks() -> dict[str, Any]:
    """Return every task of every backbone by name."""
    return {
        name: found
        for name, found in _classes(keras_hub.models, keras_hub.models.Task).items()
        if found is not keras_hub.models.Task
    }


def class_for(package: Any, kind: Any, backbone: Any) -> Any:
    """Return the class of this kind for this backbone in a package of keras-hub, or None."""
    for found in _classes(package, kind).values():
        if found.backbone_cls is type(backbone):
            return found
    return None


def _classes(package: Any, kind: Any) -> dict[str, Any]:
    return {
        name: found
        for name, found in vars(package).items()
        if isinstance(found, type) and issubclass(found, kind)
    }


_TANH_GELU = ("gelu_approximate", "gelu_new", "gelu_fast", "gelu_pytorch_tanh")


def configure_bert(backbone: Any, preset: Preset) -> None:
    """Set the activation and the epsilon of a BERT from its `config.json`.

    Other backbones, and keras-hub's own presets, are not changed.

    Raises:
        ModelError: keras-hub cannot build the positions or the activation.
    """
    if not (isinstance(backbone, keras_hub.models.BertBackbone) and preset.is_hugging_face):
        return
    positions = preset.config.get("position_embedding_type", "absolute")
    name, known = hidden_activation(preset), _activations()
    if positions != "absolute" or name not in known:
        raise ModelError(
            f"model.path={preset.name!r} has position_embedding_type={positions!r} and "
            f"hidden_act={name!r}; model={preset.model} takes 'absolute' and one of "
            f"{', '.join(known)}"
        )
    for layer in backbone.transformer_layers:
        # keras-hub builds every BERT with the tanh approximation.
        bert_block(layer).intermediate.activation = known[name]
    for layer in layers_in(backbone):
        if isinstance(layer, keras.layers.LayerNormalization):
            layer.epsilon = preset.config.get("layer_norm_eps", 1e-12)


def hidden_activation(preset: Preset) -> str:
    """Return the activation of a BERT's feed-forward layers, by its name in `config.json`."""
    if not preset.is_hugging_face:
        return _TANH_GELU[0]
    # "gelu" is Hugging Face's default.
    return str(preset.config.get("hidden_act", "gelu"))


def _activations() -> dict[str, Any]:
    return {
        "gelu": functools.partial(keras.activations.gelu, approximate=False),
        "relu": keras.activations.relu,
        "silu": keras.activations.silu,
        "swish": keras.activations.silu,
        **dict.fromkeys(_TANH_GELU, functools.partial(keras.activations.gelu, approximate=True)),
    }


_log = logging.getLogger(__name__)

_UNFIT = re.compile(r"Unable to find a subclass of \w+ that is compatible with (\w+)")


def read_backbone(preset: Preset) -> Any:
    """Return the `keras_hub.models.Backbone` of a preset, with its weights.

    Raises:
        ModelError: The preset does not exist, or keras-hub cannot read it.
    """
    _check_name(preset)
    with preset.reading():
        backbone = keras_hub.models.Backbone.from_preset(preset.name)
    configure_bert(backbone, preset)
    return backbone


def read_task(preset: Preset, task: str) -> Any:
    """Return a `keras_hub.models.Task` (backbone and head) of a preset.

    A head without weights in the preset gets random ones, which is logged.

    Raises:
        ConfigError: keras-hub has no such task, or none for this backbone.
        ModelError: The preset does not exist, or keras-hub cannot read it.
    """
    known = tasks()
    if task not in known:
        raise ConfigError(f"model.task={task!r} is not a task of keras-hub. {choices(task, known)}")
    _check_name(preset)
    with preset.reading():
        try:
            # Preprocessors of texts and images are loaded separately from the model.
            model = known[task].from_preset(preset.name, preprocessor=None)
        except ValueError as error:
            if unfit := _UNFIT.search(str(error)):
                raise ConfigError(_no_such_task(task, unfit[1])) from error
            raise
        except TypeError as error:
            raise ModelError(
                f"model.path={preset.name!r} does not describe how to make the head of model."
                f"task={task}: {error_summary(error)}. Save the task itself: "
                f"task.save_to_preset(DIR)"
            ) from error
    configure_bert(model.backbone, preset)
    if head_is_random(preset, model):
        _log.warning(
            "model.path=%r holds no weights for the head of %s: they are random",
            preset.name,
            type(model).__name__,
        )
    return model


def head_is_random(preset: Preset, task: Any) -> bool:
    """Return whether a task has a head whose weights are not in its directory."""
    converted = "ForImageClassification" in str(preset.config.get("architectures", ""))
    return bool(task.has_task_weights()) and not converted and not preset.has("task.weights.h5")


def _check_name(preset: Preset) -> None:
    presets = keras_hub.models.Backbone.presets
    if preset.directory is None and "://" not in preset.name and preset.name not in presets:
        here = [one.name for one in Path.cwd().iterdir() if one.is_dir() and one.name[0] != "."]
        raise ModelError(
            f"model.path={preset.name!r} is neither a folder nor a preset of keras-hub. "
            f"{choices(preset.name, presets)} Folders here: {choices(preset.name, here)}"
        )


def _no_such_task(task: str, backbone: str) -> str:
    fitting = [
        name
        for name, value in tasks().items()
        if value.backbone_cls is not None and value.backbone_cls.__name__ == backbone
    ]
    return f"model.task={task!r} does not exist for a {backbone}. {choices(task, fitting)}"
